"""Simulated scans: anatomy or image, phase, coils, and noise, to k-space files in the fastMRI layout.

    k_c = crop(F(S_c x)) + n_c

F acts on a grid `supersampling` times finer than the reconstruction's and crop keeps its centre, so that
k-space is that of a continuous object (no inverse crime). n_c is white complex Gaussian noise.
"""

import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

from convexrecon.data.anatomy import HALF_SIZE, Anatomy, grid_coordinates, random_anatomy, smooth_phase
from convexrecon.data.coils import CoilArray, random_coils
from convexrecon.data.fastmri import ScanWriter, ismrmrd_header, read_scan_info
from convexrecon.data.image_stacks import ImageStack, load_image_stack
from convexrecon.errors import InputError
from convexrecon.physics.fourier import centred_fft, centred_ifft, crop_centre
from convexrecon.seeding import derive_seed, generator

SimulatedAnatomy = Literal["head", "knee", "mixed"]

_SUPERSAMPLING = 3
_IMAGE_SUPERSAMPLING = 2  # of band-limited images; only their product with smooth coils needs room
_SMALLEST = 32
_DEFAULT_SIZE = (160, 144)
_DEFAULT_VOLUMES = 8
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


@dataclass(frozen=True)
class _VolumeSettings:
    """What determines a volume's file, with its name; written into it to tell whether to keep it."""

    source: str
    slices: int
    size: tuple[int, int]
    coils: int
    noise: float
    seed: int
    readout_oversampling: int


class _Subject(Protocol):
    """What is scanned: slices as continuous functions, sampled on fine grids."""

    @property
    def supersampling(self) -> int: ...

    @property
    def half_size(self) -> tuple[float, float]: ...

    def fine(self, index: int) -> _Fine:
        """Slice `index`, sampled finer than the reconstruction, and the coordinates y (Ny, 1), x (1, Nx)."""


@dataclass(frozen=True)
class _AnatomySubject:
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
class _ImageSubject:
    stack: ImageStack
    indices: tuple[int, ...]
    size: tuple[int, int]
    seed: int
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
        if not self.stack.is_complex:
            fine = fine * np.exp(1j * smooth_phase(self.seed, y, x, index / max(len(self.indices), 2)))
        return np.asarray(fine, np.complex64), y, x


def simulate_dataset(
    out: str | os.PathLike[str],
    *,
    volumes: int | None = None,
    slices: int = 4,
    size: tuple[int, int] | None = None,
    coils: int = 8,
    anatomy: SimulatedAnatomy = "mixed",
    noise: float = 0.01,
    seed: int = 0,
    readout_oversampling: int = 2,
    vary_size: bool = False,
    images: str | os.PathLike[str] | None = None,
    images_key: str | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> list[Path]:
    """Simulate a multi-coil data set in the fastMRI layout: ``out/head_000.h5`` and so on.

    A volume follows from (seed, its name) and the settings, whatever the number of volumes. Existing files
    made with the same settings are kept.

    Args:
        out: the folder; made if missing.
        volumes: how many files; 8 by default, with `images` as many as they fill.
        slices: per volume.
        size: (y, x) of the images; (160, 144) by default, with `images` that of the images (a smaller one
            lowers their resolution at the same field of view).
        coils: receive channels per volume.
        anatomy: "head", "knee" or "mixed" (alternating); without effect with `images`.
        noise: standard deviation of the complex noise in each coil's image, as a fraction of the
            95th-percentile magnitude of the volume's middle slice.
        seed: of everything random.
        readout_oversampling: how many times the field of view is longer along y, as scanners acquire it.
        vary_size: let sizes (up to 15 % smaller, anatomies only) and coil counts (one fewer to one more)
            differ from volume to volume.
        images: a file of the user's own images (see `load_image_stack`); every `slices` consecutive ones form
            a volume, blank ones are passed over. Complex images keep their phase, magnitudes get one.
        images_key: which array of that file.
        overwrite: replace existing files that were made with other settings.
        progress: show a progress bar.

    Returns:
        The files' paths, in order.

    Raises:
        InputError: an argument out of range, unreadable images, an existing file made with other settings, or
            files that cannot be written.
    """
    _check_arguments(volumes, slices, size, coils, anatomy, noise, readout_oversampling)
    common = _VolumeSettings("", slices, size or _DEFAULT_SIZE, coils, noise, seed, readout_oversampling)
    if images is None:
        count = _DEFAULT_VOLUMES if volumes is None else volumes
        plan = [_plan_anatomy(common, anatomy, index, vary_size) for index in range(count)]
    else:
        plan = _plan_images(common, load_image_stack(images, images_key), volumes, size, vary_size)
    folder = Path(out)
    todo = [not _is_made(folder / f"{name}.h5", settings, overwrite) for name, settings, _ in plan]
    total = sum(settings.slices for (_, settings, _), needed in zip(plan, todo, strict=True) if needed)
    with tqdm(total=total, desc="simulate", unit="slice", disable=not (progress and total)) as bar:
        for (name, settings, subject), needed in zip(plan, todo, strict=True):
            if needed:
                _write_volume(folder / f"{name}.h5", name, settings, subject, bar)
    return [folder / f"{name}.h5" for name, _, _ in plan]


def simulate_slice(
    size: tuple[int, int] = (64, 56),
    *,
    coils: int = 4,
    anatomy: Literal["head", "knee"] = "head",
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
    _check_arguments(1, 1, size, coils, anatomy, noise, readout_oversampling)
    subject = _AnatomySubject(random_anatomy(anatomy, seed), size, (position,))
    array = random_coils(coils, seed, subject.half_size)
    scale, deviation = _levels(subject, 0, noise, seed)
    kspace = scale * _slice_kspace(subject, 0, array, size, readout_oversampling, position)
    fine, _, _ = subject.fine(0)
    image = scale * centred_ifft(_resample(torch.from_numpy(fine), size), 2)
    y, x = subject.anatomy.coordinates(size)
    maps = torch.from_numpy(array.sensitivities(y, x, position))
    return SimulatedSlice(kspace + _noise(kspace, deviation, generator(seed, "noise")), image, maps)


def _check_arguments(
    volumes: int | None, slices: int, size: tuple[int, int] | None, coils: int, anatomy: str, noise: float,
    readout_oversampling: int,
) -> None:  # fmt: skip
    at_least_one = {"slices": slices, "coils": coils, "readout_oversampling": readout_oversampling}
    for name, value in (at_least_one | ({} if volumes is None else {"volumes": volumes})).items():
        if value < 1:
            raise InputError(f"{name}: {value}; expected at least 1")
    if size is not None and (len(size) != 2 or min(size) < _SMALLEST):
        raise InputError(f"size: {size}; expected (y, x), each at least {_SMALLEST}")
    if not 0 <= noise < float("inf"):
        raise InputError(f"noise: {noise}; expected a finite number, 0 or more")
    if anatomy not in get_args(SimulatedAnatomy):
        raise InputError(f"anatomy: {anatomy!r}; expected one of {get_args(SimulatedAnatomy)}")


_Plan = tuple[str, _VolumeSettings, _Subject]


def _plan_anatomy(common: _VolumeSettings, anatomy: SimulatedAnatomy, index: int, vary_size: bool) -> _Plan:
    kind: Literal["head", "knee"] = ("head", "knee")[index % 2] if anatomy == "mixed" else anatomy
    name = f"{kind}_{index:03d}"
    subject = random_anatomy(kind, derive_seed(common.seed, name))
    size = common.size
    settings = replace(common, source=f"{kind} {subject.contrast}")
    if vary_size:
        draws = generator(common.seed, name, "size")
        shrink = (1 - 0.15 * torch.rand(2, generator=draws)).tolist()
        size = (max(_SMALLEST, round(size[0] * shrink[0])), max(_SMALLEST, round(size[1] * shrink[1])))
        settings = replace(settings, size=size, coils=_varied_coils(common.coils, draws))
    positions = tuple(0.05 + 0.9 * (i + 0.5) / common.slices for i in range(common.slices))
    return name, settings, _AnatomySubject(subject, size, positions)


def _plan_images(
    common: _VolumeSettings,
    stack: ImageStack,
    volumes: int | None,
    size: tuple[int, int] | None,
    vary_size: bool,
) -> list[_Plan]:
    size = size or stack.shape[1:]
    if any(n > have for n, have in zip(size, stack.shape[1:], strict=True)) or min(size) < _SMALLEST:
        raise InputError(
            f"{stack.path}: images of {stack.shape[1:]} for size {size}; "
            f"expected at least {_SMALLEST} and no more than the images have"
        )
    full = [index for index, image in enumerate(stack) if image.any()]
    groups = [tuple(full[start : start + common.slices]) for start in range(0, len(full), common.slices)]
    if not groups or (volumes or 0) > len(groups):
        raise InputError(
            f"{stack.path}: {len(full)} images that are not blank fill {len(groups)} volumes "
            f"of {common.slices}; expected enough for {volumes or 1}"
        )
    plan: list[_Plan] = []
    for number, indices in enumerate(groups[:volumes]):
        name = f"{stack.path.stem}_{number:03d}"
        coils = common.coils
        if vary_size:
            coils = _varied_coils(coils, generator(common.seed, name, "size"))
        source = f"images {stack.path.name} {stack.key} {list(stack.shape)} {stack.path.stat().st_size} bytes"
        settings = replace(common, source=source, slices=len(indices), size=size, coils=coils)
        plan.append((name, settings, _ImageSubject(stack, indices, size, derive_seed(common.seed, name))))
    return plan


def _varied_coils(coils: int, draws: torch.Generator) -> int:
    return max(1, coils - 1 + int(torch.randint(3, (), generator=draws)))


def _is_made(path: Path, settings: _VolumeSettings, overwrite: bool) -> bool:
    """Whether the file is there, complete and made with these settings; InputError for any other file."""
    if not path.exists():
        return False
    try:
        found = str(read_scan_info(path).attributes.get("simulation", "not simulated"))
    except InputError:
        found = "not a readable scan"
    if found == json.dumps(asdict(settings)):
        return True
    if not overwrite:
        raise InputError(
            f"{path}: exists, made with other settings ({found}); expected {json.dumps(asdict(settings))}: "
            "choose another folder or overwrite"
        )
    return False


def _write_volume(path: Path, name: str, settings: _VolumeSettings, subject: _Subject, bar: tqdm) -> None:
    seed = derive_seed(settings.seed, name)
    array = random_coils(settings.coils, seed, subject.half_size)
    scale, deviation = _levels(subject, settings.slices // 2, settings.noise, seed)
    rows, columns = settings.size
    encoded = (rows * settings.readout_oversampling, columns)
    attributes: dict[str, str | float | int] = {
        "acquisition": f"simulated {settings.source}",
        "patient_id": name,
        "simulated": 1,
        "seed": settings.seed,
        "simulation": json.dumps(asdict(settings)),
    }
    with ScanWriter.create(
        path,
        (settings.slices, settings.coils, *encoded),
        header=ismrmrd_header(encoded, settings.size),
        attributes=attributes,
    ) as out:
        for index in range(settings.slices):
            position = (index + 0.5) / settings.slices
            kspace = scale * _slice_kspace(
                subject, index, array, settings.size, settings.readout_oversampling, position
            )
            out.write(kspace + _noise(kspace, deviation, generator(seed, "noise", index)))
            bar.update()


def _levels(subject: _Subject, index: int, noise: float, seed: int) -> tuple[float, float]:
    """What brings the subject to a scanner's units, and the noise's standard deviation in them."""
    magnitude = np.abs(subject.fine(index)[0])
    # An object that covers less than a twentieth of the image has a 95th percentile of nearly zero.
    bright = float(max(np.percentile(magnitude, 95), 0.05 * magnitude.max()))
    signal = _SIGNAL * 4 ** (float(torch.rand((), generator=generator(seed, "scale"))) - 0.5)
    return signal / bright, noise * signal


def _slice_kspace(
    subject: _Subject,
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


def _noise(like: Tensor, deviation: float, draws: torch.Generator) -> Tensor:
    """White complex Gaussian noise, E|n|^2 = deviation^2 in k-space and, F being unitary, in the image."""
    return deviation * torch.randn(like.shape, dtype=like.dtype, generator=draws)
