"""Training with gates that are grown, drawn in other ways, or taken from a trained run."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import convexrecon.training.layerwise as layerwise
from convexrecon.convex.gate_growth import GrowthSettings
from convexrecon.convex.gate_sampling import FILTER_DRAWS
from convexrecon.convex.program import ProgramSettings
from convexrecon.denoisers.gated import GatedDenoiser
from convexrecon.denoisers.relu import ReluDenoiser
from convexrecon.errors import InputError
from convexrecon.training.config import RunSettings
from convexrecon.training.convex_settings import ConvexSettings
from convexrecon.training.descent_settings import DescentSettings
from convexrecon.training.run_folder import RunFolder
from convexrecon.training.train import certify_run, train
from convexrecon.weights import load_cascade

GROW = GrowthSettings(rule="explained", per_round=2, candidates=16, improved=8, steps=20, pixels=20_000)


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    return load_cascade(path / "weights.safetensors")[0].state_dict()


def same(first: Path, second: Path) -> bool:
    a, b = weights_of(first), weights_of(second)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_grown_runs_are_certified_recorded_and_better(prepared: Path, small_run: RunSettings, tmp_path: Path) -> None:
    train(small_run, prepared, tmp_path / "drawn", progress=False)
    train(replace(small_run, convex=ConvexSettings(grow=GROW)), prepared, tmp_path / "grown", progress=False)
    drawn, grown = (RunFolder(tmp_path / name).read_metrics() for name in ("drawn", "grown"))
    assert grown[0]["objective"] < drawn[0]["objective"]
    for row in grown:
        assert row["relative_gap"] <= 1e-5
        assert row["growth_stopped_by"] == "budget"
        assert [step["gates"] for step in row["growth"]] == [3, 4]
        assert row["gates"] == 4
        assert row["candidates_searched"] == 24
        assert row["largest_violation"] > 1
        assert row["searched_bound"] < row["bound"]
        assert row["seconds_search"] > 0
    certified = certify_run(RunFolder(tmp_path / "grown"), prepared, progress=False)
    assert all(row["relative_gap"] <= 2e-5 for row in certified)


def test_a_killed_grown_run_continues_to_the_same_weights(
    prepared: Path, small_run: RunSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(small_run, convex=ConvexSettings(grow=GROW, pixel_fraction=0.6))
    train(settings, prepared, tmp_path / "whole", progress=False)
    step = "solve_block"
    original, calls = getattr(layerwise, step), 0

    def dying(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    monkeypatch.setattr(layerwise, step, dying)
    with pytest.raises(KeyboardInterrupt):
        train(settings, prepared, tmp_path / "killed", progress=False)
    monkeypatch.undo()
    assert len(RunFolder(tmp_path / "killed").read_metrics()) == 1
    train(settings, prepared, tmp_path / "killed", progress=False)
    assert same(tmp_path / "whole", tmp_path / "killed")


def test_a_consistent_loss_takes_gates_grown_on_the_image_loss(
    prepared: Path, small_run: RunSettings, tmp_path: Path
) -> None:
    one = replace(small_run, model=replace(small_run.model, blocks=1))
    program = ProgramSettings(tolerance=1e-2)
    for loss in ("image", "consistent"):
        convex = ConvexSettings(program, loss=loss, grow=GROW, pixel_fraction=0.6)
        train(replace(one, convex=convex), prepared, tmp_path / loss, progress=False)
    gates = [weights_of(tmp_path / loss)["blocks.0.denoiser.gate_filters"] for loss in ("image", "consistent")]
    assert torch.equal(*gates)
    image, consistent = (RunFolder(tmp_path / loss).read_metrics()[0] for loss in ("image", "consistent"))
    assert image["growth"] == consistent["growth"]
    # The last search was at the optimum of the image loss: it says nothing of that of another one.
    assert "searched_bound" in image
    assert "searched_bound" not in consistent


def test_batch_size_does_not_change_the_grown_gates(prepared: Path, small_run: RunSettings, tmp_path: Path) -> None:
    settings = replace(small_run, convex=ConvexSettings(grow=GROW, lam=0.5), model=replace(small_run.model, blocks=1))
    for size in (1, 2):
        train(replace(settings, batch_size=size), prepared, tmp_path / str(size), progress=False)
    assert same(tmp_path / "1", tmp_path / "2")


@pytest.mark.parametrize("choice", [name for name in FILTER_DRAWS if name != "gaussian"])
def test_every_way_of_drawing_trains(prepared: Path, small_run: RunSettings, tmp_path: Path, choice: Any) -> None:
    settings = replace(small_run, model=replace(small_run.model, blocks=1))
    for name in (choice, "gaussian"):
        train(replace(settings, convex=ConvexSettings(gates=name)), prepared, tmp_path / name, progress=False)
    rows = RunFolder(tmp_path / choice).read_metrics()
    assert rows[0]["relative_gap"] <= 1e-5
    assert rows[0]["gates"] == 4
    filters = [weights_of(tmp_path / name)["blocks.0.denoiser.gate_filters"] for name in (choice, "gaussian")]
    assert not torch.equal(*filters)


def test_gates_of_a_trained_network_are_taken_block_by_block(
    prepared: Path, small_run: RunSettings, tmp_path: Path
) -> None:
    by_backpropagation = replace(small_run, method="end_to_end", descent=DescentSettings(epochs=1))
    network = list(train(by_backpropagation, prepared, tmp_path / "network", progress=False))
    convex = ConvexSettings(gates="trained", gates_run=str(tmp_path / "network"))
    settings = replace(small_run, convex=convex)
    cascade = list(train(settings, prepared, tmp_path / "convex", progress=False))
    for block, origin in zip(cascade, network, strict=True):
        assert isinstance(block.denoiser, GatedDenoiser)
        assert isinstance(origin.denoiser, ReluDenoiser)
        first = origin.denoiser.network.state_dict()
        distance = torch.cdist(block.denoiser.gate_filters.flatten(1), first["0.weight"].flatten(1))
        assert float(distance.amin(1).max()) < 1e-6
        assert sorted(block.denoiser.gate_offsets.tolist()) == sorted((-first["0.bias"]).tolist())
    again = replace(settings, convex=replace(convex, gates_run=str(tmp_path / "convex")))
    train(again, prepared, tmp_path / "again", progress=False)
    objectives = [RunFolder(tmp_path / name).read_metrics()[0]["objective"] for name in ("convex", "again")]
    assert objectives[0] == pytest.approx(objectives[1], rel=1e-4)
    longer = replace(settings, model=replace(settings.model, blocks=3))
    with pytest.raises(InputError, match="has 2 blocks, asked for the gates of block 3"):
        train(longer, prepared, tmp_path / "longer", progress=False)
    wider = replace(settings, model=replace(settings.model, kernel=5))
    with pytest.raises(InputError, match=r"\(2, 3, 3\) \(channels, kernel\), expected \(2, 5, 5\)"):
        train(wider, prepared, tmp_path / "wider", progress=False)
