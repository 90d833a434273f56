"""One self-contained HTML page: text, tables and figures, no script and no second file."""

import base64
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from matplotlib.figure import Figure

from convexrecon.atomic_write import atomic_path, write_text

FIGURE_DPI = 130

_STYLE = """
:root { color-scheme: light; }
body { margin: 0; background: #fff; color: #1c1c1c;
  font: 16px/1.55 system-ui, "Segoe UI", Helvetica, Arial, sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 2.5rem 1.5rem 4rem; }
h1 { font-size: 1.8rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.3rem; margin: 2.8rem 0 .6rem; padding-bottom: .25rem; border-bottom: 1px solid #ddd; }
p { max-width: 46rem; margin: .6rem 0; }
.subtitle { color: #555; margin-top: 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: 1rem 0 .5rem;
  font-variant-numeric: tabular-nums; font-size: .95rem; }
th, td { padding: .35rem .9rem .35rem 0; text-align: right; white-space: nowrap;
  border-bottom: 1px solid #eee; }
th:first-child, td:first-child { text-align: left; }
tbody th { font-weight: 500; }
thead th { border-bottom: 2px solid #999; font-weight: 600; }
td.best { font-weight: 700; }
table.wrapped { font-size: .88rem; }
table.wrapped th, table.wrapped td { text-align: left; vertical-align: top; white-space: normal; min-width: 5rem; }
table.settings td { text-align: left; white-space: normal; overflow-wrap: anywhere; }
ul.definitions { color: #555; font-size: .87rem; padding-left: 1.1rem; margin-top: .3rem; }
figure { margin: 1.4rem 0; }
figure img { max-width: 100%; height: auto; display: block; }
figcaption { color: #444; font-size: .92rem; max-width: 46rem; margin-top: .4rem; }
"""


@dataclass(frozen=True)
class Picture:
    """A figure and its caption; the caption is also the text for those who cannot see it."""

    figure: Figure
    caption: str


@dataclass(frozen=True)
class StoredPicture:
    """A PNG that was drawn before, the width to show it at in CSS pixels, and its caption."""

    png: bytes
    width: int
    caption: str


@dataclass(frozen=True)
class Animation:
    """A GIF that plays by itself, and its caption, which says what moves."""

    gif: bytes
    caption: str


@dataclass(frozen=True)
class Section:
    """A heading, then paragraphs, tables (ready HTML) and pictures. Title and paragraphs are escaped."""

    title: str
    paragraphs: Sequence[str] = ()
    tables: Sequence[str] = field(default=())
    pictures: Sequence[Picture | StoredPicture | Animation] = ()


def write_report(
    path: str | os.PathLike[str],
    title: str,
    sections: Sequence[Section],
    *,
    subtitle: str = "",
    figures: str | os.PathLike[str] | None = None,
) -> None:
    """Write the page to `path`, atomically, figures inside as PNG; and each also to the folder `figures`."""
    write_text(path, render_report(title, sections, subtitle=subtitle))
    if figures is None:
        return
    for section in sections:
        for number, picture in enumerate(section.pictures, 1):
            name = "_".join(section.title.lower().split())
            if isinstance(picture, Animation):
                with atomic_path(Path(figures) / f"{name}_{number}.gif") as temporary:
                    temporary.write_bytes(picture.gif)
                continue
            with atomic_path(Path(figures) / f"{name}_{number}.png") as temporary:
                if isinstance(picture, StoredPicture):
                    temporary.write_bytes(picture.png)
                    continue
                picture.figure.savefig(temporary, format="png", dpi=FIGURE_DPI)


def render_report(title: str, sections: Sequence[Section], *, subtitle: str = "") -> str:
    """The page as text.

    >>> "<h2>A &amp; B</h2>" in render_report("report", [Section("A & B", ["one paragraph"])])
    True
    """
    under = f'<p class="subtitle">{escape(subtitle)}</p>' if subtitle else ""
    body = "\n".join(_render(section) for section in sections)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>{escape(title)}</h1>\n{under}\n{body}\n</main>\n</body>\n</html>\n"
    )


def rows_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A plain HTML table of text cells, escaped; the first column is the name of the row."""
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    body = "".join(
        f"<tr><th>{escape(row[0])}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in row[1:])}</tr>" for row in rows
    )
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="scroll">{table}</div>'


def wrapped_table(headings: Sequence[str], rows: Sequence[Sequence[str]], *, emphasized: int | None = None) -> str:
    """A table of sentences, escaped, whose lines break; the column `emphasized` is set in bold."""
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    body = "".join(
        "<tr>"
        + "".join(
            f"<td{' class=best' if column == emphasized else ''}>{escape(cell)}</td>" for column, cell in enumerate(row)
        )
        + "</tr>"
        for row in rows
    )
    table = f'<table class="wrapped"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    return f'<div class="scroll">{table}</div>'


def definitions(lines: Sequence[str]) -> str:
    """A list in small print of what a table's columns mean, escaped."""
    return f'<ul class="definitions">{"".join(f"<li>{escape(line)}</li>" for line in lines)}</ul>'


def settings_table(settings: Mapping[str, str]) -> str:
    """Names and values, one a row, escaped."""
    body = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in settings.items())
    return f'<table class="settings"><tbody>{body}</tbody></table>'


def _render(section: Section) -> str:
    parts = [f"<section>\n<h2>{escape(section.title)}</h2>"]
    parts += [f"<p>{escape(paragraph)}</p>" for paragraph in section.paragraphs]
    parts += section.tables
    parts += [_render_picture(picture) for picture in section.pictures]
    return "\n".join([*parts, "</section>"])


def _render_picture(picture: Picture | StoredPicture | Animation) -> str:
    if isinstance(picture, Animation):
        data = base64.b64encode(picture.gif).decode("ascii")
        return (
            f'<figure><img alt="{escape(picture.caption)}" src="data:image/gif;base64,{data}">'
            f"<figcaption>{escape(picture.caption)}</figcaption></figure>"
        )
    # Shown at the size it was drawn for, so that text in figures is as large as text beside them.
    if isinstance(picture, StoredPicture):
        width, png = picture.width, base64.b64encode(picture.png).decode("ascii")
    else:
        width, png = round(picture.figure.get_figwidth() * 96), _png(picture.figure)
    return (
        f'<figure><img width="{width}" alt="{escape(picture.caption)}" src="data:image/png;base64,{png}">'
        f"<figcaption>{escape(picture.caption)}</figcaption></figure>"
    )


def _png(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=FIGURE_DPI)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
