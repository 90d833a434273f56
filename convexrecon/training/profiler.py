"""Seconds and peak memory of a stretch of work, the same numbers for every trainer."""

import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import torch


@dataclass
class Profile:
    """Measures a ``with`` block.

    Peak memory is that of the CUDA allocator when a CUDA device is given, else the resident set of the
    process, libraries included. Where the system cannot reset its own peak (not Linux), the peak is that
    of the process so far.

    Attributes:
        device: where the work runs.
        seconds: wall-clock time, set on leaving.
        peak_memory_mb: peak in units of 1e6 bytes, set on leaving.

    >>> with Profile(torch.device("cpu")) as profile:
    ...     _ = torch.ones(10).sum()
    >>> profile.seconds > 0 and profile.peak_memory_mb > 0
    True
    """

    device: torch.device
    seconds: float = 0.0
    peak_memory_mb: float = 0.0

    def __enter__(self) -> "Profile":
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            _reset_peak_resident()
        self._started = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            self.peak_memory_mb = torch.cuda.max_memory_allocated(self.device) / 1e6
        else:
            self.peak_memory_mb = _peak_resident() / 1e6
        self.seconds = time.perf_counter() - self._started


def _reset_peak_resident() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def resident_mb() -> float:
    """The resident set of this process now, in units of 1e6 bytes; where the system does not say, its peak."""
    now = _status_bytes("VmRSS:")
    return (_peak_resident() if now is None else now) / 1e6


def _status_bytes(name: str) -> int | None:
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def _peak_resident() -> int:
    """Bytes."""
    known = _status_bytes("VmHWM:")
    if known is not None:
        return known
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
