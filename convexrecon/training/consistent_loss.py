"""The loss behind data consistency: its target, and its data as a stream."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm.auto import tqdm

from convexrecon.cascade import Cascade, support, to_channels, to_complex
from convexrecon.convex.patches import BlockBatch, Stream
from convexrecon.physics.data_consistency import (
    DataConsistency,
    GradientDataConsistency,
    ProximalDataConsistency,
    remaining_error,
)
from convexrecon.physics.forward_model import ForwardModel
from convexrecon.training.block_data import BlockData
from convexrecon.training.config import RunSettings
from convexrecon.training.image_store import key_of, keys_of, read_store, write_store

# Tolerance and most steps of the conjugate gradients, in single and in double precision.
COARSE = (1e-5, 100)
FINE = (1e-9, 400)


@contextmanager
def consistent_data(data: BlockData, cascade: Cascade, index: int) -> Iterator[Stream]:
    """The data of block `index`'s program with a consistent loss; its target is on disk meanwhile."""
    _write_remaining(data, index)
    try:
        yield _consistent_stream(data, cascade, index)
    finally:
        data.remaining(index).unlink()


def _write_remaining(data: BlockData, index: int) -> None:
    """Write the target of block `index`'s consistent loss: ``x* - consistency(x)``, x the image before it."""
    consistency = loss_consistency(data.settings)

    def items() -> Iterator[tuple[list[str], Tensor]]:
        for batch in data.batches(f"{data.name}: errors that consistency leaves, block {index + 1}"):
            image = read_store(data.images(index), keys_of(batch)).to(data.device)
            # Written once, for passes of any precision: in double, so that it is the same each time.
            wide = image.to(torch.complex128)
            sense = batch.sense.as_precise_as(wide)
            with torch.no_grad():
                after = consistency(wide, sense, sense.adjoint(batch.kspace.to(torch.complex128)))
            yield keys_of(batch), (batch.target - after).to(image.dtype)

    write_store(data.remaining(index), items())


def _consistent_stream(data: BlockData, cascade: Cascade, index: int) -> Stream:
    """A pass over the slices at each call, with the target that `_write_remaining` wrote."""
    consistency, share = loss_consistency(data.settings), data.settings.convex.loss_image_share

    def stream() -> Iterator[BlockBatch]:
        task = f"block {index + 1}: pass over the data"
        for position, entry in enumerate(tqdm(data.slices.slices, task, leave=False, disable=not data.progress)):
            batch = data.load(position)
            keys = [key_of(entry.volume, entry.slice_index)]
            image = read_store(data.images(index), keys).to(data.device)
            remaining = read_store(data.remaining(index), keys).to(data.device)
            behind = BehindConsistency(consistency, batch.sense, share)
            target = torch.cat([to_channels(remaining), math.sqrt(share) * to_channels(batch.target - image)], 1)
            inside = support(batch.sense).bool().unsqueeze(1)
            yield BlockBatch(data.features(cascade, keys, index), target, inside, behind)

    return stream


@dataclass(frozen=True)
class BehindConsistency:
    """``e -> (B e, sqrt(share) e)``: what data consistency leaves of an error, and a little of the error itself.

    Attributes:
        consistency: the step.
        sense: the operator, in single precision; the map follows the precision of its input.
        share: weight of the error itself.
    """

    consistency: DataConsistency
    sense: ForwardModel
    share: float

    def forward(self, output: Tensor) -> Tensor:
        """Real channels (B, 2, *N) -> (B, 4, *N)."""
        return torch.cat([self._left_of(output), math.sqrt(self.share) * output], 1)

    def adjoint(self, data: Tensor) -> Tensor:
        """(B, 4, *N) -> (B, 2, *N)."""
        return self._left_of(data[:, :2]) + math.sqrt(self.share) * data[:, 2:]

    def _left_of(self, error: Tensor) -> Tensor:
        return to_channels(left_of(self.consistency, to_complex(error), self.sense))


def left_of(consistency: DataConsistency, error: Tensor, sense: ForwardModel) -> Tensor:
    """`remaining_error` of (B, *N) complex, as exact as the precision asks for; sense may have another one."""
    tolerance, most = COARSE if error.dtype == torch.complex64 else FINE
    return remaining_error(consistency, error, sense.as_precise_as(error), tolerance=tolerance, max_iterations=most)


def loss_consistency(settings: RunSettings) -> ProximalDataConsistency | GradientDataConsistency:
    """The data consistency that a consistent loss sits behind, as exact as the certificate needs it."""
    if settings.model.consistency == "gradient":
        return GradientDataConsistency()
    return ProximalDataConsistency(settings.convex.loss_lam, tolerance=FINE[0], iterations=FINE[1])
