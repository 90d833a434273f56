"""Several trainers in one folder: what is trained stays, what was chosen is kept, what does not fit is refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import convexrecon.training.train_several as several
from convexrecon.errors import InputError
from convexrecon.training.budget import Budget, Plan
from convexrecon.training.config import RunSettings, dump_settings
from convexrecon.training.run_folder import RunFolder
from convexrecon.training.train import train
from convexrecon.weights import load_cascade


def quiet(line: str) -> None:
    pass


def runs_of(small_run: RunSettings, *methods: Any) -> dict[str, RunSettings]:
    return {method: replace(small_run, method=method) for method in methods}


def test_a_killed_comparison_continues_and_trains_nothing_twice(
    prepared: Path, small_run: RunSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, out = runs_of(small_run, "convex", "end_to_end", "gleam"), tmp_path / "out"
    monkeypatch.setattr(several, "plan_for", lambda *_: Plan({"descent.epochs": 2}, {"seconds_epoch": 1.0}))
    original, calls = train, 0

    def dying(*words: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return original(*words, **options)

    monkeypatch.setattr(several, "train", dying)
    with pytest.raises(KeyboardInterrupt):
        several.train_several(runs, prepared, out, Budget(seconds=2), progress=False, say=quiet)
    done = (out / "convex" / "weights.safetensors").stat().st_mtime_ns
    monkeypatch.undo()

    def again(*words: Any) -> Plan:
        raise AssertionError("what was chosen is on record")

    monkeypatch.setattr(several, "plan_for", again)
    trained = several.train_several(runs, prepared, out, Budget(seconds=2), progress=False, say=quiet)
    assert list(trained) == ["convex", "end_to_end", "gleam"]
    assert [len(trained[name].read_metrics()) for name in ("end_to_end", "gleam")] == [2, 2]
    assert trained["gleam"].settings().descent.epochs == 2
    before = {name: load_cascade(run.weights)[0].state_dict() for name, run in trained.items()}
    rows = trained["gleam"].read_metrics()
    several.train_several(runs, prepared, out, Budget(seconds=2), progress=False, say=quiet)
    assert trained["gleam"].read_metrics() == rows
    for name, run in trained.items():
        after = load_cascade(run.weights)[0].state_dict()
        assert all(bool((after[key] == before[name][key]).all()) for key in after)
    assert done <= (out / "convex" / "weights.safetensors").stat().st_mtime_ns
    assert json.loads((out / "budget.json").read_text())["runs"]["gleam"]["measured"] == {"seconds_epoch": 1.0}


def test_nothing_is_trained_before_every_budget_is_kept(prepared: Path, small_run: RunSettings, tmp_path: Path) -> None:
    runs = runs_of(small_run, "gleam", "end_to_end")
    with pytest.raises(InputError, match="memory_mb"):
        several.train_several(runs, prepared, tmp_path / "out", Budget(memory_mb=1e-3), progress=False, say=quiet)
    assert not (tmp_path / "out" / "gleam").exists()


def test_a_folder_is_of_one_comparison(prepared: Path, small_run: RunSettings, tmp_path: Path) -> None:
    runs, out = runs_of(small_run, "gleam"), tmp_path / "out"
    several.train_several(runs, prepared, out, Budget(epochs=1), progress=False, say=quiet)
    with pytest.raises(InputError, match="budget '1 epochs each', asked for '2 epochs each'"):
        several.train_several(runs, prepared, out, Budget(epochs=2), progress=False, say=quiet)
    other = {"gleam": replace(runs["gleam"], model=replace(small_run.model, units=5))}
    with pytest.raises(InputError, match=r"was begun with model\.units = 4, asked for 5"):
        several.train_several(other, prepared, out, Budget(epochs=1), progress=False, say=quiet)
    with pytest.raises(InputError, match="found other files in it"):
        several.train_several(runs, prepared, prepared, Budget(epochs=1), progress=False, say=quiet)
    (out / "budget.json").write_text("{")
    with pytest.raises(InputError, match=r"budget\.json: not the record of a comparison"):
        several.train_several(runs, prepared, out, Budget(epochs=1), progress=False, say=quiet)
    assert RunFolder(out / "gleam").weights.exists()


def test_all_see_the_same_data(prepared: Path, small_run: RunSettings, tmp_path: Path) -> None:
    runs = {"a": small_run, "b": replace(small_run, seed=3)}
    with pytest.raises(InputError, match="b: seed = 3, a has 0; expected configurations that see the same data"):
        several.train_several(runs, prepared, tmp_path / "out", Budget(), progress=False, say=quiet)


def test_configurations_are_named_by_file_or_method(small_run: RunSettings, tmp_path: Path) -> None:
    for name in ("a.toml", "b.toml"):
        (tmp_path / name).write_text(dump_settings(small_run))
    paths = [tmp_path / "a.toml", tmp_path / "b.toml"]
    assert list(several.configurations(paths)) == ["a", "b"]
    by_method = several.configurations(paths[:1], ["convex", "gleam"])
    assert {name: run.method for name, run in by_method.items()} == {"convex": "convex", "gleam": "gleam"}
    assert by_method["gleam"].model == small_run.model
    for words, message in (
        (([], []), "found nothing to train; expected TOML files, or methods such as"),
        ((paths, ["convex"]), "expected one configuration to train by each, found 2"),
        ((paths[:1], ["convex", "magic"]), "expected some of convex, .*, found 'magic'"),
        ((paths[:1], ["gleam", "gleam"]), "'gleam' is given twice"),
        (([paths[0], paths[0]], []), "another configuration is named 'a' too"),
        (([tmp_path / "none.toml"], []), "no such file"),
    ):
        with pytest.raises(InputError, match=message):
            several.configurations(*words)
