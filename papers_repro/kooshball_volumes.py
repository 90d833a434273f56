"""Volumes measured along 3-D radial spokes: prepared volumes, sampled anew off the grid, with noise."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from convexrecon.data.dataset import PreparedSlices
from convexrecon.physics.density_compensation import pipe_menon
from convexrecon.physics.masks import MaskSettings
from convexrecon.physics.noncartesian_sense import NonCartesianSense
from convexrecon.physics.trajectories import kooshball
from convexrecon.seeding import generator


@dataclass(frozen=True)
class KooshballScan:
    """One volume: forward model, weighted samples (1, C, samples), target (1, z, y, x); the last two of scale one."""

    sense: NonCartesianSense
    kspace: Tensor
    target: Tensor

    @property
    def megabytes(self) -> float:
        """Of the volume, complex64, in units of 1e6 bytes."""
        return 8e-6 * self.target.numel()


def kooshball_scans(folder: Path, shots: int, noise: float, device: torch.device, *, most: int) -> list[KooshballScan]:
    """The volumes of a folder along spokes by the golden means, as many for all.

    Args:
        folder: prepared volumes.
        shots: spokes; `pi/2 N^2` would be full.
        noise: standard deviation of the samples' complex noise over the deviation of the samples.
        device: where to put them.
        most: volumes at most.
    """
    slices = PreparedSlices(folder, MaskSettings(kind="full"))
    return [_scan(slices, index, shots, noise, device) for index in range(min(most, len(slices)))]


def _scan(slices: PreparedSlices, index: int, shots: int, noise: float, device: torch.device) -> KooshballScan:
    batch = slices.load(index).to(device)
    target = batch.target / torch.quantile(batch.target.abs().flatten(), 0.95)
    shape = tuple(target.shape[1:])
    coordinates = kooshball((shape[0], shape[1], shape[2]), shots).flatten(0, 1).to(device)
    sense = NonCartesianSense.along(coordinates, batch.maps, pipe_menon(coordinates, shape, iterations=10))
    clean = sense.forward(target)
    draws = torch.randn(*clean.shape, 2, generator=generator(0, "kooshball", index)).to(device)
    return KooshballScan(sense, clean + noise * clean.abs().std() * torch.view_as_complex(draws), target)
