"""Random receive arrays: smooth complex sensitivities of small loops around the object, on any grid.

Each coil is a small current loop, far enough away to be a magnetic dipole; what it receives is its transverse
field B_x - i B_y (principle of reciprocity; Hoult and Richards, J Magn Reson 24:71, 1976), which brings the
coil's own smooth phase with it.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from convexrecon.errors import InputError
from convexrecon.seeding import generator

SLICES_DEPTH = 0.2  # of a stack of slices
VOLUME_DEPTH = 1.2  # of a volume, whose coils see its two ends differently
_TWO_RINGS = 12  # more coils than this sit in two rings, above and below the slice


@dataclass(frozen=True, eq=False)
class CoilArray:
    """Loops around an object; `random_coils` makes one.

    Attributes:
        place: (C, 3) position (y, x, z) of each loop.
        facing: (C, 2) in-plane unit normal (y, x).
        gain: (C,) complex gain.
        depth: how far apart the slice positions 0 and 1 are along z.
    """

    place: NDArray[np.float64]
    facing: NDArray[np.float64]
    gain: NDArray[np.complex128]
    depth: float = SLICES_DEPTH

    def __len__(self) -> int:
        return len(self.gain)

    def sensitivities(self, y: NDArray[Any], x: NDArray[Any], position: float = 0.5) -> NDArray[np.complex64]:
        """(C, Ny, Nx) complex64 with sum_c |S_c|^2 = 1 at every point.

        Args:
            y: (Ny, 1) coordinates, in the units of the array.
            x: (1, Nx) coordinates.
            position: slice position in [0, 1]; of a small depth the array sees all slices almost alike.
        """
        lobes = np.stack([self._lobe(coil, y, x, position) for coil in range(len(self))])
        lobes /= np.sqrt(np.sum(lobes.real**2 + lobes.imag**2, axis=0))
        return lobes

    def _lobe(self, coil: int, y: NDArray[Any], x: NDArray[Any], position: float) -> NDArray[np.complex64]:
        """B_x - i B_y of a dipole m at distance d: (3 (m.d) d - m |d|^2) / |d|^5."""
        dy, dx = (y - self.place[coil, 0]).astype(np.float32), (x - self.place[coil, 1]).astype(np.float32)
        dz = float(self.place[coil, 2]) + self.depth * (position - 0.5)
        my, mx = (float(m) for m in self.facing[coil])
        square = dy**2 + dx**2 + dz**2
        along = 3 * (my * dy + mx * dx)
        field = (along * dx - mx * square) - np.complex64(1j) * (along * dy - my * square)
        return np.asarray(np.complex64(self.gain[coil]) * field / (square**2 * np.sqrt(square)), np.complex64)


def random_coils(
    count: int, seed: int, half_size: tuple[float, float] = (1.0, 1.0), depth: float = SLICES_DEPTH
) -> CoilArray:
    """A jittered ring (two rings for more than 12 coils, or a deep volume) of loops that face the object.

    Args:
        count: number of coils.
        seed: determines places, gains and phases.
        half_size: (y, x) half of the field of view that the array surrounds.
        depth: how far apart the slice positions 0 and 1 are along z, in the same units.

    Raises:
        InputError: count below 1.

    >>> y, x = np.linspace(-1, 1, 5)[:, None], np.linspace(-1, 1, 4)[None]
    >>> maps = random_coils(3, seed=0).sensitivities(y, x)
    >>> maps.shape, bool(np.allclose((abs(maps) ** 2).sum(0), 1))
    ((3, 5, 4), True)
    """
    if count < 1:
        raise InputError(f"coils: {count}; expected at least 1")
    draws = torch.rand(5, count, generator=generator(seed, "coils", count), dtype=torch.float64).numpy()
    index = np.arange(count)
    # Half a step is added so that no coil of the regular ring sits exactly on an axis.
    angle = 2 * math.pi * (index + 0.5 + 0.5 * (draws[0] - 0.5)) / count
    # A rounded rectangle beyond the field of view: what is singular or zero near a loop stays outside.
    rounded = (np.sin(angle) ** 4 + np.cos(angle) ** 4) ** -0.25
    distance = (1.4 + 0.12 * draws[1]) * rounded
    deep = depth > 2 * SLICES_DEPTH
    apart = depth / 4 if deep else 0.3
    rings = np.where(index % 2 == 0, apart, -apart) if deep or count > _TWO_RINGS else 0.0
    height = rings + 0.1 * (2 * draws[2] - 1)
    out_y, out_x = np.sin(angle), np.cos(angle)
    place = np.stack([distance * half_size[0] * out_y, distance * half_size[1] * out_x, height], axis=1)
    gain = (0.75 + 0.5 * draws[3]) * np.exp(2j * math.pi * draws[4])
    return CoilArray(place, np.stack([-out_y, -out_x], axis=1), gain, depth)
