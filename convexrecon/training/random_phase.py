"""Training images seen with other global phases: the absolute phase of MR images is arbitrary.

Sampling, coil maps and data consistency do not notice a factor ``e^{i phi}``; denoisers, which see real and imaginary
parts, do. Where few subjects are trained on, whose phases are few too, they would learn these.
"""

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from convexrecon.data.dataset import Batch
from convexrecon.seeding import generator

# Copies of an image in a convex program, each with its share of the pixels.
COPIES = 4


def turned(image: Tensor, phase: float) -> Tensor:
    """``e^{i phase} x`` of complex numbers of any shape."""
    return image * complex(math.cos(phase), math.sin(phase))


def turned_batch(batch: Batch, seed: int, *names: str | int) -> Batch:
    """The same samples with one phase, drawn by a generator of that name: k-space and target alike."""
    phase = 2 * math.pi * float(torch.rand((), generator=generator(seed, "phase", *names)))
    turn = turned(torch.ones(len(batch.target), dtype=torch.complex64), phase).to(batch.target.device)
    return replace(batch, kspace=turned(batch.kspace, phase), target=turned(batch.target, phase), turn=turn)


def shares(rows: Tensor, seed: int, *names: str | int) -> Iterator[tuple[float, Tensor]]:
    """Phases around the circle from a drawn one on, each with its part of the pixels (B, 1, *N) bool that count."""
    rng = generator(seed, "phase", *names)
    start = float(torch.rand((), generator=rng))
    of_copy = torch.randint(COPIES, rows.shape, generator=rng).to(rows.device)
    for copy in range(COPIES):
        yield 2 * math.pi * (start + copy / COPIES), rows & (of_copy == copy)
