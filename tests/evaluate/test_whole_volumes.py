"""Volumes and series evaluated: one score each, baselines slice by slice, a report with its pictures."""

from pathlib import Path

import numpy as np
import pytest
import torch

from convexrecon.data.preparation import PreparationSettings, prepare
from convexrecon.data.simulation import simulate_dataset
from convexrecon.errors import InputError
from convexrecon.evaluate.baselines import cg_sense
from convexrecon.evaluate.compare import slice_by_slice
from convexrecon.evaluate.metrics import psnr, score_whole
from convexrecon.physics.masks import MaskSettings
from convexrecon.physics.sense import Sense
from convexrecon.report.evaluation import evaluate_and_report
from convexrecon.training.config import ModelSettings, RunSettings
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
    assert all(row["slices"] == row["volumes"] == 2 for row in evaluation.summary.values())
    if layout == "cine":
        assert set(evaluation.summary) == {"zero-filled", "CG-SENSE", "L1-wavelet", "convex"}
        better, worse = (evaluation.summary[name]["psnr"] for name in ("convex", "zero-filled"))
        assert better is not None
        assert worse is not None
        assert better > worse + 1
    text = report.read_text()
    assert ("image/gif" in text) == (layout == "cine")
    assert ("planes through its middle" in text) == (layout == "volume")
