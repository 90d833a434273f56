"""The command line as a person meets it: the whole line, wrong arguments, broken files, interruption."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from convexrecon.cli import main
from convexrecon.data.fastmri import read_kspace, read_scan_info
from convexrecon.data.fastmri_writing import write_scan
from convexrecon.weights import load_cascade

CONFIG = """
validation_fraction = 0.34
[mask]
acceleration = 3.0
calibration = 10
[model]
blocks = 2
kernel = 3
units = 4
"""


class Shell:
    """Runs the entry point in this process; remembers what it printed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def __call__(self, *words: object) -> str:
        status, out, err = self.attempt(*words)
        assert status == 0, err
        return out

    def attempt(self, *words: object) -> tuple[int, str, str]:
        self.monkeypatch.setattr(sys, "argv", ["convexrecon", *map(str, words)])
        try:
            main()
            status = 0
        except SystemExit as stop:
            status = int(stop.code or 0)
        printed = self.capsys.readouterr()
        return status, printed.out, printed.err

    def refused(self, *words: object) -> str:
        status, _, err = self.attempt(*words)
        assert status == 2
        assert err.startswith("error: ")
        assert "Traceback" not in err
        return err


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(monkeypatch, capsys)


@pytest.fixture(scope="module")
def trained(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder trained through the command line."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "config.toml").write_text(CONFIG)
    words = ["train", prepared, "--out", folder / "run", "--config", folder / "config.toml", "-q"]
    subprocess.run([sys.executable, "-m", "convexrecon.cli", *map(str, words)], check=True, capture_output=True)
    return folder / "run"


def test_help_names_every_command(shell: Shell) -> None:
    text = shell("--help")
    for command in ("simulate", "prepare", "train", "evaluate", "reconstruct", "certify", "demo"):
        assert command in text
        assert "Usage" in shell(command, "--help")


def test_help_names_the_commands_that_compare(shell: Shell) -> None:
    for command in ("compare", "fit-memory"):
        assert command in shell("--help")
        assert "Usage" in shell(command, "--help")


def test_from_nothing_to_a_certified_reconstruction(shell: Shell, tmp_path: Path) -> None:
    scans, prepared, run = tmp_path / "scans", tmp_path / "prepared", tmp_path / "run"
    (tmp_path / "c.toml").write_text(CONFIG)
    shell("simulate", scans, "--volumes", 3, "--slices", 1, "--size", 48, 40, "--coils", 4, "-q")
    assert "3 volumes prepared, 0 already" in shell("prepare", scans, prepared, "-q")
    assert "0 volumes prepared, 3 already" in shell("prepare", scans, prepared, "-q")
    shell("train", prepared, "--out", run, "--config", tmp_path / "c.toml", "-q")
    certified = json.loads(shell("certify", run, "--data", prepared, "--json"))["blocks"]
    assert [row["block"] for row in certified] == [1, 2]
    assert all(row["relative_gap"] <= 1e-4 for row in certified)
    scan = sorted(scans.glob("*.h5"))[0]
    result = json.loads(shell("reconstruct", run, scan, "--out", tmp_path / "r.h5", "--json"))
    assert result["retrospective"]
    assert result["psnr"] > 15
    pieces = ("reconstruct", run, scan, "--out", tmp_path / "r.h5", "--json", "--patch")
    assert json.loads(shell(*pieces, "20,16"))["psnr"] == pytest.approx(result["psnr"], abs=0.01)
    assert "--patch: expected pixels as in 64 or 64,48, or whole, found 'big'" in shell.refused(*pieces, "big")
    evaluated = json.loads(shell("evaluate", run, "--data", prepared, "--no-baselines", "--json"))["evaluation"]
    assert set(evaluated) == {"convex"}
    summary = json.loads((run / "summary.json").read_text())
    assert {"psnr", "ssim", "nmse", "seconds_per_slice"} <= set(summary["evaluation"]["convex"])
    assert "<img" in (run / "report.html").read_text()
    assert (run / "evaluation.csv").read_text().count("\n") == 4
    assert len(list((run / "figures").glob("*.png"))) >= 3


def test_all_methods_stand_in_one_table(shell: Shell, trained: Path, prepared: Path, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(CONFIG + "[descent]\nepochs = 2\n")
    other = tmp_path / "other"
    shell("train", prepared, "--out", other, "--config", tmp_path / "c.toml", "--method", "end_to_end", "-q")
    table = shell("evaluate", trained, other, "--data", prepared, "--out", tmp_path / "out", "-q")
    for method in ("zero-filled", "CG-SENSE", "L1-wavelet", "convex", "end_to_end"):
        assert method in table
    assert "20 log10" in table
    assert (tmp_path / "out" / "report.html").exists()


def test_a_fully_sampled_scan_comes_out_in_the_scanners_units(
    shell: Shell, trained: Path, scans: Path, tmp_path: Path
) -> None:
    scan = sorted(scans.glob("*.h5"))[0]
    shell("reconstruct", trained, scan, "--out", tmp_path / "r.h5", "-q")
    with h5py.File(tmp_path / "r.h5") as file, h5py.File(scan) as original:
        assert file["reconstruction"].shape == original["reconstruction_rss"].shape
        ratio = np.linalg.norm(file["reconstruction"][()]) / np.linalg.norm(original["reconstruction_rss"][()])
        assert 0.7 < ratio < 1.2
        assert np.allclose(np.abs(file["reconstruction_complex"][()]), file["reconstruction"][()], rtol=1e-5)


@pytest.mark.parametrize("stated", [True, False])
def test_an_undersampled_scan_is_reconstructed_from_its_own_samples(
    shell: Shell, trained: Path, scans: Path, tmp_path: Path, stated: bool
) -> None:
    scan = sorted(scans.glob("*.h5"))[0]
    info = read_scan_info(scan)
    mask = np.zeros(info.shape[3], dtype=bool)
    mask[::3] = True
    mask[info.shape[3] // 2 - 6 : info.shape[3] // 2 + 6] = True
    kspace = np.stack([read_kspace(scan, index) for index in range(info.shape[0])]) * mask
    write_scan(tmp_path / "u.h5", kspace, header=info.header, mask=mask if stated else None)
    result = json.loads(shell("reconstruct", trained, tmp_path / "u.h5", "--out", tmp_path / "r.h5", "--json"))
    assert not result["retrospective"]
    assert result["psnr"] is None
    assert result["acceleration"] == pytest.approx(len(mask) / mask.sum())
    with h5py.File(tmp_path / "r.h5") as file:
        assert file["reconstruction"].shape == (2, 48, 40)
        assert "target_complex" not in file


def test_a_killed_training_continues_to_the_same_weights(trained: Path, prepared: Path, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(CONFIG)
    words = ["train", prepared, "--out", tmp_path / "run", "--config", tmp_path / "c.toml"]
    command = [sys.executable, "-m", "convexrecon.cli", *map(str, words)]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.time() + 120
    while not (tmp_path / "run" / "weights.safetensors").exists() and time.time() < deadline:
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=120)
    assert child.returncode in (0, 130)  # 0 if it was quicker than the signal
    assert "Traceback" not in err
    # The same command in the same surroundings: another number of threads rounds differently.
    subprocess.run(command, check=True, capture_output=True)
    whole, resumed = (load_cascade(p / "weights.safetensors")[0].state_dict() for p in (trained, tmp_path / "run"))
    assert all(bool((whole[name] == resumed[name]).all()) for name in whole)


def test_broken_files_end_in_one_line(shell: Shell, trained: Path, scans: Path, tmp_path: Path) -> None:
    scan = sorted(scans.glob("*.h5"))[0]
    bad = tmp_path / "bad"
    bad.mkdir()
    file = bad / "scan.h5"

    file.write_bytes(scan.read_bytes()[:5000])
    assert "scan.h5" in shell.refused("prepare", bad, tmp_path / "p", "-q")
    file.write_text("not hdf5")
    assert "scan.h5" in shell.refused("reconstruct", trained, file, "--out", tmp_path / "r.h5")
    with h5py.File(file, "w") as foreign:
        foreign["image"] = np.zeros((4, 4))
    assert "kspace" in shell.refused("prepare", bad, tmp_path / "p", "-q")

    shutil.copy(scan, file)
    with h5py.File(file, "r+") as damaged:
        damaged["kspace"][1, 0, 3, 3] = np.nan
    message = shell.refused("prepare", bad, tmp_path / "p", "-q")
    assert "NaN" in message
    assert "slice 1" in message
    with h5py.File(file, "r+") as damaged:
        damaged["kspace"][...] = 0
    shell.refused("prepare", bad, tmp_path / "p", "-q")
    shell.refused("reconstruct", trained, file, "--out", tmp_path / "r.h5")
    assert not list((tmp_path / "p").glob("*")) if (tmp_path / "p").exists() else True
    assert not (tmp_path / "r.h5").exists()


def test_wrong_folders_and_arguments_end_in_one_line(
    shell: Shell, trained: Path, prepared: Path, scans: Path, tmp_path: Path
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "empty" in shell.refused("prepare", empty, tmp_path / "p")
    assert "prepare" in shell.refused("train", scans, "--out", tmp_path / "run")
    assert str(empty) in shell.refused("train", empty, "--out", tmp_path / "run")
    assert "not a run folder" in shell.refused("evaluate", empty, "--data", prepared)
    assert "no such file" in shell.refused("train", prepared, "--out", tmp_path / "r", "--config", "none.toml")
    assert "convex, end_to_end" in shell.refused("train", prepared, "--out", tmp_path / "r", "--method", "magic")
    assert "calibration" in shell.refused("prepare", scans, tmp_path / "p", "--calibration", 99, "-q")
    assert "--device" in shell.refused("certify", trained, "--data", prepared, "--device", "tpu")
    assert "seed" in shell.refused("train", prepared, "--out", trained, "--seed", 5)
    assert "none.npy" in shell.refused("simulate", tmp_path / "s", "--images", tmp_path / "none.npy")
    shell.refused("train", prepared, "--out", tmp_path / "r", "--acceleration", 0.5)
    shell.refused("simulate")
    assert not (tmp_path / "r" / "weights.safetensors").exists()


def test_trainers_are_compared_and_measured(shell: Shell, prepared: Path, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(CONFIG)
    words = ["compare", tmp_path / "c.toml", "--data", prepared, "--out", tmp_path / "out"]
    found = json.loads(shell(*words, "--methods", "convex,gleam", "--epochs", 1, "--json"))
    assert [run["method"] for run in found["runs"]] == ["convex", "gleam"]
    assert Path(found["report"]).exists()
    assert "gleam" in shell(*words, "--methods", "convex,gleam", "--epochs", 1, "-q")
    fits = json.loads(
        shell("fit-memory", tmp_path / "c.toml", "--data", prepared, "--gigabytes", 4, "--method", "all", "--json")
    )
    assert {"convex", "end_to_end", "layerwise"} <= {fit["method"] for fit in fits["methods"]}

    words = ["compare", "--data", prepared, "--out", tmp_path / "other", "-q"]
    assert "found nothing to train" in shell.refused(*words)
    assert "found 'magic'" in shell.refused(*words, "--methods", "convex,magic")
    words += ["--methods", "gleam"]
    assert "expected one of epochs, seconds" in shell.refused(*words, "--epochs", 1, "--seconds", 5)
    assert "expected at least that" in shell.refused(*words, "--memory-mb", 0.01)
    words = ["fit-memory", tmp_path / "c.toml", "--gigabytes", 1]
    assert "either --data FOLDER or --size Y X" in shell.refused(*words)
    assert "--method" in shell.refused(*words, "--data", prepared, "--method", "magic")
    assert "--vary" in shell.refused(*words, "--data", prepared, "--vary", "units")


@pytest.mark.skipif(os.name != "posix", reason="needs a limit on file sizes")
def test_a_full_disk_leaves_nothing_half_written(trained: Path, scans: Path, tmp_path: Path) -> None:
    scan = sorted(scans.glob("*.h5"))[0]
    # A limit on the size of any file fails writes as a full disk does.
    words = ["reconstruct", trained, scan, "--out", tmp_path / "r.h5", "-q"]
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000));"
        "from convexrecon.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    assert list(tmp_path.glob("*")) == []


def test_the_whole_line_off_the_grid(shell: Shell, tmp_path: Path) -> None:
    scans, prepared, run = tmp_path / "scans", tmp_path / "prepared", tmp_path / "run"
    simulated = ("--trajectory", "spiral", "--shots", 9, "--volumes", 2, "--slices", 1, "--coils", 3)
    assert "2 files" in shell("simulate", scans, "--size", 36, 32, *simulated, "-q")
    assert "2 volumes prepared, 0 already" in shell("prepare", scans, prepared, "-q")
    assert "2 volumes prepared (2 of them anew)" in shell("prepare", scans, prepared, "--field-of-view", 1.25, "-q")
    assert "expected a factor of at least 1" in shell.refused("prepare", scans, prepared, "--field-of-view", 0.5)
    assert "'poisson' picks points of a grid" in shell.refused("train", prepared, "--out", run, "-q")
    size = ("--blocks", 1, "--units", 3)
    shell("train", prepared, "--out", run, "--mask", "shots", "--acceleration", 3, *size, "-q")
    shell("evaluate", run, "--data", prepared, "--no-baselines", "-q")
    assert (run / "figures" / "reconstructions_1.png").exists()
    said = shell("reconstruct", run, scans / "knee_001.h5", "--out", tmp_path / "images.h5", "-q")
    assert "R = 3.00 (undersampled here as in training)" in said
    assert "without a trajectory" in shell.refused("simulate", tmp_path / "x", "--shots", 9)
    assert "decides what is scanned" in shell.refused(
        "simulate", tmp_path / "x", "--trajectory", "radial", "--vary-size"
    )
