"""Convex, then end to end: a trained convex cascade as the ReLU cascade that end-to-end training starts from."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from convexrecon.cascade import Block, Cascade, input_channels
from convexrecon.convex.recovery import relu_network
from convexrecon.denoisers.gated import GatedDenoiser
from convexrecon.denoisers.relu import ReluDenoiser
from convexrecon.errors import InputError
from convexrecon.physics.data_consistency import (
    DataConsistency,
    GradientDataConsistency,
    NoDataConsistency,
    ProximalDataConsistency,
)
from convexrecon.physics.forward_model import ForwardModel


@dataclass(frozen=True)
class BlockDifference:
    """How far a block of the ReLU cascade is from the convex one's, measured on the samples.

    Attributes:
        sharpness: the a of the limit form `convex.recovery.relu_network`; 0 for an empty block.
        units: hidden units of the ReLU block.
        correction: ``||F_relu(u) - F_gated(u)|| / ||F_gated(u)||`` on the inputs u of the gated block.
        image: ``||x_relu - x|| / ||x||`` of the images after the block, each cascade run by itself.
    """

    sharpness: float
    units: int
    correction: float
    image: float


@dataclass(frozen=True)
class ReluStart:
    """A ReLU cascade near a convex one.

    Attributes:
        cascade: blocks of `ReluDenoiser`, all weights and data-consistency weights to be learned.
        blocks: the measured difference of each.
    """

    cascade: Cascade
    blocks: tuple[BlockDifference, ...]


@torch.no_grad()
def relu_start(
    cascade: Cascade, samples: Sequence[tuple[ForwardModel, Tensor]], *, sharpness: Sequence[float] = (10.0,)
) -> ReluStart:
    """Turn a cascade of gated denoisers into one of ReLU denoisers with nearly the same output.

    Each block's optimum is written in the limit form ``relu((h + a g) * u - a b) - relu(a (g * u - b))``; of the a
    asked for, the one that does best on what the block sees of the samples is taken. Every unit is then balanced,
    ``||(filter, bias)|| = ||output weights||``, which leaves its function alone and spares training steps that are
    a times too long in one layer and too short in the other. A block whose optimum is empty keeps its gates as units
    with output weights zero: no output, but a gradient. The biases come from gates' offsets and constants.

    A larger a is nearer, but its units come in pairs of opposite outputs, some sqrt(a) times larger than what they
    leave together: a step that moves one against the other changes the output as much more, and the learning rate
    has to be smaller.

    Args:
        cascade: blocks of `GatedDenoiser`.
        samples: A and k-space (B, C, *N), scaled, on the cascade's device; a few slices are enough.
        sharpness: values of a to try; 1e3 and more, `convex.recovery.SHARPNESS`, to be as near as float32 allows.

    Raises:
        InputError: no samples, no blocks, no positive sharpness, or a block that is not gated.
    """
    if len(samples) == 0 or len(cascade) == 0:
        raise InputError(f"relu start: expected blocks and samples, found {len(cascade)} and {len(samples)}")
    for index, block in enumerate(cascade):
        if not isinstance(block.denoiser, GatedDenoiser):
            kind = getattr(block.denoiser, "kind", type(block.denoiser).__name__)
            raise InputError(f"relu start: expected gated denoisers, found {kind!r} in block {index + 1}")
    adjoints = [sense.adjoint(kspace) for sense, kspace in samples]
    initials = [cascade.start(sense, adjoint) for (sense, _), adjoint in zip(samples, adjoints, strict=True)]
    images, started = list(initials), list(initials)
    blocks, differences = [], []
    for block in cascade:
        seen = [
            input_channels({"image": image, "zero_filled": adjoint, "initial": initial}, block.inputs)
            for image, adjoint, initial in zip(images, adjoints, initials, strict=True)
        ]
        assert isinstance(block.denoiser, GatedDenoiser)
        denoiser, chosen = _relu_denoiser(block.denoiser, seen, sharpness)
        made = Block(denoiser, _learned(block.consistency), inputs=block.inputs).to(images[0].device)
        exact = [block.denoiser.correction(channels) for channels in seen]
        found = [made.denoiser.residual(channels) for channels in seen]  # type: ignore[operator]
        for position, ((sense, _), adjoint, initial) in enumerate(zip(samples, adjoints, initials, strict=True)):
            images[position] = block(images[position], sense, adjoint, initial)
            started[position] = made(started[position], sense, adjoint, initial)
        differences.append(BlockDifference(chosen, denoiser.width, _relative(found, exact), _relative(started, images)))
        blocks.append(made)
    return ReluStart(cascade.with_blocks(blocks), tuple(differences))


def _relu_denoiser(
    gated: GatedDenoiser, seen: Sequence[Tensor], sharpness: Sequence[float]
) -> tuple[ReluDenoiser, float]:
    """The ReLU denoiser, on the CPU, and the sharpness of its limit form."""
    gates, weights, chosen = gated.gates.to("cpu"), gated.weights.cpu(), 0.0
    if gated.active_gates == 0:
        filters, biases = gates.filters.clone(), -gates.offsets
        outputs = torch.zeros(weights.shape[2], len(gates))
    else:
        inputs = [channels.cpu() for channels in seen]
        recovery = relu_network(gates, weights, inputs, constant=gated.constant, sharpness=sharpness)
        layers, chosen = recovery.network.state_dict(), recovery.sharpness
        filters, biases, outputs = _balanced(layers["0.weight"], layers["0.bias"], layers["2.weight"].flatten(1))
    denoiser = ReluDenoiser(
        len(filters),
        gates.kernel,
        channels=filters.shape[1],
        outputs=len(outputs),
        dimensions=len(gates.kernel),
        generator=torch.Generator(),
    )
    ones = (1,) * len(gates.kernel)
    denoiser.network.load_state_dict(
        {"0.weight": filters, "0.bias": biases, "2.weight": outputs.reshape(*outputs.shape, *ones)}
    )
    return denoiser, chosen


def _balanced(filters: Tensor, biases: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same units, (R, C, *k), (R,), (m, R), with ``||(filter, bias)|| = ||output weights||``."""
    first = torch.cat([filters.flatten(1), biases.unsqueeze(1)], 1).norm(dim=1)
    second = outputs.norm(dim=0)
    ratio = torch.where((first > 0) & (second > 0), second / first, torch.ones_like(first)).sqrt()
    return filters * ratio.view(-1, *[1] * (filters.ndim - 1)), biases * ratio, outputs / ratio


def _learned(consistency: DataConsistency) -> DataConsistency:
    """The same step with its weight to be learned."""
    if isinstance(consistency, ProximalDataConsistency):
        return ProximalDataConsistency(
            consistency.lam, learn=True, iterations=consistency.iterations, tolerance=consistency.tolerance
        )
    if isinstance(consistency, GradientDataConsistency):
        return GradientDataConsistency(float(consistency.step), learn=True)
    return NoDataConsistency()


def _relative(found: Sequence[Tensor], exact: Sequence[Tensor]) -> float:
    """``||found - exact|| / ||exact||`` of all together, 0 where both are zero."""
    error = sum(float((a - b).abs().double().square().sum()) for a, b in zip(found, exact, strict=True))
    energy = sum(float(b.abs().double().square().sum()) for b in exact)
    if energy == 0:
        return 0.0 if error == 0 else float("inf")
    return (error / energy) ** 0.5
