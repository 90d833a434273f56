"""The convex program of one block: data in, certified optimum out."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from convexrecon.convex.arrangements import Gates
from convexrecon.convex.consistent_map import consistent_part
from convexrecon.convex.gated_convolution import GatedConvolution, feature_count
from convexrecon.convex.patches import BlockBatch, pixel_chunks
from convexrecon.convex.sufficient_statistics import accumulate, gram_bytes
from convexrecon.errors import InputError
from convexrecon.solvers.certificates import Certificate, beta_max, measure_on_data
from convexrecon.solvers.path import solve, solve_path
from convexrecon.solvers.penalties import penalty_named
from convexrecon.solvers.quadratics import DenseQuadratic, Part, Quadratic, StreamedQuadratic
from convexrecon.solvers.solution import Solution

Stream = Callable[[], Iterable[BlockBatch]]

# Each refinement gains about four digits; one is nearly always enough.
MAX_REFINEMENTS = 4


@dataclass(frozen=True)
class ProgramSettings:
    """``min_W 1/(2n) ||A W - t||^2 + beta R(W)``: what R and beta are, and how exactly to solve.

    Attributes:
        penalty: "group_lasso" (sum of Frobenius norms) or "nuclear" (sum of nuclear norms: weight decay
            of the two-layer gated network).
        beta: absolute strength, or None to use `beta_ratio`.
        beta_ratio: strength relative to beta_max, the smallest beta whose optimum is the empty network.
        constant: whether filters have a constant term (a bias behind the gate).
        tolerance: relative duality gap to reach.
        max_iterations: of the solver; None for its own default.
        memory_gb: hold H as a matrix when it and its factor need no more than this, else solve
            matrix-free with a pass over the data for every iteration.
    """

    penalty: str = "group_lasso"
    beta: float | None = None
    beta_ratio: float = 1e-4
    constant: bool = True
    tolerance: float = 1e-5
    max_iterations: int | None = None
    memory_gb: float = 8.0

    def __post_init__(self) -> None:
        try:
            penalty_named(self.penalty)
        except ValueError as error:
            raise InputError(str(error)) from None
        if self.beta is not None and not (self.beta > 0 and math.isfinite(self.beta)):
            raise InputError(f"beta: expected a positive finite number, found {self.beta}")
        if not (self.beta_ratio > 0 and math.isfinite(self.beta_ratio)):
            raise InputError(f"beta_ratio: expected a positive finite number, found {self.beta_ratio}")
        if not self.tolerance > 0:
            raise InputError(f"tolerance: expected a positive number, found {self.tolerance}")


@dataclass(frozen=True)
class BlockSolution:
    """The optimum of one block's program.

    Attributes:
        gates: the arrangement.
        solution: weights (P, d, m), certificate, iterations.
        beta_max: the smallest beta whose optimum is the empty network.
        pixels: n.
        seconds_accumulate: time of the pass over the data that accumulates H, or c where matrix-free.
        seconds_solve: time of the solver and of the passes that measure its certificate.
        matrix_free: whether H was never formed.
    """

    gates: Gates
    solution: Solution
    beta_max: float
    pixels: int
    seconds_accumulate: float
    seconds_solve: float
    matrix_free: bool


def solve_program(stream: Stream, gates: Gates, settings: ProgramSettings) -> BlockSolution:
    """Solve the program of a block to a certified optimum.

    Where H fits in memory it is accumulated in one pass, and the certificate is measured in another, which
    costs a hundredth of the arithmetic: H has float32 products in it, and what rounding did to the optimum
    is found, and mended, by residuals in float64 (iterative refinement).

    Args:
        stream: called once a pass; yields the data as `BlockBatch`es, always the same.
        gates: the arrangement, P gates.
        settings: penalty, strength, accuracy.

    Raises:
        InputError: no data, NaN or Inf among them, or a target that is zero everywhere.
    """
    started = time.perf_counter()
    quadratic, pixels = _quadratic(stream, gates, settings)
    accumulated = time.perf_counter()
    if quadratic.tau == 0:
        raise InputError("program: the target is zero everywhere; there is nothing to learn")
    penalty = penalty_named(settings.penalty)
    largest = beta_max(quadratic, penalty)
    beta = settings.beta if settings.beta is not None else settings.beta_ratio * largest
    options = {} if settings.max_iterations is None else {"max_iterations": settings.max_iterations}
    solution = solve(quadratic, penalty, beta, tolerance=settings.tolerance, **options)
    if isinstance(quadratic, DenseQuadratic):

        def again(correlation: Tensor, weights: Tensor) -> Solution:
            exact = replace(quadratic, linear=quadratic.multiply(weights) + correlation)
            return solve(exact, penalty, beta, tolerance=settings.tolerance / 2, initial=weights)

        solution = refined(solution, float64_parts(stream, gates, settings.constant), settings, again)
    solved = time.perf_counter()
    return BlockSolution(
        gates=gates,
        solution=solution,
        beta_max=largest,
        pixels=pixels,
        seconds_accumulate=accumulated - started,
        seconds_solve=solved - accumulated,
        matrix_free=not isinstance(quadratic, DenseQuadratic),
    )


def refined(
    solution: Solution,
    parts: Callable[[], Iterator[Part]],
    settings: ProgramSettings,
    again: Callable[[Tensor, Tensor], Solution],
) -> Solution:
    """The solution with the certificate measured on the data; solved again where that falls short.

    With the measured correlations A^T (T - A W) / n at W, the quadratic with linear term
    ``c' = H W + A^T (T - A W) / n`` has the data's exact gradient at W.

    Args:
        solution: from statistics or passes in which there is rounding.
        parts: the data in float64.
        settings: penalty and tolerance.
        again: measured correlations and W -> a solution of the quadratic with linear term c'.
    """
    penalty, iterations = penalty_named(settings.penalty), solution.iterations
    weights, best = solution.weights, None
    for _ in range(MAX_REFINEMENTS):
        measured = measure_on_data(parts(), penalty, solution.beta, weights)
        certificate = measured.certificate
        if best is None or certificate.relative_gap < best.certificate.relative_gap:
            converged = certificate.relative_gap <= settings.tolerance
            best = Solution(weights, solution.beta, certificate, iterations, converged)
        if best.converged:
            break
        nearer = again(measured.correlation, weights)
        weights, iterations = nearer.weights, iterations + nearer.iterations
    assert best is not None
    return best


def program_path(
    stream: Stream, gates: Gates, settings: ProgramSettings, betas: Sequence[float] | None = None
) -> Iterator[Solution]:
    """Solutions for decreasing beta from one pass over the data; see `solvers.path.solve_path`."""
    quadratic, _ = _quadratic(stream, gates, settings)
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


def _quadratic(stream: Stream, gates: Gates, settings: ProgramSettings) -> tuple[Quadratic, int]:
    """H as a matrix where it fits in memory, else as passes over the data; and n."""
    features = feature_count(gates.filters.shape[1], gates.kernel, settings.constant)
    if gram_bytes(len(gates), features) <= settings.memory_gb * 1e9:
        statistics = accumulate(stream(), gates, constant=settings.constant)
        return statistics.quadratic(), statistics.pixels
    try:
        streamed = StreamedQuadratic(_convolutions(stream, gates, settings.constant))
    except ValueError as error:
        raise InputError(f"program: {error}") from None
    if not torch.isfinite(streamed.linear).all():
        raise InputError("program: NaN or Inf in the data")
    return streamed, streamed.rows


def _convolutions(stream: Stream, gates: Gates, constant: bool) -> Callable[[], Iterator[Part]]:
    def parts() -> Iterator[Part]:
        for batch in stream():
            layer = GatedConvolution(gates, batch.features, constant, batch.rows)
            yield Part(layer, batch.target if batch.rows is None else batch.target * batch.rows, batch.pixels)

    return parts


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
