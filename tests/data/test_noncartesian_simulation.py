"""Simulated scans along trajectories: the object of a Cartesian scan, read back by the reader of scanner files."""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from convexrecon.data.ismrmrd_samples import read_samples
from convexrecon.data.noncartesian_simulation import (
    PLANAR,
    TrajectoryKind,
    full_shots,
    shots_along,
    simulate_trajectories,
)
from convexrecon.data.shot_preparation import read_shots
from convexrecon.data.simulation import simulate_dataset
from convexrecon.errors import InputError
from convexrecon.physics.fourier import uncentre
from convexrecon.physics.nufft import Nufft

SMALL: dict[str, Any] = {"volumes": 1, "slices": 2, "size": (36, 32), "coils": 2, "anatomy": "head", "progress": False}
SHOTS: dict[TrajectoryKind, int] = {"radial": 20, "spiral": 6, "kooshball": 30, "stack_of_stars": 5, "cones": 20}


@pytest.mark.parametrize("kind", SHOTS)
def test_files_are_read_as_those_of_a_scanner(kind: TrajectoryKind, tmp_path: Path) -> None:
    slices = 2 if kind in PLANAR else 8
    (path,) = simulate_trajectories(tmp_path, kind, shots=SHOTS[kind], **SMALL | {"slices": slices})
    scan = read_samples(path)
    shape = (36, 32) if kind in PLANAR else (8, 36, 32)
    shots = SHOTS[kind] * (8 if kind == "stack_of_stars" else 1)
    assert scan.units == "cycles/fov"
    assert scan.samples.shape[:3] == (2 if kind in PLANAR else 1, 2, shots)
    assert scan.encoding.encoded[: len(shape)] == shape
    expected = shots_along(kind, (slices, 36, 32), SHOTS[kind])
    np.testing.assert_allclose(scan.coordinates, expected, atol=1e-5)
    assert scan.encoding.trajectory != "cartesian"


def test_samples_are_of_the_object_that_the_grid_has(tmp_path: Path) -> None:
    """At whole cycles the two scans measure the same; between them, what an image of so many pixels cannot say."""
    (path,) = simulate_trajectories(tmp_path / "shots", "radial", shots=30, noise=0, **SMALL)
    (grid,) = simulate_dataset(tmp_path / "grid", noise=0, readout_oversampling=1, **SMALL)
    scan = read_shots(path)
    with h5py.File(grid) as file:
        kspace = torch.from_numpy(file["kspace"][1])
    image = torch.fft.ifft2(uncentre(kspace, 2), norm="ortho")
    coordinates = scan.trajectory(0).coordinates.flatten(0, 1)
    inner = coordinates.abs().amax(-1) < 6
    predicted = Nufft(coordinates[inner], scan.shape, 1e-6).forward(image)
    measured = scan.samples[1].flatten(1)[:, inner]
    assert float((predicted - measured).norm()) < 0.05 * float(measured.norm())


def test_partitions_of_an_angle_follow_each_other() -> None:
    spokes = shots_along("stack_of_stars", (4, 32, 32), 3).unflatten(0, (3, 4))
    assert spokes[:, :, 0, 0].tolist() == [[-2, -1, 0, 1]] * 3
    assert torch.equal(spokes[0, 0, :, 1:], spokes[0, 3, :, 1:])


def test_enough_shots_are_taken_by_default(tmp_path: Path) -> None:
    (path,) = simulate_trajectories(tmp_path, "radial", **SMALL)
    assert read_samples(path).samples.shape[2] == full_shots("radial", (1, 36, 32)) == 57


def test_made_files_are_kept_and_others_refused(tmp_path: Path) -> None:
    (path,) = simulate_trajectories(tmp_path, "spiral", shots=4, **SMALL)
    time = path.stat().st_mtime_ns
    simulate_trajectories(tmp_path, "spiral", shots=4, **SMALL)
    assert path.stat().st_mtime_ns == time
    with pytest.raises(InputError, match="made with other settings"):
        simulate_trajectories(tmp_path, "spiral", shots=5, **SMALL)
    simulate_trajectories(tmp_path, "spiral", shots=5, overwrite=True, **SMALL)
    with h5py.File(path) as file:
        stated = json.loads(file.attrs["simulation"])
    assert (stated["trajectory"], stated["shots"]) == ("spiral", 5)


def test_images_of_a_user_are_scanned_too(tmp_path: Path) -> None:
    y, x = np.mgrid[-1:1:40j, -1:1:40j]
    disc = (y**2 + x**2 < 0.6) * (1 + 0.3 * y)
    np.save(tmp_path / "mine.npy", np.stack([disc] * 8).astype(np.float32))
    common: dict[str, Any] = {
        "images": tmp_path / "mine.npy",
        "size": (36, 36),
        "coils": 2,
        "slices": 8,
        "progress": False,
    }
    (path,) = simulate_trajectories(tmp_path / "a", "cones", shots=12, **common)
    assert read_samples(path).encoding.encoded == (8, 36, 36)


@pytest.mark.parametrize(
    ("kind", "changed", "message"),
    [
        ("rosette", {}, "trajectory: 'rosette'; expected one of radial, spiral"),
        ("radial", {"shots": 0}, "shots: 0; expected at least 1"),
        ("radial", {"coils": 0}, "coils: 0"),
    ],
)
def test_bad_arguments_are_refused(kind: Any, changed: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        simulate_trajectories(tmp_path, kind, **SMALL | changed)
