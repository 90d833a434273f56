"""Images between blocks, on disk: training reads and writes one slice at a time, so memory stays flat."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import h5py
import numpy as np
import torch
from torch import Tensor

from convexrecon.data.atomic_hdf5 import atomic_hdf5_in_parts
from convexrecon.data.dataset import Batch, PreparedSlices


def key_of(volume: str, slice_index: int) -> str:
    """The name of a slice in a store."""
    return f"{volume}/{slice_index}"


def keys_of(batch: Batch) -> list[str]:
    """The names of a batch's slices."""
    return [key_of(v, s) for v, s in zip(batch.volume, batch.slice_index, strict=True)]


def slice_keys(data: PreparedSlices) -> list[str]:
    """The names of all slices of a data set."""
    return [key_of(entry.volume, entry.slice_index) for entry in data.slices]


def write_store(path: Path, items: Iterable[tuple[Sequence[str], Tensor]]) -> None:
    """Write images (B, *N) under their names; the file appears when the last one is written.

    It is closed while the next images are made, so that memory is the same for any number of them.
    """
    with atomic_hdf5_in_parts(path) as part:
        with part():
            pass  # a store of nothing is a file, too
        for keys, images in items:
            with part() as file:
                for key, image in zip(keys, images, strict=True):
                    file.create_dataset(key, data=image.detach().cpu().numpy())


def read_store(path: Path, keys: Sequence[str]) -> Tensor:
    """Images of one shape stacked: (B, *N)."""
    with h5py.File(path, "r") as file:
        return torch.from_numpy(np.stack([file[key][()] for key in keys]))


def is_complete(path: Path, keys: Sequence[str]) -> bool:
    """Whether the store exists and holds every name."""
    if not path.exists():
        return False
    try:
        with h5py.File(path, "r") as file:
            return all(key in file for key in keys)
    except OSError:
        return False


def evenly_spaced(entries: Sequence[object], count: int) -> list[int]:
    """At most `count` indices spread evenly over the slices, the same for any batch size."""
    if len(entries) <= count:
        return list(range(len(entries)))
    return [round(k * (len(entries) - 1) / max(count - 1, 1)) for k in range(count)]
