"""A run's folder: settings, versions, weights, metrics and summary; made once, resumed ever after."""

import importlib.metadata
import json
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convexrecon.atomic_write import write_text
from convexrecon.errors import InputError
from convexrecon.training.config import RunSettings, dump_settings, flat_settings, load_settings

# What a resumed run may change: more blocks lengthen a convex run and leave what is done as it is.
MAY_CHANGE = {"convex": {"model.blocks"}}
PACKAGES = ("convexrecon", "torch", "numpy", "scipy", "h5py", "scikit-image", "matplotlib", "cvxpy")


@dataclass(frozen=True)
class RunFolder:
    """Paths and records of one run.

    Attributes:
        path: the folder.
    """

    path: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))  # a string will do

    @property
    def config(self) -> Path:
        """Resolved settings."""
        return self.path / "config.toml"

    @property
    def weights(self) -> Path:
        """The trained cascade."""
        return self.path / "weights.safetensors"

    @property
    def metrics(self) -> Path:
        """One JSON object a line: a block or an epoch each."""
        return self.path / "metrics.jsonl"

    @property
    def summary(self) -> Path:
        """What the run came to."""
        return self.path / "summary.json"

    @property
    def state(self) -> Path:
        """What a resumed run continues from; removed when training ends."""
        return self.path / "state"

    def settings(self) -> RunSettings:
        """The run's settings.

        Raises:
            InputError: the folder is not a run folder.
        """
        if not self.config.is_file():
            raise InputError(
                f"{self.path}: not a run folder (no config.toml); expected one made by `convexrecon train`"
            )
        return load_settings(self.config)

    @property
    def field_of_view(self) -> float:
        """Of the training data, see `data.field_of_view`; 1 where it is not recorded."""
        return float(self.read_summary().get("field_of_view") or 1)

    def read_metrics(self) -> list[dict[str, Any]]:
        """All complete rows of `metrics`."""
        if not self.metrics.exists():
            return []
        return [json.loads(line) for line in self.metrics.read_text().splitlines() if line.strip()]

    def write_metrics(self, rows: list[dict[str, Any]]) -> None:
        """Replace `metrics`, atomically: a resumed run never finds a row of work it must redo."""
        write_text(self.metrics, "".join(json.dumps(row) + "\n" for row in rows))

    def read_summary(self) -> dict[str, Any]:
        """The summary so far, empty if none was written."""
        if not self.summary.exists():
            return {}
        try:
            summary: dict[str, Any] = json.loads(self.summary.read_text())
        except json.JSONDecodeError as error:
            raise InputError(f"{self.summary}: not valid JSON ({error})") from None
        return summary

    def bind_data(self, data: dict[str, list[str]]) -> None:
        """Record which slices the run is trained and validated on; refuse to resume on others.

        Raises:
            InputError: the run was started on other data.
        """
        before = self.read_summary().get("data")
        if before is not None and before != data:
            raise InputError(
                f"{self.path}: was trained on other data ({len(before['train'])} training slices, found "
                f"{len(data['train'])}, or other volumes); give another --out or the same data to resume"
            )
        self.update_summary(data=data)

    def update_summary(self, **entries: Any) -> None:
        """Set entries of the summary, keeping the others."""
        write_text(self.summary, json.dumps({**self.read_summary(), **entries}, indent=2) + "\n")


def open_run(path: Path, settings: RunSettings) -> RunFolder:
    """Make a run folder, or open one that was made with the same settings.

    Raises:
        InputError: `path` is a file, a folder of something else, or a run with other settings; the message
            names the first setting that differs.
    """
    run = RunFolder(path)
    if path.exists() and not path.is_dir():
        raise InputError(f"{path}: expected a folder for the run, found a file")
    if run.config.exists():
        _check_same(run, settings)
    elif path.exists() and any(path.iterdir()):
        raise InputError(f"{path}: expected a run folder or an empty one, found other files in it")
    path.mkdir(parents=True, exist_ok=True)
    write_text(run.config, dump_settings(settings))
    write_text(path / "versions.json", json.dumps(_versions(), indent=2) + "\n")
    return run


def _check_same(run: RunFolder, settings: RunSettings) -> None:
    before, now = flat_settings(run.settings()), flat_settings(settings)
    for name, value in now.items():
        if before.get(name) != value and name not in MAY_CHANGE.get(settings.method, set()):
            raise InputError(
                f"{run.path}: holds a run with {name} = {before.get(name)!r}, asked for {value!r}; "
                "give another --out, or the same settings to resume"
            )


def _versions() -> dict[str, str]:
    installed = {d.metadata["Name"]: d.version for d in importlib.metadata.distributions()}
    found = {package: installed.get(package, "not installed") for package in PACKAGES}
    return {"python": platform.python_version(), "platform": platform.platform(), **found}
