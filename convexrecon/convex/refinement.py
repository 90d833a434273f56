"""The certificate of a program measured on the data in float64, and what it falls short of mended."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from convexrecon.convex.arrangements import Gates
from convexrecon.convex.consistent_map import consistent_part
from convexrecon.convex.patches import Stream, pixel_chunks
from convexrecon.convex.program_settings import ProgramSettings
from convexrecon.solvers.certificates import measure_on_data
from convexrecon.solvers.penalties import penalty_named
from convexrecon.solvers.processes import Processes
from convexrecon.solvers.quadratics import Part
from convexrecon.solvers.solution import Solution

# Each refinement gains about four digits; one is nearly always enough.
MAX_REFINEMENTS = 8
# What is left of how far the dual norm is above beta, relative to beta, after a refinement worth repeating.
WORTH_REPEATING = 0.25
# .. and of that before the first; above a quarter of it rounding decides what the weights are.
FAR_ABOVE = 10.0

# Measured correlations A^T (T - A W) / n and W -> a solution of the program that has this gradient at W.
Again = Callable[[Tensor, Tensor], Solution]
# W -> a solution from products in double precision, started there, and how to refine it.
Precisely = Callable[[Tensor], tuple[Solution, Again]]


def refined(
    solution: Solution,
    parts: Callable[[], Iterator[Part]],
    settings: ProgramSettings,
    again: Again,
    precisely: Precisely | None,
    processes: Processes,
) -> Solution:
    """The solution with the certificate measured on the data; solved again where that falls short.

    With the measured correlations A^T (T - A W) / n at W, the quadratic with linear term
    ``c' = H W + A^T (T - A W) / n`` has the data's exact gradient at W. Rounding E of the products then moves the next
    optimum by about ``E ||W|| / beta`` of what is still missing: where inputs are correlated and beta is small that
    is more than it mends, and the program is solved with products in double precision.

    Args:
        solution: from statistics or passes in which there is rounding.
        parts: the data in float64.
        settings: penalty and tolerance.
        again: measured correlations and W -> a solution of the quadratic with linear term c'.
        precisely: called at most once, where refinement does not get there; None to make do with what there is.
        processes: those that have a share of the data each; all of them get the same weights.
    """
    penalty, iterations = penalty_named(settings.penalty), solution.iterations
    best, pace, final = None, _Pace(), precisely is None
    for _ in range(MAX_REFINEMENTS):
        weights, _ = processes.agree_on(solution.weights)
        measured = measure_on_data(parts(), penalty, solution.beta, weights, processes)
        found = measured.certificate
        correlation, (gap, above) = processes.agree_on(
            measured.correlation, found.relative_gap, found.dual_norm / solution.beta - 1
        )
        if best is None or gap < best.certificate.relative_gap:
            best = Solution(weights, solution.beta, found, iterations, gap <= settings.tolerance)
        before, pace = pace, _Pace(gap, above)
        if best.converged or (final and not before.improves(gap, above)):
            break
        if precisely is not None and not final and before.slow(gap, above):
            solution, again = precisely(best.weights)
            pace, final = _Pace(), True
        else:
            solution = again(correlation, weights)
        iterations += solution.iterations
    assert best is not None
    return best


@dataclass(frozen=True)
class _Pace:
    """The last gap measured, and by which share of beta the dual norm was above it; before the first, W = 0's."""

    gap: float = math.inf
    above: float = FAR_ABOVE

    def slow(self, gap: float, above: float) -> bool:
        """Whether another refinement like the one that led here would not do."""
        return above > WORTH_REPEATING * self.above or gap > self.gap / 2

    def improves(self, gap: float, above: float) -> bool:
        """Whether anything got better by a tenth."""
        return above < 0.9 * self.above or gap < 0.9 * self.gap


def float64_parts(stream: Stream, gates: Gates, constant: bool) -> Callable[[], Iterator[Part]]:
    """The data of a program as maps and targets in float64, a pass at each call."""

    def parts() -> Iterator[Part]:
        for batch in stream():
            if batch.behind is not None:
                yield consistent_part(batch, gates, constant, torch.float64)
                continue
            for chunk in pixel_chunks(batch, gates, constant, torch.float64):
                yield Part(chunk, chunk.target, chunk.target.shape[1])

    return parts
