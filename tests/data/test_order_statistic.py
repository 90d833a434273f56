"""Order statistics in two passes: those of a sort, whatever the numbers and however they come."""

import pytest
import torch

from convexrecon.data.order_statistic import order_statistic
from convexrecon.errors import InputError


@pytest.mark.parametrize("rank", [1, 2, 317, 950, 999, 1000])
@pytest.mark.parametrize("chunk", [1000, 97])
def test_it_is_that_of_a_sort(rank: int, chunk: int) -> None:
    numbers = torch.randn(1000, generator=torch.Generator().manual_seed(0)).abs() * torch.logspace(-20, 20, 1000)
    numbers[::3] = 0
    numbers[1::7] = 2.0
    assert order_statistic(lambda: numbers.split(chunk), rank) == float(numbers.sort().values[rank - 1])


def test_a_rank_that_there_is_not_is_refused() -> None:
    for rank in (0, 4):
        with pytest.raises(InputError, match="expected from 1 to the 3 numbers"):
            order_statistic(lambda: [torch.ones(3)], rank)
