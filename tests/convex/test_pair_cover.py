from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convexrecon.convex.pair_cover import pair_cover


@given(count=st.integers(1, 90), size=st.integers(2, 12))
@settings(max_examples=60, deadline=None)
def test_every_pair_and_item_is_in_a_set_of_at_most_the_size_asked_for(count: int, size: int) -> None:
    cover = pair_cover(count, size)
    assert all(len(chosen) <= size and len(set(chosen)) == len(chosen) for chosen in cover)
    assert {item for chosen in cover for item in chosen} == set(range(count))
    covered = {pair for chosen in cover for pair in combinations(chosen, 2)}
    assert covered == set(combinations(range(count), 2))


@pytest.mark.parametrize(("count", "size", "most"), [(32, 8, 20), (48, 12, 20), (64, 11, 60), (256, 12, 750)])
def test_covers_are_small(count: int, size: int, most: int) -> None:
    assert len(pair_cover(count, size)) <= most


def test_sizes_that_hold_no_pair_are_refused() -> None:
    with pytest.raises(ValueError, match="size >= 2, found 3 and 1"):
        pair_cover(3, 1)
