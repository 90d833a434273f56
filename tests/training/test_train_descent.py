"""Every trainer that descends a loss: it learns, resumes exactly, refuses to go on with a diverged loss."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import convexrecon.training.loop as loop
from convexrecon.data.dataset import PreparedSlices
from convexrecon.errors import InputError
from convexrecon.training.config import RunSettings
from convexrecon.training.descent_settings import DescentSettings
from convexrecon.training.run_folder import RunFolder
from convexrecon.training.train import certify_run, train
from convexrecon.weights import load_cascade


@pytest.fixture
def backprop(small_run: RunSettings) -> RunSettings:
    options = DescentSettings(epochs=4, learning_rate=5e-3)
    return replace(small_run, method="end_to_end", descent=options)


def test_the_loss_falls_and_the_best_weights_are_kept(prepared: Path, backprop: RunSettings, tmp_path: Path) -> None:
    train(backprop, prepared, tmp_path / "run", progress=False)
    rows = RunFolder(tmp_path / "run").read_metrics()
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    assert rows[-1]["loss"] < rows[0]["loss"]
    summary = RunFolder(tmp_path / "run").read_summary()
    assert summary["psnr_validation"] == max(row["psnr_validation"] for row in rows)
    assert summary["training_seconds"] > 0
    assert summary["peak_memory_mb"] > 0


@pytest.mark.parametrize(
    ("method", "dies_at", "save_every"),
    [
        ("end_to_end", 2, 500),
        ("end_to_end", 7, 500),
        ("end_to_end", 6, 1),
        ("checkpointing", 7, 1),
        ("gleam", 7, 1),
        ("reversible", 7, 1),
        ("layerwise", 7, 1),
        ("layerwise", 19, 500),
        ("layerwise", 22, 2),
    ],
)
def test_a_killed_run_continues_to_the_same_weights(
    prepared: Path,
    backprop: RunSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: Any,
    dies_at: int,
    save_every: int,
) -> None:
    settings = replace(backprop, method=method, descent=replace(backprop.descent, save_every=save_every))
    train(settings, prepared, tmp_path / "whole", progress=False)
    original, calls = loop.learning_rate, 0

    def dying(*args: Any) -> float:
        nonlocal calls
        calls += 1
        if calls == dies_at:
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(loop, "learning_rate", dying)
    with pytest.raises(KeyboardInterrupt):
        train(settings, prepared, tmp_path / "killed", progress=False)
    # What is done, in whole epochs or in batches of one, is not done again.
    left = len(RunFolder(tmp_path / "whole").read_metrics()) * 4 - (dies_at - 1)
    done_again = (dies_at - 1) % min(save_every, 4)
    calls, dies_at = 0, 10**6
    train(settings, prepared, tmp_path / "killed", progress=False)
    assert calls == left + done_again
    whole, killed = (load_cascade(tmp_path / n / "weights.safetensors")[0] for n in ("whole", "killed"))
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, killed.state_dict()[name]), name
    rows = [RunFolder(tmp_path / n).read_metrics() for n in ("whole", "killed")]
    assert [r["loss"] for r in rows[0]] == [r["loss"] for r in rows[1]]
    assert not RunFolder(tmp_path / "killed").state.exists()


def test_divergence_ends_in_a_message_not_in_weights(prepared: Path, backprop: RunSettings, tmp_path: Path) -> None:
    wild = replace(backprop, descent=DescentSettings(epochs=4, learning_rate=1e18, warmup=0.0))
    with pytest.raises(InputError, match="lower learning_rate"):
        train(wild, prepared, tmp_path / "run", progress=False)
    assert not (tmp_path / "run" / "weights.safetensors").exists()


def test_such_a_run_has_no_certificates(prepared: Path, backprop: RunSettings, tmp_path: Path) -> None:
    train(backprop, prepared, tmp_path / "run", progress=False)
    with pytest.raises(InputError, match="only convex runs have certificates"):
        certify_run(RunFolder(tmp_path / "run"), prepared, progress=False)


def test_a_damaged_checkpoint_is_refused_by_name(
    prepared: Path, backprop: RunSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "run" / "state"
    state.mkdir(parents=True)
    short = replace(backprop, descent=replace(backprop.descent, epochs=1))
    train(short, prepared, tmp_path / "other", progress=False)
    for name in ("config.toml", "versions.json"):
        (tmp_path / "run" / name).write_text((tmp_path / "other" / name).read_text())
    (state / "checkpoint.safetensors").write_bytes(b"half a file")
    with pytest.raises(InputError, match=r"checkpoint\.safetensors: not a checkpoint of this run"):
        train(
            replace(backprop, descent=replace(backprop.descent, epochs=1)), prepared, tmp_path / "run", progress=False
        )


def test_data_consistency_is_learned_unless_it_is_fixed(prepared: Path, backprop: RunSettings, tmp_path: Path) -> None:
    for name, learned in (("learned", True), ("fixed", False)):
        options = replace(backprop.descent, epochs=1, learn_consistency=learned, lam=0.25)
        train(replace(backprop, descent=options), prepared, tmp_path / name, progress=False)
    fixed, moved = (RunFolder(tmp_path / name).read_summary()["lam"] for name in ("fixed", "learned"))
    assert fixed == pytest.approx([0.25, 0.25], rel=1e-6)
    assert all(abs(lam - 0.25) > 1e-4 for lam in moved)


def test_half_precision_of_the_denoisers_trains_to_nearly_the_same(
    prepared: Path, backprop: RunSettings, tmp_path: Path
) -> None:
    for precision in ("float32", "bfloat16"):
        options = replace(backprop.descent, epochs=1, precision=precision)
        train(replace(backprop, descent=options), prepared, tmp_path / precision, progress=False)
        loaded = load_cascade(tmp_path / precision / "weights.safetensors")[0]
        assert {block.precision for block in loaded} == {precision}
    full, half = (RunFolder(tmp_path / name).read_metrics()[0]["loss"] for name in ("float32", "bfloat16"))
    assert half != full
    assert half == pytest.approx(full, rel=0.02)


@pytest.mark.parametrize("denoiser", ["resnet", "modl"])
def test_other_denoisers_train_and_load(prepared: Path, backprop: RunSettings, tmp_path: Path, denoiser: Any) -> None:
    model = replace(backprop.model, denoiser=denoiser, width=4, spectral=0.9)
    settings = replace(backprop, model=model, descent=replace(backprop.descent, epochs=1))
    cascade = train(settings, prepared, tmp_path / "run", progress=False)
    loaded = load_cascade(tmp_path / "run" / "weights.safetensors")[0]
    batch = PreparedSlices(prepared, settings.mask).load(0)
    with torch.no_grad():
        assert torch.equal(loaded(batch.sense, batch.kspace), cascade(batch.sense, batch.kspace))
    assert {block.denoiser.kind for block in loaded} == {denoiser}


def test_a_convex_run_is_where_descent_starts(prepared: Path, backprop: RunSettings, tmp_path: Path) -> None:
    train(replace(backprop, method="convex"), prepared, tmp_path / "convex", progress=False)
    convex = RunFolder(tmp_path / "convex").read_metrics()[-1]["psnr_validation"]
    options = replace(backprop.descent, epochs=1, learning_rate=1e-6, start_run=str(tmp_path / "convex"))
    train(replace(backprop, descent=options), prepared, tmp_path / "run", progress=False)
    assert RunFolder(tmp_path / "run").read_summary()["psnr_validation"] == pytest.approx(convex, abs=0.15)
    other = replace(backprop, model=replace(backprop.model, blocks=3), descent=options)
    with pytest.raises(InputError, match=r"start_run: .* has 2 blocks .* found 3"):
        train(other, prepared, tmp_path / "other", progress=False)


@pytest.mark.parametrize("method", ["end_to_end", "convex"])
def test_another_training_seed_sees_the_same_data_and_starts_elsewhere(
    prepared: Path, backprop: RunSettings, tmp_path: Path, method: Any
) -> None:
    short = replace(backprop, method=method, descent=replace(backprop.descent, epochs=1))
    for seed in (None, 0, 1):
        train(replace(short, training_seed=seed), prepared, tmp_path / str(seed), progress=False)
    runs = {seed: RunFolder(tmp_path / str(seed)) for seed in (None, 0, 1)}
    assert runs[1].read_summary()["data"] == runs[0].read_summary()["data"]
    scores = {seed: run.read_metrics()[-1]["psnr_validation"] for seed, run in runs.items()}
    assert scores[None] == scores[0]
    assert scores[1] != scores[0]
