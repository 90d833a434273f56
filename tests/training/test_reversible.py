"""Memory-efficient learning: the gradients of backpropagation whatever becomes of the inversion, and its memory."""

import math
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import convexrecon.training.reversible as module
from convexrecon.cascade import Block, Cascade
from convexrecon.data.dataset import Batch, PreparedSlices, stack
from convexrecon.training.block_inversion import Scan, invert_block
from convexrecon.training.checkpointing import checkpointing
from convexrecon.training.config import RunSettings
from convexrecon.training.descent import Portion
from convexrecon.training.descent_settings import DescentSettings, ReversibleSettings
from convexrecon.training.end_to_end import end_to_end
from convexrecon.training.live_memory import LiveMemory
from convexrecon.training.model_settings import ModelSettings
from convexrecon.training.new_cascade import new_cascade
from convexrecon.training.ranks import Ranks
from convexrecon.training.reversible import kept_inputs, reversible
from convexrecon.training.run_folder import RunFolder
from convexrecon.training.step_clock import StepClock
from convexrecon.training.train import train

CPU = torch.device("cpu")


@pytest.fixture
def batch(prepared: Path, small_run: RunSettings) -> Batch:
    data = PreparedSlices(prepared, small_run.mask)
    return stack([data.load(0)])


def cascade(blocks: int, *, lam: float = 0.5, step: float = 1.0, units: int = 4, **model: Any) -> Cascade:
    width = None if model.get("denoiser", "relu") == "relu" else units
    shape = ModelSettings(blocks=blocks, kernel=3, units=units, width=width, **model)
    return new_cascade(RunSettings(model=shape, descent=DescentSettings(lam=lam, step=step)))


def options(**settings: Any) -> DescentSettings:
    return DescentSettings(clip=1e9, reversible=ReversibleSettings(**settings))


def gradients(model: Cascade) -> list[Tensor]:
    """Of each block, all parameters together."""
    blocks = [[parameter.grad for parameter in block.parameters() if parameter.requires_grad] for block in model]
    assert all(part is not None for block in blocks for part in block)
    return [torch.cat([part.flatten() for part in block if part is not None]) for block in blocks]


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def compared(model: Cascade, batch: Batch, chosen: DescentSettings, other: Any) -> tuple[float, dict[str, float]]:
    """How far the gradient of `reversible` is from another trainer's, relative; and the report."""
    ours = deepcopy(model)
    descent = reversible(ours, chosen, Ranks())
    # Now that conjugate gradients are run to the end, the other's network is the same to the last bit.
    theirs = deepcopy(ours)
    loss = descent.step(Portion(batch), StepClock(CPU))
    assert loss == other(theirs, chosen, Ranks()).step(Portion(batch), StepClock(CPU))
    return relative(torch.cat(gradients(ours)), torch.cat(gradients(theirs))), descent.report()


@pytest.mark.parametrize(
    ("model", "within"),
    [
        ({"denoiser": "relu", "spectral": 0.9}, 1e-4),
        ({"denoiser": "modl", "spectral": 0.5}, 1e-4),
        ({"denoiser": "resnet", "spectral": 0.5}, 1e-4),
        ({"denoiser": "relu", "spectral": 0.9, "consistency": "gradient", "step": 0.5}, 1e-4),
        # On images this small, one ReLU that switches at one pixel moves the gradients of the blocks before it by 1e-4
        # to 1e-3, as noise of 1e-7 in k-space does, and float64.
        (
            {"denoiser": "relu", "spectral": 0.5, "inputs": ("image", "initial"), "initial": "cg_sense", "lam": 0.1},
            3e-3,
        ),
    ],
)
def test_gradients_of_thirty_blocks_are_those_of_backpropagation(
    batch: Batch, model: dict[str, Any], within: float
) -> None:
    total, report = compared(cascade(30, **model), batch, options(), end_to_end)
    assert total < within
    assert report["inverted_share"] >= 0.5
    assert report["fallback_share"] == 0
    assert 0 < report["inversion_error"] < 1e-5


def test_they_are_exact_where_rounding_is_none(batch: Batch) -> None:
    model = cascade(12, denoiser="modl", spectral=0.9).double()
    for block in model:
        block.consistency.tolerance = 1e-15
    kspace, target = batch.kspace.to(torch.complex128), batch.target.to(torch.complex128)
    double = replace(batch, kspace=kspace, sense=batch.sense.as_precise_as(target), target=target)
    difference, report = compared(model, double, options(iterations=100, tolerance=1e-2), end_to_end)
    assert report["inverted_share"] > 0.8
    assert difference < 1e-8


def test_a_denoiser_that_cannot_be_inverted_is_trained_from_kept_inputs(batch: Batch) -> None:
    model = cascade(9)
    with torch.no_grad():
        for block in model:
            for parameter in block.denoiser.parameters():
                parameter.mul_(4)
    difference, report = compared(model, batch, options(), checkpointing)
    assert difference < 1e-6
    assert report["fallback_share"] == 1
    assert report["inversion_error"] > 1e-2


@pytest.mark.parametrize("lam", [1.0, 0.02])
def test_an_error_that_outputs_hardly_show_is_noticed(
    batch: Batch, monkeypatch: pytest.MonkeyPatch, lam: float
) -> None:
    seen = []

    def wrong(block: Block, output: Tensor, scan: Scan, *, iterations: int) -> tuple[Tensor, Tensor]:
        """An input that is off where there are data, which data consistency overwrites."""
        image, left = invert_block(block, output, scan, iterations=iterations)
        error = 1e-4 * scan.sense.normal(scan.adjoint)
        with torch.no_grad():
            shown = scan.through(block, image + error) - scan.through(block, image)
        seen.append(float(shown.norm() / error.norm()))
        return image + error, left

    monkeypatch.setattr(module, "invert_block", wrong)
    # Many blocks are inverted, whatever lam.
    monkeypatch.setattr(module, "inverse_amplification", lambda consistency: 1.0)
    difference, report = compared(cascade(4, lam=lam), batch, options(), checkpointing)
    assert max(seen) < 1.5 * lam / (lam + 1) + 0.02
    assert report["fallback_share"] == 1
    assert difference < 1e-6


def test_inversion_alone_loses_the_gradient_that_kept_inputs_save(batch: Batch) -> None:
    model = cascade(16, lam=0.1, spectral=0.5)
    lost, report = compared(model, batch, options(checkpoint_every=16, tolerance=1e30), end_to_end)
    assert report["inverted_share"] == pytest.approx(15 / 16)
    assert report["inversion_error"] > 1
    assert lost > 0.1
    saved, report = compared(model, batch, options(checkpoint_every=16), end_to_end)
    assert report["inversion_error"] < 1e-5
    assert saved < 2e-3


def test_inputs_are_kept_as_often_as_data_consistency_makes_it_necessary() -> None:
    every = ReversibleSettings(checkpoint_every=8)
    assert kept_inputs(list(cascade(20, consistency="none")), every) == [0, 4, 12]
    assert kept_inputs(list(cascade(4, consistency="gradient", step=1.0)), every) == [0, 1, 2, 3]
    half = cascade(3)
    for block in half:
        block.precision = "bfloat16"
    assert kept_inputs(list(half), every) == [0, 1, 2]
    strong, weak = (len(kept_inputs(list(cascade(20, lam=lam)), every)) for lam in (0.05, 5.0))
    assert strong > 2 * weak
    assert kept_inputs(list(cascade(3, consistency="none")), ReversibleSettings(checkpoint_every=1)) == [0, 1, 2]


def test_memory_hardly_grows_with_the_blocks(batch: Batch) -> None:
    growth = {}
    for trainer in (end_to_end, reversible):
        peaks = []
        for blocks in (4, 32):
            with LiveMemory(CPU) as memory:
                model = cascade(blocks, units=16, lam=2.0)
                descent = trainer(model, options(), Ranks())
                descent.step(Portion(batch), StepClock(CPU))
            peaks.append(memory.peak_mb)
        growth[trainer] = peaks[1] - peaks[0]
    assert growth[reversible] < 0.05 * growth[end_to_end]


def test_a_run_says_how_the_inversion_went(prepared: Path, small_run: RunSettings, tmp_path: Path) -> None:
    descent = DescentSettings(epochs=2, learning_rate=5e-3, lam=1.0)
    model = replace(small_run.model, blocks=4, spectral=0.8)
    train(
        replace(small_run, method="reversible", model=model, descent=descent),
        prepared,
        tmp_path / "run",
        progress=False,
    )
    rows = RunFolder(tmp_path / "run").read_metrics()
    assert rows[-1]["loss"] < rows[0]["loss"]
    for row in rows:
        assert 0 < row["inversion_error"] < 1e-5
        assert row["inverted_share"] == 0.5
        assert row["fallback_share"] == 0


def test_a_loss_that_is_not_a_number_does_not_stop_the_backward_pass(batch: Batch) -> None:
    model = cascade(4)
    with torch.no_grad():
        next(iter(model)).denoiser.get_parameter("network.0.weight").fill_(math.inf)
    descent = reversible(model, options(), Ranks())
    assert math.isnan(descent.step(Portion(batch), StepClock(CPU)))
    assert descent.report()["inversion_error"] == module.LARGEST
