"""The classical methods that trained runs are compared with, and their weights, tuned on training samples."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tqdm.auto import tqdm

from convexrecon.data.dataset import PreparedSlices
from convexrecon.data.prepared_files import StoredLayout
from convexrecon.evaluate.baselines import Reconstruction, Sample, Tuning, cg_sense, tune
from convexrecon.evaluate.low_rank import low_rank, low_rank_plus_sparse
from convexrecon.physics.l1_wavelet import l1_wavelet

# Training samples on which weights are tuned.
TUNING_SAMPLES = 3


@dataclass(frozen=True)
class ClassicalMethod:
    """A method with one weight, and where it is looked for.

    Attributes:
        name: in tables.
        reconstruct: (A, k-space, lam) -> image.
        low: smallest lam of the grid, which is extended where that is best.
        high: largest.
    """

    name: str
    reconstruct: Reconstruction
    low: float
    high: float


def classical_methods(layout: StoredLayout) -> tuple[ClassicalMethod, ...]:
    """CG-SENSE and L1-wavelet, along all axes of volumes and series; of series low-rank methods too.

    >>> [method.name for method in classical_methods("cine")]
    ['CG-SENSE', 'L1-wavelet', 'locally low rank', 'L+S']
    """
    methods = (
        ClassicalMethod("CG-SENSE", cg_sense, 1e-3, 1.0),
        ClassicalMethod("L1-wavelet", l1_wavelet, 1e-3, 1e-1),
    )
    if layout != "cine":
        return methods
    return (
        *methods,
        ClassicalMethod("locally low rank", low_rank, 1e-3, 3e-2),
        ClassicalMethod("L+S", low_rank_plus_sparse, 1e-3, 3e-2),
    )


def tune_methods(
    methods: Sequence[ClassicalMethod],
    slices: PreparedSlices,
    *,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> dict[str, Tuning]:
    """The best weight of each method on a few samples, spread evenly; see `baselines.tune`.

    Args:
        methods: to tune.
        slices: that they may be tuned on.
        device: where to compute.
        progress: whether to show a bar.
    """
    step = max(len(slices) // TUNING_SAMPLES, 1)
    samples: list[Sample] = []
    for position in list(range(step // 2, len(slices), step))[:TUNING_SAMPLES]:
        batch = slices.load(position).to(device)
        samples.append((batch.sense, batch.kspace, batch.target))
    tuned = {}
    for method in tqdm(methods, "tuning classical methods", leave=False, disable=not progress):
        tuned[method.name] = tune(
            method.reconstruct, samples, low=method.low, high=method.high, points=5, refinements=3
        )
    return tuned
