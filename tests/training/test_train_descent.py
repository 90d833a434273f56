"""End-to-end training: it learns, resumes exactly, and refuses to go on with a diverged loss."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import convexrecon.training.loop as loop
from convexrecon.errors import InputError
from convexrecon.training.config import EndToEndSettings, RunSettings
from convexrecon.training.end_to_end import image_loss
from convexrecon.training.run_folder import RunFolder
from convexrecon.training.train import certify_run, train
from convexrecon.weights import load_cascade


@pytest.fixture
def backprop(small_run: RunSettings) -> RunSettings:
    options = EndToEndSettings(epochs=4, learning_rate=5e-3)
    return replace(small_run, method="end_to_end", end_to_end=options)


def test_the_loss_falls_and_the_best_weights_are_kept(prepared: Path, backprop: RunSettings, tmp_path: Path) -> None:
    train(backprop, prepared, tmp_path / "run", progress=False)
    rows = RunFolder(tmp_path / "run").read_metrics()
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    assert rows[-1]["loss"] < rows[0]["loss"]
    summary = RunFolder(tmp_path / "run").read_summary()
    assert summary["psnr_validation"] == max(row["psnr_validation"] for row in rows)
    assert summary["training_seconds"] > 0
    assert summary["peak_memory_mb"] > 0


@pytest.mark.parametrize("dies_at", [2, 7])
def test_a_killed_run_continues_to_the_same_weights(
    prepared: Path, backprop: RunSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies_at: int
) -> None:
    train(backprop, prepared, tmp_path / "whole", progress=False)
    original, calls = loop._set_rate, 0

    def dying(*args: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == dies_at:
            raise KeyboardInterrupt
        original(*args)

    monkeypatch.setattr(loop, "_set_rate", dying)
    with pytest.raises(KeyboardInterrupt):
        train(backprop, prepared, tmp_path / "killed", progress=False)
    monkeypatch.undo()
    train(backprop, prepared, tmp_path / "killed", progress=False)
    whole, killed = (load_cascade(tmp_path / n / "weights.safetensors")[0] for n in ("whole", "killed"))
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, killed.state_dict()[name]), name
    rows = [RunFolder(tmp_path / n).read_metrics() for n in ("whole", "killed")]
    assert [r["loss"] for r in rows[0]] == [r["loss"] for r in rows[1]]


def test_divergence_ends_in_a_message_not_in_weights(prepared: Path, backprop: RunSettings, tmp_path: Path) -> None:
    wild = replace(backprop, end_to_end=EndToEndSettings(epochs=4, learning_rate=1e18, warmup=0.0))
    with pytest.raises(InputError, match="lower learning_rate"):
        train(wild, prepared, tmp_path / "run", progress=False)
    assert not (tmp_path / "run" / "weights.safetensors").exists()


def test_losses_are_what_they_are_called() -> None:
    image = torch.tensor([[3 + 4j, 0j]])
    assert float(image_loss(image, 0 * image, "l2")) == pytest.approx(12.5)
    assert float(image_loss(image, 0 * image, "l1")) == pytest.approx(2.5, rel=1e-5)


def test_such_a_run_has_no_certificates(prepared: Path, backprop: RunSettings, tmp_path: Path) -> None:
    train(backprop, prepared, tmp_path / "run", progress=False)
    with pytest.raises(InputError, match="only convex runs have certificates"):
        certify_run(RunFolder(tmp_path / "run"), prepared, progress=False)
