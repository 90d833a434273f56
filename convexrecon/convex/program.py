"""The convex program of one block: data in, certified optimum out."""

import time
from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from convexrecon.convex.arrangements import Gates
from convexrecon.convex.matrix_free import streamed_quadratic
from convexrecon.convex.patches import Stream
from convexrecon.convex.precise_statistics import refinement_of, solve_precisely
from convexrecon.convex.program_settings import BlockSolution, ProgramSettings, choose_method, statistics_fit
from convexrecon.convex.refinement import float64_parts, refined
from convexrecon.convex.streamed_program import PATTERN_SHARE, solve_by_passes, strength
from convexrecon.convex.sufficient_statistics import accumulate
from convexrecon.solvers.certificates import Certificate, measure_on_data
from convexrecon.solvers.path import solve, solve_path
from convexrecon.solvers.penalties import penalty_named
from convexrecon.solvers.processes import ALONE, Processes
from convexrecon.solvers.quadratics import DenseQuadratic, Quadratic
from convexrecon.solvers.solution import Solution

__all__ = [
    "BlockSolution",
    "ProgramSettings",
    "certify_program",
    "program_path",
    "solve_program",
]


def solve_program(
    stream: Stream, gates: Gates, settings: ProgramSettings, processes: Processes = ALONE
) -> BlockSolution:
    """Solve the program of a block to a certified optimum.

    The certificate is measured on all the data in float64, whatever the optimum was found with. H has float32
    products in it, and what rounding did to the optimum is found, and mended, by residuals in float64 (iterative
    refinement).

    Args:
        stream: called once a pass; yields the data as `BlockBatch`es, always the same.
        gates: the arrangement, P gates.
        settings: penalty, strength, accuracy, method.
        processes: those that have a share of the data each in their stream; all of them call this, with the same
            gates, and get the same weights.

    Raises:
        InputError: no data, NaN or Inf among them, a target that is zero everywhere, or an H asked for that does
            not fit into the memory allowed.
    """
    started = time.perf_counter()

    def beta_ratio() -> float:
        if settings.beta is None:
            return settings.beta_ratio
        quadratic = streamed_quadratic(stream, gates, settings.constant, 0, settings.products, processes)
        largest, beta = strength(quadratic, settings)
        return processes.agree_on(quadratic.linear, beta / max(largest, 1e-300))[1][0]

    method = choose_method(gates, settings, beta_ratio)
    if method.name != "statistics":
        return solve_by_passes(stream, gates, settings, method, started, processes)
    statistics = accumulate(stream(), gates, constant=settings.constant, processes=processes)
    quadratic, pixels = statistics.quadratic(), statistics.pixels
    del statistics  # its sums take as much memory as H
    accumulated = time.perf_counter()
    largest, beta = strength(quadratic, settings)
    solution = solve_statistics(quadratic, stream, gates, settings, beta, processes=processes)
    return BlockSolution(
        gates=gates,
        solution=solution,
        beta_max=largest,
        pixels=pixels,
        seconds_accumulate=accumulated - started,
        seconds_solve=time.perf_counter() - accumulated,
        method=method,
    )


def solve_statistics(
    quadratic: DenseQuadratic,
    stream: Stream,
    gates: Gates,
    settings: ProgramSettings,
    beta: float,
    initial: Tensor | None = None,
    processes: Processes = ALONE,
) -> Solution:
    """The optimum from statistics that are there already, its certificate measured on the data and mended.

    Args:
        quadratic: of the data and the gates.
        stream: the data.
        gates: the arrangement, P gates.
        settings: penalty and accuracy.
        beta: strength, > 0.
        initial: W to start from, (P, d, m), or None.
        processes: as in `solve_program`.
    """
    penalty, limit = penalty_named(settings.penalty), settings.max_iterations
    solution = solve(quadratic, penalty, beta, tolerance=settings.tolerance, initial=initial, max_iterations=limit)
    again = refinement_of(quadratic, settings, beta)
    precisely = None if limit else partial(solve_precisely, stream, gates, settings, beta, processes)
    return refined(solution, float64_parts(stream, gates, settings.constant), settings, again, precisely, processes)


def program_path(
    stream: Stream, gates: Gates, settings: ProgramSettings, betas: Sequence[float] | None = None
) -> Iterator[Solution]:
    """Solutions for decreasing beta from one pass over the data, if H fits; see `solvers.path.solve_path`.

    Their certificates rest on H, which therefore has products in float64.
    """
    if statistics_fit(gates, settings):
        statistics = accumulate(stream(), gates, constant=settings.constant, precision=torch.float64)
        quadratic: Quadratic = statistics.quadratic()
    else:
        pattern_bytes = int(PATTERN_SHARE * settings.memory_gb * 1e9)
        quadratic = streamed_quadratic(stream, gates, settings.constant, pattern_bytes, settings.products)
    yield from solve_path(quadratic, penalty_named(settings.penalty), betas, tolerance=settings.tolerance)


def certify_program(
    stream: Stream, gates: Gates, weights: Tensor, beta: float, settings: ProgramSettings
) -> Certificate:
    """Re-measure the duality gap in one float64 pass over the data, through residuals, without H.

    Args:
        stream: the data of the program.
        gates: the arrangement.
        weights: W, (P, d, m).
        beta: the strength they were found for.
        settings: penalty and whether filters have a constant term.
    """
    parts = float64_parts(stream, gates, settings.constant)
    return measure_on_data(parts(), penalty_named(settings.penalty), beta, weights.double()).certificate
