"""One sample of a file as a trained network sees it: a slice of a scan, or a sample of a prepared volume."""

from pathlib import Path

import h5py
import torch
from torch import Tensor

from convexrecon.cascade import image_axes
from convexrecon.data.dataset import Batch, PreparedSlices, undersample
from convexrecon.data.fastmri import read_kspace, read_scan_info
from convexrecon.data.preparation import PreparationSettings, crop_oversampling, prepare_slice
from convexrecon.data.prepared_files import PREPARED_FORMAT
from convexrecon.data.slice_preparation import combined
from convexrecon.errors import InputError
from convexrecon.physics.masks import calibration_extent, is_fully_sampled, sampling_mask
from convexrecon.seeding import derive_seed
from convexrecon.training.config import RunSettings
from convexrecon.training.run_folder import RunFolder
from convexrecon.weights import load_cascade

# A larger calibration region says nothing more of smooth sensitivities and costs time.
LARGEST_CALIBRATION = 24


def sample_of_file(
    run: Path | str, file: Path | str, index: int, *, device: torch.device | str = "cpu"
) -> tuple[Batch, Tensor | None]:
    """What a run's network reconstructs one slice from or, if it has three axes, the whole volume or series.

    A scan is undersampled, and its coil sensitivities estimated, as `reconstruct_file` does; a prepared volume as
    `evaluate` does.

    Args:
        run: run folder.
        file: fastMRI-style scan, or a prepared volume: of a network of three axes always the latter.
        index: of the slice; of a volume or a series, any that it has.
        device: where to compute.

    Returns:
        The batch of one sample and, of what was fully sampled, its target (*N) by itself.

    Raises:
        InputError: a file that cannot be read or is of other axes than the network; no such slice.
    """
    folder, path, place = RunFolder(Path(run)), Path(file), torch.device(device)
    settings, axes = folder.settings(), image_axes(load_cascade(folder.weights)[0])
    if _is_prepared(path):
        return _of_prepared(path, index, settings, axes, place)
    if axes != 2:
        raise InputError(f"{path}: the network of {folder.path} has {axes} axes; expected a prepared volume or series")
    return _of_scan(path, index, settings, place)


def _is_prepared(path: Path) -> bool:
    try:
        with h5py.File(path, "r") as file:
            return bool(file.attrs.get("format") == PREPARED_FORMAT)
    except OSError:
        return False  # whoever reads it as a scan says what is wrong with it


def _of_prepared(
    path: Path, index: int, settings: RunSettings, axes: int, device: torch.device
) -> tuple[Batch, Tensor]:
    slices = PreparedSlices(path.parent, settings.mask, seed=settings.seed, volumes=[path.stem])
    if slices.dimensions != axes:
        raise InputError(f"{path}: holds samples of {slices.dimensions} axes; expected {axes}, those of the network")
    count = slices.slices[0].frames or slices.slices[0].shape[1] if axes == 3 else len(slices)
    _check_slice(path, index, count)
    batch = slices.load(0 if axes == 3 else index).to(device)
    return batch, batch.target[0]


def _of_scan(path: Path, index: int, settings: RunSettings, device: torch.device) -> tuple[Batch, Tensor | None]:
    info = read_scan_info(path)
    _check_slice(path, index, info.shape[0])
    sampled = _sampled(path, info.shape, None if info.mask is None else torch.from_numpy(info.mask))
    crops = bool((sampled == sampled[:1]).all())
    rows = min(info.recon_size[0], info.shape[2]) if crops else info.shape[2]
    mask = sampled.float() if rows == sampled.shape[0] else sampled[:1].expand(rows, -1).float()
    retrospective = is_fully_sampled(sampled)
    kspace = torch.from_numpy(read_kspace(path, index))
    try:
        if retrospective:
            rng = torch.Generator().manual_seed(derive_seed(settings.seed, "mask", info.volume))
            mask = sampling_mask((rows, info.shape[3]), settings.mask, rng)
        full = crop_oversampling(kspace, rows) if crops else kspace
        extent = calibration_extent(mask)
        limited = (min(extent[0], LARGEST_CALIBRATION), min(extent[1], LARGEST_CALIBRATION))
        kernel = min(PreparationSettings().espirit_kernel, *limited)
        measured, maps, _ = prepare_slice(
            (full * mask).to(device),
            info.recon_size,
            PreparationSettings(espirit_kernel=kernel),
            calibration=limited,
            crop_readout=False,
        )
        batch = undersample(
            measured,
            maps,
            mask.to(device),
            target=combined(full.to(device), maps) if retrospective else None,
            volume=info.volume,
            slice_index=index,
            recon_size=info.recon_size,
        )
    except InputError as error:
        raise InputError(f"{path}: slice {index}: {error}") from None
    return batch, batch.target[0] if retrospective else None


def _sampled(path: Path, shape: tuple[int, ...], mask: Tensor | None) -> Tensor:
    """The samples that a scan has, (y, x) bool, centred: its own mask, or what is not zero in any slice."""
    if mask is not None:
        return mask
    found = torch.zeros(shape[2:], dtype=torch.bool)
    for index in range(shape[0]):
        found |= torch.from_numpy((read_kspace(path, index) != 0).any(0))
    if not bool(found.any()):
        raise InputError(f"{path}: kspace is zero everywhere; expected measured samples")
    return found


def _check_slice(path: Path, index: int, count: int) -> None:
    if not 0 <= index < count:
        raise InputError(f"{path}: no slice {index}; expected 0 to {count - 1}")
