"""The fastMRI-layout reader and writer, against h5py, numpy FFTs and damaged files."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from convexrecon.data.fastmri import (
    ScanWriter,
    atomic_hdf5,
    find_scans,
    ismrmrd_header,
    read_kspace,
    read_scan_info,
    recon_size_from_header,
    root_sum_of_squares,
    write_scan,
)
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


def raw_scan(path: Path, **datasets: Any) -> Path:
    """A file written by h5py alone, as another program would."""
    with h5py.File(path, "w") as file:
        for name, data in datasets.items():
            file.create_dataset(name, data=data)
    return path


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


def test_a_file_of_knee_size_made_by_others(tmp_path: Path) -> None:
    header = (
        b'<?xml version="1.0"?>\n<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD" '
        b'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><studyInformation/><encoding><encodedSpace>'
        b"<matrixSize><x>64</x><y>36</y><z>1</z></matrixSize><fieldOfView_mm><x>280.0</x></fieldOfView_mm>"
        b"</encodedSpace><reconSpace><matrixSize><x>32</x><y>32</y><z>1</z></matrixSize></reconSpace>"
        b"</encoding></ismrmrdHeader>"
    )
    path = raw_scan(tmp_path / "file1000001.h5", kspace=random_kspace(2, 3, 64, 36), ismrmrd_header=header)
    with h5py.File(path, "a") as file:
        file.attrs["patient_id"] = "0beb"
        file.attrs["max"] = np.float64(3.5)
        file.attrs["bytes"] = np.bytes_(b"CORPD")
        file.attrs["array"] = np.arange(3)
    info = read_scan_info(path)
    assert info.recon_size == (32, 32)
    assert info.mask is None
    assert info.attributes == {"patient_id": "0beb", "max": 3.5, "bytes": "CORPD"}
    assert type(info.attributes["max"]) is float


def test_recon_size_without_header_is_that_of_kspace_and_never_larger(tmp_path: Path) -> None:
    kspace = random_kspace(1, 2, 12, 10)
    assert read_scan_info(raw_scan(tmp_path / "a.h5", kspace=kspace)).recon_size == (12, 10)
    rss = np.ones((1, 8, 16), np.float32)
    assert read_scan_info(raw_scan(tmp_path / "b.h5", kspace=kspace, reconstruction_rss=rss)).recon_size == (
        8,
        10,
    )


@pytest.mark.parametrize(
    ("xml", "size"),
    [
        (ismrmrd_header((640, 368), (320, 300)), (320, 300)),
        (b"<ismrmrdHeader><encoding/></ismrmrdHeader>", None),
        (b"not xml", None),
        (b"", None),
        (ismrmrd_header((8, 8), (0, 4)), None),
        (
            "<h><encoding><reconSpace><matrixSize><x>5</x><y>7</y></matrixSize></reconSpace></encoding></h>",
            (5, 7),
        ),
        (
            "<h><encoding><reconSpace><matrixSize><x>a</x><y>7</y></matrixSize></reconSpace></encoding></h>",
            None,
        ),
    ],
)
def test_recon_size_from_header(xml: bytes | str, size: tuple[int, int] | None) -> None:
    assert recon_size_from_header(xml) == size


MASK = np.array([0, 1, 1, 0, 1, 0, 0])


@pytest.mark.parametrize(
    "mask",
    [
        MASK,
        MASK.astype(bool),
        MASK.astype(np.float32),
        MASK.astype(np.uint8)[None],
        MASK[None, None],
        np.tile(MASK, (5, 1)),
    ],
)
def test_mask_layouts_and_types(tmp_path: Path, mask: NDArray[Any]) -> None:
    info = read_scan_info(raw_scan(tmp_path / "a.h5", kspace=random_kspace(1, 2, 5, 7), mask=mask))
    assert info.mask is not None
    assert info.mask.dtype == np.bool_
    assert np.array_equal(info.mask, np.tile(MASK == 1, (5, 1)))


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (np.ones(5), "shape"),
        (np.ones((7, 5)), "shape"),
        (np.zeros(7), "samples nothing"),
        (np.full(7, 0.5), "other values"),
        (np.full(7, np.nan), "other values"),
    ],
)
def test_bad_masks_are_refused(tmp_path: Path, mask: NDArray[Any], said: str) -> None:
    kspace = random_kspace(1, 2, 5, 7)
    path = raw_scan(tmp_path / "a.h5", kspace=kspace, mask=mask)
    with pytest.raises(InputError, match=said) as caught:
        read_scan_info(path)
    assert str(path) in str(caught.value)
    with pytest.raises(InputError, match=said):
        write_scan(tmp_path / "b.h5", kspace, mask=mask)
    assert not (tmp_path / "b.h5").exists()


@pytest.mark.parametrize(
    ("datasets", "said"),
    [
        ({"images": np.ones((2, 3))}, r"\['images'\].*ISMRMRD"),
        ({"kspace": np.ones((2, 9, 9), np.complex64)}, "coil axis is needed"),
        ({"kspace": np.ones((9, 9), np.complex64)}, r"expected complex \(slice, coil, y, x\)"),
        ({"kspace": np.ones((2, 2, 9, 9), np.float32)}, r"float32.*expected complex"),
        ({"kspace": np.ones((0, 2, 9, 9), np.complex64)}, "at least one slice"),
        (
            {"kspace": np.ones((2, 2, 9, 9), np.complex64), "reconstruction_rss": np.ones((1, 9, 9))},
            "reconstruction_rss",
        ),
    ],
)
def test_foreign_layouts_are_refused(tmp_path: Path, datasets: dict[str, Any], said: str) -> None:
    path = raw_scan(tmp_path / "a.h5", **datasets)
    with pytest.raises(InputError, match=said) as caught:
        read_scan_info(path)
    assert str(path) in str(caught.value)


def test_groups_in_place_of_datasets_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_group("kspace")
    with pytest.raises(InputError, match="no dataset 'kspace'"):
        read_scan_info(tmp_path / "a.h5")


def test_truncated_and_non_hdf5_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write_scan(path, random_kspace(2, 2, 16, 16))
    content = path.read_bytes()
    for kept in (0, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:kept])
        with pytest.raises(InputError, match="truncated") as caught:
            read_scan_info(path)
        assert str(path) in str(caught.value)
    path.write_text("this is not a scan")
    with pytest.raises(InputError, match="HDF5"):
        read_kspace(path, 0)
    with pytest.raises(InputError, match="no such file"):
        read_scan_info(tmp_path / "missing.h5")


def test_nan_and_inf_are_refused_with_file_and_slice(tmp_path: Path) -> None:
    kspace = random_kspace(3, 2, 6, 5)
    kspace[1, 0, 2, 2] = np.nan
    kspace[2, 0, 2, 2] = complex(0, np.inf)
    path = raw_scan(tmp_path / "a.h5", kspace=kspace)
    assert np.array_equal(read_kspace(path, 0), kspace[0])
    for index in (1, 2):
        with pytest.raises(InputError, match=rf"a\.h5: kspace of slice {index} .*NaN or Inf"):
            read_kspace(path, index)
    with pytest.raises(InputError, match=r"slice 1 .*NaN or Inf"):
        write_scan(tmp_path / "b.h5", kspace)
    assert os.listdir(tmp_path) == ["a.h5"]
    huge = raw_scan(tmp_path / "c.h5", kspace=np.full((1, 1, 4, 4), 1e300 + 0j))
    with pytest.raises(InputError, match="NaN or Inf"):
        read_kspace(huge, 0)


@pytest.mark.parametrize("index", [-1, 3])
def test_slices_out_of_range_are_refused(tmp_path: Path, index: int) -> None:
    write_scan(tmp_path / "a.h5", random_kspace(3, 2, 6, 5))
    with pytest.raises(InputError, match="expected 0 to 2"):
        read_kspace(tmp_path / "a.h5", index)


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


def test_an_exception_while_writing_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> None:
        with atomic_hdf5(tmp_path / "a.h5") as file:
            file["x"] = np.ones(4)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert os.listdir(tmp_path) == []


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a folder"):
        write_scan(tmp_path, random_kspace(1, 1, 4, 4))
    with pytest.raises(InputError, match="cannot be written"):
        write_scan(tmp_path / "file" / "a.h5", random_kspace(1, 1, 4, 4))


FULL_DISK = """
import os, resource, signal, sys
import numpy as np
from convexrecon.data.fastmri import write_scan
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


def test_find_scans(tmp_path: Path) -> None:
    for name in ("b.h5", "a.h5", ".c.123.partial.h5", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    assert find_scans(tmp_path) == [tmp_path / "a.h5", tmp_path / "b.h5"]
    assert find_scans(tmp_path / "b.h5") == [tmp_path / "b.h5"]
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x.cfl").write_bytes(b"")
    for folder, said in (("empty", "empty"), ("other", "x.cfl"), ("missing", "no such file or folder")):
        with pytest.raises(InputError, match=said) as caught:
            find_scans(tmp_path / folder)
        assert str(tmp_path / folder) in str(caught.value)
