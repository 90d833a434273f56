"""Samples off the grid in two: whole shots, each part with an operator of its own."""

from pathlib import Path

import pytest
import torch

from convexrecon.data.dataset import PreparedSlices, batches
from convexrecon.errors import InputError
from convexrecon.physics.masks import MaskSettings
from convexrecon.physics.noncartesian_sense import NonCartesianSense
from convexrecon.training.held_out_samples import split_batch

SHOTS = MaskSettings("shots", 3)


def test_shots_are_kept_or_held_out_and_none_is_lost(prepared_shots: Path) -> None:
    batch = PreparedSlices(prepared_shots, SHOTS).load(0)
    parts = split_batch(batch, 0.4, seed=1)
    assert batch.shots is not None
    found = []
    for part, count in zip(parts, (11, 8), strict=True):
        assert isinstance(part.sense, NonCartesianSense)
        assert part.shots is not None
        assert part.shots.kept == count
        found.append(part.sense.fourier.coordinates.unflatten(0, (count, -1)))
        # The measured samples are what they were: the same image explains them as well as it explained all.
        misfit = part.sense.forward(batch.target) - part.kspace
        assert float(misfit.norm()) < 0.2 * float(part.kspace.norm())
    assert isinstance(batch.sense, NonCartesianSense)
    whole = batch.sense.fourier.coordinates.unflatten(0, (19, -1))
    ends = {tuple(shot[0].tolist()) for shot in whole}
    assert {tuple(shot[0].tolist()) for part in found for shot in part} == ends
    assert len(ends) == 19


def test_slices_together_are_split_as_each_alone(prepared_shots: Path) -> None:
    slices = PreparedSlices(prepared_shots, SHOTS)
    (both,) = batches(slices, 2, indices=[0, 1])
    for part, alone in zip(split_batch(both, 0.3, 7), split_batch(slices.load(1), 0.3, 7), strict=True):
        assert torch.allclose(part.kspace[1:], alone.kspace, atol=1e-6)
        assert isinstance(part.sense, NonCartesianSense)
        assert isinstance(alone.sense, NonCartesianSense)
        assert part.sense.fourier is alone.sense.fourier


@pytest.mark.parametrize("share", [0.0, 0.01, 0.99, 1.0])
def test_a_share_that_leaves_no_shot_is_refused(prepared_shots: Path, share: float) -> None:
    with pytest.raises(InputError, match="held_out: a share of"):
        split_batch(PreparedSlices(prepared_shots, SHOTS).load(0), share, 0)
