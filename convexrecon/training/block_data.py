"""A data set with its images between blocks on disk: what the programs of the blocks are posed on."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from convexrecon.cascade import Block, Cascade, input_channels
from convexrecon.data.dataset import Batch, PreparedSlices, batches
from convexrecon.data.prepared_files import SliceKey
from convexrecon.denoisers.feature_stack import FeatureStack
from convexrecon.seeding import generator
from convexrecon.training.config import RunSettings, seed_of_training
from convexrecon.training.held_out_samples import split_batch
from convexrecon.training.image_store import (
    evenly_spaced,
    is_complete,
    keys_of,
    read_store,
    slice_keys,
    write_store,
)
from convexrecon.training.random_phase import shares, turned
from convexrecon.training.rank_exchange import of_all_ranks
from convexrecon.training.ranks import Ranks


@dataclass(frozen=True)
class BlockData:
    """A data set, or a rank's share of it, with its images between blocks on disk.

    Attributes:
        name: "train" or "validation", the stores' name.
        slices: the data set; of several ranks, this one's share.
        settings: of the run.
        state: folder of the stores.
        device: where to compute.
        progress: whether to show bars.
        held_out: share of each slice's samples that nothing here sees but `load_split`; 0 for none.
        ranks: those that share the data set.
        total: number of slices of all ranks; None for those of this one.
    """

    name: str
    slices: PreparedSlices
    settings: RunSettings
    state: Path
    device: torch.device
    progress: bool
    held_out: float = 0.0
    ranks: Ranks = field(default_factory=Ranks)
    total: int | None = None

    @property
    def stacks_features(self) -> bool:
        """Whether hidden channels are stacked on the initial image instead of images on images."""
        return self.settings.model.stacking != "cascade"

    @property
    def targets(self) -> Path:
        """Store of the fully sampled images."""
        return self.state / f"{self.name}_targets.h5"

    def input(self, name: str, blocks: int) -> Path:
        """Store of an image that block number `blocks`, counted from 0, sees."""
        if name == "image":
            return self.images(0 if self.stacks_features else blocks)
        return self.state / f"{self.name}_{name}.h5"

    def images(self, blocks: int) -> Path:
        """Store of the images after `blocks` blocks."""
        return self.state / f"{self.name}_after_{blocks:03d}.h5"

    def remaining(self, blocks: int) -> Path:
        """Store of the target of a consistent loss of block number `blocks`, counted from 0."""
        return self.state / f"{self.name}_remaining_{blocks:03d}.h5"

    def batches(self, task: str) -> Iterator[Batch]:
        """Every slice once, on the device, with a progress bar named `task`."""
        with tqdm(total=len(self.slices), desc=task, leave=False, disable=not self.progress) as bar:
            for batch in batches(self.slices, self.settings.batch_size):
                yield self._kept(batch).to(self.device)
                bar.update(len(batch.volume))

    def load(self, position: int) -> Batch:
        """One slice, on the device."""
        return self._kept(self.slices.load(position)).to(self.device)

    def load_split(self, position: int) -> tuple[Batch, Batch]:
        """One slice with the samples that `load` gives, and with those held out, on the device."""
        kept, held_out = split_batch(self.slices.load(position), self.held_out, self.settings.seed)
        return kept.to(self.device), held_out.to(self.device)

    def of_spread_slices(self, count: int, make: Callable[[int], Sequence[Tensor]]) -> list[Sequence[Tensor]]:
        """What `make` gives of at most `count` slices, spread evenly over those of all ranks; the same on every rank.

        Args:
            count: most slices.
            make: tensors, on the device, of the slice at a position in `slices`.
        """
        total = len(self.slices) if self.total is None else self.total
        return of_all_ranks(self.ranks, evenly_spaced(range(total), count), make, self.device)

    def _kept(self, batch: Batch) -> Batch:
        return batch if self.held_out == 0 else split_batch(batch, self.held_out, self.settings.seed)[0]

    def write_fixed(self, cascade: Cascade) -> None:
        """Write what does not change from block to block, unless it is there: inputs if seen, and targets.

        Of slices of which samples are held out, the targets are not used.
        """
        makers: dict[Path, Callable[[Batch], Tensor]] = {
            self.targets: lambda batch: batch.target,
            self.input("zero_filled", 0): lambda batch: batch.sense.adjoint(batch.kspace),
            self.input("initial", 0): lambda batch: self._start(cascade, batch, batch.sense.adjoint(batch.kspace)),
        }
        wanted = [self.input(name, 0) for name in self.settings.model.inputs[1:]]
        if self.held_out == 0:
            wanted.append(self.targets)
        for store in wanted:
            if not is_complete(store, slice_keys(self.slices)):
                images = ((keys_of(batch), makers[store](batch)) for batch in self.batches(store.stem))
                write_store(store, images)

    def features(self, cascade: Cascade, keys: Sequence[str], blocks: int, phase: float = 0.0) -> Tensor:
        """What block number `blocks`, counted from 0, sees of slices of one shape: real (B, C, *N).

        With another `phase` it is that of images times ``e^{i phase}``.
        """
        return self.features_and_skip(cascade, keys, blocks, phase)[0]

    def features_and_skip(
        self, cascade: Cascade, keys: Sequence[str], blocks: int, phase: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """What block number `blocks` sees, as `features`, and the image that its output is added to (B, 2, *N)."""
        inputs = self.settings.model.inputs
        images = {name: turned(read_store(self.input(name, blocks), keys).to(self.device), phase) for name in inputs}
        with torch.no_grad():
            return _seen(cascade, input_channels(images, inputs), blocks)

    def drawn(self, rows: Tensor, index: int, entry: SliceKey) -> Tensor:
        """Of the pixels (B, 1, *N) bool that count, the share `pixel_fraction` that block `index` is posed on."""
        fraction = self.settings.convex.pixel_fraction
        if fraction == 1:
            return rows
        rng = generator(seed_of_training(self.settings), "pixels", index, entry.volume, entry.slice_index)
        return rows & (torch.rand(rows.shape, generator=rng) < fraction).to(rows.device)

    def copies(self, rows: Tensor, index: int, entry: SliceKey) -> Iterator[tuple[float, Tensor]]:
        """Phases that block `index` sees a slice with, and the pixels (B, 1, *N) bool that count with each."""
        if not self.settings.random_phase:
            return iter([(0.0, rows)])
        return shares(rows, seed_of_training(self.settings), index, entry.volume, entry.slice_index)

    def write_images(self, cascade: Cascade, blocks: int) -> None:
        """Write the images after `blocks` frozen blocks, from those before the last of them if on disk."""
        if is_complete(self.images(blocks), slice_keys(self.slices)):
            return
        known = blocks
        while known > 0 and not is_complete(self.images(known), slice_keys(self.slices)):
            known -= 1
        on_disk = is_complete(self.images(known), slice_keys(self.slices))
        steps = list(cascade)[known:blocks] if not self.stacks_features else []

        def images() -> Iterator[tuple[list[str], Tensor]]:
            for batch in self.batches(f"{self.name}: images before block {blocks + 1}"):
                sense = batch.sense
                adjoint_kspace = sense.adjoint(batch.kspace)
                with torch.no_grad():
                    if on_disk:
                        image = read_store(self.images(known), keys_of(batch)).to(self.device)
                    else:
                        image = self._start(cascade, batch, adjoint_kspace)
                    for block in steps:
                        initial = self.start_for(block, cascade, batch, adjoint_kspace)
                        image = block(image, sense, adjoint_kspace, initial)
                yield keys_of(batch), image

        write_store(self.images(blocks), images())

    def start_for(self, block: Block, cascade: Cascade, batch: Batch, adjoint_kspace: Tensor) -> Tensor:
        """The image before the first block, (B, *N), if the block sees it; else A^H y in its place: it is there."""
        return self._start(cascade, batch, adjoint_kspace) if "initial" in block.inputs else adjoint_kspace

    def _start(self, cascade: Cascade, batch: Batch, adjoint_kspace: Tensor) -> Tensor:
        """The image before the first block, (B, *N): from disk if it is there, for it may take long to make."""
        keys = keys_of(batch)
        for store in (self.input("initial", 0), self.images(0)):
            if is_complete(store, keys):
                return read_store(store, keys).to(self.device)
        with torch.no_grad():
            return cascade.start(batch.sense, adjoint_kspace)

    def drop_images(self, blocks: int) -> None:
        """Delete the images after `blocks` blocks."""
        self.images(blocks).unlink(missing_ok=True)


def _seen(cascade: Cascade, channels: Tensor, index: int) -> tuple[Tensor, Tensor]:
    """What block `index` makes of its input channels (B, C, *N): the same, or a stack's hidden channels; its skip."""
    blocks = list(cascade)
    if blocks and isinstance(blocks[0].denoiser, FeatureStack):
        return blocks[0].denoiser.seen(channels, index)
    # The image is the first of the inputs; the skip is from it alone.
    return channels, channels[:, :2]
