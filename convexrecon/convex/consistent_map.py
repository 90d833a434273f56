"""The gated map seen behind a linear map of its output, such as data consistency."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from convexrecon.convex.arrangements import Gates
from convexrecon.convex.gated_convolution import feature_count
from convexrecon.convex.packed_patterns import RememberedPatterns
from convexrecon.convex.patches import BlockBatch, OutputMap, PatchMap, pixel_chunks
from convexrecon.errors import InputError
from convexrecon.solvers.quadratics import Part

# Numbers of patches that are kept from the map to its adjoint: those of a slice; those of a volume are cut twice.
HELD_ENTRIES = 2**24


@dataclass(frozen=True)
class ConsistentMap:
    """``W -> B A W``: (P, d, m) -> data, for one image; satisfies `solvers.linear_maps.LinearMap`.

    A acts on some pixels at a time, so that memory is that of images and of a chunk's patches.

    Attributes:
        chunks: A on the pixels inside, in order, a pass over them at each call.
        behind: B, (1, m, *N) -> data.
        inside: where the denoiser acts, (*N) bool.
    """

    chunks: Callable[[], Iterable[PatchMap]]
    behind: OutputMap
    inside: Tensor

    def forward(self, weights: Tensor) -> Tensor:
        """B A W."""
        response = weights.new_zeros(1, weights.shape[2], *self.inside.shape)
        acted = torch.cat([chunk.forward(weights) for chunk in self.chunks()], 1)
        response[0].masked_scatter_(self.inside, acted)
        return self.behind.forward(response)

    def adjoint(self, data: Tensor) -> Tensor:
        """A^T B R; its sum over chunks is float64."""
        pulled = self.behind.adjoint(data)[0][:, self.inside]
        total: Tensor | None = None
        done = 0
        for chunk in self.chunks():
            stop = done + chunk.patches.shape[1]
            term = chunk.adjoint(pulled[:, done:stop]).double()
            total = term if total is None else total.add_(term)
            done = stop
        assert total is not None
        return total


def consistent_part(batch: BlockBatch, gates: Gates, constant: bool, precision: torch.dtype) -> Part:
    """One image of a program whose loss sits behind `batch.behind`; its rows are the pixels that count.

    Args:
        batch: of one image.
        gates: the arrangement.
        constant: whether filters have a constant term.
        precision: of the patches and of what `behind` is given.

    Raises:
        InputError: several images at once, or no map to sit behind.
    """
    if batch.behind is None or batch.features.shape[0] != 1:
        raise InputError(
            f"consistent loss: expected one image and the map behind it, found {batch.features.shape[0]} images, "
            f"map {batch.behind}"
        )
    # Decided once a part, a bit each, for the map and its adjoint.
    patterns = partial(RememberedPatterns(gates, 8 * len(gates) * batch.features[0, 0].numel()).bands, 0)
    # The target is behind the map, and none of the pixels'.
    pixels = BlockBatch(batch.features, batch.features[:, :0], batch.rows)
    chunks: Callable[[], Iterable[PatchMap]] = partial(
        pixel_chunks, pixels, gates, constant, precision, patterns=patterns
    )
    if feature_count(batch.features.shape[1], gates.kernel, constant) * batch.pixels <= HELD_ENTRIES:
        held = list(chunks())
        chunks = lambda: held  # noqa: E731
    every = torch.ones_like(batch.features[0, 0], dtype=torch.bool)
    inside = every if batch.rows is None else batch.rows[0, 0].bool()
    return Part(ConsistentMap(chunks, batch.behind, inside), batch.target.to(precision), batch.pixels)
