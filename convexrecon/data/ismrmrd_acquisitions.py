"""The acquisitions of an ISMRMRD file: heads as one array, samples many at a time, lengths checked.

Records of h5py read one by one would be some sixty times slower.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from convexrecon.data.fastmri import PathLike
from convexrecon.data.ismrmrd_layout import COUNTERS, NOISE, NOT_IMAGING, Encoding, flagged, parse_header
from convexrecon.errors import InputError

_LAYOUT = "expected an ISMRMRD file: group 'dataset' with 'xml' and 'data'"
_AT_ONCE = 4096


@dataclass(frozen=True, eq=False)
class RawAcquisitions:
    """An open file's acquisitions that make an image; `open_acquisitions` gives it.

    Attributes:
        path: the file.
        header: the XML header.
        heads: (acquisitions,) structured, see `ismrmrd_layout.HEAD`.
        rows: (acquisitions,) their numbers in the file, increasing.
        noise_rows: those of noise measurements.
        records: the HDF5 dataset.
    """

    path: Path
    header: bytes
    heads: NDArray[Any]
    rows: NDArray[np.int64]
    noise_rows: NDArray[np.int64]
    records: h5py.Dataset

    def samples(self) -> Iterator[tuple[slice, list[NDArray[np.complex64]], list[NDArray[np.float32]]]]:
        """(range of `heads`, samples (C, S) of each, coordinates (S, d) of each), some thousand at a time.

        Raises:
            InputError: an acquisition that is not as long as its head says, or with NaN or Inf in it.
        """
        for first in range(0, len(self.rows), _AT_ONCE):
            part = slice(first, min(first + _AT_ONCE, len(self.rows)))
            records = _read_rows(self.records, self.rows[part])
            data = [_samples_of(record, self, part.start + k) for k, record in enumerate(records["data"])]
            trajectories = [_coordinates_of(record, self, part.start + k) for k, record in enumerate(records["traj"])]
            yield part, data, trajectories

    def noise(self) -> NDArray[np.complex64] | None:
        """(C, samples) of the noise measurements, one after the other."""
        if len(self.noise_rows) == 0:
            return None
        records = _read_rows(self.records, self.noise_rows)
        counts = [int(record["head"]["active_channels"]) for record in records]
        parts = [_as_complex(d).reshape(c, -1) for d, c in zip(records["data"], counts, strict=True) if c > 0]
        return np.concatenate(parts, 1) if parts and len(set(counts)) == 1 else None


@contextmanager
def open_acquisitions(
    path: PathLike, *, select: Mapping[str, int] | None = None, group: str = "dataset"
) -> Iterator[RawAcquisitions]:
    """Open a file and read the heads of its acquisitions; those that make no image are left out.

    Raises:
        InputError: as `read_cartesian`.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; {_LAYOUT}")
    try:
        with h5py.File(path, "r") as file:
            yield _raw(file, path, dict(select or {}), group)
    except InputError:
        raise
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise InputError(
            f"{path}: cannot be read, truncated, damaged or another format ({error}); {_LAYOUT}"
        ) from error


def _raw(file: h5py.File, path: Path, select: dict[str, int], group: str) -> RawAcquisitions:
    node = file.get(group)
    found = sorted(node) if isinstance(node, h5py.Group) else sorted(file)
    xml = node.get("xml") if isinstance(node, h5py.Group) else None
    records = node.get("data") if isinstance(node, h5py.Group) else None
    if not isinstance(xml, h5py.Dataset) or not isinstance(records, h5py.Dataset):
        missing = "xml" if isinstance(records, h5py.Dataset) else "data"
        raise InputError(f"{path}: no '{group}/{missing}', found {found}; {_LAYOUT}")
    if set(records.dtype.names or ()) < {"head", "traj", "data"} or records.ndim != 1:
        raise InputError(
            f"{path}: '{group}/data' is {records.dtype} {records.shape}; expected acquisitions head, traj, data"
        )
    text = np.asarray(xml[()]).ravel()
    header = text[0] if text.size else b""
    heads = _read_heads(records)
    noise = flagged(heads["flags"], (NOISE,))
    wanted = ~flagged(heads["flags"], NOT_IMAGING)
    for name, value in select.items():
        if name not in COUNTERS:
            raise InputError(f"select: counter {name!r}; expected one of {', '.join(COUNTERS)}")
        wanted &= heads["idx"][name] == value
    rows = np.flatnonzero(wanted)
    if len(rows) == 0:
        chosen = f" with {select}" if select else ""
        raise InputError(f"{path}: none of its {len(heads)} acquisitions makes an image{chosen}; expected at least one")
    return RawAcquisitions(
        path,
        header.encode() if isinstance(header, str) else bytes(header),
        heads[rows],
        rows,
        np.flatnonzero(noise),
        records,
    )


def encoding_of(raw: RawAcquisitions) -> Encoding:
    """What the header says of the one encoding space that the acquisitions are of; InputError for several."""
    spaces = np.unique(raw.heads["encoding_space_ref"])
    if len(spaces) > 1:
        raise InputError(f"{raw.path}: acquisitions of encoding spaces {spaces.tolist()}; expected one")
    return parse_header(raw.header, str(raw.path), int(spaces[0]))


def places(raw: RawAcquisitions, counter: str) -> tuple[NDArray[np.int64], int]:
    """Each acquisition's place among the different values of a counter, and how many there are."""
    values, inverse = np.unique(raw.heads["idx"][counter], return_inverse=True)
    return inverse.reshape(-1), len(values)


def refuse_several(raw: RawAcquisitions, *counters: str) -> None:
    """InputError where one of the counters has several values: it has no place in k-space."""
    for counter in counters:
        values = np.unique(raw.heads["idx"][counter])
        if len(values) > 1:
            raise InputError(
                f"{raw.path}: {counter} has values {values.tolist()[:8]}; expected one: select={{{counter!r}: "
                f"{int(values[0])}}}, on the command line --select {counter}={int(values[0])}, takes the first"
            )


def _read_heads(records: h5py.Dataset) -> NDArray[Any]:
    """The heads alone, from the bytes of the file where they are not compressed.

    HDF5 reads the samples too when asked for the heads, and HDF5 2.0 keeps all of them in memory then for good.
    """
    whole = records.id.get_type()
    place = whole.get_member_index(b"head")
    found, expected = whole.get_member_type(place).get_size(), records.dtype["head"].itemsize
    if records.chunks is None or records.id.get_create_plist().get_nfilters() or found != expected or not len(records):
        parts = [records[first : first + _AT_ONCE]["head"].copy() for first in range(0, len(records), _AT_ONCE)]
        return np.concatenate(parts) if parts else np.zeros(0, records.dtype["head"])
    record = np.dtype(
        {
            "names": ["head"],
            "formats": [records.dtype["head"]],
            "offsets": [whole.get_member_offset(place)],
            "itemsize": whole.get_size(),
        }
    )
    starts = range(0, len(records), records.chunks[0])
    chunks = [np.frombuffer(records.id.read_direct_chunk((first,))[1], record)["head"] for first in starts]
    return np.concatenate(chunks)[: len(records)]


def _read_rows(records: h5py.Dataset, rows: NDArray[np.int64]) -> NDArray[Any]:
    # A range and then a selection in memory: HDF5 is slow at reading scattered records.
    first = int(rows[0])
    return np.asarray(records[first : int(rows[-1]) + 1])[rows - first]


def _as_complex(values: NDArray[Any]) -> NDArray[np.complex64]:
    """Samples of one record: real and imaginary parts in turn, or the compounds of early versions."""
    if values.dtype.names is not None and len(values.dtype.names) == 2:
        real, imaginary = (values[name].astype(np.float32) for name in values.dtype.names)
        return np.asarray(real + np.complex64(1j) * imaginary, np.complex64)
    return np.ascontiguousarray(values, np.float32)[: len(values) // 2 * 2].view(np.complex64)


def _samples_of(record: NDArray[Any], raw: RawAcquisitions, index: int) -> NDArray[np.complex64]:
    head = raw.heads[index]
    coils, count = int(head["active_channels"]), int(head["number_of_samples"])
    values = _as_complex(record)
    if values.size != coils * count or values.size == 0 or (record.dtype.names is None and len(record) % 2):
        raise InputError(
            f"{raw.path}: acquisition {raw.rows[index]} holds {len(record)} numbers; expected {coils} coils x {count} "
            "complex samples as its head says"
        )
    return values.reshape(coils, count)


def _coordinates_of(record: NDArray[Any], raw: RawAcquisitions, index: int) -> NDArray[np.float32]:
    head = raw.heads[index]
    axes, count = int(head["trajectory_dimensions"]), int(head["number_of_samples"])
    if len(record) != axes * count:
        raise InputError(
            f"{raw.path}: acquisition {raw.rows[index]} holds {len(record)} coordinates; expected {count} samples x "
            f"{axes} axes as its head says"
        )
    return np.asarray(record, np.float32).reshape(count, axes)
