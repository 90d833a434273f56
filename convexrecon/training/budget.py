"""One budget for several trainers: epochs, seconds or memory, and the settings that keep to it."""

from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from convexrecon.data.dataset import PreparedSlices
from convexrecon.errors import InputError
from convexrecon.training.config import RunSettings
from convexrecon.training.measured_step import step_seconds
from convexrecon.training.memory_model import Varied, memory_model


@dataclass(frozen=True)
class Budget:
    """What every trainer is given; none of the three: what its own settings say.

    Attributes:
        epochs: of every method that descends; of "layerwise", for each block.
        seconds: of training, scoring on validation slices not counted. A convex run takes what its blocks take.
        memory_mb: most that the tensors of a training step may take, in units of 1e6 bytes.
        vary: what is made to fit: "blocks", as many of the configuration's as can be, or "batch", as many slices a
            step. What a convex fit takes depends on neither.

    Raises:
        InputError: more than one of them, one that is not positive, or `vary` without `memory_mb`.
    """

    epochs: int | None = None
    seconds: float | None = None
    memory_mb: float | None = None
    vary: Varied = "blocks"

    def __post_init__(self) -> None:
        given = {n: value for n, value in asdict(self).items() if n != "vary" and value is not None}
        if len(given) > 1:
            names = ", ".join(f"{name} = {value:g}" for name, value in given.items())
            raise InputError(f"budget: expected one of epochs, seconds and memory_mb, found {names}")
        for name, value in given.items():
            if not value > 0:
                raise InputError(f"budget: expected {name} > 0, found {value:g}")
        if self.vary not in ("blocks", "batch") or (self.vary == "batch" and self.memory_mb is None):
            raise InputError(
                f"budget: expected vary = 'blocks', or 'batch' with memory_mb, found {self.vary!r} "
                f"with memory_mb = {self.memory_mb}"
            )

    def describe(self) -> str:
        """In words.

        >>> Budget(seconds=60).describe()
        '60 seconds of training each'
        """
        if self.epochs is not None:
            return f"{self.epochs} epochs each"
        if self.seconds is not None:
            return f"{self.seconds:g} seconds of training each"
        if self.memory_mb is not None:
            what = "blocks" if self.vary == "blocks" else "slices a step"
            return f"{self.memory_mb:g} MB of tensors a step each, and as many {what} as fit"
        return "as configured"


@dataclass(frozen=True)
class Plan:
    """How a trainer keeps to a budget.

    Attributes:
        changes: settings chosen, by dotted name: "descent.epochs", "model.blocks" or "batch_size".
        measured: what they were chosen by.
    """

    changes: dict[str, int]
    measured: dict[str, Any]

    def applied(self, settings: RunSettings) -> RunSettings:
        """The settings with the changes."""
        for name, value in self.changes.items():
            part, _, key = name.partition(".")
            changed: Any = replace(getattr(settings, part), **{key: value}) if key else value
            settings = replace(settings, **{part: changed})
        return settings


def plan_for(
    settings: RunSettings,
    budget: Budget,
    train: PreparedSlices,
    validation: PreparedSlices | None,
    device: torch.device,
) -> Plan:
    """Choose epochs or blocks so that a trainer keeps to the budget, by measuring some of its steps.

    Args:
        settings: of the trainer.
        budget: for it.
        train: training slices.
        validation: validation slices, or None.
        device: where it will train.

    Raises:
        InputError: one epoch takes longer, or one block takes more memory, than there is.
    """
    if budget.memory_mb is not None:
        return _within_memory(settings, budget.memory_mb, budget.vary, train, device)
    if settings.method == "convex" or budget == Budget():
        return Plan({}, {})
    if budget.epochs is not None:
        return Plan({"descent.epochs": budget.epochs}, {})
    assert budget.seconds is not None
    return _within_seconds(settings, budget.seconds, train, validation, device)


def _within_seconds(
    settings: RunSettings,
    seconds: float,
    train: PreparedSlices,
    validation: PreparedSlices | None,
    device: torch.device,
) -> Plan:
    step = step_seconds(settings, train, device)
    left, stages = seconds, 1
    if settings.method == "layerwise":
        # Before each block, the images that it sees are made from those before: a forward pass over all slices.
        slices = len(train) + (len(validation) if validation is not None else 0)
        once = slices / len(train) * step.steps * (step.data + step.forward)
        stages = settings.model.blocks
        left -= stages * once
    epochs = int(left / (stages * step.epoch))
    if epochs < 1:
        one = "one epoch of every block" if stages > 1 else "one epoch"
        least = stages * step.epoch + seconds - left
        raise InputError(
            f"seconds = {seconds:g}: {one} of {settings.method} takes about {least:.3g} s here; expected at least that"
        )
    return Plan({"descent.epochs": epochs}, {"seconds_step": asdict(step), "seconds_epoch": step.epoch})


def _within_memory(
    settings: RunSettings, megabytes: float, vary: Varied, train: PreparedSlices, device: torch.device
) -> Plan:
    model = memory_model(settings, train, vary, device)
    one = model.at(1).activations_mb
    if settings.method == "convex":
        changes: dict[str, int] = {}
        fits = one <= megabytes
    else:
        most = settings.model.blocks if vary == "blocks" else len(train)
        largest = model.largest(megabytes, most)
        modules = settings.descent.gleam.modules if settings.method == "gleam" else 0
        fits = largest >= max(1, modules if vary == "blocks" else 1)
        changes = {"model.blocks" if vary == "blocks" else "batch_size": largest}
    if not fits:
        what = f"a block of {settings.method} takes {one:.3g} MB at batch_size = {settings.batch_size}"
        if vary == "batch":
            what = f"a step of {settings.method} with one slice takes {one:.3g} MB"
        raise InputError(f"memory_mb = {megabytes:g}: {what}; expected at least that")
    predicted = model.at(next(iter(changes.values()), 1)).activations_mb
    each = {"activations_fixed_mb": model.activations_fixed_mb, "activations_each_mb": model.activations_each_mb}
    return Plan(changes, {**each, "activations_mb": predicted})
