"""GLEAM: modules of consecutive blocks, each trained on its own loss, on what the one before puts out."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor

from convexrecon.cascade import Block, Cascade
from convexrecon.errors import InputError
from convexrecon.training.descent import Descent, Portion, adam, update
from convexrecon.training.descent_settings import DescentSettings
from convexrecon.training.losses import image_loss
from convexrecon.training.ranks import Ranks
from convexrecon.training.step_clock import StepClock

Item = TypeVar("Item")


@dataclass(frozen=True)
class GreedyModules:
    """Modules that follow one another, and how they are updated.

    Attributes:
        modules: consecutive blocks each.
        optimizers: one a module.
        options: loss and clip.
    """

    modules: Sequence[Sequence[Block]]
    optimizers: Sequence[torch.optim.Optimizer]
    options: DescentSettings

    def descend(
        self,
        image: Tensor,
        portion: Portion,
        adjoint: Tensor,
        initial: Tensor,
        clock: StepClock,
        *,
        ranks: Ranks | None = None,
    ) -> tuple[Tensor, Tensor]:
        """For each module in turn: forward, loss to the target, backward, step.

        Args:
            image: what the first module sees, (B, *N) complex, without a graph.
            portion: the slices and their weight.
            adjoint: A^H y (B, *N).
            initial: the image before the first block of the cascade (B, *N).
            clock: gets the seconds.
            ranks: whose gradients are summed, or None.

        Returns:
            The output of the last module before its step, detached, (B, *N), and its weighted loss, a scalar.
        """
        batch = portion.batch
        loss = image.new_zeros((), dtype=torch.float32)
        for module, optimizer in zip(self.modules, self.optimizers, strict=True):
            with clock.forward():
                output = image
                for block in module:
                    output = block(output, batch.sense, adjoint, initial)
                loss = portion.weight * image_loss(output, batch.target, self.options.loss)
            update(optimizer, loss, self.options, clock, ranks=ranks)
            image = output.detach()
        return image, loss.detach()


def gleam(model: Cascade, options: DescentSettings, ranks: Ranks) -> Descent:
    """For each batch and module in turn: forward, loss to the target, backward, step; the output before the step,
    detached, is what the next module sees. Several ranks share every batch; `parallel_gleam` shares the modules.

    Memory: the activations of one module. Ozturkler et al., GLEAM, arXiv 2207.08393 (2022), algorithm 1.

    Raises:
        InputError: more modules than blocks.
    """
    modules = split_modules(model, options.gleam.modules)
    greedy = GreedyModules(modules, module_optimizers(modules, options), options)

    def step(portion: Portion, clock: StepClock) -> float:
        with clock.forward():
            adjoint = portion.batch.sense.adjoint(portion.batch.kspace)
            initial = model.start(portion.batch.sense, adjoint)
        _, loss = greedy.descend(initial, portion, adjoint, initial, clock, ranks=ranks)
        return float(loss)

    return Descent(greedy.optimizers, step)


def module_optimizers(modules: Sequence[Sequence[Block]], options: DescentSettings) -> list[torch.optim.Adam]:
    """Adam for each module."""
    return [adam((p for block in module for p in block.parameters()), options) for module in modules]


def split_modules(model: Cascade, count: int) -> list[list[Block]]:
    """Consecutive blocks in `count` modules of sizes that differ by one at most; 0 for one a block.

    Raises:
        InputError: more modules than blocks.
    """
    blocks = list(model)
    count = count or len(blocks)
    if count > len(blocks):
        raise InputError(f"gleam.modules: expected at most as many as blocks ({len(blocks)}), found {count}")
    return split_evenly(blocks, count)


def split_evenly(items: Sequence[Item], count: int) -> list[list[Item]]:
    """Consecutive items in `count` runs of lengths that differ by one at most.

    >>> split_evenly("abcde", 2)
    [['a', 'b'], ['c', 'd', 'e']]
    """
    edges = [round(k * len(items) / count) for k in range(count + 1)]
    return [list(items[start:stop]) for start, stop in pairwise(edges)]
