"""Convolution layers of any dimension with padding at the border and He-normal weights from a generator."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from convexrecon.errors import InputError

CONVOLUTION_LAYERS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}

Padding = Literal["zeros", "reflect", "replicate", "circular"]
PADDINGS: tuple[Padding, ...] = ("zeros", "reflect", "replicate", "circular")


def convolution(
    inputs: int,
    outputs: int,
    kernel: Sequence[int],
    generator: torch.Generator,
    *,
    gain: float = 1.0,
    bias: bool = False,
    padding: Padding = "zeros",
) -> nn.Module:
    """A convolution that keeps the image size, with weights ``N(0, gain^2 2 / fan_in)`` (He et al. 2015).

    Args:
        inputs: channels in.
        outputs: channels out.
        kernel: odd kernel size along each image axis, 1 to 3 of them.
        generator: of the weights; nothing else draws.
        gain: of the standard deviation.
        bias: whether there is a bias, zero at first.
        padding: what the image continues as beyond its border.
    """
    # skip_init: the layers' own initial weights would come from the global generator.
    layer: nn.Module = nn.utils.skip_init(
        CONVOLUTION_LAYERS[len(kernel)],
        inputs,
        outputs,
        tuple(kernel),
        padding=tuple(size // 2 for size in kernel),
        bias=bias,
        padding_mode=padding,
    )
    weight = layer.get_parameter("weight")
    with torch.no_grad():
        fill_normal(weight, gain * math.sqrt(2 / weight[0].numel()), generator)
        if bias:
            layer.get_parameter("bias").zero_()
    return layer


def fill_normal(parameter: Tensor, deviation: float, generator: torch.Generator) -> None:
    """Fill with ``N(0, deviation^2)``, drawn in one call."""
    parameter.copy_(torch.randn(parameter.shape, generator=generator) * deviation)


def kernel_sizes(kernel: int | Sequence[int], dimensions: int) -> tuple[int, ...]:
    """The odd kernel size along each of 1 to 3 axes.

    Raises:
        InputError: another number of axes, or a size that is not odd and positive.

    >>> kernel_sizes(3, 2)
    (3, 3)
    """
    if dimensions not in CONVOLUTION_LAYERS:
        raise InputError(f"dimensions: expected 1, 2 or 3, found {dimensions}")
    sizes = (kernel,) * dimensions if isinstance(kernel, int) else tuple(kernel)
    if len(sizes) != dimensions or any(size < 1 or size % 2 == 0 for size in sizes):
        raise InputError(f"kernel: expected an odd size, or one for each of {dimensions} axes, found {kernel}")
    return sizes


def released_padding(dimensions: int) -> Padding:
    """What GLEAM's released networks pad with: reflection, in 3-D replication."""
    return "replicate" if dimensions == 3 else "reflect"
