"""Seconds of training steps, split into data, forward and backward."""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch


class StepClock:
    """Adds up the seconds of the parts of training steps.

    On CUDA the device is waited for at the end of each part, which costs microseconds a step.

    Attributes:
        seconds: by part, "data", "forward" and "backward" (the update of the weights included).

    >>> clock = StepClock(torch.device("cpu"))
    >>> with clock.forward():
    ...     _ = torch.ones(10).sum()
    >>> clock.seconds["forward"] > 0, clock.seconds["data"]
    (True, 0.0)
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds = {"data": 0.0, "forward": 0.0, "backward": 0.0}

    @contextmanager
    def _part(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.seconds[name] += time.perf_counter() - started

    def data(self) -> AbstractContextManager[None]:
        """Times the loading of a batch."""
        return self._part("data")

    def forward(self) -> AbstractContextManager[None]:
        """Times a forward pass."""
        return self._part("forward")

    def backward(self) -> AbstractContextManager[None]:
        """Times a backward pass and the update."""
        return self._part("backward")
