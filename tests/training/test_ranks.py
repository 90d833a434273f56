"""Several ranks train to what one trains to, and end with one message when one of them does."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from several_ranks import difference, said, torchrun, train_on_ranks

from convexrecon.training.config import RunSettings
from convexrecon.training.descent_settings import DescentSettings
from convexrecon.training.first_to_end import first_to_end
from convexrecon.training.ranks import Ranks
from convexrecon.training.run_folder import RunFolder
from convexrecon.training.train import train

METHODS: tuple[Any, ...] = ("end_to_end", "checkpointing", "layerwise")
RESUMED = "the same command continues from the last checkpoint"


@pytest.fixture
def settings(small_run: RunSettings) -> RunSettings:
    """Four training slices in batches of three and one: unequal shares, and ranks without any."""
    options = DescentSettings(epochs=2, learning_rate=5e-3, save_every=1)
    return replace(small_run, method="end_to_end", batch_size=3, descent=options)


def test_shares_are_disjoint_and_make_up_the_whole() -> None:
    shares = [Ranks(rank, 3).share(range(8)) for rank in range(3)]
    assert sorted(item for share in shares for item in share) == list(range(8))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_several_ranks_train_as_one(prepared: Path, settings: RunSettings, tmp_path: Path) -> None:
    runs = {name: replace(settings, method=name) for name in METHODS}
    train_on_ranks(2, [(run, prepared, tmp_path / f"{name}_2") for name, run in runs.items()])
    for name, run in runs.items():
        train(run, prepared, tmp_path / name, progress=False)
        assert difference(tmp_path / f"{name}_2", tmp_path / name) < 1e-4, name
        assert RunFolder(tmp_path / f"{name}_2").read_summary()["ranks"] == 2


def test_a_killed_rank_ends_the_run_which_one_process_continues(
    prepared: Path, settings: RunSettings, tmp_path: Path
) -> None:
    child = torchrun(2, (settings, prepared, tmp_path / "killed"), fails="killed", rank=1, at=4)
    assert child.returncode != 0
    assert len(said(child)) == 1, child.stderr
    assert said(child)[0].startswith("error: ")
    assert said(child)[0].endswith(RESUMED)
    assert (tmp_path / "killed" / "state" / "checkpoint.safetensors").exists()
    for name in ("killed", "whole"):
        train(settings, prepared, tmp_path / name, progress=False)
    assert difference(tmp_path / "killed", tmp_path / "whole") < 1e-4


def test_what_one_rank_refuses_is_said_once_and_in_full(prepared: Path, settings: RunSettings, tmp_path: Path) -> None:
    child = torchrun(2, (settings, prepared, tmp_path / "run"), fails="refuses", rank=1, at=1)
    assert child.returncode != 0
    assert said(child) == ["error: slice 3: cannot be read"]


def test_the_first_rank_to_end_is_the_same_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
    for name, value in {"WORLD_SIZE": 3, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": store.port}.items():
        monkeypatch.setenv(name, str(value))
    for rank in (2, 0, 1, 2):
        monkeypatch.setenv("RANK", str(rank))
        assert first_to_end() == "2/program"
        assert first_to_end("signal") == "2/program"
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert first_to_end("signal") == "2/signal"


def test_a_rank_that_can_ask_nobody_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WORLD_SIZE": "3", "RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    assert first_to_end() == "1/program"


def test_an_interrupt_is_no_traceback(prepared: Path, settings: RunSettings, tmp_path: Path) -> None:
    child = torchrun(2, (settings, prepared, tmp_path / "run"), fails="interrupted", rank=0, at=1)
    assert child.returncode != 0
    assert said(child) == ["interrupted; the same command continues where it stopped"]
    assert child.stderr.count("Traceback") == 1  # torchrun's own
