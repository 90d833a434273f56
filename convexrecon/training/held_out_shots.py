"""A batch off the grid as self-supervised training sees it: some of its shots measured, the others held out."""

from dataclasses import replace

import torch
from torch import Tensor

from convexrecon.data.sample_batch import Batch, Shots
from convexrecon.data.shared_trajectories import Trajectory, fourier_of, trajectory_of
from convexrecon.errors import InputError
from convexrecon.physics.noncartesian_sense import NonCartesianSense
from convexrecon.seeding import generator


def split_shots(batch: Batch, share: float, seed: int) -> tuple[Batch, Batch]:
    """The batch with the shots kept, and with those held out.

    Whole shots: along a readout samples are closer than k-space varies, and their neighbours would tell what single
    ones are. Each part has weights of its own and norm one. A trajectory is split by a generator named after it, so
    that all slices and scans that have it share what is computed of its parts.

    Args:
        batch: of one trajectory, on any device.
        share: of the shots, held out.
        seed: of the run.

    Raises:
        InputError: a share that leaves no shot on either side, or slices of several trajectories.
    """
    sense, shots = batch.sense, batch.shots
    assert isinstance(sense, NonCartesianSense)
    assert shots is not None
    coordinates = sense.fourier.coordinates
    if coordinates.ndim != 2:
        raise InputError(f"held_out: slices of {len(coordinates)} trajectories in a batch; expected one trajectory")
    whole = trajectory_of(coordinates.unflatten(0, (shots.kept, -1)), tuple(sense.fourier.shape))
    count = round(share * shots.kept)
    if not (0 < share < 1 and 0 < count < shots.kept):
        raise InputError(
            f"held_out: a share of {share:g} of {shots.kept} shots is {count}; expected at least 1 on either side"
        )
    order = torch.randperm(shots.kept, generator=generator(seed, "held_out", whole.digest))
    # What weighing multiplied samples with; weights are positive.
    root = sense.weigh(torch.ones_like(batch.kspace))
    samples = (batch.kspace / root).unflatten(-1, (shots.kept, -1))
    kept, held_out = (_part(batch, samples, whole, some.sort().values) for some in (order[count:], order[:count]))
    return kept, held_out


def _part(batch: Batch, samples: Tensor, whole: Trajectory, chosen: Tensor) -> Batch:
    assert batch.shots is not None
    sense = NonCartesianSense(batch.maps, fourier_of(whole.kept(chosen)).to(batch.maps.device))
    kspace = sense.weigh(samples[:, :, chosen.to(samples.device)].flatten(-2))
    return replace(batch, kspace=kspace, sense=sense, shots=Shots(len(chosen), batch.shots.acquired))
