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

Units = Literal["cycles/fov", "cycles/recon_fov", "cycles/pixel", "rad/pixel", "1/m"]

_SLACK = 1.01
# From where on an encoded field of view is oversampled, in those of the image.
_OVERSAMPLED = 1.2


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

    The standard leaves the units of coordinates open. With N the encoded matrix, L the encoded field of view and L_r
    that of the images: "cycles/fov" are taken as they are, "cycles/recon_fov" times ``L / L_r``, "cycles/pixel" times
    N, "rad/pixel" times ``N / (2 pi)``, "1/m" times L. None takes cycles per pixel where no coordinate exceeds 1/2,
    and cycles per field of view where the largest exceeds pi and none exceeds N/2: per that of the images where L is
    oversampled and no coordinate along its oversampled axes exceeds ``N/2 L_r / L``, which would leave the outer part
    of the encoded matrix empty. Whatever else may be several of these and is refused.
    One axis more than the image has is density compensation if it is not negative and not zero throughout; if it is
    zero it is dropped.
    Three-dimensional scans whose coordinates are of the plane, stacks of stars or spirals, have their third from the
    counter of the second phase encode, in cycles per field of view. Where that does not count, partitions are stored
    transformed, as slices, and are read as these.

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
        partitions = _partitions(raw, encoding, coordinates)
        planar = partitions is not None or _in_plane(raw, encoding, coordinates)
        order = _by_image(raw)
        header = raw.header
    where = f"{Path(path)}: coordinates"
    refuse_non_finite(samples, f"{Path(path)}: samples")
    refuse_non_finite(coordinates, where)
    own = 2 if planar else 3
    coordinates, weights = _weights(coordinates, own, where)
    found = _units(coordinates, encoding, units, where)
    coordinates = (coordinates * _factor(found, encoding, own, where)).astype(np.float32)
    if partitions is not None:
        third = np.broadcast_to(partitions[:, None, None], (*coordinates.shape[:2], 1))
        coordinates = np.concatenate([coordinates, third], -1)
    ndim = coordinates.shape[-1]
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


def _partitions(
    raw: RawAcquisitions, encoding: Encoding, coordinates: NDArray[np.float32]
) -> NDArray[np.float32] | None:
    """(acquisitions,) cycles per field of view of a stack's partitions; None of what is no stack."""
    steps = raw.heads["idx"]["kspace_encode_step_2"].astype(np.float32)
    if encoding.encoded[2] == 1 or len(np.unique(steps)) == 1 or not _spare_third(coordinates):
        return None
    middle = encoding.centers[1]
    return steps - np.float32(encoding.encoded[2] // 2 if middle is None else middle)


def _in_plane(raw: RawAcquisitions, encoding: Encoding, coordinates: NDArray[np.float32]) -> bool:
    """Whether what counts no partitions is in two dimensions: by its header, or by its coordinates and its slices."""
    several = coordinates.shape[-1] == 2 or len(np.unique(raw.heads["idx"]["slice"])) > 1
    return encoding.encoded[2] == 1 or (several and _spare_third(coordinates))


def _spare_third(coordinates: NDArray[np.float32]) -> bool:
    """Whether the third axis, if there is one, is no coordinate: never negative, as density compensation is."""
    return coordinates.shape[-1] == 2 or (coordinates.shape[-1] == 3 and bool((coordinates[..., 2] >= 0).all()))


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
    axes = coordinates.shape[-1]
    encoded = np.array(encoding.encoded[:axes])
    reach = np.abs(coordinates).reshape(-1, axes).max(0)
    largest = float(reach.max())
    if largest <= 0.5 * _SLACK:
        return "cycles/pixel"
    if math.pi * _SLACK < largest <= encoded.max() / 2 * _SLACK:
        larger = _oversampling(encoding, axes)
        wide = larger > _OVERSAMPLED
        inside = reach <= encoded / larger / 2 * _SLACK
        return "cycles/recon_fov" if wide.any() and inside[wide].all() else "cycles/fov"
    raise InputError(
        f"{where} reach {largest:g}, N = {encoding.encoded}: their units cannot be told; expected units to be given, "
        f"one of {', '.join(get_args(Units))}"
    )


def _oversampling(encoding: Encoding, axes: int) -> NDArray[np.float64]:
    """Encoded fields of view in those of the image; 1 where the header does not say."""
    if encoding.encoded_mm is None or encoding.recon_mm is None:
        return np.ones(axes)
    return np.array(encoding.encoded_mm[:axes]) / np.array(encoding.recon_mm[:axes])


def _factor(units: Units, encoding: Encoding, axes: int, where: str) -> NDArray[np.float64]:
    size = np.array(encoding.encoded[:axes], np.float64)
    if units == "1/m":
        if encoding.encoded_mm is None:
            raise InputError(f"{where} in 1/m, and the header has no encoded field of view; expected fieldOfView_mm")
        return np.array(encoding.encoded_mm[:axes]) / 1000
    if units == "cycles/recon_fov":
        return _oversampling(encoding, axes)
    return {"cycles/fov": np.ones(axes), "cycles/pixel": size, "rad/pixel": size / (2 * math.pi)}[units]
