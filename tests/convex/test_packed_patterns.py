import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from convexrecon.convex.arrangements import Gates
from convexrecon.convex.packed_patterns import RememberedPatterns, pack_patterns, unpack_patterns


def whole(patterns: RememberedPatterns, position: int, image: torch.Tensor) -> torch.Tensor:
    return torch.cat([open_ for _, open_ in patterns.bands(position, image)], 2)


@given(gates=st.integers(1, 40), pixels=st.integers(0, 30), seed=st.integers(0, 99))
def test_packing_loses_nothing(gates: int, pixels: int, seed: int) -> None:
    open_ = torch.rand(gates, pixels, generator=torch.Generator().manual_seed(seed)) < 0.5
    packed = pack_patterns(open_)
    assert packed.shape == ((gates + 7) // 8, pixels)
    assert bool((unpack_patterns(packed, gates) == open_).all())


def test_patterns_are_remembered_up_to_the_limit() -> None:
    rng = torch.Generator().manual_seed(1)
    gates = Gates(torch.randn(11, 2, 3, 3, generator=rng), torch.randn(11, generator=rng))
    first, second = torch.randn(2, 1, 2, 6, 7, generator=rng)
    patterns = RememberedPatterns(gates, limit=2 * 6 * 7)
    expected = gates.patterns(first)
    assert bool((whole(patterns, 0, first) == expected).all())
    whole(patterns, 1, second)
    # What is remembered is not decided again; what did not fit is.
    assert bool((whole(patterns, 0, torch.zeros_like(first)) == expected).all())
    assert bool((whole(patterns, 1, first) == expected).all())


@pytest.mark.parametrize("limit", [0, 10**6])
def test_packed_patterns_are_the_patterns_however_many_gates(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("convexrecon.convex.arrangements.GATES_DECIDED", 8)
    rng = torch.Generator().manual_seed(2)
    gates = Gates(torch.randn(19, 2, 3, 5, generator=rng), torch.randn(19, generator=rng))
    image = torch.randn(1, 2, 6, 7, generator=rng)
    patterns = RememberedPatterns(gates, limit)
    packed = patterns.packed(0, image)
    assert packed.shape == (3, 42)
    expected = torch.cat([gates.select(slice(i, i + 1)).patterns(image) for i in range(19)], 1)
    assert bool((unpack_patterns(packed, 19).view(expected.shape) == expected).all())
    assert bool((whole(patterns, 0, image) == expected).all())
    assert (patterns.packed(0, image) is packed) == (limit > 0)
