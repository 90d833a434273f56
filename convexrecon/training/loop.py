"""The one loop of the trainers that descend a loss: epochs, schedule, ranks, validation, checkpoints, resume."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from convexrecon.cascade import Cascade
from convexrecon.data.dataset import Batch, PreparedSlices, batch_plan, stack
from convexrecon.errors import InputError
from convexrecon.evaluate.metrics import psnr
from convexrecon.seeding import generator
from convexrecon.training.descent import Descent, Portion
from convexrecon.training.descent_settings import DescentSettings
from convexrecon.training.live_memory import LiveMemory
from convexrecon.training.loop_checkpoint import Progress, load_checkpoint, save_checkpoint
from convexrecon.training.profiler import Profile
from convexrecon.training.random_phase import turned_batch
from convexrecon.training.ranks import Ranks
from convexrecon.training.run_folder import RunFolder
from convexrecon.training.step_clock import StepClock
from convexrecon.training.tensorboard_log import EventLog, event_log

# A step whose tensors are followed in memory is slow: one in a run.
MEASURED_STEP = 0
Reconstruct = Callable[[Batch], Tensor]


@dataclass(frozen=True)
class Loop:
    """What a run of descent works with, whatever the trainer.

    Attributes:
        settings: of the descent.
        batch_size: slices of one shape taken together, over all ranks.
        seed: of the order of the slices.
        train: training slices.
        validation: held-out slices, or None.
        run: the run folder.
        device: where to compute.
        ranks: the processes of the run.
        progress: whether to show bars and a line per epoch.
        stage: what is being trained, where it is not all at once: part of every row of the metrics; names the
            checkpoint.
        seconds_before: spent on the stage before its first step.
        reconstruct: how a batch is reconstructed for validation, or None for the model's own way.
        random_phase: whether every training sample gets another global phase in every epoch.
    """

    settings: DescentSettings
    batch_size: int
    seed: int
    train: PreparedSlices
    validation: PreparedSlices | None
    run: RunFolder
    device: torch.device
    ranks: Ranks = field(default_factory=Ranks)
    progress: bool = True
    stage: dict[str, int] = field(default_factory=dict)
    seconds_before: float = 0.0
    reconstruct: Reconstruct | None = None
    random_phase: bool = False


def checkpoint_of(loop: Loop) -> Path:
    """Where the checkpoints of a loop's stage go."""
    name = "_".join(["checkpoint", *(f"{key}_{value}" for key, value in loop.stage.items())])
    return loop.run.state / f"{name}.safetensors"


def run_epochs(model: Cascade, descent: Descent, loop: Loop) -> tuple[Progress, dict[str, Tensor]]:
    """Run the epochs that are still to be run; returns how it went and the best weights.

    After each epoch, and every `save_every` steps within one, model, optimizers and position go to one file, so
    that a killed run continues from there with the same order of slices and the same rates, to the same
    weights. The best weights are those of the highest validation PSNR, or the last without validation data.
    Rank 0 alone writes.

    Args:
        model: trained in place.
        descent: the trainer's step.
        loop: everything else.

    Raises:
        InputError: the loss is not finite (the message says at which step).
    """
    checkpoint = checkpoint_of(loop)
    state, best = load_checkpoint(checkpoint, model, descent.optimizers)
    if not loop.ranks.is_lead:
        state.losses = 0.0
    if state.step == 0:
        state.seconds = loop.seconds_before
    rows = [row for row in loop.run.read_metrics() if not _of(row, loop.stage) or row["epoch"] <= state.epoch]
    with event_log(loop.run.path, loop.stage, done=state.epoch, active=loop.ranks.is_lead) as log:
        best = _epochs(model, descent, loop, state, best, rows, log)
    return state, best


def _epochs(
    model: Cascade,
    descent: Descent,
    loop: Loop,
    state: Progress,
    best: dict[str, Tensor],
    rows: list[dict[str, Any]],
    log: EventLog,
) -> dict[str, Tensor]:
    """The epochs of `run_epochs` that are still to be run; returns the best weights."""
    checkpoint = checkpoint_of(loop)
    for epoch in range(state.epoch + 1, loop.settings.epochs + 1):
        started = time.perf_counter()
        with Profile(loop.device) as profile:
            for _ in _steps(descent, loop, state):
                if state.position % loop.settings.save_every == 0:
                    descent.gather()
                    _sum_losses(loop, state)
                    now = time.perf_counter()
                    state.seconds, started = state.seconds + now - started, now
                    if loop.ranks.is_lead:
                        save_checkpoint(checkpoint, model, descent.optimizers, state, best)
        state.seconds += time.perf_counter() - started
        state.peak_memory_mb = max(state.peak_memory_mb, profile.peak_memory_mb)
        descent.gather()
        row = _end_epoch(loop, state, epoch) | descent.report()
        validates = epoch % loop.settings.validate_every == 0 or epoch == loop.settings.epochs
        score = mean_psnr(model, loop) if loop.validation is not None and validates else None
        row["psnr_validation"] = score
        if loop.validation is None or (score is not None and score > state.best_psnr):
            state.best_psnr, state.best_epoch = score if score is not None else -math.inf, epoch
            best = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
        rows.append(row)
        if loop.ranks.is_lead:
            save_checkpoint(checkpoint, model, descent.optimizers, state, best)
            loop.run.write_metrics(rows)
        loop.ranks.wait()
        if log.writes:
            log.scalars({**row, "learning_rate": descent.optimizers[0].param_groups[0]["lr"]}, epoch)
            if loop.validation is not None and validates:
                batch = loop.validation.load(0).to(loop.device)
                log.picture("validation", _reconstructed(model, loop, batch)[0], batch.target[0], epoch)
        if loop.progress:
            shown = f", validation {score:.2f} dB" if score is not None else ""
            stage = "".join(f"{key} {value}, " for key, value in loop.stage.items())
            line = f"{stage}epoch {epoch}/{loop.settings.epochs}: loss {row['loss']:.4g}{shown}"
            tqdm.write(f"{line}, {state.seconds:.0f} s, {row['peak_memory_mb']:.0f} MB")
    return best


def _of(row: dict[str, Any], stage: dict[str, int]) -> bool:
    return all(row.get(key) == value for key, value in stage.items())


def _sum_losses(loop: Loop, state: Progress) -> None:
    """Bring the losses of all ranks to the first one, whose state is saved."""
    summed, *_ = loop.ranks.sum([state.losses], loop.device)
    state.losses = summed if loop.ranks.is_lead else 0.0


def _steps(descent: Descent, loop: Loop, state: Progress) -> Iterator[None]:
    """The batches of the epoch that are still to be done, each a step; yields after each."""
    epoch = state.epoch + 1
    order = generator(loop.seed, "order", *loop.stage.values(), epoch)
    plan = batch_plan(loop.train, loop.batch_size, generator=order)
    total = len(plan) * loop.settings.epochs
    done = sum(len(chosen) for chosen in plan[: state.position])
    bar = tqdm(total=len(loop.train), initial=done, desc=f"epoch {epoch}", leave=False, disable=not loop.progress)
    with bar:
        for chosen in plan[state.position :]:
            clock = StepClock(loop.device)
            with clock.data():
                portion = _portion(descent, loop, chosen, epoch)
            rate = learning_rate(loop.settings, state.step / total, state.epoch)
            for optimizer in descent.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = rate
            if state.step == MEASURED_STEP:
                with LiveMemory(loop.device) as memory:
                    loss = descent.step(portion, clock)
                state.activations_mb = memory.peak_mb
            else:
                loss = descent.step(portion, clock)
            if not math.isfinite(loss):
                raise InputError(
                    f"training: the loss became {loss} at step {state.step + 1} of epoch {epoch}; "
                    "expected a lower learning_rate"
                )
            state.step += 1
            state.position += 1
            state.losses += loss
            state.parts = {name: state.parts.get(name, 0.0) + value for name, value in clock.seconds.items()}
            bar.update(len(chosen))
            yield


def _portion(descent: Descent, loop: Loop, chosen: list[int], epoch: int) -> Portion:
    mine = loop.ranks.share(chosen) if descent.splits_batches else chosen
    samples = [loop.train.load(index) for index in mine or chosen[:1]]
    if loop.random_phase:
        samples = [turned_batch(one, loop.seed, epoch, one.volume[0], one.slice_index[0]) for one in samples]
    batch = stack(samples).to(loop.device)
    return Portion(batch, len(mine) / len(chosen))


def _end_epoch(loop: Loop, state: Progress, epoch: int) -> dict[str, Any]:
    """The row of a finished epoch; `state` is made ready for the next."""
    loss, *_ = loop.ranks.sum([state.losses], loop.device)
    steps = max(state.position, 1)
    row: dict[str, Any] = {**loop.stage, "epoch": epoch, "loss": loss / steps, "seconds": state.seconds}
    row |= {f"seconds_{name}": value / steps for name, value in state.parts.items()}
    row |= {"peak_memory_mb": state.peak_memory_mb, "activations_mb": state.activations_mb}
    state.epoch, state.position, state.losses, state.parts, state.peak_memory_mb = epoch, 0, 0.0, {}, 0.0
    return row


def mean_psnr(model: Cascade, loop: Loop) -> float:
    """Mean slice-wise PSNR of a cascade over the validation slices, in dB; the ranks share the batches."""
    assert loop.validation is not None
    total = 0.0
    for chosen in loop.ranks.share(batch_plan(loop.validation, loop.batch_size)):
        batch = stack([loop.validation.load(index) for index in chosen]).to(loop.device)
        result = _reconstructed(model, loop, batch)
        total += sum(psnr(x, ref) for x, ref in zip(result, batch.target, strict=True))
    summed, *_ = loop.ranks.sum([total], loop.device)
    return summed / len(loop.validation)


def _reconstructed(model: Cascade, loop: Loop, batch: Batch) -> Tensor:
    with torch.no_grad():
        result: Tensor = loop.reconstruct(batch) if loop.reconstruct else model(batch.sense, batch.kspace)
    return result


def learning_rate(settings: DescentSettings, done: float, epochs: int) -> float:
    """The rate after a share `done` of all steps, in epoch number `epochs` from 0: of these alone, so resume is exact.

    >>> learning_rate(DescentSettings(learning_rate=1.0, warmup=0.0, schedule="halving", halve_every=10), 0.5, 25)
    0.25
    """
    if done < settings.warmup:
        factor = 0.01 + 0.99 * done / settings.warmup
    elif settings.schedule == "cosine":
        along = (done - settings.warmup) / max(1 - settings.warmup, 1e-9)
        factor = 0.01 + 0.99 * (1 + math.cos(math.pi * along)) / 2
    elif settings.schedule == "halving":
        factor = 0.5 ** (epochs // settings.halve_every)
    else:
        factor = 1.0
    return settings.learning_rate * factor
