"""Scans along trajectories prepared and loaded: units, origins and weights at one place each."""

import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from convexrecon.data.dataset import PreparedSlices, batch_plan, batches
from convexrecon.data.ismrmrd_samples import Units, read_samples
from convexrecon.data.ismrmrd_writing import write_samples
from convexrecon.data.kspace_simulation import simulate_slice
from convexrecon.data.noncartesian_simulation import simulate_trajectories
from convexrecon.data.preparation import PreparationSettings, prepare
from convexrecon.data.sample_batch import stack
from convexrecon.data.shared_trajectories import fourier_of, trajectory_of
from convexrecon.data.shot_preparation import has_trajectory, shot_maps
from convexrecon.data.simulation import simulate_dataset
from convexrecon.errors import InputError
from convexrecon.physics.density_compensation import pipe_menon
from convexrecon.physics.masks import MaskSettings
from convexrecon.physics.noncartesian_maps import noncartesian_maps
from convexrecon.physics.noncartesian_sense import NonCartesianSense
from convexrecon.physics.nufft import Nufft, uncentre_samples
from convexrecon.physics.shot_sampling import kept_shots
from convexrecon.physics.trajectories import radial
from convexrecon.seeding import derive_seed

SHOTS = MaskSettings("shots", 4)


def rewritten(source: Path, path: Path, change: Any, **options: Any) -> Path:
    """A scan with other samples or coordinates: (samples, coordinates) -> the same."""
    scan = read_samples(source)
    samples, coordinates = change(scan.samples.copy(), scan.coordinates.copy())
    write_samples(path, samples, coordinates, scan.encoding.encoded, **options)
    return path


def test_the_operator_is_that_built_by_hand(shot_scans: Path, prepared_shots: Path) -> None:
    slices = PreparedSlices(prepared_shots, SHOTS, seed=5)
    batch = slices.load(3)
    scan = read_samples(shot_scans / f"{batch.volume[0]}.h5")
    rng = torch.Generator().manual_seed(derive_seed(5, "mask", batch.volume[0]))
    kept = kept_shots(torch.from_numpy(scan.coordinates), SHOTS, rng)
    coordinates = torch.from_numpy(scan.coordinates)[kept].flatten(0, 1)
    sense = NonCartesianSense.along(coordinates, batch.maps, pipe_menon(coordinates, (36, 32)))
    raw = torch.from_numpy(scan.samples[batch.slice_index[0]])[:, kept].flatten(1).unsqueeze(0)
    kspace = sense.weigh(uncentre_samples(raw, coordinates, (36, 32)))
    zero_filled = sense.adjoint(kspace)
    scale = torch.quantile(zero_filled.abs(), 0.95)
    assert torch.allclose(batch.scale[0], scale, rtol=1e-4)
    assert torch.allclose(batch.sense.adjoint(batch.kspace), zero_filled / scale, atol=1e-4)
    assert torch.allclose(batch.sense.normal(batch.target), sense.normal(batch.target), atol=1e-4)


def test_the_target_is_as_clean_as_the_scan(tmp_path: Path) -> None:
    """Noise of 1 % stays that, though converged iterations amplify it where nothing is sampled."""
    found = {}
    for noise in (0.0, 0.01):
        scans, out = tmp_path / f"scans{noise}", tmp_path / f"out{noise}"
        simulate_trajectories(
            scans, "radial", volumes=1, slices=1, size=(36, 36), coils=4, noise=noise, anatomy="head", progress=False
        )
        prepare(scans, out, PreparationSettings(), progress=False)
        batch = PreparedSlices(out, MaskSettings("full")).load(0)
        found[noise] = batch.target[0] * batch.scale
    error = float((found[0.01] - found[0.0]).norm() / found[0.0].norm())
    assert 0.001 < error < 0.03
    explained = batch.sense.forward(batch.target)
    assert float((explained - batch.kspace).norm()) < 0.15 * float(batch.kspace.norm())


def test_slices_of_one_choice_of_shots_are_batched_and_share_its_operator(prepared_shots: Path) -> None:
    slices = PreparedSlices(prepared_shots, MaskSettings("shots", 2))
    plan = batch_plan(slices, 6)
    assert sorted(index for chunk in plan for index in chunk) == list(range(6))
    for chunk in plan:
        parts = [slices.load(index) for index in chunk]
        both = stack(parts)
        assert len({id(part.sense.fourier) for part in parts if isinstance(part.sense, NonCartesianSense)}) == 1
        alone = torch.cat([part.sense.adjoint(part.kspace) for part in parts])
        assert torch.allclose(both.sense.adjoint(both.kspace), alone, atol=1e-5)
    assert sum(len(batch.volume) for batch in batches(slices, 6)) == 6


def test_what_is_computed_of_a_trajectory_is_kept() -> None:
    coordinates = torch.rand(4, 50, 2, generator=torch.Generator().manual_seed(0)) * 30 - 15
    one, other = (trajectory_of(coordinates.clone(), (36, 32)) for _ in range(2))
    assert fourier_of(one) is fourier_of(other)
    assert fourier_of(trajectory_of(coordinates, (36, 36))) is not fourier_of(one)


def test_a_second_run_does_nothing_and_other_settings_renew(shot_scans: Path, tmp_path: Path) -> None:
    scan = shot_scans / "head_000.h5"
    assert prepare(scan, tmp_path, PreparationSettings(), progress=False).prepared == ("head_000",)
    assert prepare(scan, tmp_path, PreparationSettings(), progress=False).skipped == ("head_000",)
    assert prepare(scan, tmp_path, PreparationSettings(calibration=12), progress=False).renewed == ("head_000",)


def test_units_do_not_matter_where_they_are_known(shot_scans: Path, tmp_path: Path) -> None:
    source = shot_scans / "head_000.h5"
    pixels = rewritten(source, tmp_path / "head_000.h5", lambda s, c: (s, c / np.array([36, 32], np.float32)))
    (tmp_path / "b").mkdir()
    angles = rewritten(
        source, tmp_path / "b" / "head_000.h5", lambda s, c: (s, c * 2 * np.pi / np.array([36, 32], np.float32))
    )
    ways: list[tuple[str, Path, Units | None]] = [("a", source, None), ("p", pixels, None), ("r", angles, "rad/pixel")]
    targets = []
    for name, path, units in ways:
        prepare(path, tmp_path / name, PreparationSettings(), units=units, progress=False)
        with h5py.File(tmp_path / name / "head_000.h5") as file:
            targets.append(file["target"][0])
    assert np.linalg.norm(targets[1] - targets[0]) < 1e-3 * np.linalg.norm(targets[0])
    assert np.linalg.norm(targets[2] - targets[0]) < 1e-3 * np.linalg.norm(targets[0])


def test_slices_may_have_trajectories_of_their_own(shot_scans: Path, tmp_path: Path) -> None:
    def turned(samples: Any, coordinates: Any) -> Any:
        return samples, np.stack([coordinates, -coordinates])

    prepare(
        rewritten(shot_scans / "head_000.h5", tmp_path / "two.h5", turned), tmp_path / "out", PreparationSettings(),
        progress=False,
    )  # fmt: skip
    slices = PreparedSlices(tmp_path / "out", SHOTS)
    assert len(batch_plan(slices, 2)) == 2
    first, second = (slices.load(index).sense for index in range(2))
    assert isinstance(first, NonCartesianSense)
    assert isinstance(second, NonCartesianSense)
    assert torch.equal(first.fourier.coordinates, -second.fourier.coordinates)


def test_a_volume_is_one_sample(tmp_path: Path) -> None:
    simulate_trajectories(
        tmp_path / "scans", "stack_of_stars", volumes=1, slices=8, size=(32, 32), coils=2, shots=24, anatomy="head",
        progress=False,
    )  # fmt: skip
    prepare(tmp_path / "scans", tmp_path / "out", PreparationSettings(calibration=8), progress=False)
    slices = PreparedSlices(tmp_path / "out", SHOTS)
    assert (slices.layout, slices.dimensions, len(slices)) == ("noncartesian-volume", 3, 1)
    batch = slices.load(0)
    assert batch.target.shape == (1, 8, 32, 32)
    assert batch.shots is not None
    assert batch.shots.acceleration == 4
    with pytest.raises(InputError, match="slab = 4 asked for"):
        PreparedSlices(tmp_path / "out", SHOTS, slab=4)


def test_other_files_are_told_apart(shot_scans: Path, tmp_path: Path) -> None:
    (grid,) = simulate_dataset(tmp_path, volumes=1, slices=1, size=(32, 32), coils=2, progress=False)
    assert has_trajectory(shot_scans / "head_000.h5")
    assert not has_trajectory(grid)
    assert not has_trajectory(tmp_path / "nothing.h5")


@pytest.mark.parametrize(
    ("change", "units", "message"),
    [
        (lambda s, c: (s, c * 2 * np.pi / 36), None, "their units cannot be told"),
        (lambda s, c: (s, c * 10), None, "their units cannot be told"),
        (lambda s, c: (s, c / 36), "cycles/fov", "looks like cycles per pixel"),
        (lambda s, c: (s * 0, c), None, "zero"),
    ],
)
def test_bad_scans_are_refused(change: Any, units: Any, message: str, shot_scans: Path, tmp_path: Path) -> None:
    path = rewritten(shot_scans / "head_000.h5", tmp_path / "bad.h5", change)
    with pytest.raises(InputError, match=message) as caught:
        prepare(path, tmp_path / "out", PreparationSettings(), units=units, progress=False)
    assert "bad.h5" in str(caught.value)
    assert not (tmp_path / "out" / "bad.h5").exists()


def test_a_trajectory_of_other_readouts_is_refused(shot_scans: Path, tmp_path: Path) -> None:
    path = shutil.copy(shot_scans / "head_000.h5", tmp_path / "bad.h5")
    with h5py.File(path, "r+") as file:
        record = file["dataset/data"][2]
        record["traj"] = record["traj"][:-2]
        file["dataset/data"][2] = record
    with pytest.raises(InputError, match=r"bad\.h5"):
        prepare(path, tmp_path / "out", PreparationSettings(), progress=False)


def test_not_a_number_in_a_trajectory_is_refused(shot_scans: Path, tmp_path: Path) -> None:
    path = shutil.copy(shot_scans / "head_000.h5", tmp_path / "bad.h5")
    with h5py.File(path, "r+") as file:
        record = file["dataset/data"][2]
        record["traj"] = np.where(np.arange(len(record["traj"])) == 5, np.nan, record["traj"]).astype(np.float32)
        file["dataset/data"][2] = record
    with pytest.raises(InputError, match="NaN"):
        prepare(path, tmp_path / "out", PreparationSettings(), progress=False)


def test_a_layout_is_not_asked_for(shot_scans: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="layout 'cine' asked for of a scan along a trajectory"):
        prepare(shot_scans, tmp_path, PreparationSettings(), layout="cine", progress=False)


def test_masks_of_a_grid_are_refused_before_anything_is_read(prepared_shots: Path) -> None:
    with pytest.raises(InputError, match="'poisson' picks points of a grid"):
        PreparedSlices(prepared_shots, MaskSettings("poisson"))


def _infinite(file: h5py.File) -> None:
    file["samples"][0, 0, 0, 0] = np.inf


def _short(file: h5py.File) -> None:
    samples = file["samples"][()]
    del file["samples"]
    file["samples"] = samples[:, :, :-1]


def _moved(file: h5py.File) -> None:
    file["coordinates"][0, 0, 0] = 3


@pytest.mark.parametrize(
    ("damage", "message"),
    [(_infinite, "samples holds NaN or Inf"), (_short, "prepare it again"), (_moved, "trajectory has changed")],
)
def test_damaged_files_are_refused(damage: Any, message: str, prepared_shots: Path, tmp_path: Path) -> None:
    path = shutil.copy(prepared_shots / "head_000.h5", tmp_path / "damaged.h5")
    with h5py.File(path, "r+") as file:
        damage(file)
    with pytest.raises(InputError, match=message):
        PreparedSlices(tmp_path, SHOTS).load(0)


@pytest.mark.parametrize("extent", [8, 10])
def test_patches_are_taken_of_a_small_centre_too(extent: int) -> None:
    one = simulate_slice((64, 64), coils=6, seed=3)
    whole = trajectory_of(radial((64, 64), 50), (64, 64))
    flat = whole.coordinates.flatten(0, 1)
    samples = Nufft(flat, (64, 64), 1e-6).forward(one.maps * one.image)

    object_ = one.image.abs() > 0.1 * one.image.abs().max()

    def error(maps: torch.Tensor) -> float:
        """Of the unit vectors over coils, where there is an object."""
        overlap = (maps.conj() * one.maps).sum(0).abs() / torch.linalg.vector_norm(one.maps, dim=0)
        return float((1 - overlap[object_ & maps.any(0)].square()).clamp_min(0).mean().sqrt())

    found = shot_maps(
        samples.unflatten(-1, whole.coordinates.shape[:2]), whole, PreparationSettings(calibration=extent)
    )
    plain = noncartesian_maps(samples[None], flat, (64, 64), method="root-sum-of-squares", calibration=extent)[0]
    assert float(found.any(0)[object_].float().mean()) > 0.9
    assert error(found) < 0.5 * error(plain)
