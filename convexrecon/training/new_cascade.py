"""The untrained cascade that the settings describe, the same whatever trains it."""

from convexrecon.cascade import Block, Cascade
from convexrecon.denoisers.building import new_denoiser
from convexrecon.errors import InputError
from convexrecon.physics.data_consistency import (
    DataConsistency,
    GradientDataConsistency,
    NoDataConsistency,
    ProximalDataConsistency,
)
from convexrecon.seeding import generator
from convexrecon.training.config import RunSettings, kernel_of, seed_of_training
from convexrecon.training.model_settings import ModelSettings


def without_blocks(model: ModelSettings) -> Cascade:
    """The initial image alone.

    Raises:
        InputError: its weight is still to be chosen.
    """
    return Cascade(initial=model.initial, initial_weight=model.initial_weight)


def new_cascade(settings: RunSettings, dimensions: int = 2) -> Cascade:
    """Denoisers and data consistency as `settings.model` and `settings.descent` describe, seeded.

    Args:
        settings: of the run.
        dimensions: number of image axes.

    Raises:
        InputError: feature stacking is asked for, no blocks, or a kernel or a periodic axis that images of so many
            axes do not have; an initial image whose weight is still to be chosen.
    """
    model = settings.model
    if model.stacking != "cascade" or model.blocks < 1:
        raise InputError(
            f"{settings.method}: expected model.stacking = 'cascade' with at least one block, "
            f"found {model.stacking!r} with {model.blocks}"
        )
    if model.periodic and dimensions < 3:
        raise InputError(f"model.periodic: expected images of three axes, (t, y, x), found {dimensions}")
    return without_blocks(model).with_blocks(_block(settings, index, dimensions) for index in range(model.blocks))


def _block(settings: RunSettings, index: int, dimensions: int) -> Block:
    model = settings.model
    denoiser = new_denoiser(
        model.denoiser,
        width=model.units if model.denoiser == "relu" else model.width,
        kernel=kernel_of(settings, dimensions),
        dimensions=dimensions,
        periodic=model.periodic,
        channels=2 * len(model.inputs),
        spectral=model.spectral,
        generator=generator(seed_of_training(settings), "initial", index),
    )
    return Block(
        denoiser,
        new_consistency(settings),
        inputs=model.inputs,
        precision=settings.descent.precision,
        patch=model.patch,
        halo=model.halo,
    )


def new_consistency(settings: RunSettings) -> DataConsistency:
    """The data consistency of a block before training."""
    options = settings.descent
    if settings.model.consistency == "proximal":
        return ProximalDataConsistency(
            options.lam, learn=options.learn_consistency, iterations=settings.model.cg_iterations
        )
    if settings.model.consistency == "gradient":
        return GradientDataConsistency(options.step, learn=options.learn_consistency)
    return NoDataConsistency()
