"""Stacks of images from .npy, .npz and .h5 files, of whatever layout, as one list of complex slices."""

import math
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from convexrecon.errors import InputError

_PREFERRED = frozenset({"image", "images", "ri", "vol", "volume", "reconstruction_rss", "reconstruction"})
_NOT_IMAGES = frozenset({"kspace", "mask", "maps", "coord", "dcf"})
_SMALLEST = 8
_LAYOUTS = (
    "expected complex or magnitude (y, x), (slice, y, x) or (..., y, x), or real and imaginary parts "
    "(slice, 2, y, x), in a .npy, .npz or .h5 file"
)


@dataclass(frozen=True, eq=False)
class ImageStack:
    """Images of one file, read when indexed: ``stack[i]`` is (y, x) complex64.

    Attributes:
        path: the file.
        key: the array's name in it; empty for .npy.
        shape: (slices, y, x); all leading axes of the array are flattened into slices, the last fastest.
        is_complex: False where the file holds magnitudes, whose images here have zero phase.
        frames: length of the array's axis before (y, x), a volume's slices or a series' frames; None without one.
    """

    path: Path
    key: str
    shape: tuple[int, int, int]
    is_complex: bool
    _read: Callable[[int], NDArray[Any]]
    frames: int | None = None

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int) -> NDArray[np.complex64]:
        """One image (y, x) complex64, in the file's units; InputError for NaN or Inf in it."""
        if not 0 <= index < len(self):
            raise IndexError(f"{self.path}: image {index} asked for; expected 0 to {len(self) - 1}")
        with _reading(self.path):
            image = _as_complex(self._read(index))
        if not np.isfinite(image).all():
            raise InputError(f"{_name(self.path, self.key)}: NaN or Inf in image {index}; expected finite values")
        return image

    def __iter__(self) -> Iterator[NDArray[np.complex64]]:
        return (self[index] for index in range(len(self)))


def load_image_stack(path: str | os.PathLike[str], key: str | None = None) -> ImageStack:
    """Open a stack of images; only .npz arrays are read whole (once), the others slice by slice.

    Args:
        path: .npy, .npz, .h5 or .hdf5 file.
        key: the array's name. By default the only array that can be images, or the only one of those with a
            usual name (image, images, ri, vol, volume, reconstruction_rss, reconstruction).

    Raises:
        InputError: a missing, damaged or foreign file, no or several candidate arrays, or an array that is
            not a stack of images. Nothing is ever unpickled.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; {_LAYOUTS}")
    with _reading(path):
        if path.suffix == ".npy":
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            return _in_memory(path, key or "", array)
        if path.suffix == ".npz":
            return _load_npz(path, key)
        if path.suffix in {".h5", ".hdf5"}:
            return _load_hdf5(path, key)
    raise InputError(f"{path}: the name ends in {path.suffix or 'nothing'!r}; {_LAYOUTS}")


def _load_npz(path: Path, key: str | None) -> ImageStack:
    with np.load(path, allow_pickle=False) as archive:
        if key is None:
            arrays = {name: archive[name] for name in archive.files}
            key = _choose(path, {name: (array.shape, array.dtype) for name, array in arrays.items()})
            return _in_memory(path, key, arrays[key])
        if key not in archive.files:
            raise InputError(f"{path}: no array {key!r}, found {sorted(archive.files)}; {_LAYOUTS}")
        return _in_memory(path, key, archive[key])


def _in_memory(path: Path, key: str, array: NDArray[Any]) -> ImageStack:
    return _stack(path, key, array.shape, array.dtype, lambda index: array[index])


def _load_hdf5(path: Path, key: str | None) -> ImageStack:
    found: dict[str, tuple[tuple[int, ...], np.dtype]] = {}

    def note(name: str, node: object) -> None:
        if isinstance(node, h5py.Dataset):
            found[name] = (node.shape or (), node.dtype)

    with h5py.File(path, "r") as file:
        file.visititems(note)
    key = _choose(path, found) if key is None else key.strip("/")
    if key not in found:
        raise InputError(f"{path}: no array {key!r}, found {sorted(found)}; {_LAYOUTS}")

    def read(index: Any) -> NDArray[Any]:
        with h5py.File(path, "r") as file:
            return np.asarray(file[key][index])

    return _stack(path, key, *found[key], read)


def _choose(path: Path, found: dict[str, tuple[tuple[int, ...], np.dtype]]) -> str:
    """The one array that can be images, by its shape, kind and name."""
    candidates = [
        name
        for name, (shape, dtype) in found.items()
        if len(shape) >= 2
        and min(shape[-2:]) >= _SMALLEST
        and (dtype.kind in "iufc" or _is_complex_pair(dtype))
        and name.rsplit("/", 1)[-1] not in _NOT_IMAGES
    ]
    usual = [name for name in candidates if name.rsplit("/", 1)[-1] in _PREFERRED]
    for names in (usual, candidates):
        if len(names) == 1:
            return names[0]
    listing = ", ".join(f"{name} {shape} {dtype}" for name, (shape, dtype) in sorted(found.items())) or "none"
    how_many = "several arrays can be the images" if candidates else "no array can be the images"
    raise InputError(f"{path}: {how_many} (found: {listing}); name one as the key; {_LAYOUTS}")


def _stack(
    path: Path, key: str, shape: tuple[int, ...], dtype: np.dtype, read: Callable[[Any], NDArray[Any]]
) -> ImageStack:
    numeric = dtype.kind in "iufc" or _is_complex_pair(dtype)
    if not numeric or len(shape) < 2 or math.prod(shape) == 0 or min(shape[-2:]) < _SMALLEST:
        raise InputError(f"{_name(path, key)} is {dtype} of shape {shape}; {_LAYOUTS}")
    # Unsigned numbers cannot be real and imaginary parts, so two of them are two magnitudes.
    parts = len(shape) >= 4 and shape[-3] == 2 and dtype.kind in "if"
    leading = shape[:-3] if parts else shape[:-2]
    slices = math.prod(leading)

    def read_slice(index: int) -> NDArray[Any]:
        where = tuple(int(i) for i in np.unravel_index(index, leading)) if leading else ()
        return read(where)

    is_complex = parts or dtype.kind == "c" or _is_complex_pair(dtype)
    return ImageStack(
        path, key, (slices, int(shape[-2]), int(shape[-1])), is_complex, read_slice, leading[-1] if leading else None
    )


def _as_complex(values: NDArray[Any]) -> NDArray[np.complex64]:
    """One slice as stored, (y, x), (2, y, x) or compound, as (y, x) complex64."""
    with np.errstate(over="ignore"):  # beyond float32 becomes Inf, which the caller refuses
        if values.dtype.names is not None:
            real, imaginary = (values[name].astype(np.float32) for name in values.dtype.names)
            return np.asarray(real + np.complex64(1j) * imaginary)
        if values.ndim == 3:
            real, imaginary = values.astype(np.float32)
            return np.asarray(real + np.complex64(1j) * imaginary)
        return np.array(values, dtype=np.complex64)


def _is_complex_pair(dtype: np.dtype) -> bool:
    """A compound of two numbers, as ISMRMRD and MATLAB write complex values."""
    names = dtype.names or ()
    return len(names) == 2 and all(dtype[name].kind in "iuf" for name in names)


def _name(path: Path, key: str) -> str:
    return f"{path}: {key}" if key else f"{path}: the array"


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Whatever the file formats raise becomes an InputError that names the file."""
    try:
        yield
    except InputError:
        raise
    except (OSError, ValueError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path}: cannot be read, truncated, damaged or foreign ({error}); {_LAYOUTS}") from error
