"""The cones of a network's activation patterns: a row for every pixel of the data, known by passes over them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from convexrecon.convex.arrangements import Gates
from convexrecon.convex.patches import PIXELS_PER_CHUNK, PatchMap, Stream, pixel_chunks
from convexrecon.errors import InputError
from convexrecon.solvers.cone_rows import LowestRows, interior_directions, relative_heights


@dataclass(frozen=True)
class PatternCones:
    """``{v : (2 D_i(p) - 1) x_p^T v >= 0 for every pixel p}``, x_p its patch: one cone a gate.

    Inside its cone a linear filter is a ReLU neuron: relu(x^T v) = D x^T v at every pixel. Satisfies
    `solvers.cone_rows.ConeRows`; what is kept of a pass does not grow with the data.

    Attributes:
        stream: called once a pass; yields the data, always the same.
        gates: the arrangement, P gates.
        constant: whether the last feature is the constant 1.
        chunk: most pixels handled at once.
    """

    stream: Stream
    gates: Gates
    constant: bool
    chunk: int = PIXELS_PER_CHUNK

    def lowest(self, points: Tensor, reference: Tensor | None, count: int) -> LowestRows:
        """The `count` rows of the lowest relative height for points (P, p, d); one pass over the data.

        Raises:
            InputError: no data.
        """
        best: LowestRows | None = None
        for batch in self.stream():
            for pixels in pixel_chunks(batch, self.gates, self.constant, torch.float64, self.chunk):
                found = _lowest_of(pixels, points, reference, count)
                best = found if best is None else _merged(best, found, count)
        if best is None:
            raise InputError("cones: no pixel in the data")
        return LowestRows(best.values, torch.nn.functional.normalize(best.rows, dim=3, eps=1e-300))

    def interior(self) -> Tensor:
        """A direction strictly inside each cone, (P, d) float64; nearly always the gate itself.

        Raises:
            InputError: gates whose cones have none.
        """
        directions, inside = interior_directions(self, gate_directions(self.gates, self.constant))
        if not bool(inside.all()):
            flat = (~inside).nonzero()[:, 0].tolist()
            raise InputError(
                f"gates {flat}: no filter has their sign patterns with all pixels off the boundary, "
                "so that no ReLU neuron stands for them; draw others"
            )
        return directions


def gate_directions(gates: Gates, constant: bool) -> Tensor:
    """The gates as vectors of features, (g, -b): (P, d) float64.

    Raises:
        InputError: gates with offsets but no constant feature, whose patterns no filter has.
    """
    taps = gates.filters.double().flatten(1)
    if constant:
        return torch.cat([taps, -gates.offsets.double().unsqueeze(1)], 1)
    if bool((gates.offsets != 0).any()):
        raise InputError("gates: have offsets, which ReLU neurons without bias cannot; set constant=True")
    return taps


def _lowest_of(pixels: PatchMap, points: Tensor, reference: Tensor | None, count: int) -> LowestRows:
    """The lowest rows of a chunk, not yet of norm one."""
    patches, signs = pixels.patches, (2 * pixels.open - 1)[:, None]
    heights = (points.flatten(0, 1) @ patches).unflatten(0, points.shape[:2]) * signs
    length = patches.norm(dim=0)
    scale = length if reference is None else (reference @ patches)[:, None] * signs
    values = relative_heights(heights, scale, length > 0)
    found = values.topk(min(count, values.shape[2]), dim=2, largest=False)
    sign = signs.expand_as(values).gather(2, found.indices)
    return LowestRows(found.values, patches.T[found.indices] * sign[..., None])


def _merged(first: LowestRows, second: LowestRows, count: int) -> LowestRows:
    values, rows = torch.cat([first.values, second.values], 2), torch.cat([first.rows, second.rows], 2)
    found = values.topk(min(count, values.shape[2]), dim=2, largest=False)
    return LowestRows(found.values, rows.gather(2, found.indices[..., None].expand(-1, -1, -1, rows.shape[3])))
