"""What data consistency leaves of an error is its linear part."""

import pytest
import torch

from convexrecon.physics.conjugate_gradient import inner
from convexrecon.physics.data_consistency import (
    DataConsistency,
    GradientDataConsistency,
    NoDataConsistency,
    ProximalDataConsistency,
    remaining_error,
)
from convexrecon.physics.sense import Sense

STEPS = [
    ProximalDataConsistency(0.07, iterations=200, tolerance=1e-12),
    GradientDataConsistency(0.8),
    NoDataConsistency(),
]


def scan(*shape: int) -> tuple[Sense, torch.Tensor, list[torch.Tensor]]:
    """A random operator, k-space of it, and three random images, in double precision."""
    rng = torch.Generator().manual_seed(sum(shape))
    maps = torch.randn(2, 3, *shape, generator=rng, dtype=torch.complex128)
    maps = maps / maps.abs().square().sum(1, keepdim=True).sqrt()
    mask = (torch.rand(2, 1, *shape, generator=rng) < 0.4).double()
    images = [torch.randn(2, *shape, generator=rng, dtype=torch.complex128) for _ in range(3)]
    sense = Sense(maps, mask)
    return sense, sense.adjoint(sense.forward(images[0])), images


@pytest.mark.parametrize("consistency", STEPS, ids=lambda c: c.kind)
@pytest.mark.parametrize("shape", [(9, 14), (5, 6, 7)])
def test_it_is_the_difference_of_two_steps(consistency: DataConsistency, shape: tuple[int, ...]) -> None:
    sense, adjoint, (_, first, second) = scan(*shape)
    with torch.no_grad():
        difference = consistency(first, sense, adjoint) - consistency(second, sense, adjoint)
    left = remaining_error(consistency, first - second, sense, tolerance=1e-12, max_iterations=200)
    assert torch.allclose(left, difference, atol=1e-7)


@pytest.mark.parametrize("consistency", STEPS, ids=lambda c: c.kind)
def test_it_is_self_adjoint(consistency: DataConsistency) -> None:
    sense, _, (_, first, second) = scan(8, 13)
    images = [remaining_error(consistency, x, sense, tolerance=1e-12, max_iterations=200) for x in (first, second)]
    assert torch.allclose(inner(images[0], second), inner(first, images[1]), rtol=1e-9)
