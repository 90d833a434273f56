r"""The half-spaces of many polyhedral cones, known by the rows that are lowest at given points.

The cones of a network's activation patterns have a row for every sample. Few of them matter; a pass over
all finds those that a point violates most, and nothing else of them is ever needed.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from scipy.optimize import linprog
from torch import Tensor

# The least height over the length of the row, for a direction of length one, that counts as inside, and
# below which it is worth seeking a deeper one: what rounding asks for is its own size over this.
INSIDE = 1e-10
SHALLOW = 1e-8
MAX_ROUNDS = 60
FIRST_BOX = 1e-3
BOX_GROWTH = 10.0


@dataclass(frozen=True)
class LowestRows:
    """values: (G, p, k), ascending, infinite where there are fewer rows; rows: (G, p, k, d), of norm one or zero."""

    values: Tensor
    rows: Tensor


class ConeRows(Protocol):
    """Rows c of G cones {v : c^T v >= 0 for all c in C_g}, in d dimensions."""

    def lowest(self, points: Tensor, reference: Tensor | None, count: int) -> LowestRows:
        """For each point (G, p, d) float64 the `count` rows of its cone with the lowest relative height.

        The height c^T v relative to that of the reference direction of the cone, c^T u_g with reference
        (G, d), or to ||c|| if it is None. Rows of zeros are no constraint. A row on or below which the
        reference lies, c^T u_g <= 0, has the relative height -inf where v is below it, else inf.
        """
        ...


@dataclass(frozen=True)
class DenseRows:
    """Rows held as a tensor (G, r, d); for tests and small problems."""

    cones: Tensor

    def lowest(self, points: Tensor, reference: Tensor | None, count: int) -> LowestRows:
        """The lowest rows, as `ConeRows` says."""
        cones = self.cones.double()
        heights = points @ cones.mT
        length = cones.norm(dim=2)
        scale = length if reference is None else (cones @ reference[..., None])[..., 0]
        values = relative_heights(heights, scale[:, None], (length > 0)[:, None])
        found = values.topk(min(count, values.shape[2]), dim=2, largest=False)
        rows = cones[torch.arange(len(cones), device=cones.device)[:, None, None], found.indices]
        return LowestRows(found.values, torch.nn.functional.normalize(rows, dim=3, eps=1e-300))


def relative_heights(heights: Tensor, scale: Tensor, constrains: Tensor) -> Tensor:
    """heights / scale where the scale is positive; infinite as `ConeRows.lowest` says elsewhere."""
    outside = torch.where(heights < 0, -torch.inf, torch.inf)
    values = torch.where(scale > 0, heights / scale.clamp_min(1e-300), outside)
    return torch.where(constrains, values, torch.inf)


def interior_directions(cones: ConeRows, guess: Tensor) -> tuple[Tensor, Tensor]:
    """A direction strictly inside each cone, of length one.

    Where the guess is not well inside, linear programs seek the direction near it that is highest above the
    lowest rows found so far, until a pass over all rows confirms it.

    Args:
        cones: G cones.
        guess: (G, d), e.g. the filters that the activation patterns come from.

    Returns:
        directions (G, d) float64, and which of them are inside, (G,) bool: the others' cones have no interior
        as far as can be seen in float64.
    """
    origin = torch.nn.functional.normalize(guess.double(), dim=1, eps=1e-300)
    found = cones.lowest(origin[:, None], None, 2 * guess.shape[1])
    working, depth = found.rows[:, 0], found.values[:, 0, 0]
    best, candidate = origin.clone(), origin.clone()
    box = torch.full_like(depth, FIRST_BOX)
    todo = depth <= SHALLOW
    for _ in range(MAX_ROUNDS):
        for group in todo.nonzero()[:, 0].tolist():
            moved, reach = _deepest(working[group], origin[group], float(box[group]))
            if reach <= 0:
                box[group] *= BOX_GROWTH
            # Nothing near, or nothing that could be much deeper than what is found.
            todo[group] = box[group] < 2 and not 0 < reach <= 2 * float(depth[group])
            candidate[group] = moved
        if not bool(todo.any()):
            break
        found = cones.lowest(candidate[:, None], None, 2 * guess.shape[1])
        working = torch.cat([working, found.rows[:, 0]], 1)
        deeper = found.values[:, 0, 0] > depth
        best = torch.where(deeper[:, None], candidate, best)
        depth = torch.where(deeper, found.values[:, 0, 0], depth)
        todo &= depth <= SHALLOW
    return best, depth > INSIDE


def _deepest(rows: Tensor, origin: Tensor, box: float) -> tuple[Tensor, float]:
    """The direction within a box around the origin that is highest above all rows, and how high."""
    used = rows[(rows != 0).any(-1)]
    offset = (used @ origin / box).cpu().numpy()
    d = len(origin)
    matrix = torch.cat([-used, torch.ones(len(used), 1).to(used)], 1).cpu().numpy()
    solved = linprog([0.0] * d + [-1.0], A_ub=matrix, b_ub=offset, bounds=[(-1, 1)] * d + [(None, 10.0)])
    if solved.x is None:
        return origin, 0.0
    moved = origin + box * torch.from_numpy(solved.x[:d]).to(origin)
    return torch.nn.functional.normalize(moved, dim=0, eps=1e-300), box * float(solved.x[-1])
