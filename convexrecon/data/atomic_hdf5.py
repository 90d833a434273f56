"""Write an HDF5 file under a temporary name, then rename; a disk that fills up is told, not crashed on."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from io import FileIO
from pathlib import Path
from typing import Any

import h5py

from convexrecon.atomic_write import atomic_path
from convexrecon.errors import InputError


@contextmanager
def atomic_hdf5(path: str | os.PathLike[str]) -> Iterator[h5py.File]:
    """Write an HDF5 file that appears under its name only when complete, see `atomic_path`.

    Raises:
        InputError: the file cannot be written: no permission, a folder, or (told on closing) a full disk.
    """
    with atomic_hdf5_in_parts(path) as part, part() as file:
        yield file


@contextmanager
def atomic_hdf5_in_parts(path: str | os.PathLike[str]) -> Iterator[Callable[[], AbstractContextManager[h5py.File]]]:
    """Write an HDF5 file that is open only while something is put into it; gives what opens it.

    While a file is open, HDF5 keeps a little memory for every dataset that was made in it. Between the large arrays of
    long computations these scraps lie scattered, and what was freed between them is never one piece again: the
    process grows by about an array a dataset. Closed, the file leaves nothing behind.

    Raises:
        InputError: the file cannot be written: no permission, a folder, or (told on closing) a full disk.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path}: is a folder; expected the name of a file to write")
    with ExitStack() as stack:
        try:
            temporary = stack.enter_context(atomic_path(path))
            raw = stack.enter_context(_DiskFile(temporary, "w+"))
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({error}); expected a writable place") from error
        mode = "w"

        @contextmanager
        def part() -> Iterator[h5py.File]:
            nonlocal mode
            with h5py.File(raw, mode) as file:
                yield file
            mode = "r+"
            if raw.failure is not None:
                raise InputError(
                    f"{path}: cannot be written ({raw.failure}); expected enough space on the disk"
                ) from raw.failure

        yield part


class _DiskFile(FileIO):
    """A file that remembers a failed write instead of raising it.

    HDF5 cannot close a file it failed to write to: it raises on closing and crashes at interpreter exit. So
    it is left to think that all went well, and `atomic_hdf5` raises what happened.
    """

    failure: OSError | None = None

    def write(self, data: Any, /) -> int:
        view = memoryview(data).cast("B")
        done = 0
        try:
            while done < len(view) and self.failure is None:
                done += super().write(view[done:]) or 0
        except OSError as error:
            self.failure = error
        return len(view)

    def truncate(self, size: int | None = None, /) -> int:
        try:
            return super().truncate(size)
        except OSError as error:
            self.failure = self.failure or error
            return size or 0
