"""The fastMRI-layout reader, against h5py, files made by others and damaged files."""

import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from convexrecon.data.fastmri import read_kspace, read_scan_info, recon_size_from_header
from convexrecon.data.fastmri_writing import ismrmrd_header, write_scan
from convexrecon.errors import InputError


def random_kspace(*shape: int) -> NDArray[np.complex64]:
    draws = torch.randn(*shape, 2, generator=torch.Generator().manual_seed(len(shape) + sum(shape)))
    return np.asarray(torch.view_as_complex(draws))


def raw_scan(path: Path, **datasets: Any) -> Path:
    """A file written by h5py alone, as another program would."""
    with h5py.File(path, "w") as file:
        for name, data in datasets.items():
            file.create_dataset(name, data=data)
    return path


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
