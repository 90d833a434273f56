"""The norm of a linear map known by its products: power iteration on J^T J."""

from dataclasses import dataclass

import torch
from torch import Tensor

from convexrecon.interpret.local_map import LocalMap


@dataclass(frozen=True, eq=False)
class OperatorNorm:
    """What power iteration found.

    Attributes:
        value: ``||J v||`` for the unit vector v it ended with: a lower bound of the norm that it converges to.
        direction: v, of the shape of the map's input.
        image: J v, (B, *N).
        iterations: products with J and J^T each.
        converged: whether the value changed by less than the tolerance at last.
    """

    value: float
    direction: Tensor
    image: Tensor
    iterations: int
    converged: bool


@torch.no_grad()
def operator_norm(
    local: LocalMap, generator: torch.Generator, *, tolerance: float = 1e-3, max_iterations: int = 100
) -> OperatorNorm:
    """The norm of a local map, that of all samples of a batch together.

    Args:
        local: J.
        generator: of the starting vector, on the CPU.
        tolerance: relative change of the value in an iteration at which it stops.
        max_iterations: most iterations.
    """
    vector = torch.randn(local.point.shape, dtype=local.point.dtype, generator=generator).to(local.point.device)
    # A vector in the range of J^T from the start: of k-space, nothing where no sample was taken.
    vector = _unit(local.adjoint(local.forward(vector)))
    before = 0.0
    for iteration in range(1, max_iterations + 1):
        image = local.forward(vector)
        value = float(torch.linalg.vector_norm(image))
        if abs(value - before) <= tolerance * value:
            return OperatorNorm(value, vector, image, iteration, True)
        before = value
        if iteration < max_iterations:
            vector = _unit(local.adjoint(image))
    return OperatorNorm(value, vector, image, max_iterations, False)


def _unit(vector: Tensor) -> Tensor:
    return vector / torch.linalg.vector_norm(vector).clamp_min(torch.finfo(vector.real.dtype).tiny)
