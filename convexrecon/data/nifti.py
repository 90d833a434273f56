"""Images out as NIfTI, for viewers and for neuroimaging software; nibabel (extra `nifti`) does the writing."""

import gzip
import importlib
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from convexrecon.atomic_write import atomic_path
from convexrecon.data.fastmri import PathLike, refuse_non_finite
from convexrecon.errors import InputError

Axes = Literal["yx", "zyx", "tyx", "tzyx"]


def write_nifti(
    path: PathLike,
    image: Any,
    axes: Axes,
    *,
    voxel_mm: tuple[float, float, float] = (1.0, 1.0, 1.0),
    frame_seconds: float | None = None,
    affine: Any = None,
    keep_complex: bool = False,
) -> None:
    """Write an image, a volume or a series; axes are turned into NIfTI's order (x, y, z, t).

    Without an `affine` only the size of voxels is known, not how the patient lay: the origin is in the middle of the
    image, x, y and z grow with their index, and the file says "unknown" for its coordinates (codes 0), so
    that no viewer takes them for anatomical ones.

    Args:
        path: a name that ends in .nii or .nii.gz.
        image: as `axes` says, real or complex; array or tensor on the CPU. "zyx" may be slices or a volume.
        axes: "yx", "zyx", "tyx" or "tzyx".
        voxel_mm: (z, y, x) size of a voxel, mm.
        frame_seconds: time from frame to frame; 1 if None.
        affine: (4, 4), from index (x, y, z, 1) to mm in scanner coordinates, right, anterior, superior.
        keep_complex: write complex64 instead of magnitudes, which most viewers need.

    Raises:
        InputError: nibabel is not installed; another name; an array that is not as `axes` says, is empty or holds
            NaN or Inf; sizes that are not positive; an affine that is singular or of another shape.
    """
    nibabel = require_nibabel()
    path = Path(path)
    if not path.name.endswith((".nii", ".nii.gz")):
        raise InputError(f"{path}: expected a name that ends in .nii or .nii.gz")
    data = _in_nifti_order(image, axes, path)
    if np.iscomplexobj(data) and not keep_complex:
        data = np.abs(data)
    data = data.astype(np.complex64 if np.iscomplexobj(data) else np.float32)
    seconds = 1.0 if frame_seconds is None else frame_seconds
    if len(voxel_mm) != 3 or not all(0 < size < float("inf") for size in (*voxel_mm, seconds)):
        raise InputError(
            f"{path}: voxels {voxel_mm} mm, frames {frame_seconds} s; expected three positive sizes and a time"
        )
    matrix = _centred_affine(data.shape[:3], voxel_mm) if affine is None else np.asarray(affine, np.float64)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all() or abs(np.linalg.det(matrix)) < 1e-12:
        raise InputError(f"{path}: affine {matrix.tolist()}; expected a (4, 4) matrix that can be inverted")
    file = nibabel.Nifti1Image(data, matrix)
    code = 0 if affine is None else 1
    file.set_sform(matrix, code)
    file.set_qform(matrix, code)
    file.header.set_xyzt_units("mm", "sec")
    if data.ndim == 4:
        file.header["pixdim"][4] = seconds
    with atomic_path(path) as temporary:
        # atomic_path keeps the last suffix alone, and nibabel goes by the whole name.
        content = file.to_bytes()
        temporary.write_bytes(gzip.compress(content, 5, mtime=0) if path.name.endswith(".gz") else content)


def _in_nifti_order(image: Any, axes: str, path: Path) -> NDArray[Any]:
    values = np.asarray(image.detach().cpu() if hasattr(image, "detach") else image)
    if axes not in ("yx", "zyx", "tyx", "tzyx") or values.ndim != len(axes) or values.size == 0:
        raise InputError(f"{path}: image of shape {values.shape}, axes {axes!r}; expected one of yx, zyx, tyx, tzyx")
    if values.dtype.kind not in "biufc":
        raise InputError(f"{path}: image of {values.dtype}; expected numbers")
    refuse_non_finite(values, f"{path}: the image")
    if "z" not in axes:
        values = np.expand_dims(values, -3)
    return np.ascontiguousarray(values.transpose(tuple(reversed(range(values.ndim)))))


def _centred_affine(shape: tuple[int, ...], voxel_mm: tuple[float, float, float]) -> NDArray[np.float64]:
    size = np.array(voxel_mm[::-1])
    matrix = np.diag([*size, 1.0])
    matrix[:3, 3] = -size * (np.array(shape) // 2)
    return matrix


def require_nibabel() -> ModuleType:
    """The package nibabel; InputError where it is not installed."""
    if importlib.util.find_spec("nibabel") is None:
        raise InputError("NIfTI files need nibabel, which is not installed: pip install 'convexrecon[nifti]'")
    return importlib.import_module("nibabel")
