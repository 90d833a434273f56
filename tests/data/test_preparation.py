"""Preparation: what a prepared volume holds, what is done again, what is refused, what a failure leaves."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
import tracemalloc
from dataclasses import asdict
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor

from convexrecon.data import preparation
from convexrecon.data.fastmri_writing import ismrmrd_header, write_scan
from convexrecon.data.preparation import (
    PREPARED_FORMAT,
    PreparationSettings,
    crop_oversampling,
    is_prepared,
    prepare,
    prepare_slice,
)
from convexrecon.errors import InputError
from convexrecon.physics.fourier import centred_fft, centred_ifft, crop_centre

WALSH = PreparationSettings(maps="walsh", calibration=8)


def coil_images(shape: tuple[int, int], coils: int, seed: int = 0) -> Tensor:
    """Coil images (C, y, x) of an ellipse with some structure, under smooth coils, with noise."""
    rng = np.random.default_rng(seed)
    y, x = np.meshgrid(*(np.linspace(-1, 1, n, endpoint=False) for n in shape), indexing="ij")
    image = ((y / 0.4) ** 2 + (x / 0.7) ** 2 < 1) * (1 + 0.3 * np.sin(7 * x + 5 * y + seed)) * np.exp(0.8j * y)
    angles = 2 * np.pi * (np.arange(coils) + 0.2) / coils
    maps = [np.exp(-((y - np.sin(a)) ** 2) - (x - np.cos(a)) ** 2 + 1j * (a + x * np.sin(a))) for a in angles]
    noise = rng.standard_normal((coils, *shape, 2)) * 0.003
    return torch.from_numpy(np.array(maps) * image + noise[..., 0] + 1j * noise[..., 1]).to(torch.complex64)


def scan(
    path: Path,
    shape: tuple[int, int] = (40, 28),
    *,
    slices: int = 2,
    coils: int = 3,
    recon: tuple[int, int] | None = None,
    mask: Tensor | None = None,
    seed: int = 0,
) -> Path:
    """A scan file; `mask` sets samples to zero without being written."""
    images = torch.stack([coil_images(shape, coils, seed + 10 * index) for index in range(slices)])
    kspace = centred_fft(images, 2)
    if mask is not None:
        kspace = kspace * mask
    write_scan(path, kspace.numpy(), header=ismrmrd_header(shape, recon or shape))
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "scans"
    folder.mkdir()
    scan(folder / "a.h5")
    scan(folder / "b.h5", (33, 30), slices=1, coils=4, seed=1)
    return folder


def run(source: Path, out: Path, settings: PreparationSettings = WALSH) -> preparation.PreparationReport:
    return prepare(source, out, settings, progress=False)


def test_a_prepared_volume_holds_what_it_says(tmp_path: Path) -> None:
    path = scan(tmp_path / "in" / "v.h5", (64, 29), coils=4, recon=(31, 20))
    settings = PreparationSettings(calibration=14)
    report = run(path, tmp_path / "out", settings)
    assert report.prepared == ("v",)
    with h5py.File(path) as raw, h5py.File(tmp_path / "out" / "v.h5") as file:
        kspace, maps, target = (torch.from_numpy(file[name][()]) for name in ("kspace", "maps", "target"))
        assert {a.dtype for a in (kspace, maps, target)} == {torch.complex64}
        assert kspace.shape == maps.shape == (2, 4, 31, 29)
        assert file["kspace"].chunks == (1, 4, 31, 29)
        assert file.attrs["format"] == PREPARED_FORMAT
        assert {**json.loads(file.attrs["settings"]), "field_of_view": 1.0} == asdict(settings)
        assert file.attrs["source"] == "v.h5"
        assert file.attrs["recon_size"].tolist() == [31, 20]
        original = torch.from_numpy(raw["kspace"][()])
    images = crop_centre(centred_ifft(original, 2), (31, 29))
    torch.testing.assert_close(centred_ifft(kspace, 2), images, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(target, (maps.conj() * images).sum(1), atol=1e-5, rtol=1e-5)
    inside = images.abs().square().sum(1).sqrt() > 0.2
    torch.testing.assert_close(maps.abs().square().sum(1)[inside], torch.ones(int(inside.sum())), atol=1e-5, rtol=0)
    # With maps of unit norm that fit, the SENSE image has the magnitude of the root sum of squares.
    rss = torch.linalg.vector_norm(images, dim=1)
    assert float((target.abs() - rss)[inside].abs().mean() / rss[inside].mean()) < 0.01


@pytest.mark.parametrize(("rows", "wanted"), [(16, 9), (15, 8), (16, 16), (9, 20)])
def test_crop_oversampling_commutes_with_undersampled_columns(rows: int, wanted: int) -> None:
    kspace = torch.randn(3, rows, 7, dtype=torch.complex128, generator=torch.Generator().manual_seed(0))
    kspace[..., 1::3] = 0
    cropped = crop_oversampling(kspace, wanted)
    images = crop_centre(centred_ifft(kspace, 2), (wanted, 7))
    torch.testing.assert_close(centred_ifft(cropped, 2), images, atol=1e-12, rtol=0)
    assert bool((cropped[..., 1::3] == 0).all())


def test_second_run_does_only_what_is_missing(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = run(source, out)
    assert (first.prepared, first.skipped, first.renewed) == (("a", "b"), (), ())
    before = {p.name: p.stat().st_mtime_ns for p in out.iterdir()}
    again = run(source, out)
    assert (again.prepared, again.skipped) == ((), ("a", "b"))
    assert {p.name: p.stat().st_mtime_ns for p in out.iterdir()} == before
    (out / "a.h5").unlink()
    scan(source / "c.h5", seed=5)
    third = run(source, out)
    assert (third.prepared, third.skipped, third.renewed) == (("a", "c"), ("b",), ())


def test_other_settings_or_another_source_prepare_again(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(source, out)
    other = run(source, out, PreparationSettings(maps="walsh", calibration=10))
    assert (other.prepared, other.skipped, other.renewed) == (("a", "b"), (), ("a", "b"))
    scan(source / "b.h5", (33, 30), slices=1, coils=4, seed=77)  # as large as before
    os.utime(source / "b.h5", ns=(1, 1))
    changed = run(source, out, PreparationSettings(maps="walsh", calibration=10))
    assert (changed.prepared, changed.skipped, changed.renewed) == (("b",), ("a",), ("b",))


def test_a_single_file_may_be_prepared(source: Path, tmp_path: Path) -> None:
    assert run(source / "b.h5", tmp_path / "out").prepared == ("b",)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["b.h5"]


def test_borders_left_empty_are_accepted_and_one_dead_coil(tmp_path: Path) -> None:
    mask = torch.ones(3, 40, 28)
    mask[:, :, :3] = 0
    mask[:, :, -2:] = 0
    mask[1] = 0
    scan(tmp_path / "in" / "v.h5", mask=mask)
    assert run(tmp_path / "in", tmp_path / "out").prepared == ("v",)


def test_undersampled_scans_are_refused(tmp_path: Path) -> None:
    mask = torch.ones(28)
    mask[::4] = 0
    scan(tmp_path / "zeros" / "v.h5", mask=mask)
    with pytest.raises(InputError, match=r"v.h5: slice 0: k-space is undersampled \(2\d0 of 1120 samples"):
        run(tmp_path / "zeros", tmp_path / "out")
    kspace = centred_fft(coil_images((40, 28), 3)[None], 2).numpy()
    write_scan(tmp_path / "stated" / "v.h5", kspace, mask=mask.numpy())
    with pytest.raises(InputError, match=r"v.h5: its mask is undersampled"):
        run(tmp_path / "stated", tmp_path / "out")
    assert not any((tmp_path / "out").glob("*"))


@pytest.mark.parametrize("maps", ["espirit", "walsh"])
def test_an_empty_slice_is_refused_by_name(tmp_path: Path, maps: str) -> None:
    kspace = centred_fft(torch.stack([coil_images((40, 28), 3)] * 3), 2).numpy()
    kspace[1] = 0
    write_scan(tmp_path / "in" / "v.h5", kspace)
    with pytest.raises(InputError, match=r"v.h5: slice 1: .*zero"):
        run(tmp_path / "in", tmp_path / "out", PreparationSettings(maps, 8))  # type: ignore[arg-type]
    assert not any((tmp_path / "out").glob("*"))


def test_a_slice_without_any_sensitivity_is_refused_by_name(tmp_path: Path) -> None:
    """Noise in many coils has no eigenvalue near one."""
    kspace = torch.randn(2, 12, 48, 48, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    kspace[0] = centred_fft(coil_images((48, 48), 12), 2)
    write_scan(tmp_path / "in" / "v.h5", kspace.numpy())
    with pytest.raises(InputError, match=r"v.h5: slice 1: no pixel has a coil sensitivity.*espirit_crop, now 0.96"):
        run(tmp_path / "in", tmp_path / "out", PreparationSettings(espirit_crop=0.96))


def test_nan_and_a_corrupt_file_are_named_and_the_rest_stays(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(source, out)
    scan(source / "c.h5")
    with h5py.File(source / "c.h5", "r+") as file:
        file["kspace"][1, 0, 3, 4] = np.nan
    with pytest.raises(InputError, match=r"c.h5: .*slice 1.*NaN"):
        run(source, out)
    data = (source / "b.h5").read_bytes()
    (source / "c.h5").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"c.h5"):
        run(source, out)
    assert sorted(p.name for p in out.iterdir()) == ["a.h5", "b.h5"]


def test_calibration_larger_than_the_image_is_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a.h5: slice 0: calibration: region of 32 x 32 .* 40 x 28"):
        run(source, tmp_path / "out", PreparationSettings(calibration=32))


def test_output_that_is_not_ours_is_not_touched(source: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="folder of the scans"):
        run(source, source)
    with pytest.raises(InputError, match="folder of the scans"):
        run(source / "a.h5", source / ".." / "scans")
    with pytest.raises(InputError, match="is a file"):
        run(source, source / "a.h5")
    out = tmp_path / "out"
    scan(out / "b.h5", seed=3)
    before = (out / "b.h5").read_bytes()
    with pytest.raises(InputError, match=r"b.h5: is in the way"):
        run(source, out)
    assert (out / "b.h5").read_bytes() == before
    assert not (out / "a.h5").exists()


def test_nothing_to_prepare(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty"):
        run(tmp_path / "empty", tmp_path / "out")
    with pytest.raises(InputError, match="nowhere"):
        run(tmp_path / "nowhere", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_interrupted_run_leaves_nothing_half_written(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = preparation.prepare_slice, []

    def interrupted(*args: object, **kwargs: object) -> tuple[Tensor, Tensor, Tensor]:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(preparation, "prepare_slice", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(source, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
    monkeypatch.undo()
    assert run(source, tmp_path / "out").prepared == ("a", "b")


def test_a_killed_run_is_completed_by_the_next(source: Path, tmp_path: Path) -> None:
    for index in range(12):
        scan(source / f"m{index:02d}.h5", (64, 64), slices=3, coils=6)
    out = tmp_path / "out"
    code = f"from convexrecon.data.preparation import *; prepare({str(source)!r}, {str(out)!r}, PreparationSettings())"
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL, env=_environment())
    deadline = time.monotonic() + 60
    while not (out.exists() and len(list(out.glob("[!.]*"))) >= 1) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    leftover = out / ".m11.123.partial.h5"
    leftover.write_bytes(b"left by a killed run")
    done = {p.stem for p in out.glob("[!.]*")}
    assert all(is_prepared(out / f"{name}.h5") for name in done)
    report = run(source, out, PreparationSettings())
    assert set(report.skipped) >= {"a"}
    assert set(report.skipped) | set(report.prepared) == {p.stem for p in source.iterdir()}
    assert sorted(p.name for p in out.iterdir()) == sorted(p.name for p in source.iterdir())


def test_a_full_disk_is_told_and_leaves_no_file(source: Path, tmp_path: Path) -> None:
    """A limit on file size stands for a full disk: writes fail part way through the second volume."""
    scan(source / "b.h5", (128, 100), slices=4, coils=6)
    out = tmp_path / "out"
    code = (
        "import resource, sys\n"
        "from convexrecon.data.preparation import *\n"
        "from convexrecon.errors import InputError\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, {resource.RLIM_INFINITY}))\n"
        "settings = PreparationSettings(maps='walsh', calibration=8)\n"
        "try:\n"
        f"    prepare({str(source)!r}, {str(out)!r}, settings, progress=False)\n"
        "except (InputError, OSError) as error:\n"
        "    print(error)\n"
        "    sys.exit(7)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=_environment(), check=False)
    assert done.returncode == 7, done.stderr
    assert "b.h5" in done.stdout
    assert [p.name for p in out.iterdir()] == ["a.h5"]


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(preparation.__file__).parents[2]), "OMP_NUM_THREADS": "1"}


def test_memory_does_not_grow_with_slices(tmp_path: Path) -> None:
    peaks = []
    for slices in (3, 30):
        scan(tmp_path / f"in{slices}" / "v.h5", slices=slices, coils=4)
        tracemalloc.start()
        run(tmp_path / f"in{slices}", tmp_path / f"out{slices}")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 10 * 4 * 40 * 28 * 8


@pytest.mark.parametrize("columns", [6, 8, 11])
def test_maps_from_a_few_central_columns(columns: int) -> None:
    """As in a 1-D mask with a small centre fraction: the object is kept, and the maps fit."""
    images = coil_images((64, 60), 6)
    kspace = centred_fft(images, 2)
    mask = torch.zeros(60)
    mask[::3] = 1
    mask[30 - columns // 2 : 30 - columns // 2 + columns] = 1
    _, maps, _ = prepare_slice(kspace * mask, (64, 60), PreparationSettings(), calibration=(24, columns))
    residual = images - maps * (maps.conj() * images).sum(0)
    inside = torch.linalg.vector_norm(images, dim=0) > 0.2
    assert bool(maps.abs().sum(0)[inside].all())
    assert float(residual[:, inside].abs().square().sum() / images[:, inside].abs().square().sum()) < 0.01


def test_too_small_a_calibration_region_is_refused() -> None:
    kspace = centred_fft(coil_images((40, 28), 3), 2)
    with pytest.raises(InputError, match=r"centre is 24 x 3 \(y, x\) samples; expected at least 4 x 4"):
        prepare_slice(kspace, (40, 28), WALSH, calibration=(24, 3))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"maps": "jsense"}, "maps: found 'jsense'"),
        ({"calibration": 3}, "calibration"),
        ({"espirit_kernel": 0}, "espirit_kernel"),
        ({"espirit_threshold": -1.0}, "espirit_threshold"),
        ({"espirit_crop": 1.5}, "espirit_crop"),
    ],
)
def test_bad_settings_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        PreparationSettings(**arguments)
