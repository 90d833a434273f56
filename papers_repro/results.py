"""What the script of a paper leaves: table.md, table.csv, figures, and page.json to assemble them from."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from claims import Claim, claims_markdown, from_json, to_json, write_claims_csv

from convexrecon.atomic_write import atomic_path, write_text
from convexrecon.errors import InputError
from convexrecon.report.html import FIGURE_DPI, Picture

PAGE = "page.json"


@dataclass(frozen=True)
class StoredFigure:
    """A figure on disk: its file in the paper's folder, the width it was drawn for in inches, and its caption."""

    file: str
    inches: float
    caption: str


@dataclass(frozen=True)
class Paper:
    """All that one script found.

    Attributes:
        title: a heading.
        citation: of the paper.
        command: that reproduces it.
        notes: paragraphs: what was measured, and how.
        claims: of the paper, with ours beside.
        figures: in order.
    """

    title: str
    citation: str
    command: str
    notes: tuple[str, ...]
    claims: tuple[Claim, ...]
    figures: tuple[StoredFigure, ...]


def write_paper(
    folder: Path,
    *,
    title: str,
    citation: str,
    command: str,
    notes: Sequence[str],
    claims: Sequence[Claim],
    figures: dict[str, Picture],
) -> Paper:
    """Write table and figures (name -> picture, ``figures/name.png``) into the folder of a paper; what it holds."""
    stored = []
    for name, picture in figures.items():
        with atomic_path(folder / "figures" / f"{name}.png") as temporary:
            picture.figure.savefig(temporary, format="png", dpi=FIGURE_DPI)
        stored.append(StoredFigure(f"figures/{name}.png", float(picture.figure.get_figwidth()), picture.caption))
    paper = Paper(title, citation, command, tuple(notes), tuple(claims), tuple(stored))
    head = [f"# {title}", "", citation, "", f"`{command}`", "", *(f"{note}\n" for note in notes)]
    write_text(folder / "table.md", "\n".join([*head, claims_markdown(claims)]))
    write_claims_csv(folder / "table.csv", claims)
    entry: dict[str, Any] = asdict(paper) | {"claims": [to_json(claim) for claim in claims]}
    write_text(folder / PAGE, json.dumps(entry, indent=1) + "\n")
    return paper


def read_paper(folder: Path) -> Paper:
    """What `write_paper` wrote.

    Raises:
        InputError: the script of that folder has not come to its end.
    """
    path = folder / PAGE
    if not path.is_file():
        raise InputError(f"{folder}: no {PAGE}; expected the folder of a script that came to its end")
    entry = json.loads(path.read_text(encoding="utf-8"))
    return Paper(
        entry["title"],
        entry["citation"],
        entry["command"],
        tuple(entry["notes"]),
        tuple(from_json(claim) for claim in entry["claims"]),
        tuple(StoredFigure(**figure) for figure in entry["figures"]),
    )
