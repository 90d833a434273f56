"""The loss behind data consistency: its target, and its data as a stream."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm.auto import tqdm

from convexrecon.cascade import Cascade, support, to_channels, to_complex
from convexrecon.convex.patches import BlockBatch
from convexrecon.convex.program import Stream
from convexrecon.physics.data_consistency import (
    DataConsistency,
    GradientDataConsistency,
    ProximalDataConsistency,
    remaining_error,
)
from convexrecon.physics.sense import Sense
from convexrecon.training.block_data import BlockData
from convexrecon.training.config import RunSettings
from convexrecon.training.image_store import key_of, keys_of, read_store, write_store


def write_remaining(data: BlockData, index: int) -> None:
    """Write the target of block `index`'s consistent loss: ``x* - consistency(x)``, x the image before it."""
    consistency = loss_consistency(data.settings)

    def items() -> Iterator[tuple[list[str], Tensor]]:
        for batch in data.batches(f"{data.name}: errors that consistency leaves, block {index + 1}"):
            sense = batch.sense
            image = read_store(data.images(index), keys_of(batch)).to(data.device)
            # x* - consistency(x) = B (x* - x) - (what the noise of y adds), all of it in double precision.
            fine = Sense(sense.maps.to(torch.complex128), sense.mask.double())
            wide = image.to(torch.complex128)
            correction = fine.adjoint(batch.kspace.to(torch.complex128)) - fine.normal(wide)
            if isinstance(consistency, GradientDataConsistency):
                after = wide + float(consistency.step) * correction
            else:
                after = wide + _remaining(consistency, correction, fine) / consistency.lam
            yield keys_of(batch), (batch.target - after).to(image.dtype)

    write_store(data.remaining(index), items())


def consistent_stream(data: BlockData, cascade: Cascade, index: int) -> Stream:
    """The data of block `index`'s program with a consistent loss; `write_remaining` comes first."""
    consistency = loss_consistency(data.settings)

    def stream() -> Iterator[BlockBatch]:
        task = f"block {index + 1}: pass over the data"
        for position, entry in enumerate(tqdm(data.slices.slices, task, leave=False, disable=not data.progress)):
            sense = data.slices.load(position).to(data.device).sense
            key = key_of(entry.volume, entry.slice_index)
            target = read_store(data.remaining(index), [key]).to(data.device)
            inside = support(sense).bool().unsqueeze(1)
            features = data.features(cascade, [key], index)
            yield BlockBatch(features, to_channels(target), inside, BehindConsistency(consistency, sense))

    return stream


@dataclass(frozen=True)
class BehindConsistency:
    """What a data consistency leaves of an error given as real channels; in double precision where asked.

    Attributes:
        consistency: the step.
        sense: the operator, in single precision.
    """

    consistency: DataConsistency
    sense: Sense

    def __call__(self, error: Tensor) -> Tensor:
        """B e: (B, 2, *N) -> (B, 2, *N)."""
        image = to_complex(error)
        sense = Sense(self.sense.maps.to(image.dtype), self.sense.mask.to(error.dtype))
        return to_channels(_remaining(self.consistency, image, sense))


def _remaining(consistency: DataConsistency, image: Tensor, sense: Sense) -> Tensor:
    tolerance, most = (1e-5, 100) if image.dtype == torch.complex64 else (1e-9, 400)
    return remaining_error(consistency, image, sense, tolerance=tolerance, max_iterations=most)


def loss_consistency(settings: RunSettings) -> ProximalDataConsistency | GradientDataConsistency:
    """The data consistency that a consistent loss sits behind."""
    if settings.model.consistency == "gradient":
        return GradientDataConsistency()
    return ProximalDataConsistency(settings.convex.loss_lam)
