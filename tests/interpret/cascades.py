"""Small cascades and measurements in float64, data consistency solved to rounding, for the tests of interpretation."""

from collections.abc import Sequence

import torch
from denoisers import denoiser
from torch import Tensor

from convexrecon.cascade import Block, Cascade
from convexrecon.physics.data_consistency import (
    DataConsistency,
    GradientDataConsistency,
    NoDataConsistency,
    ProximalDataConsistency,
)
from convexrecon.physics.sense import Sense


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def measurement(shape: Sequence[int] = (16, 14), coils: int = 3) -> tuple[Sense, Tensor]:
    """SENSE of random maps with an empty border, half of the samples taken, and the k-space of a random image."""
    maps = torch.randn(1, coils, *shape, dtype=torch.complex128, generator=rng())
    maps = maps / maps.abs().square().sum(1, keepdim=True).sqrt()
    maps[..., :1] = 0
    mask = (torch.rand(1, 1, *shape, generator=rng(1)) > 0.5).double()
    sense = Sense(maps, mask)
    return sense, sense.forward(torch.randn(1, *shape, dtype=torch.complex128, generator=rng(2)))


def consistency(kind: str) -> DataConsistency:
    """A data-consistency step of a kind, as exact as float64 allows."""
    if kind == "gradient":
        return GradientDataConsistency(0.7)
    if kind == "none":
        return NoDataConsistency()
    return ProximalDataConsistency(0.3, iterations=300, tolerance=1e-14)


def cascade(
    kinds: Sequence[str],
    *,
    step: str = "proximal",
    inputs: Sequence[str] = ("image",),
    initial: str = "zero_filled",
    kernel: Sequence[int] = (3, 3),
) -> Cascade:
    """Blocks of the given kinds of denoisers, float64."""
    blocks = [
        Block(
            denoiser(kind, seed=seed, kernel=kernel, channels=2 * len(inputs)),
            consistency(step),
            inputs=inputs,
        )
        for seed, kind in enumerate(kinds)
    ]
    return Cascade(blocks, initial=initial, initial_weight=0.05 if initial == "l1_wavelet" else None).double()
