"""An array on disk for as long as it is needed: what does not fit into memory is paged out, what does stays there."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from convexrecon.errors import InputError


@contextmanager
def scratch_array(shape: tuple[int, ...], what: str) -> Iterator[NDArray[np.complex64]]:
    """A complex64 array of zeros, mapped from a temporary file without a name, which is gone afterwards.

    Args:
        shape: of the array.
        what: it is for, for messages.

    Raises:
        InputError: the disk of temporary files has too little space.
    """
    size = 8 * int(np.prod(shape, dtype=object))
    with tempfile.TemporaryFile() as file:
        try:
            # A file with holes would end the program, not raise, when the disk turns out to be full.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
        except OSError as error:
            raise InputError(
                f"{what}: cannot be sorted in {tempfile.gettempdir()} ({error}); expected {size / 1e9:.1f} GB of space "
                "there, or TMPDIR to name another folder"
            ) from error
        yield np.memmap(file, np.complex64, "r+", shape=shape)
