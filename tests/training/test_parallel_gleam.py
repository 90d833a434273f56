"""The modules of GLEAM on several ranks: the weights of one process, however the run was put together."""

from dataclasses import replace
from pathlib import Path

import pytest
from several_ranks import difference, said, torchrun, train_on_ranks

import convexrecon.training.loop as loop
from convexrecon.data.preparation import PreparationSettings, prepare
from convexrecon.data.simulation import simulate_dataset
from convexrecon.errors import InputError
from convexrecon.training.config import RunSettings
from convexrecon.training.descent_settings import DescentSettings, GleamSettings
from convexrecon.training.model_settings import ModelSettings
from convexrecon.training.new_cascade import new_cascade
from convexrecon.training.parallel_gleam import parallel_gleam
from convexrecon.training.ranks import Ranks
from convexrecon.training.train import train

# The same operations in the same order on the same numbers.
ROUNDING = 1e-6


@pytest.fixture
def settings(small_run: RunSettings) -> RunSettings:
    """Five blocks in three modules; checkpoints within epochs of two and more steps."""
    return replace(
        small_run,
        method="gleam",
        batch_size=1,
        model=ModelSettings(blocks=5, kernel=3, units=4, initial="cg_sense", inputs=("image", "initial")),
        descent=DescentSettings(epochs=2, learning_rate=5e-3, save_every=2, gleam=GleamSettings(3)),
    )


@pytest.fixture
def uneven(tmp_path: Path) -> Path:
    """Prepared scans of sizes and coil counts that differ."""
    simulate_dataset(tmp_path / "scans", volumes=3, slices=2, size=(48, 40), coils=4, vary_size=True, progress=False)
    prepare(tmp_path / "scans", tmp_path / "uneven", PreparationSettings(), progress=False)
    return tmp_path / "uneven"


def interrupted(settings: RunSettings, data: Path, out: Path, monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """A run of one process that is stopped after some steps."""
    original, calls = loop.learning_rate, 0

    def stopping(*args: object) -> float:
        nonlocal calls
        calls += 1
        if calls > steps:
            raise KeyboardInterrupt
        return original(*args)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(loop, "learning_rate", stopping)
        with pytest.raises(KeyboardInterrupt):
            train(settings, data, out, progress=False)


def test_ranks_train_the_modules_as_one_process_does(
    prepared: Path, uneven: Path, settings: RunSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = replace(settings, model=ModelSettings(blocks=4, kernel=3, units=4), descent=DescentSettings(epochs=2))
    runs = {"initial": (settings, prepared), "plain": (plain, uneven), "continued": (settings, prepared)}
    interrupted(settings, prepared, tmp_path / "continued_3", monkeypatch, steps=7)
    train_on_ranks(3, [(run, data, tmp_path / f"{name}_3") for name, (run, data) in runs.items()])
    for name, (run, data) in runs.items():
        train(run, data, tmp_path / name, progress=False)
        assert difference(tmp_path / f"{name}_3", tmp_path / name) < ROUNDING, name


def test_a_killed_rank_ends_the_run_which_the_same_command_continues(
    prepared: Path, settings: RunSettings, tmp_path: Path
) -> None:
    case = (settings, prepared, tmp_path / "killed")
    child = torchrun(2, case, fails="killed", rank=1, at=4)
    assert child.returncode != 0
    assert len(said(child)) == 1, child.stderr
    assert said(child)[0].endswith("the same command continues from the last checkpoint")
    assert torchrun(2, case).returncode == 0
    train(settings, prepared, tmp_path / "whole", progress=False)
    assert difference(tmp_path / "killed", tmp_path / "whole") < ROUNDING


def test_more_ranks_than_modules_are_refused(settings: RunSettings) -> None:
    with pytest.raises(InputError, match="gleam: 4 ranks and 3 modules; expected at most as many ranks"):
        parallel_gleam(new_cascade(settings), settings.descent, Ranks(1, 4))
