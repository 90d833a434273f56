"""GLEAM's proximal network: residual blocks beside a skip."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from convexrecon.denoisers.convolution import Padding, convolution
from convexrecon.denoisers.lipschitz import convolution_bound
from convexrecon.denoisers.residual import ResidualDenoiser, layer_weight
from convexrecon.errors import InputError


class ResidualBlock(nn.Module):
    """``h -> S h + K_2 relu(K_1 relu(h))``: K without bias; S the identity or, where channels change, 1x1 with bias.

    Args:
        inputs: channels in.
        outputs: channels out.
        kernel: odd kernel size along each axis.
        padding: of the convolutions.
        generator: of the initial weights, He-normal.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: Sequence[int], padding: Padding, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.padding: Padding = padding
        self.first = convolution(inputs, outputs, kernel, generator, padding=padding)
        self.second = convolution(outputs, outputs, kernel, generator, padding=padding)
        ones = (1,) * len(kernel)
        self.projection = None if inputs == outputs else convolution(inputs, outputs, ones, generator, bias=True)

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, inputs, *N) -> (B, outputs, *N)."""
        correction = self.second(torch.relu(self.first(torch.relu(hidden))))
        skip = hidden if self.projection is None else self.projection(hidden)
        return torch.as_tensor(skip + correction)

    def bound(self) -> Tensor:
        """||S|| + ||K_1|| ||K_2||."""
        first, second = (convolution_bound(layer_weight(layer), self.padding) for layer in (self.first, self.second))
        skip = 1 if self.projection is None else convolution_bound(layer_weight(self.projection))
        return skip + first * second


class ResNetDenoiser(ResidualDenoiser):
    """``f(x) = x + K_out block_2(block_1(x))``, the proximal network of GLEAM's unrolled gradient descent.

    Two pre-activation residual blocks without normalization, then a convolution with bias and zeros beyond the
    border: arXiv 2207.08393 and its released code, after Sandino et al., IEEE SPM 2020. The first thing that happens
    to the image inside the first block is a ReLU. 273,902 parameters in 2-D with the defaults.

    Args:
        width: channels inside.
        kernel: odd kernel size, of all axes or one for each.
        channels: input channels, 2 for a complex image.
        outputs: output channels; the skip is from the first of the input's.
        dimensions: 1, 2 or 3.
        blocks: residual blocks, at least 1.
        padding: inside the blocks; None for GLEAM's (reflection, in 3-D replication) or, where `spectral` is given,
            zeros: repeating pixels at the border costs a factor of 2 in the bound of each layer in 2-D.
        periodic: whether the first axis goes round, as the time of a heartbeat does.
        spectral: bound of the Lipschitz constant of f - identity, below 1; None for none.
        generator: of the initial weights, He-normal; the last layer a tenth of that, so that the network
            starts near the identity.

    Raises:
        InputError: a setting out of range.
    """

    kind = "resnet"

    def __init__(
        self,
        width: int = 100,
        kernel: int | Sequence[int] = 3,
        *,
        channels: int = 2,
        outputs: int = 2,
        dimensions: int = 2,
        blocks: int = 2,
        padding: Padding | None = None,
        periodic: bool = False,
        spectral: float | None = None,
        generator: torch.Generator,
    ) -> None:
        super().__init__(
            width,
            kernel,
            channels=channels,
            outputs=outputs,
            dimensions=dimensions,
            padding=padding,
            periodic=periodic,
            spectral=spectral,
        )
        if blocks < 1:
            raise InputError(f"blocks: expected at least 1, found {blocks}")
        self.blocks = nn.ModuleList(
            ResidualBlock(channels if index == 0 else width, width, self.kernel, self.padding, generator)
            for index in range(blocks)
        )
        self.last = convolution(width, outputs, self.kernel, generator, gain=0.1, bias=True)

    def branch(self, image: Tensor) -> Tensor:
        """The blocks and the last convolution."""
        hidden = image
        for block in self.blocks:
            hidden = block(hidden)
        return torch.as_tensor(self.last(hidden))

    def branch_bound(self) -> Tensor:
        """The product of the blocks' bounds and the last layer's."""
        bound = convolution_bound(layer_weight(self.last))
        for block in self.blocks:
            assert isinstance(block, ResidualBlock)
            bound = bound * block.bound()
        return bound

    def convolutions(self) -> int:
        """How many k-sized convolutions follow each other."""
        return 2 * len(self.blocks) + 1

    def settings(self) -> dict[str, Any]:
        """The JSON-able arguments that build the same denoiser, but for its weights."""
        return super().settings() | {"blocks": len(self.blocks)}
