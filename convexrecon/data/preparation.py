"""Scanner files to prepared volumes: coil sensitivities once, SENSE targets, readout cropped, all cached."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import h5py
import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from convexrecon.data.atomic_hdf5 import atomic_hdf5
from convexrecon.data.fastmri import ScanInfo, find_scans, read_kspace, read_scan_info
from convexrecon.data.prepared_files import PREPARED_FORMAT as PREPARED_FORMAT
from convexrecon.errors import InputError
from convexrecon.physics.fourier import centred_fft, centred_ifft, crop_centre
from convexrecon.physics.masks import detect_mask, is_fully_sampled, missing_samples
from convexrecon.physics.sensitivity_maps import calibration_region, espirit, walsh

# Fewer fully sampled lines than this in the centre say too little about the coils.
LEAST_CALIBRATION = 4

MapsKind = Literal["espirit", "walsh"]


@dataclass(frozen=True)
class PreparationSettings:
    """How sensitivities are estimated.

    Attributes:
        maps: "espirit", or "walsh", which has no null space and is less exact.
        calibration: side of the fully sampled central square they are estimated from, in samples.
        espirit_kernel: side of ESPIRiT's patches, in samples; at most half the calibration region is used.
        espirit_threshold: its singular values kept, relative to the largest.
        espirit_crop: eigenvalue below which a pixel is outside the object.

    Raises:
        InputError: a value out of range.
    """

    maps: MapsKind = "espirit"
    calibration: int = 16
    espirit_kernel: int = 6
    espirit_threshold: float = 0.02
    espirit_crop: float = 0.9

    def __post_init__(self) -> None:
        if self.maps not in get_args(MapsKind):
            raise InputError(f"maps: found {self.maps!r}; expected one of {', '.join(get_args(MapsKind))}")
        if self.calibration < LEAST_CALIBRATION:
            raise InputError(f"calibration: found {self.calibration}; expected at least {LEAST_CALIBRATION} samples")
        if self.espirit_kernel < 1:
            raise InputError(f"espirit_kernel: found {self.espirit_kernel}; expected at least 1 sample")
        for name in ("espirit_threshold", "espirit_crop"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name}: found {getattr(self, name)}; expected a number from 0 to 1")


@dataclass(frozen=True)
class PreparationReport:
    """What `prepare` did, by name of the volumes.

    Attributes:
        prepared: made now.
        skipped: there already, from the same file with the same settings.
        renewed: those of `prepared` that were there, but from another version of the file or other settings.
    """

    prepared: tuple[str, ...]
    skipped: tuple[str, ...]
    renewed: tuple[str, ...] = ()


def prepare(
    source: Path | str,
    out: Path | str,
    settings: PreparationSettings,
    *,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> PreparationReport:
    """Prepare every scan of a folder, or one file; a second run does only what is missing or out of date.

    ``OUT/<volume>.h5`` holds `kspace` (slice, coil, y, x), centred, its readout y cropped in image space to
    the recon size; `maps` of the same shape; `target` (slice, y, x) = sum_c conj(maps) F^-1 k; and as
    attributes the settings, the source and the recon size. A volume appears when it is complete, and memory
    holds one slice. One process at a time may write to a folder.

    Args:
        source: fully sampled fastMRI-style file, or folder of them.
        out: folder for the prepared volumes, not that of the scans.
        settings: how sensitivities are estimated.
        device: where to compute.
        progress: whether to show a bar.

    Raises:
        InputError: no scans; a scan that cannot be read or is undersampled; NaN; a slice without signal; a
            calibration region larger than k-space; a file in `out` that is not a prepared volume but has the
            name of one. Volumes finished before stay.
    """
    scans, folder = find_scans(source), Path(out)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{out}: is a file; expected a folder for the prepared volumes")
    if folder.resolve() in {scan.parent.resolve() for scan in scans}:
        raise InputError(f"{out}: is the folder of the scans; expected another one for the prepared volumes")
    # All headers first: a damaged file or a name that is taken is told before hours of work, not after.
    infos = [read_scan_info(scan) for scan in scans]
    states = {info.volume: _state(folder / f"{info.volume}.h5", info, settings) for info in infos}
    todo = [info for info in infos if states[info.volume] != "current"]
    total = sum(info.shape[0] for info in todo)
    with tqdm(total=total, desc="preparing slices", disable=not progress) as bar:
        for info in todo:
            _prepare_volume(info, folder / f"{info.volume}.h5", settings, torch.device(device), bar)
    return PreparationReport(
        prepared=tuple(info.volume for info in todo),
        skipped=tuple(name for name, state in states.items() if state == "current"),
        renewed=tuple(name for name, state in states.items() if state == "outdated"),
    )


def prepare_slice(
    kspace: Tensor,
    recon_size: tuple[int, int],
    settings: PreparationSettings,
    *,
    calibration: tuple[int, int] | None = None,
    crop_readout: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """Crop the readout, estimate maps, combine coils: the core that needs no file.

    Args:
        kspace: (C, y, x) complex64, centred; zero where not sampled.
        recon_size: (y, x) of the scanner's images.
        settings: how sensitivities are estimated.
        calibration: (y, x) extent of the fully sampled centre to use; the settings' square if None.
        crop_readout: whether y is fully sampled, so that it can be cropped in image space.

    Returns:
        k-space (C, y', x), maps (C, y', x) and SENSE-combined image (y', x).

    Raises:
        InputError: the calibration region does not fit, is too small, zero or not finite, or no pixel has a
            sensitivity.
    """
    if crop_readout:
        kspace = crop_oversampling(kspace, recon_size[0])
    shape = (int(kspace.shape[-2]), int(kspace.shape[-1]))
    extent = (settings.calibration, settings.calibration)
    if calibration is not None:
        # The crop has shortened y: what was a fully sampled extent of the longer axis is one of the shorter.
        extent = (min(calibration[0], shape[0]), calibration[1])
    if min(extent) < LEAST_CALIBRATION:
        raise InputError(
            f"calibration: the fully sampled centre is {extent[0]} x {extent[1]} (y, x) samples; expected at least "
            f"{LEAST_CALIBRATION} x {LEAST_CALIBRATION} to estimate coil sensitivities"
        )
    region = calibration_region(kspace, extent).unsqueeze(0)
    if settings.maps == "espirit":
        maps = espirit(
            region,
            shape,
            # Brain scans with 3 to 12 central lines: a kernel of more than half of them leaves eigenvalues below
            # 0.9 in most of the object, which is then lost; one of half of them loses no pixel with signal.
            kernel=min(settings.espirit_kernel, min(extent) // 2),
            threshold=settings.espirit_threshold,
            crop=settings.espirit_crop,
        )[0]
    else:
        maps = walsh(region, shape)[0]
    if not bool(maps.any()):
        raise InputError(
            "no pixel has a coil sensitivity (is the slice empty, or noise alone?); expected an object. Leave the "
            f"slice out, or lower espirit_crop, now {settings.espirit_crop:g}"
        )
    return kspace, maps, (maps.conj() * centred_ifft(kspace, 2)).sum(0)


def crop_oversampling(kspace: Tensor, rows: int) -> Tensor:
    """Crop the field of view along the readout to `rows` pixels: centred (..., y, x) -> (..., rows, x).

    Cropped in image space, with orthonormal transforms, so that image intensities stay as they are.
    """
    if kspace.shape[-2] <= rows:
        return kspace
    # The transform along y alone: x may be undersampled.
    hybrid = centred_ifft(kspace.transpose(-1, -2), 1)
    return centred_fft(crop_centre(hybrid, (rows,)), 1).transpose(-1, -2).contiguous()


def is_prepared(path: Path | str) -> bool:
    """Whether a path is a volume written by `prepare`."""
    try:
        with h5py.File(path, "r") as file:
            return bool(file.attrs.get("format") == PREPARED_FORMAT)
    except OSError:
        return False


def _prepare_volume(
    info: ScanInfo, path: Path, settings: PreparationSettings, device: torch.device, bar: "tqdm[Any]"
) -> None:
    for leftover in path.parent.glob(f".{path.stem}.*.partial{path.suffix}"):
        leftover.unlink(missing_ok=True)  # of a run that was killed; see `atomic_path`
    if info.mask is not None:
        _refuse_undersampled(torch.from_numpy(info.mask), f"{info.path}: its mask")
    slices, coils, rows, columns = info.shape
    shape = (slices, coils, min(rows, info.recon_size[0]), columns)
    with atomic_hdf5(path) as file:
        stores = {
            name: file.create_dataset(name, sizes, "c8", chunks=(1, *sizes[1:]))
            for name, sizes in (("kspace", shape), ("maps", shape), ("target", (slices, *shape[2:])))
        }
        for index in range(slices):
            kspace = torch.from_numpy(read_kspace(info.path, index)).to(device)
            try:
                _refuse_undersampled(detect_mask(kspace), "k-space")
                parts = prepare_slice(kspace, info.recon_size, settings)
            except InputError as error:
                raise InputError(f"{info.path}: slice {index}: {error}") from None
            for store, part in zip(stores.values(), parts, strict=True):
                store[index] = part.cpu().numpy()
            bar.update()
        file.attrs.update(_stamp(info, settings))


def _refuse_undersampled(mask: Tensor, what: str) -> None:
    """Training needs the whole of k-space; zeros that a scanner leaves along the border are no gap."""
    if not is_fully_sampled(mask):
        gaps = missing_samples(mask)
        found = f"{gaps} of {mask.numel()} samples are missing" if gaps else "its centre is missing"
        raise InputError(
            f"{what} is undersampled ({found}); expected fully sampled k-space to train on. "
            "`convexrecon reconstruct` takes undersampled scans"
        )


def _stamp(info: ScanInfo, settings: PreparationSettings) -> dict[str, Any]:
    status = info.path.stat()
    return {
        "format": PREPARED_FORMAT,
        "settings": json.dumps(asdict(settings)),
        "source": info.path.name,
        "source_size": status.st_size,
        "source_time": status.st_mtime_ns,
        "recon_size": list(info.recon_size),
    }


def _state(path: Path, info: ScanInfo, settings: PreparationSettings) -> Literal["missing", "current", "outdated"]:
    """Whether the volume is there, prepared from this very file with these settings."""
    if not path.exists():
        return "missing"
    if not is_prepared(path):
        raise InputError(
            f"{path}: is in the way and not a prepared volume ({PREPARED_FORMAT}); expected an empty folder or one "
            "made by `convexrecon prepare`. Nothing was overwritten"
        )
    with h5py.File(path, "r") as file:
        have = dict(file.attrs)
    wanted = _stamp(info, settings)
    same = all(name in have and np.array_equal(have[name], value) for name, value in wanted.items())
    return "current" if same else "outdated"
