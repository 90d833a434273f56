import subprocess
import sys

import pytest

PROGRAM = """
import signal, time, weakref
from convexrecon.interruption import deliver_swallowed_interrupts

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a process started in the background
deliver_swallowed_interrupts()


class Finalized:
    def __del__(self):
        {action}


try:
    Finalized()
    time.sleep(0.5)
    for _ in range(1000):
        time.sleep(0.001)
    print("went on")
except KeyboardInterrupt:
    print("stopped")
"""


@pytest.mark.parametrize(
    ("action", "outcome"),
    [("signal.raise_signal(signal.SIGINT)", "stopped"), ("raise ValueError('of another kind')", "went on")],
)
def test_an_interrupt_inside_a_finalizer_stops_the_program(action: str, outcome: str) -> None:
    program = PROGRAM.format(action=action)
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert child.stdout.strip() == outcome
    assert ("of another kind" in child.stderr) == (outcome == "went on")
    assert "KeyboardInterrupt" not in child.stderr
