"""What a paper claims, what we measured, and by which stated rule the one bears out the other."""

import csv
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, stdev
from typing import Any, Literal

from convexrecon.atomic_write import atomic_path
from convexrecon.errors import InputError
from convexrecon.evaluate.tables import markdown_rows

Kind = Literal["at most", "at least", "not comparable"]
Verdict = Literal["yes", "no", "undecided", "not comparable"]

COLUMNS = ("claim", "published", "source", "ours", "spread", "setting", "borne out", "rule")


@dataclass(frozen=True)
class Rule:
    """When a claim is borne out: our mean is on the right side of a limit; undecided within two standard errors of it.

    Attributes:
        kind: "at most" or "at least" the limit; "not comparable" where a number beside a number would mislead.
        limit: in the claim's unit.
        reason: why this limit, or why not comparable.
    """

    kind: Kind
    limit: float = math.nan
    reason: str = ""

    def __post_init__(self) -> None:
        if self.kind == "not comparable" and not self.reason:
            raise InputError("rule: 'not comparable' expects a reason, found none")
        if self.kind != "not comparable" and not math.isfinite(self.limit):
            raise InputError(f"rule: {self.kind!r} expects a finite limit, found {self.limit}")


@dataclass(frozen=True)
class Claim:
    """One claim beside our measurement.

    Attributes:
        claim: what is said, as a noun phrase that "is" follows.
        published: the value as published, with its unit.
        source: where it was read, in words.
        ours: measured values, one a seed; empty where nothing could be measured.
        unit: of ours, "" for none.
        digits: format of ours, as ".2f".
        setting: what ours were measured on.
        rule: when it is borne out.
    """

    claim: str
    published: str
    source: str
    ours: tuple[float, ...]
    unit: str
    digits: str
    setting: str
    rule: Rule

    def __post_init__(self) -> None:
        if any(not math.isfinite(value) for value in self.ours):
            raise InputError(f"claim {self.claim!r}: expected finite values, found {self.ours}")
        if not self.ours and self.rule.kind != "not comparable":
            raise InputError(f"claim {self.claim!r}: expected values to compare by {self.rule.kind!r}, found none")

    @property
    def mean(self) -> float:
        """Of ours."""
        return fmean(self.ours)

    @property
    def standard_error(self) -> float:
        """Of the mean over seeds; 0 for a single value."""
        return stdev(self.ours) / math.sqrt(len(self.ours)) if len(self.ours) > 1 else 0.0

    @property
    def verdict(self) -> Verdict:
        """By the rule.

        >>> Claim("gap", "0.3 dB", "text", (0.1, 0.1), "dB", ".2f", "small", Rule("at most", 0.3)).verdict
        'yes'
        >>> Claim("gap", "0.3 dB", "text", (0.2, 0.5), "dB", ".2f", "small", Rule("at most", 0.3)).verdict
        'undecided'
        >>> Claim("gap", "0.3 dB", "text", (0.9, 1.0), "dB", ".2f", "small", Rule("at most", 0.3)).verdict
        'no'
        """
        if self.rule.kind == "not comparable":
            return "not comparable"
        if abs(self.mean - self.rule.limit) < 2 * self.standard_error:
            return "undecided"
        met = self.mean <= self.rule.limit if self.rule.kind == "at most" else self.mean >= self.rule.limit
        return "yes" if met else "no"

    def row(self) -> dict[str, str]:
        """The cells of the table by column."""
        return {
            "claim": self.claim,
            "published": self.published,
            "source": self.source,
            "ours": self._printed(self.mean) if self.ours else "–",
            "spread": self._spread(),
            "setting": self.setting,
            "borne out": self.verdict,
            "rule": self.stated_rule(),
        }

    def stated_rule(self) -> str:
        """The rule in words."""
        if self.rule.kind == "not comparable":
            return self.rule.reason
        because = f" ({self.rule.reason})" if self.rule.reason else ""
        seeds = ", undecided within two standard errors of it" if len(self.ours) > 1 else ""
        return f"{self.rule.kind} {self._printed(self.rule.limit)}{seeds}{because}"

    def sentence(self) -> str:
        """What a reader is told of a claim that is not borne out or undecided; empty for the others."""
        if self.verdict == "undecided":
            return (
                f"Undecided: {self.claim}; published: {self.published}; ours: {self._printed(self.mean)} "
                f"{self._spread()}, around the limit of {self._printed(self.rule.limit)}."
            )
        if self.verdict != "no":
            return ""
        off, limit = self._printed(abs(self.mean - self.rule.limit)), self._printed(self.rule.limit)
        return (
            f"Not borne out: {self.claim}; published: {self.published}; ours: {self._printed(self.mean)}, "
            f"{off} {'above' if self.rule.kind == 'at most' else 'below'} the limit of {limit}."
        )

    def _spread(self) -> str:
        if len(self.ours) < 2:
            return "one value" if self.ours else "–"
        low, high = min(self.ours), max(self.ours)
        return (
            f"± {self._number(stdev(self.ours))}, {self._number(low)} to {self._number(high)}, {len(self.ours)} values"
        )

    def _printed(self, value: float) -> str:
        return f"{self._number(value)} {self.unit}".rstrip()

    def _number(self, value: float) -> str:
        text = format(value, self.digits)
        return text[1:] if text.startswith("-") and float(text) == 0 else text


def to_json(claim: Claim) -> dict[str, Any]:
    """JSON-able, for `from_json`; a limit that is not a number is left out."""
    entry = asdict(claim)
    if not math.isfinite(claim.rule.limit):
        del entry["rule"]["limit"]
    return entry


def from_json(entry: dict[str, Any]) -> Claim:
    """What `to_json` gave."""
    return Claim(**entry | {"ours": tuple(entry["ours"]), "rule": Rule(**entry["rule"])})


def claims_markdown(claims: Sequence[Claim]) -> str:
    """The table, and below it a sentence for every claim that is not borne out."""
    rows = [list(COLUMNS), *([claim.row()[column] for column in COLUMNS] for claim in claims)]
    sentences = [f"- {sentence}" for claim in claims if (sentence := claim.sentence())]
    return "\n".join([*markdown_rows(rows), *([""] if sentences else []), *sentences, ""])


def write_claims_csv(path: str | os.PathLike[str], claims: Sequence[Claim]) -> None:
    """The table as CSV, atomically, with all values in full precision in a last column."""
    with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*COLUMNS, "values"])
        writer.writeheader()
        writer.writerows({**claim.row(), "values": " ".join(map(repr, claim.ours))} for claim in claims)
