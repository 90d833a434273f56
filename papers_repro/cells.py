"""Measured cells of a table, kept on disk: a script that was stopped measures only what is missing."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from convexrecon.atomic_write import write_text
from convexrecon.errors import InputError


def cell(folder: Path, name: str, settings: Mapping[str, Any], measure: Callable[[], Any]) -> Any:
    """What `measure` returned for these settings, now or at an earlier run, from ``folder/name.json``.

    Args:
        folder: of the cells.
        name: of the cell, a file name.
        settings: what decides the result, JSON-able.
        measure: makes a JSON-able result; called only where the file is missing.

    Raises:
        InputError: a file that is not a cell, or of other settings; names the first that differs.
    """
    path = folder / f"{name}.json"
    # Through JSON, as they come back: tuples are lists.
    wanted = json.loads(json.dumps(dict(settings)))
    if not path.exists():
        value = measure()
        write_text(path, json.dumps({"settings": wanted, "value": value}, indent=1) + "\n")
    stored = _read(path)
    for key in sorted({*wanted, *stored["settings"]}):
        before, now = stored["settings"].get(key), wanted.get(key)
        if before != now:
            raise InputError(
                f"{path}: was measured with {key} = {before!r}, asked for {now!r}; give another --out, or the same "
                "settings to continue"
            )
    return stored["value"]


def _read(path: Path) -> dict[str, Any]:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: not valid JSON ({error}); delete it to measure it again") from None
    if not isinstance(stored, dict) or set(stored) != {"settings", "value"}:
        raise InputError(f"{path}: expected a cell with settings and value; delete it to measure it again")
    return stored
