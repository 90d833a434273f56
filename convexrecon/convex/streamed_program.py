"""Programs whose H is not held: a model of it, and passes over the data."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from convexrecon.convex.arrangements import Gates
from convexrecon.convex.matrix_free import images_of, kronecker_model, streamed_quadratic
from convexrecon.convex.patches import BlockBatch, Stream
from convexrecon.convex.precise_statistics import solve_precisely
from convexrecon.convex.program_settings import BlockSolution, Method, ProgramSettings, statistics_fit
from convexrecon.convex.refinement import Again, Precisely, float64_parts, refined
from convexrecon.convex.sufficient_statistics import accumulate
from convexrecon.errors import InputError
from convexrecon.solvers.certificates import beta_max
from convexrecon.solvers.penalties import penalty_named
from convexrecon.solvers.processes import ALONE, Processes
from convexrecon.solvers.quadratics import (
    Corrected,
    Part,
    Quadratic,
    ScalableQuadratic,
    StreamedQuadratic,
)
from convexrecon.solvers.quasi_newton import UpdatedQuadratic, proximal_quasi_newton
from convexrecon.solvers.solution import Solution

# Most passes over the data, a few more than the hardest of the programs seen needs.
MAX_PASSES = 200
# The share of the memory allowed that patterns kept between passes may take.
PATTERN_SHARE = 1 / 8
GOLDEN = (5**0.5 - 1) / 2


def strength(quadratic: Quadratic, settings: ProgramSettings) -> tuple[float, float]:
    """beta_max and beta.

    Raises:
        InputError: NaN or Inf in the data, or a target that is zero everywhere.
    """
    if not torch.isfinite(quadratic.linear).all():
        raise InputError("program: NaN or Inf in the data")
    if quadratic.tau == 0:
        raise InputError("program: the target is zero everywhere; there is nothing to learn")
    largest = beta_max(quadratic, penalty_named(settings.penalty))
    return largest, settings.beta if settings.beta is not None else settings.beta_ratio * largest


def solve_by_passes(
    stream: Stream,
    gates: Gates,
    settings: ProgramSettings,
    method: Method,
    started: float,
    processes: Processes = ALONE,
) -> BlockSolution:
    """The optimum without H of all the data.

    Args:
        stream: the data of the program.
        gates: the arrangement.
        settings: penalty, strength, accuracy.
        method: "subsampled" or "matrix_free".
        started: when the work on the program began.
        processes: those that have a share of the data each in their stream. A subsampled H is made from other pixels
            where there are more of them, so that the optimum is the same to within the gap, not to rounding.

    Raises:
        InputError: no data, NaN or Inf among them, or a target that is zero everywhere.
    """
    quadratic, model, method = posed_by_passes(stream, gates, settings, method, processes)
    largest, beta = strength(quadratic, settings)
    accumulated = time.perf_counter()
    exact = float64_parts(stream, gates, settings.constant)
    precisely = None
    if statistics_fit(gates, settings):
        precisely = partial(solve_precisely, stream, gates, settings, beta, processes)
    solution = solve_streamed(quadratic, model, exact, settings, MAX_PASSES, processes, precisely)
    return BlockSolution(
        gates=gates,
        solution=solution,
        beta_max=largest,
        pixels=quadratic.rows,
        seconds_accumulate=accumulated - started,
        seconds_solve=time.perf_counter() - accumulated,
        method=method,
    )


def posed_by_passes(
    stream: Stream, gates: Gates, settings: ProgramSettings, method: Method, processes: Processes = ALONE
) -> tuple[StreamedQuadratic, ScalableQuadratic, Method]:
    """The program as passes over the data, what its H is near to, and how that was made; arguments and errors as
    `solve_by_passes`."""
    pattern_bytes = int(PATTERN_SHARE * settings.memory_gb * 1e9)
    quadratic = streamed_quadratic(stream, gates, settings.constant, pattern_bytes, settings.products, processes)
    strength(quadratic, settings)
    if method.name != "subsampled":
        return quadratic, kronecker_model(stream, gates, settings.constant, quadratic, processes), method
    features = quadratic.linear.shape[1]
    share = min(1.0, settings.subsample * len(gates) * features / quadratic.rows)
    used = thinned(stream(), share)
    model = accumulate(used, gates, constant=settings.constant, processes=processes).quadratic().steadied()
    told = f"{method.reason}; H is made from {share:.2g} of the pixels, the certificate measured on all of them"
    return quadratic, model, Method(method.name, told)


def streamed_path(
    quadratic: StreamedQuadratic,
    model: ScalableQuadratic,
    settings: ProgramSettings,
    betas: Sequence[float],
    processes: Processes = ALONE,
) -> Iterator[Solution]:
    """Yield the solution at each beta by passes over the data, started from the one before; certified in float32 alone.

    Args:
        quadratic: the program.
        model: what H is near to, up to its scale.
        settings: penalty, accuracy.
        betas: decreasing.
        processes: those that take part in each pass.
    """
    weights: Tensor | None = None
    for beta in betas:
        solution, _ = proximal_quasi_newton(
            quadratic,
            model,
            penalty_named(settings.penalty),
            beta,
            initial=weights,
            tolerance=settings.tolerance,
            max_iterations=MAX_PASSES if settings.max_iterations is None else settings.max_iterations,
            processes=processes,
        )
        weights = solution.weights
        yield solution


def thinned(batches: Iterable[BlockBatch], share: float) -> Iterator[BlockBatch]:
    """The same images with a share of their pixels counting: those at which a golden-ratio sequence is small.

    Raises:
        InputError: no pixel is left.
    """
    position = left = 0
    for batch in batches:
        for image in images_of(batch):
            shape = image.features[:, :1].shape
            index = torch.arange(position, position + shape.numel(), dtype=torch.float64)
            position += shape.numel()
            rows = ((index * GOLDEN) % 1 < share).view(shape).to(image.features.device)
            rows = rows if image.rows is None else rows & image.rows
            left += int(rows.sum())
            if bool(rows.any()):
                yield BlockBatch(image.features, image.target, rows)
    if left == 0:
        raise InputError(f"program: no pixel left of {position}, of which a share of {share:.2g} was to be used")


def solve_streamed(
    quadratic: StreamedQuadratic,
    model: ScalableQuadratic,
    exact: Callable[[], Iterator[Part]],
    settings: ProgramSettings,
    passes: int,
    processes: Processes = ALONE,
    precisely: Precisely | None = None,
    initial: Tensor | None = None,
) -> Solution:
    """The optimum of a program whose H is known by passes over the data, with its certificate in float64.

    Args:
        quadratic: the program.
        model: what H is near to, up to its scale.
        exact: the data in float64.
        settings: penalty, strength, accuracy.
        passes: most passes, unless the settings say.
        processes: those that take part in each pass.
        precisely: how to solve the program where passes in float32 are not enough; None for passes in float64.
        initial: W to start from, (P, d, m), or None.

    Raises:
        InputError: NaN or Inf in the data, or a target that is zero everywhere.
    """
    _, beta = strength(quadratic, settings)
    penalty = penalty_named(settings.penalty)
    hessian: ScalableQuadratic | UpdatedQuadratic = model
    current = quadratic

    def solved(linear: Tensor, weights: Tensor | None, product: Tensor | None, tolerance: float) -> Solution:
        nonlocal hessian
        solution, hessian = proximal_quasi_newton(
            Corrected(current, linear),
            hessian,
            penalty,
            beta,
            initial=weights,
            product=product,
            tolerance=tolerance,
            max_iterations=passes if settings.max_iterations is None else settings.max_iterations,
            rounded=current is quadratic,
            processes=processes,
        )
        return solution

    def again(correlation: Tensor, weights: Tensor) -> Solution:
        product = current.multiply(weights)
        return solved(product + correlation, weights, product, settings.tolerance / 2)

    def by_exact_passes(weights: Tensor) -> tuple[Solution, Again]:
        nonlocal current
        current = StreamedQuadratic(exact, processes)
        return solved(current.linear, weights, None, settings.tolerance / 2), again

    solution = solved(quadratic.linear, initial, None, settings.tolerance)
    precisely = (precisely or by_exact_passes) if settings.max_iterations is None else None
    return refined(solution, exact, settings, again, precisely, processes)
