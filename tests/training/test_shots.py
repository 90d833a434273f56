"""Training on samples off the grid: the same line as on it, whatever the trainer."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from convexrecon.cascade import Cascade
from convexrecon.convex.program_settings import ProgramSettings
from convexrecon.data.dataset import PreparedSlices
from convexrecon.data.noncartesian_simulation import simulate_trajectories
from convexrecon.data.preparation import PreparationSettings, prepare
from convexrecon.evaluate.baselines import cg_sense
from convexrecon.evaluate.compare import evaluate_runs
from convexrecon.evaluate.metrics import psnr
from convexrecon.evaluate.pictured_shots import PicturedShots
from convexrecon.physics.masks import MaskSettings
from convexrecon.training.config import METHODS, Method, RunSettings
from convexrecon.training.convex_settings import ConvexSettings
from convexrecon.training.descent_settings import DescentSettings
from convexrecon.training.model_settings import ModelSettings
from convexrecon.training.run_folder import RunFolder
from convexrecon.training.train import certify_run, train


@pytest.fixture(scope="module")
def convex(prepared_shots: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Cascade, RunFolder, RunSettings]:
    """A convex run on two of the three radial scans."""
    settings = RunSettings(
        mask=MaskSettings("shots", 4), model=ModelSettings(blocks=2, kernel=3, units=4), validation_fraction=0.34
    )
    out = tmp_path_factory.mktemp("runs") / "convex"
    return train(settings, prepared_shots, out, progress=False), RunFolder(out), settings


def test_convex_blocks_beat_their_start_and_conjugate_gradients(tmp_path: Path) -> None:
    """On a scan that they were not trained on, with conjugate gradients at the best of their weights."""
    simulate_trajectories(
        tmp_path / "scans", "radial", volumes=6, slices=2, size=(36, 32), coils=3, noise=0.04, anatomy="head",
        progress=False,
    )  # fmt: skip
    prepare(tmp_path / "scans", tmp_path / "prepared", PreparationSettings(), progress=False)
    settings = RunSettings(
        mask=MaskSettings("shots", 6), model=ModelSettings(blocks=2, kernel=3, units=4), validation_fraction=0.17
    )
    cascade = train(settings, tmp_path / "prepared", tmp_path / "run", progress=False)
    volume = RunFolder(tmp_path / "run").read_summary()["data"]["validation"][0].rpartition("/")[0]
    slices = PreparedSlices(tmp_path / "prepared", settings.mask).subset([volume])
    gains = []
    for position in range(len(slices)):
        batch = slices.load(position)
        zero_filled = batch.sense.adjoint(batch.kspace)
        with torch.no_grad():
            found = psnr(cascade(batch.sense, batch.kspace)[0], batch.target[0])
        others = [zero_filled, *(cg_sense(batch.sense, batch.kspace, lam) for lam in (1e-3, 1e-2, 1e-1))]
        gains.append(found - max(psnr(other[0], batch.target[0]) for other in others))
    assert float(np.mean(gains)) > 0.1


def test_certificates_hold(convex: tuple[Cascade, RunFolder, RunSettings], prepared_shots: Path) -> None:
    for row in certify_run(convex[1], prepared_shots, progress=False):
        assert row["relative_gap"] <= 1.1e-3
        assert row["objective"] == pytest.approx(row["recorded_objective"], rel=1e-5)


def test_a_run_continues_to_the_same(
    convex: tuple[Cascade, RunFolder, RunSettings], prepared_shots: Path, tmp_path: Path
) -> None:
    cascade, _, settings = convex
    one_block = replace(settings, model=replace(settings.model, blocks=1))
    train(one_block, prepared_shots, tmp_path / "run", progress=False)
    continued = train(settings, prepared_shots, tmp_path / "run", progress=False)
    for name, value in cascade.state_dict().items():
        assert torch.allclose(continued.state_dict()[name], value, rtol=1e-3, atol=1e-5), name


def test_evaluation_pictures_the_shots(
    convex: tuple[Cascade, RunFolder, RunSettings], prepared_shots: Path, tmp_path: Path
) -> None:
    found = evaluate_runs([convex[1]], prepared_shots, baselines=False, pictures=1, progress=False)
    assert len(found.scores) == 6
    sampling = found.pictured[0].mask
    assert isinstance(sampling, PicturedShots)
    assert sampling.coordinates.shape == (14, 72, 2)
    assert sampling.acceleration == pytest.approx(57 / 14)


@pytest.mark.parametrize("method", [method for method in METHODS if method != "convex"])
def test_every_trainer_descends(method: Method, prepared_shots: Path, shot_run: RunSettings, tmp_path: Path) -> None:
    settings = replace(
        shot_run,
        method=method,
        batch_size=2,
        model=replace(shot_run.model, spectral=0.9 if method == "reversible" else None),
        descent=DescentSettings(epochs=2),
        validation_fraction=0.67,
    )
    train(settings, prepared_shots, tmp_path / "run", progress=False)
    losses = [row["loss"] for row in RunFolder(tmp_path / "run").read_metrics() if "loss" in row]
    assert len(losses) >= 2
    assert all(np.isfinite(losses))


@pytest.mark.parametrize("loss", ["consistent", "self_supervised"])
def test_losses_behind_the_operator_are_certified(
    loss: str, prepared_shots: Path, shot_run: RunSettings, tmp_path: Path
) -> None:
    program = ProgramSettings(beta_ratio=0.05)
    convex = ConvexSettings(program=program, loss=loss, loss_lam=0.5)  # type: ignore[arg-type]
    settings = replace(
        shot_run, model=replace(shot_run.model, blocks=1, units=2), convex=convex, validation_fraction=0.67
    )
    train(settings, prepared_shots, tmp_path / "run", progress=False)
    (row,) = RunFolder(tmp_path / "run").read_metrics()
    assert row["converged"]
    (certified,) = certify_run(RunFolder(tmp_path / "run"), prepared_shots, progress=False)
    assert certified["relative_gap"] <= 1.1e-3


def test_batches_and_patches_change_nothing(prepared_shots: Path, shot_run: RunSettings, tmp_path: Path) -> None:
    found = []
    for name, size, patch in (("one", 1, None), ("four", 4, None), ("patches", 1, (16, 16))):
        settings = replace(shot_run, batch_size=size, model=replace(shot_run.model, patch=patch), validation_fraction=0)
        found.append(train(settings, prepared_shots, tmp_path / name, progress=False))
    batch = PreparedSlices(prepared_shots, shot_run.mask).load(0)
    with torch.no_grad():
        images = [cascade(batch.sense, batch.kspace) for cascade in found]
    for other in images[1:]:
        assert float((other - images[0]).norm()) < 2e-3 * float(images[0].norm())


def test_a_volume_is_trained_on(tmp_path: Path) -> None:
    simulate_trajectories(
        tmp_path / "scans", "stack_of_stars", volumes=1, slices=8, size=(32, 32), coils=2, shots=24, anatomy="head",
        progress=False,
    )  # fmt: skip
    prepare(tmp_path / "scans", tmp_path / "prepared", PreparationSettings(calibration=8), progress=False)
    settings = RunSettings(
        mask=MaskSettings("shots", 3),
        model=ModelSettings(blocks=1, kernel=(3, 3, 3), units=4, patch=(8, 16, 16)),
        validation_fraction=0,
    )
    cascade = train(settings, tmp_path / "prepared", tmp_path / "run", progress=False)
    batch = PreparedSlices(tmp_path / "prepared", settings.mask).load(0)
    with torch.no_grad():
        image = cascade(batch.sense, batch.kspace)
    start = cg_sense(batch.sense, batch.kspace, 1e-2)
    assert psnr(image[0], batch.target[0]) > psnr(start[0], batch.target[0])
