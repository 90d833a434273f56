"""One step of each trainer against its definition, on the same cascade and batch; and the memory it takes."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from convexrecon.cascade import Cascade
from convexrecon.data.dataset import Batch, PreparedSlices, stack
from convexrecon.errors import InputError
from convexrecon.training.checkpointing import checkpointing
from convexrecon.training.config import RunSettings
from convexrecon.training.descent import Descent, Portion
from convexrecon.training.descent_settings import DescentSettings, GleamSettings
from convexrecon.training.end_to_end import end_to_end
from convexrecon.training.gleam import gleam, split_modules
from convexrecon.training.live_memory import LiveMemory
from convexrecon.training.losses import image_loss
from convexrecon.training.model_settings import ModelSettings
from convexrecon.training.new_cascade import new_cascade
from convexrecon.training.ranks import Ranks
from convexrecon.training.step_clock import StepClock
from convexrecon.training.train_descent import TRAINERS

OPTIONS = DescentSettings(learning_rate=0.01, clip=1e9)
CPU = torch.device("cpu")


@pytest.fixture
def batch(prepared: Path, small_run: RunSettings) -> Batch:
    data = PreparedSlices(prepared, small_run.mask)
    return stack([data.load(0), data.load(1)])


def cascade(blocks: int = 3, units: int = 4) -> Cascade:
    return new_cascade(RunSettings(model=ModelSettings(blocks=blocks, kernel=3, units=units)))


def gradients(model: Cascade) -> list[Tensor]:
    found = [parameter.grad for parameter in model.parameters() if parameter.requires_grad]
    assert all(gradient is not None for gradient in found)
    return [gradient for gradient in found if gradient is not None]


def close(first: list[Tensor], second: list[Tensor], tolerance: float) -> bool:
    pairs = zip(first, second, strict=True)
    return all(float((a - b).norm()) <= tolerance * float(b.norm()) + 1e-12 for a, b in pairs)


def stepped(trainer: object, model: Cascade, batch: Batch, options: DescentSettings = OPTIONS) -> tuple[Cascade, float]:
    """A copy of the model after one step."""
    copy = deepcopy(model)
    descent = trainer(copy, options, Ranks())  # type: ignore[operator]
    assert isinstance(descent, Descent)
    return copy, descent.step(Portion(batch), StepClock(CPU))


def test_end_to_end_descends_the_loss_of_the_reconstruction(batch: Batch) -> None:
    model = cascade()
    trained, loss = stepped(end_to_end, model, batch)
    expected = image_loss(model(batch.sense, batch.kspace), batch.target, "l2")
    expected.backward()
    assert loss == pytest.approx(float(expected.detach()), rel=1e-6)
    assert close(gradients(trained), gradients(model), 1e-6)


def test_checkpointing_has_the_gradients_of_backpropagation(batch: Batch) -> None:
    model = cascade()
    plain, loss = stepped(end_to_end, model, batch)
    checkpointed, same = stepped(checkpointing, model, batch)
    assert same == loss
    assert close(gradients(checkpointed), gradients(plain), 1e-6)


@pytest.mark.parametrize("modules", [1, 2, 3, 0])
def test_a_module_learns_from_its_own_loss_on_the_output_before_the_step(batch: Batch, modules: int) -> None:
    model = cascade(3)
    trained, loss = stepped(gleam, model, batch, replace(OPTIONS, gleam=GleamSettings(modules)))
    sense = batch.sense
    adjoint = sense.adjoint(batch.kspace)
    image = adjoint
    expected = torch.zeros(())
    for module in split_modules(model, modules):
        image = image.detach()
        for block in module:
            image = block(image, sense, adjoint, adjoint)
        expected = image_loss(image, batch.target, "l2")
        expected.backward()
    assert loss == pytest.approx(float(expected.detach()), rel=1e-6)
    assert close(gradients(trained), gradients(model), 1e-5)


def test_one_module_is_end_to_end_training(batch: Batch) -> None:
    model = cascade()
    greedy, _ = stepped(gleam, model, batch, replace(OPTIONS, gleam=GleamSettings(1)))
    plain, _ = stepped(end_to_end, model, batch)
    assert all(torch.equal(a, b) for a, b in zip(greedy.parameters(), plain.parameters(), strict=True))


def test_modules_are_as_equal_as_can_be() -> None:
    assert [len(module) for module in split_modules(cascade(7), 3)] == [2, 3, 2]
    with pytest.raises(InputError, match=r"gleam\.modules: expected at most as many as blocks \(3\), found 4"):
        split_modules(cascade(3), 4)


@pytest.mark.parametrize("method", sorted(TRAINERS))
def test_memory_grows_with_the_blocks_of_end_to_end_training_alone(batch: Batch, method: str) -> None:
    peaks = {}
    for name in ("end_to_end", method):
        for blocks in (4, 8):
            model = cascade(blocks, units=32)
            with LiveMemory(CPU) as memory:
                stepped(TRAINERS[name], model, batch)
            peaks[name, blocks] = memory.peak_mb
    growth = {name: peaks[name, 8] - peaks[name, 4] for name in ("end_to_end", method)}
    assert growth["end_to_end"] > 1.0
    if method != "end_to_end":
        assert growth[method] < 0.1 * growth["end_to_end"]
