"""Prepared volumes as undersampled samples, one at a time: host memory does not grow with the data set.

A sample is a slice, a series or a volume (a slab of one): `data.prepared_files` says what is in a file.
"""

import math
from collections.abc import Hashable, Iterator, Sequence
from copy import copy
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from convexrecon.data import sample_batch
from convexrecon.data.order_statistic import order_statistics
from convexrecon.data.prepared_files import SliceKey, read_sample, samples_of_folder
from convexrecon.data.prepared_shots import SHOT_LAYOUTS, load_shots, shots_kept
from convexrecon.data.sample_batch import Batch as Batch
from convexrecon.data.sample_batch import bright
from convexrecon.data.sample_batch import stack as stack
from convexrecon.errors import InputError
from convexrecon.physics.fourier import uncentre
from convexrecon.physics.masks import MaskSettings, sampling_mask
from convexrecon.physics.sense import Sense
from convexrecon.physics.shot_sampling import check_kind
from convexrecon.seeding import derive_seed, generator

Item = TypeVar("Item")
# Sampling is of the last two axes always: the first of three is time, or a readout that is transformed already.
PLANE = 2


class PreparedSlices:
    """The samples of a folder of prepared volumes, undersampled by masks seeded with the volume's name.

    Args:
        folder: made by `prepare`.
        mask: how to undersample; all slices of a volume share one mask, as in a scan, and every frame has its own.
        seed: of the masks.
        volumes: names of the volumes to take; all if None.
        slab: how many slices of a prepared volume are a sample; all if None.

    Raises:
        InputError: the folder is missing, empty, of several layouts, or holds scans that are not prepared.
    """

    def __init__(
        self,
        folder: Path | str,
        mask: MaskSettings,
        *,
        seed: int = 0,
        volumes: Sequence[str] | None = None,
        slab: int | None = None,
    ) -> None:
        self.folder, self.mask, self.seed, self.slab = Path(folder), mask, seed, slab
        self.layout, keys = samples_of_folder(self.folder, slab)
        names = {key.volume for key in keys}
        missing = sorted(set(volumes or ()) - names)
        if missing:
            raise InputError(f"{self.folder}: no volume {missing[0]!r}; found {', '.join(sorted(names))}")
        self.slices = tuple(key for key in keys if volumes is None or key.volume in volumes)
        if self.off_grid:
            check_kind(mask)

    def __len__(self) -> int:
        return len(self.slices)

    @property
    def dimensions(self) -> int:
        """Number of image axes: 2 for slices, 3 for volumes and series."""
        return 2 if self.layout in ("slices", "noncartesian") else 3

    @property
    def off_grid(self) -> bool:
        """Whether k-space is sampled along trajectories."""
        return self.layout in SHOT_LAYOUTS

    @property
    def volume_names(self) -> list[str]:
        """Names of the volumes, sorted."""
        return sorted({key.volume for key in self.slices})

    def subset(self, volumes: Sequence[str]) -> "PreparedSlices":
        """The slices of some of the volumes."""
        return PreparedSlices(self.folder, self.mask, seed=self.seed, volumes=volumes, slab=self.slab)

    def only(self, positions: Sequence[int]) -> "PreparedSlices":
        """Some of the slices, which need not be whole volumes; no file is read."""
        chosen = copy(self)
        chosen.slices = tuple(self.slices[position] for position in positions)
        return chosen

    def load(self, index: int) -> Batch:
        """Read and undersample one sample: a batch of one.

        Raises:
            InputError: the file has changed or holds NaN, Inf or maps that are all zero.
        """
        key = self.slices[index]
        if self.off_grid:
            return load_shots(key.path, key.slice_index, key.trajectory, self.mask, self.seed)
        kspace, maps, target, recon_size = read_sample(key)
        return undersample(
            kspace, maps, self.mask_of(key), target=target, volume=key.volume, slice_index=key.slice_index,
            recon_size=recon_size, scale=self._scale_of_volume(key) if key.is_slab else None,
        )  # fmt: skip

    def kind_of(self, index: int) -> Hashable:
        """What samples of one batch have in common: their shape and, off the grid, their shots."""
        key = self.slices[index]
        if not self.off_grid:
            return key.shape
        kept = shots_kept(key.path, key.slice_index, key.trajectory, key.shape[1:], self.mask, self.seed)
        return key.shape, key.trajectory, kept

    def mask_of(self, key: SliceKey) -> Tensor:
        """The centred mask of a sample: (y, x), of its volume, or (t, y, x) of a series."""
        shape = key.shape[1:] if self.layout == "cine" else key.shape[-2:]
        try:
            packed = _volume_mask(self.mask, shape, derive_seed(self.seed, "mask", key.volume))
        except InputError as error:
            raise InputError(f"{key.path}: {error}") from None
        return torch.from_numpy(np.unpackbits(packed, count=math.prod(shape))).reshape(shape).float()

    def _scale_of_volume(self, slab: SliceKey) -> float:
        assert slab.frames is not None
        mask = np.packbits(self.mask_of(slab).numpy() != 0).tobytes()
        return _volume_scale(slab.path, slab.path.stat().st_mtime_ns, slab.frames, slab.shape, mask)


def undersample(
    kspace: Tensor,
    maps: Tensor,
    mask: Tensor,
    *,
    target: Tensor | None = None,
    volume: str = "",
    slice_index: int = 0,
    recon_size: tuple[int, int] | None = None,
    scale: float | None = None,
) -> Batch:
    """Mask and scale one sample: the border where centred k-space becomes uncentred.

    Args:
        kspace: (C, *N) complex64, centred k-space along the last two axes of *N.
        maps: (C, *N) complex64, or (C, 1, y, x) the same in all frames.
        mask: *N or (y, x) zeros and ones, centred.
        target: *N complex64; zeros if None.
        volume: name of the volume.
        slice_index: index in it.
        recon_size: (y, x) of the scanner's images; the k-space size if None.
        scale: what to divide by; the 95th percentile of the zero-filled magnitude if None.

    Raises:
        InputError: nothing is sampled, or what is sampled is zero; a mask of another size than the k-space.
    """
    shape = tuple(kspace.shape[1:])
    if tuple(mask.shape) not in {shape, shape[-PLANE:]}:
        raise InputError(f"mask: expected {shape[-PLANE:]} or {shape} as the k-space, found {tuple(mask.shape)}")
    uncentred_mask = torch.fft.ifftshift(mask, dim=(-2, -1)).expand(1, 1, *shape)
    measured = uncentre(kspace * mask, PLANE).unsqueeze(0)
    if scale is None:
        zero_filled = Sense(maps.unsqueeze(0), uncentred_mask, PLANE).adjoint(measured).abs()
        divisor = bright(zero_filled.flatten())
    else:
        divisor = torch.tensor(scale, dtype=torch.float32, device=maps.device)
    if not divisor > 0:
        raise InputError(f"volume {volume!r}, slice {slice_index}: the sampled k-space is zero")
    image = torch.zeros_like(kspace[0]) if target is None else target
    size = recon_size or (int(mask.shape[-2]), int(mask.shape[-1]))
    return Batch(
        measured / divisor,
        Sense(maps.unsqueeze(0), uncentred_mask, PLANE),
        image.unsqueeze(0) / divisor,
        divisor.view(1),
        (volume,),
        (slice_index,),
        size,
    )


def batches(
    data: PreparedSlices,
    batch_size: int,
    *,
    generator: torch.Generator | None = None,
    indices: Sequence[int] | None = None,
) -> Iterator[Batch]:
    """Batches of slices of one shape, every slice once.

    Args:
        data: the slices.
        batch_size: most slices in a batch.
        generator: shuffles slices within shapes, and batches; None keeps the order of the data set.
        indices: the slices to take; all if None.

    Raises:
        InputError: batch_size below 1, or what `PreparedSlices.load` raises.
    """
    for chunk in batch_plan(data, batch_size, generator=generator, indices=indices):
        yield stack([data.load(index) for index in chunk])


def batch_plan(
    data: PreparedSlices,
    batch_size: int,
    *,
    generator: torch.Generator | None = None,
    indices: Sequence[int] | None = None,
) -> list[list[int]]:
    """Which slices go together in which batch; arguments and errors as `batches`, but nothing is read."""
    if batch_size < 1:
        raise InputError(f"batch_size: found {batch_size}; expected at least 1")
    groups: dict[Hashable, list[int]] = {}
    for index in range(len(data)) if indices is None else indices:
        groups.setdefault(data.kind_of(index), []).append(index)
    chunks = []
    for group in groups.values():
        order = _shuffled(group, generator)
        chunks += [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    return _shuffled(chunks, generator)


def split_volumes(names: Sequence[str], fraction: float, seed: int) -> tuple[list[str], list[str]]:
    """Split volumes into (kept, held out), at least one on either side, whatever their order.

    Raises:
        InputError: fewer than two volumes.

    >>> split_volumes(["a", "b", "c", "d"], 0.25, 0)
    (['b', 'c', 'd'], ['a'])
    """
    ordered = sorted(set(names))
    if len(ordered) < 2:
        raise InputError(f"volumes: expected at least two to split, found {len(ordered)}")
    count = min(max(round(fraction * len(ordered)), 1), len(ordered) - 1)
    order = torch.randperm(len(ordered), generator=generator(seed, "split")).tolist()
    held_out = {ordered[position] for position in order[:count]}
    return [n for n in ordered if n not in held_out], [n for n in ordered if n in held_out]


# A Poisson disc takes a fraction of a second, more than all else of loading a slice: as bits, every volume of a
# large data set is remembered in a few tens of MB.
@lru_cache(maxsize=4096)
def _volume_mask(settings: MaskSettings, shape: tuple[int, ...], seed: int) -> NDArray[np.uint8]:
    """The mask of a volume, flattened, eight samples to the byte."""
    mask = sampling_mask(shape, settings, torch.Generator().manual_seed(seed))
    return np.packbits(mask.numpy() != 0)


# Magnitudes of a volume in slabs that are held and sorted, which takes six times as much.
_HELD_MAGNITUDES = 2**20


# Asked for at every slab, and only all the others of the volume tell it.
@lru_cache(maxsize=4096)
def _volume_scale(path: Path, modified: int, frames: int, shape: tuple[int, ...], packed_mask: bytes) -> float:
    """95th percentile of a volume's zero-filled magnitude, read a slab of `shape` (C, slab, y, x) at a time.

    `modified`, the time of the file, tells one version of it from another.
    """
    count = math.prod(shape[-2:])
    bits = np.unpackbits(np.frombuffer(packed_mask, np.uint8), count=count)
    mask = torch.from_numpy(bits).reshape(shape[-2:]).float()

    def magnitudes() -> Iterator[Tensor]:
        for start in range(0, frames, shape[1]):
            part = (shape[0], min(shape[1], frames - start), *shape[-2:])
            kspace, maps, _, _ = read_sample(SliceKey(path, path.stem, start, part, frames))
            batch = undersample(kspace, maps, mask, scale=1.0)
            yield batch.sense.adjoint(batch.kspace).abs().flatten()

    entries = frames * count
    if entries <= _HELD_MAGNITUDES:
        return float(bright(torch.cat(list(magnitudes()))))
    # No more of a volume is held than a slab. The same number as `bright` finds of all of it.
    if entries > sample_batch.QUANTILE_ENTRIES:
        found, largest = order_statistics(magnitudes, [math.ceil(0.95 * entries), entries])
    else:
        rank = torch.tensor(0.95) * (entries - 1)
        low, high, largest = order_statistics(magnitudes, [int(rank) + 1, int(rank) + 2, entries])
        found = float(torch.lerp(torch.tensor(low), torch.tensor(high), rank - int(rank)))
    return found if found > 0 else largest


def _shuffled(items: list[Item], rng: torch.Generator | None) -> list[Item]:
    if rng is None:
        return items
    return [items[position] for position in torch.randperm(len(items), generator=rng).tolist()]
