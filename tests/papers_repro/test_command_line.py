"""The command line: data kinds, sizes, refusals."""

from pathlib import Path

import pytest
from command_line import Given, parsed, script_parser

from convexrecon.errors import InputError


def given(*arguments: str) -> Given:
    """Parsed with an output folder."""
    return parsed(script_parser(None), ["--out", "somewhere", *arguments])


def test_sizes_follow_the_data(tmp_path: Path) -> None:
    assert (given().size, given().seeds) == ("synthetic", 3)
    assert (given("--tiny").size, given("--tiny").seeds) == ("tiny", 1)
    real = given("--data", "fastmri", str(tmp_path))
    assert (real.size, real.path) == ("full", tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--data", "nifti"), "expected one of synthetic, fastmri, mridata, found 'nifti'"),
        (("--data", "fastmri"), "expected one folder"),
        (("--data", "synthetic", "x"), "expected no path"),
        (("--data", "mridata", "/nowhere"), "/nowhere is not a folder"),
        (("--seeds", "0"), "expected at least 1"),
    ],
)
def test_refusals(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        given(*arguments)


def test_tiny_is_not_for_real_data(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--tiny"):
        given("--tiny", "--data", "fastmri", str(tmp_path))
