"""Prepared volumes on disk: which samples a folder holds, and one of them in memory.

A file on the grid is one of three layouts, its attribute `layout` (absent: "slices"); those off it are in
`prepared_shots`. Its first axis is never transformed: of a
volume it is the readout z, which is fully sampled, so that in the image space of z every slice has its own k-space.

    slices    every slice (C, y, x) is a sample
    volume    all slices together, (C, z, y, x), or a slab of them
    cine      all frames together, (C, t, y, x); the maps, the same in all of them, are stored once
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import h5py
import torch
from torch import Tensor

from convexrecon.data.prepared_shots import ShotLayout, checked_shapes
from convexrecon.errors import InputError

Layout = Literal["slices", "volume", "cine"]
StoredLayout = Layout | ShotLayout
LAYOUTS: tuple[str, ...] = get_args(Layout)
PREPARED_FORMAT = "convexrecon-prepared-1"

_ARRAYS = ("kspace", "maps", "target")


@dataclass(frozen=True)
class SliceKey:
    """Where a sample is: a slice, a series, a volume, or a slab of one.

    Attributes:
        path: the file.
        volume: its name.
        slice_index: of the slice, or of the first one of several.
        shape: (C, *N); slices of a volume, and frames, are the first axis of *N.
        frames: how many slices or frames the file has, of which shape[1] are the sample; None for a single slice, and
            off the grid.
        trajectory: off the grid, the digest of its trajectory.
    """

    path: Path
    volume: str
    slice_index: int
    shape: tuple[int, ...]
    frames: int | None = None
    trajectory: str = ""

    @property
    def is_slab(self) -> bool:
        """Whether the sample is part of a volume."""
        return self.frames is not None and self.shape[1] < self.frames

    @property
    def where(self) -> str:
        """File and slices, for messages."""
        if self.frames is None:
            return f"{self.path}: slice {self.slice_index}"
        return f"{self.path}: slices {self.slice_index} to {self.slice_index + self.shape[1] - 1}"


def samples_of_folder(folder: Path, slab: int | None = None) -> tuple[StoredLayout, list[SliceKey]]:
    """The layout of a folder of prepared volumes, and its samples.

    Args:
        folder: made by `prepare`.
        slab: how many slices of a volume are a sample; all if None, and where it has fewer.

    Raises:
        InputError: the folder is missing, empty, of several layouts, or holds scans that are not prepared; slabs of
            something else than volumes.
    """
    found = [_samples_of_file(path, slab) for path in _prepared_files(folder)]
    layouts = {layout: keys[0].path.name for layout, keys in found}
    if len(layouts) > 1:
        raise InputError(
            f"{folder}: holds {' and '.join(f'{layout} ({name})' for layout, name in sorted(layouts.items()))}; "
            "expected volumes of one layout in a folder"
        )
    layout = found[0][0]
    if slab is not None and layout != "volume":
        raise InputError(f"{folder}: slab = {slab} asked for of layout {layout!r}; expected it for 'volume' alone")
    return layout, [key for _, keys in found for key in keys]


def read_sample(key: SliceKey) -> tuple[Tensor, Tensor, Tensor, tuple[int, int]]:
    """K-space (C, *N), centred, maps (C, *N), target (*N), complex64, and the recon size (y, x).

    Maps of a series are (C, 1, y, x), the same in all frames.

    Raises:
        InputError: the file has changed or holds NaN, Inf or maps that are all zero.
    """
    start = key.slice_index
    chosen: int | slice = start if key.frames is None else slice(start, start + key.shape[1])
    with open_prepared(key.path) as file:
        try:
            kspace, target = (torch.from_numpy(file[name][chosen]) for name in ("kspace", "target"))
            shared = file["maps"].ndim == 3  # of all frames
            maps = torch.from_numpy(file["maps"][()] if shared else file["maps"][chosen])
            recon_size = tuple(int(n) for n in file.attrs["recon_size"])
        except (KeyError, IndexError, ValueError, OSError) as error:
            raise InputError(f"{key.where}: cannot be read ({error}); prepare the volume again") from error
    if key.frames is not None:
        kspace = kspace.transpose(0, 1)
        maps = maps.unsqueeze(1) if shared else maps.transpose(0, 1)
    of_maps = (key.shape[0], 1, *key.shape[2:]) if shared else key.shape
    if (kspace.shape, maps.shape, target.shape) != (key.shape, of_maps, key.shape[1:]):
        raise InputError(f"{key.where}: the file has changed since it was opened; expected k-space {key.shape}")
    for name, array in zip(_ARRAYS, (kspace, maps, target), strict=True):
        if not bool(torch.isfinite(torch.view_as_real(array)).all()):
            raise InputError(f"{key.where}: {name} holds NaN or Inf; expected finite numbers")
    # A slab may lie beside the object; a whole sample may not.
    if not key.is_slab and not bool(maps.any()):
        raise InputError(f"{key.where}: the sensitivity maps are zero everywhere; expected an object")
    return kspace, maps, target, (recon_size[0], recon_size[1])


def open_prepared(path: Path) -> h5py.File:
    """The file, open to be read; InputError where it cannot be."""
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise InputError(f"{path}: not a readable HDF5 file ({error})") from None


def slab_starts(first: int, stop: int, slab: int) -> list[int]:
    """Where slabs of `slab` slices begin that cover the slices first to stop - 1, the last ones overlapping evenly.

    >>> slab_starts(2, 12, 4)
    [2, 5, 8]
    """
    count = -(-(stop - first) // slab)
    if count <= 1:
        return [first]
    step = (stop - first - slab) / (count - 1)
    return [first + round(step * index) for index in range(count)]


def _samples_of_file(path: Path, slab: int | None) -> tuple[StoredLayout, list[SliceKey]]:
    with open_prepared(path) as file:
        layout = _layout(file, path)
        if layout == "noncartesian" or layout == "noncartesian-volume":
            (count, *rest), digests = checked_shapes(file, path)
            names = digests * count if len(digests) == 1 else digests
            return layout, [SliceKey(path, path.stem, k, tuple(rest), None, names[k]) for k in range(count)]
        shape = _checked_shape(file, path)
        occupied = [int(n) for n in file.attrs.get("occupied", (0, shape[0]))]
    frames, coils, rows, columns = shape
    if layout == "slices":
        return layout, [SliceKey(path, path.stem, index, (coils, rows, columns)) for index in range(frames)]
    if slab is None or slab >= frames:
        return layout, [SliceKey(path, path.stem, 0, (coils, frames, rows, columns), frames)]
    if slab < 1:
        raise InputError(f"slab: found {slab}; expected at least 1 slice")
    # What holds no object at either end is left out, but for what fills the last slab.
    first = min(occupied[0], frames - slab)
    starts = slab_starts(first, max(occupied[1], first + slab), slab)
    return layout, [SliceKey(path, path.stem, start, (coils, slab, rows, columns), frames) for start in starts]


def _layout(file: h5py.File, path: Path) -> StoredLayout:
    if file.attrs.get("format") != PREPARED_FORMAT:
        hint = "a scan; run `convexrecon prepare` first" if "kspace" in file else f"the keys {sorted(file)}"
        raise InputError(f"{path}: expected a prepared volume ({PREPARED_FORMAT}), found {hint}")
    stated = file.attrs.get("layout", "slices")
    for layout in get_args(ShotLayout):
        if stated == layout:
            known: ShotLayout = layout
            return known
    return checked_layout(stated, f"{path}: attribute layout")


def checked_layout(value: object, where: str) -> Layout:
    """A layout by its name; InputError for another."""
    for layout in get_args(Layout):
        if value == layout:
            known: Layout = layout
            return known
    raise InputError(f"{where}: expected one of {', '.join(LAYOUTS)}, found {value!r}")


def _checked_shape(file: h5py.File, path: Path) -> tuple[int, ...]:
    """(slices or frames, C, y, x) of k-space, to which the other arrays fit."""
    missing = [name for name in _ARRAYS if not isinstance(file.get(name), h5py.Dataset)]
    if missing:
        raise InputError(f"{path}: no dataset {missing[0]!r}, found {sorted(file)}; prepare it again")
    shape = tuple(int(n) for n in file["kspace"].shape)
    others = (file["maps"].shape, file["target"].shape)
    maps = shape[1:] if file.attrs.get("layout") == "cine" else shape
    if len(shape) != 4 or others != (maps, (shape[0], *shape[2:])):
        raise InputError(
            f"{path}: kspace {shape}, maps {others[0]}, target {others[1]}; expected (slice, coil, y, x) twice "
            "(maps of layout 'cine': (coil, y, x)) and (slice, y, x); prepare it again"
        )
    return shape


def _prepared_files(folder: Path) -> Sequence[Path]:
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; expected one made by `convexrecon prepare`")
    files = sorted(p for p in folder.glob("*.h5") if not p.name.startswith("."))
    if not files:
        raise InputError(f"{folder}: no prepared volume (*.h5); run `convexrecon prepare SCANS {folder}`")
    return files
