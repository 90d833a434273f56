"""BART's Cartesian k-space, .cfl and .hdr, as scans: slices, series and three-dimensional scans.

Dimensions are BART's: 0 readout, 1 and 2 phase encodes, 3 coils, 10 time, 13 slices. With both a readout and a second
phase encode k-space is three-dimensional, its axes (0, 1, 2) being (z, y, x); a readout of length 1, as of one that is
transformed already, leaves slices (y, x) = (1, 2).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convexrecon.data.bart import COIL, PHASE_1, PHASE_2, READ, SLICE, TIME, read_cfl
from convexrecon.data.fastmri import PathLike, refuse_non_finite
from convexrecon.data.readout_transform import inverse_along, rows_at_once
from convexrecon.data.scan import Attribute, Axis, ReadSlice, Scan, check_index, reader_of
from convexrecon.data.scratch import scratch_array
from convexrecon.errors import InputError

_AXES = {"z": READ, "y": PHASE_1, "x": PHASE_2}
_KNOWN = (READ, PHASE_1, PHASE_2, COIL, TIME, SLICE)


def open_bart_scan(path: PathLike, readout: Axis | None = None) -> Scan:
    """Read the sizes of k-space, and decide what its slices are.

    Args:
        path: NAME.cfl or NAME.hdr.
        readout: which of (z, y, x), dimensions 0, 1, 2, of three-dimensional k-space is fully sampled; z if None.

    Raises:
        InputError: as `bart.read_cfl`; dimensions that have no place here, or that do not go together; a readout of
            k-space that is not three-dimensional.
    """
    path = Path(path)
    path = path.with_name(path.name.removesuffix(path.suffix) + ".cfl")
    array = read_cfl(path)
    sizes = _checked_sizes(array.shape, path)
    slices, frames = array.shape[SLICE], array.shape[TIME]
    volumetric = sizes[0] > 1 and sizes[2] > 1
    if volumetric:
        if slices > 1 or frames > 1:
            raise InputError(f"{path}: {slices} slabs, {frames} frames of 3-D k-space {sizes}; expected one of each")
        places = _moved(array, readout or "z")
        shape = (places.shape[0], places.shape[3], places.shape[1], places.shape[2])
        samples = partial(_volume, path, readout or "z", shape)
    else:
        if readout is not None:
            raise InputError(
                f"{path}: readout {readout!r} asked for of k-space of sizes {sizes}; expected three axes of 3-D k-space"
            )
        if slices > 1 and frames > 1:
            raise InputError(
                f"{path}: {slices} slices of {frames} frames; expected several of one alone: slices, or the frames of "
                "a series"
            )
        rows, columns = (sizes[0], sizes[1]) if sizes[2] == 1 else (sizes[1], sizes[2])
        shape = (slices * frames, array.shape[COIL], rows, columns)
        samples = partial(_slices, path, shape)
    attributes: dict[str, Attribute] = {"layout": "cine"} if frames > 1 else {}
    if volumetric:
        attributes["readout"] = readout or "z"
    return Scan(
        path=path,
        volume=path.stem,
        shape=shape,
        recon_size=shape[2:],
        mask=None,
        attributes=attributes,
        header=None,
        samples=samples,
        volumetric=volumetric,
    )


def _checked_sizes(shape: tuple[int, ...], path: Path) -> tuple[int, int, int]:
    """Of readout and both phase encodes."""
    sizes = shape[READ], shape[PHASE_1], shape[PHASE_2]
    others = {axis: size for axis, size in enumerate(shape) if size > 1 and axis not in _KNOWN}
    if others:
        raise InputError(
            f"{path}: dimensions {others} (number: size) have no place in k-space of a scan; expected readout and "
            "phase encodes 0 to 2, coils 3, time 10, slices 13 alone"
        )
    if sorted(sizes)[1] == 1:
        raise InputError(f"{path}: dimensions 0 to 2 are {sizes}; expected at least two of them longer than 1")
    return sizes


def _moved(array: NDArray[Any], readout: Axis) -> NDArray[Any]:
    """A three-dimensional scan as (readout, phase encode 1, phase encode 2, C): a view."""
    axes = [_AXES[readout], *(axis for name, axis in _AXES.items() if name != readout), COIL]
    return array.reshape(array.shape[: COIL + 1]).transpose(axes)


@contextmanager
def _slices(path: Path, shape: tuple[int, int, int, int]) -> Iterator[ReadSlice]:
    array = read_cfl(path)
    # (y, x, C, frames or slices): all other dimensions are of length 1.
    planes = array.reshape((shape[2], shape[3], shape[1], shape[0]), order="F")

    def read(index: int) -> NDArray[np.complex64]:
        check_index(index, shape[0], path)
        samples = np.ascontiguousarray(planes[..., index].transpose(2, 0, 1), np.complex64)
        refuse_non_finite(samples, f"{path}: k-space of slice {index}")
        return samples

    yield read


@contextmanager
def _volume(path: Path, readout: Axis, shape: tuple[int, int, int, int]) -> Iterator[ReadSlice]:
    places = _moved(read_cfl(path), readout)
    with scratch_array(shape, str(path)) as slices:
        step = rows_at_once(shape)
        for start in range(0, shape[2], step):
            block = np.asarray(places[:, start : start + step], np.complex64)
            refuse_non_finite(block, f"{path}: k-space")
            slices[:, :, start : start + step] = inverse_along(block.transpose(0, 3, 1, 2), 0)
        yield reader_of(slices, path)
