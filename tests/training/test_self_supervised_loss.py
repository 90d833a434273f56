"""Training on samples that the cascade does not see: its map, its program, and that nothing else is used."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import pytest
import torch

from convexrecon.cascade import Cascade, support, to_channels
from convexrecon.convex.arrangements import draw_gates
from convexrecon.convex.consistent_map import consistent_part
from convexrecon.convex.consistent_program import solve_consistent_program
from convexrecon.convex.patches import BlockBatch
from convexrecon.convex.program import ProgramSettings
from convexrecon.data.dataset import PreparedSlices, stack
from convexrecon.denoisers.gated import GatedDenoiser
from convexrecon.physics.data_consistency import (
    DataConsistency,
    GradientDataConsistency,
    NoDataConsistency,
    ProximalDataConsistency,
)
from convexrecon.physics.sense import Sense
from convexrecon.solvers.reference import reference_gated
from convexrecon.training.config import RunSettings
from convexrecon.training.consistent_loss import BehindConsistency
from convexrecon.training.convex_settings import ConvexSettings
from convexrecon.training.held_out_samples import split_batch
from convexrecon.training.run_folder import RunFolder
from convexrecon.training.self_supervised_loss import BehindHeldOut, samples_of
from convexrecon.training.train import certify_run, train
from convexrecon.weights import load_cascade

STEPS = [ProximalDataConsistency(0.1, iterations=300, tolerance=1e-13), GradientDataConsistency(0.9)]
SELF_SUPERVISED = ConvexSettings(
    ProgramSettings(beta_ratio=1e-2, tolerance=1e-3),
    loss="self_supervised",
    held_out_behind="consistency",
    loss_lam=0.2,
    pixel_fraction=0.6,
)


def behind(
    consistency: DataConsistency, *shape: int, share: float = 0.03
) -> tuple[BehindHeldOut, torch.Tensor, torch.Generator]:
    """The map of a random scan of 3 coils in double precision, and k-space of it."""
    rng = torch.Generator().manual_seed(sum(shape))
    maps = torch.randn(1, 3, *shape, generator=rng, dtype=torch.complex128)
    maps = maps / maps.abs().square().sum(1, keepdim=True).sqrt()
    drawn = torch.rand(1, 1, *shape, generator=rng)
    kept, held_out = (drawn < 0.4).double(), ((drawn >= 0.4) & (drawn < 0.6)).double()
    kspace = torch.randn(1, 3, *shape, generator=rng, dtype=torch.complex128)
    return BehindHeldOut(consistency, Sense(maps, kept), Sense(maps, held_out), share), kspace, rng


def trained_slices(prepared: Path, run: Path, settings: RunSettings) -> PreparedSlices:
    volumes = {key.rpartition("/")[0] for key in RunFolder(run).read_summary()["data"]["train"]}
    return PreparedSlices(prepared, settings.mask, seed=settings.seed).subset(sorted(volumes))


def weights_of(cascade: Cascade) -> torch.Tensor:
    blocks = [block.denoiser for block in cascade]
    assert all(isinstance(block, GatedDenoiser) for block in blocks)
    return torch.cat([block.weights.flatten() for block in blocks if isinstance(block, GatedDenoiser)])


@pytest.mark.parametrize("consistency", STEPS, ids=lambda c: c.kind)
@pytest.mark.parametrize("shape", [(9, 14), (13, 8)])
def test_the_maps_have_their_exact_adjoints(consistency: DataConsistency, shape: tuple[int, int]) -> None:
    held_out, _, rng = behind(consistency, *shape)
    direct = replace(held_out, consistency=NoDataConsistency(), share=0.0)
    for layer in (held_out, direct, BehindConsistency(consistency, held_out.kept, 0.05)):
        error = torch.randn(1, 2, *shape, generator=rng, dtype=torch.float64)
        seen = layer.forward(error)
        data = torch.randn(seen.shape, generator=rng, dtype=torch.float64)
        pulled = layer.adjoint(data)
        scale = float(seen.norm() * data.norm())
        assert abs(float((seen * data).sum() - (error * pulled).sum())) < 1e-10 * scale


@pytest.mark.parametrize("consistency", STEPS, ids=lambda c: c.kind)
def test_the_map_is_what_an_error_changes_at_held_out_samples(consistency: DataConsistency) -> None:
    layer, kspace, rng = behind(consistency, 10, 7, share=0.04)
    image, error = (torch.randn(1, 10, 7, generator=rng, dtype=torch.complex128) for _ in range(2))
    adjoint = layer.kept.adjoint(kspace)
    with torch.no_grad():
        with_error, without = (
            layer.held_out.forward(consistency(x, layer.kept, adjoint)) for x in (image + error, image)
        )
    changed = torch.cat([with_error - without, 0.2 * layer.held_out.forward(error)])
    expected = to_channels(samples_of(layer.held_out, changed)).flatten(0, 1)
    assert torch.allclose(layer.forward(to_channels(error)), expected, atol=1e-7)


@pytest.mark.parametrize("consistency", STEPS, ids=lambda c: c.kind)
def test_the_objective_is_that_of_cvxpy(consistency: DataConsistency) -> None:
    layer, kspace, rng = behind(consistency, 9, 11)
    features = torch.randn(1, 2, 9, 11, generator=rng)
    samples = samples_of(layer.held_out, kspace)
    target = layer.scaled(torch.cat([samples, samples])).float()
    data = [BlockBatch(features, target, torch.rand(1, 1, 9, 11, generator=rng) < 0.8, layer)]
    model = [replace(data[0], target=torch.zeros_like(features), behind=None)]
    gates = draw_gates([features], 3, (3, 3), torch.Generator().manual_seed(1))
    settings = ProgramSettings(beta_ratio=0.02, tolerance=1e-8)
    solved = solve_consistent_program(lambda: data, lambda: model, gates, settings)
    assert solved.solution.converged
    part = consistent_part(data[0], gates, True, torch.float64)
    identity = torch.eye(3 * 19 * 2, dtype=torch.float64).view(-1, 3, 19, 2)
    columns = torch.stack([part.map.forward(basis).flatten() for basis in identity], 1)
    ratio = len(columns) / part.rows
    blocks = columns.view(-1, 3, 38).permute(1, 0, 2).numpy()
    reference = reference_gated(blocks, target.double().view(-1, 1).numpy(), solved.solution.beta / ratio)
    assert solved.solution.certificate.objective == pytest.approx(ratio * reference.objective, rel=1e-6)


def test_a_slice_is_split_alike_in_every_batch(prepared: Path, small_run: RunSettings) -> None:
    slices = PreparedSlices(prepared, small_run.mask)
    one = [split_batch(slices.load(index), 0.4, 3) for index in range(2)]
    both = split_batch(stack([slices.load(index) for index in range(2)]), 0.4, 3)
    for index, parts in enumerate(one):
        for part, batch in zip(parts, both, strict=True):
            assert torch.equal(part.mask[0], batch.mask[index])
            assert torch.equal(part.kspace[0], batch.kspace[index])
    assert not torch.equal(one[0][0].mask, one[1][0].mask)
    whole, (kept, held_out) = slices.load(0), one[0]
    assert torch.equal(kept.kspace + held_out.kspace, whole.kspace)
    assert torch.equal(kept.mask + held_out.mask, whole.mask)


@pytest.mark.parametrize(("kind", "judged"), [("poisson", "consistency"), ("random", "denoiser")])
def test_no_fully_sampled_data_are_used(
    prepared: Path, small_run: RunSettings, tmp_path: Path, kind: Any, judged: Any
) -> None:
    mask = replace(small_run.mask, kind=kind, acceleration=2.0, center_fraction=0.1)
    model = replace(small_run.model, initial="cg_sense", inputs=("image", "zero_filled"), units=2)
    model = replace(model, blocks=2 if judged == "denoiser" else 1)
    convex = replace(SELF_SUPERVISED, held_out_behind=judged)
    settings = replace(small_run, mask=mask, convex=convex, model=model)
    shutil.copytree(prepared, tmp_path / "other")
    slices = PreparedSlices(tmp_path / "other", mask, seed=settings.seed)
    for key in slices.slices:
        with h5py.File(key.path, "r+") as file:
            rng = torch.Generator().manual_seed(key.slice_index)
            noise = torch.randn(key.shape, generator=rng, dtype=torch.complex64)
            scale = abs(file["kspace"][key.slice_index]).max()
            unseen = 1 - slices.mask_of(key)
            file["kspace"][key.slice_index] += (scale * noise * unseen).numpy()
            file["target"][key.slice_index] = (scale * noise[0]).numpy()
    for folder, out in ((prepared, "run"), (tmp_path / "other", "blind")):
        train(settings, folder, tmp_path / out, progress=False)
    rows = [RunFolder(tmp_path / out).read_metrics() for out in ("run", "blind")]
    assert rows[0][0]["psnr_train"] > rows[1][0]["psnr_train"] + 10  # the targets did change
    cascades = [load_cascade(tmp_path / out / "weights.safetensors")[0] for out in ("run", "blind")]
    states = [cascade.state_dict() for cascade in cascades]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize(
    ("judged", "consistency"), [("consistency", "proximal"), ("consistency", "gradient"), ("denoiser", "proximal")]
)
def test_the_objective_is_the_error_of_the_output_at_held_out_samples(
    prepared: Path, small_run: RunSettings, tmp_path: Path, judged: Any, consistency: Any
) -> None:
    convex = replace(SELF_SUPERVISED, held_out_behind=judged, lam=0.2, loss_image_share=0.0, held_out=0.3)
    blocks = 2 if judged == "denoiser" else 1
    model = replace(small_run.model, blocks=blocks, consistency=consistency, cg_iterations=60)
    settings = replace(small_run, model=model, convex=convex)
    train(settings, prepared, tmp_path / "run", progress=False)
    rows = RunFolder(tmp_path / "run").read_metrics()
    certified = certify_run(RunFolder(tmp_path / "run"), prepared, progress=False)
    for measured, recorded in zip(certified, rows, strict=True):
        assert recorded["converged"]
        assert measured["relative_gap"] <= 1.1e-3
        assert measured["objective"] == pytest.approx(recorded["objective"], rel=1e-5)
    slices = trained_slices(prepared, tmp_path / "run", settings)
    cascade = load_cascade(tmp_path / "run" / "weights.safetensors")[0]
    block = next(iter(cascade))
    assert isinstance(block.denoiser, GatedDenoiser)
    before = after = 0.0
    pixels = 0
    for position in range(len(slices)):
        kept, held_out = split_batch(slices.load(position), 0.3, settings.seed)
        with torch.no_grad():
            image, output = list(cascade.images(kept.sense, kept.kspace))[:2]
            if judged == "denoiser":
                output = block.denoise(image, kept.sense, kept.sense.adjoint(kept.kspace), image)
        before += float((held_out.sense.forward(image) - held_out.kspace).abs().square().sum())
        after += float((held_out.sense.forward(output) - held_out.kspace).abs().square().sum())
        pixels += int(support(kept.sense).sum())
    penalty = rows[0]["beta"] * float(block.denoiser.weights.flatten(1).norm(dim=1).sum())
    assert rows[0]["objective"] == pytest.approx(after / (2 * pixels) + penalty, rel=1e-3)
    assert after < 0.8 * before


def test_batch_size_does_not_change_the_optimum(prepared: Path, small_run: RunSettings, tmp_path: Path) -> None:
    settings = replace(small_run, convex=replace(SELF_SUPERVISED, held_out_behind="denoiser"))
    for size in (1, 2):
        train(replace(settings, batch_size=size), prepared, tmp_path / str(size), progress=False)
    one, two = (RunFolder(tmp_path / str(size)).read_metrics() for size in (1, 2))
    for first, second in zip(one, two, strict=True):
        assert second["objective"] == pytest.approx(first["objective"], rel=1e-4)
        assert second["lam"] == pytest.approx(first["lam"], rel=1e-2)
