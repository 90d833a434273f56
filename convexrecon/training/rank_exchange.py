"""What ranks that each have a share of the slices tell each other: sums over slices, and facts about single ones."""

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from convexrecon.solvers.processes import ALONE, Processes
from convexrecon.training.ranks import Ranks


def processes_of(ranks: Ranks) -> Processes:
    """The ranks as solvers know them: all-reduce, and broadcast from the first."""
    if ranks.count == 1:
        return ALONE

    def total(tensor: Tensor) -> Tensor:
        summed = tensor.contiguous()
        dist.all_reduce(summed)
        return summed

    def agreed(tensor: Tensor) -> Tensor:
        same = tensor.contiguous()
        dist.broadcast(same, 0)
        return same

    return Processes(total, agreed)


def of_all_ranks(
    ranks: Ranks, positions: Sequence[int], make: Callable[[int], Sequence[Tensor]], device: torch.device
) -> list[Sequence[Tensor]]:
    """What is made of some of the slices of all ranks, each by the rank that has it, given to every rank.

    Args:
        ranks: of which number r has the slices at r, r + count, r + 2 count, ..., as `Ranks.share` gives them.
        positions: among the slices of all ranks.
        make: tensors, on the device, of the slice at a position among this rank's own.
        device: of this rank.
    """
    if ranks.count == 1:
        return [make(position) for position in positions]
    mine = {p: make(p // ranks.count) for p in positions if p % ranks.count == ranks.rank}
    return [_told(position % ranks.count, mine.get(position), device) for position in positions]


def _told(owner: int, tensors: Sequence[Tensor] | None, device: torch.device) -> Sequence[Tensor]:
    """The tensors of the rank `owner`; the others have None."""
    kinds = [None if tensors is None else [(tuple(tensor.shape), tensor.dtype) for tensor in tensors]]
    dist.broadcast_object_list(kinds, owner, device=device)
    if tensors is None:
        assert kinds[0] is not None
        tensors = [torch.empty(shape, dtype=dtype, device=device) for shape, dtype in kinds[0]]
    same = [tensor.contiguous() for tensor in tensors]
    for tensor in same:
        dist.broadcast(tensor, owner)
    return same
