"""Cartesian ISMRMRD files: written record by record as the standard says, and by the writer."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from convexrecon.data.ismrmrd import encode_slices, read_cartesian, readout_slices
from convexrecon.data.ismrmrd_writing import write_cartesian
from convexrecon.errors import InputError
from convexrecon.physics.fourier import centred_fft, centred_ifft, crop_centre

XML = """<?xml version="1.0"?><ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD"><encoding>
<encodedSpace><matrixSize><x>{x}</x><y>{y}</y><z>{z}</z></matrixSize>
<fieldOfView_mm><x>{fov}</x><y>200</y><z>5</z></fieldOfView_mm></encodedSpace>
<reconSpace><matrixSize><x>{r}</x><y>{y}</y><z>{z}</z></matrixSize>
<fieldOfView_mm><x>200</x><y>200</y><z>5</z></fieldOfView_mm></reconSpace>
<encodingLimits><kspace_encoding_step_1><minimum>0</minimum><maximum>9</maximum><center>{c}</center>
</kspace_encoding_step_1></encodingLimits><trajectory>{t}</trajectory></encoding></ismrmrdHeader>"""

IDX = ["kspace_encode_step_1", "kspace_encode_step_2", "average", "slice", "contrast", "phase", "repetition", "set"]
# Written down once more, from the standard, and not in its order: members are found by name.
HEAD = np.dtype(
    [
        ("flags", "u8"),
        ("version", "u2"),
        ("number_of_samples", "u2"),
        ("active_channels", "u2"),
        ("discard_pre", "u2"),
        ("discard_post", "u2"),
        ("center_sample", "u2"),
        ("encoding_space_ref", "u2"),
        ("trajectory_dimensions", "u2"),
        ("idx", [(name, "u2") for name in IDX]),
    ]
)


def random(*shape: int, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)


def header(x: int = 8, y: int = 6, z: int = 1, r: int = 8, fov: int = 200, c: int = 3, t: str = "cartesian") -> str:
    return XML.format(x=x, y=y, z=z, r=r, fov=fov, c=c, t=t)


def write_raw(path: Path, lines: list[dict[str, Any]], xml: str, *, pairs: bool = False) -> Path:
    """A file of lines {"data": (C, S), flag and counter names: values}; `pairs` as early versions stored samples."""
    number = np.dtype([("real", "f4"), ("imag", "f4")]) if pairs else np.dtype("f4")
    dtype = np.dtype([("head", HEAD), ("traj", h5py.vlen_dtype(np.dtype("f4"))), ("data", h5py.vlen_dtype(number))])
    records = np.zeros(len(lines), dtype)
    for record, line in zip(records, lines, strict=True):
        data = line["data"]
        record["head"]["active_channels"], record["head"]["number_of_samples"] = data.shape
        for name, value in line.items():
            if name in IDX:
                record["head"]["idx"][name] = value
            elif name in (HEAD.names or ()):
                record["head"][name] = value
        flat = np.ascontiguousarray(data).ravel()
        record["data"] = flat.view(number)
        record["traj"] = np.asarray(line.get("traj", ()), "f4").ravel()
    with h5py.File(path, "w") as file:
        file.create_dataset("dataset/data", data=records)
        file.create_dataset("dataset/xml", data=[xml.encode()])
    return path


def lines_of(kspace: Any, **more: int) -> list[dict[str, Any]]:
    """Lines of one slice (C, y, x)."""
    return [{"data": kspace[:, :, step], "kspace_encode_step_1": step, **more} for step in range(kspace.shape[2])]


@pytest.mark.parametrize("pairs", [False, True])
def test_lines_are_sorted_and_the_rest_is_zero(tmp_path: Path, pairs: bool) -> None:
    kspace = random(2, 3, 8, 6)
    lines = [line for b in (1, 0) for line in lines_of(kspace[b], slice=5 + b) if line["kspace_encode_step_1"] != 4]
    scan = read_cartesian(write_raw(tmp_path / "a.h5", lines[::-1], header(), pairs=pairs))
    kspace[..., 4] = 0
    np.testing.assert_array_equal(scan.kspace, kspace)
    assert scan.mask.shape == (2, 1, 8, 6)
    assert scan.mask[..., [0, 1, 2, 3, 5]].all()
    assert not scan.mask[..., 4].any()
    assert scan.noise is None


def test_the_centre_of_the_header_is_put_in_the_middle(tmp_path: Path) -> None:
    kspace = random(3, 8, 6)
    path = write_raw(tmp_path / "a.h5", lines_of(kspace[:, :, 2:]), header(c=1))
    np.testing.assert_array_equal(read_cartesian(path).kspace[0, :, :, 2:], kspace[:, :, 2:])


def test_repeated_lines_are_averaged_and_reversed_ones_turned(tmp_path: Path) -> None:
    kspace, other = random(3, 8, 6), random(3, 8, 6, seed=1)
    again = [{**line, "data": line["data"][:, ::-1], "flags": 1 << 21} for line in lines_of(other, average=1)]
    scan = read_cartesian(write_raw(tmp_path / "a.h5", lines_of(kspace) + again, header()))
    np.testing.assert_allclose(scan.kspace[0], (kspace + other) / 2, atol=1e-6)


def test_noise_is_kept_apart_and_other_lines_left_out(tmp_path: Path) -> None:
    kspace, noise = random(3, 8, 6), random(3, 11, seed=2)
    strange = [{"data": noise, "flags": 1 << 18}] + [
        {"data": random(5, 4), "flags": 1 << bit, "kspace_encode_step_1": 99} for bit in (19, 22, 23, 25, 26, 27, 28)
    ]
    both = [{**line, "flags": 1 << 20} for line in lines_of(kspace)]
    scan = read_cartesian(write_raw(tmp_path / "a.h5", strange + both, header()))
    np.testing.assert_array_equal(scan.kspace[0], kspace)
    assert scan.noise is not None
    np.testing.assert_array_equal(scan.noise, noise)


def test_readout_oversampling_is_removed(tmp_path: Path) -> None:
    image = random(1, 3, 16, 6)
    image[:, :, :4] = image[:, :, 12:] = 0
    kspace = centred_fft(torch.from_numpy(image), 2).numpy()
    path = write_raw(tmp_path / "a.h5", lines_of(kspace[0]), header(x=16, fov=400))
    scan = read_cartesian(path)
    assert scan.kspace.shape == (1, 3, 8, 6)
    found = centred_ifft(torch.from_numpy(scan.kspace), 2)
    torch.testing.assert_close(found, crop_centre(torch.from_numpy(image), (8, 6)), atol=1e-5, rtol=0)
    np.testing.assert_array_equal(read_cartesian(path, remove_oversampling=False).kspace, kspace)


@pytest.mark.parametrize("fov", [200, 400])
def test_a_partial_echo_lies_around_its_centre(tmp_path: Path, fov: int) -> None:
    kspace = random(3, 16, 6)
    late = [{**line, "data": line["data"][:, 4:], "center_sample": 4} for line in lines_of(kspace)]
    garbage = [{**line, "data": np.pad(line["data"], ((0, 0), (2, 1)), constant_values=99)} for line in late]
    trimmed = [{**line, "center_sample": 6, "discard_pre": 2, "discard_post": 1} for line in garbage]
    one = read_cartesian(write_raw(tmp_path / "a.h5", late, header(x=16, fov=fov)))
    two = read_cartesian(write_raw(tmp_path / "b.h5", trimmed, header(x=16, fov=fov)))
    np.testing.assert_array_equal(one.kspace, two.kspace)
    first = 4 * 200 // fov
    assert not one.kspace[:, :, :first].any()
    assert not one.mask[:, :, :first].any()
    assert one.mask[:, :, first:].all()
    if fov == 200:
        np.testing.assert_array_equal(one.kspace[0, :, 4:], kspace[:, 4:])


@pytest.mark.parametrize(("axes", "shape"), [("yx", (3, 4, 8, 6)), ("zyx", (1, 4, 8, 6, 5)), ("tyx", (2, 4, 7, 8, 6))])
def test_what_the_writer_writes_is_read(tmp_path: Path, axes: Any, shape: tuple[int, ...]) -> None:
    kspace = random(*shape)
    mask = np.ones((1, 1, *shape[2:]))
    mask[..., 2] = 0
    write_cartesian(tmp_path / "a.h5", kspace, axes, mask=mask)
    scan = read_cartesian(tmp_path / "a.h5")
    np.testing.assert_array_equal(scan.kspace, kspace * mask.astype(np.float32))
    np.testing.assert_array_equal(scan.mask, np.broadcast_to(mask != 0, scan.mask.shape))
    assert [p.name for p in tmp_path.iterdir()] == ["a.h5"]


def test_frames_are_numbered_by_phase_or_repetition(tmp_path: Path) -> None:
    kspace = random(4, 3, 8, 6)
    lines = [line for t in range(4) for line in lines_of(kspace[t], repetition=t // 2, phase=t % 2)]
    path = write_raw(tmp_path / "a.h5", lines, header())
    with pytest.raises(InputError, match="both phase and repetition"):
        read_cartesian(path)
    scan = read_cartesian(path, time="phase", select={"repetition": 1})
    np.testing.assert_array_equal(scan.kspace[0].swapaxes(0, 1), kspace[2:])
    echoes = [line for t in range(2) for line in lines_of(kspace[t], contrast=t)]
    path = write_raw(tmp_path / "b.h5", echoes, header())
    with pytest.raises(InputError, match=r"contrast has values \[0, 1\].*select"):
        read_cartesian(path)
    np.testing.assert_array_equal(read_cartesian(path, select={"contrast": 1}).kspace[0], kspace[1])


def test_a_volume_as_slices_along_its_readout() -> None:
    image = random(1, 3, 8, 6, 5)
    kspace = centred_fft(torch.from_numpy(image), 3).numpy()
    slices = readout_slices(kspace)
    assert slices.shape == (8, 3, 6, 5)
    found = centred_ifft(torch.from_numpy(slices), 2).numpy()
    np.testing.assert_allclose(found, image[0].swapaxes(0, 1), atol=1e-5)


@pytest.mark.parametrize("alternate", [False, True])
def test_partitions_kept_as_slices_become_a_volume(alternate: bool) -> None:
    image = random(1, 3, 8, 6, 5)
    hybrid = centred_fft(torch.from_numpy(image).movedim(4, 0)[:, 0], 2).numpy()
    if alternate:
        hybrid[1::2] *= -1
    found = centred_ifft(torch.from_numpy(encode_slices(hybrid, alternate=alternate)), 3).numpy()
    np.testing.assert_allclose(found, image, atol=1e-5)


def test_more_lines_than_are_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kspace = random(2, 3, 8, 6)
    write_cartesian(tmp_path / "a.h5", kspace, "yx")
    monkeypatch.setattr("convexrecon.data.ismrmrd_acquisitions._AT_ONCE", 5)
    np.testing.assert_array_equal(read_cartesian(tmp_path / "a.h5").kspace, kspace)


BAD: list[tuple[str, dict[str, Any], str]] = [
    (header(y=4), {}, r"kspace_encode_step_1 from 0 to 5 with centre 3; expected .* 4"),
    (header(x=6), {}, "has 8 samples .*at most 6"),
    (header(t="radial"), {}, "trajectory 'radial'; expected 'cartesian'"),
    (header().replace("encodedSpace", "space"), {}, "no encodedSpace/matrixSize"),
    ("<ismrmrdHeader/>", {}, "encoding space 0 asked for.* has 0"),
    ("<broken", {}, "does not parse"),
    (header(), {"data": random(2, 8)}, r"of \[2, 3\] coils"),
    (header(), {"number_of_samples": 7}, r"acquisition 6 holds 48 numbers; expected 3 coils x 7"),
    (header(), {"data": np.full((3, 8), np.nan, np.complex64)}, "24 values that are NaN"),
    (header(), {"encoding_space_ref": 1}, r"encoding spaces \[0, 1\]"),
    (header(), {"data": random(3, 5), "center_sample": 0}, "5 samples with its centre at 0"),
]


@pytest.mark.parametrize(("xml", "line", "message"), BAD)
def test_what_does_not_fit_is_refused(tmp_path: Path, xml: str, line: dict[str, Any], message: str) -> None:
    lines = [*lines_of(random(3, 8, 6)), {"data": random(3, 8), "kspace_encode_step_1": 2, **line}]
    with pytest.raises(InputError, match=message) as caught:
        read_cartesian(write_raw(tmp_path / "a.h5", lines, xml))
    assert "a.h5" in str(caught.value)


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    path = write_raw(tmp_path / "a.h5", lines_of(random(3, 8, 6)), header())
    with pytest.raises(InputError, match=r"none of its 6 acquisitions makes an image with \{'slice': 3\}"):
        read_cartesian(path, select={"slice": 3})
    with pytest.raises(InputError, match="counter 'echo'"):
        read_cartesian(path, select={"echo": 3})
    with pytest.raises(InputError, match="no 'other/data'"):
        read_cartesian(path, group="other")
    whole = path.read_bytes()
    for length in (len(whole) // 2, 100, 0):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"a\.h5: cannot be read"):
            read_cartesian(path)
    with pytest.raises(InputError, match="no such file"):
        read_cartesian(tmp_path / "none.h5")
    with h5py.File(path, "w") as file:
        file["dataset/data"] = np.zeros(3)
    with pytest.raises(InputError, match="no 'dataset/xml'"):
        read_cartesian(path)
    with h5py.File(path, "w") as file:
        file["kspace"] = random(1, 2, 3, 4)
    with pytest.raises(InputError, match=r"found \['kspace'\]"):
        read_cartesian(path)


def test_the_writer_refuses_what_does_not_fit(tmp_path: Path) -> None:
    kspace = random(1, 3, 8, 6)
    for bad, axes, mask, message in (
        (kspace, "tyx", None, r"expected complex \(B, C"),
        (kspace.real, "yx", None, "expected complex"),
        (kspace, "yx", np.ones((1, 1, 8, 5)), "mask"),
        (kspace, "yx", np.zeros((1, 1, 8, 6)), "samples nothing"),
        (kspace * np.nan, "yx", None, "NaN"),
    ):
        with pytest.raises(InputError, match=message):
            write_cartesian(tmp_path / "a.h5", bad, axes, mask=mask)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
