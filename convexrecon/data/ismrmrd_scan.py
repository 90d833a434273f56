"""Cartesian ISMRMRD files as scans: slices, series and three-dimensional scans, as on mridata.org.

Lines are in the order of their measurement, so that a slice is all over the file: it is read once, and sorted into an
array on disk. Of a three-dimensional scan the readout, the header's x, is z here; its y and z are y and x.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convexrecon.data.fastmri import PathLike, refuse_non_finite
from convexrecon.data.ismrmrd_acquisitions import RawAcquisitions, encoding_of, open_acquisitions
from convexrecon.data.ismrmrd_layout import Encoding
from convexrecon.data.ismrmrd_lines import LinePlaces, line_places, placed_readouts
from convexrecon.data.readout_transform import forward_along, transform_first_axis
from convexrecon.data.scan import Attribute, Axis, ReadSlice, Scan, reader_of
from convexrecon.data.scratch import scratch_array
from convexrecon.errors import InputError

# Places along the readout from which is told whether partitions were transformed without centring.
_PROBED = 8


@dataclass(frozen=True, eq=False)
class _Plan:
    """What becomes of the lines: `partitions` says that the second phase encode is stored transformed, as slices."""

    places: LinePlaces
    shape: tuple[int, int, int, int]
    volumetric: bool
    partitions: bool


def open_ismrmrd_scan(path: PathLike, readout: Axis | None = None, select: Mapping[str, int] | None = None) -> Scan:
    """Read the heads of a Cartesian scan and decide what its slices are.

    Two-dimensional encoding gives slices (y, x) = (readout, phase encode), or, of one slice with several phases or
    repetitions, a series. Three-dimensional encoding gives the places along the readout. A scan whose header is
    three-dimensional and whose lines count partitions by `slice` has its second phase encode transformed already:
    it is encoded again, so that both phase encodes can be undersampled.

    Args:
        path: the .h5 or .mrd file.
        readout: stated for other formats; here the header says it.
        select: which value of counters to take, as of `ismrmrd.read_cartesian`; `selection` is it in an attribute.

    Raises:
        InputError: as `ismrmrd.read_cartesian`; a readout other than z; several slices of several frames; several
            slabs, or frames, of a three-dimensional scan.
    """
    path = Path(path)
    with open_acquisitions(path, select=select) as raw:
        encoding = encoding_of(raw)
        plan = _plan(raw, encoding)
    if readout not in (None, "z"):
        raise InputError(
            f"{path}: readout {readout!r} asked for; expected 'z' or none: an ISMRMRD header's x is the readout, z here"
        )
    matrix = encoding.recon[1:] if plan.volumetric else encoding.recon[:2]
    attributes: dict[str, Attribute] = {"layout": "cine"} if plan.places.grid[1] > 1 else {}
    if select:
        attributes["select"] = selection(select)
    return Scan(
        path=path,
        volume=path.stem,
        shape=plan.shape,
        recon_size=(min(matrix[0], plan.shape[2]), min(matrix[1], plan.shape[3])),
        mask=None,
        attributes=attributes,
        header=raw.header,
        samples=partial(_sorted, path, plan, select),
        volumetric=plan.volumetric,
        voxel_mm=voxel_of(encoding, volumetric=plan.volumetric),
    )


def _plan(raw: RawAcquisitions, encoding: Encoding) -> _Plan:
    heads = raw.heads["idx"]
    several = len(np.unique(heads["slice"])) > 1
    partitions = encoding.encoded[2] > 1 and several and len(np.unique(heads["kspace_encode_step_2"])) == 1
    if partitions:
        encoding = replace(encoding, encoded=(*encoding.encoded[:2], 1))
    placed = line_places(raw, encoding)
    slices, frames, first, second = placed.grid
    if second > 1 and (slices > 1 or frames > 1):
        raise InputError(
            f"{raw.path}: {slices} slabs, {frames} frames of a 3-D scan of {encoding.encoded}; expected one of each"
        )
    if slices > 1 and frames > 1:
        raise InputError(
            f"{raw.path}: {slices} slices of {frames} frames; expected several of one alone: select={{'slice': 0}}, on "
            "the command line --select slice=0, takes the frames of the first slice"
        )
    if partitions:
        return _Plan(placed, (placed.kept, placed.coils, first, slices), True, True)
    if second > 1:
        return _Plan(placed, (placed.kept, placed.coils, first, second), True, False)
    return _Plan(placed, (slices * frames, placed.coils, placed.kept, first), False, False)


def voxel_of(encoding: Encoding, *, volumetric: bool) -> tuple[float, float, float] | None:
    """(z, y, x) mm of the voxels of slices, or of a volume; None where the header does not say."""
    if encoding.encoded_mm is None:
        return None
    x, y, z = (mm / n for mm, n in zip(encoding.encoded_mm, encoding.encoded, strict=True))
    return (x, y, z) if volumetric else (z, x, y)


def selection(select: Mapping[str, int] | None) -> str:
    """Counters and their values as text: `contrast=0,slice=2`.

    >>> selection({"slice": 2, "contrast": 0})
    'contrast=0,slice=2'
    """
    return ",".join(f"{name}={value}" for name, value in sorted((select or {}).items()))


@contextmanager
def _sorted(path: Path, plan: _Plan, select: Mapping[str, int] | None) -> Iterator[ReadSlice]:
    """Slices of the lines of a file, sorted and, of a three-dimensional scan, transformed."""
    with scratch_array(plan.shape, str(path)) as slices:
        with open_acquisitions(path, select=select) as raw:
            if len(raw.rows) != len(plan.places.where):
                raise InputError(f"{path}: has changed since it was opened")
            _sort(raw, plan, slices)
        if plan.volumetric:
            transform_first_axis(slices)
        if plan.partitions:
            _encode_partitions(slices)
        yield reader_of(slices, path)


def _sort(raw: RawAcquisitions, plan: _Plan, slices: NDArray[np.complex64]) -> None:
    """Put the mean of the lines of each place where `plan` says."""
    places = plan.places
    # As (place, place, C, readout).
    lines = slices.transpose(2, 3, 1, 0) if plan.volumetric else slices.transpose(0, 3, 1, 2)
    repeated = len(np.unique(places.where)) < len(places.where)
    counts = np.zeros((int(np.prod(places.grid)), places.kept), np.uint16) if repeated else None
    for part, data, _ in raw.samples():
        found, sampled = placed_readouts(raw, part, data, places.length, places.kept)
        refuse_non_finite(found, f"{raw.path}: acquisitions {raw.rows[part][0]} to {raw.rows[part][-1]}")
        where = places.where[part]
        if counts is None:
            lines[_index_of(plan, where)] = found
        else:
            np.add.at(lines, _index_of(plan, where), found)
            np.add.at(counts, where, sampled[:, 0])
    if counts is not None:
        for place in np.flatnonzero(counts.max(1) > 1):
            lines[_index_of(plan, place)] /= np.maximum(counts[place], 1)


def _index_of(plan: _Plan, where: NDArray[np.int64] | np.int64) -> tuple[Any, Any]:
    """The first two indices of lines by their place in the grid: phase encodes, or slice and phase encode."""
    slices, frames, first, second = np.unravel_index(where, plan.places.grid)
    if plan.volumetric:
        return first, slices if plan.partitions else second
    return slices * plan.places.grid[1] + frames, first


def _encode_partitions(slices: NDArray[np.complex64]) -> None:
    """Transform the partitions, the last axis of (z, C, y, x), back to k-space, in place.

    Some converters leave out the centring of their transform, so that partitions alternate in sign and the centre of
    k-space would come out at its border: where it would, they are made not to.
    """
    middle = max(0, len(slices) // 2 - _PROBED // 2)
    energy = (np.abs(forward_along(slices[middle : middle + _PROBED], 3)) ** 2).sum((0, 1, 2))
    count = len(energy)
    central = energy[count // 4 : count // 4 + count // 2].sum()
    signs = 1 - 2 * (np.arange(count) % 2) if central < energy.sum() / 2 else np.ones(count)
    for index in range(len(slices)):
        slices[index] = forward_along(slices[index] * signs.astype(np.float32), 2)
