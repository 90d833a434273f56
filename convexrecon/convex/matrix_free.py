"""Programs solved by passes over the data: what they multiply by, and the model that stands in for H."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from convexrecon.convex.arrangements import Gates
from convexrecon.convex.fused_map import can_fuse, fused_part
from convexrecon.convex.fused_tiles import Products
from convexrecon.convex.gated_convolution import feature_count
from convexrecon.convex.packed_patterns import RememberedPatterns
from convexrecon.convex.patches import PIXELS_PER_CHUNK, BlockBatch, Stream, pixel_chunks
from convexrecon.errors import InputError
from convexrecon.solvers.kronecker import KroneckerQuadratic
from convexrecon.solvers.processes import ALONE, Processes
from convexrecon.solvers.quadratics import Part, StreamedQuadratic

# Rows per feature that the second moments of the patches are taken from.
ROWS_PER_FEATURE = 40
# Fewest pixels of an image that they are taken from.
PIXELS_PER_IMAGE = 8
# Numbers that hold the patches of a chunk.
CHUNK_ENTRIES = 2**22


def streamed_quadratic(
    stream: Stream,
    gates: Gates,
    constant: bool,
    pattern_bytes: int,
    products: Products = "ieee",
    processes: Processes = ALONE,
) -> StreamedQuadratic:
    """H by passes over the data in float32, of which neither patches nor responses of an image are held.

    Args:
        stream: the data of the program, always the same.
        gates: the arrangement.
        constant: whether filters have a constant term.
        pattern_bytes: most memory for patterns kept between passes.
        products: how a GPU multiplies.
        processes: those that have a share of the data each in their stream.

    Raises:
        InputError: no data.
    """
    try:
        parts = float32_parts(stream, RememberedPatterns(gates, pattern_bytes), constant, products)
        return StreamedQuadratic(parts, processes)
    except ValueError as error:
        raise InputError(f"program: {error}") from None


def float32_parts(
    stream: Stream, patterns: RememberedPatterns, constant: bool, products: Products = "ieee"
) -> Callable[[], Iterator[Part]]:
    """The data of a program as maps and targets in float32, a pass at each call.

    Whole images by the fused kernels where these run, else chunk by chunk as matrix products.
    """
    gates = patterns.gates

    def parts() -> Iterator[Part]:
        position = 0
        for batch in stream():
            for image in images_of(batch):
                if products != "torch" and can_fuse(image.features):
                    packed = patterns.packed(position, image.features)
                    yield fused_part(image, packed, gates, constant, products)
                else:
                    known = partial(patterns.bands, position)
                    chunk = _chunk(image, gates, constant)
                    for part in pixel_chunks(image, gates, constant, torch.float32, chunk, known):
                        yield Part(part, part.target, part.target.shape[1])
                position += 1

    return parts


def images_of(batch: BlockBatch) -> Iterator[BlockBatch]:
    """The images of a batch, one at a time."""
    for index in range(batch.features.shape[0]):
        one = slice(index, index + 1)
        rows = None if batch.rows is None else batch.rows[one]
        yield BlockBatch(batch.features[one], batch.target[one], rows, batch.behind)


def kronecker_model(
    stream: Stream, gates: Gates, constant: bool, quadratic: StreamedQuadratic, processes: Processes = ALONE
) -> KroneckerQuadratic:
    """``H ~ (D D^T / n) (x) (X^T X / n)``: how often gates are open together, and the patches' second moments.

    Both are taken from pixels spread evenly over each image: `ROWS_PER_FEATURE` a feature of all images together, or
    `PIXELS_PER_IMAGE` each where that is more. Which ones hangs on the image alone, not on those before it.

    Args:
        stream: the data of the program.
        gates: the arrangement.
        constant: whether filters have a constant term.
        quadratic: of the same data.
        processes: those that have a share of the data each in their stream.
    """
    features = quadratic.linear.shape[1]
    every = max(1, quadratic.rows // (ROWS_PER_FEATURE * features))
    together: Tensor | None = None
    moments: Tensor | None = None
    taken = 0
    for batch in stream():
        for image in images_of(batch):
            chosen, seen = _spread(image.pixels, every), 0
            for part in pixel_chunks(image, gates, constant, torch.float32, _chunk(image, gates, constant)):
                stop = seen + part.patches.shape[1]
                here = (chosen[(chosen >= seen) & (chosen < stop)] - seen).to(part.open.device)
                seen = stop
                open_, patches = part.open[:, here], part.patches[:, here]
                taken += open_.shape[1]
                both = (open_ @ open_.T).double(), (patches @ patches.T).double()
                together = both[0] if together is None else together + both[0]
                moments = both[1] if moments is None else moments + both[1]
    assert together is not None
    assert moments is not None
    together, (total,) = processes.sums(together, taken)
    moments = processes.total(moments)
    return KroneckerQuadratic.of(together / total, moments / total, quadratic.linear, quadratic.tau)


def _spread(pixels: int, every: int) -> Tensor:
    """Which of an image's pixels: the middle ones of stretches of `every`, or shorter."""
    step = max(1.0, min(every, pixels / PIXELS_PER_IMAGE))
    return ((torch.arange(int(pixels / step), dtype=torch.float64) + 0.5) * step).long()


def _chunk(batch: BlockBatch, gates: Gates, constant: bool) -> int | None:
    """On a CPU fewer pixels where there are many features; None, for what suits it, on another device."""
    if batch.features.device.type != "cpu":
        return None
    features = feature_count(batch.features.shape[1], gates.kernel, constant)
    return max(64, min(PIXELS_PER_CHUNK, CHUNK_ENTRIES // features))
