"""Training of stacked features: layers never do worse than none in their place, and end when they do no better."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import convexrecon.training.stacked_layer as stacked_layer
from convexrecon.cascade import Cascade, to_channels
from convexrecon.convex.arrangements import draw_gates, with_open_gate
from convexrecon.convex.patches import BlockBatch
from convexrecon.convex.program import ProgramSettings, solve_program
from convexrecon.data.dataset import PreparedSlices
from convexrecon.denoisers.feature_stack import FeatureStack
from convexrecon.errors import InputError
from convexrecon.training.config import RunSettings
from convexrecon.training.convex_settings import ConvexSettings
from convexrecon.training.run_folder import RunFolder
from convexrecon.training.stacked_layer import stacked
from convexrecon.training.train import certify_run, train
from convexrecon.weights import load_cascade


@pytest.fixture
def features_run(small_run: RunSettings) -> RunSettings:
    model = replace(small_run.model, stacking="features", blocks=3, consistency="none")
    return replace(small_run, model=model, convex=ConvexSettings(program=ProgramSettings(beta_ratio=1e-2)))


def stack_of(cascade: Cascade) -> FeatureStack:
    (block,) = cascade
    assert isinstance(block.denoiser, FeatureStack)
    return block.denoiser


def loss_on_training_slices(stack: FeatureStack, layers: int, run: RunFolder, prepared: Path) -> float:
    """``1/(2n) || x_layers - x* ||^2`` over pixels with a target."""
    settings, wanted = run.settings(), run.read_summary()["data"]["train"]
    slices = PreparedSlices(prepared, settings.mask, seed=settings.seed)
    slices = slices.subset(sorted({key.rpartition("/")[0] for key in wanted}))
    total, pixels = 0.0, 0
    for position in range(len(slices)):
        batch = slices.load(position)
        with torch.no_grad():
            estimate = stack.seen(to_channels(batch.sense.adjoint(batch.kspace)), layers)[1]
        inside = batch.target != 0
        total += float(((estimate - to_channels(batch.target)).double() * inside).square().sum())
        pixels += int(inside.sum())
    return total / (2 * pixels)


def test_no_layer_raises_the_training_objective_however_strong_the_penalty(
    prepared: Path, features_run: RunSettings, tmp_path: Path
) -> None:
    convex = replace(features_run.convex, beta_from="program", program=ProgramSettings(beta_ratio=0.3))
    cascade = train(replace(features_run, convex=convex), prepared, tmp_path / "run", progress=False)
    run = RunFolder(tmp_path / "run")
    rows, stack = run.read_metrics(), stack_of(cascade)
    losses = [loss_on_training_slices(stack, layers, run, prepared) for layers in range(4)]
    for row, before, after in zip(rows, losses[:-1], losses[1:], strict=True):
        # Nothing added would be an objective of the loss before.
        assert row["objective"] < before
        assert after < row["objective"]
    for measured, recorded in zip(certify_run(run, prepared, progress=False), rows, strict=True):
        assert measured["objective"] == pytest.approx(recorded["objective"], rel=1e-5)
        assert measured["relative_gap"] <= 2e-5


def test_every_layer_lowers_the_validation_loss(prepared: Path, features_run: RunSettings, tmp_path: Path) -> None:
    train(features_run, prepared, tmp_path / "run", progress=False)
    rows = RunFolder(tmp_path / "run").read_metrics()
    losses = [row["held_out_loss"] for row in rows]
    assert losses == sorted(losses, reverse=True)
    for row, before in zip(rows[1:], losses, strict=False):
        # The first strength tried leaves the layer empty, which is the stack before it.
        assert row["held_out_losses"][0] == pytest.approx(before, rel=1e-4)
        assert row["beta"] in row["betas_tried"]
    quality = [row["psnr_validation"] for row in rows]
    assert quality == sorted(quality)


def test_a_layer_that_does_not_help_is_not_added_and_ends_the_run(
    prepared: Path, features_run: RunSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stacked_layer, "LEAST_GAIN", 0.9)
    cascade = train(features_run, prepared, tmp_path / "run", progress=False)
    assert len(stack_of(cascade).networks) == 1
    run = RunFolder(tmp_path / "run")
    assert run.read_summary()["stopped_by"].startswith("layer 2 would not lower the validation loss")
    assert len(run.read_metrics()) == 1
    monkeypatch.undo()
    # It has ended: the same command does not begin again.
    again = train(features_run, prepared, tmp_path / "run", progress=False)
    assert len(stack_of(again).networks) == 1


def test_hidden_channels_have_one_scale_whatever_that_of_the_weights() -> None:
    rng = torch.Generator().manual_seed(0)
    samples = [torch.randn(1, 2, 12, 10, generator=rng) for _ in range(2)]
    gates = with_open_gate(draw_gates(samples, 3, (3, 3), rng))
    data = [BlockBatch(sample, torch.randn(1, 2, 12, 10, generator=rng)) for sample in samples]
    solved = solve_program(lambda: data, gates, ProgramSettings(beta_ratio=0.1))
    settings = RunSettings(model=replace(RunSettings().model, stacking="features"))
    larger = replace(solved, solution=replace(solved.solution, weights=100 * solved.solution.weights))
    stack, other = (stacked(Cascade(), found, samples, settings) for found in (solved, larger))
    power = torch.stack([stack.features(sample, 1).square().mean((0, 2, 3)) for sample in samples]).mean(0)
    assert torch.allclose(power, torch.ones_like(power), atol=1e-4)
    assert torch.allclose(stack.features(samples[0], 1), other.features(samples[0], 1), atol=1e-4)


def test_data_consistency_follows_the_last_layer_unless_as_published(
    prepared: Path, features_run: RunSettings, tmp_path: Path
) -> None:
    quality = {}
    for stacking in ("features", "published_features"):
        model = replace(features_run.model, stacking=stacking, consistency="proximal", blocks=1)
        cascade = train(replace(features_run, model=model), prepared, tmp_path / stacking, progress=False)
        (row,) = RunFolder(tmp_path / stacking).read_metrics()
        quality[stacking] = row["psnr_validation"]
        assert (row["lam"] is None) == (stacking == "published_features")
        assert stack_of(cascade).residual == (stacking == "features")
    assert quality["features"] > quality["published_features"] + 0.5


def test_a_stack_of_an_earlier_version_is_read_and_not_continued(
    prepared: Path, features_run: RunSettings, tmp_path: Path
) -> None:
    published = replace(features_run, model=replace(features_run.model, stacking="published_features", blocks=2))
    cascade = train(published, prepared, tmp_path / "run", progress=False)
    run = RunFolder(tmp_path / "run")
    # Files of earlier versions do not say how layers are put together, and their settings called it "features".
    with safe_open(run.weights, framework="pt") as file:
        description = json.loads(file.metadata()["cascade"])
    del description["blocks"][0]["residual"]
    save_file(load_file(run.weights), run.weights, metadata={"cascade": json.dumps(description)})
    run.config.write_text(run.config.read_text().replace('"published_features"', '"features"'))
    loaded, _ = load_cascade(run.weights)
    image = torch.randn(1, 2, 12, 10)
    with torch.no_grad():
        assert torch.equal(stack_of(loaded)(image), stack_of(cascade)(image))
    earlier = replace(published, model=replace(published.model, stacking="features", blocks=3))
    with pytest.raises(InputError, match="expected another --out"):
        train(earlier, prepared, tmp_path / "run", progress=False)


def test_validation_slices_are_asked_for_where_they_decide(
    prepared: Path, features_run: RunSettings, tmp_path: Path
) -> None:
    convex = replace(features_run.convex, beta_from="validation")
    alone = replace(features_run, validation_fraction=0.0, convex=convex)
    with pytest.raises(InputError, match="expects validation slices, found none"):
        train(alone, prepared, tmp_path / "run", progress=False)
