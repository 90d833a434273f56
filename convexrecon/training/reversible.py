"""Memory-efficient learning: block inputs computed from block outputs, so that next to nothing is kept for them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor, nn

from convexrecon.cascade import Block, Cascade
from convexrecon.physics.consistency_inverse import MAX_ITERATIONS, TOLERANCE, inverse_amplification
from convexrecon.physics.data_consistency import ProximalDataConsistency
from convexrecon.training.block_inversion import ROUNDING, Scan, invert_block, relative_difference
from convexrecon.training.descent import Descent, Portion, adam, finish_update, parameters_of
from convexrecon.training.descent_settings import DescentSettings, ReversibleSettings
from convexrecon.training.losses import image_loss
from convexrecon.training.ranks import Ranks
from convexrecon.training.step_clock import StepClock

# Errors reported are not larger: infinity has no place in JSON.
LARGEST = 1e9


@dataclass
class InversionRecord:
    """What became of the inversions since the last report.

    Attributes:
        blocks: blocks passed backward through.
        inverted: those whose inputs were to be computed from outputs.
        recomputed: those of them whose inputs were computed forward after all.
        largest_error: of a segment's inversion, as `inverted_gradients` measures it, used or not; at
            most `LARGEST`.
    """

    blocks: int = 0
    inverted: int = 0
    recomputed: int = 0
    largest_error: float = 0.0

    def report(self, ranks: Ranks, device: torch.device) -> dict[str, float]:
        """The largest error, the shares of blocks inverted and of those recomputed, over all ranks; begins anew."""
        counts = [float(self.blocks), float(self.inverted), float(self.recomputed)]
        blocks, inverted, recomputed = ranks.sum(counts, device)
        found = {
            "inversion_error": ranks.largest(self.largest_error, device),
            "inverted_share": inverted / max(blocks, 1),
            "fallback_share": recomputed / max(inverted, 1),
        }
        self.blocks = self.inverted = self.recomputed = 0
        self.largest_error = 0.0
        return found


@dataclass(frozen=True)
class Pulled:
    """The gradient of the loss, taken back through some blocks.

    Attributes:
        image: with respect to the input of the first of them, (B, *N).
        parameters: with respect to the parameters that are learned, where it is not zero.
        error: how far recomputed inputs may be off, relative.
    """

    image: Tensor
    parameters: list[tuple[nn.Parameter, Tensor]] = field(default_factory=list)
    error: float = 0.0


def reversible(model: Cascade, options: DescentSettings, ranks: Ranks) -> Descent:
    """As `end_to_end`, but that a block's input is computed from its output when its gradient is due.

    Kept from the forward pass are the output and the inputs of the few blocks that `kept_inputs` names; the memory is
    theirs and the activations of one block. The proximal steps of the model are run to the end of float32 from here on
    (so they are in validation, and in the weights that are saved), since the inverse multiplies what conjugate
    gradients leave by 1 / lam. Kellman et al., IEEE TCI 2020, arXiv 2003.05551; Wang et al., MICCAI 2021,
    arXiv 2103.04003.

    The report: "inversion_error", the largest relative error that an inversion was found to have, "inverted_share",
    the share of blocks whose input was to be computed from the output, and "fallback_share", the share of those whose
    input was computed from a kept one instead, because the error was above the tolerance.
    """
    settings = options.reversible
    blocks = list(model)
    for block in blocks:
        if isinstance(block.consistency, ProximalDataConsistency):
            block.consistency.tolerance = min(block.consistency.tolerance, TOLERANCE)
            block.consistency.iterations = max(block.consistency.iterations, MAX_ITERATIONS)
    optimizer = adam(model.parameters(), options)
    record = InversionRecord()

    def step(portion: Portion, clock: StepClock) -> float:
        batch, sense = portion.batch, portion.batch.sense
        with clock.forward():
            adjoint = sense.adjoint(batch.kspace)
            scan = Scan(sense, adjoint, model.start(sense, adjoint))
            kept = forward_images(blocks, scan.initial, scan, kept_inputs(blocks, settings))
        with clock.backward():
            optimizer.zero_grad(set_to_none=True)
            output = kept[len(blocks)].detach().requires_grad_()
            loss = portion.weight * image_loss(output, batch.target, options.loss)
            (pulled,) = torch.autograd.grad(loss, output)
            backward(blocks, scan, kept, pulled, settings, record)
            finish_update(optimizer, options, ranks)
        return float(loss.detach())

    device = parameters_of(optimizer)[0].device
    return Descent([optimizer], step, report=lambda: record.report(ranks, device))


def kept_inputs(blocks: list[Block], settings: ReversibleSettings) -> list[int]:
    """The blocks whose inputs are kept in the forward pass: a function of the weights alone, ascending from 0.

    The last block before another kept input (or the end) has its input computed from that, the block before it from
    the result, and so on. Rounding enters each time, and is amplified by all inverses that follow: as soon as it could
    exceed the tolerance, an input is kept, and not later than after `checkpoint_every` blocks. The inverse of data
    consistency alone is counted, its largest amplification: what denoisers add is known when it has happened. The
    rounding of denoisers in bfloat16 is more than any tolerance of use: then all inputs are kept.
    """
    kept, error, last = [], 0.0, len(blocks)
    for index in range(len(blocks) - 1, 0, -1):
        precision = torch.bfloat16 if blocks[index].precision == "bfloat16" else torch.float32
        rounding = ROUNDING * torch.finfo(precision).eps
        error = inverse_amplification(blocks[index].consistency) * (error + rounding)
        if error > settings.tolerance or last - index >= settings.checkpoint_every:
            kept.append(index)
            error, last = 0.0, index
    return [0, *reversed(kept)]


@torch.no_grad()
def forward_images(blocks: Sequence[Block], image: Tensor, scan: Scan, kept: Sequence[int]) -> dict[int, Tensor]:
    """The inputs of some blocks by the blocks' numbers, and under the number of blocks the output.

    Args:
        blocks: the blocks.
        image: input of the first, (B, *N) complex.
        scan: what they see.
        kept: numbers of the blocks whose inputs are wanted.
    """
    images = {}
    for index, block in enumerate(blocks):
        if index in kept:
            images[index] = image
        image = scan.through(block, image)
    return images | {len(blocks): image}


def backward(
    blocks: list[Block],
    scan: Scan,
    kept: dict[int, Tensor],
    pulled: Tensor,
    settings: ReversibleSettings,
    record: InversionRecord,
) -> None:
    """Add the gradient of the loss to those of the parameters, segment by segment between kept images.

    Args:
        blocks: all of the cascade.
        scan: what they see.
        kept: what `forward_images` gave; emptied on the way.
        pulled: gradient of the loss with respect to the output, (B, *N).
        settings: of the inversion.
        record: is told how it went.
    """
    for start, end in reversed(list(pairwise(sorted(kept)))):
        segment, output = blocks[start:end], kept.pop(end)
        record.blocks += len(segment)
        record.inverted += len(segment) - 1
        found = inverted_gradients(segment, scan, kept[start], output, pulled, settings)
        record.largest_error = max(record.largest_error, min(LARGEST, found.error))
        if found.error > settings.tolerance:
            record.recomputed += len(segment) - 1
            found = recomputed_gradients(segment, scan, kept[start], pulled)
        for parameter, gradient in found.parameters:
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
        pulled = found.image


def inverted_gradients(
    segment: list[Block], scan: Scan, first: Tensor, output: Tensor, pulled: Tensor, settings: ReversibleSettings
) -> Pulled:
    """Gradients through blocks whose inputs are computed from the output, but for the first one's; and their error.

    An input x' of a block f is wrong in a way that the block's own output need not show, since f contracts what its
    inverse amplifies. But each is also the output of the block before. With e = x - x' (x the true inputs) and
    ``d_n = ||f_n(x'_n) - x'_(n+1)||``, ``||e_(n+1)|| <= Lip(f_n) ||e_n|| + d_n``, and e is zero at the first block,
    whose input was kept: d_first is the whole accumulated error, and where the blocks do not expand, every ``||e_n||``
    is at most the sum of all d. The d are by-products of the graphs. Their sum, relative to the f_n(x'_n), is the error
    reported; where it exceeds the tolerance the work is left off there, and the gradients are worth nothing.

    Args:
        segment: the blocks.
        scan: what they see.
        first: the input of the first, (B, *N) complex.
        output: of the last, (B, *N) complex.
        pulled: gradient of the loss with respect to the output, (B, *N).
        settings: of the inversion.
    """
    error, parameters = 0.0, []
    for index, block in reversed(list(enumerate(segment))):
        if index == 0:
            image = first
        else:
            image, left = invert_block(block, output, scan, iterations=settings.iterations)
            if not float(left.max()) <= settings.tolerance:
                return Pulled(pulled, error=_or_infinite(left))
        graph = image.detach().requires_grad_()
        again = scan.through(block, graph)
        error += _or_infinite(relative_difference(output, again.detach()))
        if error > settings.tolerance:
            return Pulled(pulled, error=error)
        pulled, found = pull_back(block, graph, again, pulled)
        parameters += found
        output = image
    return Pulled(pulled, parameters, error)


def recomputed_gradients(segment: list[Block], scan: Scan, first: Tensor, pulled: Tensor) -> Pulled:
    """Gradients through blocks whose inputs are computed from the first one's, and all held: an image a block."""
    images = forward_images(segment[:-1], first, scan, range(len(segment) - 1))
    parameters = []
    for index, block in reversed(list(enumerate(segment))):
        graph = images.pop(index).detach().requires_grad_()
        pulled, found = pull_back(block, graph, scan.through(block, graph), pulled)
        parameters += found
    return Pulled(pulled, parameters)


def pull_back(
    block: Block, image: Tensor, output: Tensor, pulled: Tensor
) -> tuple[Tensor, list[tuple[nn.Parameter, Tensor]]]:
    """The gradient of the loss through one block.

    Args:
        block: f.
        image: its input, which the graph begins at, (B, *N).
        output: f(image), with its graph.
        pulled: gradient of the loss with respect to the output, (B, *N).

    Returns:
        The gradient with respect to the image, and those of the parameters that have one.
    """
    learned = [parameter for parameter in block.parameters() if parameter.requires_grad]
    of_image, *found = torch.autograd.grad(output, [image, *learned], pulled, allow_unused=True)
    return of_image, [(p, gradient) for p, gradient in zip(learned, found, strict=True) if gradient is not None]


def _or_infinite(errors: Tensor) -> float:
    """The largest; infinity in place of what is not a number."""
    return float(torch.nan_to_num(errors, nan=torch.inf).max())
