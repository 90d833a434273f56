"""What preparation and reconstruction ask of a scan, whatever file it comes in: slices of Cartesian k-space."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from convexrecon.errors import InputError

Attribute = str | float | int
Axis = Literal["z", "y", "x"]
ReadSlice = Callable[[int], NDArray[np.complex64]]


@dataclass(frozen=True, eq=False)
class Scan:
    """Everything about a scan but its k-space, and how to get at that.

    A slice is one of two-dimensional k-space; of a series it is a frame; of a three-dimensional scan it is a place
    along the readout, which is fully sampled and is transformed to image space, so that each place has a
    two-dimensional k-space of its own, the phase encodes.

    Attributes:
        path: the file.
        volume: the name of the volume, the file's without its suffix.
        shape: (slices, coils, y, x) of k-space.
        recon_size: (y, x) of the scanner's images, never larger than k-space.
        mask: (y, x) bool, centred, what was sampled; None where the file states none.
        attributes: of the file, scalars; `layout` among them says what the slices are, see `prepared_files`.
        header: the ISMRMRD header as XML bytes, or None.
        samples: ``with scan.samples() as kspace: kspace(index)`` reads slices, (C, y, x) complex64, centred, in the
            scanner's units; what has to be sorted or transformed for it is, once, and kept until the end of the block.
            It raises InputError for what cannot be read, no such slice, NaN and Inf.
        volumetric: whether the slices are places along the readout of a three-dimensional scan; y, the first phase
            encode, is then not cropped as an oversampled readout is.
        voxel_mm: (z, y, x) size of a voxel of the images, mm, z from slice to slice; None where the file does not say.
    """

    path: Path
    volume: str
    shape: tuple[int, int, int, int]
    recon_size: tuple[int, int]
    mask: NDArray[np.bool_] | None
    attributes: dict[str, Attribute]
    header: bytes | None
    samples: Callable[[], AbstractContextManager[ReadSlice]]
    volumetric: bool = False
    voxel_mm: tuple[float, float, float] | None = None


def reader_of(slices: NDArray[Any], path: Path) -> ReadSlice:
    """Reads slices of an array (slices, C, y, x), which may be on disk; InputError for one that is not there."""

    def read(index: int) -> NDArray[np.complex64]:
        check_index(index, len(slices), path)
        return np.array(slices[index], np.complex64, order="C")

    return read


def check_index(index: int, slices: int, path: Path) -> None:
    """Raise InputError for a slice that is not there."""
    if not 0 <= index < slices:
        raise InputError(f"{path}: slice {index} asked for; expected 0 to {slices - 1}")
