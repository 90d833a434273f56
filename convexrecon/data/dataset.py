"""Prepared volumes as undersampled slices, one at a time: host memory does not grow with the data set."""

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from convexrecon.data.preparation import PREPARED_FORMAT
from convexrecon.errors import InputError
from convexrecon.physics.fourier import uncentre
from convexrecon.physics.masks import MaskSettings, sampling_mask
from convexrecon.physics.sense import Sense
from convexrecon.seeding import derive_seed, generator

Item = TypeVar("Item")
_ARRAYS = ("kspace", "maps", "target")


@dataclass(frozen=True, eq=False)
class Batch:
    """Undersampled slices of one shape, ready to reconstruct.

    Attributes:
        kspace: (B, C, y, x) complex64, uncentred, zero where not sampled, divided by `scale`.
        mask: (B, 1, y, x) float32, zeros and ones, uncentred.
        maps: (B, C, y, x) complex64 sensitivity maps.
        target: (B, y, x) complex64, the fully sampled image, divided by `scale`.
        scale: (B,) float32, 95th percentile of the zero-filled magnitude, in the scanner's units.
        volume: name of each slice's volume.
        slice_index: index of each slice in its volume.
        recon_size: (y, x) of the scanner's images.
    """

    kspace: Tensor
    mask: Tensor
    maps: Tensor
    target: Tensor
    scale: Tensor
    volume: tuple[str, ...]
    slice_index: tuple[int, ...]
    recon_size: tuple[int, int]

    @property
    def sense(self) -> Sense:
        """The forward model."""
        return Sense(self.maps, self.mask)

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on another device."""
        names = ("kspace", "mask", "maps", "target", "scale")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})


@dataclass(frozen=True)
class SliceKey:
    """Where a slice is, and its shape (C, y, x)."""

    path: Path
    volume: str
    slice_index: int
    shape: tuple[int, int, int]


class PreparedSlices:
    """The slices of a folder of prepared volumes, undersampled by masks seeded with the volume's name.

    Args:
        folder: made by `prepare`.
        mask: how to undersample; all slices of a volume share one mask, as in a scan.
        seed: of the masks.
        volumes: names of the volumes to take; all if None.

    Raises:
        InputError: the folder is missing, empty, or holds scans that are not prepared.
    """

    def __init__(
        self, folder: Path | str, mask: MaskSettings, *, seed: int = 0, volumes: Sequence[str] | None = None
    ) -> None:
        self.folder, self.mask, self.seed = Path(folder), mask, seed
        keys = [key for path in _prepared_files(self.folder) for key in _slices_of(path)]
        names = {key.volume for key in keys}
        missing = sorted(set(volumes or ()) - names)
        if missing:
            raise InputError(f"{self.folder}: no volume {missing[0]!r}; found {', '.join(sorted(names))}")
        self.slices = tuple(key for key in keys if volumes is None or key.volume in volumes)

    def __len__(self) -> int:
        return len(self.slices)

    @property
    def volume_names(self) -> list[str]:
        """Names of the volumes, sorted."""
        return sorted({key.volume for key in self.slices})

    def subset(self, volumes: Sequence[str]) -> "PreparedSlices":
        """The slices of some of the volumes."""
        return PreparedSlices(self.folder, self.mask, seed=self.seed, volumes=volumes)

    def only(self, positions: Sequence[int]) -> "PreparedSlices":
        """Some of the slices, which need not be whole volumes; no file is read."""
        chosen = copy(self)
        chosen.slices = tuple(self.slices[position] for position in positions)
        return chosen

    def load(self, index: int) -> Batch:
        """Read and undersample one slice: a batch of one.

        Raises:
            InputError: the file has changed or holds NaN, Inf or maps that are all zero.
        """
        key = self.slices[index]
        where = f"{key.path}: slice {key.slice_index}"
        with _open(key.path) as file:
            try:
                kspace, maps, target = (torch.from_numpy(file[name][key.slice_index]) for name in _ARRAYS)
                recon_size = tuple(int(n) for n in file.attrs["recon_size"])
            except (KeyError, IndexError, ValueError, OSError) as error:
                raise InputError(f"{where}: cannot be read ({error}); prepare the volume again") from error
        if (kspace.shape, maps.shape, target.shape) != (key.shape, key.shape, key.shape[1:]):
            raise InputError(f"{where}: the file has changed since it was opened; expected k-space {key.shape}")
        for name, array in zip(_ARRAYS, (kspace, maps, target), strict=True):
            if not bool(torch.isfinite(torch.view_as_real(array)).all()):
                raise InputError(f"{where}: {name} holds NaN or Inf; expected finite numbers")
        if not bool(maps.any()):
            raise InputError(f"{where}: the sensitivity maps are zero everywhere; expected an object")
        return undersample(
            kspace, maps, self.mask_of(key), target=target, volume=key.volume, slice_index=key.slice_index,
            recon_size=(recon_size[0], recon_size[1]),
        )  # fmt: skip

    def mask_of(self, key: SliceKey) -> Tensor:
        """The centred mask (y, x) of a slice's volume."""
        try:
            packed = _volume_mask(self.mask, key.shape[1:], derive_seed(self.seed, "mask", key.volume))
        except InputError as error:
            raise InputError(f"{key.path}: {error}") from None
        count = key.shape[1] * key.shape[2]
        return torch.from_numpy(np.unpackbits(packed, count=count)).reshape(key.shape[1:]).float()


def undersample(
    kspace: Tensor,
    maps: Tensor,
    mask: Tensor,
    *,
    target: Tensor | None = None,
    volume: str = "",
    slice_index: int = 0,
    recon_size: tuple[int, int] | None = None,
) -> Batch:
    """Mask and scale one slice: the border where centred k-space becomes uncentred.

    Args:
        kspace: (C, y, x) complex64, centred.
        maps: (C, y, x) complex64.
        mask: (y, x) zeros and ones, centred.
        target: (y, x) complex64; zeros if None.
        volume: name of the volume.
        slice_index: index in it.
        recon_size: (y, x) of the scanner's images; the k-space size if None.

    Raises:
        InputError: nothing is sampled, or what is sampled is zero.
    """
    uncentred_mask = torch.fft.ifftshift(mask).view(1, 1, *mask.shape)
    measured = uncentre(kspace * mask, 2).unsqueeze(0)
    sense = Sense(maps.unsqueeze(0), uncentred_mask)
    zero_filled = sense.adjoint(measured).abs()
    scale = torch.quantile(zero_filled.flatten(), 0.95)
    if not scale > 0:
        scale = zero_filled.max()
    if not scale > 0:
        raise InputError(f"volume {volume!r}, slice {slice_index}: the sampled k-space is zero")
    image = torch.zeros_like(maps[0]) if target is None else target
    size = recon_size or (int(mask.shape[0]), int(mask.shape[1]))
    return Batch(
        measured / scale,
        uncentred_mask,
        maps.unsqueeze(0),
        image.unsqueeze(0) / scale,
        scale.view(1),
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
    groups: dict[tuple[int, ...], list[int]] = {}
    for index in range(len(data)) if indices is None else indices:
        groups.setdefault(data.slices[index].shape, []).append(index)
    chunks = []
    for group in groups.values():
        order = _shuffled(group, generator)
        chunks += [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    return _shuffled(chunks, generator)


def stack(samples: Sequence[Batch]) -> Batch:
    """Batches of one shape as one batch; of the recon sizes, the first stays."""
    if len(samples) == 1:
        return samples[0]
    tensors: dict[str, Any] = {
        name: torch.cat([getattr(sample, name) for sample in samples])
        for name in ("kspace", "mask", "maps", "target", "scale")
    }
    volumes = tuple(name for sample in samples for name in sample.volume)
    positions = tuple(index for sample in samples for index in sample.slice_index)
    return replace(samples[0], volume=volumes, slice_index=positions, **tensors)


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
def _volume_mask(settings: MaskSettings, shape: tuple[int, int], seed: int) -> NDArray[np.uint8]:
    """The mask of a volume, flattened, eight samples to the byte."""
    mask = sampling_mask(shape, settings, torch.Generator().manual_seed(seed))
    return np.packbits(mask.numpy() != 0)


def _shuffled(items: list[Item], rng: torch.Generator | None) -> list[Item]:
    if rng is None:
        return items
    return [items[position] for position in torch.randperm(len(items), generator=rng).tolist()]


def _prepared_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; expected one made by `convexrecon prepare`")
    files = sorted(p for p in folder.glob("*.h5") if not p.name.startswith("."))
    if not files:
        raise InputError(f"{folder}: no prepared volume (*.h5); run `convexrecon prepare SCANS {folder}`")
    return files


def _slices_of(path: Path) -> list[SliceKey]:
    with _open(path) as file:
        if file.attrs.get("format") != PREPARED_FORMAT:
            hint = "a scan; run `convexrecon prepare` first" if "kspace" in file else f"the keys {sorted(file)}"
            raise InputError(f"{path}: expected a prepared volume ({PREPARED_FORMAT}), found {hint}")
        missing = [name for name in _ARRAYS if not isinstance(file.get(name), h5py.Dataset)]
        if missing:
            raise InputError(f"{path}: no dataset {missing[0]!r}, found {sorted(file)}; prepare it again")
        shape = tuple(int(n) for n in file["kspace"].shape)
        others = (file["maps"].shape, file["target"].shape)
        if len(shape) != 4 or others != (shape, (shape[0], *shape[2:])):
            raise InputError(
                f"{path}: kspace {shape}, maps {others[0]}, target {others[1]}; expected (slice, coil, y, x) twice "
                "and (slice, y, x); prepare it again"
            )
        slices, coils, rows, columns = shape
    return [SliceKey(path, path.stem, index, (coils, rows, columns)) for index in range(slices)]


def _open(path: Path) -> h5py.File:
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise InputError(f"{path}: not a readable HDF5 file ({error})") from None
