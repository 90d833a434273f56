"""A layer more on a stack of features: its hidden channels, frozen, and whether it is worth having."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from convexrecon.cascade import Cascade
from convexrecon.convex.program import BlockSolution
from convexrecon.convex.recovery import gated_network
from convexrecon.denoisers.feature_stack import FeatureStack
from convexrecon.denoisers.gated_network import GatedNetwork
from convexrecon.errors import InputError
from convexrecon.training.config import RunSettings

# Channels of the image, real and imaginary part.
IMAGE_CHANNELS = 2
# Share of the held-out loss that an added layer takes away at least: 0.004 dB.
LEAST_GAIN = 1e-3


def chooses_strength(settings: RunSettings, validates: bool) -> bool:
    """Whether the strength of the penalty is chosen on validation slices.

    Args:
        settings: of the run.
        validates: whether there are such slices.

    Raises:
        InputError: asked for without validation slices.
    """
    convex, stacking = settings.convex, settings.model.stacking
    if convex.beta_from == "validation" and not validates:
        raise InputError(
            "convex.beta_from: 'validation' expects validation slices, found none; give validation_fraction above 0 "
            "or a validation folder"
        )
    if convex.beta_from == "auto":
        posed = convex.program.beta is None and convex.program.beta_ratio < 1
        return stacking == "features" and validates and posed
    return convex.beta_from == "validation"


def helps(loss: float, records: Sequence[dict[str, Any]]) -> bool:
    """Whether a layer with this held-out loss is better than those of the records without it."""
    before = records[-1].get("held_out_loss") if records else None
    return before is None or loss < (1 - LEAST_GAIN) * before


def stacked(cascade: Cascade, solved: BlockSolution, samples: Sequence[Tensor], settings: RunSettings) -> FeatureStack:
    """The stack with a layer more, the hidden channels scaled to unit root mean square on samples.

    But for the published form the image is among them: the gates' filters forget what they do not correct.

    Args:
        cascade: the stack so far as one block, or no block.
        solved: the layer's program.
        samples: its inputs (B, R, *N) on a few training slices, the image's channels last.
        settings: of the run.

    Raises:
        InputError: the layer is the empty network.
    """
    gates, weights = solved.gates.to("cpu"), solved.solution.weights.cpu()
    network = gated_network(gates, weights, constant=settings.convex.program.constant)
    if network.filters.shape[0] == 0:
        raise InputError(
            "features: the optimum of this layer is the empty network, so there are no hidden channels to "
            "stack on; expected a smaller beta"
        )
    residual = settings.model.stacking == "features"
    if residual:
        channels = samples[0].shape[1]
        network = network.carrying(range(channels - IMAGE_CHANNELS, channels))
    power = torch.stack([network.hidden(sample.cpu()).square().mean((0, *range(2, sample.ndim))) for sample in samples])
    network = network.normalized(power.mean(0).sqrt().clamp_min(1e-12))
    return FeatureStack([*layers_of(cascade), network], residual=residual)


def layers_of(cascade: Cascade) -> list[GatedNetwork]:
    """The layers of the stack that is the cascade's only block; none of an empty cascade."""
    layers: list[GatedNetwork] = []
    for block in cascade:
        assert isinstance(block.denoiser, FeatureStack)
        layers = [block.denoiser.layer(index) for index in range(len(block.denoiser.networks))]
    return layers
