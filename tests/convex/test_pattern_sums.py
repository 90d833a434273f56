import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from convexrecon.convex.pattern_sums import Workspace, pair_moments


@given(bits=st.integers(1, 7), rows=st.integers(1, 700), width=st.integers(1, 9), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_moments_of_pairs_are_those_of_the_rows_both_gates_let_through(
    bits: int, rows: int, width: int, seed: int
) -> None:
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, width, generator=rng, dtype=torch.float64)
    open_ = torch.rand(bits, rows, generator=rng) < torch.rand(bits, 1, generator=rng)
    padded = torch.cat([x, torch.zeros(1, width, dtype=torch.float64)])
    found = pair_moments(padded, open_, Workspace.like(padded, bits))
    gated = open_.double().unsqueeze(2) * x
    torch.testing.assert_close(found, torch.einsum("ina,jnb->ijab", gated, gated), rtol=1e-10, atol=1e-10)
    assert bool((found == found.transpose(2, 3)).all())


def test_a_workspace_serves_again_after_other_rows() -> None:
    rng = torch.Generator().manual_seed(5)
    rows = torch.cat([torch.randn(300, 4, generator=rng), torch.zeros(1, 4)])
    open_ = torch.rand(6, 300, generator=rng) < 0.5
    workspace = Workspace.like(rows, 6)
    first = pair_moments(rows, open_, workspace)
    pair_moments(7 * rows, open_[:3], workspace)
    assert bool((pair_moments(rows, open_, workspace) == first).all())
