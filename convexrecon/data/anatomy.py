"""Random heads, knees and phantoms as continuous functions of space, evaluated on any grid.

Nothing here lives on a grid: tissues are painted from distances to analytic boundaries, texture and folding
are random fields with finitely many Fourier modes, so that k-space can be computed on a finer grid than the
one that is reconstructed (no inverse crime: Guerquin-Kern et al., IEEE Trans Med Imaging 31:626, 2012).

Coordinates: y points down (head: anterior is up; knee, sagittal: superior is up), x right, in units in which
the object is about 2 tall; the slice position z in [0, 1] moves smoothly through the volume.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from convexrecon.data.head_anatomy import paint_head
from convexrecon.data.knee_anatomy import paint_knee
from convexrecon.data.phantom_anatomy import paint_phantom
from convexrecon.data.tissue_drawing import Array, Draws
from convexrecon.errors import InputError
from convexrecon.seeding import generator

AnatomyKind = Literal["head", "knee", "phantom"]

HALF_SIZE = {"head": (1.05, 0.9), "knee": (1.0, 0.98), "phantom": (1.0, 1.0)}  # (y, x) of the smallest field of view
_TISSUES: dict[str, tuple[str, ...]] = {
    "head": ("skin", "fat", "muscle", "bone", "marrow", "csf", "grey", "white", "deep", "vessel", "lesion"),
    "knee": ("skin", "fat", "muscle", "bone", "marrow", "fluid", "cartilage", "meniscus", "tendon", "vessel"),
    "phantom": ("fill", "bright", "dark", "air"),
}
_CONTRASTS: dict[str, dict[str, tuple[float, ...]]] = {
    "head": {
        "t1": (0.6, 1.0, 0.42, 0.05, 0.62, 0.14, 0.5, 0.78, 0.56, 0.2, 0.45),
        "t2": (0.35, 0.6, 0.2, 0.04, 0.35, 1.0, 0.58, 0.4, 0.51, 0.06, 0.75),
        "flair": (0.5, 0.85, 0.35, 0.05, 0.5, 0.1, 0.72, 0.55, 0.66, 0.12, 1.0),
    },
    "knee": {
        "pd": (0.5, 0.95, 0.45, 0.05, 0.8, 0.75, 0.62, 0.1, 0.07, 0.12),
        "t1": (0.5, 1.0, 0.36, 0.04, 0.88, 0.25, 0.48, 0.09, 0.06, 0.12),
        "pdfs": (0.35, 0.22, 0.45, 0.05, 0.2, 1.0, 0.72, 0.1, 0.08, 0.7),
    },
    "phantom": {
        "pd": (0.8, 0.95, 0.55, 0.0),
        "t1": (0.6, 1.0, 0.25, 0.0),
        "t2": (0.7, 1.0, 0.4, 0.0),
    },
}
_PAINTERS = {"head": paint_head, "knee": paint_knee, "phantom": paint_phantom}


@dataclass(frozen=True)
class Anatomy:
    """One subject: everything random about it follows from these parameters.

    Attributes:
        kind: "head" (axial slices), "knee" (sagittal slices) or "phantom" (axial slices of a cylinder with inserts).
        contrast: "t1", "t2" or "flair" for a head; "pd", "t1" or "pdfs" for a knee; "pd", "t1" or "t2" for a phantom.
        seed: of the subject's shape, tissues and phase.

    Raises:
        InputError: an unknown kind, or a contrast that this kind does not have.

    >>> subject = random_anatomy("head", seed=3)
    >>> subject.render((40, 36), supersampling=2).shape
    (80, 72)
    """

    kind: AnatomyKind
    contrast: str
    seed: int

    def __post_init__(self) -> None:
        if self.kind not in _CONTRASTS:
            raise InputError(f"anatomy: {self.kind!r}; expected one of {get_args(AnatomyKind)}")
        if self.contrast not in _CONTRASTS[self.kind]:
            known = tuple(_CONTRASTS[self.kind])
            raise InputError(f"contrast of a {self.kind}: {self.contrast!r}; expected one of {known}")

    def render(self, shape: tuple[int, int], *, position: float = 0.5, supersampling: int = 3) -> NDArray[np.complex64]:
        """The complex image on a grid, magnitude about 0 to 1; nothing of it lies outside the field of view.

        Args:
            shape: (y, x) pixels; the object is scaled to fit their field of view.
            position: slice position in [0, 1] through the volume.
            supersampling: samples per pixel along each axis.

        Returns:
            (y * supersampling, x * supersampling) complex64 at `coordinates`.
        """
        y, x = self.coordinates(shape, supersampling)
        draw = Draws(generator(self.seed, "anatomy", self.kind))
        levels = zip(_TISSUES[self.kind], _CONTRASTS[self.kind][self.contrast], strict=True)
        tissue = {name: level * draw.uniform(0.9, 1.1) for name, level in levels}
        magnitude = _PAINTERS[self.kind](draw, y, x, position, tissue)
        return np.asarray(magnitude * np.exp(1j * smooth_phase(self.seed, y, x, position)), np.complex64)

    def coordinates(self, shape: tuple[int, int], supersampling: int = 1) -> tuple[Array, Array]:
        """Where `render` samples: y (Ny, 1) and x (1, Nx), the origin at index N//2."""
        pixel = max(2 * half / n for half, n in zip(HALF_SIZE[self.kind], shape, strict=True))
        return grid_coordinates((shape[0] * supersampling, shape[1] * supersampling), pixel / supersampling)


def random_anatomy(kind: AnatomyKind, seed: int) -> Anatomy:
    """A random subject of a kind, with a random contrast, determined by the seed."""
    if kind not in _CONTRASTS:
        raise InputError(f"anatomy: {kind!r}; expected one of {get_args(AnatomyKind)}")
    names = list(_CONTRASTS[kind])
    pick = int(torch.randint(len(names), (1,), generator=generator(seed, "contrast", kind)))
    return Anatomy(kind, names[pick], seed)


def grid_coordinates(size: tuple[int, int], pixel: float) -> tuple[Array, Array]:
    """Coordinates y (Ny, 1) and x (1, Nx) of a grid of square pixels with its origin at index N//2."""
    y, x = ((np.arange(n) - n // 2).astype(np.float32) * np.float32(pixel) for n in size)
    return y[:, None], x[None, :]


def smooth_phase(seed: int, y: Array, x: Array, position: float = 0.5) -> Array:
    """A smooth image phase in radians: low-order polynomial, slow waves and a susceptibility dipole."""
    draw = Draws(generator(seed, "phase"))
    a, b, c, d, offset = (draw.uniform(-1, 1) for _ in range(5))
    polynomial = 3 * offset + a * y + b * x + 0.8 * c * x * y + 0.8 * d * (x**2 - y**2)
    waves = 0.5 * draw.field(0.8, 2.6, power=2)(y, x, position)
    cy, cx = draw.uniform(-0.9, -0.5), draw.uniform(-0.2, 0.2)
    dy, dx = y - cy, x - cx
    radius2 = dy**2 + dx**2 + 0.12**2
    dipole = draw.uniform(0.5, 1.5) * (1 - position / 2) * 0.12**2 * (dy**2 - dx**2) / radius2**2 * 4
    return np.asarray(polynomial + waves + dipole, dtype=np.float32)
