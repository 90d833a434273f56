"""Scanner files in the fastMRI multi-coil HDF5 layout: read lazily and validated.

Layout (Zbontar et al., fastMRI, arXiv:1811.08839, section 4): `kspace` (slice, coil, y, x) complex64,
centred (DC at N//2); `reconstruction_rss` (slice, y, x) float32; `ismrmrd_header` XML; optionally `mask`.
The readout is y, which the header calls x; the phase encode is x, which the header calls y.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import h5py
import numpy as np
from numpy.typing import NDArray

from convexrecon.data.ismrmrd_layout import parse_header
from convexrecon.data.scan import Attribute, ReadSlice, Scan, check_index
from convexrecon.errors import InputError

PathLike = str | os.PathLike[str]

_LAYOUT = "expected the fastMRI multi-coil layout: dataset 'kspace' (slice, coil, y, x) complex64"


def read_scan_info(path: PathLike) -> Scan:
    """Read and validate all of a scan but its k-space samples.

    Raises:
        InputError: the file is missing, truncated, not HDF5 or of another layout; `kspace` is not complex
            (slice, coil, y, x) or has no slice; the mask has another size, other values than 0 and 1, or
            samples nothing.
    """
    path = Path(path)
    with open_scan_file(path) as file:
        kspace = _kspace_dataset(file, path)
        slices, coils, rows, columns = (int(n) for n in kspace.shape)
        header = _read_header(file)
        return Scan(
            path=path,
            volume=path.stem,
            shape=(slices, coils, rows, columns),
            recon_size=_recon_size(file, path, header, (slices, rows, columns)),
            mask=_read_mask(file, path, (rows, columns)),
            attributes=_read_attributes(file),
            header=header,
            samples=partial(_open_slices, path),
            voxel_mm=_voxel(header, path),
        )


def read_kspace(path: PathLike, slice_index: int) -> NDArray[np.complex64]:
    """Read the k-space of one slice, (C, y, x) complex64, centred, in the scanner's units.

    Raises:
        InputError: as `read_scan_info`; no such slice; NaN or Inf in it.
    """
    with _open_slices(Path(path)) as kspace:
        return kspace(slice_index)


@contextmanager
def _open_slices(path: Path) -> Iterator[ReadSlice]:
    with ExitStack() as stack:
        # Not around the whole: errors of those who read slices are no errors of the file.
        with _readable(path):
            kspace = _kspace_dataset(stack.enter_context(h5py.File(path, "r")), path)

        def read(index: int) -> NDArray[np.complex64]:
            check_index(index, kspace.shape[0], path)
            with _readable(path), np.errstate(over="ignore"):  # complex128 beyond float32 becomes Inf, refused below
                samples = np.asarray(kspace[index], dtype=np.complex64)
            refuse_non_finite(samples, f"{path}: kspace of slice {index}")
            return samples

        yield read


def recon_size_from_header(xml: bytes | str) -> tuple[int, int] | None:
    """(y, x) of the header's reconSpace, or None where it does not say; its x is our readout axis y."""
    try:
        root = ElementTree.fromstring(xml)
    except (ElementTree.ParseError, ValueError):
        return None
    # Some writers leave the namespace out, so it is matched as "any".
    matrix = root.find("{*}encoding/{*}reconSpace/{*}matrixSize")
    if matrix is None:
        return None
    try:
        rows, columns = int(matrix.findtext("{*}x", "")), int(matrix.findtext("{*}y", ""))
    except ValueError:
        return None
    return (rows, columns) if rows > 0 and columns > 0 else None


@contextmanager
def open_scan_file(path: Path) -> Iterator[h5py.File]:
    """Open for reading; whatever HDF5 cannot read becomes an InputError that names the file."""
    with _readable(path), h5py.File(path, "r") as file:
        yield file


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    if not path.is_file():
        raise InputError(f"{path}: no such file; {_LAYOUT}")
    try:
        yield
    except (OSError, RuntimeError, KeyError) as error:
        raise InputError(
            f"{path}: cannot be read as HDF5, truncated, damaged or another format ({error}); {_LAYOUT}"
        ) from error


def _kspace_dataset(file: h5py.File, path: Path) -> h5py.Dataset:
    kspace = file.get("kspace")
    if not isinstance(kspace, h5py.Dataset):
        raise InputError(
            f"{path}: no dataset 'kspace', found {sorted(file)}; {_LAYOUT} "
            "(or an ISMRMRD file: group 'dataset' with 'xml' and 'data')"
        )
    if kspace.ndim == 3:
        raise InputError(
            f"{path}: kspace has shape {kspace.shape}, single-coil; expected four axes (slice, coil, y, x): "
            "a coil axis is needed"
        )
    if kspace.ndim != 4 or kspace.dtype.kind != "c":
        raise InputError(
            f"{path}: kspace is {kspace.dtype} of shape {kspace.shape}; expected complex (slice, coil, y, x)"
        )
    if min(kspace.shape) < 1:
        raise InputError(f"{path}: kspace of shape {kspace.shape} is empty; expected at least one slice")
    return kspace


def _read_header(file: h5py.File) -> bytes | None:
    if not isinstance(file.get("ismrmrd_header"), h5py.Dataset):
        return None
    value = file["ismrmrd_header"][()]
    if isinstance(value, np.ndarray):
        value = value.flat[0] if value.size else b""
    if isinstance(value, str):
        return value.encode()
    return bytes(value) if isinstance(value, bytes) else None


def _voxel(header: bytes | None, path: Path) -> tuple[float, float, float] | None:
    """(z, y, x) mm, of a header whose x and y are our y and x."""
    if header is None:
        return None
    try:
        encoding = parse_header(header, str(path))
    except InputError:
        return None  # of some files it is not complete, and only images for viewers ask for this
    if encoding.encoded_mm is None:
        return None
    y, x, z = (mm / n for mm, n in zip(encoding.encoded_mm, encoding.encoded, strict=True))
    return z, y, x


def _recon_size(file: h5py.File, path: Path, header: bytes | None, shape: tuple[int, int, int]) -> tuple[int, int]:
    slices, rows, columns = shape
    rss = file.get("reconstruction_rss")
    size = (rows, columns)
    if isinstance(rss, h5py.Dataset):
        if rss.ndim != 3 or rss.shape[0] != slices or min(rss.shape) < 1:
            raise InputError(f"{path}: reconstruction_rss has shape {rss.shape}; expected ({slices}, y, x) as kspace")
        size = (int(rss.shape[1]), int(rss.shape[2]))
    elif header is not None:
        size = recon_size_from_header(header) or size
    # Some scanners interpolate to more pixels than were measured; no image here is larger than its k-space.
    return min(size[0], rows), min(size[1], columns)


def _read_mask(file: h5py.File, path: Path, shape: tuple[int, int]) -> NDArray[np.bool_] | None:
    mask = file.get("mask")
    if mask is None:
        return None
    if not isinstance(mask, h5py.Dataset):
        raise InputError(f"{path}: mask is a group; expected an array (x,), (1, x) or (y, x)")
    return full_mask(np.asarray(mask[()]), shape, f"{path}: mask")


def full_mask(mask: NDArray[Any], shape: tuple[int, int], where: str) -> NDArray[np.bool_]:
    """A mask of any accepted layout as (y, x) bool."""
    rows, columns = shape
    found = mask.shape
    while mask.ndim > 2 and mask.shape[0] == 1:
        mask = mask[0]
    if mask.shape not in {(columns,), (1, columns), (rows, 1), (rows, columns)}:
        raise InputError(f"{where} has shape {found}; expected ({columns},), (1, {columns}) or {shape}")
    if mask.dtype.kind not in "biuf" or not np.isin(mask, (0, 1)).all():
        raise InputError(f"{where} of {mask.dtype} holds other values than zeros and ones")
    if not mask.any():
        raise InputError(f"{where} samples nothing (every entry is zero)")
    return np.array(np.broadcast_to(mask != 0, shape))


def _read_attributes(file: h5py.File) -> dict[str, Attribute]:
    attributes: dict[str, Attribute] = {}
    for name, value in file.attrs.items():
        plain = value.item() if isinstance(value, np.generic | np.ndarray) and value.size == 1 else value
        if isinstance(plain, bytes):
            plain = plain.decode("utf-8", "replace")
        if isinstance(plain, str | float | int):
            attributes[name] = plain
    return attributes


def refuse_non_finite(samples: NDArray[Any], where: str) -> None:
    """Raise InputError with the number of NaN and Inf values, if there are any, and where they are."""
    bad = int(np.size(samples) - np.count_nonzero(np.isfinite(samples)))
    if bad:
        raise InputError(f"{where} holds {bad} values that are NaN or Inf; expected finite numbers")
