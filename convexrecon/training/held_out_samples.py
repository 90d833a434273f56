"""A batch as self-supervised training sees it: some of its samples measured, the others held out for the loss."""

from dataclasses import replace

import torch
from torch import Tensor

from convexrecon.data.dataset import Batch
from convexrecon.physics.noncartesian_sense import NonCartesianSense
from convexrecon.physics.sample_split import split_samples
from convexrecon.physics.sense import Sense
from convexrecon.seeding import generator
from convexrecon.training.held_out_shots import split_shots


def split_batch(batch: Batch, share: float, seed: int) -> tuple[Batch, Batch]:
    """The batch with the samples kept, and with those held out; see `physics.sample_split`.

    Each slice is split by a generator named after it, whatever batch it is in; off the grid see `held_out_shots`.
    Both keep the batch's scale, that of all its samples, since reconstruction will use them all.

    Args:
        batch: on any device.
        share: of each slice's samples, held out.
        seed: of the run.

    Raises:
        InputError: a share that leaves nothing on either side.
    """
    sense = batch.sense
    if isinstance(sense, NonCartesianSense):
        return split_shots(batch, share, seed)
    assert isinstance(sense, Sense)
    kept: list[Tensor] = []
    held_out: list[Tensor] = []
    for mask, volume, index in zip(batch.mask[:, 0], batch.volume, batch.slice_index, strict=True):
        rng = generator(seed, "held_out", volume, index)
        for part, found in zip(_split_frames(mask, share, rng), (kept, held_out), strict=True):
            found.append(part)
    first, second = (
        replace(batch, kspace=batch.kspace * mask, sense=replace(sense, mask=mask))
        for mask in (torch.stack(kept).unsqueeze(1), torch.stack(held_out).unsqueeze(1))
    )
    return first, second


def _split_frames(mask: Tensor, share: float, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Split an uncentred mask (*N), frame by frame where it has more axes than (y, x)."""
    plane = (-2, -1)
    frames = torch.fft.fftshift(mask, dim=plane).reshape(-1, *mask.shape[-2:])
    parts = [split_samples(frame, share, rng) for frame in frames]
    first, second = (torch.stack([part[k] for part in parts]).view(mask.shape) for k in (0, 1))
    return torch.fft.ifftshift(first, dim=plane), torch.fft.ifftshift(second, dim=plane)
