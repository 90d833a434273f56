"""Scanner files in the fastMRI multi-coil HDF5 layout: read lazily and validated.

Layout (Zbontar et al., fastMRI, arXiv:1811.08839, section 4): `kspace` (slice, coil, y, x) complex64,
centred (DC at N//2); `reconstruction_rss` (slice, y, x) float32; `ismrmrd_header` XML; optionally `mask`.
The readout is y, which the header calls x; the phase encode is x, which the header calls y.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import h5py
import numpy as np
from numpy.typing import NDArray

from convexrecon.errors import InputError

PathLike = str | os.PathLike[str]
Attribute = str | float | int

_LAYOUT = "expected the fastMRI multi-coil layout: dataset 'kspace' (slice, coil, y, x) complex64"


@dataclass(frozen=True, eq=False)
class ScanInfo:
    """Everything about a scan but its k-space.

    Attributes:
        path: the file.
        volume: the file's stem, the name of the volume.
        shape: (slices, coils, y, x) of `kspace`.
        recon_size: (y, x) of the scanner's images, never larger than k-space: from `reconstruction_rss`, else
            from the header, else the k-space size.
        mask: (y, x) bool, centred, what was sampled; None where the file states none.
        attributes: the file's scalar attributes.
        header: the ISMRMRD header as XML bytes, or None.
    """

    path: Path
    volume: str
    shape: tuple[int, int, int, int]
    recon_size: tuple[int, int]
    mask: NDArray[np.bool_] | None
    attributes: dict[str, Attribute]
    header: bytes | None


def find_scans(folder_or_file: PathLike) -> list[Path]:
    """The scan files named by a path: the file itself, or every ``*.h5`` of the folder, sorted by name.

    Raises:
        InputError: nothing is there, or the folder holds no ``*.h5`` file.
    """
    path = Path(folder_or_file)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InputError(f"{path}: no such file or folder; expected a .h5 file or a folder of them")
    # A leading dot marks a file that is still being written.
    scans = sorted(p for p in path.glob("*.h5") if p.is_file() and not p.name.startswith("."))
    if not scans:
        names = sorted(p.name for p in path.iterdir())
        found = f"found {len(names)} other entries ({', '.join(names[:5])})" if names else "the folder is empty"
        raise InputError(f"{path}: expected scan files *.h5 in the fastMRI multi-coil layout; {found}")
    return scans


def read_scan_info(path: PathLike) -> ScanInfo:
    """Read and validate all of a scan but its k-space samples.

    Raises:
        InputError: the file is missing, truncated, not HDF5 or of another layout; `kspace` is not complex
            (slice, coil, y, x) or has no slice; the mask has another size, other values than 0 and 1, or
            samples nothing.
    """
    path = Path(path)
    with _open_scan(path) as file:
        kspace = _kspace_dataset(file, path)
        slices, coils, rows, columns = (int(n) for n in kspace.shape)
        header = _read_header(file)
        return ScanInfo(
            path=path,
            volume=path.stem,
            shape=(slices, coils, rows, columns),
            recon_size=_recon_size(file, path, header, (slices, rows, columns)),
            mask=_read_mask(file, path, (rows, columns)),
            attributes=_read_attributes(file),
            header=header,
        )


def read_kspace(path: PathLike, slice_index: int) -> NDArray[np.complex64]:
    """Read the k-space of one slice, (C, y, x) complex64, centred, in the scanner's units.

    Raises:
        InputError: as `read_scan_info`; no such slice; NaN or Inf in it.
    """
    path = Path(path)
    with _open_scan(path) as file:
        kspace = _kspace_dataset(file, path)
        if not 0 <= slice_index < kspace.shape[0]:
            raise InputError(f"{path}: slice {slice_index} asked for; expected 0 to {kspace.shape[0] - 1}")
        with np.errstate(over="ignore"):  # complex128 beyond float32 becomes Inf, refused below
            samples = np.asarray(kspace[slice_index], dtype=np.complex64)
    refuse_non_finite(samples, f"{path}: kspace of slice {slice_index}")
    return samples


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
def _open_scan(path: Path) -> Iterator[h5py.File]:
    """Open for reading; whatever HDF5 cannot read becomes an InputError that names the file."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; {_LAYOUT}")
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError, KeyError) as error:
        raise InputError(
            f"{path}: cannot be read as HDF5, truncated, damaged or another format ({error}); {_LAYOUT}"
        ) from error


def _kspace_dataset(file: h5py.File, path: Path) -> h5py.Dataset:
    kspace = file.get("kspace")
    if not isinstance(kspace, h5py.Dataset):
        raise InputError(
            f"{path}: no dataset 'kspace', found {sorted(file)}; {_LAYOUT} "
            "(ISMRMRD raw data, as on mridata.org, and BART files are other layouts: convert them first)"
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
