"""Scanner files to prepared volumes: coil sensitivities once, SENSE targets, readout cropped, all cached."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from convexrecon.data.atomic_hdf5 import atomic_hdf5
from convexrecon.data.ismrmrd_samples import Units
from convexrecon.data.prepared_files import PREPARED_FORMAT as PREPARED_FORMAT
from convexrecon.data.prepared_files import Layout, checked_layout
from convexrecon.data.scan import Axis, Scan
from convexrecon.data.scans import find_scans, open_scan
from convexrecon.data.shot_preparation import has_trajectory, prepare_shots, shots_stamp
from convexrecon.data.slice_preparation import PreparationSettings as PreparationSettings
from convexrecon.data.slice_preparation import crop_oversampling as crop_oversampling
from convexrecon.data.slice_preparation import prepare_slice as prepare_slice
from convexrecon.data.volume_preparation import (
    Parts,
    Read,
    filled_slices,
    named,
    prepared_series,
    prepared_volume,
    reader,
    unless_empty,
)
from convexrecon.errors import InputError
from convexrecon.physics.masks import detect_mask, is_fully_sampled, missing_samples


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
    layout: Layout | None = None,
    readout: Axis | None = None,
    units: Units | None = None,
    select: Mapping[str, int] | None = None,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> PreparationReport:
    """Prepare every scan of a folder, or one file; a second run does only what is missing or out of date.

    Of a volume or a series (`layout`) all slices are one sample, see `prepared_files`; else each is one.
    ``OUT/<volume>.h5`` holds `kspace` (slice, coil, y, x), centred, its readout y cropped in image space to
    the recon size; `maps` of the same shape; `target` (slice, y, x) = sum_c conj(maps) F^-1 k; and as
    attributes the settings, the source and the recon size. A volume appears when it is complete, and memory
    holds one slice; scans in three dimensions and ISMRMRD files are sorted on disk first, once. One process at a
    time may write to a folder.

    Args:
        source: fully sampled scan, or folder of them, of any format of `data.scans`.
        out: folder for the prepared volumes, not that of the scans.
        settings: how sensitivities are estimated, and of scans along trajectories how far images reach.
        layout: what the slices of a file are: "slices", a "volume" whose fully sampled readout is the slice axis and
            is transformed already, or the frames of a "cine"; None for what each file says, which is "slices" where
            it says nothing. Of a scan in three dimensions the places along its readout become a volume, or the
            slices, those that hold an object.
        readout: of scans in three dimensions, see `scans.open_scan`.
        units: of coordinates of ISMRMRD files with trajectories, which `shot_preparation` prepares; None where they can
            be told.
        select: of ISMRMRD files, which value of counters to take: ``{"contrast": 0, "slice": 2}``. One of several
            values that has no place in k-space, and one of slice and frame, must be.
        device: where to compute.
        progress: whether to show a bar.

    Raises:
        InputError: no scans; a scan that cannot be read or is undersampled; a larger field of view asked for of one on
            the grid; NaN; a slice without signal; a calibration region larger than k-space; a file in `out` that is
            not a prepared volume but has the name of one. Volumes finished before stay.
    """
    scans, folder = find_scans(source), Path(out)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{out}: is a file; expected a folder for the prepared volumes")
    if folder.resolve() in {scan.parent.resolve() for scan in scans}:
        raise InputError(f"{out}: is the folder of the scans; expected another one for the prepared volumes")
    # All headers first: a damaged file or a name that is taken is told before hours of work, not after.
    on_grid, along_shots = _told_apart(scans, layout, settings)
    infos = [open_scan(scan, readout, select) for scan in on_grid]
    layouts = {info.volume: layout_of(info, layout) for info in infos}
    states = {
        info.volume: _state(folder / f"{info.volume}.h5", _stamp(info, settings, layouts[info.volume]))
        for info in infos
    }
    stamps = {scan: shots_stamp(scan, PREPARED_FORMAT, settings, units, select) for scan in along_shots}
    states |= {scan.stem: _state(folder / f"{scan.stem}.h5", stamps[scan]) for scan in along_shots}
    shots = [scan for scan in along_shots if states[scan.stem] != "current"]
    todo = [info for info in infos if states[info.volume] != "current"]
    total = sum(info.shape[0] for info in todo) + len(shots)
    with tqdm(total=total, desc="preparing slices", disable=not progress) as bar:
        for info in todo:
            path = folder / f"{info.volume}.h5"
            _prepare_volume(info, path, settings, layouts[info.volume], torch.device(device), bar)
        for scan in shots:
            out_file = folder / f"{scan.stem}.h5"
            prepare_shots(
                scan, out_file, stamps[scan], settings, units=units, select=select, device=torch.device(device)
            )
            bar.update()
    return PreparationReport(
        prepared=(*(info.volume for info in todo), *(scan.stem for scan in shots)),
        skipped=tuple(name for name, state in states.items() if state == "current"),
        renewed=tuple(name for name, state in states.items() if state == "outdated"),
    )


def _told_apart(
    scans: list[Path], layout: Layout | None, settings: PreparationSettings
) -> tuple[list[Path], list[Path]]:
    """Scans on the grid and scans along trajectories; InputError for what is asked of the wrong ones."""
    along_shots = [scan for scan in scans if has_trajectory(scan)]
    if along_shots and layout is not None:
        raise InputError(f"{along_shots[0]}: layout {layout!r} asked for of a scan along a trajectory; expected none")
    on_grid = [scan for scan in scans if scan not in along_shots]
    if on_grid and settings.field_of_view != 1:
        raise InputError(
            f"{on_grid[0]}: field_of_view {settings.field_of_view:g} asked for of a scan on the grid, where signal "
            "from beyond folds; expected 1, or scans along trajectories alone"
        )
    return on_grid, along_shots


def layout_of(info: Scan, layout: Layout | None = None) -> Layout:
    """What a scan's slices are: `layout`, else what its attribute of that name says, else "slices"."""
    stated = layout or info.attributes.get("layout", "slices")
    chosen = checked_layout(stated, f"{info.path}: attribute layout")
    if chosen == "cine" and info.volumetric:
        raise InputError(f"{info.path}: layout 'cine' of a scan in three dimensions; expected 'slices' or 'volume'")
    return chosen


def is_prepared(path: Path | str) -> bool:
    """Whether a path is a volume written by `prepare`."""
    try:
        with h5py.File(path, "r") as file:
            return bool(file.attrs.get("format") == PREPARED_FORMAT)
    except OSError:
        return False


def _prepare_volume(
    info: Scan, path: Path, settings: PreparationSettings, layout: Layout, device: torch.device, bar: "tqdm[Any]"
) -> None:
    for leftover in path.parent.glob(f".{path.stem}.*.partial{path.suffix}"):
        leftover.unlink(missing_ok=True)  # of a run that was killed; see `atomic_path`
    if info.mask is not None:
        _refuse_undersampled(torch.from_numpy(info.mask), f"{info.path}: its mask")
    slices, coils, rows, columns = info.shape
    # Phase encodes, which y is of a volume, are not oversampled as readouts are.
    crops = layout != "volume" and not info.volumetric
    shape = (slices, coils, min(rows, info.recon_size[0]) if crops else rows, columns)
    sizes = {"kspace": shape, "maps": shape[1:] if layout == "cine" else shape, "target": (slices, *shape[2:])}
    with info.samples() as kspace, atomic_hdf5(path) as file:
        read = reader(info, kspace, device, partial(_check_sampled, info, layout))
        stores = {
            name: file.create_dataset(name, size, "c8", chunks=(1, *size[1:]), maxshape=(None, *size[1:]))
            for name, size in sizes.items()
        }
        occupied = []
        for index, parts in enumerate(_makers(layout)(info, settings, read, crop_readout=crops)):
            for (name, store), part in zip(stores.items(), parts, strict=True):
                if name == "maps" and layout == "cine":
                    if index == 0:
                        store[...] = part.cpu().numpy()
                else:
                    store[index] = part.cpu().numpy()
            if bool(parts[1].any()):
                occupied.append(index)
            bar.update()
        if layout == "slices" and len(occupied) < slices:
            for store in stores.values():
                store.resize(len(occupied), axis=0)
            bar.update(slices - len(occupied))
        file.attrs.update(_stamp(info, settings, layout))
        if layout == "volume":
            file.attrs["occupied"] = (occupied[0], occupied[-1] + 1)


def _makers(layout: Layout) -> Callable[..., Iterator[Parts]]:
    return {"slices": _prepared_slices, "volume": prepared_volume, "cine": prepared_series}[layout]


def _prepared_slices(info: Scan, settings: PreparationSettings, read: Read, *, crop_readout: bool) -> Iterator[Parts]:
    """As `prepared_volume` of slices that have nothing to do with each other; beside an object there are none."""
    for index in filled_slices(info, read) if info.volumetric else range(info.shape[0]):
        prepare = partial(prepare_slice, read(index), info.recon_size, settings, crop_readout=crop_readout)
        if not info.volumetric:
            with named(info, index):
                yield prepare()
        elif (parts := unless_empty(info, index, prepare)) is not None:
            yield parts


def _check_sampled(info: Scan, layout: Layout, kspace: Tensor) -> None:
    # Beside the object a volume may hold nothing.
    if (layout != "volume" and not info.volumetric) or bool(kspace.any()):
        _refuse_undersampled(detect_mask(kspace), "k-space")


def _refuse_undersampled(mask: Tensor, what: str) -> None:
    """Training needs the whole of k-space; zeros that a scanner leaves along the border are no gap."""
    if not is_fully_sampled(mask):
        gaps = missing_samples(mask)
        found = f"{gaps} of {mask.numel()} samples are missing" if gaps else "its centre is missing"
        raise InputError(
            f"{what} is undersampled ({found}); expected fully sampled k-space to train on. "
            "`convexrecon reconstruct` takes undersampled scans"
        )


def _stamp(info: Scan, settings: PreparationSettings, layout: Layout) -> dict[str, Any]:
    status = info.path.stat()
    return {
        "format": PREPARED_FORMAT,
        "settings": settings.stamp(),
        "source": info.path.name,
        "source_size": status.st_size,
        "source_time": status.st_mtime_ns,
        "recon_size": list(info.recon_size),
        "layout": layout,
        "select": info.attributes.get("select", ""),
        **({"readout": info.attributes.get("readout", "z")} if info.volumetric else {}),
    }


def _state(path: Path, wanted: dict[str, Any]) -> Literal["missing", "current", "outdated"]:
    """Whether the volume is there, prepared from this very file with these settings, `wanted`."""
    if not path.exists():
        return "missing"
    if not is_prepared(path):
        raise InputError(
            f"{path}: is in the way and not a prepared volume ({PREPARED_FORMAT}); expected an empty folder or one "
            "made by `convexrecon prepare`. Nothing was overwritten"
        )
    with h5py.File(path, "r") as file:
        have = {"layout": "slices", "select": "", **file.attrs}
    same = all(name in have and np.array_equal(have[name], value) for name, value in wanted.items())
    return "current" if same else "outdated"
