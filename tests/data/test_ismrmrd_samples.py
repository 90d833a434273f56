import math
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from convexrecon.data.ismrmrd_samples import read_samples
from convexrecon.data.ismrmrd_writing import write_cartesian, write_samples
from convexrecon.errors import InputError
from convexrecon.physics.trajectories import kooshball, radial


def random(*shape: int) -> Any:
    rng = np.random.default_rng(0)
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)


@pytest.mark.parametrize(
    ("units", "factor", "told"),
    [
        ("cycles/fov", (1, 1), False),
        ("cycles/pixel", (1 / 24, 1 / 20), False),
        ("rad/pixel", (2 * math.pi / 24, 2 * math.pi / 20), True),
        ("1/m", (1000 / 240, 1000 / 300), True),
    ],
)
def test_coordinates_become_cycles_per_field_of_view(tmp_path: Path, units: Any, factor: Any, told: bool) -> None:
    trajectory = radial((24, 20), 5).numpy()
    samples = random(2, 3, 5, trajectory.shape[1])
    write_samples(tmp_path / "a.h5", samples, trajectory * np.float32(factor), (24, 20, 1), encoded_mm=(240, 300, 5))
    scan = read_samples(tmp_path / "a.h5", units=units if told else None)
    assert scan.units == units
    np.testing.assert_array_equal(scan.samples, samples)
    np.testing.assert_allclose(scan.coordinates, trajectory, atol=1e-5)
    assert scan.weights is None
    if told:
        with pytest.raises(InputError, match="units cannot be told" if units == "rad/pixel" else "units cannot|reach"):
            read_samples(tmp_path / "a.h5")


def test_volumes_have_three_axes(tmp_path: Path) -> None:
    trajectory = kooshball((12, 16, 20), 7).numpy()
    samples = random(1, 2, *trajectory.shape[:2])
    write_samples(tmp_path / "a.h5", samples, trajectory, (12, 16, 20))
    np.testing.assert_array_equal(read_samples(tmp_path / "a.h5").coordinates, trajectory)


def test_slices_may_have_trajectories_of_their_own(tmp_path: Path) -> None:
    trajectory = torch.stack([radial((24, 20), 5), radial((24, 20), 5, first=5)]).numpy()
    samples = random(2, 3, *trajectory.shape[1:3])
    write_samples(tmp_path / "a.h5", samples, trajectory, (24, 20, 1))
    scan = read_samples(tmp_path / "a.h5")
    np.testing.assert_array_equal(scan.coordinates, trajectory)
    one = read_samples(tmp_path / "a.h5", select={"slice": 1})
    np.testing.assert_array_equal(one.coordinates, trajectory[1])
    np.testing.assert_array_equal(one.samples, samples[1:])


def test_a_third_axis_in_the_plane_is_weights_or_nothing(tmp_path: Path) -> None:
    trajectory = radial((24, 20), 5).numpy()
    samples = random(1, 2, *trajectory.shape[:2])
    weights = np.linalg.norm(trajectory, axis=-1)
    for extra, expected in ((weights, weights), (0 * weights, None)):
        write_samples(tmp_path / "a.h5", samples, np.dstack([trajectory, extra]), (24, 20, 1))
        scan = read_samples(tmp_path / "a.h5")
        np.testing.assert_array_equal(scan.coordinates, trajectory)
        if expected is None:
            assert scan.weights is None
        else:
            assert scan.weights is not None
            np.testing.assert_array_equal(scan.weights, expected)
    write_samples(tmp_path / "a.h5", samples, np.dstack([trajectory, -weights]), (24, 20, 1))
    with pytest.raises(InputError, match="negative"):
        read_samples(tmp_path / "a.h5")


def edited(path: Path, counter: str, values: Any) -> None:
    """Write another counter into the heads of a file's acquisitions."""
    with h5py.File(path, "r+") as file:
        records = file["dataset/data"][:]
        records["head"]["idx"][counter] = values
        file["dataset/data"][:] = records


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("pixels", [False, True])
def test_stacks_have_their_third_axis_from_the_partition_counter(tmp_path: Path, weighted: bool, pixels: bool) -> None:
    plane = radial((24, 20), 5).numpy()
    steps = np.array([2, 0, 1, 3, 5, 4])
    trajectory = np.tile(plane, (6, 1, 1))
    weights = np.linalg.norm(trajectory, axis=-1)
    written = trajectory / np.array((24, 20), np.float32) if pixels else trajectory
    samples = random(1, 2, *trajectory.shape[:2])
    path = tmp_path / "a.h5"
    write_samples(path, samples, np.dstack([written, weights]) if weighted else written, (24, 20, 6))
    edited(path, "kspace_encode_step_2", np.repeat(steps, 5))
    scan = read_samples(path)
    np.testing.assert_allclose(scan.coordinates[..., :2], trajectory, atol=1e-5)
    np.testing.assert_array_equal(scan.coordinates[..., 2], np.repeat(steps - 3, 5)[:, None] + 0 * trajectory[..., 0])
    if weighted:
        assert scan.weights is not None
        np.testing.assert_array_equal(scan.weights, weights)


def test_stacks_know_the_centre_of_their_partitions_and_their_reach(tmp_path: Path) -> None:
    trajectory = np.tile(radial((24, 20), 5).numpy(), (2, 1, 1))
    path = tmp_path / "a.h5"
    write_samples(path, random(1, 2, *trajectory.shape[:2]), trajectory, (24, 20, 6))
    edited(path, "kspace_encode_step_2", np.repeat([0, 1], 5))
    reheaded(path, "<maximum>5</maximum><center>3</center>", "<maximum>5</maximum><center>1</center>")
    np.testing.assert_array_equal(np.unique(read_samples(path).coordinates[..., 2]), [-1, 0])
    edited(path, "kspace_encode_step_2", np.repeat([0, 7], 5))
    with pytest.raises(InputError, match=r"reach .*6.0.* expected \[12.0, 10.0, 3.0\]"):
        read_samples(path)


def test_partitions_stored_as_slices_are_slices(tmp_path: Path) -> None:
    trajectory = radial((24, 20), 5).numpy()
    samples = random(6, 2, *trajectory.shape[:2])
    write_samples(tmp_path / "a.h5", samples, trajectory, (24, 20, 6))
    scan = read_samples(tmp_path / "a.h5")
    np.testing.assert_array_equal(scan.samples, samples)
    np.testing.assert_array_equal(scan.coordinates, trajectory)


def reheaded(path: Path, old: str, new: str) -> None:
    """Replace a part of a file's XML header."""
    with h5py.File(path, "r+") as file:
        header = file["dataset/xml"][0].decode()
        assert old in header
        file["dataset/xml"][0] = header.replace(old, new)


def test_coordinates_may_be_of_the_field_of_view_of_the_images(tmp_path: Path) -> None:
    # Readouts of twice the field of view: the encoded matrix counts cycles of the larger one.
    trajectory = radial((48, 40), 5).numpy()
    path = tmp_path / "a.h5"
    written = trajectory / np.float32(2)
    write_samples(path, random(1, 2, *trajectory.shape[:2]), written, (48, 40, 1), encoded_mm=(400, 300, 5))
    assert read_samples(path).units == "cycles/fov"
    recon = "<reconSpace><matrixSize><x>48</x><y>40</y><z>1</z></matrixSize><fieldOfView_mm><x>400</x><y>300</y>"
    reheaded(path, recon, recon.replace("48", "24").replace("40<", "20<").replace("400", "200").replace("300", "150"))
    scan = read_samples(path)
    assert scan.units == "cycles/recon_fov"
    np.testing.assert_allclose(scan.coordinates, trajectory, atol=1e-5)
    np.testing.assert_allclose(read_samples(path, units="cycles/fov").coordinates, written, atol=1e-5)


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    trajectory = radial((24, 20), 5).numpy()
    samples = random(1, 2, *trajectory.shape[:2])
    path = tmp_path / "a.h5"
    write_samples(path, samples, trajectory, (24, 20, 1))
    with pytest.raises(InputError, match=r"a\.h5: coordinates reach .* expected \[12.0, 10.0\]"):
        read_samples(path, units="cycles/pixel")
    with pytest.raises(InputError, match="units: 'mm'"):
        read_samples(path, units="mm")  # type: ignore[arg-type]
    write_samples(path, samples, trajectory[..., :1], (24, 20, 1))
    with pytest.raises(InputError, match="no coordinates of two axes"):
        read_samples(path)
    write_cartesian(path, random(1, 2, 8, 6), "yx")
    with pytest.raises(InputError, match="no coordinates"):
        read_samples(path)
    with pytest.raises(InputError, match=r"expected complex \(B, C, shots, S\)"):
        write_samples(path, samples, trajectory[:4], (24, 20, 1))
    with pytest.raises(InputError, match="NaN"):
        write_samples(path, samples, trajectory * np.float32(np.nan), (24, 20, 1))
