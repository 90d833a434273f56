"""Training images with other global phases: what changes, what does not, and what it is good for."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from convexrecon.cascade import Cascade
from convexrecon.data.dataset import PreparedSlices
from convexrecon.errors import InputError
from convexrecon.evaluate.metrics import psnr
from convexrecon.physics.masks import MaskSettings
from convexrecon.training.config import RunSettings
from convexrecon.training.convex_settings import ConvexSettings
from convexrecon.training.descent_settings import DescentSettings
from convexrecon.training.model_settings import ModelSettings
from convexrecon.training.random_phase import COPIES, shares, turned, turned_batch
from convexrecon.training.run_folder import RunFolder
from convexrecon.training.train import certify_run, train

RUN = RunSettings(
    mask=MaskSettings("poisson", 3.0, calibration=8),
    model=ModelSettings(blocks=1, kernel=3, units=8, initial="cg_sense"),
    descent=DescentSettings(epochs=1),
    validation_fraction=0,
    random_phase=True,
)


def test_the_pixels_are_shared_among_phases_around_the_circle() -> None:
    rows = torch.rand(1, 1, 40, 30, generator=torch.Generator().manual_seed(0)) < 0.6
    found = list(shares(rows, 3, "volume", 2))
    assert torch.equal(torch.stack([part for _, part in found]).sum(0), rows.int())
    assert all(int(part.sum()) > 0.5 * int(rows.sum()) / COPIES for _, part in found)
    around = torch.tensor([phase for phase, _ in found])
    torch.testing.assert_close(around.diff(), torch.full((COPIES - 1,), 2 * math.pi / COPIES))
    again, other = (next(shares(rows, 3, name, 2))[0] for name in ("volume", "another"))
    assert again == found[0][0] != other


def test_a_turned_sample_is_the_same_scan(prepared: Path) -> None:
    batch = PreparedSlices(prepared, RUN.mask).load(0)
    other = turned_batch(batch, 0, "name")
    start, after = (Cascade(initial="cg_sense")(b.sense, b.kspace) for b in (batch, other))
    assert psnr(after[0], other.target[0]) == pytest.approx(psnr(start[0], batch.target[0]), abs=1e-3)
    assert float((other.target - batch.target).abs().max()) > 0.1


def test_blocks_learn_no_phase_and_are_certified(prepared: Path, tmp_path: Path) -> None:
    slices = PreparedSlices(prepared, RUN.mask)
    spread = {}
    for random_phase in (True, False):
        run = tmp_path / str(random_phase)
        cascade = train(replace(RUN, random_phase=random_phase), prepared, run, progress=False)
        [row] = certify_run(RunFolder(run), prepared, progress=False)
        assert row["relative_gap"] <= 2e-5
        batch, scores = slices.load(0), []
        for phase in (0.0, 1.5, 3.0, 4.5):
            with torch.no_grad():
                image = cascade(batch.sense, turned(batch.kspace, phase))
            scores.append(psnr(image[0], turned(batch.target, phase)[0]))
        spread[random_phase] = max(scores) - min(scores)
    assert spread[True] < 0.5 * spread[False]


def test_the_numbers_of_a_run_do_not_hang_on_the_batch(prepared: Path, tmp_path: Path) -> None:
    scores = []
    for batch_size in (1, 2):
        settings = replace(RUN, batch_size=batch_size)
        train(settings, prepared, tmp_path / str(batch_size), progress=False)
        scores.append(RunFolder(tmp_path / str(batch_size)).read_metrics()[-1]["psnr_train"])
    assert scores[0] == pytest.approx(scores[1], abs=1e-3)


def test_descent_sees_other_phases_in_every_epoch(prepared: Path, tmp_path: Path) -> None:
    losses = {}
    for name, random_phase in (("turned", True), ("again", True), ("plain", False)):
        settings = replace(RUN, method="end_to_end", random_phase=random_phase)
        train(settings, prepared, tmp_path / name, progress=False)
        losses[name] = RunFolder(tmp_path / name).read_metrics()[-1]["loss"]
    assert losses["turned"] == losses["again"] != losses["plain"]


def test_one_block_learns_the_same_alone_and_end_to_end(prepared: Path, tmp_path: Path) -> None:
    losses = []
    for method in ("layerwise", "end_to_end"):
        settings = replace(RUN, method=method, batch_size=2)
        train(settings, prepared, tmp_path / method, progress=False)
        losses.append([row["loss"] for row in RunFolder(tmp_path / method).read_metrics()])
    assert losses[0] == pytest.approx(losses[1], rel=5e-3)


def test_losses_behind_data_consistency_are_refused() -> None:
    with pytest.raises(InputError, match=r"random_phase: expected convex.loss = 'image', found 'consistent'"):
        replace(RUN, convex=ConvexSettings(loss="consistent"))
