"""GLEAM: modules of consecutive blocks, each trained on its own loss, on what the one before puts out."""

from itertools import pairwise

from torch import Tensor

from convexrecon.cascade import Block, Cascade
from convexrecon.errors import InputError
from convexrecon.training.descent import Descent, Portion, adam, update
from convexrecon.training.descent_settings import DescentSettings
from convexrecon.training.losses import image_loss
from convexrecon.training.ranks import Ranks
from convexrecon.training.step_clock import StepClock


def gleam(model: Cascade, options: DescentSettings, ranks: Ranks) -> Descent:
    """For each batch and module in turn: forward, loss to the target, backward, step; the output before the step,
    detached, is what the next module sees.

    Memory: the activations of one module. Ozturkler et al., GLEAM, arXiv 2207.08393 (2022), algorithm 1.

    Raises:
        InputError: more modules than blocks.
    """
    modules = split_modules(model, options.gleam.modules)
    optimizers = [adam((p for block in module for p in block.parameters()), options) for module in modules]

    def step(portion: Portion, clock: StepClock) -> float:
        batch, sense = portion.batch, portion.batch.sense
        with clock.forward():
            adjoint = sense.adjoint(batch.kspace)
            initial = image = model.start(sense, adjoint)
        loss = image.new_zeros(())
        for module, optimizer in zip(modules, optimizers, strict=True):
            with clock.forward():
                output: Tensor = image
                for block in module:
                    output = block(output, sense, adjoint, initial)
                loss = portion.weight * image_loss(output, batch.target, options.loss)
            update(optimizer, loss, options, clock, ranks=ranks)
            image = output.detach()
        return float(loss.detach())

    return Descent(optimizers, step)


def split_modules(model: Cascade, count: int) -> list[list[Block]]:
    """Consecutive blocks in `count` modules of sizes that differ by one at most; 0 for one a block.

    Raises:
        InputError: more modules than blocks.
    """
    blocks = list(model)
    count = count or len(blocks)
    if count > len(blocks):
        raise InputError(f"gleam.modules: expected at most as many as blocks ({len(blocks)}), found {count}")
    edges = [round(k * len(blocks) / count) for k in range(count + 1)]
    return [blocks[start:stop] for start, stop in pairwise(edges)]
