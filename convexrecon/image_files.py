"""Reconstructed images in the format that the name of their file asks for."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import h5py
import numpy as np

from convexrecon.data.atomic_hdf5 import atomic_hdf5
from convexrecon.data.bart import to_bart, write_cfl
from convexrecon.data.ismrmrd_images import write_images
from convexrecon.data.nifti import require_nibabel, write_nifti
from convexrecon.data.prepared_files import Layout
from convexrecon.errors import InputError

ImageFormat = Literal["h5", "nifti", "bart", "ismrmrd"]

_SUFFIXES: dict[str, ImageFormat] = {
    ".h5": "h5",
    ".hdf5": "h5",
    ".nii": "nifti",
    ".nii.gz": "nifti",
    ".cfl": "bart",
    ".mrd": "ismrmrd",
}


def image_format(out: Path | str) -> ImageFormat:
    """The format that a name asks for by its suffix.

    Raises:
        InputError: another suffix; NIfTI without nibabel.

    >>> image_format("images.mrd")
    'ismrmrd'
    """
    name = Path(out).name
    for suffix, found in _SUFFIXES.items():
        if name.endswith(suffix) and name != suffix:
            if found == "nifti":
                require_nibabel()
            return found
    raise InputError(f"{out}: expected a name that ends in {', '.join(_SUFFIXES)}, by which the format is chosen")


@contextmanager
def image_file(
    out: Path | str,
    layout: Layout,
    *,
    voxel_mm: tuple[float, float, float] | None = None,
    header: bytes | None = None,
    keep_complex: bool = False,
) -> Iterator[h5py.File]:
    """An HDF5 file for `reconstruction_complex` (slice, y, x) and more, in the format of `out` once it is complete.

    HDF5 keeps all that is written, ISMRMRD magnitudes and complex images, BART complex images, NIfTI magnitudes, or
    complex images on demand, with the size of voxels.

    Args:
        out: what to write; its suffix says how.
        layout: "slices", "volume" or "cine".
        voxel_mm: (z, y, x) size of a voxel, mm; 1 mm if None.
        header: ISMRMRD XML of the scan.
        keep_complex: whether NIfTI gets complex images, which few viewers show.

    Raises:
        InputError: as `image_format`; a file that cannot be written.
    """
    kind, path = image_format(out), Path(out)
    if kind == "h5":
        with atomic_hdf5(path) as file:
            yield file
        return
    # Images are small beside k-space: those of other formats wait in memory until the last is there.
    with h5py.File("images", "w", driver="core", backing_store=False) as file:
        yield file
        image = np.asarray(file["reconstruction_complex"], np.complex64)
    try:
        if kind == "nifti":
            axes: Literal["tyx", "zyx"] = "tyx" if layout == "cine" else "zyx"
            write_nifti(path, image, axes, voxel_mm=voxel_mm or (1.0, 1.0, 1.0), keep_complex=keep_complex)
        elif kind == "ismrmrd":
            names: dict[Layout, Literal["slices", "zyx", "tyx"]] = {"slices": "slices", "volume": "zyx", "cine": "tyx"}
            write_images(path, image, names[layout], voxel_mm=voxel_mm, header=header)
        elif layout == "slices":
            write_cfl(path, to_bart(image[:, None], "yx"))
        else:
            write_cfl(path, to_bart(image[None, None], "tyx" if layout == "cine" else "zyx"))
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error}); expected a writable place") from error
