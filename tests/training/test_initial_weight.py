"""The weight of a compressed-sensing start: the best on training samples, kept with the run, nothing made twice."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import pytest
import torch
from torch import Tensor

from convexrecon.data.dataset import PreparedSlices
from convexrecon.errors import InputError
from convexrecon.evaluate.metrics import psnr
from convexrecon.physics import initial_image
from convexrecon.physics.forward_model import ForwardModel
from convexrecon.physics.l1_wavelet import l1_wavelet
from convexrecon.report.evaluation import printed_settings
from convexrecon.training import initial_weight
from convexrecon.training.config import RunSettings, dump_settings, load_settings
from convexrecon.training.convex_settings import ConvexSettings
from convexrecon.training.descent_settings import DescentSettings
from convexrecon.training.initial_weight import choose_initial_weight
from convexrecon.training.measured_step import step_memory
from convexrecon.training.ranks import Ranks
from convexrecon.training.run_folder import RunFolder
from convexrecon.training.train import certify_run, train
from convexrecon.weights import load_cascade

CPU = torch.device("cpu")


def started(settings: RunSettings, **changes: Any) -> RunSettings:
    """The same run from a compressed-sensing image."""
    return replace(settings, model=replace(settings.model, initial="l1_wavelet", **changes))


@pytest.fixture(autouse=True)
def _few_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    """A coarse grid on two samples, and few iterations."""
    monkeypatch.setattr(initial_weight, "SAMPLES", 2)
    monkeypatch.setattr(initial_weight, "POINTS", 3)
    monkeypatch.setattr(initial_weight, "REFINEMENTS", 1)
    monkeypatch.setattr(initial_image, "WAVELET_ITERATIONS", 12)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The weights of all initial images that are made, in turn."""
    weights: list[float] = []
    original = initial_image.l1_wavelet_start

    def watched(sense: ForwardModel, adjoint_kspace: Tensor, weight: float) -> Tensor:
        weights.extend([weight] * len(adjoint_kspace))
        return original(sense, adjoint_kspace, weight)

    monkeypatch.setitem(initial_image.WEIGHTED_IMAGES, "l1_wavelet", watched)
    return weights


@pytest.mark.parametrize("along", ["grid", "shots"])
def test_the_best_weight_that_was_tried_is_chosen(
    prepared: Path, small_run: RunSettings, tmp_path: Path, request: pytest.FixtureRequest, along: str
) -> None:
    folder = prepared
    if along == "shots":
        pytest.importorskip("finufft")
        folder, small_run = request.getfixturevalue("prepared_shots"), request.getfixturevalue("shot_run")
    slices = PreparedSlices(folder, small_run.mask).only([0, 2])
    run = RunFolder(tmp_path)
    chosen = choose_initial_weight(started(small_run), slices, run, device=CPU, ranks=Ranks())
    found = {}
    for lam, quality in chosen.curve:
        batches = [slices.load(index) for index in range(2)]
        found[lam] = sum(psnr(l1_wavelet(b.sense, b.kspace, lam, 12)[0], b.target[0]) for b in batches) / 2
        assert quality == pytest.approx(found[lam], abs=1e-3)
    assert chosen.lam == max(found, key=lambda lam: found[lam])
    assert min(found) < chosen.lam < max(found)


def test_the_chosen_weight_is_the_runs(
    prepared: Path, small_run: RunSettings, tmp_path: Path, made: list[float]
) -> None:
    settings = started(small_run, inputs=("image", "initial"))
    cascade = train(settings, prepared, tmp_path / "run", progress=False)
    run = RunFolder(tmp_path / "run")
    weight = run.read_summary()["initial_weight"]
    assert cascade.initial_weight == load_cascade(run.weights)[0].initial_weight == weight
    assert run.settings().model.initial_weight is None
    assert "chosen on training samples" in printed_settings(run)["model.initial_weight"]
    # Once for each of the six samples, though both blocks see it; the others were trials.
    trials = len(made) - 6
    assert set(made[trials:]) == {weight}
    assert trials == 2 * len(set(made))
    again = train(replace(settings, model=replace(settings.model, blocks=3)), prepared, run.path, progress=False)
    assert again.initial_weight == weight
    assert set(made[trials:]) == {weight}
    for row in certify_run(run, prepared, progress=False):
        assert row["objective"] == pytest.approx(row["recorded_objective"], rel=1e-5)


def test_a_weight_that_is_given_is_taken(
    prepared: Path, small_run: RunSettings, tmp_path: Path, made: list[float]
) -> None:
    settings = started(small_run, initial_weight=0.02)
    (tmp_path / "run.toml").write_text(dump_settings(settings))
    assert load_settings(tmp_path / "run.toml") == settings
    assert train(settings, prepared, tmp_path / "run", progress=False).initial_weight == 0.02
    assert made == [0.02] * 6
    assert "initial_weight" not in RunFolder(tmp_path / "run").read_summary()


def test_bad_weights_are_refused(small_run: RunSettings) -> None:
    with pytest.raises(InputError, match=r"model.initial_weight: expected a positive number, found -0.1"):
        started(small_run, initial_weight=-0.1)
    with pytest.raises(InputError, match=r"model.initial_weight: 'zero_filled' has none"):
        replace(small_run, model=replace(small_run.model, initial_weight=0.1))


def test_no_target_is_looked_at_where_the_loss_is_self_supervised(
    prepared: Path, small_run: RunSettings, tmp_path: Path
) -> None:
    settings = replace(started(small_run), convex=ConvexSettings(loss="self_supervised"))
    shutil.copytree(prepared, tmp_path / "blind")
    for path in (tmp_path / "blind").glob("*.h5"):
        with h5py.File(path, "r+") as file:
            file["target"][:] = 1.0
    chosen = [
        choose_initial_weight(
            settings, PreparedSlices(folder, settings.mask), RunFolder(tmp_path), device=CPU, ranks=Ranks()
        )
        for folder in (prepared, tmp_path / "blind")
    ]
    assert chosen[0] == chosen[1]
    assert chosen[0].psnr > 3  # dB below the energy of the samples held out


@pytest.mark.parametrize("method", ["gleam", "layerwise"])
def test_every_trainer_starts_from_it(prepared: Path, small_run: RunSettings, tmp_path: Path, method: Any) -> None:
    settings = replace(started(small_run, initial_weight=0.02), method=method, descent=DescentSettings(epochs=1))
    train(settings, prepared, tmp_path / "run", progress=False)
    cascade = load_cascade(tmp_path / "run" / "weights.safetensors")[0]
    batch = PreparedSlices(prepared, settings.mask).load(0)
    image = next(cascade.images(batch.sense, batch.kspace))
    assert not image.requires_grad  # nothing of it is kept for the backward pass
    assert torch.equal(image, l1_wavelet(batch.sense, batch.kspace, 0.02, 12))


def test_descent_chooses_one_too_and_goes_on_from_a_convex_runs(
    prepared: Path, small_run: RunSettings, tmp_path: Path
) -> None:
    short = replace(started(small_run), method="end_to_end", descent=DescentSettings(epochs=1))
    cascade = train(short, prepared, tmp_path / "chosen", progress=False)
    assert cascade.initial_weight == RunFolder(tmp_path / "chosen").read_summary()["initial_weight"]
    train(started(small_run, initial_weight=0.03), prepared, tmp_path / "convex", progress=False)
    after = replace(short, descent=DescentSettings(epochs=1, start_run=str(tmp_path / "convex")))
    assert train(after, prepared, tmp_path / "after", progress=False).initial_weight == 0.03
    other = replace(after, model=replace(after.model, initial_weight=0.01))
    with pytest.raises(InputError, match=r"starts with model.initial_weight = 0.03; expected the same or none"):
        train(other, prepared, tmp_path / "other", progress=False)


@pytest.mark.parametrize("method", ["convex", "end_to_end"])
def test_a_step_is_measured_before_a_weight_is_chosen(prepared: Path, small_run: RunSettings, method: Any) -> None:
    slices = PreparedSlices(prepared, small_run.mask)
    settings = [replace(started(small_run, initial_weight=weight), method=method) for weight in (None, 0.01)]
    measured = [step_memory(one, slices, CPU) for one in settings]
    assert measured[0].activations_mb == pytest.approx(measured[1].activations_mb, rel=0.05)
