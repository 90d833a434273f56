"""End-to-end training: the cascade of ReLU denoisers by backpropagation through all blocks, with Adam."""

import shutil

import torch
from torch import Tensor

from convexrecon.cascade import Block, Cascade
from convexrecon.data.dataset import Batch, PreparedSlices
from convexrecon.denoisers.relu import ReluDenoiser
from convexrecon.errors import InputError
from convexrecon.physics.data_consistency import (
    DataConsistency,
    GradientDataConsistency,
    NoDataConsistency,
    ProximalDataConsistency,
)
from convexrecon.seeding import generator
from convexrecon.training.config import RunSettings
from convexrecon.training.loop import LoopSettings, run_epochs
from convexrecon.training.run_folder import RunFolder
from convexrecon.weights import load_cascade, save_cascade


def train_end_to_end(
    settings: RunSettings,
    train: PreparedSlices,
    validation: PreparedSlices | None,
    run: RunFolder,
    *,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> Cascade:
    """Train, or continue, the cascade end to end in a run folder.

    Same shape as the convex cascade: as many blocks, kernels and hidden units, its data-consistency weights
    learned. The weights kept are those of the best validation PSNR.

    Args:
        settings: of the run.
        train: training slices.
        validation: held-out slices, or None (then the last weights are kept).
        run: the run folder.
        device: where to compute.
        progress: whether to show bars and a line per epoch.

    Raises:
        InputError: feature stacking is asked for, no blocks, or the loss diverges.
    """
    if settings.model.stacking != "cascade" or settings.model.blocks < 1:
        raise InputError(
            "end_to_end: expected model.stacking = 'cascade' with at least one block, "
            f"found {settings.model.stacking!r} with {settings.model.blocks}"
        )
    device = torch.device(device)
    if run.weights.exists():
        return load_cascade(run.weights)[0].to(device)
    model = relu_cascade(settings).to(device)
    parameters = [p for p in model.parameters() if p.requires_grad]
    options = settings.end_to_end
    optimizer = torch.optim.Adam(parameters, lr=options.learning_rate)

    def step(batch: Batch) -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = image_loss(model(batch.sense, batch.kspace), batch.target, options.loss)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, options.clip)
        optimizer.step()
        return float(loss.detach())

    loop = LoopSettings(
        epochs=options.epochs,
        batch_size=settings.batch_size,
        learning_rate=options.learning_rate,
        warmup=options.warmup,
        validate_every=options.validate_every,
        seed=settings.seed,
    )
    state, best = run_epochs(model, optimizer, step, loop, train, validation, run, device=device, progress=progress)
    model.load_state_dict(best)
    save_cascade(run.weights, model, {"epoch": state.best_epoch})
    rows = run.read_metrics()
    run.update_summary(
        method="end_to_end",
        blocks=[],
        epochs=len(rows),
        best_epoch=state.best_epoch,
        psnr_validation=rows[state.best_epoch - 1]["psnr_validation"],
        training_seconds=state.seconds,
        peak_memory_mb=max(row["peak_memory_mb"] for row in rows),
        lam=[block.consistency.lam for block in model],
    )
    shutil.rmtree(run.state, ignore_errors=True)
    return model


def relu_cascade(settings: RunSettings) -> Cascade:
    """The untrained cascade of ReLU denoisers that `settings.model` describes, seeded by `settings.seed`."""
    model = settings.model
    return Cascade(
        [
            Block(
                ReluDenoiser(
                    model.units,
                    model.kernel,
                    channels=2 * len(model.inputs),
                    generator=generator(settings.seed, "initial", index),
                ),
                _consistency(settings),
                inputs=model.inputs,
            )
            for index in range(model.blocks)
        ],
        initial=model.initial,
    )


def image_loss(image: Tensor, target: Tensor, kind: str) -> Tensor:
    """Mean over pixels of |x - x*|^2 ("l2") or |x - x*| ("l1"): (B, *N), (B, *N) -> scalar."""
    error = torch.view_as_real(image - target)
    if kind == "l2":
        return error.square().sum(-1).mean()
    # The small constant keeps the gradient finite where the error is exactly zero, outside the object.
    return (error.square().sum(-1) + 1e-12).sqrt().mean()


def _consistency(settings: RunSettings) -> DataConsistency:
    if settings.model.consistency == "proximal":
        return ProximalDataConsistency(settings.end_to_end.lam, learn=True, iterations=settings.model.cg_iterations)
    if settings.model.consistency == "gradient":
        return GradientDataConsistency(learn=True)
    return NoDataConsistency()
