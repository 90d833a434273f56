"""Memory of a training step as a linear function of the batch size, or of the number of blocks."""

from dataclasses import dataclass, replace
from typing import Literal

import torch

from convexrecon.data.dataset import PreparedSlices
from convexrecon.errors import InputError
from convexrecon.training.config import RunSettings
from convexrecon.training.measured_step import StepMemory, step_memory

Varied = Literal["batch", "blocks"]


@dataclass(frozen=True)
class MemoryModel:
    """``bytes(x) = fixed + slope u(x)`` of each part of a step, from two measured steps.

    u(x) is x; of GLEAM with a given number of modules, whose largest module decides, it is the blocks of that one.

    Attributes:
        settings: of the trainer; what is varied is overridden.
        vary: "batch" or "blocks".
        points: the two values of u that were measured.
        measured: what was found there.
    """

    settings: RunSettings
    vary: Varied
    points: tuple[int, int]
    measured: tuple[StepMemory, StepMemory]

    @property
    def activations_each_mb(self) -> float:
        """Activations of one more slice, or block."""
        return self._slope("activations_mb")

    @property
    def activations_fixed_mb(self) -> float:
        """Activations that do not grow."""
        return self.measured[0].activations_mb - self._slope("activations_mb") * self.points[0]

    def at(self, value: int) -> StepMemory:
        """What is predicted for a batch of `value` slices, or `value` blocks."""
        along = _module_blocks(self.settings, value) if self.vary == "blocks" else value
        parts = {
            name: getattr(self.measured[0], name) + self._slope(name) * (along - self.points[0])
            for name in ("activations_mb", "weights_mb", "optimizer_mb")
        }
        if self.vary == "blocks":
            share = value / max(along, 1)
            parts["weights_mb"], parts["optimizer_mb"] = share * parts["weights_mb"], share * parts["optimizer_mb"]
        return StepMemory(**parts)

    def largest(self, megabytes: float, most: int, *, beside_mb: float = 0.0, activations_alone: bool = True) -> int:
        """The largest value, at most `most`, whose step fits; 0 if none does.

        Args:
            megabytes: allowed, in units of 1e6 bytes.
            most: largest value asked about.
            beside_mb: taken by something else.
            activations_alone: whether weights and optimizer state are not counted.
        """

        def fits(value: int) -> bool:
            step = self.at(value)
            kept = 0.0 if activations_alone else step.weights_mb + step.optimizer_mb
            return beside_mb + kept + step.activations_mb <= megabytes

        low, high = 0, most + 1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(middle) else (low, middle)
        return low

    def _slope(self, name: str) -> float:
        first, second = (getattr(step, name) for step in self.measured)
        # A trainer whose memory does not grow may measure a few bytes less at the larger value.
        return max(second - first, 0.0) / (self.points[1] - self.points[0])


def memory_model(settings: RunSettings, slices: PreparedSlices, vary: Varied, device: torch.device) -> MemoryModel:
    """Measure two small steps of a trainer on copies of the largest slice; the convex fit once, as nothing of it grows.

    Raises:
        InputError: settings that the method refuses, or an unknown `vary`.
    """
    if vary not in ("batch", "blocks"):
        raise InputError(f"vary: expected batch or blocks, found {vary!r}")
    modules = settings.descent.gleam.modules if settings.method == "gleam" else 0
    if vary == "batch":
        points = values = (1, 3)
    elif settings.method == "reversible":
        # Between one stored input and the next nothing grows.
        points = values = (2, 2 + 2 * settings.descent.reversible.checkpoint_every)
    else:
        points = (2, 4)
        values = (2 * modules, 4 * modules) if modules else points
    first = step_memory(varied(settings, vary, values[0]), slices, device)
    if settings.method == "convex":
        return MemoryModel(settings, vary, points, (first, first))
    second = step_memory(varied(settings, vary, values[1]), slices, device)
    return MemoryModel(settings, vary, points, (_per_module(first, modules, vary), _per_module(second, modules, vary)))


def varied(settings: RunSettings, vary: Varied, value: int) -> RunSettings:
    """The same settings with another batch size, or number of blocks."""
    if vary == "batch":
        return replace(settings, batch_size=value)
    return replace(settings, model=replace(settings.model, blocks=value))


def _module_blocks(settings: RunSettings, blocks: int) -> int:
    modules = settings.descent.gleam.modules if settings.method == "gleam" else 0
    return -(-blocks // modules) if modules else blocks


def _per_module(step: StepMemory, modules: int, vary: Varied) -> StepMemory:
    if vary == "batch" or not modules:
        return step
    return StepMemory(step.activations_mb, step.weights_mb / modules, step.optimizer_mb / modules)
