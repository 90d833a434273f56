"""Steps of any trainer on one slice's data, measured: bytes of tensors, seconds."""

from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch

from convexrecon.convex.gated_convolution import feature_count
from convexrecon.data.dataset import Batch, PreparedSlices, batch_plan, stack
from convexrecon.errors import InputError
from convexrecon.seeding import generator
from convexrecon.training.block_data import BlockData
from convexrecon.training.config import RunSettings, kernel_of
from convexrecon.training.descent import Descent, Portion, parameters_of
from convexrecon.training.fit_activations import fit_activations_mb, largest_slice
from convexrecon.training.image_store import slice_keys
from convexrecon.training.initial_weight import with_any_weight
from convexrecon.training.live_memory import LiveMemory
from convexrecon.training.new_cascade import new_cascade, without_blocks
from convexrecon.training.ranks import Ranks
from convexrecon.training.step_clock import StepClock
from convexrecon.training.train_descent import TRAINERS

# Methods whose steps can be measured.
MEASURED: tuple[str, ...] = ("convex", *TRAINERS, "layerwise")
# Batches of an epoch that its seconds are estimated from.
TIMED_STEPS = 5


@dataclass(frozen=True)
class StepMemory:
    """Bytes of a training step, in units of 1e6; of the convex method, of the fit of a block.

    Attributes:
        activations_mb: tensors that the step makes and holds at most, gradients included (`LiveMemory`).
        weights_mb: parameters and buffers.
        optimizer_mb: the optimizers' state.
    """

    activations_mb: float
    weights_mb: float
    optimizer_mb: float


@dataclass(frozen=True)
class StepSeconds:
    """Seconds of one step (medians).

    Attributes:
        data: loading a batch.
        forward: forward pass.
        backward: backward pass and update.
        steps: in an epoch.
    """

    data: float
    forward: float
    backward: float
    steps: int

    @property
    def epoch(self) -> float:
        """Of an epoch."""
        return self.steps * (self.data + self.forward + self.backward)


def step_memory(settings: RunSettings, slices: PreparedSlices, device: torch.device) -> StepMemory:
    """Measure the second step of a run on copies of its largest slice; the first makes the optimizer's state.

    A layer-wise step is that of a cascade of one block. A convex run is measured by the fit of its first block.

    Raises:
        InputError: settings that the method refuses.
    """
    if settings.method == "convex":
        return _fit_memory(settings, slices, device)
    descent = _descent(settings, slices.dimensions, device)
    batch = _copies(slices, settings.batch_size).to(device)
    clock = StepClock(device)
    descent.step(Portion(batch), clock)
    with LiveMemory(device) as memory:
        descent.step(Portion(batch), clock)
    # Old gradients are freed in the step, new ones are made in it: they are among its activations.
    weights = sum(_megabytes(p) for optimizer in descent.optimizers for p in parameters_of(optimizer))
    if settings.method == "layerwise":
        weights *= settings.model.blocks
    state = sum(
        _megabytes(value)
        for optimizer in descent.optimizers
        for entry in optimizer.state.values()
        for value in entry.values()
        if isinstance(value, torch.Tensor)
    )
    return StepMemory(memory.peak_mb, weights, state)


def step_seconds(settings: RunSettings, slices: PreparedSlices, device: torch.device) -> StepSeconds:
    """Time a few steps of a method that descends, after one that is not counted, on batches of an epoch.

    Raises:
        InputError: settings that the method refuses.
    """
    descent = _descent(settings, slices.dimensions, device)
    plan = batch_plan(slices, settings.batch_size, generator=generator(settings.seed, "order", 1))
    clocks: list[dict[str, float]] = []
    for number in range(TIMED_STEPS + 1):
        clock = StepClock(device)
        with clock.data():
            batch = stack([slices.load(index) for index in plan[number % len(plan)]]).to(device)
        descent.step(Portion(batch), clock)
        clocks.append(clock.seconds)
    data, forward, backward = (median(row[part] for row in clocks[1:]) for part in ("data", "forward", "backward"))
    return StepSeconds(data, forward, backward, len(plan))


def _descent(settings: RunSettings, dimensions: int, device: torch.device) -> Descent:
    if settings.method == "layerwise":
        settings = replace(settings, method="end_to_end", model=replace(settings.model, blocks=1))
    if settings.method not in MEASURED:
        raise InputError(f"method: {settings.method!r} cannot be measured; expected one of {', '.join(MEASURED)}")
    model = new_cascade(with_any_weight(settings), dimensions).to(device)
    return TRAINERS[settings.method](model, settings.descent, Ranks())


def _copies(slices: PreparedSlices, count: int) -> Batch:
    return stack([largest_slice(slices).load(0)] * count)


def _fit_memory(settings: RunSettings, slices: PreparedSlices, device: torch.device) -> StepMemory:
    """What the fit of the first block takes on the largest slice, and the weights of all blocks."""
    settings = with_any_weight(settings)
    cascade = without_blocks(settings.model)
    with TemporaryDirectory() as folder:
        held_out = settings.convex.samples_held_out
        data = BlockData("train", largest_slice(slices), settings, Path(folder), device, False, held_out)
        data.write_fixed(cascade)
        data.write_images(cascade, 0)
        samples = [data.features(cascade, slice_keys(data.slices), 0)]
        taken = fit_activations_mb(data, cascade, 0, samples)
    filters = feature_count(
        samples[0].shape[1], kernel_of(settings, slices.dimensions), settings.convex.program.constant
    )
    # float32: of every gate its own filter and offset, and weights for two outputs.
    weights = 4e-6 * settings.model.units * (3 * filters) * settings.model.blocks
    return StepMemory(taken, weights, 0.0)


def _megabytes(tensor: torch.Tensor) -> float:
    return tensor.numel() * tensor.element_size() / 1e6
