"""Few sets of gates such that every pair of gates lies in one of them."""

import math
from collections.abc import Iterator
from functools import lru_cache
from itertools import combinations


@lru_cache(maxsize=64)
def pair_cover(count: int, size: int) -> tuple[tuple[int, ...], ...]:
    """Sets of at most `size` of `count` items that together hold every pair (and every single item).

    A greedy covering design: items are bundled, and bundles joined into sets, each set taking the bundles
    with most uncovered pairs; the best of several bundle sizes. Within a factor of 1.5 of the Schoenheim
    bound ``ceil(count / size ceil((count - 1) / (size - 1)))`` where it matters.

    Raises:
        ValueError: count < 1 or size < 2.

    >>> pair_cover(5, 8)
    ((0, 1, 2, 3, 4),)
    >>> sets = pair_cover(32, 8)
    >>> len(sets), max(len(s) for s in sets)
    (20, 8)
    """
    if count < 1 or size < 2:
        raise ValueError(f"pair cover: expected count >= 1 and size >= 2, found {count} and {size}")
    if count <= size:
        return (tuple(range(count)),)
    # Single items give the best covers of few items; of many they take long to search.
    bundles = [b for b in range(1, size // 2 + 1) if count / b <= 64 or b == size // 2]
    return min((tuple(_bundled(count, size, bundle)) for bundle in bundles), key=len)


def _bundled(count: int, size: int, bundle: int) -> Iterator[tuple[int, ...]]:
    """A cover made of bundles of consecutive items."""
    for chosen in _greedy(math.ceil(count / bundle), size // bundle):
        yield tuple(item for b in chosen for item in range(b * bundle, min((b + 1) * bundle, count)))


def _greedy(count: int, size: int) -> Iterator[list[int]]:
    """A cover, each set started at the item with most uncovered pairs and extended greedily."""
    if count <= size:
        yield list(range(count))
        return
    uncovered = [set(range(count)) - {item} for item in range(count)]
    while any(uncovered):
        chosen = [max(range(count), key=lambda item: len(uncovered[item]))]
        while len(chosen) < size:
            gains = {
                item: (len(uncovered[item].intersection(chosen)), len(uncovered[item]))
                for item in range(count)
                if item not in chosen
            }
            chosen.append(max(gains, key=gains.__getitem__))
        for first, second in combinations(chosen, 2):
            uncovered[first].discard(second)
            uncovered[second].discard(first)
        yield sorted(chosen)
