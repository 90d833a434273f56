"""Scans written slice by slice, atomically, in the fastMRI multi-coil HDF5 layout that `fastmri` reads."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray

from convexrecon.data.atomic_hdf5 import atomic_hdf5
from convexrecon.data.fastmri import PathLike, full_mask, recon_size_from_header, refuse_non_finite
from convexrecon.data.scan import Attribute
from convexrecon.errors import InputError
from convexrecon.physics.fourier import centred_ifft, crop_centre

_ISMRMRD = "http://www.ismrm.org/ISMRMRD"


def write_scan(
    path: PathLike,
    kspace: Any,
    *,
    rss: Any = None,
    header: bytes | None = None,
    attributes: Mapping[str, Attribute] | None = None,
    mask: Any = None,
) -> None:
    """Write a scan in the fastMRI layout, slice by slice, atomically.

    Args:
        path: the .h5 file to make.
        kspace: (slice, coil, y, x) complex, centred: an array, tensor, HDF5 dataset or sequence of
            (coil, y, x) slices, taken one at a time; for slices of an iterator use `ScanWriter.create`.
        rss: (slice, y, x) images; by default the root sum of squares of the coil images, centre-cropped to
            the header's recon size.
        header: ISMRMRD XML, see `ismrmrd_header`.
        attributes: e.g. acquisition and patient_id. `max` and `norm` are those of the images unless given.
        mask: (x,), (1, x) or (y, x), zeros and ones, centred.

    Raises:
        InputError: shapes that do not fit, NaN or Inf, or a file that cannot be written (full disk, no
            permission); nothing is left behind and an existing file is kept.
    """
    if len(kspace) == 0:
        raise InputError(f"{path}: kspace has no slice; expected (slice, coil, y, x)")
    first = _as_array(kspace[0])
    if first.ndim != 3:
        raise InputError(f"{path}: kspace slices have shape {first.shape}; expected (coil, y, x)")
    coils, rows, columns = first.shape
    shape = (len(kspace), coils, rows, columns)
    recon_size = None
    if rss is not None:
        size = tuple(int(n) for n in rss.shape)
        if len(size) != 3 or size[0] != shape[0]:
            raise InputError(f"{path}: rss has shape {size}; expected ({shape[0]}, y, x)")
        recon_size = (size[1], size[2])
    with ScanWriter.create(path, shape, recon_size=recon_size, header=header, attributes=attributes, mask=mask) as out:
        for index in range(shape[0]):
            out.write(kspace[index], None if rss is None else rss[index])


class ScanWriter:
    """Writes a scan slice by slice, so that host memory holds one slice at a time; made by `create`."""

    def __init__(self, path: Path, file: h5py.File, shape: Sequence[int], recon_size: tuple[int, int]) -> None:
        self._path = path
        self._kspace = file.create_dataset("kspace", tuple(shape), np.complex64)
        self._rss = file.create_dataset("reconstruction_rss", (shape[0], *recon_size), np.float32)
        self._written = 0
        self._max = 0.0
        self._squares = 0.0

    @classmethod
    @contextmanager
    def create(
        cls,
        path: PathLike,
        shape: tuple[int, int, int, int],
        *,
        recon_size: tuple[int, int] | None = None,
        header: bytes | None = None,
        attributes: Mapping[str, Attribute] | None = None,
        mask: Any = None,
    ) -> Iterator["ScanWriter"]:
        """Open `path` for `shape` (slices, coils, y, x); the file appears once all slices are written.

        Other arguments and errors as `write_scan`.
        """
        path = Path(path)
        if min(shape) < 1:
            raise InputError(f"{path}: kspace shape {shape}; expected at least one slice, coil, row and column")
        rows, columns = shape[2:]
        whole_mask = None if mask is None else full_mask(_as_array(mask), (rows, columns), f"{path}: mask")
        size = recon_size or (recon_size_from_header(header) if header else None) or (rows, columns)
        size = (min(size[0], rows), min(size[1], columns)) if recon_size is None else size
        with atomic_hdf5(path) as file:
            if header is not None:
                file.create_dataset("ismrmrd_header", data=header)
            if whole_mask is not None:
                file.create_dataset("mask", data=whole_mask)
            writer = cls(path, file, shape, size)
            yield writer
            file.attrs.update(writer._finish() | dict(attributes or {}))

    def write(self, kspace: Any, rss: Any = None) -> None:
        """Append one slice: k-space (C, y, x) and, unless it is to be computed, its image (y, x)."""
        index, slices = self._written, self._kspace.shape[0]
        if index == slices:
            raise InputError(f"{self._path}: more slices than the {slices} announced")
        samples = _as_array(kspace)
        where = f"{self._path}: kspace of slice {index}"
        if samples.shape != self._kspace.shape[1:] or not np.iscomplexobj(samples):
            raise InputError(f"{where} is {samples.dtype} {samples.shape}; expected complex {self._kspace.shape[1:]}")
        refuse_non_finite(samples, where)
        image = root_sum_of_squares(samples, self._rss.shape[1:]) if rss is None else _as_array(rss)
        if image.shape != self._rss.shape[1:]:
            raise InputError(f"{self._path}: rss of slice {index} is {image.shape}; expected {self._rss.shape[1:]}")
        self._kspace[index] = samples
        self._rss[index] = image
        self._written += 1
        self._max = max(self._max, float(image.max()))
        self._squares += float(np.sum(image.astype(np.float64) ** 2))

    def _finish(self) -> dict[str, Attribute]:
        slices = self._kspace.shape[0]
        if self._written != slices:
            raise InputError(f"{self._path}: {self._written} slices written; expected {slices}")
        return {"max": self._max, "norm": self._squares**0.5}


def root_sum_of_squares(kspace: Any, recon_size: Sequence[int]) -> NDArray[np.float32]:
    """sqrt(sum_c |F^-1 k_c|^2) of centred k-space (C, y, x), centre-cropped to `recon_size` (y, x)."""
    samples = torch.from_numpy(np.ascontiguousarray(_as_array(kspace), dtype=np.complex64))
    images = crop_centre(centred_ifft(samples, 2), recon_size)
    return np.asarray(torch.linalg.vector_norm(images, dim=0))


def ismrmrd_header(encoded: tuple[int, int], recon: tuple[int, int]) -> bytes:
    """A minimal ISMRMRD header for Cartesian k-space of `encoded` (y, x) and images of `recon` (y, x).

    >>> recon_size_from_header(ismrmrd_header((640, 368), (320, 320)))
    (320, 320)
    """

    def space(size: tuple[int, int]) -> str:
        return f"<matrixSize><x>{size[0]}</x><y>{size[1]}</y><z>1</z></matrixSize>"

    return (
        f'<?xml version="1.0" encoding="utf-8"?>\n<ismrmrdHeader xmlns="{_ISMRMRD}"><encoding>'
        f"<encodedSpace>{space(encoded)}</encodedSpace><reconSpace>{space(recon)}</reconSpace>"
        f"<encodingLimits><kspace_encoding_step_1><minimum>0</minimum><maximum>{encoded[1] - 1}</maximum>"
        f"<center>{encoded[1] // 2}</center></kspace_encoding_step_1></encodingLimits>"
        "<trajectory>cartesian</trajectory></encoding></ismrmrdHeader>"
    ).encode()


def _as_array(value: Any) -> NDArray[Any]:
    return np.asarray(value.detach().cpu() if isinstance(value, torch.Tensor) else value)
