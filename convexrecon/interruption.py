"""Ctrl-C that is not lost when it arrives inside a finalizer or a library's callback."""

import signal
import sys
import threading
from typing import Any

_DELAY = 0.02  # seconds: long enough to have left the callback, short enough to feel immediate


def deliver_swallowed_interrupts() -> None:
    """Raise again, a moment later, a `KeyboardInterrupt` that Python could only have printed and dropped.

    An exception raised while a weak reference's callback, a `__del__` or a C library's callback runs
    cannot travel to the caller; Python shows its traceback and goes on, and a training that the user
    wanted to stop continues. Every other such exception is reported as before.

    >>> deliver_swallowed_interrupts()  # once, by the program that owns the process
    >>> sys.unraisablehook = sys.__unraisablehook__
    """
    sys.unraisablehook = _repeat_interrupt


def _repeat_interrupt(unraisable: Any) -> None:
    if not issubclass(unraisable.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(unraisable)
        return
    again = threading.Timer(_DELAY, signal.raise_signal, (signal.SIGINT,))
    again.daemon = True
    again.start()
