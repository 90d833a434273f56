"""Undersampled samples that are reconstructed together, with the forward model of what was measured of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from convexrecon.errors import InputError
from convexrecon.physics.forward_model import ForwardModel
from convexrecon.physics.sense import Sense

# torch.quantile takes no more numbers than this.
QUANTILE_ENTRIES = 2**24


@dataclass(frozen=True)
class Shots:
    """How many of a trajectory's shots a sample has: every one of them, or what undersampling left.

    Attributes:
        kept: of the sample.
        acquired: by the scan.
    """

    kept: int
    acquired: int

    @property
    def acceleration(self) -> float:
        """Shots acquired over shots kept."""
        return self.acquired / self.kept


@dataclass(frozen=True, eq=False)
class Batch:
    """Undersampled samples of one shape, ready to reconstruct; *N is (y, x), (z, y, x) or (t, y, x).

    Attributes:
        kspace: what `sense` predicts, divided by `scale`: (B, C, *N) complex64, along y and x, uncentred, zero where
            not sampled; or off the grid (B, C, samples), weighted, shot after shot.
        sense: the forward model of all of them.
        target: (B, *N) complex64, the fully sampled image, divided by `scale`.
        scale: (B,) float32, 95th percentile of the zero-filled magnitude, in the scanner's units; of a slab, that
            of its whole volume.
        volume: name of each sample's volume.
        slice_index: index in its volume of each slice, or of the first one of a sample of several.
        recon_size: (y, x) of the scanner's images; of volumes off the grid (z, y, x).
        shots: off the grid, how many; None on the grid.
        turn: (B,) complex64, the global phase that k-space and target were multiplied by; None for none.
    """

    kspace: Tensor
    sense: ForwardModel
    target: Tensor
    scale: Tensor
    volume: tuple[str, ...]
    slice_index: tuple[int, ...]
    recon_size: tuple[int, ...]
    shots: Shots | None = None
    turn: Tensor | None = None

    @property
    def maps(self) -> Tensor:
        """(B, C, *N) complex64 sensitivity maps; of a series (B, C, 1, y, x), once for all frames."""
        return self.sense.maps

    @property
    def mask(self) -> Tensor:
        """(B, 1, *N) float32, zeros and ones, uncentred.

        Raises:
            InputError: samples off the grid have none.
        """
        if not isinstance(self.sense, Sense):
            raise InputError(f"mask: k-space of {', '.join(self.volume)} is off the grid; expected a Cartesian batch")
        return self.sense.mask

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on another device."""
        moved = {name: getattr(self, name).to(device) for name in ("kspace", "target", "scale")}
        turn = None if self.turn is None else self.turn.to(device)
        return replace(self, sense=self.sense.to(device), turn=turn, **moved)


def bright(magnitudes: Tensor) -> Tensor:
    """The 95th percentile of (n,), or the maximum where that is zero: a scalar."""
    if magnitudes.numel() > QUANTILE_ENTRIES:
        found = magnitudes.kthvalue(math.ceil(0.95 * magnitudes.numel())).values
    else:
        found = torch.quantile(magnitudes, 0.95)
    return found if found > 0 else magnitudes.max()


def stack(samples: Sequence[Batch]) -> Batch:
    """Batches of one shape, all turned or none, as one batch; of the recon sizes, the first stays."""
    first = samples[0]
    if len(samples) == 1:
        return first
    kspace, target, scale = (
        torch.cat([getattr(sample, name) for sample in samples]) for name in ("kspace", "target", "scale")
    )
    turns = [sample.turn for sample in samples if sample.turn is not None]
    return replace(
        first,
        kspace=kspace,
        sense=first.sense.joined([sample.sense for sample in samples[1:]]),
        target=target,
        scale=scale,
        volume=tuple(name for sample in samples for name in sample.volume),
        slice_index=tuple(index for sample in samples for index in sample.slice_index),
        turn=torch.cat(turns) if turns else None,
    )
