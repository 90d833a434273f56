"""A convex cascade as the start of end-to-end training: as near as it says, and able to learn."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from convexrecon.cascade import Block, Cascade
from convexrecon.convex.recovery import SHARPNESS
from convexrecon.data.dataset import PreparedSlices
from convexrecon.denoisers.gated import GatedDenoiser
from convexrecon.denoisers.relu import ReluDenoiser
from convexrecon.errors import InputError
from convexrecon.physics.data_consistency import GradientDataConsistency, NoDataConsistency
from convexrecon.physics.forward_model import ForwardModel
from convexrecon.training.config import RunSettings
from convexrecon.training.convex_start import relu_start
from convexrecon.training.train import train
from convexrecon.weights import load_cascade, save_cascade

Sample = tuple[ForwardModel, Tensor]


@pytest.fixture(scope="module")
def _trained() -> dict[str, Cascade]:
    return {}


@pytest.fixture
def convex(prepared: Path, small_run: RunSettings, tmp_path: Path, _trained: dict[str, Cascade]) -> Cascade:
    """Two convex blocks that see the image and the zero-filled one, trained once."""
    if not _trained:
        settings = replace(small_run, model=replace(small_run.model, inputs=("image", "zero_filled")))
        _trained["cascade"] = train(settings, prepared, tmp_path / "run", progress=False)
    return _trained["cascade"]


@pytest.fixture
def samples(prepared: Path, small_run: RunSettings) -> list[Sample]:
    slices = PreparedSlices(prepared, small_run.mask)
    return [(batch.sense, batch.kspace) for batch in map(slices.load, range(4))]


def relative(found: Tensor, exact: Tensor) -> float:
    return float((found - exact).norm() / exact.norm())


@pytest.mark.parametrize("sharpness", [(10.0,), SHARPNESS])
def test_the_start_is_as_near_as_it_says(convex: Cascade, samples: list[Sample], sharpness: tuple[float, ...]) -> None:
    start = relu_start(convex, samples[:2], sharpness=sharpness)
    assert len(start.blocks) == len(start.cascade) == len(convex) == 2
    for made, block, difference in zip(start.cascade, convex, start.blocks, strict=True):
        assert isinstance(made.denoiser, ReluDenoiser)
        assert made.denoiser.width == difference.units
        assert made.inputs == block.inputs
        assert made.consistency.lam == pytest.approx(block.consistency.lam)
        assert 0 < difference.correction < (0.3 if len(sharpness) == 1 else 0.05)
        assert difference.sharpness in sharpness
    with torch.no_grad():
        found, exact = (torch.cat([model(*sample) for sample in samples[:2]]) for model in (start.cascade, convex))
        assert relative(found, exact) == pytest.approx(start.blocks[-1].image, rel=1e-3)
        # A slice that it has not seen.
        assert relative(start.cascade(*samples[3]), convex(*samples[3])) < 2 * start.blocks[-1].image
        assert relative(convex.start(samples[3][0], samples[3][0].adjoint(samples[3][1])), convex(*samples[3])) > (
            10 * start.blocks[-1].image
        )


def test_all_of_it_can_be_learned_and_saved(convex: Cascade, samples: list[Sample], tmp_path: Path) -> None:
    model = relu_start(convex, samples[:1]).cascade
    save_cascade(tmp_path / "start.safetensors", model)
    loaded = load_cascade(tmp_path / "start.safetensors")[0]
    with torch.no_grad():
        assert torch.equal(loaded(*samples[0]), model(*samples[0]))
    model(*samples[0]).abs().square().sum().backward()
    names = {name for name, p in model.named_parameters() if p.grad is not None and bool(p.grad.any())}
    assert names == {name for name, _ in model.named_parameters()}
    assert {"blocks.0.consistency.log_lam", "blocks.1.denoiser.network.0.bias"} <= names


def test_units_are_balanced(convex: Cascade, samples: list[Sample]) -> None:
    for block in relu_start(convex, samples[:1]).cascade:
        layers = block.denoiser.state_dict()
        taps = torch.cat([layers["network.0.weight"].flatten(1), layers["network.0.bias"].unsqueeze(1)], 1)
        torch.testing.assert_close(taps.norm(dim=1), layers["network.2.weight"].flatten(1).norm(dim=0))


def test_an_empty_block_stays_silent_but_can_learn(convex: Cascade, samples: list[Sample]) -> None:
    gated = next(iter(convex)).denoiser
    assert isinstance(gated, GatedDenoiser)
    empty = GatedDenoiser(gated.gates, torch.zeros_like(gated.weights), constant=gated.constant)
    inputs = ("image", "zero_filled")
    cascade = Cascade(
        [
            Block(empty, NoDataConsistency(), inputs=inputs),
            Block(gated, GradientDataConsistency(0.7), inputs=inputs),
        ],
        initial="cg_sense",
    )
    start = relu_start(cascade, samples[:1])
    assert start.blocks[0].correction == start.blocks[0].image == start.blocks[0].sharpness == 0
    assert start.blocks[0].units == len(gated.gates)
    consistency = list(start.cascade)[1].consistency
    assert isinstance(consistency, GradientDataConsistency)
    assert float(consistency.step.detach()) == pytest.approx(0.7)
    start.cascade(*samples[0]).abs().square().sum().backward()
    gradient = start.cascade.get_parameter("blocks.0.denoiser.network.2.weight").grad
    assert gradient is not None
    assert bool(gradient.any())


def test_what_is_not_a_convex_cascade_is_refused(convex: Cascade, samples: list[Sample]) -> None:
    with pytest.raises(InputError, match="expected blocks and samples, found 2 and 0"):
        relu_start(convex, [])
    with pytest.raises(InputError, match="expected blocks and samples, found 0 and 4"):
        relu_start(Cascade(), samples)
    with pytest.raises(InputError, match=r"sharpness: expected positive numbers, found \(0\.0,\)"):
        relu_start(convex, samples, sharpness=(0.0,))
    started = relu_start(convex, samples[:1]).cascade
    with pytest.raises(InputError, match="expected gated denoisers, found 'relu' in block 1"):
        relu_start(started, samples)
