"""Bytes that tensors take while some work is done: the same figure for every trainer, on any device."""

import weakref
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class LiveMemory:
    """Measures a ``with`` block: the most bytes of tensors made in it that were alive at the same time.

    What exists before (weights, optimizer state, the batch) does not count; what the work makes and keeps for
    its backward pass does, wherever it is kept. On CUDA it is the allocator's peak over its level at the start;
    elsewhere every operation's results are followed until their storage is freed, which does not see the
    scratch memory inside an operation. Slows small operations down: meant for one step, not for an epoch.

    Attributes:
        peak_mb: in units of 1e6 bytes, set on leaving.

    >>> with LiveMemory(torch.device("cpu")) as memory:
    ...     a = torch.ones(250_000)
    ...     a = a + a + a
    >>> memory.peak_mb
    3.0
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.peak_mb = 0.0

    def __enter__(self) -> "LiveMemory":
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            self._before = torch.cuda.memory_allocated(self.device)
        else:
            self._follower = _Follower()
            self._follower.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            self.peak_mb = (torch.cuda.max_memory_allocated(self.device) - self._before) / 1e6
        else:
            self._follower.__exit__(kind, error, trace)
            self.peak_mb = self._follower.peak / 1e6


class _Follower(TorchDispatchMode):
    """Follows the storages that operations return; views and in-place results share one and count once."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: set[int] = set()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Nothing is compiled here, and the wrapper that this would add loads torch's compiler: two seconds.
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        inputs = {storage.data_ptr() for storage in map(_storage, tree_iter((args, kwargs))) if storage is not None}
        for item in tree_iter(result):
            storage = _storage(item)
            if storage is not None and storage.data_ptr() not in inputs:
                self._follow(storage)
        return result

    def _follow(self, storage: torch.UntypedStorage) -> None:
        address, size = storage.data_ptr(), storage.nbytes()
        if size == 0 or address in self._known:
            return
        self._known.add(address)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._forget, address, size)

    def _forget(self, address: int, size: int) -> None:
        self._known.discard(address)
        self.live -= size


def _storage(item: Any) -> torch.UntypedStorage | None:
    return item.untyped_storage() if isinstance(item, Tensor) else None
