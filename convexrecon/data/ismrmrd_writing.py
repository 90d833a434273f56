"""K-space written as ISMRMRD files, atomically: for other programs, and for tests of the reader."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from convexrecon.data.atomic_hdf5 import atomic_hdf5
from convexrecon.data.fastmri import PathLike, refuse_non_finite
from convexrecon.data.ismrmrd_layout import ACQUISITION, NAMESPACE
from convexrecon.errors import InputError

_AT_ONCE = 1024
Size = tuple[int, int, int]
Millimetres = tuple[float, float, float]


def write_cartesian(
    path: PathLike,
    kspace: Any,
    axes: Literal["yx", "zyx", "tyx"],
    *,
    mask: Any = None,
    recon: Size | None = None,
    encoded_mm: Millimetres | None = None,
    recon_mm: Millimetres | None = None,
) -> None:
    """Write Cartesian k-space line by line; the inverse of `ismrmrd.read_cartesian`.

    Args:
        path: the .h5 file to make.
        kspace: (B, C, *N) complex, centred, the readout first among the spatial axes; B slices.
        axes: what N is; frames of "tyx" are numbered by the counter `phase`.
        mask: (B or 1, 1, *N), what was sampled: lines with no sample are left out. None: all of them.
        recon: matrix of the images, the header's (x, y, z): ours in their order; the encoded one if None.
        encoded_mm: encoded field of view, the header's (x, y, z); 1 mm a pixel if None.
        recon_mm: field of view of the images; the encoded one if None.

    Raises:
        InputError: shapes that do not fit, NaN or Inf, or a file that cannot be written.
    """
    values = np.asarray(kspace)
    if (
        axes not in ("yx", "zyx", "tyx")
        or values.ndim != 2 + len(axes)
        or values.dtype.kind != "c"
        or 0 in values.shape
    ):
        raise InputError(f"{path}: k-space {values.dtype} {values.shape}, axes {axes!r}; expected complex (B, C, *N)")
    refuse_non_finite(values, f"{path}: k-space")
    # (B, C, t, readout, phase 1, phase 2).
    if axes != "tyx":
        values = values[:, :, None]
    if axes != "zyx":
        values = values[..., None]
    taken = np.ones(values.shape, np.bool_)
    if mask is not None:
        given = np.asarray(mask)
        given = given if axes == "tyx" else np.expand_dims(given, 2)
        given = given if axes == "zyx" else given[..., None]
        try:
            taken = np.broadcast_to(given != 0, (len(values), 1, *values.shape[2:]))
        except ValueError as error:
            raise InputError(f"{path}: mask {np.shape(mask)}; expected (B or 1, 1, *N) of k-space") from error
    places = np.argwhere(taken[:, 0].any(2))
    if len(places) == 0:
        raise InputError(f"{path}: the mask samples nothing")
    size = (values.shape[3], values.shape[4], values.shape[5])

    def records() -> Iterable[np.void]:
        for b, t, first, second in places:
            record = _record(values[b, :, t, :, first, second], np.zeros((size[0], 0), np.float32))
            idx = record["head"]["idx"]
            idx["slice"], idx["phase"], idx["kspace_encode_step_1"], idx["kspace_encode_step_2"] = b, t, first, second
            yield record

    header = header_xml(size, recon or size, encoded_mm, recon_mm, trajectory="cartesian", coils=values.shape[1])
    _write(path, header, records(), len(places))


def write_samples(
    path: PathLike,
    samples: Any,
    coordinates: Any,
    encoded: Size,
    *,
    encoded_mm: Millimetres | None = None,
    trajectory: str = "other",
    attributes: Mapping[str, str | float | int] | None = None,
) -> None:
    """Write samples off the grid; the inverse of `ismrmrd_samples.read_samples`.

    Args:
        path: the .h5 file to make.
        samples: (B, C, shots, S) complex; B slices.
        coordinates: (shots, S, axes) or (B, shots, S, axes) real, in the units that a reader is to be told.
        encoded: matrix size, the header's (x, y, z): ours in their order, z = 1 in 2-D.
        encoded_mm: field of view; 1 mm a pixel if None.
        trajectory: the header's word: radial, spiral, goldenangle, epi or other.
        attributes: of the HDF5 file, for who knows them.

    Raises:
        InputError: shapes that do not fit, NaN or Inf, or a file that cannot be written.
    """
    values, where = np.asarray(samples), np.asarray(coordinates, np.float32)
    if values.ndim != 4 or values.dtype.kind != "c" or where.shape[-3:-1] != values.shape[2:]:
        raise InputError(
            f"{path}: samples {values.dtype} {values.shape}, coordinates {where.shape}; expected complex "
            "(B, C, shots, S) and (shots, S, d) or (B, shots, S, d)"
        )
    where = np.broadcast_to(where, (len(values), *where.shape[-3:]))
    refuse_non_finite(values, f"{path}: samples")
    refuse_non_finite(where, f"{path}: coordinates")

    def records() -> Iterable[np.void]:
        for b in range(len(values)):
            for shot in range(values.shape[2]):
                record = _record(values[b, :, shot], where[b, shot])
                record["head"]["idx"]["slice"], record["head"]["idx"]["kspace_encode_step_1"] = b, shot
                yield record

    header = header_xml(encoded, encoded, encoded_mm, None, trajectory=trajectory, coils=values.shape[1])
    _write(path, header, records(), len(values) * values.shape[2], attributes)


def header_xml(
    encoded: Size,
    recon: Size,
    encoded_mm: Millimetres | None = None,
    recon_mm: Millimetres | None = None,
    *,
    trajectory: str = "cartesian",
    coils: int = 1,
) -> bytes:
    """An ISMRMRD header that says what this library knows; the resonance frequency, which it demands, is 0.

    Sizes are (x, y, z) of the header: readout, phase encode 1, phase encode 2.
    """
    encoded_fov = encoded_mm or (float(encoded[0]), float(encoded[1]), float(encoded[2]))

    def three(name: str, values: Sequence[float]) -> str:
        return f"<{name}>" + "".join(f"<{a}>{v:g}</{a}>" for a, v in zip("xyz", values, strict=True)) + f"</{name}>"

    def limit(step: int, size: int) -> str:
        name = f"kspace_encoding_step_{step}"
        return f"<{name}><minimum>0</minimum><maximum>{size - 1}</maximum><center>{size // 2}</center></{name}>"

    def space(name: str, size: Sequence[int], fov: Sequence[float]) -> str:
        return f"<{name}>{three('matrixSize', size)}{three('fieldOfView_mm', fov)}</{name}>"

    return (
        f'<?xml version="1.0" encoding="utf-8"?>\n<ismrmrdHeader xmlns="{NAMESPACE}">'
        f"<acquisitionSystemInformation><receiverChannels>{coils}</receiverChannels></acquisitionSystemInformation>"
        "<experimentalConditions><H1resonanceFrequency_Hz>0</H1resonanceFrequency_Hz></experimentalConditions><encoding>"
        f"{space('encodedSpace', encoded, encoded_fov)}{space('reconSpace', recon, recon_mm or encoded_fov)}"
        f"<encodingLimits>{limit(1, encoded[1])}{limit(2, encoded[2])}</encodingLimits>"
        f"<trajectory>{trajectory}</trajectory></encoding></ismrmrdHeader>"
    ).encode()


def _record(samples: NDArray[Any], coordinates: NDArray[np.float32]) -> np.void:
    """One acquisition: samples (C, S), coordinates (S, axes)."""
    record = np.zeros(1, ACQUISITION)[0]
    coils, count = samples.shape
    head = record["head"]
    head["version"], head["number_of_samples"], head["center_sample"] = 1, count, count // 2
    head["available_channels"] = head["active_channels"] = coils
    head["trajectory_dimensions"] = coordinates.shape[1]
    record["data"] = np.ascontiguousarray(samples, np.complex64).ravel().view(np.float32)
    record["traj"] = np.ascontiguousarray(coordinates, np.float32).ravel()
    return record


def _write(
    path: PathLike,
    header: bytes,
    records: Iterable[np.void],
    count: int,
    attributes: Mapping[str, str | float | int] | None = None,
) -> None:
    remaining = iter(records)
    with atomic_hdf5(path) as file:
        file.attrs.update(attributes or {})
        group = file.create_group("dataset")
        group.create_dataset("xml", (1,), h5py.string_dtype())[0] = header.decode()
        data = group.create_dataset("data", (count,), ACQUISITION, maxshape=(None,), chunks=(min(count, _AT_ONCE),))
        for first in range(0, count, _AT_ONCE):
            part = np.empty(min(_AT_ONCE, count - first), ACQUISITION)
            for index, record in enumerate(islice(remaining, len(part))):
                part[index] = record
                part[index]["head"]["scan_counter"] = first + index
            data[first : first + len(part)] = part
