"""Undersampling off the grid: which shots of a trajectory are kept."""

import math

import torch
from scipy.spatial import ConvexHull
from torch import Tensor

from convexrecon.errors import InputError
from convexrecon.physics.masks import MaskSettings

# Of so many samples a hull takes a moment.
_HULL_POINTS = 100_000
# Beyond this, relative to the ends of the axes, samples are in the corners of k-space.
_CORNER = 1.02
# Of the cells of a densely sampled region that have a sample.
_DENSE_SHARE = 0.75
KINDS = ("shots", "full")


def kept_shots(coordinates: Tensor, settings: MaskSettings, generator: torch.Generator) -> Tensor:
    """Draw which shots to keep: ``round(shots / acceleration)`` of them, whole, in the order they were measured.

    Evenly spaced ones from a drawn first one; or, where these cover fewer cells of k-space (one cycle wide), a run of
    consecutive ones. Orderings by the golden angle are made for runs, and take every eighth spoke, say, nearly in one
    direction; others, interleaved or partition by partition, lose whole regions to a run. Runs begin at a multiple of
    their length. So there are about as many sets of shots as the acceleration, and scans of one trajectory share them.

    Args:
        coordinates: (shots, S, d) real, cycles per field of view.
        settings: of kind "shots" or "full", which keeps all; the acceleration is relative to the shots there are.
        generator: source of randomness; see `convexrecon.seeding.generator`.

    Returns:
        (kept,) int64, increasing.

    Raises:
        InputError: a kind that is of masks on the grid; an acceleration that leaves no shot.

    >>> from convexrecon.physics.trajectories import radial
    >>> spokes, rng = radial((32, 32), 48), torch.Generator().manual_seed(0)
    >>> kept_shots(spokes, MaskSettings("shots", 8), rng).diff()
    tensor([1, 1, 1, 1, 1])
    """
    check_kind(settings)
    total = len(coordinates)
    count = total if settings.kind == "full" else round(total / settings.acceleration)
    if count < 1:
        raise InputError(f"acceleration: {settings.acceleration:g} of {total} shots leaves none; expected at most that")
    if count == total:
        return torch.arange(total)
    # Drawn whatever is chosen, so that the choice changes nothing drawn later.
    share = float(torch.rand((), generator=generator))
    spaced = torch.arange(count, dtype=torch.float64) * (total / count)
    run = torch.arange(count)
    if covered_cells(coordinates[run]) > covered_cells(coordinates[spaced.long()]):
        return run + count * int(share * (total // count))
    first = int(share * math.ceil(total / count))
    return ((spaced.long() + first) % total).sort().values


def check_kind(settings: MaskSettings) -> None:
    """InputError for a kind of mask that picks points of a grid."""
    if settings.kind not in KINDS:
        raise InputError(
            f"mask kind: {settings.kind!r} picks points of a grid, the data are of shots along a trajectory; expected "
            f"one of {', '.join(KINDS)}"
        )


def covered_cells(coordinates: Tensor) -> int:
    """How many cells of k-space, one cycle wide, have a sample of (..., d) in them."""
    cells = coordinates.reshape(-1, coordinates.shape[-1]).round().long()
    cells = cells - cells.amin(0)
    place = torch.zeros_like(cells[:, 0])
    for axis, size in enumerate((cells.amax(0) + 1).tolist()):
        place = place * size + cells[:, axis]
    return len(torch.unique(place))


def covered_share(coordinates: Tensor) -> float:
    """Cells of k-space with a sample in them, over those in the convex hull of all samples (..., d).

    About 1 of a fully sampled trajectory (cells at the edge count on one side alone), 0.9 to 0.8 with half of its shots
    in 2-D and 3-D, 0.5 to 0.6 with a quarter; spirals, whose arms are each on their own, lose all that an arm covers.
    """
    points = coordinates.reshape(-1, coordinates.shape[-1]).double().cpu().numpy()
    hull = ConvexHull(points[:: max(1, len(points) // _HULL_POINTS)])
    return covered_cells(coordinates) / float(hull.volume)


def dense_extent(coordinates: Tensor, most: int) -> int:
    """Side of the largest central square or cube, in cycles, that is sampled densely; even, at most `most`, 0 for none.

    Three of four of its cells, one cycle wide, have a sample (..., d) in them, and there are as many samples as cells.
    """
    points = coordinates.reshape(-1, coordinates.shape[-1])
    for size in range(most - most % 2, 2, -2):
        cells = points.round()
        inside = cells[((cells >= -size / 2) & (cells < size / 2)).all(-1)]
        wanted = size ** points.shape[-1]
        if len(inside) >= wanted and covered_cells(inside) >= _DENSE_SHARE * wanted:
            return size
    return 0


def covered_region(coordinates: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Which whole cycles of k-space lie within what shots reach: (*N) bool, uncentred (DC at index 0).

    An ellipse or ellipsoid with the proportions of k-space, or, of a stack, such a cylinder; all of k-space where
    samples (..., d) lie in its corners, too. What is not covered can only be told from several coils, with much noise.
    """
    points = coordinates.reshape(-1, coordinates.shape[-1]).double().cpu()
    points = points * 2 / points.new_tensor(shape)
    grids = torch.meshgrid(*(torch.fft.fftfreq(n, 0.5, dtype=torch.float64) for n in shape), indexing="ij")
    cycles = torch.stack(grids, -1)
    for axes in (slice(None), slice(-2, None)):
        reach = float(torch.linalg.vector_norm(points[:, axes], dim=-1).max())
        if reach <= _CORNER:
            return torch.linalg.vector_norm(cycles[..., axes], dim=-1) <= reach * (1 + 1e-6)
    return torch.ones(shape, dtype=torch.bool)
