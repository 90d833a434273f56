import subprocess
import sys

PROGRAM = """
import os, signal, time
from convexrecon.termination import end_on_termination

end_on_termination("stopped; the same command continues")
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(60)
"""


def test_termination_ends_with_a_line_and_a_status() -> None:
    child = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60)
    assert child.stderr == "stopped; the same command continues\n"
    assert child.returncode == 128 + 15
