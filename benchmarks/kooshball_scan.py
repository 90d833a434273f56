"""Kooshball scans of synthetic heads, or of volumes from a file, in memory: for `kooshball.py`."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from convexrecon.data.anatomy import Anatomy, smooth_phase
from convexrecon.data.coils import VOLUME_DEPTH, random_coils
from convexrecon.data.image_stacks import load_image_stack
from convexrecon.physics.density_compensation import ramp
from convexrecon.physics.noncartesian_fourier import NonCartesianFourier
from convexrecon.physics.noncartesian_sense import NonCartesianSense
from convexrecon.physics.trajectories import kooshball

# Pixels darker than this share of the brightest hold no object: maps are zero there.
BACKGROUND = 0.02
# Relative error of the transforms.
EPS = 1e-3


@dataclass(frozen=True)
class Scan:
    """A volume as measured.

    Attributes:
        sense: the operator.
        kspace: (1, C, samples) complex64, weighted, scaled so that `start` has 1 as its 95th percentile.
        start: A^H y, (1, *N) complex64.
        target: (1, *N) complex64, on the same scale.
    """

    sense: NonCartesianSense
    kspace: Tensor
    start: Tensor
    target: Tensor


def trajectory(size: int, spokes: float) -> NonCartesianFourier:
    """`spokes` size^2 spokes of size^3 voxels; pi/2 size^2 would be all."""
    shape, shots = (size, size, size), round(spokes * size**2)
    coordinates = kooshball(shape, shots).flatten(0, 1)
    return NonCartesianFourier(coordinates, shape, ramp(coordinates, shape, shots, capped=False), EPS)


def scan(fourier: NonCartesianFourier, coils: int, seed: int, noise: float, images: Path | None = None) -> Scan:
    """Simulate a volume seen by coils around it.

    Args:
        fourier: the trajectory.
        coils: C.
        seed: of subject, coils and noise.
        noise: standard deviation in image space of the fully sampled volume, relative to its 95th percentile.
        images: a file of slices or of a volume; a synthetic head if None.
    """
    target, maps = (_head if images is None else _from_file)(fourier.shape[0], coils, seed, images)
    sense = NonCartesianSense(maps[None], fourier)
    measured = fourier.nufft.forward(maps[None] * target[None, None])
    rng = torch.Generator().manual_seed(seed)
    deviation = noise * float(torch.quantile(target.abs()[target != 0][::7], 0.95)) / 2**0.5
    # Coil by coil: noise of all coils at once would be the largest array of all.
    for samples in measured[0]:
        samples.add_(torch.view_as_complex(deviation * torch.randn(*samples.shape, 2, generator=rng)))
    kspace = sense.weigh(measured)
    start = sense.adjoint(kspace)
    scale = float(torch.quantile(start.abs().flatten()[:: max(1, start.numel() // 2**22)], 0.95))
    return Scan(sense, kspace / scale, start / scale, target[None] / scale)


def _head(size: int, coils: int, seed: int, _: Path | None) -> tuple[Tensor, Tensor]:
    """A synthetic head (*N) and its maps (C, *N)."""
    # One protocol for all, as in any study.
    subject = Anatomy("head", "t1", seed)
    array = random_coils(coils, seed, depth=VOLUME_DEPTH)
    y, x = subject.coordinates((size, size))
    target = torch.empty(size, size, size, dtype=torch.complex64)
    maps = torch.empty(coils, size, size, size, dtype=torch.complex64)
    for z in range(size):
        position = (z + 0.5) / size
        target[z] = torch.from_numpy(subject.render((size, size), position=position, supersampling=1))
        maps[:, z] = torch.from_numpy(array.sensitivities(y, x, position))
    return _masked(target, maps)


def _from_file(size: int, coils: int, seed: int, images: Path | None) -> tuple[Tensor, Tensor]:
    """The volume of a file, made a cube of `size` voxels along its longest axis, with a smooth phase; and maps."""
    assert images is not None
    stack = load_image_stack(images)
    volume = torch.from_numpy(np.stack([abs(image).astype(np.float32) for image in stack]))
    longest = max(volume.shape)
    margins = [m for have in reversed(volume.shape) for m in ((longest - have) // 2, -(-(longest - have) // 2))]
    cube = F.interpolate(F.pad(volume, margins)[None, None], (size,) * 3, mode="area")[0, 0]
    # Other seeds: other parts of one head, seen from another side.
    cube = cube.flip([axis for axis in range(3) if seed >> axis & 1])
    array = random_coils(coils, seed, depth=VOLUME_DEPTH)
    line = np.linspace(-1, 1, size, dtype=np.float32)
    y, x = line[:, None], line[None]
    maps = torch.empty(coils, size, size, size, dtype=torch.complex64)
    phase = torch.empty(size, size, size)
    for z in range(size):
        maps[:, z] = torch.from_numpy(array.sensitivities(y, x, (z + 0.5) / size))
        phase[z] = torch.from_numpy(smooth_phase(seed, y, x, (z + 0.5) / size))
    return _masked(torch.polar(cube / cube.max(), phase), maps)


def _masked(target: Tensor, maps: Tensor) -> tuple[Tensor, Tensor]:
    inside = F.max_pool3d((target.abs() > BACKGROUND * target.abs().max()).float()[None], 5, 1, 2)[0]
    return target * inside, maps * inside
