"""Accelerated proximal gradient for batches of images: momentum, restart and stop are each image's own."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from convexrecon.physics.conjugate_gradient import inner
from convexrecon.physics.forward_model import ForwardModel


@dataclass(frozen=True)
class AcceleratedResult:
    """What `accelerated_gradient` found.

    Attributes:
        point: (B, ...) as the start.
        iterations: (B,) iterations each entry took.
        change: (B,) last relative change of each entry.
    """

    point: Tensor
    iterations: Tensor
    change: Tensor


def accelerated_gradient(
    proximal_gradient: Callable[[Tensor], Tensor],
    start: Tensor,
    *,
    iterations: int,
    tolerance: float,
    support: Tensor | float = 1.0,
) -> AcceleratedResult:
    """FISTA, with restart when the momentum points uphill: ``<point - new, new - before> > 0``.

    An entry that has stopped moves no more, so its result does not depend on the batch it sits in.
    Beck and Teboulle, SIAM J Imaging Sci 2:183 (2009); O'Donoghue and Candes, Found Comput Math 15:715 (2015).

    Args:
        proximal_gradient: one proximal gradient step, (B, ...) -> (B, ...), of each entry alone.
        start: (B, ...) complex.
        iterations: most iterations, at least 1.
        tolerance: relative change between iterations at which an entry stops.
        support: where the change is measured: elsewhere no data speaks, and iterates drift for long.
    """
    image = point = start
    spread = (-1,) + (1,) * (start.ndim - 1)
    momentum = torch.ones(len(start), dtype=start.real.dtype, device=start.device)
    moving = torch.ones_like(momentum, dtype=torch.bool)
    change = torch.full_like(momentum, float("inf"))
    count = torch.zeros_like(momentum, dtype=torch.int64)
    for _ in range(iterations):
        new = torch.where(moving.view(spread), proximal_gradient(point), image)
        step = new - image
        momentum = torch.where(inner(point - new, step) > 0, torch.ones_like(momentum), momentum)
        following = (1 + torch.sqrt(1 + 4 * momentum**2)) / 2
        point = new + ((momentum - 1) / following).view(spread) * step
        image, momentum = new, following
        length = inner(new, new * support).sqrt()
        relative = inner(step, step * support).sqrt() / torch.where(length > 0, length, 1)
        change = torch.where(moving, relative, change)
        count = count + moving
        moving = moving & (relative > tolerance)  # not in place: the image may be differentiated
        if not bool(moving.any()):
            break
    return AcceleratedResult(image, count, change)


def squared_maps(sense: ForwardModel) -> Tensor:
    """``sum_c |maps_c|^2``, (B, *N) real: zero where no coil sees."""
    return torch.linalg.vector_norm(sense.maps, dim=1).square()


def step_length(sense: ForwardModel) -> Tensor:
    """``0.98 / max sum_c |maps_c|^2 <= 1 / ||A||^2``, (B,): one per entry, so that batching changes nothing.

    The two per cent are what the norm of a non-Cartesian model may be wrong by.
    """
    return 0.98 / squared_maps(sense).flatten(1).amax(1).clamp_min(1e-12)
