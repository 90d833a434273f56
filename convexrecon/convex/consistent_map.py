"""The gated map seen behind a linear map of its output, such as data consistency."""

from dataclasses import dataclass

import torch
from torch import Tensor

from convexrecon.convex.arrangements import Gates
from convexrecon.convex.patches import BlockBatch, OutputMap, PatchMap, image_patches
from convexrecon.errors import InputError
from convexrecon.solvers.quadratics import Part


@dataclass(frozen=True)
class ConsistentMap:
    """``W -> B A W``: (P, d, m) -> data, for one image; satisfies `solvers.linear_maps.LinearMap`.

    Attributes:
        patches: A, on all pixels of the image.
        behind: B, (1, m, *N) -> data.
        inside: (1, 1, *N), 1 where the denoiser acts.
    """

    patches: PatchMap
    behind: OutputMap
    inside: Tensor

    def forward(self, weights: Tensor) -> Tensor:
        """B A W."""
        response = self.patches.forward(weights)
        return self.behind.forward(response.view(1, -1, *self.inside.shape[2:]) * self.inside)

    def adjoint(self, data: Tensor) -> Tensor:
        """A^T B R."""
        return self.patches.adjoint((self.behind.adjoint(data) * self.inside)[0].flatten(1))


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
    patches = image_patches(batch.features.to(precision), gates.kernel, constant)
    patterns = gates.patterns(batch.features)[0].flatten(1)
    inside = torch.ones_like(batch.features[:, :1], dtype=precision) if batch.rows is None else batch.rows.to(precision)
    target = batch.target.to(precision)
    layer = ConsistentMap(PatchMap(patches, patterns.to(precision), target), batch.behind, inside)
    return Part(layer, target, batch.pixels)
