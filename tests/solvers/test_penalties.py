"""Proximal maps against their definition, dual norms against the norm they are dual to."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from convexrecon.solvers.penalties import GroupLasso, NuclearNorm, Penalty, penalty_named

PENALTIES: list[Penalty] = [GroupLasso(), NuclearNorm()]
shapes = st.tuples(st.integers(1, 5), st.integers(1, 9), st.integers(1, 3))


@pytest.mark.parametrize("penalty", PENALTIES, ids=lambda p: p.name)
@given(shape=shapes, step=st.floats(1e-3, 10), seed=st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_prox_is_optimal_and_moreau_decomposes(
    penalty: Penalty, shape: tuple[int, int, int], step: float, seed: int
) -> None:
    rng = torch.Generator().manual_seed(seed)
    weights = 2 * torch.randn(shape, generator=rng, dtype=torch.float64)
    found = penalty.prox(weights, step)
    # W = prox(W) + step * (a subgradient): in the dual ball, and aligned with the prox.
    subgradient = (weights - found) / step
    assert float(penalty.dual_norm(subgradient).max()) <= 1 + 1e-9
    alignment = float((subgradient * found).sum())
    assert alignment == pytest.approx(float(penalty.value(found)), abs=1e-8)


@pytest.mark.parametrize("penalty", PENALTIES, ids=lambda p: p.name)
def test_dual_norm_bounds_the_inner_product(penalty: Penalty) -> None:
    rng = torch.Generator().manual_seed(0)
    for _ in range(50):
        a, b = (torch.randn(1, 6, 2, generator=rng, dtype=torch.float64) for _ in range(2))
        assert float((a * b).sum()) <= float(penalty.value(a) * penalty.dual_norm(b)[0]) + 1e-12


def test_nuclear_norm_against_the_singular_value_decomposition() -> None:
    weights = torch.randn(4, 9, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    singular = torch.linalg.svdvals(weights)
    assert float(NuclearNorm().value(weights)) == pytest.approx(float(singular.sum()), rel=1e-10)
    torch.testing.assert_close(NuclearNorm().dual_norm(weights), singular[:, 0])
    shrunk = torch.linalg.svdvals(NuclearNorm().prox(weights, 0.7))
    torch.testing.assert_close(shrunk, (singular - 0.7).clamp_min(0), atol=1e-9, rtol=1e-9)


def test_an_unknown_penalty_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="group_lasso, nuclear, found 'ridge'"):
        penalty_named("ridge")
