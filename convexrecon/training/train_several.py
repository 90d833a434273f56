"""Several trainers under one budget, each in a run folder of its own: continued, not begun again."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

import torch

from convexrecon.atomic_write import write_text
from convexrecon.errors import InputError
from convexrecon.training.budget import Budget, Plan, plan_for
from convexrecon.training.config import METHODS, Method, RunSettings, flat_settings, load_settings
from convexrecon.training.run_folder import RunFolder
from convexrecon.training.train import train, training_sets

RECORD = "budget.json"


def configurations(configs: Sequence[Path | str], methods: Sequence[str] = ()) -> dict[str, RunSettings]:
    """Name -> settings: of each TOML file by its stem, or of one file (or the defaults) by each of some methods.

    Raises:
        InputError: neither files nor methods, several files with methods, an unknown method, a name twice, or a
            file that cannot be read.
    """
    unknown = [method for method in methods if method not in METHODS]
    if unknown:
        raise InputError(f"methods: expected some of {', '.join(METHODS)}, found {unknown[0]!r}")
    if methods:
        if len(configs) > 1:
            raise InputError(f"methods: expected one configuration to train by each, found {len(configs)}")
        base = load_settings(Path(configs[0])) if configs else RunSettings()
        chosen: dict[str, RunSettings] = {}
        for method in methods:
            if method in chosen:
                raise InputError(f"methods: {method!r} is given twice")
            chosen[method] = replace(base, method=_method(method))
        return chosen
    if not configs:
        raise InputError("compare: found nothing to train; expected TOML files, or methods such as convex,end_to_end")
    named: dict[str, RunSettings] = {}
    for config in map(Path, configs):
        if config.stem in named:
            raise InputError(f"{config}: another configuration is named {config.stem!r} too; expected different names")
        named[config.stem] = load_settings(config)
    return named


def _method(name: str) -> Method:
    (found,) = [method for method in get_args(Method) if method == name]
    return found


def train_several(
    runs: Mapping[str, RunSettings],
    data: Path | str,
    out: Path | str,
    budget: Budget,
    *,
    validation: Path | str | None = None,
    device: torch.device | str = "cpu",
    progress: bool = True,
    say: Callable[[str], object] = print,
) -> dict[str, RunFolder]:
    """Train each configuration in `out`/name. What was chosen to keep to the budget is in `out`/budget.json.

    All choices are made, and refused, before anything is trained; a killed comparison takes them from the file, so
    that it continues to the same result.

    Args:
        runs: name -> settings, of the same masks, seed and split of the data.
        data: folder of prepared volumes.
        out: folder, made or continued.
        budget: for each.
        validation: folder of prepared volumes to validate on; None splits `data`.
        device: where to compute.
        progress: whether to show bars and lines.
        say: prints a line.

    Raises:
        InputError: runs that see other data, a folder of another comparison, a budget that nothing fits, several ranks.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("compare: expected one process, found several ranks; train the runs by themselves")
    _check_same_data(runs)
    folder = Path(out)
    planned = _plans(runs, Path(data), folder, budget, None if validation is None else Path(validation), device)
    folders = {}
    for name, plan in planned.items():
        chosen = "".join(f", {key} = {value}" for key, value in plan.changes.items())
        say(f"{name}: {runs[name].method}{chosen}")
        settings = plan.applied(runs[name])
        train(settings, data, folder / name, validation=validation, device=device, progress=progress)
        run = folders[name] = RunFolder(folder / name)
        taken = float(run.read_summary()["training_seconds"])
        if budget.seconds is not None and taken > 1.2 * budget.seconds:
            say(f"{name}: took {taken:.0f} s, more than the {budget.seconds:g} s of the budget")
    return folders


def _plans(
    runs: Mapping[str, RunSettings],
    data: Path,
    folder: Path,
    budget: Budget,
    validation: Path | None,
    device: torch.device | str,
) -> dict[str, Plan]:
    """Plans of an earlier comparison in the folder as they are, of other runs made now; recorded."""
    record = _read_record(folder, budget)
    known: dict[str, Any] = record.get("runs", {})
    plans = {}
    for name, settings in runs.items():
        asked = json.loads(json.dumps(flat_settings(settings)))
        if name in known:
            _check_same_settings(folder / name, known[name]["asked"], asked)
            plans[name] = Plan(known[name]["changes"], known[name]["measured"])
        else:
            train_slices, held_out = training_sets(settings, data, validation)
            plans[name] = plan_for(settings, budget, train_slices, held_out, torch.device(device))
        known = {**known, name: {"asked": asked, **asdict(plans[name])}}
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / RECORD, json.dumps({"budget": asdict(budget), "runs": known}, indent=2) + "\n")
    return plans


def _read_record(folder: Path, budget: Budget) -> dict[str, Any]:
    path = folder / RECORD
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: expected a folder for the comparison, found a file")
    if not path.exists():
        if folder.exists() and any(folder.iterdir()):
            raise InputError(f"{folder}: expected an empty folder or one of a comparison, found other files in it")
        return {}
    try:
        record: dict[str, Any] = json.loads(path.read_text())
        before = Budget(**record["budget"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not the record of a comparison ({error}); expected one, or another --out") from None
    if before != budget:
        raise InputError(
            f"{folder}: holds a comparison with the budget {before.describe()!r}, asked for {budget.describe()!r}; "
            "give another --out, or the same budget to continue"
        )
    return record


def _check_same_settings(run: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    for name, value in now.items():
        if before.get(name) != value:
            raise InputError(
                f"{run}: was begun with {name} = {before.get(name)!r}, asked for {value!r}; give another --out, or the "
                "same configuration to continue"
            )


def _check_same_data(runs: Mapping[str, RunSettings]) -> None:
    if not runs:
        raise InputError("compare: found nothing to train; expected at least one configuration")
    (first, reference), *others = runs.items()
    for name, settings in others:
        for key in ("mask", "seed", "validation_fraction"):
            if getattr(settings, key) != getattr(reference, key):
                raise InputError(
                    f"{name}: {key} = {getattr(settings, key)}, {first} has {getattr(reference, key)}; expected "
                    "configurations that see the same data"
                )
