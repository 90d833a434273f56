"""Simulated k-space of one slice: anatomy or image, phase, coils, and noise.

    k_c = crop(F(S_c x)) + n_c

F acts on a grid `supersampling` times finer than the reconstruction's and crop keeps its centre, so that
k-space is that of a continuous object (no inverse crime). n_c is white complex Gaussian noise.
"""

from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from convexrecon.data.anatomy import HALF_SIZE, Anatomy, AnatomyKind, grid_coordinates, random_anatomy, smooth_phase
from convexrecon.data.coils import CoilArray, random_coils
from convexrecon.data.image_stacks import ImageStack
from convexrecon.errors import InputError
from convexrecon.physics.fourier import centred_fft, centred_ifft, crop_centre
from convexrecon.seeding import generator

SimulatedAnatomy = Literal["head", "knee", "mixed", "phantom"]

SMALLEST = 32
_SUPERSAMPLING = 3
_IMAGE_SUPERSAMPLING = 2  # of band-limited images; only their product with smooth coils needs room
_SIGNAL = 2e-4  # 95th-percentile magnitude of an image, as in fastMRI files
_Fine = tuple[NDArray[np.complex64], NDArray[Any], NDArray[Any]]


@dataclass(frozen=True)
class SimulatedSlice:
    """One simulated slice in memory.

    Attributes:
        kspace: (C, y * readout_oversampling, x) complex64, centred, with noise.
        image: (y, x) complex64, the noise-free image at the reconstruction's resolution, in the same units.
        maps: (C, y, x) complex64, the coils' true sensitivities, sum_c |maps|^2 = 1 everywhere.
    """

    kspace: Tensor
    image: Tensor
    maps: Tensor


class Subject(Protocol):
    """What is scanned: slices as continuous functions, sampled on fine grids."""

    @property
    def supersampling(self) -> int: ...

    @property
    def half_size(self) -> tuple[float, float]: ...

    def fine(self, index: int) -> _Fine:
        """Slice `index`, sampled finer than the reconstruction, and the coordinates y (Ny, 1), x (1, Nx)."""


@dataclass(frozen=True)
class AnatomySubject:
    anatomy: Anatomy
    size: tuple[int, int]
    positions: tuple[float, ...]
    supersampling: int = _SUPERSAMPLING

    @property
    def half_size(self) -> tuple[float, float]:
        return HALF_SIZE[self.anatomy.kind]

    def fine(self, index: int) -> _Fine:
        image = self.anatomy.render(self.size, position=self.positions[index], supersampling=self.supersampling)
        return image, *self.anatomy.coordinates(self.size, self.supersampling)


@dataclass(frozen=True)
class ImageSubject:
    stack: ImageStack
    indices: tuple[int, ...]
    size: tuple[int, int]
    seed: int
    moves: bool = True
    supersampling: int = _IMAGE_SUPERSAMPLING

    @property
    def half_size(self) -> tuple[float, float]:
        longest = max(self.size)
        return self.size[0] / longest, self.size[1] / longest

    def fine(self, index: int) -> _Fine:
        """The user's image at `size`, interpolated by zero-filling its k-space; magnitudes get a phase."""
        fine_size = (self.size[0] * self.supersampling, self.size[1] * self.supersampling)
        image = torch.from_numpy(self.stack[self.indices[index]])
        spectrum = crop_centre(centred_fft(image, 2), self.size)
        gain = (fine_size[0] * fine_size[1] / image.numel()) ** 0.5
        fine = gain * centred_ifft(_pad_centre(spectrum, fine_size), 2).numpy()
        y, x = grid_coordinates(fine_size, 2 / (max(self.size) * self.supersampling))
        # Through the frames of a series the phase stays, as it does in a patient who lies still.
        position = index / max(len(self.indices), 2) if self.moves else 0.5
        if not self.stack.is_complex:
            fine = fine * np.exp(1j * smooth_phase(self.seed, y, x, position))
        return np.asarray(fine, np.complex64), y, x


def simulate_slice(
    size: tuple[int, int] = (64, 56),
    *,
    coils: int = 4,
    anatomy: AnatomyKind = "head",
    noise: float = 0.01,
    seed: int = 0,
    position: float = 0.3,
    readout_oversampling: int = 1,
) -> SimulatedSlice:
    """One simulated slice in memory, with its true image and maps; arguments as `simulate_dataset`.

    >>> scan = simulate_slice((40, 36), coils=3)
    >>> scan.kspace.shape, scan.image.shape, scan.maps.shape
    (torch.Size([3, 40, 36]), torch.Size([40, 36]), torch.Size([3, 40, 36]))
    """
    check_arguments(1, 1, size, coils, anatomy, noise, readout_oversampling)
    subject = AnatomySubject(random_anatomy(anatomy, seed), size, (position,))
    array = random_coils(coils, seed, subject.half_size)
    scale, deviation = levels(subject, 0, noise, seed)
    kspace = scale * slice_kspace(subject, 0, array, size, readout_oversampling, position)
    fine, _, _ = subject.fine(0)
    image = scale * centred_ifft(_resample(torch.from_numpy(fine), size), 2)
    y, x = subject.anatomy.coordinates(size)
    maps = torch.from_numpy(array.sensitivities(y, x, position))
    return SimulatedSlice(kspace + coil_noise(kspace, deviation, generator(seed, "noise")), image, maps)


def check_arguments(
    volumes: int | None, slices: int, size: tuple[int, int] | None, coils: int, anatomy: str, noise: float,
    readout_oversampling: int,
) -> None:  # fmt: skip
    """Raise InputError for the first argument of a simulation that is out of range."""
    at_least_one = {"slices": slices, "coils": coils, "readout_oversampling": readout_oversampling}
    for name, value in (at_least_one | ({} if volumes is None else {"volumes": volumes})).items():
        if value < 1:
            raise InputError(f"{name}: {value}; expected at least 1")
    if size is not None and (len(size) != 2 or min(size) < SMALLEST):
        raise InputError(f"size: {size}; expected (y, x), each at least {SMALLEST}")
    if not 0 <= noise < float("inf"):
        raise InputError(f"noise: {noise}; expected a finite number, 0 or more")
    if anatomy not in get_args(SimulatedAnatomy):
        raise InputError(f"anatomy: {anatomy!r}; expected one of {get_args(SimulatedAnatomy)}")


def levels(subject: Subject, index: int, noise: float, seed: int) -> tuple[float, float]:
    """What brings the subject to a scanner's units, and the noise's standard deviation in them."""
    magnitude = np.abs(subject.fine(index)[0])
    # An object that covers less than a twentieth of the image has a 95th percentile of nearly zero.
    bright = float(max(np.percentile(magnitude, 95), 0.05 * magnitude.max()))
    signal = _SIGNAL * 4 ** (float(torch.rand((), generator=generator(seed, "scale"))) - 0.5)
    return signal / bright, noise * signal


def slice_kspace(
    subject: Subject,
    index: int,
    array: CoilArray,
    size: tuple[int, int],
    readout_oversampling: int,
    position: float,
) -> Tensor:
    """Noise-free k-space (C, y * readout_oversampling, x) of one slice, centred."""
    fine, y, x = subject.fine(index)
    coil_images = torch.from_numpy(array.sensitivities(y, x, position) * fine)
    return _resample(coil_images, size, readout_oversampling)


def _resample(fine: Tensor, size: tuple[int, int], readout_oversampling: int = 1) -> Tensor:
    """Centred k-space of a finely sampled image (..., y, x): of `size` times the oversampling along y.

    Scaled so that the orthonormal inverse transform has the intensities of the fine image. One axis after the
    other, cropping in between: the second transform is then a fraction of the work.
    """
    gain = size[0] * size[1] / (fine.shape[-2] * fine.shape[-1])
    columns = crop_centre(centred_fft(fine, 1), size[1:]).mT
    columns = _pad_centre(columns, (size[1], fine.shape[-2] * readout_oversampling))
    kspace = crop_centre(centred_fft(columns, 1), (size[0] * readout_oversampling,)).mT
    return torch.mul(kspace, gain**0.5)


def _pad_centre(array: Tensor, size: tuple[int, int]) -> Tensor:
    """Zero-pad the last two axes to `size` with index N//2 kept in the centre."""
    rows, columns = array.shape[-2:]
    out = array.new_zeros(*array.shape[:-2], *size)
    top, left = size[0] // 2 - rows // 2, size[1] // 2 - columns // 2
    out[..., top : top + rows, left : left + columns] = array
    return out


def coil_noise(like: Tensor, deviation: float, draws: torch.Generator) -> Tensor:
    """White complex Gaussian noise, E|n|^2 = deviation^2 in k-space and, F being unitary, in the image."""
    return deviation * torch.randn(like.shape, dtype=like.dtype, generator=draws)
