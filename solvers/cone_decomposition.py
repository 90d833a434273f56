r"""A vector as the difference of two vectors of a cone, of least norms.

.. math:: \min_{w, z} \|w\| + \|z\| \quad\text{s.t.}\quad w - z = V,\ C w \ge 0,\ C z \ge 0

by cutting planes over the rows of C, each relaxed program by the interior-point method. Its value over ||V||
is what a ReLU network pays in norm for the outputs of a gated one (arXiv 2202.01331, section 4). A cone
with an interior allows it for every V, a cone within a subspace for none outside that subspace.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .cone_cutting_planes import FIRST_TOLERANCE, ROWS_PER_ROUND, InnerDirections, inner_directions, violated
from .cone_fits import GivenDifference
from .cone_interior_point import ConeProgram, solve_cone_program
from .cone_rows import ConeRows


@dataclass(frozen=True)
class Decomposition:
    """Parts of differences, inside the cones for every row, and how much shorter they could be.

    Attributes:
        w, z: (G, p, d) float64, w - z the differences up to rounding.
        norms: ||w|| + ||z||, (G, p). bounds: of the least possible, (G, p).
        relative_gap: the largest (norms - bounds) / norms.
        rounds: passes over the rows. converged: whether the tolerance was reached.
    """

    w: Tensor
    z: Tensor
    norms: Tensor
    bounds: Tensor
    relative_gap: float
    rounds: int
    converged: bool


def decompose_in_cones(
    differences: Tensor, cones: ConeRows, interior: Tensor, *, tolerance: float = 1e-4, max_rounds: int = 50
) -> Decomposition:
    """Decompose p differences in each of G cones until no sum of norms is further than `tolerance` from the least.

    Args:
        differences: V, (G, p, d).
        cones: their rows, one pass over which is made a round.
        interior: (G, d), a direction strictly inside each cone, see `interior_directions`.
        tolerance: of each sum of norms, relative to it.
        max_rounds: the result's relative_gap says what was reached.

    Raises:
        ValueError: shapes that do not fit, NaN or Inf, or a direction that is not inside its cone.
    """
    groups, count, d = differences.shape
    if tuple(interior.shape) != (groups, d):
        raise ValueError(f"interior: expected ({groups}, {d}) for these differences, found {tuple(interior.shape)}")
    if not bool(torch.isfinite(differences).all()):
        raise ValueError("differences hold NaN or Inf")
    wanted = differences.double()
    inside = inner_directions(cones, interior, 2 * d)
    inward = inside.directions
    lowest = cones.lowest(torch.cat([wanted, -wanted], 1), inward, d)
    rows = torch.cat([inside.rows, violated(lowest.values, lowest.rows)], 1)
    z = _pulled_pair(torch.zeros_like(wanted), wanted, lowest.values[:, :count, 0], inside)
    norms, bounds = _norms(z, wanted), wanted.norm(dim=2)
    rounds = 1
    while rounds < max_rounds:
        gaps = (norms - bounds) / norms.clamp_min(1e-300)
        todo = (gaps > tolerance).nonzero().tolist()
        if not todo:
            break
        rounds += 1
        candidate = z.clone()
        for g, j in todo:
            aim = max(tolerance / 4, min(FIRST_TOLERANCE, float(gaps[g, j]) / 100)) * float(norms[g, j])
            candidate[g, j], bound = _relaxed(wanted[g, j], z[g, j], inward[g], rows[g], float(bounds[g, j]), aim)
            bounds[g, j] = max(float(bounds[g, j]), bound)
        found = cones.lowest(torch.cat([candidate + wanted, candidate], 1), inward, ROWS_PER_ROUND)
        lowest_of_both = found.values[..., 0].view(groups, 2, count).amin(1)
        candidate = _pulled_pair(candidate, wanted, lowest_of_both, inside)
        better = _norms(candidate, wanted) < norms
        z = torch.where(better[..., None], candidate, z)
        norms = _norms(z, wanted)
        rows = torch.cat([rows, violated(found.values, found.rows)], 1)
    gap = float(((norms - bounds) / norms.clamp_min(1e-300)).max())
    return Decomposition(z + wanted, z, norms, bounds, gap, rounds, gap <= tolerance)


def _relaxed(
    wanted: Tensor, feasible: Tensor, inward: Tensor, rows: Tensor, bound: float, aim: float
) -> tuple[Tensor, float]:
    """z (d,) of the program with these rows (r, d), and its lower bound."""
    program = ConeProgram(GivenDifference(wanted[None]), rows[None], 1.0)
    scale = float(feasible.norm() + (feasible + wanted).norm())
    # Inside by a share of the size, so that the start is not against a wall.
    z = feasible + max(min(1 - bound / scale, 0.5), 1e-4) * scale * inward
    start = torch.stack([z + wanted, z])[:, None]
    centring = max(program.objective(start) - bound, 1e-12 * scale) / program.degree
    found = solve_cone_program(program, start, tolerance=aim, centring=centring)
    return found.v[1, 0], found.bound


def _pulled_pair(z: Tensor, wanted: Tensor, lowest: Tensor, inside: InnerDirections) -> Tensor:
    """z (G, p, d) moved inwards until neither it nor z + V has a negative relative height; zero where V is."""
    # The pull itself is what is computed with where it is longer.
    sizes = torch.stack([z.norm(dim=2), wanted.norm(dim=2), -lowest.clamp_max(0)]).amax(0)
    moved = inside.pulled(z.transpose(0, 1), lowest.T, sizes.T).transpose(0, 1)
    return torch.where((wanted != 0).any(2)[..., None], moved, 0.0)


def _norms(z: Tensor, wanted: Tensor) -> Tensor:
    return z.norm(dim=2) + (z + wanted).norm(dim=2)
