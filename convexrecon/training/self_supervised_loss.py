"""The loss on samples that the block does not see: its map, its target, and its data as a stream."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from tqdm.auto import tqdm

from convexrecon.cascade import Cascade, support, to_channels, to_complex
from convexrecon.convex.patches import BlockBatch, Stream
from convexrecon.physics.data_consistency import DataConsistency, NoDataConsistency
from convexrecon.physics.forward_model import ForwardModel
from convexrecon.physics.sense import Sense
from convexrecon.training.block_data import BlockData
from convexrecon.training.consistent_loss import left_of, loss_consistency
from convexrecon.training.image_store import key_of, read_store, write_store


@dataclass(frozen=True)
class BehindHeldOut:
    """``e -> (B K e, sqrt(share) B e)``, ``B = M_Lambda F S``: what an image error is at held-out samples.

    K is what data consistency with the kept samples leaves of an error, see `remaining_error`.

    Attributes:
        consistency: the step.
        kept: the operator of the samples that the block sees, Theta, of one image.
        held_out: that of the samples held out, Lambda, with the same maps.
        share: weight of the error before data consistency.
    """

    consistency: DataConsistency
    kept: ForwardModel
    held_out: ForwardModel
    share: float

    def forward(self, output: Tensor) -> Tensor:
        """Real channels (1, 2, *N) -> (2 or 4, C, |Lambda|), real and imaginary parts; without a share only two."""
        error = to_complex(output)
        after = left_of(self.consistency, error, self.kept)
        return self.scaled(self.samples(torch.cat([after, error]) if self.share > 0 else after))

    def adjoint(self, data: Tensor) -> Tensor:
        """(2 or 4, C, |Lambda|) -> (1, 2, *N)."""
        images = self._pulled(torch.complex(data[::2], data[1::2]))
        pulled = left_of(self.consistency, images[:1], self.kept)
        return to_channels(pulled + math.sqrt(self.share) * images[1:] if self.share > 0 else pulled)

    def scaled(self, samples: Tensor) -> Tensor:
        """Samples after, and before, data consistency, (1 or 2, C, |Lambda|) complex, as real and weighted."""
        weighted = torch.cat([samples[:1], math.sqrt(self.share) * samples[1:]])
        return to_channels(weighted).flatten(0, 1)

    def samples(self, images: Tensor) -> Tensor:
        """B x: (n, *N) complex -> (n, C, |Lambda|)."""
        kspace = self.held_out.as_precise_as(images).forward(images)
        return samples_of(self.held_out, kspace)

    def _pulled(self, samples: Tensor) -> Tensor:
        """B^H y: (n, C, |Lambda|) complex -> (n, *N)."""
        sense, kspace = self.held_out, samples
        if isinstance(sense, Sense):
            kspace = samples.new_zeros(len(samples), *sense.kspace_shape[1:])
            kspace[:, :, sense.mask[0, 0] != 0] = samples
        precise = sense.as_precise_as(samples)
        return torch.cat([precise.adjoint(one.unsqueeze(0)) for one in kspace])


def samples_of(sense: ForwardModel, kspace: Tensor) -> Tensor:
    """Of k-space (n, C, *N) on the grid the samples that one mask takes, (n, C, samples); off it all there are."""
    return kspace[:, :, sense.mask[0, 0] != 0] if isinstance(sense, Sense) else kspace


@contextmanager
def held_out_data(data: BlockData, cascade: Cascade, index: int) -> Iterator[Stream]:
    """The data of block `index`'s program with a self-supervised loss; its target is on disk meanwhile.

    ``min_W 1/(2n) ||y_Lambda - B (c + K A W)||^2 + share/(2n) ||y_Lambda - B (x + A W)||^2 + beta R(W)``, where x
    is the image before the block, c what data consistency with the kept samples makes of it, so that c + K A W is
    the block's output and x + A W its denoiser's; or, judging the denoiser, the second term alone with weight 1.
    But for the scale of beta nothing hangs on n, which counts pixels where a coil map is not zero, as in the other
    losses. Yaman et al., Magn Reson Med 84:3172 (2020).
    """
    _write_unexplained(data, index)
    try:
        yield _held_out_stream(data, cascade, index)
    finally:
        data.remaining(index).unlink()


def unsupervised_stream(data: BlockData, cascade: Cascade, index: int) -> Stream:
    """What block `index` sees at a share of the pixels, without a target: enough to model curvature from."""

    def stream() -> Iterator[BlockBatch]:
        for position, entry in enumerate(data.slices.slices):
            inside = support(data.load(position).sense).bool().unsqueeze(1)
            features = data.features(cascade, [key_of(entry.volume, entry.slice_index)], index)
            yield BlockBatch(features, torch.zeros_like(features[:, :2]), data.drawn(inside, index, entry))

    return stream


def _behind(data: BlockData, position: int) -> tuple[BehindHeldOut, Tensor, Tensor]:
    """The map of a slice, A^H y of the samples kept and y (1, C, |Lambda|) of those held out."""
    kept, held_out = data.load_split(position)
    convex = data.settings.convex
    behind = BehindHeldOut(NoDataConsistency(), kept.sense, held_out.sense, 0.0)
    if convex.held_out_behind == "consistency":
        consistency = loss_consistency(data.settings)
        behind = replace(behind, consistency=consistency, share=convex.loss_image_share)
    return behind, kept.kspace, samples_of(held_out.sense, held_out.kspace)


def _write_unexplained(data: BlockData, index: int) -> None:
    """Write the target of every slice: what the block gets wrong at its held-out samples without a correction."""

    def items() -> Iterator[tuple[list[str], Tensor]]:
        task = f"{data.name}: held-out samples, block {index + 1}"
        for position, entry in enumerate(tqdm(data.slices.slices, task, leave=False, disable=not data.progress)):
            keys = [key_of(entry.volume, entry.slice_index)]
            image = read_store(data.images(index), keys).to(data.device)
            behind, kspace, held_out = _behind(data, position)
            # Written once, for passes of any precision: in double, so that it is the same each time.
            wide = image.to(torch.complex128)
            sense = behind.kept.as_precise_as(wide)
            with torch.no_grad():
                after = behind.consistency(wide, sense, sense.adjoint(kspace.to(torch.complex128)))
                images = torch.cat([after, wide]) if behind.share > 0 else after
                unexplained = behind.scaled(held_out - behind.samples(images))
            yield keys, unexplained.float().unsqueeze(0)

    write_store(data.remaining(index), items())


def _held_out_stream(data: BlockData, cascade: Cascade, index: int) -> Stream:
    """A pass over the slices at each call, with the target that `_write_unexplained` wrote."""

    def stream() -> Iterator[BlockBatch]:
        task = f"block {index + 1}: pass over the data"
        for position, entry in enumerate(tqdm(data.slices.slices, task, leave=False, disable=not data.progress)):
            keys = [key_of(entry.volume, entry.slice_index)]
            behind, _, _ = _behind(data, position)
            target = read_store(data.remaining(index), keys).to(data.device)[0]
            inside = support(behind.kept).bool().unsqueeze(1)
            yield BlockBatch(data.features(cascade, keys, index), target, inside, behind)

    return stream
