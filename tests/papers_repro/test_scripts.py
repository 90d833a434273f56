"""One script from end to end at its tiny size, its resumption, and the page that is made of it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from claims import COLUMNS
from page import write_page
from results import read_paper

from convexrecon.errors import InputError

ROOT = Path(__file__).resolve().parents[2]


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A script by its path, as a user runs it."""
    command = [sys.executable, str(ROOT / "papers_repro" / script), *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_a_script_writes_table_figures_and_page_and_resumes(tmp_path: Path) -> None:
    folder = tmp_path / "mel"
    first = run("mel2021.py", "--out", str(folder), "--tiny")
    assert first.returncode == 0, first.stderr
    table = (folder / "table.md").read_text()
    header = next(line for line in table.splitlines() if line.startswith("| claim"))
    assert [cell.strip() for cell in header.strip("|").split("|")] == list(COLUMNS)
    paper = read_paper(folder)
    assert len(paper.claims) == 6
    assert all((folder / figure.file).read_bytes().startswith(b"\x89PNG") for figure in paper.figures)

    made = {path: path.stat().st_mtime_ns for path in folder.glob("cells/*.json")}
    weights = {path: path.stat().st_mtime_ns for path in folder.glob("runs/*/*/weights.safetensors")}
    assert made
    assert weights
    second = run("mel2021.py", "--out", str(folder), "--tiny")
    assert second.returncode == 0, second.stderr
    assert (folder / "table.md").read_text() == table
    assert {path: path.stat().st_mtime_ns for path in made} == made
    assert {path: path.stat().st_mtime_ns for path in weights} == weights

    write_page({folder: paper}, tmp_path / "index.html")
    page = (tmp_path / "index.html").read_text()
    assert page.count("data:image/png;base64") == len(paper.figures)
    assert "http" not in page.replace("http-equiv", "")
    for claim in paper.claims:
        assert (claim.sentence() != "") == (claim.verdict == "no")
    assert "Not borne out" in page


def test_a_script_tells_what_is_wrong_in_a_line(tmp_path: Path) -> None:
    found = run("blockwise2022.py", "--out", str(tmp_path / "out"), "--data", "fastmri", str(tmp_path))
    assert found.returncode == 1
    assert found.stderr.splitlines() == [
        "error: --data fastmri: its scans are of two axes; expected --data mridata FOLDER, of volumes"
    ]


def test_an_unfinished_folder_has_no_page(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="came to its end"):
        read_paper(tmp_path)
