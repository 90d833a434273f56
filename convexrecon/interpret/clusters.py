"""k-means: points in k clusters, the same for the same generator whatever the number of threads or chunks."""

from dataclasses import dataclass

import torch
from torch import Tensor

from convexrecon.errors import InputError

# Numbers of distances that are in memory at a time.
_DISTANCES_AT_ONCE = 2**22


@dataclass(frozen=True, eq=False)
class Clusters:
    """A partition of n points.

    Attributes:
        labels: (n,) int64, the largest cluster first.
        centres: (k, d) float64, the means.
        sizes: (k,) int64.
        spread: mean squared distance of points from their centre.
    """

    labels: Tensor
    centres: Tensor
    sizes: Tensor
    spread: float


def k_means(points: Tensor, k: int, generator: torch.Generator, *, iterations: int = 50, restarts: int = 3) -> Clusters:
    """Lloyd's iterations from k-means++ starts (Arthur and Vassilvitskii, SODA 2007), the best of a few.

    Equal points are weighed, not repeated: pixels have few distinct codes.

    Args:
        points: (n, d).
        k: clusters; fewer are returned where there are fewer distinct points.
        generator: of the starts, on the CPU.
        iterations: most, of each start.
        restarts: starts.

    Raises:
        InputError: no points, or k below 1.

    >>> found = k_means(torch.tensor([[0.0], [0.1], [5.0]]), 2, torch.Generator().manual_seed(0))
    >>> found.labels.tolist(), found.sizes.tolist()
    ([0, 0, 1], [2, 1])
    """
    if points.ndim != 2 or not len(points):
        raise InputError(f"points: expected (n, d) with n >= 1, found {tuple(points.shape)}")
    if k < 1:
        raise InputError(f"k: expected at least 1 cluster, found {k}")
    distinct, which, counts = torch.unique(points.cpu().double(), dim=0, return_inverse=True, return_counts=True)
    best: tuple[float, Tensor, Tensor] | None = None
    for _ in range(restarts):
        centres = _starts(distinct, counts, min(k, len(distinct)), generator)
        found = _lloyd(distinct, counts, centres, iterations)
        if best is None or found[0] < best[0]:
            best = found
    assert best is not None
    spread, labels, centres = best
    sizes = torch.zeros(len(centres), dtype=torch.int64).index_add_(0, labels, counts)
    order = torch.argsort(sizes, descending=True, stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order))
    return Clusters(rank[labels][which], centres[order], sizes[order], spread / len(points))


def _starts(points: Tensor, counts: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """k-means++: each next centre a point drawn with probability proportional to its squared distance."""
    chosen = [int(torch.multinomial(counts.double(), 1, generator=generator))]
    nearest = (points - points[chosen[0]]).square().sum(1)
    for _ in range(k - 1):
        chosen.append(int(torch.multinomial(nearest * counts, 1, generator=generator)))
        nearest = torch.minimum(nearest, (points - points[chosen[-1]]).square().sum(1))
    return points[chosen]


def _lloyd(points: Tensor, counts: Tensor, centres: Tensor, iterations: int) -> tuple[float, Tensor, Tensor]:
    """The sum of squared distances, labels and centres that Lloyd's iterations end with; no cluster is empty."""
    weights = counts.double()
    labels = torch.full((len(points),), -1)
    for _ in range(iterations):
        distances, found = _nearest(points, centres)
        for empty in (torch.bincount(found, minlength=len(centres)) == 0).nonzero().flatten().tolist():
            furthest = int((distances * weights).argmax())
            found[furthest], distances[furthest] = empty, 0
        if torch.equal(found, labels):
            break
        labels = found
        total = torch.zeros(len(centres), dtype=torch.float64).index_add_(0, labels, weights)
        sums = torch.zeros_like(centres).index_add_(0, labels, points * weights.unsqueeze(1))
        centres = torch.where(total.unsqueeze(1) > 0, sums / total.clamp_min(1).unsqueeze(1), centres)
    squares = (points - centres[labels]).square().sum(1)
    return float((squares * weights).sum()), labels, centres


def _nearest(points: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distance of every point from its nearest centre, and which that is."""
    chunk = max(1, _DISTANCES_AT_ONCE // len(centres))
    found = []
    for part in points.split(chunk):
        squares = part.square().sum(1, keepdim=True) - 2 * part @ centres.T + centres.square().sum(1)
        found.append(squares.clamp_min(0).min(1))
    return torch.cat([part.values for part in found]), torch.cat([part.indices for part in found])
