"""The convex program whose loss sits behind data consistency: what a block puts out, not what its denoiser does."""

import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from convexrecon.convex.arrangements import Gates
from convexrecon.convex.consistent_map import consistent_part
from convexrecon.convex.gated_convolution import feature_count
from convexrecon.convex.patches import BlockBatch
from convexrecon.convex.program import BlockSolution, ProgramSettings, Stream, float64_parts, refined
from convexrecon.convex.sufficient_statistics import accumulate, gram_bytes
from convexrecon.errors import InputError
from convexrecon.solvers.certificates import beta_max
from convexrecon.solvers.penalties import penalty_named
from convexrecon.solvers.quadratics import Corrected, DenseQuadratic, Part, StreamedQuadratic
from convexrecon.solvers.quasi_newton import UpdatedQuadratic, proximal_quasi_newton
from convexrecon.solvers.solution import Solution

# Most passes over the data, a few more than the hardest of the programs seen needs.
MAX_PASSES = 80


def solve_consistent_program(
    stream: Stream, model_stream: Stream, gates: Gates, settings: ProgramSettings
) -> BlockSolution:
    """``min_W 1/(2n) ||B A W - T||^2 + beta R(W)``, B a linear map of every image's output, n its pixels.

    With B what data consistency leaves of an error and ``T = x* - consistency(x)`` the loss is that of the
    block's output. B differs from image to image, so no sufficient statistics exist; but those of the image
    loss, ``A^T A / n``, are near ``A^T B^T B A / n`` up to scale, so that a few dozen passes over the data
    reach the optimum. The certificate is measured in float64 as for any program.

    Args:
        stream: called once a pass; yields one image at a time, with its `behind`.
        model_stream: the same images without it, from which ``A^T A / n`` is accumulated; a share of the
            pixels is enough.
        gates: the arrangement, P gates.
        settings: penalty, strength, accuracy.

    Raises:
        InputError: no data, NaN or Inf among them, a target that is zero everywhere, or more gates and
            features than `settings.memory_gb` holds.
    """
    started = time.perf_counter()
    statistics = accumulate(_fitting(model_stream, gates, settings), gates, constant=settings.constant)
    model = statistics.quadratic()
    accumulated = time.perf_counter()
    quadratic = StreamedQuadratic(_parts(stream, gates, settings.constant))
    if not torch.isfinite(quadratic.linear).all():
        raise InputError("program: NaN or Inf in the data")
    if quadratic.tau == 0:
        raise InputError("program: the target is zero everywhere; there is nothing to learn")
    penalty = penalty_named(settings.penalty)
    largest = beta_max(quadratic, penalty)
    beta = settings.beta if settings.beta is not None else settings.beta_ratio * largest
    passes = MAX_PASSES if settings.max_iterations is None else settings.max_iterations
    hessian: DenseQuadratic | UpdatedQuadratic = model

    def solved(linear: Tensor, weights: Tensor | None, product: Tensor | None, tolerance: float) -> Solution:
        nonlocal hessian
        solution, hessian = proximal_quasi_newton(
            Corrected(quadratic, linear),
            hessian,
            penalty,
            beta,
            initial=weights,
            product=product,
            tolerance=tolerance,
            max_iterations=passes,
        )
        return solution

    def again(correlation: Tensor, weights: Tensor) -> Solution:
        product = quadratic.multiply(weights)
        return solved(product + correlation, weights, product, settings.tolerance / 2)

    solution = solved(quadratic.linear, None, None, settings.tolerance)
    solution = refined(solution, float64_parts(stream, gates, settings.constant), settings, again)
    return BlockSolution(
        gates=gates,
        solution=solution,
        beta_max=largest,
        pixels=quadratic.rows,
        seconds_accumulate=accumulated - started,
        seconds_solve=time.perf_counter() - accumulated,
        matrix_free=True,
    )


def _fitting(stream: Stream, gates: Gates, settings: ProgramSettings) -> Iterator[BlockBatch]:
    """The stream's batches, once it is known that A^T A fits in memory."""
    for index, batch in enumerate(stream()):
        if index == 0:
            features = feature_count(batch.features.shape[1], gates.kernel, settings.constant)
            needed = gram_bytes(len(gates), features) / 1e9
            if needed > settings.memory_gb:
                raise InputError(
                    f"program: a loss behind data consistency needs {needed:.1f} GB for {len(gates)} gates of "
                    f"{features} features; expected at most memory_gb = {settings.memory_gb}"
                )
        yield batch


def _parts(stream: Stream, gates: Gates, constant: bool) -> Callable[[], Iterator[Part]]:
    def parts() -> Iterator[Part]:
        for batch in stream():
            yield consistent_part(batch, gates, constant, torch.float32)

    return parts
