"""The one loop of the trainers that descend a loss: epochs, schedule, validation, checkpoints, resume."""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm.auto import tqdm

from convexrecon.atomic_write import atomic_path
from convexrecon.cascade import Cascade
from convexrecon.data.dataset import Batch, PreparedSlices, batches
from convexrecon.errors import InputError
from convexrecon.evaluate.metrics import psnr
from convexrecon.seeding import generator
from convexrecon.training.profiler import Profile
from convexrecon.training.run_folder import RunFolder

Step = Callable[[Batch], float]


@dataclass(frozen=True)
class LoopSettings:
    """What the loop itself needs to know.

    Attributes:
        epochs: passes over the training slices.
        batch_size: slices of one shape taken together.
        learning_rate: at its highest.
        warmup: share of all steps over which the rate rises linearly from zero; then a cosine to 1 %.
        validate_every: epochs between validations.
        seed: of the order of the slices.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    warmup: float
    validate_every: int
    seed: int


@dataclass
class Progress:
    """How far a run has come: what a checkpoint holds beside tensors."""

    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    best_psnr: float = -math.inf
    best_epoch: int = 0


def run_epochs(
    model: Cascade,
    optimizer: torch.optim.Optimizer,
    step: Step,
    settings: LoopSettings,
    train: PreparedSlices,
    validation: PreparedSlices | None,
    run: RunFolder,
    *,
    device: torch.device,
    progress: bool = True,
) -> tuple[Progress, dict[str, Tensor]]:
    """Run the epochs that are still to be run; returns how it went and the best weights.

    After each epoch model, optimizer and position go to one file, so that a killed run continues from the
    last complete epoch with the same order of slices and the same rates, to the same weights. The best
    weights are those of the highest validation PSNR, or the last ones without validation data.

    Args:
        model: trained in place.
        optimizer: of its parameters.
        step: one update on a batch; returns the loss.
        settings: epochs, batch size, schedule.
        train: training slices.
        validation: held-out slices, or None.
        run: the run folder.
        device: where to compute.
        progress: whether to show bars.

    Raises:
        InputError: the loss is not finite (the message says at which step).
    """
    checkpoint = run.state / "checkpoint.safetensors"
    state, best = _load(checkpoint, model, optimizer)
    rows = [row for row in run.read_metrics() if row["epoch"] <= state.epoch]
    per_epoch = sum(1 for _ in _index_batches(train, settings.batch_size))
    total = per_epoch * settings.epochs
    for epoch in range(state.epoch + 1, settings.epochs + 1):
        with Profile(device) as profile:
            losses = []
            order = generator(settings.seed, "order", epoch)
            with tqdm(total=len(train), desc=f"epoch {epoch}", leave=False, disable=not progress) as bar:
                for batch in batches(train, settings.batch_size, generator=order):
                    _set_rate(optimizer, settings, state.step / total)
                    losses.append(step(batch.to(device)))
                    state.step += 1
                    if not math.isfinite(losses[-1]):
                        raise InputError(
                            f"training: the loss became {losses[-1]} at step {state.step} of epoch {epoch}; "
                            "expected a lower learning_rate"
                        )
                    bar.update(len(batch.volume))
        state.epoch, state.seconds = epoch, state.seconds + profile.seconds
        row: dict[str, Any] = {"epoch": epoch, "loss": sum(losses) / len(losses), "seconds": state.seconds}
        row["peak_memory_mb"] = profile.peak_memory_mb
        validates = epoch % settings.validate_every == 0 or epoch == settings.epochs
        score = mean_psnr(model, validation, settings.batch_size, device) if validation and validates else None
        row["psnr_validation"] = score
        if validation is None or (score is not None and score > state.best_psnr):
            state.best_psnr, state.best_epoch = score if score is not None else -math.inf, epoch
            best = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
        rows.append(row)
        _save(checkpoint, model, optimizer, state, best)
        run.write_metrics(rows)
        if progress:
            shown = f", validation {score:.2f} dB" if score is not None else ""
            tqdm.write(f"epoch {epoch}/{settings.epochs}: loss {row['loss']:.4g}{shown}, {state.seconds:.0f} s")
    return state, best


def mean_psnr(model: Cascade, data: PreparedSlices, batch_size: int, device: torch.device) -> float:
    """Mean slice-wise PSNR of a cascade over a data set, in dB."""
    scores = []
    with torch.no_grad():
        for batch in batches(data, batch_size):
            batch = batch.to(device)
            result = model(batch.sense, batch.kspace)
            scores += [psnr(x, ref) for x, ref in zip(result, batch.target, strict=True)]
    return sum(scores) / len(scores)


def _index_batches(data: PreparedSlices, batch_size: int) -> Iterator[int]:
    """One item per batch of an epoch, without loading anything: batches never mix shapes."""
    sizes: dict[tuple[int, ...], int] = {}
    for entry in data.slices:
        sizes[entry.shape] = sizes.get(entry.shape, 0) + 1
    for count in sizes.values():
        yield from range(math.ceil(count / batch_size))


def _set_rate(optimizer: torch.optim.Optimizer, settings: LoopSettings, done: float) -> None:
    """The learning rate after a share `done` of all steps: a function of that alone, so resume is exact."""
    if done < settings.warmup:
        factor = 0.01 + 0.99 * done / settings.warmup
    else:
        along = (done - settings.warmup) / max(1 - settings.warmup, 1e-9)
        factor = 0.01 + 0.99 * (1 + math.cos(math.pi * along)) / 2
    for group in optimizer.param_groups:
        group["lr"] = settings.learning_rate * factor


def _save(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, state: Progress, best: dict[str, Tensor]
) -> None:
    tensors = {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"best/{name}": tensor for name, tensor in best.items()}
    for index, entry in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{name}": torch.as_tensor(value) for name, value in entry.items()}
    # Copies: safetensors refuses tensors that share memory, and best may be the model's own.
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"progress": json.dumps(asdict(state))})


def _load(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[Progress, dict[str, Tensor]]:
    if not path.exists():
        return Progress(), {}
    with safe_open(path, framework="pt") as file:
        state = Progress(**json.loads(file.metadata()["progress"]))
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "best": {}, "optimizer": {}}
    for name, tensor in tensors.items():
        part, _, rest = name.partition("/")
        parts[part][rest] = tensor
    model.load_state_dict(parts["model"])
    moments: dict[int, dict[str, Any]] = {}
    for name, tensor in parts["optimizer"].items():
        index, _, key = name.partition("/")
        moments.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
    return state, parts["best"]
