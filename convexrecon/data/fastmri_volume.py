"""Fully three-dimensional k-space in the fastMRI layout: no axis of `kspace` (z, coil, y, x) is transformed yet.

The file's attribute `readout` says so, and which of z, y and x is fully sampled; the other two, in their order, are the
phase encodes (y, x) of the slices. Images come out as (readout, phase encode 1, phase encode 2).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from convexrecon.data.fastmri import open_scan_file, refuse_non_finite
from convexrecon.data.readout_transform import inverse_along, rows_at_once
from convexrecon.data.scan import Axis, ReadSlice, Scan, reader_of
from convexrecon.data.scratch import scratch_array
from convexrecon.errors import InputError
from convexrecon.physics.fourier import crop_start

Shape = tuple[int, int, int, int]


def as_volume(scan: Scan, readout: Axis | None = None) -> Scan:
    """A file of the fastMRI layout by its places along the readout, where it, or `readout`, says that it has one.

    A readout along y or x is cropped to the recon size, as that of slices is.

    Raises:
        InputError: a readout other than z, y or x, or another than the file says; an attribute `layout` "cine".
    """
    stated = scan.attributes.get("readout")
    if stated is not None and stated not in get_args(Axis):
        raise InputError(f"{scan.path}: attribute readout: expected z, y or x, found {stated!r}")
    if stated is not None and readout not in (None, stated):
        raise InputError(f"{scan.path}: readout {readout!r} asked for; expected {stated!r}, as its attribute says")
    chosen: Axis | None = readout
    for axis in get_args(Axis):
        chosen = axis if axis == stated else chosen
    if chosen is None:
        return scan
    if scan.attributes.get("layout") == "cine":
        raise InputError(f"{scan.path}: readout {chosen!r} of layout 'cine'; expected a 3-D scan")
    slices, coils, rows, columns = scan.shape
    sizes = {"z": slices, "y": rows, "x": columns}
    recon = {"z": slices, "y": scan.recon_size[0], "x": scan.recon_size[1]}
    first, second = (axis for axis in sizes if axis != chosen)
    shape = (recon[chosen], coils, sizes[first], sizes[second])
    voxel = None
    if scan.voxel_mm is not None:
        millimetres = dict(zip(sizes, scan.voxel_mm, strict=True))
        voxel = (millimetres[chosen], millimetres[first], millimetres[second])
    return replace(
        scan,
        attributes={**scan.attributes, "readout": chosen},
        shape=shape,
        recon_size=(recon[first], recon[second]),
        mask=scan.mask if chosen == "z" else None,  # else it is of other axes than the slices'
        samples=partial(_volume, scan.path, chosen, shape),
        volumetric=True,
        voxel_mm=voxel,
    )


@contextmanager
def _volume(path: Path, readout: Axis, shape: Shape) -> Iterator[ReadSlice]:
    """The file's k-space is read once, along z or some rows at a time, and transformed along its readout."""
    with scratch_array(shape, str(path)) as slices:
        _fill(slices, path, readout, shape)
        yield reader_of(slices, path)


def _fill(slices: NDArray[np.complex64], path: Path, readout: Axis, shape: Shape) -> None:
    with open_scan_file(path) as file:
        kspace = file["kspace"]
        if readout == "z":
            step = rows_at_once(shape)
            for start in range(0, shape[2], step):
                block = np.asarray(kspace[:, :, start : start + step], np.complex64)
                refuse_non_finite(block, f"{path}: kspace")
                slices[:, :, start : start + step] = inverse_along(block, 0)
        else:
            axis = 1 if readout == "y" else 2
            for index in range(shape[2]):
                plane = np.asarray(kspace[index], np.complex64)
                refuse_non_finite(plane, f"{path}: kspace of z = {index}")
                places = np.moveaxis(inverse_along(plane, axis), axis, 0)
                first = crop_start(len(places), shape[0])
                slices[:, :, index] = places[first : first + shape[0]]
