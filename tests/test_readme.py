"""The README's Python examples run as they stand, and say what they promise."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
# What an example that calls one of these prints; the others print a certificate.
PROMISES = {"reconstruct_file": "PSNR", "pixel_filter": "is tensor("}
EXAMPLES = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


@pytest.mark.parametrize("index", range(len(EXAMPLES)))
def test_an_example_runs(index: int, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", EXAMPLES[index]], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    said = next((words for name, words in PROMISES.items() if name in EXAMPLES[index]), "relative_gap=")
    assert said in done.stdout
    assert len(EXAMPLES[index].strip().splitlines()) < 20
