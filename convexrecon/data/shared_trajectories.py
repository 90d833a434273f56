"""Trajectories of prepared scans, and what is computed of them once for all slices and scans that have them."""

import hashlib
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import Tensor

from convexrecon.physics.density_compensation import pipe_menon
from convexrecon.physics.noncartesian_fourier import NonCartesianFourier

# Accuracy of the transforms that images are reconstructed with.
ACCURACY = 1e-4
# In 2-D a trajectory's plans and spectrum take some ten MB, in 3-D as many as several volumes.
_PLANAR_KEPT, _SOLID_KEPT = 32, 2


@dataclass(frozen=True)
class Trajectory:
    """Shots, equal where their digest and the image's shape are.

    Attributes:
        digest: of the coordinates.
        shape: (y, x) or (z, y, x), in pixels.
        coordinates: (shots, S, d) float32, cycles per field of view.
    """

    digest: str
    shape: tuple[int, ...]
    coordinates: Tensor = field(compare=False, repr=False)

    def kept(self, shots: Tensor) -> "Trajectory":
        """Some of the shots, (kept,) int64; itself for all of them."""
        if len(shots) == len(self.coordinates):
            return self
        return trajectory_of(self.coordinates[shots], self.shape)


def trajectory_of(coordinates: Tensor, shape: tuple[int, ...]) -> Trajectory:
    """The trajectory of coordinates (shots, S, d), cycles per field of view of `shape` pixels."""
    values = coordinates.detach().to("cpu", torch.float32).contiguous()
    return Trajectory(hashlib.sha1(values.numpy().tobytes()).hexdigest(), shape, values)


def fourier_of(trajectory: Trajectory) -> NonCartesianFourier:
    """The transform of a trajectory, shots flattened, weighted by `pipe_menon`; one object for all who ask."""
    return _planar(trajectory) if len(trajectory.shape) == 2 else _solid(trajectory)


# Weights are few numbers that take long to compute.
@lru_cache(maxsize=1024)
def _weights(trajectory: Trajectory) -> Tensor:
    coordinates = trajectory.coordinates.flatten(0, 1)
    # In 3-D to a few per cent: each iteration transforms eight times the volume twice.
    if len(trajectory.shape) == 3:
        return pipe_menon(coordinates, trajectory.shape, iterations=10, eps=1e-4)
    return pipe_menon(coordinates, trajectory.shape)


def _made(trajectory: Trajectory) -> NonCartesianFourier:
    flat = trajectory.coordinates.flatten(0, 1)
    return NonCartesianFourier(flat, trajectory.shape, _weights(trajectory), ACCURACY)


_planar = lru_cache(maxsize=_PLANAR_KEPT)(_made)
_solid = lru_cache(maxsize=_SOLID_KEPT)(_made)
