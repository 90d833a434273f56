import base64
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from convexrecon.report.html import Picture, Section, render_report, rows_table, settings_table, write_report


class _Page(HTMLParser):
    """Collects text, tags and image sources; fails on a tag that closes another than the last opened."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.images: list[dict[str, Any]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        if tag == "img":
            self.images.append(dict(attrs))
        if tag not in ("img", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def _parse(page: str) -> Any:
    parser = _Page()
    parser.feed(page)
    assert parser.open == []
    return parser


def _figure() -> Any:
    figure = Figure(figsize=(2, 1))
    figure.subplots().plot([1, 2])
    return figure


def test_the_page_is_self_contained(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "report.html"
    write_report(path, "title", [Section("pictures", pictures=[Picture(_figure(), "a line")])], subtitle="sub")
    page = _parse(path.read_text(encoding="utf-8"))
    (image,) = page.images
    assert image["alt"] == "a line"
    kind, data = image["src"].split(",", 1)
    assert kind == "data:image/png;base64"
    assert base64.b64decode(data).startswith(b"\x89PNG")
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert not re.search(r"https?://", path.read_text())
    assert [entry.name for entry in path.parent.iterdir()] == ["report.html"]


def test_text_is_escaped_everywhere() -> None:
    evil = '<script>"x" & y</script>'
    sections = [
        Section(
            evil,
            [evil],
            [rows_table([evil], [[evil]]), settings_table({evil: evil})],
            [Picture(_figure(), evil)],
        )
    ]
    page = _parse(render_report(evil, sections, subtitle=evil))
    assert "script" not in page.tags
    # title, heading, subtitle, section, paragraph, two and two cells, caption
    assert sum(evil in text for text in page.text) == 10
    assert page.images[0]["alt"] == evil


def test_tables_keep_their_rows() -> None:
    page = _parse(rows_table(["run", "seconds"], [["convex", "1.5"], ["other", "2"]]))
    assert page.tags.count("tr") == 3
    assert page.text == ["run", "seconds", "convex", "1.5", "other", "2"]


def test_the_same_content_gives_the_same_page() -> None:
    pages = [render_report("t", [Section("s", ["p"], [], [Picture(_figure(), "c")])]) for _ in range(2)]
    assert pages[0] == pages[1]
