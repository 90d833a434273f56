"""Second-order cones against their definitions."""

import pytest
import torch
from torch import Tensor

from convexrecon.solvers import second_order_cone as soc


def points(seed: int, depth: float) -> Tensor:
    """Points (5, 4, 1 + 3) inside the cone, `depth` times their length from its wall."""
    generator = torch.Generator().manual_seed(seed)
    v = torch.randn(5, 4, 3, generator=generator, dtype=torch.float64)
    return torch.cat([v.norm(dim=2, keepdim=True) * (1 + depth), v], 2)


@pytest.mark.parametrize("depth", [1.0, 1e-3, 1e-6])
def test_the_scaling_takes_both_points_to_the_same(depth: float) -> None:
    primal, dual = points(0, depth), points(1, depth)
    scaling = soc.scaling(primal, dual)
    torch.testing.assert_close(scaling.forward(dual), scaling.point)
    torch.testing.assert_close(scaling.inverse(primal), scaling.point, rtol=1e-12 / depth, atol=1e-12 / depth)
    x = torch.randn(5, 4, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    torch.testing.assert_close(scaling.inverse(scaling.forward(x)), x, rtol=1e-12 / depth, atol=1e-12 / depth)
    y = torch.randn(5, 4, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    torch.testing.assert_close((scaling.forward(x) * y).sum(-1), (x * scaling.forward(y)).sum(-1))


def test_divide_undoes_the_product() -> None:
    x, z = points(4, 0.1), points(5, 2.0) - points(6, 2.0)
    torch.testing.assert_close(soc.divide(x, soc.product(x, z)), z)


def test_the_longest_step_ends_on_the_wall() -> None:
    x = points(7, 0.3)
    step = torch.randn(x.shape, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    length = soc.longest_step(x, step)
    for share, expected in ((0.999, True), (1.001, False)):
        at = x + (share * length.clamp_max(1e6))[..., None] * step
        inside = at[..., 0] > at[..., 1:].norm(dim=-1)
        assert bool((inside == (expected | (length == torch.inf))).all())
    assert bool((length < torch.inf).any())
    assert bool((soc.longest_step(x, x) == torch.inf).all())
