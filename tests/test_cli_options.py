import pytest

from convexrecon.cli_options import counters_named
from convexrecon.errors import InputError


def test_counters_are_named_once_with_their_value() -> None:
    assert counters_named(None) == {}
    assert counters_named(["contrast=0", "slice=12"]) == {"contrast": 0, "slice": 12}


@pytest.mark.parametrize("texts", [["contrast"], ["contrast=x"], ["slice=-1"], ["slice=0", "slice=1"]])
def test_anything_else_is_refused(texts: list[str]) -> None:
    with pytest.raises(InputError, match=rf"--select: .* found '{texts[-1]}'"):
        counters_named(texts)
