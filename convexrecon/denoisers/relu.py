"""The two-layer ReLU denoiser: the network whose convex form the gated denoiser is."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from convexrecon.denoisers.convolution import convolution, fill_normal
from convexrecon.denoisers.lipschitz import convolution_bound
from convexrecon.denoisers.residual import ResidualDenoiser, layer_weight


class ReluDenoiser(ResidualDenoiser):
    """``f(u) = u + V relu(U * u + b)``: convolution, ReLU, 1x1 convolution, skip.

    Zeros beyond the border, as the convex program has it.

    Args:
        width: number of hidden units.
        kernel: odd kernel size, of all axes or one for each.
        channels: input channels, 2 for a complex image.
        outputs: output channels; the skip is from the first of the input's.
        dimensions: 1, 2 or 3.
        bias: whether the first layer has a bias.
        periodic: whether the first axis goes round, as the time of a heartbeat does.
        spectral: bound of the Lipschitz constant of f - identity, below 1; None for none.
        generator: of the initial weights; He-normal first layer, small second layer, so that the
            network starts near the identity.

    Raises:
        InputError: a setting out of range.
    """

    kind = "relu"

    def __init__(
        self,
        width: int,
        kernel: int | Sequence[int],
        *,
        channels: int = 2,
        outputs: int = 2,
        dimensions: int = 2,
        bias: bool = True,
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
            padding="zeros",
            periodic=periodic,
            spectral=spectral,
        )
        self.bias = bias
        first = convolution(channels, width, self.kernel, generator, bias=bias)
        second = convolution(width, outputs, (1,) * dimensions, generator, gain=0.1)
        if bias:
            with torch.no_grad():
                fill_normal(first.get_parameter("bias"), 0.1, generator)
        self.network = nn.Sequential(first, nn.ReLU(), second)

    def branch(self, image: Tensor) -> Tensor:
        """V relu(U * u + b)."""
        return torch.as_tensor(self.network(image))

    def branch_bound(self) -> Tensor:
        """||U|| ||V||."""
        return convolution_bound(layer_weight(self.network[0])) * convolution_bound(layer_weight(self.network[2]))

    def convolutions(self) -> int:
        """How many k-sized convolutions follow each other."""
        return 1

    def settings(self) -> dict[str, Any]:
        """The JSON-able arguments that build the same denoiser, but for its weights."""
        settings = super().settings() | {"bias": self.bias}
        del settings["padding"]
        return settings
