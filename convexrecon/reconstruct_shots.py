"""A scan along a trajectory reconstructed by a trained network."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from convexrecon.cascade import Cascade
from convexrecon.data.field_of_view import border_share, warn_of_border
from convexrecon.data.ismrmrd_samples import Units
from convexrecon.data.prepared_shots import undersample_shots
from convexrecon.data.sample_batch import Batch
from convexrecon.data.shared_trajectories import Trajectory
from convexrecon.data.shot_preparation import ShotScan, all_shots_image, read_shots, shot_maps
from convexrecon.data.slice_preparation import PreparationSettings
from convexrecon.errors import InputError
from convexrecon.evaluate.metrics import SliceScore, score_volume, score_whole
from convexrecon.physics.fourier import crop_centre
from convexrecon.physics.shot_sampling import kept_shots
from convexrecon.seeding import derive_seed
from convexrecon.training.config import RunSettings

# A trajectory that covers this share of k-space is taken for fully sampled.
FULL_SHARE = 0.9


@dataclass(frozen=True, eq=False)
class ShotImages:
    """A reconstruction; slices, or the z of a volume, first.

    Attributes:
        images: (slices, y, x) complex64, in the scanner's units, of the recon size.
        references: of a scan undersampled here, the same from all shots; else None.
        coordinates: (shots, S, d) float32, cycles per field of view (the larger one, where room was made), of the first
            slice, that were used.
        kept: the numbers of those shots.
        acceleration: shots of the scan over shots used; of a scan taken as acquired, cells of k-space over cells with
            a sample.
        seconds: of the network alone.
        scores: against the references; empty without.
    """

    images: NDArray[np.complex64]
    references: NDArray[np.complex64] | None
    coordinates: NDArray[np.float32]
    kept: NDArray[np.int64]
    acceleration: float
    seconds: float
    scores: list[SliceScore]


def reconstruct_shots(
    cascade: Cascade,
    axes: int,
    path: Path,
    settings: RunSettings,
    *,
    undersample: bool | None,
    units: Units | None,
    field_of_view: float,
    select: Mapping[str, int] | None = None,
    device: torch.device,
) -> ShotImages:
    """Reconstruct all slices, or the volume, of an ISMRMRD file with trajectories.

    Args:
        cascade: on the device.
        axes: of its images.
        path: the file.
        settings: of the run, by which shots are kept where a scan is undersampled here.
        undersample: whether it is; None for where the trajectory covers at least 0.9 of k-space.
        units: of the file's coordinates; None where they can be told.
        field_of_view: of the images while they are computed, in fields of view of the scan.
        select: which value of the file's counters to take.
        device: where to compute.

    Raises:
        InputError: a scan that cannot be read, a network of another number of axes, or a centre of k-space that is not
            sampled densely enough to estimate coil sensitivities.
    """
    scan = _scan_of(path, axes, units, field_of_view, select)
    first = scan.trajectory(0)
    share = scan.share
    retrospective = share >= FULL_SHARE if undersample is None else undersample
    kept = _kept(scan, path, settings, retrospective=retrospective)
    images, references, spent, border = [], [], 0.0, 0.0
    for index in range(len(scan.samples)):
        samples = scan.samples[index].to(device)
        where = f"{path}: slice {index}"
        batch = _sample(samples, scan.trajectory(index), kept, field_of_view, where, index)
        image, seconds = _image(cascade, batch)
        spent += seconds
        images.append(crop_centre(image, scan.recon_size).cpu().numpy())
        if retrospective:
            reference = all_shots_image(samples, scan.trajectory(index), batch.sense.maps[0])
            border = max(border, border_share(reference, scan.open_axes))
            references.append(crop_centre(reference, scan.recon_size).cpu().numpy())
    warn_of_border(border, field_of_view, str(path))
    found = images[0] if axes == 3 else np.stack(images)
    truth = None if not references else references[0] if axes == 3 else np.stack(references)
    shots = len(first.coordinates)
    return ShotImages(
        found,
        truth,
        first.coordinates[kept].numpy(),
        kept.numpy(),
        shots / len(kept) if retrospective else max(1 / share, 1.0),
        spent,
        _scores(path.stem, found, truth, spent, whole=axes == 3),
    )


def shot_sample(
    axes: int,
    path: Path,
    settings: RunSettings,
    index: int,
    *,
    units: Units | None = None,
    field_of_view: float = 1.0,
    select: Mapping[str, int] | None = None,
    device: torch.device,
) -> tuple[Batch, Tensor | None]:
    """One slice, or the volume, as `reconstruct_shots` gives it to a network of so many axes.

    Args:
        index: of the slice; of a volume, any plane of the scanner's image.

    Returns:
        The batch of one sample and, of what was undersampled here, the image of all shots (*N); else None.

    Raises:
        InputError: as `reconstruct_shots`; no such slice.
    """
    scan = _scan_of(path, axes, units, field_of_view, select)
    count = scan.recon_size[0] if axes == 3 else len(scan.samples)
    if not 0 <= index < count:
        raise InputError(f"{path}: no slice {index}; expected 0 to {count - 1}")
    place = 0 if axes == 3 else index
    retrospective = scan.share >= FULL_SHARE
    kept = _kept(scan, path, settings, retrospective=retrospective)
    samples, trajectory = scan.samples[place].to(device), scan.trajectory(place)
    batch = _sample(samples, trajectory, kept, field_of_view, f"{path}: slice {place}", place)
    batch = replace(batch, recon_size=scan.recon_size, volume=(path.stem,))
    return batch, all_shots_image(samples, trajectory, batch.sense.maps[0]) if retrospective else None


def _scan_of(
    path: Path, axes: int, units: Units | None, field_of_view: float, select: Mapping[str, int] | None
) -> ShotScan:
    scan = read_shots(path, units, field_of_view, select)
    if len(scan.shape) != axes:
        raise InputError(
            f"{path}: k-space in {len(scan.shape)}-D, the network is of {axes}-D images; expected the same"
        )
    return scan


def _kept(scan: ShotScan, path: Path, settings: RunSettings, *, retrospective: bool) -> Tensor:
    """The shots that every slice is reconstructed from, (n,) int64: as in training, or all."""
    coordinates = scan.trajectory(0).coordinates
    if not retrospective:
        return torch.arange(len(coordinates))
    rng = torch.Generator().manual_seed(derive_seed(settings.seed, "mask", path.stem))
    try:
        return kept_shots(coordinates, settings.mask, rng)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _sample(
    samples: Tensor, trajectory: Trajectory, kept: Tensor, field_of_view: float, where: str, index: int
) -> Batch:
    """A slice of which some shots are kept, of (C, shots, S), and the sensitivity maps that these give."""
    settings = PreparationSettings(field_of_view=field_of_view)
    try:
        maps = shot_maps(samples[:, kept.to(samples.device)], trajectory.kept(kept), settings)
        return undersample_shots(samples, trajectory, maps, kept, volume=where, slice_index=index)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _image(cascade: Cascade, batch: Batch) -> tuple[Tensor, float]:
    """Image (*N) of a sample, in the scanner's units, and seconds of the network."""
    started = time.perf_counter()
    with torch.no_grad():
        image = cascade(batch.sense, batch.kspace)[0] * batch.scale[0]
    if image.device.type == "cuda":
        torch.cuda.synchronize(image.device)
    return image, time.perf_counter() - started


def _scores(
    volume: str, images: NDArray[np.complex64], references: NDArray[np.complex64] | None, seconds: float, *, whole: bool
) -> list[SliceScore]:
    if references is None:
        return []
    if whole:
        return [score_whole("reconstruction", volume, images, references, seconds)]
    return score_volume("reconstruction", volume, images, references, list(range(len(images))), 0.0)
