"""Simulated data sets: volumes of anatomies or images, scanned into k-space files in the fastMRI layout.

What a volume's slices are is in `kspace_simulation`; here are the files, their names and settings.
"""

import json
import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from tqdm.auto import tqdm

from convexrecon.data.anatomy import AnatomyKind, random_anatomy
from convexrecon.data.coils import SLICES_DEPTH, VOLUME_DEPTH, random_coils
from convexrecon.data.fastmri import read_scan_info
from convexrecon.data.fastmri_writing import ScanWriter, ismrmrd_header
from convexrecon.data.image_stacks import ImageStack, load_image_stack
from convexrecon.data.kspace_simulation import (
    SMALLEST,
    AnatomySubject,
    ImageSubject,
    SimulatedAnatomy,
    Subject,
    check_arguments,
    coil_noise,
    levels,
    slice_kspace,
)
from convexrecon.data.prepared_files import Layout
from convexrecon.errors import InputError
from convexrecon.seeding import derive_seed, generator

DEFAULT_SIZE = (160, 144)
_DEFAULT_VOLUMES = 8
DEFAULT_SLICES: dict[Layout, int] = {"slices": 4, "volume": 32, "cine": 12}


@dataclass(frozen=True)
class VolumeSettings:
    """What determines a volume's file, with its name; written into it to tell whether to keep it."""

    source: str
    slices: int
    size: tuple[int, int]
    coils: int
    noise: float
    seed: int
    readout_oversampling: int
    layout: Layout = "slices"

    def __str__(self) -> str:
        """As the file's attribute has it: what plain slices were made with reads as it always did."""
        table = asdict(self)
        if self.layout == "slices":
            del table["layout"]
        return json.dumps(table)

    def position(self, index: int) -> float:
        """Where the coils see slice `index`, in [0, 1]; they stay where they are while a heart beats."""
        return 0.5 if self.layout == "cine" else (index + 0.5) / self.slices

    @property
    def depth(self) -> float:
        """See `coils.random_coils`."""
        return VOLUME_DEPTH if self.layout == "volume" else SLICES_DEPTH


def simulate_dataset(
    out: str | os.PathLike[str],
    *,
    volumes: int | None = None,
    slices: int | None = None,
    size: tuple[int, int] | None = None,
    coils: int = 8,
    layout: Layout = "slices",
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
        slices: per volume; 4 by default, 32 of a volume, 12 frames of a series. With `images` and another layout
            than "slices" as many as an image volume or series has.
        size: (y, x) of the images; (160, 144) by default, with `images` that of the images (a smaller one
            lowers their resolution at the same field of view).
        coils: receive channels per volume.
        layout: "slices"; "volume", whose slices are one object and whose k-space is that of a three-dimensional scan
            transformed along its readout, the slice axis; or "cine", the frames of a beating slice. Written into
            the files as their attribute `layout`.
        anatomy: "head", "knee", "mixed" (of both, alternating) or "phantom"; without effect with `images`.
        noise: standard deviation of the complex noise in each coil's image, as a fraction of the
            95th-percentile magnitude of the volume's middle slice.
        seed: of everything random.
        readout_oversampling: how many times the field of view is longer along y, as scanners acquire it.
        vary_size: let sizes (up to 15 % smaller, anatomies only) and coil counts (one fewer to one more)
            differ from volume to volume.
        images: a file of the user's own images (see `load_image_stack`); every `slices` consecutive ones form
            a volume, blank ones are passed over; of another layout than "slices" every (z, y, x) or (t, y, x) of a
            (..., z, y, x) array does. Complex images keep their phase, magnitudes get one.
        images_key: which array of that file.
        overwrite: replace existing files that were made with other settings.
        progress: show a progress bar.

    Returns:
        The files' paths, in order.

    Raises:
        InputError: an argument out of range, unreadable images, an existing file made with other settings, or
            files that cannot be written.
    """
    count_of_slices = DEFAULT_SLICES[layout] if slices is None else slices
    check_arguments(volumes, count_of_slices, size, coils, anatomy, noise, readout_oversampling)
    # A volume's y is a phase encode: nothing is oversampled but its readout, which is in image space.
    oversampling = 1 if layout == "volume" else readout_oversampling
    common = VolumeSettings("", count_of_slices, size or DEFAULT_SIZE, coils, noise, seed, oversampling, layout)
    plan = planned(common, volumes, slices, size, anatomy, vary_size, images, images_key)
    folder = Path(out)
    todo = [not is_made(folder / f"{name}.h5", settings, overwrite, _made_with) for name, settings, _ in plan]
    total = sum(settings.slices for (_, settings, _), needed in zip(plan, todo, strict=True) if needed)
    with tqdm(total=total, desc="simulate", unit="slice", disable=not (progress and total)) as bar:
        for (name, settings, subject), needed in zip(plan, todo, strict=True):
            if needed:
                _write_volume(folder / f"{name}.h5", name, settings, subject, bar)
    return [folder / f"{name}.h5" for name, _, _ in plan]


Plan = tuple[str, VolumeSettings, Subject]


def planned(
    common: VolumeSettings,
    volumes: int | None,
    slices: int | None,
    size: tuple[int, int] | None,
    anatomy: SimulatedAnatomy,
    vary_size: bool,
    images: str | os.PathLike[str] | None,
    images_key: str | None,
) -> list[Plan]:
    """Name, settings and subject of every file; arguments as of `simulate_dataset`."""
    if images is None:
        count = _DEFAULT_VOLUMES if volumes is None else volumes
        return [_plan_anatomy(common, anatomy, index, vary_size) for index in range(count)]
    stack = load_image_stack(images, images_key)
    return _plan_images(common, stack, _groups(stack, common, slices), volumes, size, vary_size)


def _plan_anatomy(common: VolumeSettings, anatomy: SimulatedAnatomy, index: int, vary_size: bool) -> Plan:
    kind: AnatomyKind = ("head", "knee")[index % 2] if anatomy == "mixed" else anatomy
    name = f"{kind}_{index:03d}"
    subject = random_anatomy(kind, derive_seed(common.seed, name))
    size = common.size
    settings = replace(common, source=f"{kind} {subject.contrast}")
    if vary_size:
        draws = generator(common.seed, name, "size")
        shrink = (1 - 0.15 * torch.rand(2, generator=draws)).tolist()
        size = (max(SMALLEST, round(size[0] * shrink[0])), max(SMALLEST, round(size[1] * shrink[1])))
        settings = replace(settings, size=size, coils=_varied_coils(common.coils, draws))
    places = [(index + 0.5) / common.slices for index in range(common.slices)]
    positions = tuple(0.05 + 0.9 * place for place in places)
    if common.layout == "cine":
        # Through and back once a beat, as a heart moves through a slice that stays.
        positions = tuple(0.4 + 0.08 * math.sin(2 * math.pi * place) for place in places)
    return name, settings, AnatomySubject(subject, size, positions)


def _plan_images(
    common: VolumeSettings,
    stack: ImageStack,
    groups: list[tuple[int, ...]],
    volumes: int | None,
    size: tuple[int, int] | None,
    vary_size: bool,
) -> list[Plan]:
    size = size or stack.shape[1:]
    if any(n > have for n, have in zip(size, stack.shape[1:], strict=True)) or min(size) < SMALLEST:
        raise InputError(
            f"{stack.path}: images of {stack.shape[1:]} for size {size}; "
            f"expected at least {SMALLEST} and no more than the images have"
        )
    if not groups or (volumes or 0) > len(groups):
        full = sum(len(group) for group in groups)
        raise InputError(
            f"{stack.path}: {full} images that are not blank fill {len(groups)} volumes "
            f"of {common.slices}; expected enough for {volumes or 1}"
        )
    plan: list[Plan] = []
    for number, indices in enumerate(groups[:volumes]):
        name = f"{stack.path.stem}_{number:03d}"
        coils = common.coils
        if vary_size:
            coils = _varied_coils(coils, generator(common.seed, name, "size"))
        source = f"images {stack.path.name} {stack.key} {list(stack.shape)} {stack.path.stat().st_size} bytes"
        settings = replace(common, source=source, slices=len(indices), size=size, coils=coils)
        subject = ImageSubject(stack, indices, size, derive_seed(common.seed, name), common.layout != "cine")
        plan.append((name, settings, subject))
    return plan


def _groups(stack: ImageStack, common: VolumeSettings, slices: int | None) -> list[tuple[int, ...]]:
    """Which images are a volume: so many in a row that are not blank, or all of a volume or series of the file."""
    if common.layout == "slices":
        full = [index for index, image in enumerate(stack) if image.any()]
        return [tuple(full[start : start + common.slices]) for start in range(0, len(full), common.slices)]
    if stack.frames is None:
        axis = "z" if common.layout == "volume" else "t"
        raise InputError(
            f"{stack.path}: images of {stack.shape[1:]} for layout {common.layout!r}; expected an array "
            f"({axis}, y, x) or (..., {axis}, y, x)"
        )
    if slices not in (None, stack.frames):
        raise InputError(
            f"{stack.path}: slices = {slices} for layout {common.layout!r} of {stack.frames}; expected {stack.frames}, "
            "or none given"
        )
    groups = [tuple(range(start, start + stack.frames)) for start in range(0, len(stack), stack.frames)]
    return [group for group in groups if any(stack[index].any() for index in group)]


def _varied_coils(coils: int, draws: torch.Generator) -> int:
    return max(1, coils - 1 + int(torch.randint(3, (), generator=draws)))


def is_made(path: Path, settings: VolumeSettings, overwrite: bool, made_with: Callable[[Path], str]) -> bool:
    """Whether the file is there, complete and made with these settings; InputError for any other file.

    Args:
        path: the file.
        settings: wanted.
        overwrite: whether another file may be replaced.
        made_with: the settings that a file says it was made with.
    """
    if not path.exists():
        return False
    try:
        found = made_with(path)
    except (InputError, OSError):
        found = "not a readable scan"
    if found == str(settings):
        return True
    if not overwrite:
        raise InputError(
            f"{path}: exists, made with other settings ({found}); expected {settings!s}: "
            "choose another folder or overwrite"
        )
    return False


def _made_with(path: Path) -> str:
    return str(read_scan_info(path).attributes.get("simulation", "not simulated"))


def _write_volume(path: Path, name: str, settings: VolumeSettings, subject: Subject, bar: tqdm) -> None:
    seed = derive_seed(settings.seed, name)
    array = random_coils(settings.coils, seed, subject.half_size, settings.depth)
    scale, deviation = levels(subject, settings.slices // 2, settings.noise, seed)
    rows, columns = settings.size
    encoded = (rows * settings.readout_oversampling, columns)
    attributes: dict[str, str | float | int] = {
        "acquisition": f"simulated {settings.source}",
        "patient_id": name,
        "simulated": 1,
        "seed": settings.seed,
        "simulation": str(settings),
    }
    if settings.layout != "slices":
        attributes["layout"] = settings.layout
    with ScanWriter.create(
        path,
        (settings.slices, settings.coils, *encoded),
        header=ismrmrd_header(encoded, settings.size),
        attributes=attributes,
    ) as out:
        for index in range(settings.slices):
            position = settings.position(index)
            kspace = scale * slice_kspace(subject, index, array, settings.size, settings.readout_oversampling, position)
            out.write(kspace + coil_noise(kspace, deviation, generator(seed, "noise", index)))
            bar.update()
