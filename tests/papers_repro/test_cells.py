"""Cells: measured once, kept, refused where they are of other settings."""

from pathlib import Path

import pytest
from cells import cell

from convexrecon.errors import InputError


def test_a_cell_is_measured_once(tmp_path: Path) -> None:
    calls: list[int] = []

    def measure() -> dict[str, float]:
        calls.append(1)
        return {"s": 1.5}

    settings = {"blocks": 4, "size": (3, 2)}
    assert cell(tmp_path, "a", settings, measure) == {"s": 1.5}
    assert cell(tmp_path, "a", settings, measure) == {"s": 1.5}
    assert len(calls) == 1


def test_a_measurement_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError):
        cell(tmp_path, "a", {}, fail)
    assert list(tmp_path.iterdir()) == []
    assert cell(tmp_path, "a", {}, lambda: 2) == 2


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    cell(tmp_path, "a", {"blocks": 4, "units": 8}, lambda: 1)
    with pytest.raises(InputError, match="blocks = 4, asked for 5"):
        cell(tmp_path, "a", {"blocks": 5, "units": 8}, lambda: 1)
    with pytest.raises(InputError, match="units = 8, asked for None"):
        cell(tmp_path, "a", {"blocks": 4}, lambda: 1)


def test_a_damaged_cell_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"settings": {}')
    with pytest.raises(InputError, match=r"a\.json: not valid JSON"):
        cell(tmp_path, "a", {}, lambda: 1)
    (tmp_path / "b.json").write_text("[1]")
    with pytest.raises(InputError, match="expected a cell"):
        cell(tmp_path, "b", {}, lambda: 1)
