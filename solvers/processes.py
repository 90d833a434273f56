"""What processes that each hold a share of the data do together: sum, and agree."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


def _same(tensor: Tensor) -> Tensor:
    return tensor


@dataclass(frozen=True)
class Processes:
    """How the processes that solve one problem meet; by default there is one, which has nothing to do.

    All of them run the same algorithm: what it finds in the data is summed, the rest each works out for itself. Two
    machines may round differently, so that one stops where another goes on and waits for ever: what decides on
    another sum is agreed on first.

    Attributes:
        total: tensor -> its sum over the processes, the same bits in each; may overwrite its argument.
        agreed: tensor that all processes have, up to rounding -> the first one's; may overwrite its argument.

    >>> both = Processes(total=lambda share: 2 * share)  # as if the other process had the same
    >>> both.sums(torch.tensor([1.0, 2.0]), 3.0)
    (tensor([2., 4.]), [6.0])
    >>> both.agree_on(torch.tensor([1.0]), 0.5, True)
    (tensor([1.]), [0.5, 1.0])
    """

    total: Callable[[Tensor], Tensor] = _same
    agreed: Callable[[Tensor], Tensor] = _same

    def sums(self, tensor: Tensor, *numbers: float) -> tuple[Tensor, list[float]]:
        """The sums of a float64 tensor and of numbers beside it, as one message."""
        return _as_one(self.total, tensor, numbers)

    def agree_on(self, tensor: Tensor, *numbers: float) -> tuple[Tensor, list[float]]:
        """The first process's float64 tensor and numbers, as one message."""
        return _as_one(self.agreed, tensor, numbers)


def _as_one(
    exchange: Callable[[Tensor], Tensor], tensor: Tensor, numbers: Sequence[float]
) -> tuple[Tensor, list[float]]:
    if exchange is _same:
        return tensor, [float(number) for number in numbers]
    message = exchange(torch.cat([tensor.flatten(), tensor.new_tensor([float(number) for number in numbers])]))
    return message[: tensor.numel()].view_as(tensor), message[tensor.numel() :].tolist()


ALONE = Processes()
