"""HDF5 files appear complete or not at all, whatever interrupts the writing."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from convexrecon.data.atomic_hdf5 import atomic_hdf5


def test_an_exception_while_writing_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> None:
        with atomic_hdf5(tmp_path / "a.h5") as file:
            file["x"] = np.ones(4)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert os.listdir(tmp_path) == []


FULL_DISK = """
import os, resource, signal, sys
import numpy as np
from convexrecon.data.fastmri_writing import write_scan
from convexrecon.errors import InputError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
for limit in (100_000, 100):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        write_scan(sys.argv[1], np.ones((6, 4, 32, 32), np.complex64))
    except InputError as error:
        if "a.h5: cannot be written" not in str(error):
            sys.exit(8)
    else:
        sys.exit(9)
sys.exit(7)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="file size limits as on Linux")
def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    # In a process of its own: HDF5 after a failed write can crash as late as the interpreter's exit.
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path / "a.h5")],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 7, done.stderr.decode()
    assert os.listdir(tmp_path) == []
