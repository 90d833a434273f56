"""The command that explains a pixel, and its page in a real browser."""

import base64
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from convexrecon.cli import main
from convexrecon.errors import InputError
from convexrecon.reconstruct import reconstruct_file
from convexrecon.report.pixel_page import PixelPage, explain_pixel
from convexrecon.scan_sample import pixel_size, sample_of_file
from convexrecon.training.config import RunSettings
from convexrecon.training.train import train
from convexrecon.weights import load_cascade

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PIXEL = (20, 17)


@pytest.fixture(scope="module")
def run(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A convex run of two small blocks."""
    folder = tmp_path_factory.mktemp("explain") / "run"
    settings = RunSettings(validation_fraction=0.34)
    mask = replace(settings.mask, acceleration=3.0, calibration=10)
    model = replace(settings.model, blocks=2, kernel=3, units=4)
    train(replace(settings, mask=mask, model=model), prepared, folder, progress=False)
    return folder


@pytest.fixture(scope="module")
def scan(scans: Path) -> Path:
    """A fully sampled scan."""
    return sorted(scans.glob("*.h5"))[0]


@pytest.fixture(scope="module")
def page(run: Path, scan: Path) -> PixelPage:
    """The page of one pixel and at most twelve others."""
    return explain_pixel(run, scan, run / "pixel.html", slice_index=1, pixel=PIXEL, grid=12, progress=False)


def data_of(page: Path) -> dict[str, object]:
    found = re.search(r"<script type='application/json' id='explain-data'>(.*?)</script>", page.read_text(), re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: object
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["convexrecon", "explain", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        main()
    printed = capsys.readouterr()
    return int(stop.value.code or 0), printed.out, printed.err


def test_it_explains_what_reconstruct_writes(run: Path, scan: Path, page: PixelPage, tmp_path: Path) -> None:
    reconstruct_file(run, scan, tmp_path / "r.h5", progress=False)
    batch, reference = sample_of_file(run, scan, 1)
    assert reference is not None
    with h5py.File(tmp_path / "r.h5") as file:
        written = complex(file["reconstruction_complex"][1][PIXEL]) / float(batch.scale)
        target = complex(file["target_complex"][1][PIXEL]) / float(batch.scale)
        peak = np.abs(file["target_complex"][1]).max() / float(batch.scale)
    assert page.explanation.values[-1] == pytest.approx(written, abs=1e-5)
    assert page.explanation.reference == pytest.approx(target, abs=1e-5)
    assert page.error == pytest.approx(100 * abs(written - target) / peak, rel=1e-3)


def test_its_numbers_add_up(run: Path, page: PixelPage) -> None:
    found = page.explanation
    assert len(found.blocks) == len(load_cascade(run / "weights.safetensors")[0]) == 2
    for number, read in enumerate(found.blocks):
        denoised = found.values[2 * number + 1]
        total = read.contributions.flatten(1).sum(1) + read.constant + read.skip
        assert total.tolist() == pytest.approx([denoised.real, denoised.imag], abs=1e-5)


def test_the_page_holds_all_it_shows(page: PixelPage, scan: Path) -> None:
    text = page.out.read_text()
    assert not re.search(r"""(?:src|href)\s*=\s*["']?(?:https?:|/)""", text)
    data = data_of(page.out)
    pixels = data["pixels"]
    assert isinstance(pixels, list)
    assert pixels[0]["at"] == list(PIXEL)
    assert 2 < len(pixels) == page.pixels <= 13
    taps = pixels[0]["blocks"][0]["taps"]
    unpacked = np.frombuffer(base64.b64decode(taps["data"]), "<i2") * taps["scale"]
    read = page.explanation.blocks[0]
    assert unpacked == pytest.approx(read.taps.flatten().numpy(), abs=taps["scale"])
    assert read.gates is not None
    assert pixels[0]["blocks"][0]["gates"] == "".join(str(int(gate)) for gate in read.gates)
    assert len(text) < 1e6
    assert data["spacing"] == pixel_size(scan)  # simulated scans state none


def test_prepared_volumes_are_explained_too(run: Path, scan: Path, prepared: Path, tmp_path: Path) -> None:
    found = explain_pixel(
        run, prepared / scan.name, tmp_path / "p.html", slice_index=0, pixel=PIXEL, grid=0, progress=False
    )
    assert found.pixels == 1
    assert found.error is not None
    assert data_of(found.out)["spacing"] is None
    with pytest.raises(InputError, match="no slice 2; expected 0 to 1"):
        sample_of_file(run, prepared / scan.name, 2)


def test_undersampled_scans_have_no_error(run: Path, scan: Path, tmp_path: Path) -> None:
    shutil.copy(scan, tmp_path / scan.name)
    columns = torch.rand(40, generator=torch.Generator().manual_seed(0)).numpy() > 0.5
    columns[14:26] = True
    with h5py.File(tmp_path / scan.name, "r+") as file:
        file["kspace"][...] = file["kspace"][()] * columns
    found = explain_pixel(
        run, tmp_path / scan.name, tmp_path / "u.html", slice_index=0, pixel=PIXEL, grid=0, progress=False
    )
    assert found.error is None
    assert found.explanation.reference is None
    assert "reference" not in str(data_of(found.out)["images"])


def test_the_command_says_what_it_found(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], run: Path, scan: Path, tmp_path: Path
) -> None:
    words = [run, scan, "--slice", 1, "--pixel", "20,17", "--out", tmp_path / "a.html", "--grid", 0]
    status, out, err = command(monkeypatch, capsys, *words, "-q")
    assert status == 0, err
    assert "block 2: " in out
    assert "of 4 gates fire" in out
    status, out, _ = command(monkeypatch, capsys, *words, "--json")
    assert json.loads(out)["pixel"] == [20, 17]
    assert len(json.loads(out)["values"]) == 5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--slice", 9, "--pixel", "3,3"), "no slice 9; expected 0 to 1"),
        (("--slice", 0, "--pixel", "48,3"), "pixel: expected y,x of 0 to 47, 0 to 39"),
        (("--slice", 0, "--pixel", "-1,3"), "pixel: expected y,x"),
        (("--slice", 0, "--pixel", "middle"), "--pixel: expected y,x as in 40,52, found 'middle'"),
        (("--slice", 0, "--pixel", "3,3", "--grid", -1), "grid: expected a number of pixels"),
    ],
)
def test_what_is_not_there_is_refused(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    run: Path,
    scan: Path,
    words: tuple[object, ...],
    message: str,
) -> None:
    status, _, err = command(monkeypatch, capsys, run, scan, *words, "-q")
    assert status == 2
    assert message in err
    status, _, err = command(monkeypatch, capsys, scan.parent, scan, "--slice", 0, "--pixel", "3,3", "-q")
    assert status == 2
    assert "not a run folder" in err


@pytest.mark.skipif(BROWSER is None, reason="no browser is installed")
def test_in_a_browser_an_address_or_a_click_chooses_a_pixel(page: PixelPage, tmp_path: Path) -> None:
    pixels = data_of(page.out)["pixels"]
    assert isinstance(pixels, list)
    wanted = pixels[-1]
    y, x = wanted["at"]
    text = in_browser(page.out, f"#pixel={y},{x}", tmp_path)
    assert f'data-pixel="{y},{x}"' in text
    assert f"pixel y = {y}, x = {x}" in text
    # What the script unpacked and added up stands in the page.
    assert f"{wanted['values'][-1][0]:.4f}".replace("-", "−") in text
    assert text.count("<h3>Block") == 2
    assert text.count("<canvas") > 2 + 2 * 9
    other = pixels[1]["at"]
    click = f"""<script>
      const image = document.getElementById("explain-image");
      document.body.dataset.first = document.body.dataset.pixel;
      setTimeout(() => {{
        const box = image.getBoundingClientRect();
        const at = {{clientX: box.left + box.width * {(other[1] + 0.5) / 40},
                     clientY: box.top + box.height * {(other[0] + 0.5) / 48}}};
        image.dispatchEvent(new MouseEvent("click", at));
      }}, 300);
    </script></body>"""
    clicked = tmp_path / "clicked.html"
    clicked.write_text(page.out.read_text().replace("</body>", click))
    text = in_browser(clicked, "", tmp_path)
    assert f'data-first="{PIXEL[0]},{PIXEL[1]}"' in text
    assert f'data-pixel="{other[0]},{other[1]}"' in text


def in_browser(page: Path, fragment: str, folder: Path) -> str:
    """The page as a browser has it after its scripts ran."""
    assert BROWSER is not None
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
    done = subprocess.run(
        [BROWSER, *options, "--virtual-time-budget=3000", "--dump-dom", f"{page.as_uri()}{fragment}"],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return done.stdout
