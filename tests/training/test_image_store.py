"""The store of images between blocks: what was written is read, and writing takes no more memory for more images."""

import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import h5py
import pytest
import torch
from torch import Tensor

from convexrecon.training.image_store import is_complete, read_store, write_store


def items() -> Iterator[tuple[list[str], Tensor]]:
    yield ["a/0", "a/1"], torch.arange(12).reshape(2, 3, 2).to(torch.complex64)
    yield ["b/0"], torch.ones(1, 5)


def test_images_are_read_as_written(tmp_path: Path) -> None:
    store = tmp_path / "images.h5"
    write_store(store, items())
    assert torch.equal(read_store(store, ["a/1", "a/0"]), torch.arange(12).reshape(2, 3, 2).to(torch.complex64).flip(0))
    assert torch.equal(read_store(store, ["b/0"]), torch.ones(1, 5))
    assert is_complete(store, ["a/0", "a/1", "b/0"])
    assert not is_complete(store, ["a/0", "b/1"])


def test_a_store_of_nothing_is_complete(tmp_path: Path) -> None:
    write_store(tmp_path / "images.h5", [])
    assert is_complete(tmp_path / "images.h5", [])


def test_a_store_that_is_not_finished_is_not_there(tmp_path: Path) -> None:
    def broken() -> Iterator[tuple[list[str], Tensor]]:
        yield from items()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_store(tmp_path / "images.h5", broken())
    assert os.listdir(tmp_path) == []


def test_no_file_is_open_while_images_are_made(tmp_path: Path) -> None:
    open_files = []

    def watched() -> Iterator[tuple[list[str], Tensor]]:
        for item in items():
            open_files.append(h5py.h5f.get_obj_count(h5py.h5f.OBJ_ALL, h5py.h5f.OBJ_FILE))
            yield item

    before = h5py.h5f.get_obj_count(h5py.h5f.OBJ_ALL, h5py.h5f.OBJ_FILE)
    write_store(tmp_path / "images.h5", watched())
    assert open_files == [before, before]


# A slab of 1 MB and of coil images 4 MB, as a scan has them; and what the process then takes beyond what it took.
WRITING = """
import sys
from pathlib import Path
import torch
from convexrecon.training.image_store import write_store
from convexrecon.training.profiler import resident_mb

def images(count):
    for index in range(count):
        coils = torch.ones(8, 16, 64, 64, dtype=torch.complex64)
        yield [f"volume/{index}"], torch.fft.fftn(coils * 2, dim=(-2, -1)).sum(0, keepdim=True)

torch.set_num_threads(1)
write_store(Path(sys.argv[1]), images(8))
before = resident_mb()
write_store(Path(sys.argv[1]), images(64))
print(resident_mb() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="how freed memory is used again is the C library's")
def test_the_process_does_not_grow_with_the_slabs(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITING, str(tmp_path / "images.h5")]
    grown = float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    # Open all the while, the store left 400 behind.
    assert grown < 150
