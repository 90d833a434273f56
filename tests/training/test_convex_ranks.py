"""Convex training on several ranks: the results of one process, whoever dies and however many go on."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from several_ranks import said, torchrun, train_on_ranks

import convexrecon.training.layerwise as layerwise
from convexrecon.convex.gate_growth import GrowthSettings
from convexrecon.convex.program import ProgramSettings
from convexrecon.data.dataset import PreparedSlices
from convexrecon.data.preparation import PreparationSettings, prepare
from convexrecon.data.simulation import simulate_dataset
from convexrecon.errors import InputError
from convexrecon.physics.masks import MaskSettings
from convexrecon.training.config import RunSettings
from convexrecon.training.convex_settings import ConvexSettings
from convexrecon.training.layerwise import train_layerwise
from convexrecon.training.model_settings import ModelSettings
from convexrecon.training.ranks import Ranks
from convexrecon.training.run_folder import RunFolder
from convexrecon.training.train import train
from convexrecon.weights import load_cascade

# Where H has float32 products in it, weights are as near to each other as their gaps are small.
PROGRAM = ProgramSettings(beta_ratio=1e-2, tolerance=1e-8)
COARSE = ProgramSettings(beta_ratio=5e-2, tolerance=1e-3)
PLAIN = RunSettings(
    mask=MaskSettings(kind="poisson", acceleration=3.0, calibration=8),
    validation_fraction=0.3,
    model=ModelSettings(blocks=2, kernel=3, units=4),
    convex=ConvexSettings(program=PROGRAM, pixel_fraction=0.7, lam_slices=3),
)


def posed(blocks: int = 1, **convex: Any) -> RunSettings:
    return replace(PLAIN, model=replace(PLAIN.model, blocks=blocks), convex=replace(PLAIN.convex, **convex))


RUNS = {
    "group_lasso": PLAIN,
    "nuclear": posed(program=replace(PROGRAM, penalty="nuclear")),
    "matrix_free": posed(2, program=replace(COARSE, method="matrix_free")),
    "subsampled": posed(program=replace(PROGRAM, method="subsampled", tolerance=1e-6)),
    "features": replace(PLAIN, model=replace(PLAIN.model, stacking="features")),
    "consistent": posed(loss="consistent", program=COARSE),
    "self_supervised": posed(loss="self_supervised", program=COARSE),
}
# What of a record is a matter of the machine.
MEASURED = {f"seconds{of}" for of in ("", "_accumulate", "_solve", "_lam", "_apply")} | {
    "peak_memory_mb",
    "activations_mb",
}
SOME = ["group_lasso", "matrix_free"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five training slices, of two sizes, and two to validate on."""
    scans, data = tmp_path_factory.mktemp("scans"), tmp_path_factory.mktemp("data")
    for name, volumes, slices, size in (("a", 3, 2, (36, 32)), ("b", 1, 1, (32, 34))):
        simulate_dataset(
            scans / name,
            volumes=volumes,
            slices=slices,
            size=size,
            coils=4,
            anatomy="head",
            seed=slices,
            progress=False,
        )
        for file in sorted((scans / name).glob("*.h5")):
            file.rename(scans / f"{name}_{file.name}")
    prepare(scans, data, PreparationSettings(), progress=False)
    return data


@pytest.fixture(scope="module")
def one(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every run in one process."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("one")
    for name, settings in RUNS.items():
        train(settings, data, folder / name, progress=False)
    used = RunFolder(folder / "group_lasso").read_summary()["data"]
    assert [len(used[name]) for name in ("train", "validation")] == [5, 2]
    return folder


@pytest.fixture(scope="module")
def two(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every run on two ranks, three and two slices each; "continued" was killed in one process after a block."""
    folder = tmp_path_factory.mktemp("two")
    with pytest.MonkeyPatch.context() as patch:
        dies_in_second_block(patch)
        with pytest.raises(KeyboardInterrupt):
            train(PLAIN, data, folder / "continued", progress=False)
    assert len(RunFolder(folder / "continued").read_metrics()) == 1
    train_on_ranks(2, [(run, data, folder / name) for name, run in {**RUNS, "continued": PLAIN}.items()])
    return folder


def dies_in_second_block(patch: pytest.MonkeyPatch) -> None:
    original, calls = vars(layerwise)["_apply"], 0

    def dying(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:  # the first block is applied to two sets
            raise KeyboardInterrupt
        return original(*args)

    patch.setattr(layerwise, "_apply", dying)


def same_as_one_process(alone_in: Path, shared_in: Path) -> None:
    """Objectives and lam to 1e-5, strengths and quality to 1e-4, counts exactly, gaps within what was asked for."""
    one, several = RunFolder(alone_in), RunFolder(shared_in)
    tolerance = one.settings().convex.program.tolerance
    for alone, shared in zip(one.read_metrics(), several.read_metrics(), strict=True):
        assert alone.keys() == shared.keys()
        for key in alone.keys() - MEASURED:
            if key == "relative_gap":
                # A difference of nearly equal numbers: within the tolerance it is rounding.
                assert shared[key] <= tolerance
            elif key == "iterations":
                assert shared[key] == pytest.approx(alone[key], rel=0.1, abs=2)
            elif isinstance(alone[key], float) or key in ("betas_tried", "held_out_losses"):
                # Gates and the first block's optimum are the same; on the images after it the optimum's rounding shows.
                exact = 1e-5 if key in ("objective", "lam") else 1e-4
                assert shared[key] == pytest.approx(alone[key], rel=exact), key
            else:
                assert shared[key] == alone[key], key
    first, second = (load_cascade(run.weights)[0].state_dict() for run in (one, several))
    assert first.keys() == second.keys()
    for key, tensor in first.items():
        torch.testing.assert_close(second[key], tensor, rtol=1e-3, atol=1e-4 * float(tensor.abs().max()))
    assert not several.state.exists()


@pytest.mark.parametrize("name", sorted(set(RUNS) - {"subsampled"}))
def test_two_ranks_get_the_results_of_one(one: Path, two: Path, name: str) -> None:
    same_as_one_process(one / name, two / name)


def test_h_of_other_pixels_leads_to_the_same_optimum(one: Path, two: Path) -> None:
    alone, shared = (RunFolder(folder / "subsampled").read_metrics()[0] for folder in (one, two))
    assert shared["objective"] == pytest.approx(alone["objective"], rel=1e-7)
    assert shared["relative_gap"] <= 1e-6


def test_a_killed_run_of_one_process_goes_on_on_two_ranks(one: Path, two: Path) -> None:
    same_as_one_process(one / "group_lasso", two / "continued")


def test_a_run_that_lost_a_rank_goes_on_in_one_process(one: Path, data: Path, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    child = torchrun(2, (PLAIN, data, run.path), fails="killed", rank=1, at=2)
    assert child.returncode != 0
    assert len(said(child)) == 1, child.stderr
    assert said(child)[0].endswith("the same command continues from the last checkpoint")
    assert len(run.read_metrics()) == 1
    assert sorted(path.name for path in run.state.iterdir()) == ["1_of_2", "2_of_2"]
    train(PLAIN, data, run.path, progress=False)
    same_as_one_process(one / "group_lasso", run.path)


def test_uneven_shares_and_a_rank_without_a_slice_to_validate_on(one: Path, data: Path, tmp_path: Path) -> None:
    train_on_ranks(3, [(RUNS[name], data, tmp_path / name) for name in SOME])
    for name in SOME:
        same_as_one_process(one / name, tmp_path / name)


def test_what_ranks_cannot_share_is_refused(data: Path, tmp_path: Path) -> None:
    slices = PreparedSlices(data, PLAIN.mask)
    run = RunFolder(tmp_path / "run")
    with pytest.raises(InputError, match="8 processes for 7 training slices; expected at most one process a slice"):
        train_layerwise(PLAIN, slices, None, run, ranks=Ranks(0, 8), progress=False)
    grown = posed(grow=GrowthSettings(rule="explained"))
    with pytest.raises(InputError, match=r"grown in one process, found 2 and convex\.grow\.rule = 'explained'"):
        train_layerwise(grown, slices, None, run, ranks=Ranks(1, 2), progress=False)
    assert not run.path.exists()
