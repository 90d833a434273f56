import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convexrecon.data.bart import (
    from_bart,
    read_cfl,
    samples_from_bart,
    to_bart,
    trajectory_from_bart,
    write_cfl,
)
from convexrecon.errors import InputError


def _random(*shape: int) -> Any:
    rng = np.random.default_rng(0)
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)


def test_a_file_written_byte_by_byte_is_read(tmp_path: Path) -> None:
    # Two readouts, three phase encodes, first axis fastest.
    values = [complex(i, -i) for i in range(6)]
    (tmp_path / "a.b.cfl").write_bytes(b"".join(struct.pack("<ff", v.real, v.imag) for v in values))
    (tmp_path / "a.b.hdr").write_text("# Dimensions\n2 3 1 1 1 \n# Command\nphantom -x2\n")
    for name in ("a.b", "a.b.cfl", "a.b.hdr"):
        array = read_cfl(tmp_path / name)
        assert array.shape == (2, 3, *[1] * 14)
        assert [array[i % 2, i // 2].item() for i in range(6)] == values


@pytest.mark.parametrize("shape", [(3, 4, 2, 5), (1, 7), (4,), (2,) * 16])
def test_what_is_written_is_read(tmp_path: Path, shape: tuple[int, ...]) -> None:
    array = _random(*shape)
    write_cfl(tmp_path / "x.y", array)
    np.testing.assert_array_equal(read_cfl(tmp_path / "x.y").reshape(shape), array)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.y.cfl", "x.y.hdr"]
    np.testing.assert_array_equal(np.fromfile(tmp_path / "x.y.cfl", "<c8"), array.ravel(order="F"))


@pytest.mark.parametrize(("axes", "shape"), [("yx", (3, 4, 6, 5)), ("zyx", (1, 4, 6, 5, 3)), ("tyx", (2, 4, 7, 6, 5))])
def test_layouts_there_and_back(tmp_path: Path, axes: Any, shape: tuple[int, ...]) -> None:
    kspace = _random(*shape)
    bart = to_bart(kspace, axes)
    assert bart.shape[3] == 4
    assert bart.shape[:2] == (shape[-2:] if axes != "zyx" else shape[2:4])
    write_cfl(tmp_path / "k", bart)
    np.testing.assert_array_equal(from_bart(read_cfl(tmp_path / "k"), axes), kspace)


def test_where_every_axis_goes() -> None:
    bart = _random(6, 5, 1, 4, 1, 1, 1, 1, 1, 1, 7, 1, 1, 2)
    series = from_bart(bart, "tyx")
    assert series[1, 3, 2, 5, 4] == bart[5, 4, 0, 3, 0, 0, 0, 0, 0, 0, 2, 0, 0, 1]
    volume = _random(6, 5, 3, 4)
    assert from_bart(volume, "zyx")[0, 1, 5, 4, 2] == volume[5, 4, 2, 1]
    maps = _random(6, 5, 1, 4, 2)
    np.testing.assert_array_equal(from_bart(maps, "yx", map_set=1), from_bart(maps[..., 1], "yx"))
    assert from_bart(_random(6, 5), "yx").shape == (1, 1, 6, 5)


def test_trajectories_and_samples() -> None:
    trajectory = _random(3, 8, 5).real
    assert trajectory_from_bart(trajectory, ndim=3).shape == (5, 8, 3)
    assert trajectory_from_bart(trajectory, ndim=3)[4, 7, 1] == trajectory[1, 7, 4]
    trajectory[2] = 0
    np.testing.assert_array_equal(trajectory_from_bart(trajectory, ndim=2), trajectory[:2].T)
    samples = _random(1, 8, 5, 4)
    assert samples_from_bart(samples)[0, 3, 4, 7] == samples[0, 7, 4, 3]


def test_damaged_files_are_refused_by_name(tmp_path: Path) -> None:
    write_cfl(tmp_path / "x", _random(3, 4))
    samples, header = tmp_path / "x.cfl", tmp_path / "x.hdr"
    samples.write_bytes(samples.read_bytes()[:-8])
    with pytest.raises(InputError, match=r"x\.cfl: 88 bytes; expected 96, complex64 of 3 x 4"):
        read_cfl(samples)
    samples.unlink()
    with pytest.raises(InputError, match=r"x\.cfl: no such file"):
        read_cfl(header)
    for text in (
        "",
        "# Dimensions\n",
        "# Dimensions\n3 four\n",
        "# Dimensions\n3 0 4\n",
        "# Dimensions\n3 -4\n",
        "3 4\n",
    ):
        samples.write_bytes(b"")
        header.write_text(text)
        with pytest.raises(InputError, match=r"x\.hdr: dimensions .*whole numbers above zero"):
            read_cfl(samples)


def test_arrays_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"dimensions \{2: 3\}"):
        from_bart(_random(6, 5, 3, 4), "yx")
    with pytest.raises(InputError, match="2 sets of maps"):
        from_bart(_random(6, 5, 1, 4, 2), "yx")
    with pytest.raises(InputError, match="axes 'xy'"):
        from_bart(_random(6, 5), "xy")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"\(B, C, t, y, x\)"):
        to_bart(_random(2, 3, 4), "tyx")
    with pytest.raises(InputError, match="third coordinate"):
        trajectory_from_bart(_random(3, 8, 5).real, ndim=2)
    with pytest.raises(InputError, match=r"\(1, samples, shots, coils\)"):
        samples_from_bart(_random(2, 8, 5, 4))
    with pytest.raises(InputError, match="1 values that are NaN"):
        write_cfl(tmp_path / "nan", np.array([1, np.nan]))
    assert not list(tmp_path.iterdir())
