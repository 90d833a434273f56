"""Objects that reach beyond the field of view that a trajectory was planned for."""

import warnings
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from convexrecon.data.dataset import PreparedSlices
from convexrecon.data.field_of_view import BORDER_SHARE, border_share, widened
from convexrecon.data.ismrmrd_samples import read_samples
from convexrecon.data.ismrmrd_writing import write_samples
from convexrecon.data.noncartesian_simulation import simulate_trajectories
from convexrecon.data.preparation import PreparationSettings, prepare
from convexrecon.data.prepared_shots import undersample_shots
from convexrecon.data.shot_preparation import read_shots
from convexrecon.errors import InputError
from convexrecon.evaluate.baselines import cg_sense
from convexrecon.evaluate.metrics import psnr
from convexrecon.physics.fourier import crop_centre
from convexrecon.physics.masks import MaskSettings
from convexrecon.physics.noncartesian_fourier import NonCartesianFourier
from convexrecon.physics.trajectories import kooshball, stack_of_stars
from convexrecon.reconstruct import reconstruct_file
from convexrecon.training.config import RunSettings
from convexrecon.training.model_settings import ModelSettings
from convexrecon.training.run_folder import RunFolder
from convexrecon.training.train import train

ROOM = PreparationSettings(field_of_view=1.5)
QUARTER = MaskSettings("shots", 4)


@pytest.fixture(scope="module")
def fitting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A radial scan of 60 x 48 pixels, whose object they hold."""
    folder = tmp_path_factory.mktemp("fitting")
    (path,) = simulate_trajectories(
        folder, "radial", volumes=1, slices=1, size=(60, 48), coils=6, anatomy="head", progress=False
    )
    return path


@pytest.fixture(scope="module")
def planned_small(fitting: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same samples as of a scan that was planned for 40 x 32 pixels of that size."""
    scan = read_samples(fitting)
    path = tmp_path_factory.mktemp("small") / "head_000.h5"
    write_samples(path, scan.samples, scan.coordinates / 1.5, (40, 32, 1))
    return path


@pytest.fixture(scope="module")
def with_room(planned_small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("with_room")
    prepare(planned_small, out, ROOM, progress=False)
    return out


def test_a_larger_field_of_view_is_the_same_object(fitting: Path, planned_small: Path) -> None:
    """Of the same samples: the scan planned small, with room, is the scan planned large."""
    large, small = read_shots(fitting), read_shots(planned_small, field_of_view=1.5)
    assert (small.shape, small.recon_size) == ((60, 48), (40, 32))
    assert torch.allclose(small.trajectory(0).coordinates, large.trajectory(0).coordinates, atol=1e-4)
    assert torch.allclose(small.samples, large.samples, atol=2e-4 * float(large.samples.abs().max()))


@pytest.mark.parametrize(("shape", "factor"), [((17, 20), 1.3), ((16, 21), 1.5), ((16, 16), 1.0)])
def test_pixels_stay_where_they_are(shape: tuple[int, int], factor: float) -> None:
    """An image beside the centre has the same samples with zeros around it."""
    rng = torch.Generator().manual_seed(0)
    coordinates = (torch.rand(5, 9, 2, generator=rng) - 0.5) * torch.tensor(shape)
    wide, pixels = widened(coordinates, shape, factor)
    image = torch.randn(1, 1, *shape, dtype=torch.complex64, generator=rng)
    padded = torch.zeros(1, 1, *pixels, dtype=torch.complex64)
    crop_centre(padded, shape).copy_(image)
    assert factor == 1 or all(n % 2 == 0 for n in pixels)
    # From the middle of either to index 0, as samples of a scanner are.
    ends = []
    for values, flat, size in ((image, coordinates, shape), (padded, wide, pixels)):
        where = flat.flatten(0, 1)
        samples = NonCartesianFourier(where, size, torch.ones(45), 1e-6).forward(values)
        scale = NonCartesianFourier(where, size, torch.ones(45), 1e-6).scale
        turns = (where.double() * torch.tensor([(n // 2) / n for n in size])).sum(-1)
        middle = torch.polar(torch.ones_like(turns), 2 * torch.pi * turns)
        ends.append(samples / scale * middle.to(samples) * float(np.prod(size)) ** 0.5)
    assert torch.allclose(ends[0], ends[1], atol=1e-3 * float(ends[0].abs().max()))


def test_axes_on_the_grid_stay() -> None:
    """Partitions fold: more of them would have no samples."""
    stars = stack_of_stars((8, 16, 16), 5)
    wide, shape = widened(stars, (8, 16, 16), 1.5)
    assert shape == (8, 24, 24)
    assert torch.equal(wide[..., 0], stars[..., 0])
    assert torch.allclose(wide[..., 1:], 1.5 * stars[..., 1:])


def test_room_makes_the_image_right(planned_small: Path, fitting: Path, with_room: Path, tmp_path: Path) -> None:
    """Against the image of the scan that was planned large enough, from all shots and from a quarter."""
    prepare(fitting, tmp_path / "truth", PreparationSettings(calibration=24), progress=False)
    with pytest.warns(UserWarning, match="reach beyond"):
        prepare(planned_small, tmp_path / "tight", PreparationSettings(), progress=False)
    truth, tight, room = (
        PreparedSlices(folder, QUARTER).load(0) for folder in (tmp_path / "truth", tmp_path / "tight", with_room)
    )
    assert tight.target.shape == (1, 40, 32)
    assert room.target.shape == (1, 60, 48)
    assert room.recon_size == (40, 32)
    found = {}
    for name, batch in (("tight", tight), ("room", room)):
        image = crop_centre(cg_sense(batch.sense, batch.kspace, 0.03) * batch.scale[0], (40, 32)).abs()
        found[name] = psnr(image, crop_centre(truth.target * truth.scale[0], (40, 32)).abs())
    assert found["room"] > found["tight"] + 3


def test_who_needs_room_is_told(fitting: Path, planned_small: Path, with_room: Path, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"head_000.*try --field-of-view 1.5"):
        prepare(planned_small, tmp_path / "tight", PreparationSettings(), progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prepare(fitting, tmp_path / "fitting", PreparationSettings(), progress=False)
    with h5py.File(with_room / "head_000.h5") as file:
        assert border_share(torch.from_numpy(file["target"][0])) < BORDER_SHARE / 2


def test_the_border_counts_by_its_signal() -> None:
    image = torch.zeros(32, 32, dtype=torch.complex64)
    assert border_share(image) == 0
    image[8:24, 8:24].fill_(2)
    assert border_share(image) == 0
    assert border_share(torch.ones_like(image)) == pytest.approx(1)


def test_along_a_stack_no_border_counts() -> None:
    image = torch.zeros(6, 32, 32, dtype=torch.complex64)
    image[:, 8:24, 8:24].fill_(2)
    assert border_share(image, (1, 2)) == border_share(image.movedim(0, 2), (0, 1)) == 0
    assert border_share(image.movedim(0, 2), (0, 1, 2)) > BORDER_SHARE
    assert border_share(image, ()) == 0


@pytest.mark.parametrize("stack", [True, False])
def test_a_volume_with_room_is_cropped_along_all_axes(tmp_path: Path, stack: bool) -> None:
    size = (8, 16, 12)
    path = tmp_path / "volume.h5"
    trajectory = (stack_of_stars(size, 12) if stack else kooshball(size, 96)).numpy()
    generator = torch.Generator().manual_seed(0)
    samples = torch.randn(1, 2, *trajectory.shape[:2], dtype=torch.complex64, generator=generator)
    write_samples(path, samples.numpy(), trajectory, size)
    scan = read_shots(path, field_of_view=1.5)
    assert scan.shape == ((8, 24, 18) if stack else (12, 24, 18))
    assert scan.recon_size == size
    assert scan.open_axes == (1, 2)
    moved = trajectory[..., [2, 1, 0]] if stack else trajectory
    write_samples(path, samples.numpy(), moved, size[::-1] if stack else size)
    assert read_shots(path).open_axes == ((0, 1) if stack else (1, 2))
    kept = torch.arange(0, trajectory.shape[0], 2)
    batch = undersample_shots(
        scan.samples[0], scan.trajectory(0), torch.ones(2, *scan.shape, dtype=torch.complex64), kept,
        recon_size=scan.recon_size,
    )  # fmt: skip
    assert crop_centre(batch.target, batch.recon_size).shape == (1, *size)


def test_another_field_of_view_is_prepared_again(planned_small: Path, with_room: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.warns(UserWarning, match="reach beyond"):
        prepare(planned_small, out, PreparationSettings(), progress=False)
    assert prepare(planned_small, out, ROOM, progress=False).renewed == ("head_000",)
    assert prepare(planned_small, out, ROOM, progress=False).skipped == ("head_000",)
    assert '"field_of_view": 1.5' in ROOM.stamp()
    assert "field_of_view" not in PreparationSettings().stamp()


def test_a_run_reconstructs_in_the_field_of_view_of_its_data(
    planned_small: Path, with_room: Path, tmp_path: Path
) -> None:
    settings = RunSettings(mask=QUARTER, model=ModelSettings(blocks=1, kernel=3, units=4), validation_fraction=0)
    train(settings, with_room, tmp_path / "run", progress=False)
    assert RunFolder(tmp_path / "run").field_of_view == 1.5
    scores = {}
    for name, factor in (("of the data", None), ("asked", 1.5), ("none", 1.0)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore" if name == "none" else "error")
            result = reconstruct_file(
                tmp_path / "run", planned_small, tmp_path / "out.h5", field_of_view=factor, progress=False
            )
        scores[name] = result.psnr
        with h5py.File(tmp_path / "out.h5") as file:
            assert file["reconstruction"].shape == file["target_complex"].shape == (1, 40, 32)
    assert scores["of the data"] == scores["asked"] != scores["none"]


def test_what_makes_no_sense_is_refused(planned_small: Path, scans: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"field_of_view: found 0.9; expected a factor of at least 1"):
        replace(ROOM, field_of_view=0.9)
    with pytest.raises(InputError, match="field_of_view: found nan"):
        read_shots(planned_small, field_of_view=float("nan"))
    with pytest.raises(InputError, match=r"field_of_view 1.5 asked for of a scan on the grid"):
        prepare(scans, tmp_path / "out", ROOM, progress=False)
