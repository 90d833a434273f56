"""The two-layer ReLU denoiser: the network whose convex form the gated denoiser is."""

import torch
from torch import Tensor, nn

from convexrecon.errors import InputError

CONVOLUTION_LAYERS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


class ReluDenoiser(nn.Module):
    """``f(u) = u + V relu(U * u + b)``: convolution, ReLU, 1x1 convolution, skip.

    Args:
        hidden: number of hidden units.
        kernel: odd kernel size along every axis.
        channels: input channels, 2 for a complex image.
        outputs: output channels; the skip is from the first of the input's.
        dimensions: 1, 2 or 3.
        bias: whether the first layer has a bias.
        generator: of the initial weights; He-normal first layer, small second layer, so that the
            network starts near the identity.

    Raises:
        InputError: a size out of range.
    """

    kind = "relu"

    def __init__(
        self,
        hidden: int,
        kernel: int,
        *,
        channels: int = 2,
        outputs: int = 2,
        dimensions: int = 2,
        bias: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if hidden < 1 or kernel < 1 or kernel % 2 == 0 or dimensions not in CONVOLUTION_LAYERS:
            raise InputError(
                "denoiser: expected hidden >= 1, an odd kernel and 1 to 3 dimensions, "
                f"found {hidden}, {kernel}, {dimensions}"
            )
        layer = CONVOLUTION_LAYERS[dimensions]
        first = layer(channels, hidden, kernel, padding=kernel // 2, bias=bias)
        second = layer(hidden, outputs, 1, bias=False)
        fan_in = channels * kernel**dimensions
        with torch.no_grad():
            _normal(first.weight, (2 / fan_in) ** 0.5, generator)
            _normal(second.weight, 0.1 * (2 / hidden) ** 0.5, generator)
            if first.bias is not None:
                _normal(first.bias, 0.1, generator)
        self.outputs = outputs
        self.network = nn.Sequential(first, nn.ReLU(), second)

    def forward(self, image: Tensor) -> Tensor:
        """u (B, channels, *N) real -> f(u) (B, outputs, *N)."""
        result: Tensor = image[:, : self.outputs] + self.network(image)
        return result


def _normal(parameter: Tensor, deviation: float, generator: torch.Generator | None) -> None:
    parameter.copy_(torch.randn(parameter.shape, generator=generator) * deviation)
