"""Scanner files in the fastMRI multi-coil HDF5 layout: read lazily, validated, written atomically.

Layout (Zbontar et al., fastMRI, arXiv:1811.08839, section 4): `kspace` (slice, coil, y, x) complex64,
centred (DC at N//2); `reconstruction_rss` (slice, y, x) float32; `ismrmrd_header` XML; optionally `mask`.
The readout is y, which the header calls x; the phase encode is x, which the header calls y.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import h5py
import numpy as np
import torch
from numpy.typing import NDArray

from convexrecon.atomic_write import atomic_path
from convexrecon.errors import InputError
from convexrecon.physics.fourier import centred_ifft, crop_centre

PathLike = str | os.PathLike[str]
Attribute = str | float | int

_LAYOUT = "expected the fastMRI multi-coil layout: dataset 'kspace' (slice, coil, y, x) complex64"
_ISMRMRD = "http://www.ismrm.org/ISMRMRD"


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
    _refuse_non_finite(samples, f"{path}: kspace of slice {slice_index}")
    return samples


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


@contextmanager
def atomic_hdf5(path: PathLike) -> Iterator[h5py.File]:
    """Write an HDF5 file that appears under its name only when complete, see `atomic_path`.

    Raises:
        InputError: the file cannot be written: no permission, a folder, or (told on closing) a full disk.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path}: is a folder; expected the name of a file to write")
    with ExitStack() as stack:
        try:
            temporary = stack.enter_context(atomic_path(path))
            raw = stack.enter_context(_DiskFile(temporary, "w+"))
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({error}); expected a writable place") from error
        with h5py.File(raw, "w") as file:
            yield file
        if raw.failure is not None:
            raise InputError(
                f"{path}: cannot be written ({raw.failure}); expected enough space on the disk"
            ) from raw.failure


class _DiskFile(FileIO):
    """A file that remembers a failed write instead of raising it.

    HDF5 cannot close a file it failed to write to: it raises on closing and crashes at interpreter exit. So
    it is left to think that all went well, and `atomic_hdf5` raises what happened.
    """

    failure: OSError | None = None

    def write(self, data: Any, /) -> int:
        view = memoryview(data).cast("B")
        done = 0
        try:
            while done < len(view) and self.failure is None:
                done += super().write(view[done:]) or 0
        except OSError as error:
            self.failure = error
        return len(view)

    def truncate(self, size: int | None = None, /) -> int:
        try:
            return super().truncate(size)
        except OSError as error:
            self.failure = self.failure or error
            return size or 0


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
        full_mask = None if mask is None else _full_mask(_as_array(mask), (rows, columns), f"{path}: mask")
        size = recon_size or (recon_size_from_header(header) if header else None) or (rows, columns)
        size = (min(size[0], rows), min(size[1], columns)) if recon_size is None else size
        with atomic_hdf5(path) as file:
            if header is not None:
                file.create_dataset("ismrmrd_header", data=header)
            if full_mask is not None:
                file.create_dataset("mask", data=full_mask)
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
        _refuse_non_finite(samples, where)
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
    return _full_mask(np.asarray(mask[()]), shape, f"{path}: mask")


def _full_mask(mask: NDArray[Any], shape: tuple[int, int], where: str) -> NDArray[np.bool_]:
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


def _as_array(value: Any) -> NDArray[Any]:
    return np.asarray(value.detach().cpu() if isinstance(value, torch.Tensor) else value)


def _refuse_non_finite(samples: NDArray[Any], where: str) -> None:
    bad = int(np.size(samples) - np.count_nonzero(np.isfinite(samples)))
    if bad:
        raise InputError(f"{where} holds {bad} values that are NaN or Inf; expected finite numbers")
