"""Scans of every format: the same scan in each is prepared to the same file; what is no scan is refused."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from convexrecon.data.bart import to_bart, write_cfl
from convexrecon.data.fastmri import read_kspace, read_scan_info
from convexrecon.data.fastmri_writing import write_scan
from convexrecon.data.ismrmrd_writing import write_cartesian, write_samples
from convexrecon.data.preparation import PreparationSettings, prepare
from convexrecon.data.scan import Axis
from convexrecon.data.scans import find_scans, open_scan, scan_format
from convexrecon.data.simulation import simulate_dataset
from convexrecon.errors import InputError
from convexrecon.physics.fourier import centred_fft

SETTINGS = PreparationSettings(calibration=12)
FORMATS = ("fastmri", "ismrmrd", "bart")
# (z, y, x) of the simulated volume, all different.
SIZE = (10, 32, 36)


def simulated(folder: Path, layout: Any, **options: Any) -> Any:
    """K-space (slice, C, y, x) of one simulated file, as the scanner had it."""
    made = simulate_dataset(
        folder, volumes=1, size=SIZE[1:], coils=3, anatomy="head", layout=layout, progress=False, **options
    )
    return np.stack([read_kspace(made[0], index) for index in range(read_scan_info(made[0]).shape[0])])


def encoded(kspace: Any) -> Any:
    """A volume whose readout is transformed, (z, C, y, x), as fully three-dimensional k-space (C, z, y, x)."""
    last = torch.from_numpy(np.ascontiguousarray(np.moveaxis(kspace, 0, -1)))
    return np.moveaxis(centred_fft(last, 1).numpy(), -1, 1)


def write_3d(folder: Path, kind: str, kspace: Any) -> Path:
    """Fully three-dimensional k-space (C, z, y, x), readout z, in a format."""
    folder.mkdir(exist_ok=True)
    if kind == "ismrmrd":
        write_cartesian(folder / "a.h5", kspace[None], "zyx", encoded_mm=(20.0, 64.0, 108.0))
    elif kind == "bart":
        write_cfl(folder / "a.cfl", to_bart(kspace[None], "zyx"))
    else:
        write_scan(folder / "a.h5", kspace.swapaxes(0, 1), attributes={"readout": "z"})
    return folder


def arrays_of(folder: Path) -> dict[str, Any]:
    (path,) = sorted(folder.glob("*.h5"))
    with h5py.File(path) as file:
        return {name: file[name][()] for name in ("kspace", "maps", "target")} | dict(file.attrs)


def prepared(source: Path, out: Path, **options: Any) -> dict[str, Any]:
    prepare(source, out, SETTINGS, progress=False, **options)
    return arrays_of(out)


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    for name in ("kspace", "maps", "target"):
        assert found[name].shape == expected[name].shape
        difference = np.linalg.norm(found[name] - expected[name]) / np.linalg.norm(expected[name])
        assert difference < 1e-4, name
    assert found["layout"] == expected["layout"]
    assert np.array_equal(found["recon_size"], expected["recon_size"])


@pytest.mark.parametrize("layout", ["slices", "volume"])
def test_a_scan_in_three_dimensions_is_the_same_in_every_format(tmp_path: Path, layout: Any) -> None:
    kspace = simulated(tmp_path / "scans", "volume", slices=SIZE[0])
    expected = prepared(tmp_path / "scans", tmp_path / "expected", layout=layout)
    for kind in FORMATS:
        source = write_3d(tmp_path / kind, kind, encoded(kspace))
        (path,) = find_scans(source)
        assert scan_format(path) == kind
        # Slices are what it is without a word.
        options = {} if layout == "slices" else {"layout": layout}
        assert_same(prepared(source, tmp_path / f"{kind}_out", **options), expected)


@pytest.mark.parametrize("kind", FORMATS)
def test_slices_and_their_oversampled_readout_are_the_same_in_every_format(tmp_path: Path, kind: str) -> None:
    kspace = simulated(tmp_path / "scans", "slices", slices=2)
    expected = prepared(tmp_path / "scans", tmp_path / "expected")
    source = tmp_path / kind
    source.mkdir()
    if kind == "ismrmrd":
        (rows, columns), y = kspace.shape[2:], SIZE[1]
        fov, recon_fov = (2.0 * rows, 36.0, 5.0), (2.0 * y, 36.0, 5.0)
        size = (y, columns, 1)
        write_cartesian(source / "a.h5", kspace, "yx", recon=size, encoded_mm=fov, recon_mm=recon_fov)
        assert open_scan(source / "a.h5").voxel_mm == (5.0, 2.0, 1.0)
    elif kind == "bart":
        # Nothing tells that a BART readout is oversampled: what is compared has none.
        cropped = expected["kspace"]
        write_cfl(source / "a.cfl", to_bart(cropped, "yx"))
    else:
        write_scan(source / "a.hdf5", kspace, header=read_scan_info(find_scans(tmp_path / "scans")[0]).header)
    assert_same(prepared(source, tmp_path / "out"), expected)


@pytest.mark.parametrize("kind", ["ismrmrd", "bart"])
def test_series_are_the_same_in_every_format(tmp_path: Path, kind: str) -> None:
    kspace = simulated(tmp_path / "scans", "cine", slices=4)
    expected = prepared(tmp_path / "scans", tmp_path / "expected")
    source = tmp_path / kind
    source.mkdir()
    series = expected["kspace"].swapaxes(0, 1)[None]
    if kind == "ismrmrd":
        write_cartesian(source / "a.mrd", series, "tyx")
    else:
        write_cfl(source / "a.cfl", to_bart(series, "tyx"))
    found = prepared(source, tmp_path / "out")
    assert found["layout"] == "cine"
    assert_same(found, expected)
    assert kspace.shape[0] == found["kspace"].shape[0] == 4


def test_one_of_several_slices_or_contrasts_is_selected(tmp_path: Path) -> None:
    simulated(tmp_path / "scans", "cine", slices=4)
    expected = prepared(tmp_path / "scans", tmp_path / "expected")
    series = expected["kspace"].swapaxes(0, 1)[None]
    source, out = tmp_path / "stack", tmp_path / "out"
    source.mkdir()
    write_cartesian(source / "a.mrd", np.concatenate([series[..., ::-1, :], series]), "tyx")
    with pytest.raises(InputError, match=r"2 slices of 4 frames; .* --select slice=0,"):
        prepare(source, out, SETTINGS, progress=False)
    found = prepared(source, out, select={"slice": 1})
    assert_same(found, expected)
    assert found["select"] == "slice=1"
    assert prepare(source, out, SETTINGS, progress=False, select={"slice": 1}).skipped == ("a",)
    assert prepare(source, out, SETTINGS, progress=False, select={"slice": 0}).renewed == ("a",)
    with h5py.File(source / "a.mrd", "r+") as file:
        records = file["dataset/data"][:]
        records["head"]["idx"]["contrast"] = records["head"]["idx"]["slice"]
        records["head"]["idx"]["slice"] = 0
        file["dataset/data"][:] = records
    with pytest.raises(InputError, match=r"contrast has values \[0, 1\]; .* --select contrast=0,"):
        prepare(source, out, SETTINGS, progress=False)
    assert_same(prepared(source, out, select={"contrast": 1}), expected)
    with pytest.raises(InputError, match=r"none of its .* makes an image with {'contrast': 2}"):
        open_scan(source / "a.mrd", select={"contrast": 2})


@pytest.mark.parametrize(("readout", "order"), [("y", (1, 0, 2)), ("x", (1, 2, 0))])
@pytest.mark.parametrize("kind", ["fastmri", "bart"])
def test_the_readout_may_be_any_axis(tmp_path: Path, kind: str, readout: Axis, order: tuple[int, ...]) -> None:
    """Axes of the file are `order` of (readout, phase 1, phase 2)."""
    kspace = simulated(tmp_path / "scans", "volume", slices=SIZE[0])
    expected = prepared(tmp_path / "scans", tmp_path / "expected", layout="volume")
    moved = encoded(kspace).transpose(0, *(1 + axis for axis in order))
    source = tmp_path / kind
    source.mkdir()
    if kind == "bart":
        write_cfl(source / "a.cfl", to_bart(moved[None], "zyx"))
    else:
        write_scan(source / "a.h5", moved.swapaxes(0, 1))
    assert_same(prepared(source, tmp_path / "out", layout="volume", readout=readout), expected)


def test_partitions_that_a_converter_transformed_are_encoded_again(tmp_path: Path) -> None:
    kspace = simulated(tmp_path / "scans", "volume", slices=SIZE[0])
    expected = prepared(tmp_path / "scans", tmp_path / "expected", layout="volume")
    full = encoded(kspace)
    for signs in (1, 1 - 2 * (np.arange(SIZE[2]) % 2)):
        last = torch.from_numpy(np.ascontiguousarray(full))
        uncentred = torch.fft.fftshift(torch.fft.ifft(torch.fft.ifftshift(last, dim=-1), norm="ortho"), dim=-1).numpy()
        partitions = (uncentred * signs).transpose(3, 0, 1, 2).astype(np.complex64)  # (slice, C, readout, phase 1)
        source = tmp_path / f"mridata_{np.sum(signs)}"
        source.mkdir()
        write_cartesian(source / "a.h5", partitions, "yx", recon=SIZE)
        with h5py.File(source / "a.h5", "r+") as file:
            text = file["dataset/xml"][0].decode().replace("<z>1</z></matrixSize>", f"<z>{SIZE[2]}</z></matrixSize>")
            file["dataset/xml"][0] = text
        found = open_scan(source / "a.h5")
        assert (found.volumetric, found.shape) == (True, kspace.shape)
        assert_same(prepared(source, tmp_path / f"{source.name}_out", layout="volume"), expected)


def test_lines_measured_twice_are_averaged(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    kspace = (rng.standard_normal((1, 2, 6, 8, 7)) + 1j * rng.standard_normal((1, 2, 6, 8, 7))).astype(np.complex64)
    write_cartesian(tmp_path / "a.h5", kspace, "zyx")
    with open_scan(tmp_path / "a.h5").samples() as read:
        once = np.stack([read(index) for index in range(6)])
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        records = file["dataset/data"]
        count = len(records)
        again = records[:]
        for record in again:
            record["data"] = 3 * record["data"]
        records.resize(2 * count, axis=0)
        records[count:] = again
    with open_scan(tmp_path / "a.h5").samples() as read:
        np.testing.assert_allclose(np.stack([read(index) for index in range(6)]), 2 * once, rtol=1e-5, atol=1e-6)
        with pytest.raises(InputError, match="slice 6 asked for; expected 0 to 5"):
            read(6)


def test_places_beside_the_object_are_no_slices(tmp_path: Path) -> None:
    kspace = simulated(tmp_path / "scans", "volume", slices=SIZE[0])
    noise = 1e-3 * np.abs(kspace).max() * np.random.default_rng(0).standard_normal((3, *kspace.shape[1:]))
    padded = np.concatenate([noise, kspace, noise]).astype(np.complex64)
    source = write_3d(tmp_path / "a", "bart", encoded(padded))
    assert len(prepared(source, tmp_path / "slices")["target"]) == SIZE[0]
    found = prepared(source, tmp_path / "volume", layout="volume")
    assert len(found["target"]) == SIZE[0] + 6
    assert list(found["occupied"]) == [3, 3 + SIZE[0]]


def test_a_mixed_folder_is_prepared_and_half_a_pair_is_not(tmp_path: Path) -> None:
    kspace = simulated(tmp_path / "scans", "slices", slices=1)
    write_cartesian(tmp_path / "scans" / "b.mrd", kspace, "yx")
    write_cfl(tmp_path / "scans" / "c", to_bart(kspace, "yx"))
    (tmp_path / "scans" / "notes.txt").write_text("of no interest")
    (tmp_path / "scans" / ".d.12.partial.h5").write_text("still being written")
    assert [path.name for path in find_scans(tmp_path / "scans")] == ["b.mrd", "c.cfl", "head_000.h5"]
    report = prepare(tmp_path / "scans", tmp_path / "out", SETTINGS, progress=False)
    assert report.prepared == ("b", "c", "head_000")
    assert prepare(tmp_path / "scans", tmp_path / "out", SETTINGS, progress=False).skipped == report.prepared
    for name in ("c", "c.hdr", "c.cfl"):
        assert find_scans(tmp_path / "scans" / name) == [tmp_path / "scans" / "c.cfl"]
    write_cfl(tmp_path / "scans" / "b", to_bart(kspace, "yx"))
    with pytest.raises(InputError, match=r"b.cfl and b.mrd; expected one scan of a name, 'b'"):
        find_scans(tmp_path / "scans")
    (tmp_path / "scans" / "b.mrd").unlink()
    (tmp_path / "scans" / "b.cfl").unlink()
    for path in (tmp_path / "scans", tmp_path / "scans" / "b.hdr"):
        with pytest.raises(InputError, match=r"b.cfl: no such file; expected it beside b.hdr"):
            find_scans(path)


def test_folders_without_scans_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x.nii").write_bytes(b"")
    for folder, said in (("empty", "the folder is empty"), ("other", "x.nii"), ("missing", "no such file or folder")):
        with pytest.raises(InputError, match=said) as caught:
            find_scans(tmp_path / folder)
        assert str(tmp_path / folder) in str(caught.value)


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        open_scan(path, **options)
    assert path.stem in str(caught.value)
    return str(caught.value)


def test_what_cannot_be_a_cartesian_scan_is_refused(tmp_path: Path) -> None:
    volume = np.ones((1, 2, 4, 8, 6), np.complex64)
    write_cartesian(tmp_path / "a.h5", volume, "zyx")
    assert "header's x is the readout" in refusal(tmp_path / "a.h5", readout="y")
    samples = np.ones((1, 2, 5, 7), np.complex64)
    write_samples(tmp_path / "r.h5", samples, np.ones((5, 7, 2)), (8, 8, 1), trajectory="radial")
    assert "trajectory 'radial'; expected 'cartesian'" in refusal(tmp_path / "r.h5")
    simulated(tmp_path / "scans", "slices", slices=1)
    assert "only ISMRMRD files count" in refusal(find_scans(tmp_path / "scans")[0], select={"slice": 0})
    (tmp_path / "t.h5").write_text("no file of scans")
    assert "cannot be read as HDF5" in refusal(tmp_path / "t.h5")
    with h5py.File(tmp_path / "e.h5", "w") as file:
        file.create_group("dataset")
    assert "no 'dataset/data'" in refusal(tmp_path / "e.h5")

    write_cfl(tmp_path / "m.cfl", np.ones((8, 6, 1, 2, 2)))
    assert "{4: 2} (number: size) have no place" in refusal(tmp_path / "m.cfl")
    write_cfl(tmp_path / "l.cfl", np.ones((8, 1, 1, 2)))
    assert "expected at least two of them longer than 1" in refusal(tmp_path / "l.cfl")
    write_cfl(tmp_path / "s.cfl", np.ones((8, 6, 1, 2)))
    assert "expected three axes" in refusal(tmp_path / "s.cfl", readout="z")
    write_cfl(tmp_path / "b.cfl", np.ones((8, 6, 4, 2, *[1] * 6, 3)))
    assert "1 slabs, 3 frames of 3-D" in refusal(tmp_path / "b.cfl")
    (tmp_path / "s.cfl").write_bytes(b"1234")
    assert "4 bytes; expected 768" in refusal(tmp_path / "s.cfl")

    write_scan(tmp_path / "f.h5", volume[0].swapaxes(0, 1), attributes={"readout": "w"})
    assert "attribute readout: expected z, y or x, found 'w'" in refusal(tmp_path / "f.h5")
    write_scan(tmp_path / "g.h5", volume[0].swapaxes(0, 1), attributes={"readout": "y"})
    assert "readout 'z' asked for; expected 'y'" in refusal(tmp_path / "g.h5", readout="z")
    with pytest.raises(InputError, match="layout 'cine' of a scan in three dimensions"):
        prepare(tmp_path / "a.h5", tmp_path / "out", SETTINGS, layout="cine")


def test_undersampled_scans_and_nan_are_refused(tmp_path: Path) -> None:
    kspace = encoded(simulated(tmp_path / "scans", "volume", slices=SIZE[0]))
    mask = np.ones(SIZE[1:])
    mask[::3, 5] = 0
    for kind in FORMATS:
        source = write_3d(tmp_path / kind, kind, kspace * mask)
        with pytest.raises(InputError, match=r"a\.(h5|cfl).*is undersampled"):
            prepare(source, tmp_path / "out", SETTINGS, progress=False)
    kspace[0, 2, 3, 4] = np.nan
    np.asarray(to_bart(kspace[None], "zyx")).ravel("F").tofile(tmp_path / "bart" / "a.cfl")
    with pytest.raises(InputError, match=r"a.cfl: k-space holds 1 values that are NaN"):
        prepare(tmp_path / "bart", tmp_path / "out", SETTINGS, progress=False)
