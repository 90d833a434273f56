"""Simulated data sets off the grid: the subjects of `simulation`, scanned along a trajectory into ISMRMRD files.

    k_c = NUFFT(S_c x) + n_c

on a grid finer than the reconstruction's, so that k-space is that of a continuous object, as in `kspace_simulation`.
"""

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import h5py
import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from convexrecon.data.coils import CoilArray, random_coils
from convexrecon.data.ismrmrd_writing import write_samples
from convexrecon.data.kspace_simulation import (
    AnatomySubject,
    ImageSubject,
    SimulatedAnatomy,
    Subject,
    check_arguments,
    coil_noise,
    levels,
)
from convexrecon.data.simulation import DEFAULT_SIZE, DEFAULT_SLICES, VolumeSettings, is_made, planned
from convexrecon.errors import InputError
from convexrecon.physics.fourier import centred_fft, centred_ifft
from convexrecon.physics.nufft import Nufft, uncentre_samples
from convexrecon.physics.trajectories import cones, kooshball, radial, spiral, stack_of_stars
from convexrecon.seeding import derive_seed, generator

TrajectoryKind = Literal["radial", "spiral", "kooshball", "stack_of_stars", "cones"]
PLANAR: tuple[TrajectoryKind, ...] = ("radial", "spiral")
# The ISMRMRD header's words for them; it knows no others.
_WORDS: dict[TrajectoryKind, str] = {"radial": "goldenangle", "spiral": "spiral"}
_CONE_TURNS = 2.0
# Arms are closer in the centre, so that a third of them still sample it densely enough for coil sensitivities.
_SPIRAL_DENSITY = 2.0
# Finer than the reconstruction across slices; in the plane as the subject says.
_SLICES_FINER = 2
_ACCURACY = 1e-6


@dataclass(frozen=True)
class TrajectorySettings(VolumeSettings):
    """What determines a file; `shots` as `simulate_trajectories` has them."""

    trajectory: TrajectoryKind = "radial"
    shots: int = 1


def simulate_trajectories(
    out: str | os.PathLike[str],
    trajectory: TrajectoryKind,
    *,
    shots: int | None = None,
    volumes: int | None = None,
    slices: int | None = None,
    size: tuple[int, int] | None = None,
    coils: int = 8,
    anatomy: SimulatedAnatomy = "mixed",
    noise: float = 0.01,
    seed: int = 0,
    images: str | os.PathLike[str] | None = None,
    images_key: str | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> list[Path]:
    """Simulate multi-coil scans along a trajectory: ISMRMRD files ``out/head_000.h5`` and so on.

    Along "radial" (golden angle) and "spiral" (interleaves at equal angles, denser in the centre) every slice is
    scanned by itself; along "kooshball", "stack_of_stars" (golden angle, all partitions of an angle one after the
    other) and "cones" the slices are one object. Readouts through the centre are oversampled twice. Coordinates are in
    cycles per field of view.

    Args:
        out: the folder; made if missing.
        trajectory: how k-space is sampled.
        shots: readouts of a slice, of a partition of a stack of stars, or of a volume; None for as many as sample
            k-space fully. Of interleaved spirals, which always do, None is a quarter of the pixels of an axis.
        volumes, slices, size, coils, anatomy, noise, seed, images, images_key, overwrite, progress: as of
            `simulation.simulate_dataset`, of layout "slices" or "volume". Noise is that of an image from as many
            Cartesian samples.

    Returns:
        The files' paths, in order.

    Raises:
        InputError: an argument out of range, unreadable images, an existing file made with other settings, or files
            that cannot be written.
    """
    if trajectory not in get_args(TrajectoryKind):
        raise InputError(f"trajectory: {trajectory!r}; expected one of {', '.join(get_args(TrajectoryKind))}")
    layout: Literal["slices", "volume"] = "slices" if trajectory in PLANAR else "volume"
    count_of_slices = DEFAULT_SLICES[layout] if slices is None else slices
    check_arguments(volumes, count_of_slices, size, coils, anatomy, noise, 1)
    if shots is not None and shots < 1:
        raise InputError(f"shots: {shots}; expected at least 1")
    common = TrajectorySettings(
        "", count_of_slices, size or DEFAULT_SIZE, coils, noise, seed, 1, layout, trajectory, shots or 0
    )
    plan = []
    for name, settings, subject in planned(common, volumes, slices, size, anatomy, False, images, images_key):
        assert isinstance(settings, TrajectorySettings)
        enough = settings.shots or full_shots(trajectory, (settings.slices, *settings.size))
        plan.append((name, replace(settings, shots=enough), subject))
    folder = Path(out)
    todo = [not is_made(folder / f"{name}.h5", settings, overwrite, _made_with) for name, settings, _ in plan]
    with tqdm(total=sum(todo), desc="simulate", unit="scan", disable=not (progress and any(todo))) as bar:
        for (name, settings, subject), needed in zip(plan, todo, strict=True):
            if needed:
                _write_scan(folder / f"{name}.h5", name, settings, subject)
                bar.update()
    return [folder / f"{name}.h5" for name, _, _ in plan]


def full_shots(trajectory: TrajectoryKind, shape: tuple[int, int, int]) -> int:
    """As many shots as sample k-space of (z, y, x) pixels fully, see `physics.trajectories`; z counts in 3-D alone."""
    plane, longest = max(shape[1:]), max(shape)
    return {
        "radial": math.ceil(math.pi / 2 * plane),
        "spiral": math.ceil(plane / 4),
        "stack_of_stars": math.ceil(math.pi / 2 * plane),
        "kooshball": math.ceil(math.pi / 2 * longest**2),
        "cones": math.ceil(math.pi * longest**2 / math.hypot(1, math.pi * _CONE_TURNS)),
    }[trajectory]


def shots_along(trajectory: TrajectoryKind, shape: tuple[int, int, int], shots: int) -> Tensor:
    """(shots, S, d) float32, cycles per field of view of (z, y, x) pixels, in the order they are measured."""
    plane = shape[1:]
    if trajectory == "stack_of_stars":
        stars = stack_of_stars(shape, shots)
        return stars.unflatten(0, (shape[0], shots)).transpose(0, 1).flatten(0, 1).contiguous()
    makers: dict[str, Callable[[], Tensor]] = {
        "radial": lambda: radial(plane, shots),
        "spiral": lambda: spiral(plane, shots, density=_SPIRAL_DENSITY),
        "kooshball": lambda: kooshball(shape, shots),
        "cones": lambda: cones(shape, shots, turns=_CONE_TURNS),
    }
    return makers[trajectory]()


def _write_scan(path: Path, name: str, settings: TrajectorySettings, subject: Subject) -> None:
    seed = derive_seed(settings.seed, name)
    array = random_coils(settings.coils, seed, subject.half_size, settings.depth)
    scale, deviation = levels(subject, settings.slices // 2, settings.noise, seed)
    shape = (settings.slices, *settings.size)
    coordinates = shots_along(settings.trajectory, shape, settings.shots)
    flat = coordinates.flatten(0, 1)
    scan = _slices if settings.trajectory in PLANAR else _volume
    found = []
    for index, samples in enumerate(scan(subject, array, settings, flat)):
        noisy = scale * samples + coil_noise(samples, deviation, generator(seed, "noise", index))
        found.append(noisy.unflatten(-1, coordinates.shape[:2]).numpy())
    write_samples(
        path,
        np.stack(found),
        coordinates.numpy(),
        (settings.size[0], settings.size[1], 1) if settings.trajectory in PLANAR else shape,
        trajectory=_WORDS.get(settings.trajectory, "other"),
        attributes={"simulated": 1, "seed": settings.seed, "simulation": str(settings), "patient_id": name},
    )


def _slices(subject: Subject, array: CoilArray, settings: VolumeSettings, coordinates: Tensor) -> Iterator[Tensor]:
    """Samples (C, samples) of every slice."""
    for index in range(settings.slices):
        fine, y, x = subject.fine(index)
        images = torch.from_numpy(array.sensitivities(y, x, settings.position(index)) * fine)
        yield _samples(images, coordinates, settings.size)


def _volume(subject: Subject, array: CoilArray, settings: VolumeSettings, coordinates: Tensor) -> Iterator[Tensor]:
    """Samples (C, samples) of all slices as one object."""
    fine, y, x = _fine_volume(subject, settings.slices)
    places = [(index + 0.5) / len(fine) for index in range(len(fine))]
    samples = []
    for coil in range(len(array)):
        images = np.stack([array.sensitivities(y, x, place)[coil] for place in places]) * fine
        samples.append(_samples(torch.from_numpy(images[None]), coordinates, (settings.slices, *settings.size)))
    yield torch.cat(samples)


def _fine_volume(subject: Subject, slices: int) -> tuple[np.ndarray[Any, Any], Any, Any]:
    """The object (z, y, x), finer along every axis: rendered, or of images interpolated by their k-space."""
    if isinstance(subject, AnatomySubject):
        places = [(index + 0.5) / (slices * _SLICES_FINER) for index in range(slices * _SLICES_FINER)]
        subject = replace(subject, positions=tuple(0.05 + 0.9 * place for place in places))
        parts = [subject.fine(index) for index in range(len(places))]
        return np.stack([part[0] for part in parts]), parts[0][1], parts[0][2]
    assert isinstance(subject, ImageSubject)
    parts = [subject.fine(index) for index in range(slices)]
    stack = torch.from_numpy(np.stack([part[0] for part in parts])).movedim(0, -1)
    wide = stack.new_zeros(*stack.shape[:-1], slices * _SLICES_FINER)
    first = wide.shape[-1] // 2 - slices // 2
    wide[..., first : first + slices] = centred_fft(stack, 1)
    fine = centred_ifft(wide, 1).movedim(-1, 0) * _SLICES_FINER**0.5
    return fine.numpy(), parts[0][1], parts[0][2]


def _samples(fine: Tensor, coordinates: Tensor, shape: tuple[int, ...]) -> Tensor:
    """(C, samples), the image origin in the middle, of fine images (C, *N); scaled as the k-space of `shape` pixels."""
    size = tuple(fine.shape[1:])
    gain = (math.prod(shape) / math.prod(size)) ** 0.5
    samples = Nufft(coordinates, size, _ACCURACY).forward(fine)
    # From the origin at index 0 to the middle: the conjugate of the phase that goes the other way.
    return gain * uncentre_samples(samples.conj(), coordinates, size).conj()


def _made_with(path: Path) -> str:
    with h5py.File(path, "r") as file:
        return str(file.attrs.get("simulation", "not simulated"))
