"""The fastMRI-layout writer, against its reader, numpy FFTs and arguments that do not fit."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from convexrecon.data.fastmri import read_kspace, read_scan_info
from convexrecon.data.fastmri_writing import ScanWriter, ismrmrd_header, root_sum_of_squares, write_scan
from convexrecon.data.scans import find_scans
from convexrecon.errors import InputError


def random_kspace(*shape: int) -> NDArray[np.complex64]:
    draws = torch.randn(*shape, 2, generator=torch.Generator().manual_seed(len(shape) + sum(shape)))
    return np.asarray(torch.view_as_complex(draws))


def numpy_rss(kspace: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    axes = (-2, -1)
    image = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kspace, axes=axes), norm="ortho"), axes=axes)
    rows, columns = kspace.shape[-2:]
    top, left = rows // 2 - size[0] // 2, columns // 2 - size[1] // 2
    image = image[..., top : top + size[0], left : left + size[1]]
    return np.asarray(np.sqrt(np.sum(np.abs(image) ** 2, axis=-3)))


def test_written_scan_reads_back(tmp_path: Path) -> None:
    kspace = random_kspace(3, 2, 14, 9)
    header = ismrmrd_header((14, 9), (7, 9))
    path = tmp_path / "sub" / "scan.h5"
    write_scan(path, kspace, header=header, attributes={"acquisition": "PD", "seed": 3}, mask=np.arange(9) % 2)
    info = read_scan_info(path)
    assert info.path == path
    assert info.volume == "scan"
    assert info.shape == (3, 2, 14, 9)
    assert info.recon_size == (7, 9)
    assert info.header == header
    assert info.mask is not None
    assert np.array_equal(info.mask, np.broadcast_to(np.arange(9) % 2 == 1, (14, 9)))
    for index in range(3):
        assert np.array_equal(read_kspace(path, index), kspace[index])
    rss = numpy_rss(kspace, (7, 9))
    with h5py.File(path) as file:
        assert file["kspace"].dtype == np.complex64
        assert file["reconstruction_rss"].dtype == np.float32
        np.testing.assert_allclose(file["reconstruction_rss"][()], rss, rtol=1e-5)
    assert info.attributes == {
        "acquisition": "PD",
        "seed": 3,
        "max": pytest.approx(rss.max(), rel=1e-5),
        "norm": pytest.approx(np.linalg.norm(rss), rel=1e-5),
    }


@pytest.mark.parametrize("size", [(6, 5), (7, 4), (11, 8)])
def test_root_sum_of_squares_matches_numpy(size: tuple[int, int]) -> None:
    kspace = random_kspace(3, 11, 8)
    np.testing.assert_allclose(root_sum_of_squares(kspace, size), numpy_rss(kspace, size), rtol=1e-5)


@pytest.mark.parametrize(
    "make", [lambda k: k, lambda k: torch.from_numpy(k), lambda k: list(k), lambda k: k.astype(np.complex128)]
)
def test_write_scan_takes_arrays_tensors_and_sequences(tmp_path: Path, make: Callable[[Any], Any]) -> None:
    kspace = random_kspace(2, 3, 8, 6)
    rss = np.abs(random_kspace(2, 5, 4)).astype(np.float32)
    write_scan(tmp_path / "a.h5", make(kspace), rss=rss)
    assert np.array_equal(read_kspace(tmp_path / "a.h5", 1), kspace[1])
    assert read_scan_info(tmp_path / "a.h5").recon_size == (5, 4)
    with h5py.File(tmp_path / "a.h5") as file:
        assert np.array_equal(file["reconstruction_rss"][()], rss)


def test_writer_streams_slices_and_shows_the_file_only_when_complete(tmp_path: Path) -> None:
    kspace = random_kspace(3, 2, 6, 5)
    path = tmp_path / "a.h5"
    with ScanWriter.create(path, (3, 2, 6, 5)) as out:
        for one in kspace:
            assert not path.exists()
            assert find_scans_or_none(tmp_path) is None
            out.write(one)
        with pytest.raises(InputError, match="more slices"):
            out.write(kspace[0])
    assert np.array_equal(read_kspace(path, 2), kspace[2])


def find_scans_or_none(folder: Path) -> list[Path] | None:
    try:
        return find_scans(folder)
    except InputError:
        return None


def test_writer_refuses_missing_slices_and_wrong_shapes(tmp_path: Path) -> None:
    kspace = random_kspace(3, 2, 6, 5)
    path = tmp_path / "a.h5"
    write_scan(path, kspace)
    before = path.read_bytes()
    with (
        pytest.raises(InputError, match="1 slices written; expected 3"),
        ScanWriter.create(path, (3, 2, 6, 5)) as out,
    ):
        out.write(kspace[0])
    with (
        pytest.raises(InputError, match=r"expected complex \(2, 6, 5\)"),
        ScanWriter.create(path, (3, 2, 6, 5)) as out,
    ):
        out.write(kspace[0, :1])
    with (
        pytest.raises(InputError, match="rss of slice 0"),
        ScanWriter.create(path, (3, 2, 6, 5)) as out,
    ):
        out.write(kspace[0], np.ones((5, 5)))
    with pytest.raises(InputError, match="at least one slice"), ScanWriter.create(path, (0, 2, 6, 5)):
        pass
    for bad in (kspace[:0], kspace[0]):
        with pytest.raises(InputError, match=r"\(slice, coil, y, x\)|\(coil, y, x\)"):
            write_scan(path, bad)
    with pytest.raises(InputError, match="rss has shape"):
        write_scan(path, kspace, rss=np.ones((2, 6, 5)))
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.h5"]


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a folder"):
        write_scan(tmp_path, random_kspace(1, 1, 4, 4))
    with pytest.raises(InputError, match="cannot be written"):
        write_scan(tmp_path / "file" / "a.h5", random_kspace(1, 1, 4, 4))
