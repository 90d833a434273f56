"""Training patch by patch: what every trainer makes of it, its memory, its settings, its file."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor

from convexrecon.cascade import Block, Cascade
from convexrecon.data.dataset import Batch, PreparedSlices, stack
from convexrecon.denoisers.building import new_denoiser
from convexrecon.errors import InputError
from convexrecon.physics.data_consistency import GradientDataConsistency, NoDataConsistency
from convexrecon.physics.sense import Sense
from convexrecon.reconstruct import reconstruct_file
from convexrecon.training.config import RunSettings, dump_settings, load_settings
from convexrecon.training.descent import Portion
from convexrecon.training.descent_settings import DescentSettings
from convexrecon.training.live_memory import LiveMemory
from convexrecon.training.model_settings import ModelSettings
from convexrecon.training.new_cascade import new_cascade
from convexrecon.training.ranks import Ranks
from convexrecon.training.step_clock import StepClock
from convexrecon.training.train import train
from convexrecon.training.train_descent import TRAINERS, cascade_of_run
from convexrecon.weights import load_cascade, save_cascade

CPU = torch.device("cpu")
OPTIONS = DescentSettings(clip=1e9)


@pytest.fixture
def batch(prepared: Path, small_run: RunSettings) -> Batch:
    data = PreparedSlices(prepared, small_run.mask)
    return stack([data.load(0), data.load(1)])


def patched(model: Cascade, patch: int | tuple[int, ...] | None) -> Cascade:
    copy = deepcopy(model)
    for block in copy:
        block.use_patches(patch)
    return copy


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def gradient(model: Cascade, method: str, batch: Batch) -> Tensor:
    TRAINERS[method](model, OPTIONS, Ranks()).step(Portion(batch), StepClock(CPU))
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("method", sorted(TRAINERS))
def test_a_step_has_the_gradients_that_it_has_on_whole_images(batch: Batch, method: str) -> None:
    shape = ModelSettings(blocks=3, kernel=3, denoiser="modl", width=4, spectral=0.5)
    model = new_cascade(RunSettings(model=shape))
    found = gradient(patched(model, (17, 12)), method, batch)
    assert relative(found, gradient(deepcopy(model), method, batch)) < 1e-4


def test_denoisers_in_bfloat16_take_patches(batch: Batch) -> None:
    settings = RunSettings(
        model=ModelSettings(blocks=2, kernel=3, units=4), descent=DescentSettings(precision="bfloat16")
    )
    model = new_cascade(settings)
    found = gradient(patched(model, 16), "end_to_end", batch)
    assert relative(found, gradient(deepcopy(model), "end_to_end", batch)) < 2e-2


@pytest.mark.parametrize("method", ["end_to_end", "gleam", "convex", "layerwise"])
def test_a_run_ends_where_it_ends_on_whole_images(
    prepared: Path, small_run: RunSettings, tmp_path: Path, method: str
) -> None:
    settings = replace(small_run, method=method, descent=DescentSettings(epochs=2))  # type: ignore[arg-type]
    cut = replace(settings, model=replace(settings.model, patch=(20, 11)))
    whole = train(settings, prepared, tmp_path / "whole", progress=False)
    inpatches = train(cut, prepared, tmp_path / "cut", progress=False)
    one = PreparedSlices(prepared, settings.mask).load(0)
    with torch.no_grad():
        assert relative(inpatches(one.sense, one.kspace), whole(one.sense, one.kspace)) < 1e-4
    # The patches are those of the network that was saved.
    for block in load_cascade(tmp_path / "cut" / "weights.safetensors")[0]:
        assert block.patches is not None
        assert (block.patches.patch, block.patches.halo) == ((20, 11), (1, 1))
    assert all(block.patches is None for block in load_cascade(tmp_path / "whole" / "weights.safetensors")[0])


def test_a_run_reconstructs_with_other_patches(
    prepared: Path, scans: Path, small_run: RunSettings, tmp_path: Path
) -> None:
    train(replace(small_run, model=replace(small_run.model, patch=16)), prepared, tmp_path / "run", progress=False)
    scan, images = sorted(scans.glob("*.h5"))[0], []
    for patch in ("as trained", None, (9, 30)):
        out = tmp_path / "r.h5"
        reconstruct_file(tmp_path / "run", scan, out, patch=patch, progress=False)
        with h5py.File(out) as file:
            images.append(file["reconstruction"][()])
    assert all(np.allclose(image, images[0], rtol=1e-4, atol=1e-5 * images[0].max()) for image in images)
    with pytest.raises(InputError, match="one for each of 2 axes"):
        reconstruct_file(tmp_path / "run", scan, tmp_path / "r.h5", patch=(9, 9, 9), progress=False)


def test_memory_of_a_step_does_not_follow_the_volume() -> None:
    model = Cascade(
        Block(
            new_denoiser("modl", width=48, kernel=3, dimensions=3, generator=torch.Generator().manual_seed(index)),
            GradientDataConsistency(learn=True),
        )
        for index in range(2)
    )

    def taken(depth: int, patch: int | None) -> float:
        """Bytes of a step, in units of those of a slab of the image one pixel deep."""
        rng, shape = torch.Generator().manual_seed(0), (depth, 8, 8)
        maps = torch.randn(1, 2, *shape, generator=rng, dtype=torch.complex64) / 2
        sense = Sense(maps, (torch.rand(1, 1, *shape, generator=rng) < 0.5).float())
        kspace = sense.forward(torch.randn(1, *shape, generator=rng, dtype=torch.complex64))
        used = patched(model, patch)
        with LiveMemory(CPU) as memory:
            used(sense, kspace).abs().square().sum().backward()
        return 1e6 * memory.peak_mb / (8 * 8 * 8)

    whole = (taken(48, None) - taken(32, None)) / 16
    cut = (taken(48, 8) - taken(32, 8)) / 16
    # Of two blocks, activations of 48 channels against coil images and a few more of two channels.
    assert whole > 300
    assert cut < 0.05 * whole


def test_settings_survive_the_file(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    for patch, halo in ((None, None), (32, None), ((32, 24), 3), ((32, 24, 16), (3, 3, 2))):
        settings = RunSettings(model=ModelSettings(patch=patch, halo=halo))
        path.write_text(dump_settings(settings))
        assert load_settings(path) == settings
    path.write_text('[model]\npatch = ["wide"]\n')
    with pytest.raises(InputError, match="patch: expected a whole number or a list of them"):
        load_settings(path)
    path.write_text("[model]\nhalo = 3\n")
    with pytest.raises(InputError, match=r"model\.halo: expected model\.patch with it, found 3 and no patch"):
        load_settings(path)


def test_a_halo_alone_is_refused_and_one_too_small_is_kept_in_the_file(tmp_path: Path) -> None:
    denoiser = new_denoiser("modl", width=4, generator=torch.Generator().manual_seed(0))
    with pytest.raises(InputError, match="expected a patch with it, found halo = 3"):
        Block(denoiser, NoDataConsistency(), halo=3)
    with pytest.warns(UserWarning, match=r"halo \(2, 2\) is smaller than the receptive field \(5, 5\)"):
        block = Block(denoiser, NoDataConsistency(), patch=16, halo=2)
    save_cascade(tmp_path / "w.safetensors", Cascade([block]))
    with pytest.warns(UserWarning, match="smaller than the receptive field"):
        (loaded,) = load_cascade(tmp_path / "w.safetensors")[0]
    assert loaded.patches == block.patches


def test_a_start_from_a_convex_run_takes_the_patches_asked_for(
    prepared: Path, small_run: RunSettings, tmp_path: Path
) -> None:
    train(small_run, prepared, tmp_path / "convex", progress=False)
    data = PreparedSlices(prepared, small_run.mask)
    options = DescentSettings(start_run=str(tmp_path / "convex"))
    settings = replace(small_run, method="end_to_end", descent=options)
    whole = cascade_of_run(settings, data)
    cut = cascade_of_run(replace(settings, model=replace(settings.model, patch=16)), data)
    assert [block.patches is None for block in (*whole, *cut)] == [True, True, False, False]
