"""Claims: verdicts by the stated rule, sentences from the numbers, the table and its way to disk and back."""

import csv
import json
from pathlib import Path

import pytest
from claims import Claim, Rule, claims_markdown, from_json, to_json, write_claims_csv

from convexrecon.errors import InputError


def claim(values: tuple[float, ...], rule: Rule) -> Claim:
    """A gap in dB."""
    return Claim("the gap", "0.3 dB", "the text", values, "dB", ".2f", "small", rule)


@pytest.mark.parametrize(
    ("values", "rule", "verdict"),
    [
        ((0.2,), Rule("at most", 0.3), "yes"),
        ((0.4,), Rule("at most", 0.3), "no"),
        ((0.4,), Rule("at least", 0.3), "yes"),
        ((0.1, 0.1, 0.1), Rule("at least", 0.3), "no"),
        # The mean is less than two standard errors from the limit, on either side of it.
        ((0.1, 0.4, 0.7), Rule("at most", 0.3), "undecided"),
        ((0.1, 0.4, 0.7), Rule("at least", 0.3), "undecided"),
        ((0.39, 0.4, 0.41), Rule("at most", 0.3), "no"),
        ((), Rule("not comparable", reason="not installed"), "not comparable"),
    ],
)
def test_the_verdict_follows_the_rule(values: tuple[float, ...], rule: Rule, verdict: str) -> None:
    assert claim(values, rule).verdict == verdict


def test_what_is_not_borne_out_or_undecided_is_said_with_its_numbers() -> None:
    missed = claim((0.8, 1.0), Rule("at most", 0.3))
    assert missed.sentence() == (
        "Not borne out: the gap; published: 0.3 dB; ours: 0.90 dB, 0.60 dB above the limit of 0.30 dB."
    )
    assert claim((0.1,), Rule("at most", 0.3)).sentence() == ""
    assert claim((0.1, 0.4, 0.7), Rule("at most", 0.3)).sentence() == (
        "Undecided: the gap; published: 0.3 dB; ours: 0.40 dB ± 0.30, 0.10 to 0.70, 3 values, "
        "around the limit of 0.30 dB."
    )
    assert missed.row()["spread"] == "± 0.14, 0.80 to 1.00, 2 values"
    assert "two standard errors" in missed.row()["rule"]


def test_the_table_has_every_claim_and_a_sentence_for_those_missed(tmp_path: Path) -> None:
    claims = [claim((0.2,), Rule("at most", 0.3)), claim((0.9,), Rule("at most", 0.3))]
    text = claims_markdown(claims)
    assert text.count("\n| the gap") == 2
    assert text.count("Not borne out") == 1
    write_claims_csv(tmp_path / "table.csv", claims)
    with open(tmp_path / "table.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["borne out"] for row in rows] == ["yes", "no"]
    assert rows[0]["values"] == "0.2"


def test_claims_survive_json() -> None:
    for one in (claim((0.2, 0.3), Rule("at most", 0.3)), claim((), Rule("not comparable", reason="why"))):
        again = from_json(json.loads(json.dumps(to_json(one), allow_nan=False)))
        assert (again.row(), again.ours) == (one.row(), one.ours)


def test_refusals() -> None:
    with pytest.raises(InputError, match="expects a reason"):
        Rule("not comparable")
    with pytest.raises(InputError, match="expects a finite limit"):
        Rule("at most")
    with pytest.raises(InputError, match="finite values"):
        claim((float("nan"),), Rule("at most", 0.3))
    with pytest.raises(InputError, match="found none"):
        claim((), Rule("at most", 0.3))
