"""Scans of every format reconstructed by a small run: the same images, and nothing where there is nothing."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from convexrecon.data.bart import read_cfl, to_bart, write_cfl
from convexrecon.data.fastmri import read_kspace
from convexrecon.data.fastmri_writing import write_scan
from convexrecon.data.ismrmrd_writing import write_cartesian
from convexrecon.data.preparation import PreparationSettings, prepare
from convexrecon.data.prepared_files import Layout
from convexrecon.data.simulation import simulate_dataset
from convexrecon.errors import InputError
from convexrecon.physics.fourier import centred_fft
from convexrecon.physics.masks import MaskSettings
from convexrecon.reconstruct import reconstruct_file
from convexrecon.training.config import RunSettings
from convexrecon.training.model_settings import ModelSettings
from convexrecon.training.train import train

SLICES, SIZE = 4, (32, 36)
BESIDE = 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of two and three axes, and k-space of a 3-D scan with nothing but noise at both ends of its readout."""
    root = tmp_path_factory.mktemp("scans")
    (scan,) = simulate_dataset(
        root / "sim", volumes=1, slices=SLICES, size=SIZE, coils=3, anatomy="head", layout="volume", progress=False
    )
    kspace = np.stack([read_kspace(scan, index) for index in range(SLICES)])
    draws = np.random.default_rng(0)
    noise = 1e-3 * np.abs(kspace).max() * draws.standard_normal((2, BESIDE, *kspace.shape[1:]))
    kspace = np.concatenate([noise[0], kspace, noise[1]]).astype(np.complex64)
    last = torch.from_numpy(np.ascontiguousarray(np.moveaxis(kspace, 0, -1)))
    whole = np.moveaxis(centred_fft(last, 1).numpy(), -1, 1)
    write_cartesian(root / "head.mrd", whole[None], "zyx", encoded_mm=(18.0, 64.0, 108.0))
    (root / "bart").mkdir()
    write_cfl(root / "bart" / "head.cfl", to_bart(whole[None], "zyx"))
    (root / "fastmri").mkdir()
    write_scan(root / "fastmri" / "head.h5", whole.swapaxes(0, 1), attributes={"readout": "z"})
    settings = RunSettings(
        mask=MaskSettings("poisson", 2.5, 10), model=ModelSettings(blocks=1, kernel=3, units=2), validation_fraction=0
    )
    runs: tuple[tuple[Layout, str], ...] = (("slices", "run2d"), ("volume", "run3d"))
    for layout, run in runs:
        prepare(root / "head.mrd", root / layout, PreparationSettings(calibration=10), layout=layout, progress=False)
        train(settings, root / layout, root / run, progress=False)
    return root


def images(path: Path) -> dict[str, Any]:
    with h5py.File(path) as file:
        return {name: file[name][()] for name in file}


@pytest.mark.parametrize("run", ["run2d", "run3d"])
def test_every_format_gives_the_same_images(folder: Path, tmp_path: Path, run: str) -> None:
    found = {}
    for scan in ("head.mrd", "bart/head.cfl", "fastmri/head.h5"):
        result = reconstruct_file(folder / run, folder / scan, tmp_path / "o.h5", progress=False)
        assert result.retrospective
        assert result.psnr is not None
        assert result.psnr > 25
        found[scan] = images(tmp_path / "o.h5")
    first = found.pop("head.mrd")
    assert first["reconstruction_complex"].shape == (SLICES + 2 * BESIDE, *SIZE)
    for other in found.values():
        assert np.array_equal(other["mask"], first["mask"])
        for name in ("reconstruction_complex", "target_complex"):
            assert np.linalg.norm(other[name] - first[name]) < 1e-4 * np.linalg.norm(first[name])
    power = np.abs(first["reconstruction_complex"]).sum((1, 2))
    assert not power[:BESIDE].any()
    assert not power[-BESIDE:].any()
    assert power[BESIDE:-BESIDE].all()


def test_an_undersampled_3d_scan_is_reconstructed_from_its_own_samples(folder: Path, tmp_path: Path) -> None:
    reference = reconstruct_file(folder / "run2d", folder / "head.mrd", tmp_path / "full.h5", progress=False)
    mask = images(tmp_path / "full.h5")["mask"]
    kspace = np.asarray(read_cfl(folder / "bart" / "head")).squeeze().transpose(3, 0, 1, 2)[None]
    write_cartesian(tmp_path / "head.mrd", kspace, "zyx", mask=np.broadcast_to(mask, (1, 1, *kspace.shape[2:])))
    result = reconstruct_file(folder / "run2d", tmp_path / "head.mrd", tmp_path / "o.h5", progress=False)
    assert not result.retrospective
    assert result.acceleration == pytest.approx(reference.acceleration)
    found, expected = (images(tmp_path / name)["reconstruction_complex"] for name in ("o.h5", "full.h5"))
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_images_of_3d_scans_are_volumes_in_other_formats(folder: Path, tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    reconstruct_file(folder / "run2d", folder / "head.mrd", tmp_path / "o.nii", progress=False)
    reconstruct_file(folder / "run2d", folder / "head.mrd", tmp_path / "o.cfl", progress=False)
    file = nibabel.load(tmp_path / "o.nii")
    assert file.header.get_zooms() == (3.0, 2.0, 3.0)
    volume = read_cfl(tmp_path / "o").squeeze()
    np.testing.assert_allclose(np.asarray(file.dataobj).T, np.abs(volume), rtol=1e-5)


def test_what_is_no_single_scan_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is a folder; expected one scan, such as head.cfl in it"):
        reconstruct_file(folder / "run2d", folder / "bart", tmp_path / "o.h5")
    with pytest.raises(InputError, match="expected a name that ends in"):
        reconstruct_file(folder / "run2d", folder / "head.mrd", tmp_path / "o.png")
    with pytest.raises(InputError, match="is the scan itself"):
        reconstruct_file(folder / "run2d", folder / "head.mrd", folder / "head.mrd")
