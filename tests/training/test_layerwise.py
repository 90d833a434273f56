"""Convex layer-wise training as a whole: certificates, resume, invariances, refusals."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import convexrecon.training.layerwise as layerwise
from convexrecon.cascade import Cascade, support
from convexrecon.convex.program import ProgramSettings
from convexrecon.data.dataset import PreparedSlices
from convexrecon.denoisers.gated import GatedDenoiser
from convexrecon.errors import InputError
from convexrecon.training.config import RunSettings
from convexrecon.training.convex_settings import ConvexSettings
from convexrecon.training.model_settings import ModelSettings
from convexrecon.training.run_folder import RunFolder
from convexrecon.training.train import certify_run, train
from convexrecon.weights import load_cascade


def tensors_of(path: Path) -> dict[str, torch.Tensor]:
    return load_cascade(path / "weights.safetensors")[0].state_dict()


def same_weights(first: Path, second: Path) -> bool:
    a, b = tensors_of(first), tensors_of(second)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_every_block_is_certified_and_recorded(prepared: Path, small_run: RunSettings, tmp_path: Path) -> None:
    train(small_run, prepared, tmp_path / "run", progress=False)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert len(summary["blocks"]) == 2
    for block in summary["blocks"]:
        assert block["relative_gap"] <= 1e-5
        assert 0 < block["active_gates"] <= 4
        for key in ("objective", "lam", "seconds", "peak_memory_mb", "psnr_train", "psnr_validation"):
            assert block[key] > 0
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert rows == summary["blocks"]
    assert not (tmp_path / "run" / "state").exists()
    assert (tmp_path / "run" / "versions.json").exists()


def test_a_program_that_falls_short_says_so(prepared: Path, small_run: RunSettings, tmp_path: Path) -> None:
    hurried = ProgramSettings(tolerance=1e-12, max_iterations=1, method="matrix_free")
    settings = replace(small_run, convex=ConvexSettings(program=hurried), model=replace(small_run.model, blocks=1))
    with pytest.warns(UserWarning, match=r"block 1: not solved .* gap is .*max_iterations = 1.*memory_gb"):
        train(settings, prepared, tmp_path / "run", progress=False)
    (block,) = RunFolder(tmp_path / "run").read_summary()["blocks"]
    assert not block["converged"]
    assert f"{block['relative_gap']:.1e}" in block["shortfall"]
    _, notes = load_cascade(tmp_path / "run" / "weights.safetensors")
    assert notes["records"] == [block]
    (row,) = certify_run(RunFolder(tmp_path / "run"), prepared, progress=False)
    assert row["relative_gap"] > row["tolerance"]


def test_blocks_improve_on_the_training_slices(prepared: Path, small_run: RunSettings, tmp_path: Path) -> None:
    settings = replace(small_run, model=replace(small_run.model, blocks=3, units=8))
    train(settings, prepared, tmp_path / "run", progress=False)
    quality = [row["psnr_train"] for row in RunFolder(tmp_path / "run").read_metrics()]
    assert quality == sorted(quality)


def test_certify_confirms_every_block_from_the_data(prepared: Path, small_run: RunSettings, tmp_path: Path) -> None:
    settings = replace(small_run, convex=ConvexSettings(pixel_fraction=0.5))
    train(settings, prepared, tmp_path / "run", progress=False)
    rows = certify_run(RunFolder(tmp_path / "run"), prepared, progress=False)
    assert len(rows) == 2
    for row in rows:
        assert row["relative_gap"] <= 2e-5
        assert row["objective"] == pytest.approx(row["recorded_objective"], rel=1e-5)
    assert not (tmp_path / "run" / "certify").exists()


@pytest.mark.parametrize(
    ("stacking", "loss"),
    [("cascade", "image"), ("cascade", "consistent"), ("cascade", "self_supervised"), ("features", "image")],
)
@pytest.mark.parametrize("dies_in", ["solve_block", "_apply"])
def test_a_killed_run_continues_to_the_same_weights(
    prepared: Path,
    small_run: RunSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stacking: Any,
    loss: Any,
    dies_in: str,
) -> None:
    model = replace(small_run.model, blocks=3, stacking=stacking)
    # The same bits are asked for, however exact; a loss behind a map takes a pass over the data an iteration.
    program = ProgramSettings() if loss == "image" else ProgramSettings(beta_ratio=1e-2, tolerance=1e-3)
    settings = replace(small_run, model=model, convex=replace(small_run.convex, loss=loss, program=program))
    train(settings, prepared, tmp_path / "whole", progress=False)
    original, calls = getattr(layerwise, dies_in), 0

    def dying(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    monkeypatch.setattr(layerwise, dies_in, dying)
    with pytest.raises(KeyboardInterrupt):
        train(settings, prepared, tmp_path / "killed", progress=False)
    monkeypatch.undo()
    done = len(RunFolder(tmp_path / "killed").read_metrics())
    assert 0 < done < 3
    train(settings, prepared, tmp_path / "killed", progress=False)
    assert same_weights(tmp_path / "whole", tmp_path / "killed")


def test_more_blocks_continue_from_the_frozen_ones(prepared: Path, small_run: RunSettings, tmp_path: Path) -> None:
    longer = replace(small_run, model=replace(small_run.model, blocks=3))
    train(longer, prepared, tmp_path / "whole", progress=False)
    train(small_run, prepared, tmp_path / "grown", progress=False)
    before = tensors_of(tmp_path / "grown")
    train(longer, prepared, tmp_path / "grown", progress=False)
    after = tensors_of(tmp_path / "grown")
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert same_weights(tmp_path / "whole", tmp_path / "grown")
    with pytest.raises(InputError, match="holds 3 trained blocks"):
        train(small_run, prepared, tmp_path / "grown", progress=False)


def test_batch_size_does_not_change_the_optimum(prepared: Path, small_run: RunSettings, tmp_path: Path) -> None:
    for size in (1, 2):
        train(replace(small_run, batch_size=size), prepared, tmp_path / str(size), progress=False)
    rows = [RunFolder(tmp_path / str(size)).read_metrics() for size in (1, 2)]
    for one, two in zip(*rows, strict=True):
        assert two["objective"] == pytest.approx(one["objective"], rel=1e-5)
        assert two["lam"] == pytest.approx(one["lam"], rel=1e-2)


def test_published_features_are_stacked_with_the_skip_from_the_input(
    prepared: Path, small_run: RunSettings, tmp_path: Path
) -> None:
    settings = replace(
        small_run,
        model=ModelSettings(stacking="published_features", blocks=2, kernel=3, units=4),
        convex=ConvexSettings(program=ProgramSettings(penalty="nuclear", beta_ratio=1e-3)),
    )
    cascade = train(settings, prepared, tmp_path / "run", progress=False)
    assert len(cascade) == 1
    rows = RunFolder(tmp_path / "run").read_metrics()
    assert [row["lam"] for row in rows] == [None, None]
    assert rows[1]["objective"] < rows[0]["objective"]
    certified = certify_run(RunFolder(tmp_path / "run"), prepared, progress=False)
    assert all(row["relative_gap"] < 1e-4 for row in certified)


CONSISTENT = ConvexSettings(loss="consistent", loss_lam=0.1, lam=0.1, loss_image_share=0.0, pixel_fraction=0.6)


@pytest.mark.parametrize("consistency", ["proximal", "gradient"])
def test_a_consistent_loss_is_that_of_what_the_block_puts_out(
    prepared: Path, small_run: RunSettings, tmp_path: Path, consistency: Any
) -> None:
    model = replace(small_run.model, consistency=consistency, cg_iterations=40)
    rows = {}
    for name, convex in (("image", replace(CONSISTENT, loss="image")), ("consistent", CONSISTENT)):
        train(replace(small_run, model=model, convex=convex), prepared, tmp_path / name, progress=False)
        rows[name] = RunFolder(tmp_path / name).read_metrics()
    assert rows["consistent"][0]["psnr_train"] > rows["image"][0]["psnr_train"] + 0.02
    certified = certify_run(RunFolder(tmp_path / "consistent"), prepared, progress=False)
    for measured, recorded in zip(certified, rows["consistent"], strict=True):
        assert recorded["converged"]
        assert measured["relative_gap"] <= 2e-5
        assert measured["objective"] == pytest.approx(recorded["objective"], rel=1e-5)
    # The recorded objective is the loss of the block's output on the training slices, and the penalty.
    volumes = {k.rpartition("/")[0] for k in RunFolder(tmp_path / "consistent").read_summary()["data"]["train"]}
    data = PreparedSlices(prepared, small_run.mask, seed=small_run.seed).subset(sorted(volumes))
    cascade = load_cascade(tmp_path / "consistent" / "weights.safetensors")[0]
    total, pixels = 0.0, 0
    for position in range(len(data)):
        batch = data.load(position)
        with torch.no_grad():
            after = list(cascade.images(batch.sense, batch.kspace))[1]
        total += float((after - batch.target).abs().square().sum())
        pixels += int(support(batch.sense).sum())
    block = next(iter(cascade)).denoiser
    assert isinstance(block, GatedDenoiser)
    penalty = rows["consistent"][0]["beta"] * float(block.weights.flatten(1).norm(dim=1).sum())
    assert rows["consistent"][0]["objective"] == pytest.approx(total / (2 * pixels) + penalty, rel=1e-3)


def test_matrix_free_training_reaches_the_same_objective(
    prepared: Path, small_run: RunSettings, tmp_path: Path
) -> None:
    short = replace(small_run, model=replace(small_run.model, blocks=1, units=2))
    program = ProgramSettings(beta_ratio=0.05, tolerance=1e-4)
    for name, memory in (("dense", 1.0), ("free", 0.0)):
        convex = ConvexSettings(program=replace(program, memory_gb=memory))
        train(replace(short, convex=convex), prepared, tmp_path / name, progress=False)
    dense, free = (RunFolder(tmp_path / n).read_metrics()[0] for n in ("dense", "free"))
    assert free["matrix_free"]
    assert not dense["matrix_free"]
    assert free["objective"] == pytest.approx(dense["objective"], rel=1e-4)


def test_a_run_of_other_settings_or_data_is_refused(prepared: Path, small_run: RunSettings, tmp_path: Path) -> None:
    train(small_run, prepared, tmp_path / "run", progress=False)
    with pytest.raises(InputError, match="seed = 0, asked for 1"):
        train(replace(small_run, seed=1), prepared, tmp_path / "run", progress=False)
    fewer = tmp_path / "fewer"
    fewer.mkdir()
    for file in sorted(prepared.glob("*.h5"))[:2]:
        (fewer / file.name).symlink_to(file)
    with pytest.raises(InputError, match="trained on other data"):
        train(small_run, fewer, tmp_path / "run", progress=False)
    with pytest.raises(InputError, match="lacks the volume"):
        certify_run(RunFolder(tmp_path / "run"), fewer, progress=False)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="found other files"):
        train(small_run, prepared, tmp_path / "other", progress=False)


def test_denoisers_may_see_more_images(prepared: Path, small_run: RunSettings, tmp_path: Path) -> None:
    settings = replace(
        small_run, model=replace(small_run.model, initial="cg_sense", inputs=("image", "zero_filled", "initial"))
    )
    cascade = train(settings, prepared, tmp_path / "run", progress=False)
    for block in cascade:
        assert isinstance(block.denoiser, GatedDenoiser)
        assert block.denoiser.gate_filters.shape[1:] == (6, 3, 3)
        assert block.denoiser.weights.shape[1:] == (55, 2)
    rows = certify_run(RunFolder(tmp_path / "run"), prepared, progress=False)
    assert all(row["relative_gap"] <= 2e-5 for row in rows)
    loaded, _ = load_cascade(tmp_path / "run" / "weights.safetensors")
    batch = PreparedSlices(prepared, settings.mask).load(0)
    with torch.no_grad():
        expected = cascade(batch.sense, batch.kspace)
        assert torch.equal(loaded(batch.sense, batch.kspace), expected)


def test_no_blocks_give_the_initial_image(prepared: Path, small_run: RunSettings, tmp_path: Path) -> None:
    nothing = replace(small_run, model=replace(small_run.model, blocks=0))
    cascade = train(nothing, prepared, tmp_path / "run", progress=False)
    assert isinstance(cascade, Cascade)
    assert len(cascade) == 0
