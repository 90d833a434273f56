"""Images in every format: by the name of the file, with all that the format holds."""

import gzip
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from convexrecon.data.bart import read_cfl
from convexrecon.data.fastmri_writing import write_scan
from convexrecon.data.ismrmrd_images import write_images
from convexrecon.data.prepared_files import Layout
from convexrecon.data.scan import Scan
from convexrecon.data.scans import open_scan
from convexrecon.errors import InputError
from convexrecon.image_files import image_file, image_format

SHAPE = (3, 5, 4)
LAYOUTS: tuple[Layout, ...] = ("slices", "volume", "cine")


def random(*shape: int) -> Any:
    rng = np.random.default_rng(0)
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)


@pytest.fixture
def scan(tmp_path: Path) -> Scan:
    write_scan(tmp_path / "scan.h5", random(3, 2, 5, 4))
    return replace(open_scan(tmp_path / "scan.h5"), voxel_mm=(3.0, 1.5, 2.0), header=b"<ismrmrdHeader/>")


def write(out: Path, scan: Scan, layout: Layout, image: Any, **options: Any) -> None:
    with image_file(out, layout, voxel_mm=scan.voxel_mm, header=scan.header, **options) as file:
        file["reconstruction_complex"] = image
        file["mask"] = np.ones(SHAPE[1:])


def test_hdf5_keeps_all(tmp_path: Path, scan: Scan) -> None:
    write(tmp_path / "o.h5", scan, "slices", random(*SHAPE))
    with h5py.File(tmp_path / "o.h5") as file:
        assert set(file) == {"reconstruction_complex", "mask"}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_bart_has_complex_images_in_its_dimensions(tmp_path: Path, scan: Scan, layout: Layout) -> None:
    image = random(*SHAPE)
    write(tmp_path / "o.cfl", scan, layout, image)
    found = read_cfl(tmp_path / "o")
    expected = {"slices": {0: 5, 1: 4, 13: 3}, "volume": {0: 3, 1: 5, 2: 4}, "cine": {0: 5, 1: 4, 10: 3}}[layout]
    assert {axis: size for axis, size in enumerate(found.shape) if size > 1} == expected
    squeezed = found.squeeze()
    assert np.array_equal(squeezed if layout == "volume" else np.moveaxis(squeezed, -1, 0), image)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_nifti_has_magnitudes_and_the_size_of_voxels(tmp_path: Path, scan: Scan, layout: Layout) -> None:
    nibabel = pytest.importorskip("nibabel")
    image = random(*SHAPE)
    write(tmp_path / "o.nii.gz", scan, layout, image)
    assert gzip.decompress((tmp_path / "o.nii.gz").read_bytes())
    file = nibabel.load(tmp_path / "o.nii.gz")
    assert file.header.get_zooms()[:3] == (2.0, 1.5, 3.0)
    found = np.asarray(file.dataobj)
    assert found.shape == ((4, 5, 1, 3) if layout == "cine" else (4, 5, 3))
    np.testing.assert_allclose(found.squeeze().T, np.abs(image), rtol=1e-6)
    write(tmp_path / "c.nii", scan, layout, image, keep_complex=True)
    assert np.array_equal(np.asarray(nibabel.load(tmp_path / "c.nii").dataobj).squeeze().T, image)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_ismrmrd_has_magnitudes_and_complex_images(tmp_path: Path, scan: Scan, layout: Layout) -> None:
    image = random(*SHAPE)
    write(tmp_path / "o.mrd", scan, layout, image)
    with h5py.File(tmp_path / "o.mrd") as file:
        assert file["dataset/xml"][0] == scan.header
        magnitude, whole = (file[f"dataset/image_{k}/data"][()] for k in (0, 1))
        heads = [file[f"dataset/image_{k}/header"][()] for k in (0, 1)]
        assert len(file["dataset/image_1/attributes"]) == len(whole)
    # x, the readout, is fastest: (N, channel, z, y, x), where ours are (N, x, y, z).
    axes = whole["real"] + 1j * whole["imag"]
    ours = axes[:, 0].transpose(0, 3, 2, 1)
    assert np.array_equal(ours[0] if layout == "volume" else ours[..., 0], image)
    np.testing.assert_allclose(magnitude, np.abs(axes), rtol=1e-6)
    for head, data_type, image_type in zip(heads, (5, 7), (1, 5), strict=True):
        assert set(head["data_type"]) == {data_type}
        assert set(head["image_type"]) == {image_type}
        assert [tuple(size) for size in head["matrix_size"]] == [whole.shape[:1:-1]] * len(whole)
    sizes = heads[0]["field_of_view"][0] / heads[0]["matrix_size"][0]
    assert tuple(sizes) == ((3.0, 1.5, 2.0) if layout == "volume" else (1.5, 2.0, 3.0))
    counter = heads[0]["phase" if layout == "cine" else "slice"]
    assert list(counter) == list(range(len(whole)))


def test_names_and_images_that_no_format_has_are_refused(
    tmp_path: Path, scan: Scan, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("o", "o.png", ".h5", "o.h5.txt"):
        with pytest.raises(InputError, match=r"expected a name that ends in .h5, .*\.nii\.gz, .*\.mrd"):
            image_format(name)
    with pytest.raises(InputError, match="NaN"):
        write(tmp_path / "o.mrd", scan, "slices", random(*SHAPE) * np.nan)
    with pytest.raises(InputError, match="expected three axes"):
        write_images(tmp_path / "o.mrd", random(5, 4), "zyx")
    assert not (tmp_path / "o.mrd").exists()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'convexrecon\[nifti\]'"):
        image_format("o.nii")


def test_an_interrupted_reconstruction_leaves_nothing(tmp_path: Path, scan: Scan) -> None:
    def stop(out: Path) -> None:
        with image_file(out, "slices", voxel_mm=scan.voxel_mm) as file:
            file["reconstruction_complex"] = random(*SHAPE)
            raise KeyboardInterrupt

    for name in ("o.h5", "o.cfl", "o.mrd"):
        with pytest.raises(KeyboardInterrupt):
            stop(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["scan.h5"]
