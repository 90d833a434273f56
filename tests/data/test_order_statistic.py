"""Order statistics in two passes: those of a sort, whatever the numbers and however they come."""

import pytest
import torch

from convexrecon.data.order_statistic import order_statistics
from convexrecon.errors import InputError
from convexrecon.training.live_memory import LiveMemory

RANKS = [1, 2, 317, 950, 999, 1000]


@pytest.mark.parametrize("chunk", [1000, 97])
def test_they_are_those_of_a_sort(chunk: int) -> None:
    numbers = torch.randn(1000, generator=torch.Generator().manual_seed(0)).abs() * torch.logspace(-20, 20, 1000)
    numbers[::3] = 0
    numbers[1::7] = 2.0
    expected = numbers.sort().values[[rank - 1 for rank in RANKS]].tolist()
    assert order_statistics(lambda: numbers.split(chunk), RANKS) == expected


def test_memory_does_not_follow_the_numbers() -> None:
    # All of them within one bin of the first pass.
    def peak(parts: int) -> float:
        numbers = 1 + torch.rand(1000, generator=torch.Generator().manual_seed(0)) / 512
        with LiveMemory(torch.device("cpu")) as memory:
            order_statistics(lambda: (numbers for _ in range(parts)), [500, 501])
        return memory.peak_mb

    assert peak(256) == peak(4)


def test_a_rank_that_there_is_not_is_refused() -> None:
    for rank in (0, 4):
        with pytest.raises(InputError, match="expected from 1 to the 3 numbers"):
            order_statistics(lambda: [torch.ones(3)], [1, rank])
