"""Volumes and series evaluated: one score each, baselines slice by slice, a report with its pictures."""

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from convexrecon.data.preparation import PreparationSettings, prepare
from convexrecon.data.simulation import simulate_dataset
from convexrecon.data.slice_preparation import crop_oversampling
from convexrecon.errors import InputError
from convexrecon.evaluate.baselines import cg_sense
from convexrecon.evaluate.classical import classical_methods
from convexrecon.evaluate.compare import evaluate_runs, slice_by_slice
from convexrecon.evaluate.metrics import psnr, score_whole
from convexrecon.physics.masks import MaskSettings
from convexrecon.physics.sense import Sense
from convexrecon.reconstruct import reconstruct_file
from convexrecon.report.evaluation import evaluate_and_report
from convexrecon.training.config import RunSettings
from convexrecon.training.model_settings import ModelSettings
from convexrecon.training.run_folder import RunFolder
from convexrecon.training.train import train


def test_a_whole_volume_has_one_score() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random((4, 9, 8))
    truth[3] = 0
    image = truth + 0.1 * rng.standard_normal(truth.shape)
    score = score_whole("m", "v", image, truth, 1.5)
    assert score.psnr == pytest.approx(psnr(image, truth))
    assert 0 < score.ssim < 1
    assert (score.slice_index, score.seconds) == (0, 1.5)
    with pytest.raises(InputError, match="volume v: expected two images of three axes"):
        score_whole("m", "v", image[0], truth[0], 1.0)
    with pytest.raises(InputError, match=r"m, volume v: .*zero everywhere"):
        score_whole("m", "v", image, 0 * truth, 1.0)


@pytest.mark.parametrize("masks", [1, 2])
def test_slice_by_slice_is_the_method_on_each(masks: int) -> None:
    rng = torch.Generator().manual_seed(0)
    maps = torch.randn(2, 3, 4, 8, 6, dtype=torch.complex64, generator=rng)
    sense = Sense(maps, (torch.rand(masks, 1, 4, 8, 6, generator=rng) < 0.6).float(), axes=2)
    kspace = sense.forward(torch.randn(2, 4, 8, 6, dtype=torch.complex64, generator=rng))
    found = slice_by_slice(cg_sense)(sense, kspace, 0.1)
    one = Sense(maps[1:, :, 2], sense.mask[-1:, :, 2])
    torch.testing.assert_close(found[1, 2], cg_sense(one, kspace[1:, :, 2], 0.1)[0])


@pytest.mark.parametrize("layout", ["volume", "cine"])
def test_the_line_from_simulation_to_report(tmp_path: Path, layout: str) -> None:
    simulate_dataset(
        tmp_path / "scans", volumes=2, slices=5, size=(32, 36), coils=3, anatomy="head", progress=False,
        layout="volume" if layout == "volume" else "cine",
    )  # fmt: skip
    prepare(tmp_path / "scans", tmp_path / "data", PreparationSettings(calibration=12), progress=False)
    settings = RunSettings(
        mask=MaskSettings("poisson", 3.0, 8)
        if layout == "volume"
        else MaskSettings("variable", 3.0, center_fraction=0.1),
        model=ModelSettings(blocks=1, kernel=3, units=2),
        slab=3 if layout == "volume" else None,
        validation_fraction=0.5,
    )
    train(settings, tmp_path / "data", tmp_path / "run", progress=False)
    evaluation, report = evaluate_and_report(
        [tmp_path / "run"], tmp_path / "data", baselines=layout == "cine", progress=False
    )
    assert all(row["volumes"] == 2 and "slices" not in row for row in evaluation.summary.values())
    if layout == "cine":
        assert set(evaluation.summary) == {"zero-filled", *(m.name for m in classical_methods("cine")), "convex"}
        better, worse = (evaluation.summary[name]["psnr"] for name in ("convex", "zero-filled"))
        assert better is not None
        assert worse is not None
        assert better > worse + 1
    text = report.read_text()
    one = "volume" if layout == "volume" else "series"
    assert f"seconds per {one}" in text
    assert "seconds per slice" not in text
    assert f"over 2 {one if one == 'series' else 'volumes'}; x* is the reference" in text
    assert ("image/gif" in text) == (layout == "cine")
    assert ("planes through its middle" in text) == (layout == "volume")

    scan = sorted((tmp_path / "scans").glob("*.h5"))[0]
    done = reconstruct_file(tmp_path / "run", scan, tmp_path / "image.h5", progress=False)
    assert done.psnr is not None
    assert done.psnr > 20
    assert (done.slices, done.retrospective) == (5, True)
    _undersampled(scan, tmp_path / "image.h5", tmp_path / "under.h5")
    again = reconstruct_file(tmp_path / "run", tmp_path / "under.h5", tmp_path / "again.h5", progress=False)
    assert not again.retrospective
    assert again.acceleration == pytest.approx(done.acceleration)
    with h5py.File(tmp_path / "image.h5") as first, h5py.File(tmp_path / "again.h5") as second:
        error = np.linalg.norm(first["reconstruction_complex"][()] - second["reconstruction_complex"][()])
        assert error < 0.02 * np.linalg.norm(first["reconstruction_complex"][()])
        if layout == "cine":
            assert first["mask"].shape == (5, 32, 36)
    with h5py.File(tmp_path / "under.h5", "r+") as file:
        del file.attrs["layout"]
    with pytest.raises(InputError, match="expected its attribute layout, or --layout, to be 'volume' or 'cine'"):
        reconstruct_file(tmp_path / "run", tmp_path / "under.h5", tmp_path / "x.h5", progress=False)


def _undersampled(scan: Path, result: Path, out: Path) -> None:
    """The scan with the samples alone that a reconstruction of it was made from."""
    with h5py.File(scan) as file, h5py.File(result) as done, h5py.File(out, "w") as under:
        kspace = torch.from_numpy(file["kspace"][()])
        mask = done["mask"][()]
        cropped = torch.stack([crop_oversampling(frame, mask.shape[-2]) for frame in kspace]).numpy()
        under["kspace"] = cropped * (mask if mask.ndim == 2 else mask[:, None])
        under.attrs["layout"] = file.attrs["layout"]


def test_networks_of_two_axes_go_through_volumes_slice_by_slice(prepared: Path, scans: Path, tmp_path: Path) -> None:
    flat = RunSettings(
        mask=MaskSettings("poisson", 3.0, 8), model=ModelSettings(blocks=1, kernel=3, units=2), validation_fraction=0
    )
    train(flat, prepared, tmp_path / "flat", progress=False)
    prepare(scans, tmp_path / "volumes", PreparationSettings(), layout="volume", progress=False)
    runs = [RunFolder(tmp_path / "flat")]
    evaluation = evaluate_runs(runs, tmp_path / "volumes", baselines=False, progress=False)
    as_slices = evaluate_runs(runs, prepared, baselines=False, progress=False)
    whole, single = (found.summary["convex"]["psnr"] for found in (evaluation, as_slices))
    assert whole == pytest.approx(single, abs=1.5)
    deep = replace(flat, model=replace(flat.model, kernel=(1, 3, 3)))
    train(deep, tmp_path / "volumes", tmp_path / "deep", progress=False)
    with pytest.raises(InputError, match=r"deep: its network is of volumes or series, .* holds slices"):
        evaluate_runs([RunFolder(tmp_path / "deep")], prepared, baselines=False, progress=False)
