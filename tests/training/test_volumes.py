"""Training on volumes and series: the same line as for slices, with kernels of three axes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import pytest
import torch

from convexrecon.data.dataset import PreparedSlices
from convexrecon.data.kspace_simulation import simulate_slice
from convexrecon.data.prepared_files import PREPARED_FORMAT
from convexrecon.denoisers.residual import ResidualDenoiser
from convexrecon.errors import InputError
from convexrecon.physics.fourier import centred_fft
from convexrecon.physics.masks import MaskSettings
from convexrecon.physics.sense import Sense
from convexrecon.training.config import RunSettings, dump_settings, load_settings
from convexrecon.training.convex_settings import ConvexSettings
from convexrecon.training.descent_settings import DescentSettings
from convexrecon.training.held_out_samples import split_batch
from convexrecon.training.model_settings import ModelSettings
from convexrecon.training.new_cascade import new_cascade
from convexrecon.training.run_folder import RunFolder
from convexrecon.training.train import certify_run, train
from convexrecon.weights import load_cascade

FRAMES, SIZE = 6, (32, 32)
RUN = RunSettings(
    mask=MaskSettings("poisson", 3.0, calibration=8),
    model=ModelSettings(blocks=2, kernel=(3, 3, 3), units=3),
    descent=DescentSettings(epochs=1),
    validation_fraction=0,
)


def write_prepared(folder: Path, layout: str) -> Path:
    """Two neighbourhoods of slices of simulated heads, prepared with their true maps."""
    folder.mkdir()
    for seed in range(2):
        slices = [simulate_slice(SIZE, coils=3, seed=seed, position=0.4 + 0.02 * z) for z in range(FRAMES)]
        image, maps = (torch.stack([getattr(one, name) for one in slices]) for name in ("image", "maps"))
        if layout == "cine":
            maps = maps[:1].expand_as(maps)
        with h5py.File(folder / f"v{seed}.h5", "w") as file:
            file["kspace"] = centred_fft(maps * image[:, None], 2).numpy()
            file["maps"] = (maps[0] if layout == "cine" else maps).numpy()
            file["target"] = image.numpy()
            file.attrs.update({"format": PREPARED_FORMAT, "layout": layout, "recon_size": SIZE})
    return folder


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prepared(tmp_path_factory.mktemp("prepared") / "volumes", "volume")


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prepared(tmp_path_factory.mktemp("prepared") / "series", "cine")


def test_convex_blocks_of_slabs_are_certified(volumes: Path, tmp_path: Path) -> None:
    settings = replace(RUN, slab=4, convex=ConvexSettings(pixel_fraction=0.5))
    train(settings, volumes, tmp_path / "run", progress=False)
    rows = certify_run(RunFolder(tmp_path / "run"), volumes, progress=False)
    assert len(rows) == 2
    assert all(row["relative_gap"] <= 2e-5 for row in rows)
    (first, *_), _ = load_cascade(tmp_path / "run" / "weights.safetensors")
    assert first.denoiser.gates.kernel == (3, 3, 3)  # type: ignore[union-attr]
    keys = RunFolder(tmp_path / "run").read_summary()["data"]["train"]
    assert keys == ["v0/0", "v0/2", "v1/0", "v1/2"]


def test_samples_are_held_out_frame_by_frame(series: Path) -> None:
    batch = PreparedSlices(series, MaskSettings("variable", 3.2, center_fraction=0.12)).load(0)
    kept, held_out = split_batch(batch, 0.3, 0)
    assert torch.equal(kept.mask + held_out.mask, batch.mask)
    assert torch.equal(kept.kspace + held_out.kspace, batch.kspace)
    for frame, whole in zip(held_out.mask[0, 0], batch.mask[0, 0], strict=True):
        assert float(frame.sum()) == round(0.3 * float(whole.sum()))


def test_batches_do_not_change_a_convex_run_and_three_axes_help(volumes: Path, tmp_path: Path) -> None:
    quality = {}
    for name, kernel, batch in (("one", (3, 3, 3), 1), ("two", (3, 3, 3), 2), ("flat", (1, 3, 3), 1)):
        settings = replace(RUN, batch_size=batch, model=replace(RUN.model, kernel=kernel, units=6))
        train(settings, volumes, tmp_path / name, progress=False)
        quality[name] = [row["psnr_train"] for row in RunFolder(tmp_path / name).read_metrics()]
    assert quality["two"] == pytest.approx(quality["one"], abs=1e-3)
    assert quality["one"][1] > quality["one"][0]
    # Neighbouring slices are alike: filters that see them must do better on what they are trained on.
    assert quality["one"][1] > quality["flat"][1] + 0.1


@pytest.mark.parametrize("method", ["end_to_end", "gleam", "layerwise"])
def test_descent_trains_on_series_with_a_periodic_time(series: Path, tmp_path: Path, method: Any) -> None:
    model = replace(RUN.model, kernel=(3, 5, 5), periodic=True)
    settings = replace(RUN, method=method, mask=MaskSettings("variable", 3.2, center_fraction=0.12), model=model)
    train(settings, series, tmp_path / "run", progress=False)
    cascade, _ = load_cascade(tmp_path / "run" / "weights.safetensors")
    for block in cascade:
        assert isinstance(block.denoiser, ResidualDenoiser)
        assert (block.denoiser.kernel, block.denoiser.periodic) == ((3, 5, 5), True)
    row = RunFolder(tmp_path / "run").read_metrics()[-1]
    assert torch.isfinite(torch.tensor(row["loss"]))


def test_convex_blocks_of_series_go_round_and_start_from_the_average(series: Path, tmp_path: Path) -> None:
    model = replace(RUN.model, kernel=(5, 3, 3), periodic=True, initial="time_average")
    mask = MaskSettings("variable", 3.2, center_fraction=0.12)
    train(replace(RUN, mask=mask, model=model), series, tmp_path / "run", progress=False)
    assert all(row["relative_gap"] <= 2e-5 for row in certify_run(RunFolder(tmp_path / "run"), series, progress=False))
    cascade, _ = load_cascade(tmp_path / "run" / "weights.safetensors")
    batch = PreparedSlices(series, mask).load(0)
    assert isinstance(batch.sense, Sense)
    rolled = replace(batch.sense, mask=batch.sense.mask.roll(2, 2))
    with torch.no_grad():
        later = cascade(rolled, batch.kspace.roll(2, 2)).roll(-2, 1)
        difference = (later - cascade(batch.sense, batch.kspace)).norm() / later.norm()
    assert float(difference) < 1e-3


def test_a_periodic_cascade_shifts_with_its_series() -> None:
    settings = replace(RUN, model=replace(RUN.model, periodic=True))
    denoiser = next(iter(new_cascade(settings, 3))).denoiser
    series = torch.randn(1, 2, 5, 9, 9, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(denoiser(series.roll(2, 2)), denoiser(series).roll(2, 2))


def test_kernels_of_axes_are_kept_in_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(dump_settings(replace(RUN, slab=4)))
    assert load_settings(tmp_path / "run.toml") == replace(RUN, slab=4)
    (tmp_path / "odd.toml").write_text("[model]\nkernel = [3, 4, 3]")
    with pytest.raises(InputError, match="an odd kernel, found"):
        load_settings(tmp_path / "odd.toml")
    (tmp_path / "text.toml").write_text('[model]\nkernel = [3, "3"]')
    with pytest.raises(InputError, match="kernel: expected a whole number or a list of them"):
        load_settings(tmp_path / "text.toml")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": replace(RUN.model, kernel=5), "slab": 3}, r"kernel: \(5, 5, 5\) is larger than the slab of v0.h5"),
        ({"model": replace(RUN.model, kernel=(7, 3, 3))}, r"\(7, 3, 3\) is larger than the volume of v0.h5, \(6, 32"),
        ({"model": replace(RUN.model, kernel=(3, 3))}, "model.kernel: expected an odd size, or one for each of 3 axes"),
        ({"model": replace(RUN.model, initial="time_average")}, "'time_average' expects data of layout 'cine', found"),
        ({"model": replace(RUN.model, initial="kt_focuss")}, "'kt_focuss' expects data of layout 'cine', found"),
    ],
)
def test_what_does_not_fit_volumes_is_refused(
    volumes: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        train(replace(RUN, **changes), volumes, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_what_does_not_fit_slices_is_refused(prepared: Path, volumes: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="one for each of 2 axes"):
        train(RUN, prepared, tmp_path / "run", progress=False)
    flat = replace(RUN, model=replace(RUN.model, kernel=3))
    with pytest.raises(InputError, match="slab = 4 asked for of layout 'slices'"):
        train(replace(flat, slab=4), prepared, tmp_path / "run", progress=False)
    with pytest.raises(InputError, match=r"expected layout 'slices' as .*found 'volume'"):
        train(flat, prepared, tmp_path / "run", validation=volumes, progress=False)
    with pytest.raises(InputError, match="expected images of three axes"):
        new_cascade(replace(RUN, model=replace(RUN.model, kernel=3, periodic=True)), 2)
    with pytest.raises(InputError, match=r"model.periodic: expected images of three axes, .* found 'slices'"):
        train(replace(flat, model=replace(flat.model, periodic=True)), prepared, tmp_path / "run", progress=False)
