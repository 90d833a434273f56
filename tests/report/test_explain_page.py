"""What the page's script is given: pixels of the shown part, a scale, rows as bytes."""

import base64
from pathlib import Path

import numpy as np
import pytest
import torch
from cascades import cascade, measurement

from convexrecon.interpret.explanation import explainer
from convexrecon.report.explain_page import ROW_RANGE, page_data, write_explanation


def test_pixels_are_counted_from_the_corner_of_what_is_shown(tmp_path: Path) -> None:
    asked = explainer(cascade(("gated",)), *measurement())
    found = [asked.explain((8, 7)), asked.explain((10, 4))]
    crop = slice(4, 16), slice(2, 12)
    data = page_data(asked, found, crop)
    assert data["shape"] == [12, 10]
    assert [pixel["at"] for pixel in data["pixels"]] == [[4, 5], [6, 2]]
    assert set(data["images"]) == {"reconstruction", "initial image"}
    row = np.frombuffer(base64.b64decode(data["pixels"][0]["row"]), np.uint8).reshape(-1, data["row_columns"])
    assert row.shape == (12, 10)
    weights = found[0].row.abs()[crop] / found[0].row.abs().max()
    expected = (255 * (1 + 20 * weights.clamp_min(1e-3).log10() / ROW_RANGE)).round()
    assert torch.equal(torch.from_numpy(row.astype(float)), expected)
    write_explanation(tmp_path / "p.html", asked, found, title="a </script> title", spacing=(1.0, 0.5), crop=crop)
    text = (tmp_path / "p.html").read_text()
    assert '"spacing":[1.0,0.5]' in text
    assert text.count("</script>") == 2


def test_large_rows_are_pooled_and_keep_their_peaks() -> None:
    asked = explainer(cascade(("gated",), step="none"), *measurement((150, 140), 1))
    found = asked.explain((77, 60))
    data = page_data(asked, [found], (slice(None), slice(None)))
    row = np.frombuffer(base64.b64decode(data["pixels"][0]["row"]), np.uint8).reshape(-1, data["row_columns"])
    assert row.shape == (75, 70)
    assert row[38, 30] == row.max() == 255
    assert data["pixels"][0]["near"] == pytest.approx(1)  # a single block of 3 x 3 sees no further
