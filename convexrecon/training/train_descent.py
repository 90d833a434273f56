"""A run of any trainer that descends a loss: the network, the trainer's step, the loop, the run folder."""

import shutil
from collections.abc import Callable
from pathlib import Path

import torch

from convexrecon.cascade import Cascade
from convexrecon.data.dataset import PreparedSlices
from convexrecon.errors import InputError
from convexrecon.training.checkpointing import checkpointing
from convexrecon.training.config import RunSettings, seed_of_training
from convexrecon.training.convex_start import relu_start
from convexrecon.training.descent import Descent
from convexrecon.training.descent_settings import DescentSettings
from convexrecon.training.end_to_end import end_to_end
from convexrecon.training.gleam import gleam
from convexrecon.training.image_store import evenly_spaced
from convexrecon.training.initial_weight import with_initial_weight
from convexrecon.training.layerwise_descent import train_layerwise_descent
from convexrecon.training.loop import Loop, run_epochs
from convexrecon.training.new_cascade import new_cascade
from convexrecon.training.parallel_gleam import parallel_gleam
from convexrecon.training.ranks import Ranks
from convexrecon.training.reversible import reversible
from convexrecon.training.run_folder import RunFolder
from convexrecon.weights import load_cascade, save_cascade

Trainer = Callable[[Cascade, DescentSettings, Ranks], Descent]
# Training slices on which a convex cascade is turned into a ReLU one.
START_SLICES = 4
TRAINERS: dict[str, Trainer] = {
    "end_to_end": end_to_end,
    "checkpointing": checkpointing,
    "gleam": gleam,
    "reversible": reversible,
}
# Of these, the ranks share the modules, not the slices of a batch.
PARALLEL: dict[str, Trainer] = {"gleam": parallel_gleam}


def train_descent(
    settings: RunSettings,
    train: PreparedSlices,
    validation: PreparedSlices | None,
    run: RunFolder,
    *,
    device: torch.device | str = "cpu",
    ranks: Ranks | None = None,
    progress: bool = True,
) -> Cascade:
    """Train, or continue, a cascade by `settings.method` in a run folder.

    The same network whatever the method: as many blocks, kernels and units as the convex cascade would have.
    The weights kept are those of the best validation PSNR.

    Args:
        settings: of the run.
        train: training slices.
        validation: held-out slices, or None (then the last weights are kept).
        run: the run folder.
        device: where to compute.
        ranks: the processes of the run; None for this one alone.
        progress: whether to show bars and a line per epoch.

    Raises:
        InputError: feature stacking is asked for, no blocks, settings that the method refuses, or the loss diverges.
    """
    device, ranks = torch.device(device), ranks or Ranks()
    options = settings.descent
    if run.weights.exists():
        return load_cascade(run.weights)[0].to(device)
    if options.start_run is None:
        chosen = with_initial_weight(settings, train, run, device=device, ranks=ranks, progress=progress)
        model = new_cascade(chosen, train.dimensions)
    else:
        model = cascade_of_run(settings, train)
    model.to(device)
    seed = seed_of_training(settings)
    loop = Loop(
        options,
        settings.batch_size,
        seed,
        train,
        validation,
        run,
        device,
        ranks,
        progress and ranks.is_lead,
        random_phase=settings.random_phase,
    )
    if settings.method == "layerwise":
        train_layerwise_descent(model, settings, loop)
    else:
        trainers = TRAINERS | PARALLEL if ranks.count > 1 else TRAINERS
        _, best = run_epochs(model, trainers[settings.method](model, options, ranks), loop)
        model.load_state_dict(best)
    if ranks.is_lead:
        save_cascade(run.weights, model)
        write_summary(settings, run, model)
        shutil.rmtree(run.state, ignore_errors=True)
    ranks.wait()
    return model


def cascade_of_run(settings: RunSettings, train: PreparedSlices) -> Cascade:
    """The ReLU cascade nearest to the convex one of `settings.descent.start_run`, measured on a few training slices.

    Raises:
        InputError: no trained convex run there, or of another network than `settings.model` describes.
    """
    options, model = settings.descent, settings.model
    assert options.start_run is not None
    convex, _ = load_cascade(RunFolder(Path(options.start_run)).weights)
    inputs = {tuple(block.inputs) for block in convex}
    if (len(convex), convex.initial, inputs, model.denoiser) != (model.blocks, model.initial, {model.inputs}, "relu"):
        raise InputError(
            f"descent.start_run: {options.start_run} has {len(convex)} blocks of inputs {inputs} from "
            f"{convex.initial!r}; expected a model of the same and denoiser = 'relu', "
            f"found {model.blocks}, {model.inputs}, {model.initial!r}, {model.denoiser!r}"
        )
    if model.initial_weight not in (None, convex.initial_weight):
        raise InputError(
            f"descent.start_run: {options.start_run} starts with model.initial_weight = {convex.initial_weight}; "
            f"expected the same or none, found {model.initial_weight}"
        )
    chosen = [train.load(index) for index in evenly_spaced(train.slices, START_SLICES)]
    started = relu_start(
        convex, [(batch.sense, batch.kspace) for batch in chosen], sharpness=[options.start_sharpness]
    ).cascade
    for block in started:
        block.use_patches(model.patch, model.halo)
        block.precision = options.precision
        if not options.learn_consistency:
            block.consistency.requires_grad_(False)
    return started


def write_summary(settings: RunSettings, run: RunFolder, model: Cascade) -> None:
    """What the run came to, from its metrics: the best epoch's quality, the time of all stages, the memory."""
    rows = run.read_metrics()
    last = [row for row in rows if row.get("block") == rows[-1].get("block")]
    scored = [row for row in last if row["psnr_validation"] is not None]
    best = max(scored, key=lambda row: row["psnr_validation"]) if scored else rows[-1]
    seconds = {row.get("block"): row["seconds"] for row in rows}
    run.update_summary(
        method=settings.method,
        blocks=[],
        epochs=len(rows),
        best_epoch=best["epoch"],
        psnr_validation=best["psnr_validation"],
        training_seconds=sum(seconds.values()),
        peak_memory_mb=max(row["peak_memory_mb"] for row in rows),
        activations_mb=max((row["activations_mb"] or 0.0) for row in rows),
        lam=[block.consistency.lam for block in model],
    )
