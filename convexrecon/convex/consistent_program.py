"""The convex program whose loss sits behind data consistency: what a block puts out, not what its denoiser does."""

import time
from collections.abc import Callable, Iterator

import torch

from convexrecon.convex.arrangements import Gates
from convexrecon.convex.consistent_map import consistent_part
from convexrecon.convex.gated_convolution import feature_count
from convexrecon.convex.patches import BlockBatch, Stream
from convexrecon.convex.program_settings import BlockSolution, Method, ProgramSettings
from convexrecon.convex.refinement import float64_parts
from convexrecon.convex.streamed_program import solve_streamed, strength
from convexrecon.convex.sufficient_statistics import accumulate, gram_bytes
from convexrecon.errors import InputError
from convexrecon.solvers.processes import ALONE, Processes
from convexrecon.solvers.quadratics import Part, StreamedQuadratic

# Most passes over the data, a few more than the hardest of the programs seen needs.
MAX_PASSES = 80


def solve_consistent_program(
    stream: Stream, model_stream: Stream, gates: Gates, settings: ProgramSettings, processes: Processes = ALONE
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
        processes: those that have a share of the images each in their streams; all of them call this, with the same
            gates, and get the same weights.

    Raises:
        InputError: no data, NaN or Inf among them, a target that is zero everywhere, or more gates and
            features than `settings.memory_gb` holds.
    """
    started = time.perf_counter()
    fitting = _fitting(model_stream, gates, settings)
    statistics = accumulate(fitting, gates, constant=settings.constant, processes=processes)
    model = statistics.quadratic().steadied()
    accumulated = time.perf_counter()
    quadratic = StreamedQuadratic(_parts(stream, gates, settings.constant), processes)
    largest, _ = strength(quadratic, settings)
    exact = float64_parts(stream, gates, settings.constant)
    solution = solve_streamed(quadratic, model, exact, settings, MAX_PASSES, processes)
    return BlockSolution(
        gates=gates,
        solution=solution,
        beta_max=largest,
        pixels=quadratic.rows,
        seconds_accumulate=accumulated - started,
        seconds_solve=time.perf_counter() - accumulated,
        method=Method("behind_map", "H differs from image to image behind a map of the output"),
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
