"""ISMRMRD raw data off the grid: samples and their trajectory, in cycles per field of view."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from convexrecon.data.fastmri import PathLike, refuse_non_finite
from convexrecon.data.ismrmrd_acquisitions import (
    RawAcquisitions,
    encoding_of,
    open_acquisitions,
    places,
    refuse_several,
)
from convexrecon.data.ismrmrd_layout import Encoding
from convexrecon.errors import InputError

Units = Literal["cycles/fov", "cycles/pixel", "rad/pixel", "1/m"]

_SLACK = 1.01


@dataclass(frozen=True, eq=False)
class NonCartesianScan:
    """A non-Cartesian ISMRMRD scan in the layout of this library.

    Samples have the image origin in the middle: they pass through `physics.nufft.uncentre_samples` and
    `NonCartesianSense.weigh` before anything else, with shots flattened.

    Attributes:
        path: the file.
        samples: (B, C, shots, S) complex64; B the slices, and frames of a series slice after slice.
        coordinates: (shots, S, d) float32, cycles per field of view, shared by all; or (B, shots, S, d). d = 2: (y, x),
            the header's (x, y); d = 3: (z, y, x), its (x, y, z).
        weights: (shots, S) or (B, shots, S) density compensation that the file holds; None where it holds none.
        units: of the file's coordinates, as asked for or found.
        encoding: what the header says.
        header: the XML header.
    """

    path: Path
    samples: NDArray[np.complex64]
    coordinates: NDArray[np.float32]
    weights: NDArray[np.float32] | None
    units: Units
    encoding: Encoding
    header: bytes


def read_samples(
    path: PathLike, *, units: Units | None = None, select: Mapping[str, int] | None = None, group: str = "dataset"
) -> NonCartesianScan:
    """Read the shots of a scan and where in k-space they are, in the order of the file.

    The standard leaves the units of coordinates open. With N the encoded matrix and L the encoded field of view:
    "cycles/fov" are taken as they are, "cycles/pixel" times N, "rad/pixel" times ``N / (2 pi)``, "1/m" times L. None
    takes cycles per pixel where no coordinate exceeds 1/2, and cycles per field of view where the largest exceeds pi
    and none exceeds N/2; whatever else may be several of these and is refused.
    One axis more than the image has is density compensation if it is not negative and not zero throughout; if it is
    zero it is dropped.

    Args:
        path: the .h5 file.
        units: of its coordinates.
        select: which value of counters to take, as for `ismrmrd.read_cartesian`.
        group: of the file.

    Raises:
        InputError: as `ismrmrd.read_cartesian`; acquisitions without coordinates, or of several lengths; slices or
            frames of different numbers of shots; coordinates outside k-space or of units that cannot be told.
    """
    with open_acquisitions(path, select=select, group=group) as raw:
        encoding = encoding_of(raw)
        refuse_several(raw, "contrast", "set")
        samples, coordinates = _read(raw)
        order = _by_image(raw)
        header = raw.header
    where = f"{Path(path)}: coordinates"
    refuse_non_finite(samples, f"{Path(path)}: samples")
    refuse_non_finite(coordinates, where)
    ndim = 2 if encoding.encoded[2] == 1 else 3
    coordinates, weights = _weights(coordinates, ndim, where)
    found = _units(coordinates, encoding, units, where)
    coordinates = (coordinates * _factor(found, encoding, ndim, where)).astype(np.float32)
    limits = np.array(encoding.encoded[:ndim]) / 2
    if np.any(np.abs(coordinates) > limits * _SLACK):
        reach = np.abs(coordinates).reshape(-1, ndim).max(0)
        raise InputError(
            f"{where} reach {reach.tolist()} cycles per field of view in {found}; expected {limits.tolist()}"
        )
    coordinates = np.clip(coordinates, -limits, limits).astype(np.float32)[order]
    kspace = np.ascontiguousarray(samples[order].swapaxes(1, 2))
    shared = bool((coordinates == coordinates[:1]).all())
    if weights is not None:
        weights = weights[order]
        shared = shared and bool((weights == weights[:1]).all())
        weights = weights[0] if shared else weights
    return NonCartesianScan(
        Path(path), kspace, coordinates[0] if shared else coordinates, weights, found, encoding, header
    )


def _read(raw: RawAcquisitions) -> tuple[NDArray[np.complex64], NDArray[np.float32]]:
    """(acquisitions, C, S) and (acquisitions, S, axes)."""
    for name in ("number_of_samples", "active_channels", "trajectory_dimensions", "discard_pre", "discard_post"):
        values = np.unique(raw.heads[name])
        if len(values) > 1:
            raise InputError(f"{raw.path}: acquisitions with {name} {values.tolist()[:8]}; expected one value")
    if int(raw.heads["trajectory_dimensions"][0]) < 2:
        raise InputError(f"{raw.path}: acquisitions have no coordinates of two axes or more; expected a trajectory")
    data, places_ = [], []
    for _, samples, coordinates in raw.samples():
        data += samples
        places_ += coordinates
    kept = slice(int(raw.heads["discard_pre"][0]), data[0].shape[1] - int(raw.heads["discard_post"][0]))
    return np.stack(data)[..., kept], np.stack(places_)[:, kept]


def _by_image(raw: RawAcquisitions) -> NDArray[np.int64]:
    """(B, shots): the acquisitions of every slice and frame, in the order of the file."""
    image = np.zeros(len(raw.heads), np.int64)
    for counter in ("slice", "repetition", "phase"):
        position, count = places(raw, counter)
        image = image * count + position
    _, position, shots = np.unique(image, return_inverse=True, return_counts=True)
    if len(np.unique(shots)) > 1:
        raise InputError(
            f"{raw.path}: slices or frames of {sorted(set(shots.tolist()))} shots; expected as many for each"
        )
    return np.argsort(position.reshape(-1), kind="stable").reshape(-1, int(shots[0]))


def _weights(
    coordinates: NDArray[np.float32], ndim: int, where: str
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    axes = coordinates.shape[-1]
    if axes not in (ndim, ndim + 1):
        raise InputError(f"{where} have {axes} axes; expected {ndim}, or {ndim + 1} with density compensation")
    if axes == ndim or not coordinates[..., ndim].any():
        return coordinates[..., :ndim], None
    weights = coordinates[..., ndim]
    if weights.min() < 0:
        raise InputError(f"{where}: axis {ndim + 1} of an image in {ndim}-D is negative; expected density compensation")
    return coordinates[..., :ndim], weights


def _units(coordinates: NDArray[np.float32], encoding: Encoding, units: Units | None, where: str) -> Units:
    if units is not None:
        if units not in get_args(Units):
            raise InputError(f"units: {units!r}; expected one of {', '.join(get_args(Units))}")
        return units
    largest = float(np.abs(coordinates).max())
    if largest <= 0.5 * _SLACK:
        return "cycles/pixel"
    if math.pi * _SLACK < largest <= max(encoding.encoded) / 2 * _SLACK:
        return "cycles/fov"
    raise InputError(
        f"{where} reach {largest:g}, N = {encoding.encoded}: their units cannot be told; expected units to be given, "
        f"one of {', '.join(get_args(Units))}"
    )


def _factor(units: Units, encoding: Encoding, ndim: int, where: str) -> NDArray[np.float64]:
    size = np.array(encoding.encoded[:ndim], np.float64)
    if units == "1/m":
        if encoding.encoded_mm is None:
            raise InputError(f"{where} in 1/m, and the header has no encoded field of view; expected fieldOfView_mm")
        return np.array(encoding.encoded_mm[:ndim]) / 1000
    return {"cycles/fov": np.ones(ndim), "cycles/pixel": size, "rad/pixel": size / (2 * math.pi)}[units]
