"""Arrays of BART, in and out: a text header `.hdr` and complex numbers `.cfl`, first axis fastest.

BART (Uecker et al., ISMRM 2486, 2015; mrirecon.github.io/bart) gives every axis a meaning: 0 readout, 1 and 2
phase encodes, 3 coil, 4 set of maps, 10 time, 13 slice. Here the axes of an image are those of the scanner in the same
order: (y, x) is (readout, phase encode 1), (z, y, x) is (readout, phase encode 1, phase encode 2).
K-space of both has DC at N//2, trajectories of both are in cycles per field of view.
"""

from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from convexrecon.atomic_write import atomic_path
from convexrecon.data.fastmri import PathLike, refuse_non_finite
from convexrecon.errors import InputError

DIMENSIONS = 16
READ, PHASE_1, PHASE_2, COIL, MAPS, TIME, SLICE = 0, 1, 2, 3, 4, 10, 13

Axes = Literal["yx", "zyx", "tyx"]

_IMAGE_AXES: dict[str, tuple[int, ...]] = {
    "yx": (READ, PHASE_1),
    "zyx": (READ, PHASE_1, PHASE_2),
    "tyx": (TIME, READ, PHASE_1),
}
_FILES = "expected NAME.hdr with a line '# Dimensions' and sizes below it, and NAME.cfl of complex64 samples"


def read_cfl(path: PathLike) -> NDArray[np.complex64]:
    """Map a BART array into memory, read-only; samples are read from disk when they are used.

    Args:
        path: NAME, NAME.cfl or NAME.hdr.

    Returns:
        complex64 of the header's dimensions, filled up with ones to 16, in BART's order.

    Raises:
        InputError: a file is missing; a header without dimensions, or with sizes that are no whole numbers above
            zero; a .cfl whose length is not that of its header (truncated, or of another type).
    """
    header, samples = _paths(path)
    for file in (header, samples):
        if not file.is_file():
            raise InputError(f"{file}: no such file; {_FILES}")
    shape = _dimensions(header)
    expected = 8 * int(np.prod(shape, dtype=object))
    found = samples.stat().st_size
    if found != expected:
        listing = " x ".join(str(n) for n in shape if n > 1) or "1"
        raise InputError(f"{samples}: {found} bytes; expected {expected}, complex64 of {listing} as {header.name} says")
    return np.memmap(samples, np.dtype("<c8"), "r", shape=shape, order="F")


def write_cfl(path: PathLike, array: Any) -> None:
    """Write an array of at most 16 axes in BART's order to NAME.cfl and NAME.hdr; `path` is NAME or one of them.

    Raises:
        InputError: an array that is empty, has more axes, or holds NaN or Inf.
    """
    header, samples = _paths(path)
    values = np.asarray(array)
    if values.ndim > DIMENSIONS or values.size == 0 or values.dtype.kind not in "biufc":
        raise InputError(
            f"{samples}: {values.dtype} of shape {values.shape}; expected numbers with at most {DIMENSIONS} axes, none "
            "of length zero"
        )
    refuse_non_finite(values, f"{samples}: the array")
    shape = (*values.shape, *[1] * (DIMENSIONS - values.ndim))
    with atomic_path(samples) as temporary, temporary.open("wb") as file:
        # One hyperplane of the slowest axis at a time, so that memory holds no second copy.
        slowest: NDArray[Any] = np.atleast_1d(values)
        for index in range(slowest.shape[-1]):
            file.write(np.asarray(slowest[..., index], "<c8").tobytes(order="F"))
    with atomic_path(header) as temporary:
        temporary.write_text("# Dimensions\n" + " ".join(map(str, shape)) + "\n", encoding="ascii")


def from_bart(array: NDArray[Any], axes: Axes, *, map_set: int | None = None) -> NDArray[np.complex64]:
    """BART's k-space, maps or coil images in the layout of this library.

    Args:
        array: as `read_cfl` gives it, centred.
        axes: "yx": slices (dimension 13), as volumes (B, C, y, x); "zyx": a volume; "tyx": series, time in
            dimension 10.
        map_set: which set of maps (dimension 4) to take; needed where there are several, as by ESPIRiT with
            BART's default of two.

    Returns:
        (B, C, *N) complex64, centred, B the slices; C is 1 where there is no coil axis.

    Raises:
        InputError: unknown axes; an axis longer than one that has no place in them; NaN or Inf.
    """
    order = (SLICE, COIL, *_axes(axes))
    full = array.reshape((*array.shape, *[1] * (DIMENSIONS - array.ndim)))
    if full.shape[MAPS] > 1:
        if map_set is None or not 0 <= map_set < full.shape[MAPS]:
            raise InputError(f"bart: {full.shape[MAPS]} sets of maps, asked for set {map_set}; expected one of them")
        full = full.take([map_set], MAPS)
    left = {axis: size for axis, size in enumerate(full.shape) if size > 1 and axis not in order}
    if left:
        raise InputError(
            f"bart: dimensions {left} of {array.shape} (number: size) have no place in axes {axes!r}; expected size 1"
        )
    rest = tuple(axis for axis in range(full.ndim) if axis not in order)
    values = full.transpose(*order, *rest).reshape([full.shape[axis] for axis in order])
    refuse_non_finite(values, "bart: the array")
    return np.ascontiguousarray(values, np.complex64)


def to_bart(array: Any, axes: Axes) -> NDArray[np.complex64]:
    """(B, C, *N), centred, in BART's order of 16 dimensions: the inverse of `from_bart`.

    Raises:
        InputError: unknown axes, or an array of another number of axes.
    """
    order = (SLICE, COIL, *_axes(axes))
    values = np.asarray(array, np.complex64)
    if values.ndim != len(order):
        raise InputError(f"bart: expected (B, C, {', '.join(axes)}), found shape {values.shape}")
    rest = [axis for axis in range(DIMENSIONS) if axis not in order]
    full = values.reshape((*values.shape, *[1] * len(rest)))
    return full.transpose(np.argsort([*order, *rest]))


def trajectory_from_bart(array: NDArray[Any], *, ndim: int) -> NDArray[np.float32]:
    """A trajectory (3, samples, shots) of BART as (shots, samples, d), in cycles per field of view.

    Args:
        array: as `read_cfl` gives it; real, with zeros in the third row for images in 2-D.
        ndim: d, 2 or 3: the first two rows or all three, (y, x) or (z, y, x).

    Raises:
        InputError: another shape, values that are not real and finite, or a third row in use for 2-D.
    """
    values = array.reshape((*array.shape, *[1] * (DIMENSIONS - array.ndim)))
    if values.shape[0] != 3 or ndim not in (2, 3) or int(np.prod(values.shape[3:])) != 1:
        raise InputError(f"bart: trajectory of shape {array.shape}, ndim {ndim}; expected (3, samples, shots), 2 or 3")
    values = values.reshape(values.shape[:3])
    refuse_non_finite(values, "bart: the trajectory")
    if np.any(values.imag) or (ndim == 2 and np.any(values[2])):
        raise InputError("bart: trajectory with imaginary parts, or with a third coordinate where ndim is 2")
    return np.ascontiguousarray(values.real[:ndim].transpose(2, 1, 0), np.float32)


def samples_from_bart(array: NDArray[Any]) -> NDArray[np.complex64]:
    """Non-Cartesian samples (1, samples, shots, coils, ..., slices) of BART as (B, C, shots, samples), B the slices."""
    values = array.reshape((*array.shape, *[1] * (DIMENSIONS - array.ndim)))
    if values.shape[0] != 1 or int(np.prod(values.shape)) != int(np.prod(values.shape[:4])) * values.shape[SLICE]:
        raise InputError(f"bart: samples of shape {array.shape}; expected (1, samples, shots, coils), slices in 13")
    moved = values.reshape((*values.shape[1:4], values.shape[SLICE])).transpose(3, 2, 1, 0)
    refuse_non_finite(moved, "bart: the samples")
    return np.ascontiguousarray(moved, np.complex64)


def _axes(axes: str) -> tuple[int, ...]:
    if axes not in _IMAGE_AXES:
        raise InputError(f"bart: axes {axes!r}; expected one of {', '.join(_IMAGE_AXES)}")
    return _IMAGE_AXES[axes]


def _paths(path: PathLike) -> tuple[Path, Path]:
    """NAME.hdr and NAME.cfl; a name may have dots of its own."""
    path = Path(path)
    name = path.name[:-4] if path.suffix in {".cfl", ".hdr"} else path.name
    return path.with_name(name + ".hdr"), path.with_name(name + ".cfl")


def _dimensions(header: Path) -> tuple[int, ...]:
    lines = header.read_text(encoding="utf-8", errors="replace").splitlines()
    below = [after for line, after in pairwise(lines) if line.strip() == "# Dimensions"]
    words = below[0].split() if below else []
    sizes = [int(word) for word in words if word.isascii() and word.isdigit()]
    if not words or len(sizes) != len(words) or min(sizes) < 1 or len(sizes) > DIMENSIONS:
        found = repr(below[0][:80]) if below else "no such line"
        raise InputError(f"{header}: dimensions {found}; {_FILES} (1 to {DIMENSIONS} whole numbers above zero)")
    return (*sizes, *[1] * (DIMENSIONS - len(sizes)))
