"""One page of all papers: what is borne out and what is not, then table and figures of each.

    python papers_repro/page.py FOLDER [FOLDER ...] --out repro/index.html

The folders are those that the scripts wrote.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from claims import COLUMNS
from command_line import run_script
from results import Paper, read_paper

from convexrecon.atomic_write import write_text
from convexrecon.report.html import Section, StoredPicture, definitions, render_report, rows_table, wrapped_table

VERDICTS = ("yes", "no", "undecided", "not comparable")
INTRODUCTION = (
    "Every claim below was taken from the paper named, or from what the paper's authors released; beside it stands "
    "what this library measured. A claim is borne out if our mean meets the rule stated in its row, and undecided "
    "where the seeds do not tell. Synthetic data of small size say whether a claim holds in kind; the papers' own "
    "figures are for their own data, which --data fastmri and --data mridata take at full settings."
)


def write_page(papers: dict[Path, Paper], out: Path) -> None:
    """Write the page, its pictures inside it.

    Args:
        papers: by the folder that a script wrote.
        out: the .html file.
    """
    sections = [_overview(list(papers.values()))]
    sections += [_section(folder, paper) for folder, paper in papers.items()]
    write_text(out, render_report("Published claims, and what was measured here", sections))


def _overview(papers: Sequence[Paper]) -> Section:
    rows = []
    for paper in papers:
        counts = [sum(claim.verdict == verdict for claim in paper.claims) for verdict in VERDICTS]
        rows.append([paper.title, *map(str, counts)])
    totals = [str(sum(int(row[1 + column]) for row in rows)) for column in range(len(VERDICTS))]
    table = rows_table(
        ["paper", "borne out", "not borne out", "undecided", "not comparable"], [*rows, ["all", *totals]]
    )
    return Section("What is borne out", [INTRODUCTION], [table])


def _section(folder: Path, paper: Paper) -> Section:
    rows = [[claim.row()[column] for column in COLUMNS] for claim in paper.claims]
    missed = [claim.sentence() for claim in paper.claims if claim.sentence()]
    tables = [wrapped_table(COLUMNS, rows, emphasized=COLUMNS.index("borne out"))]
    pictures = [
        StoredPicture((folder / figure.file).read_bytes(), round(96 * figure.inches), figure.caption)
        for figure in paper.figures
    ]
    return Section(
        paper.title,
        [paper.citation, f"Reproduce: {paper.command}", *paper.notes],
        [*tables, definitions(missed)] if missed else tables,
        pictures,
    )


def main() -> None:
    """Read the folders, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    papers = {folder: read_paper(folder) for folder in given.folders}
    write_page(papers, given.out)
    print(given.out)


if __name__ == "__main__":
    run_script(main)
