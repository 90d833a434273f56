"""The processes of one training run, as torchrun starts them: who they are, what they share and sum."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from convexrecon.errors import InputError, RankLostError
from convexrecon.training.first_to_end import first_to_end

Item = TypeVar("Item")
# Longest wait for the other ranks: one that died is noticed at once, one that hangs after this.
PATIENCE = timedelta(minutes=30)


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run; by default it is alone.

    Attributes:
        rank: number of this process, from 0.
        count: number of processes.

    >>> Ranks().is_lead, Ranks(1, 2).share(["a", "b", "c"])
    (True, ['b'])
    """

    rank: int = 0
    count: int = 1

    @property
    def is_lead(self) -> bool:
        """Whether this process writes the run folder and talks to the user."""
        return self.rank == 0

    def share(self, items: Sequence[Item]) -> list[Item]:
        """What of `items` is this process's; the shares of all ranks are disjoint and make up the whole."""
        return list(items[self.rank :: self.count])

    def wait(self) -> None:
        """Return when every rank is here."""
        if self.count > 1:
            dist.barrier()

    def sum(self, values: Sequence[float], device: torch.device) -> list[float]:
        """Sums over the ranks, in float64 (float32 on devices without it)."""
        if self.count == 1:
            return list(values)
        precision = torch.float32 if device.type == "mps" else torch.float64
        total = torch.tensor(values, dtype=precision, device=device)
        dist.all_reduce(total)
        return [float(value) for value in total.tolist()]

    def largest(self, value: float, device: torch.device) -> float:
        """The largest of all ranks' values, in float32."""
        if self.count == 1:
            return value
        found = torch.tensor(value, dtype=torch.float32, device=device)
        dist.all_reduce(found, op=dist.ReduceOp.MAX)
        return float(found)

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace gradients by their sums over the ranks, in one message; a missing gradient is zero."""
        if self.count == 1:
            return
        known = list(parameters)
        for parameter in known:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in known if parameter.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def broadcast(self, tensors: Iterable[Tensor], source: int = 0) -> None:
        """Overwrite tensors by those of the rank `source`."""
        if self.count > 1:
            for tensor in tensors:
                dist.broadcast(tensor, source)

    def send(self, tensor: Tensor, to: int) -> Callable[[], None]:
        """Begin to send a contiguous tensor to a rank; the result waits until it has arrived, and holds it."""
        work = dist.isend(tensor, to)
        assert work is not None  # None for processes outside of the group alone

        def wait(held: Tensor = tensor) -> None:
            work.wait()

        return wait

    def receive(self, tensor: Tensor, source: int) -> None:
        """Overwrite a contiguous tensor by what a rank sends."""
        dist.recv(tensor, source)


@contextmanager
def joined_ranks(device: torch.device) -> Iterator[tuple[Ranks, torch.device]]:
    """Join the other processes of the run, if torchrun started any; gives this rank and its device.

    NCCL between CUDA devices, one a local rank; gloo between CPU processes.

    Args:
        device: as asked for; a CUDA device without a number becomes that of the local rank.

    Raises:
        InputError: more local ranks than CUDA devices.
        RankLostError: another rank died or left while this one was waiting for it.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Ranks(), device
        return
    if device.type == "cuda":
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if local >= torch.cuda.device_count():
            raise InputError(
                f"torchrun: {local + 1} or more processes on a machine with {torch.cuda.device_count()} CUDA devices; "
                "expected at most one process a device"
            )
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    try:
        dist.init_process_group(backend, timeout=PATIENCE)
        yield Ranks(dist.get_rank(), count), device
        dist.destroy_process_group()
    except BaseException as error:
        first_to_end()  # before the others can see closed connections
        if dist.is_initialized() and backend == "gloo":  # NCCL would wait for messages that no longer come
            dist.destroy_process_group()
        if isinstance(error, RuntimeError) and (isinstance(error, dist.DistError) or _lost(str(error))):
            raise RankLostError(
                f"rank {os.environ.get('RANK')} of {count} lost another one, which died or left; "
                "the same command continues from the last checkpoint"
            ) from error
        raise


def _lost(message: str) -> bool:
    """Whether an error tells of a broken connection: gloo raises no type of its own."""
    signs = ("gloo", "Connection closed by peer", "Connection reset by peer", "Broken pipe", "NCCL")
    return any(sign in message for sign in signs)
