"""One sample of a file as a trained network sees it: a slice or all of a scan, or a sample of a prepared volume."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from convexrecon.cascade import image_axes
from convexrecon.data.dataset import Batch, PreparedSlices
from convexrecon.data.ismrmrd_acquisitions import encoding_of, open_acquisitions
from convexrecon.data.ismrmrd_samples import Units
from convexrecon.data.ismrmrd_scan import voxel_of
from convexrecon.data.preparation import is_prepared, layout_of
from convexrecon.data.prepared_files import Layout
from convexrecon.data.scans import one_scan, open_scan
from convexrecon.data.shot_preparation import has_trajectory
from convexrecon.errors import InputError
from convexrecon.reconstruct_shots import shot_sample
from convexrecon.reconstruct_slices import slice_sampling, undersampled_slice
from convexrecon.reconstruct_whole import whole_sample
from convexrecon.training.config import RunSettings
from convexrecon.training.run_folder import RunFolder
from convexrecon.weights import load_cascade


def sample_of_file(
    run: Path | str,
    file: Path | str,
    index: int,
    *,
    layout: Layout | None = None,
    units: Units | None = None,
    select: Mapping[str, int] | None = None,
    device: torch.device | str = "cpu",
) -> tuple[Batch, Tensor | None]:
    """What a run's network reconstructs one slice from or, if it has three axes, the whole volume or series.

    A scan is undersampled, and its coil sensitivities estimated, as `reconstruct_file` does; a prepared volume as
    `evaluate` does.

    Args:
        run: run folder.
        file: scan of any format of `data.scans`, an ISMRMRD one along trajectories, or a prepared volume of either.
        index: of the slice; of a volume or a series, any that it has.
        layout: what a Cartesian scan's slices are, as of `reconstruct_file`.
        units: of a trajectory that does not tell.
        select: of an ISMRMRD scan, which value of counters to take, as of `reconstruct_file`.
        device: where to compute.

    Returns:
        The batch of one sample and, of what was fully sampled, its target (*N), else None.

    Raises:
        InputError: a file that cannot be read or is of other axes than the network; no such slice.
    """
    folder, place = RunFolder(Path(run)), torch.device(device)
    settings, axes = folder.settings(), image_axes(load_cascade(folder.weights)[0])
    if is_prepared(file):
        return _of_prepared(Path(file), index, settings, axes, place)
    path = one_scan(file)
    if has_trajectory(path):
        found = shot_sample(
            axes, path, settings, index, units=units, field_of_view=folder.field_of_view, select=select, device=place
        )
        return _with_target(*found)
    info = open_scan(path, select=select)
    _check_slice(path, index, info.shape[0])
    known = layout_of(info, layout)
    if axes == 3 and known == "slices":
        raise InputError(
            f"{path}: the network of {folder.path} is of volumes or series, the file says nothing of its slices; "
            "expected layout 'volume' or 'cine'"
        )
    with info.samples() as read:
        if axes == 3:
            batch, reference, _ = whole_sample(info, read, known, settings, place)
        else:
            sampling = slice_sampling(info, read, known, settings)
            batch, reference = undersampled_slice(info, read, index, sampling, place)
    return _with_target(batch, reference)


def pixel_size(
    file: Path | str, *, volumetric: bool = False, select: Mapping[str, int] | None = None
) -> tuple[float, float] | None:
    """Size of a pixel of a scan's images along y and x, mm; None where the file does not say, as prepared ones do not.

    Args:
        file: scan or prepared volume.
        volumetric: whether the images of a scan along trajectories are a volume.
        select: which value of the counters of a scan to take.

    Raises:
        InputError: a scan that cannot be read.
    """
    if is_prepared(file):
        return None
    path = one_scan(file)
    if has_trajectory(path):
        with open_acquisitions(path, select=select) as raw:
            voxel = voxel_of(encoding_of(raw), volumetric=volumetric)
    else:
        voxel = open_scan(path, select=select).voxel_mm
    return None if voxel is None else (voxel[1], voxel[2])


def _with_target(batch: Batch, reference: Tensor | None) -> tuple[Batch, Tensor | None]:
    if reference is None:
        return batch, None
    scaled = reference.to(batch.scale.device) / batch.scale[0]
    return replace(batch, target=scaled.unsqueeze(0)), scaled


def _of_prepared(
    path: Path, index: int, settings: RunSettings, axes: int, device: torch.device
) -> tuple[Batch, Tensor]:
    slices = PreparedSlices(path.parent, settings.mask, seed=settings.seed, volumes=[path.stem])
    if slices.dimensions != axes:
        raise InputError(f"{path}: holds samples of {slices.dimensions} axes; expected {axes}, those of the network")
    if axes == 2:
        _check_slice(path, index, len(slices))
        batch = slices.load(index).to(device)
    else:
        batch = slices.load(0).to(device)
        _check_slice(path, index, batch.recon_size[0] if len(batch.recon_size) == 3 else batch.target.shape[1])
    return batch, batch.target[0]


def _check_slice(path: Path, index: int, count: int) -> None:
    if not 0 <= index < count:
        raise InputError(f"{path}: no slice {index}; expected 0 to {count - 1}")
