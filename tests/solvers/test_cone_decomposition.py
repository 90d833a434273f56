"""Decompositions in cones against cvxpy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from relu_problems import relu_problem

from convexrecon.solvers.cone_decomposition import decompose_in_cones
from convexrecon.solvers.cone_rows import DenseRows
from convexrecon.solvers.reference import reference_decomposition


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, 120),
    d=st.integers(1, 7),
    groups=st.integers(1, 3),
    spread=st.sampled_from([0.0, 3.0]),
)
def test_norms_are_those_of_cvxpy_and_within_their_bounds(
    seed: int, n: int, d: int, groups: int, spread: float
) -> None:
    problem = relu_problem(seed, n, d, groups, spread)
    wanted = torch.randn(groups, 2, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found = decompose_in_cones(wanted, DenseRows(problem.cones), problem.gates, tolerance=1e-6)
    assert found.converged
    torch.testing.assert_close(found.w - found.z, wanted, rtol=1e-12, atol=1e-13 * float(found.norms.max()))
    torch.testing.assert_close(found.norms, found.w.norm(dim=2) + found.z.norm(dim=2))
    for part in (found.w, found.z):
        assert float((part @ problem.cones.mT).min()) >= 0
    for g in range(groups):
        for j in range(2):
            least = sum(
                np.linalg.norm(p) for p in reference_decomposition(problem.cones[g].numpy(), wanted[g, j].numpy())
            )
            assert float(found.bounds[g, j]) <= least * (1 + 1e-8)
            assert least * (1 - 1e-8) <= float(found.norms[g, j]) <= least * (1 + 2e-6)


def test_what_is_inside_already_is_left_alone() -> None:
    problem = relu_problem(1, 500, 5, 2)
    wanted = torch.stack([problem.gates, -2 * problem.gates, torch.zeros_like(problem.gates)], 1)
    found = decompose_in_cones(wanted, DenseRows(problem.cones), problem.gates)
    torch.testing.assert_close(found.norms, wanted.norm(dim=2), rtol=1e-4, atol=1e-12)
    torch.testing.assert_close(found.w[:, 0], wanted[:, 0], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found.z[:, 1], -wanted[:, 1], rtol=1e-3, atol=1e-3)
    assert not found.w[:, 2].any()
    assert not found.z[:, 2].any()


def test_refuses_directions_outside_and_shapes_that_do_not_fit() -> None:
    problem = relu_problem(2, 50, 4, 3)
    cones, wanted = DenseRows(problem.cones), torch.ones(3, 2, 4)
    with pytest.raises(ValueError, match=r"not strictly inside the cones \[0, 1, 2\]"):
        decompose_in_cones(wanted, cones, -problem.gates)
    with pytest.raises(ValueError, match=r"expected \(3, 4\)"):
        decompose_in_cones(wanted, cones, problem.gates[:, :3])
    with pytest.raises(ValueError, match="NaN or Inf"):
        decompose_in_cones(wanted * torch.nan, cones, problem.gates)
