"""Small denoising problems that the tests of the programs share."""

import torch
import torch.nn.functional as F

from convexrecon.convex.arrangements import Gates, draw_gates
from convexrecon.convex.patches import BlockBatch


def smooth_batches(count: int = 2, size: tuple[int, int] = (24, 19), seed: int = 0) -> list[BlockBatch]:
    """Noisy smooth images and their noise to be removed, with some pixels left out."""
    rng = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(count):
        clean = 4 * F.avg_pool2d(torch.randn(1, 2, *size, generator=rng), 7, 1, 3)
        noisy = clean + 0.3 * torch.randn(clean.shape, generator=rng)
        made.append(BlockBatch(noisy, clean - noisy, torch.rand(1, 1, *size, generator=rng) < 0.8))
    return made


def gates_for(data: list[BlockBatch], count: int = 5, kernel: int = 3) -> Gates:
    return draw_gates([b.features for b in data], count, (kernel, kernel), torch.Generator().manual_seed(7))
