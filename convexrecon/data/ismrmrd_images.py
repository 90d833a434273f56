"""Images as ISMRMRD files: magnitudes and complex images, for software of reconstruction pipelines.

Inati et al., Magn Reson Med 77:411 (2017). In HDF5: group `dataset` with `xml` and groups `image_0`, `image_1`, each of
`header` (N,), `data` (N, channels, z, y, x) and `attributes` (N,), N images; x is the readout, and fastest.
"""

from typing import Any, Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from convexrecon.data.atomic_hdf5 import atomic_hdf5
from convexrecon.data.fastmri import PathLike, refuse_non_finite
from convexrecon.errors import InputError

IMAGE_HEAD = np.dtype(
    [
        ("version", "<u2"),
        ("data_type", "<u2"),
        ("flags", "<u8"),
        ("measurement_uid", "<u4"),
        ("matrix_size", "<u2", (3,)),
        ("field_of_view", "<f4", (3,)),
        ("channels", "<u2"),
        *((name, "<f4", (3,)) for name in ("position", "read_dir", "phase_dir", "slice_dir", "patient_table_position")),
        *((name, "<u2") for name in ("average", "slice", "contrast", "phase", "repetition", "set")),
        ("acquisition_time_stamp", "<u4"),
        ("physiology_time_stamp", "<u4", (3,)),
        ("image_type", "<u2"),
        ("image_index", "<u2"),
        ("image_series_index", "<u2"),
        ("user_int", "<i4", (8,)),
        ("user_float", "<f4", (8,)),
        ("attribute_string_len", "<u4"),
    ]
)
"""The header of an image."""

_COMPLEX = np.dtype([("real", "<f4"), ("imag", "<f4")])
# Numbers of the standard.
_FLOAT, _CXFLOAT, _MAGNITUDE, _COMPLEX_IMAGE = 5, 7, 1, 5


def write_images(
    path: PathLike,
    image: NDArray[np.complex64],
    axes: Literal["slices", "zyx", "tyx"],
    *,
    voxel_mm: tuple[float, float, float] | None = None,
    header: bytes | None = None,
) -> None:
    """Write magnitudes as `image_0` and the complex images as `image_1`.

    Slices and frames are images (y, x) of their own, numbered by the counters slice and phase; a volume is one. Our
    axes become the standard's in their order, readout first: (y, x) its (x, y), (z, y, x) its (x, y, z).

    Args:
        path: the file to make.
        image: (slices, y, x), (z, y, x) or (t, y, x) complex.
        axes: which of these.
        voxel_mm: (z, y, x) size of a voxel, mm; 1 mm if None.
        header: XML of the scan.

    Raises:
        InputError: another number of axes, NaN or Inf, or a file that cannot be written.
    """
    values = np.asarray(image, np.complex64)
    if values.ndim != 3 or values.size == 0:
        raise InputError(f"{path}: image of shape {values.shape}; expected three axes, none of length zero")
    refuse_non_finite(values, f"{path}: the image")
    # (N, z, y, x) of the standard, reversed for its order: ours are (N, x, y, z).
    images = values[None] if axes == "zyx" else values[..., None]
    data = np.ascontiguousarray(images.transpose(0, 3, 2, 1))[:, None]
    z, y, x = voxel_mm or (1.0, 1.0, 1.0)
    sizes = (z, y, x) if axes == "zyx" else (y, x, z)
    heads = np.zeros(len(data), IMAGE_HEAD)
    heads["version"], heads["channels"] = 1, 1
    heads["matrix_size"] = data.shape[:1:-1]
    heads["field_of_view"] = np.array(sizes) * np.array(data.shape[:1:-1])
    heads["read_dir"], heads["phase_dir"], heads["slice_dir"] = np.eye(3, dtype=np.float32)
    heads["image_index"] = np.arange(1, len(data) + 1)
    heads["phase" if axes == "tyx" else "slice"] = np.arange(len(data))
    with atomic_hdf5(path) as file:
        group = file.create_group("dataset")
        if header is not None:
            group.create_dataset("xml", (1,), h5py.string_dtype())[0] = header.decode("utf-8", "replace")
        _write_series(group, 0, heads, np.abs(data), _FLOAT, _MAGNITUDE)
        _write_series(group, 1, heads, data.view(_COMPLEX), _CXFLOAT, _COMPLEX_IMAGE)


def _write_series(
    group: h5py.Group, number: int, heads: NDArray[Any], data: NDArray[Any], data_type: int, image_type: int
) -> None:
    series = heads.copy()
    series["data_type"], series["image_type"], series["image_series_index"] = data_type, image_type, number
    images = group.create_group(f"image_{number}")
    images.create_dataset("header", data=series)
    images.create_dataset("data", data=data)
    images.create_dataset("attributes", (len(data),), h5py.string_dtype())[:] = ""
