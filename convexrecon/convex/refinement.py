"""The certificate of a program measured on the data in float64, and what it falls short of mended."""

from collections.abc import Callable, Iterator

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
MAX_REFINEMENTS = 4


def refined(
    solution: Solution,
    parts: Callable[[], Iterator[Part]],
    settings: ProgramSettings,
    again: Callable[[Tensor, Tensor], Solution],
    processes: Processes,
) -> Solution:
    """The solution with the certificate measured on the data; solved again where that falls short.

    With the measured correlations A^T (T - A W) / n at W, the quadratic with linear term
    ``c' = H W + A^T (T - A W) / n`` has the data's exact gradient at W.

    Args:
        solution: from statistics or passes in which there is rounding.
        parts: the data in float64.
        settings: penalty and tolerance.
        again: measured correlations and W -> a solution of the quadratic with linear term c'.
        processes: those that have a share of the data each; all of them get the same weights.
    """
    penalty, iterations = penalty_named(settings.penalty), solution.iterations
    weights, best, least = solution.weights, None, float("inf")
    for _ in range(MAX_REFINEMENTS):
        weights, _ = processes.agree_on(weights)
        measured = measure_on_data(parts(), penalty, solution.beta, weights, processes)
        correlation, (gap,) = processes.agree_on(measured.correlation, measured.certificate.relative_gap)
        if best is None or gap < least:
            best = Solution(weights, solution.beta, measured.certificate, iterations, gap <= settings.tolerance)
            least = gap
        if best.converged:
            break
        nearer = again(correlation, weights)
        weights, iterations = nearer.weights, iterations + nearer.iterations
    assert best is not None
    return best


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
