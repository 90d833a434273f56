"""A line for the user when torchrun ends a process because another one is gone."""

import os
import signal
import sys
import threading
import time

from convexrecon.training.first_to_end import first_to_end

# Seconds that a process has for what it is already saying; torchrun kills it after 30.
GRACE = 10.0
STATUS = 128 + signal.SIGTERM


def end_on_termination(message: str) -> None:
    """End at once on SIGTERM, whatever the program is doing; of all processes of the run, the first prints `message`.

    By itself Python would die without a word, and a handler of its own would have to wait until the program
    returns from the library that it is in, which waits for the process that is gone. So a thread of its own
    listens. Call it once, in the main thread, from the program that owns the process.

    Args:
        message: printed to standard error, as a line.
    """
    listen, tell = os.pipe()
    os.set_blocking(tell, False)
    signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, lambda *_: None)  # without a handler of Python's, nothing is told
    threading.Thread(target=_listen, args=(listen, message), daemon=True).start()


def _listen(listen: int, message: str) -> None:
    while os.read(listen, 1)[0] != signal.SIGTERM:
        pass
    first, rank = first_to_end("signal"), os.environ.get("RANK", "0")
    if first == f"{rank}/signal":
        sys.stderr.write(f"{message}\n")
        sys.stderr.flush()
    elif first.startswith(f"{rank}/"):
        time.sleep(GRACE)  # the program is about to say why, and to end
    os._exit(STATUS)
