"""The denoiser of MoDL as GLEAM trains it: five convolutions beside a skip."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from convexrecon.denoisers.convolution import Padding, convolution
from convexrecon.denoisers.lipschitz import convolution_bound
from convexrecon.denoisers.residual import ResidualDenoiser, layer_weight
from convexrecon.errors import InputError


class ModlDenoiser(ResidualDenoiser):
    """``z = x + K_5 relu(K_4 .. relu(K_1 x))``: convolutions without bias, so that f(c x) = c f(x) for c >= 0.

    MoDL (Aggarwal et al., IEEE TMI 2019, arXiv 1712.02862) as in GLEAM (arXiv 2207.08393), which has no batch
    normalization. 134,820 parameters in 2-D with the defaults.

    Args:
        width: channels inside.
        kernel: odd kernel size, of all axes or one for each.
        channels: input channels, 2 for a complex image.
        outputs: output channels; the skip is from the first of the input's.
        dimensions: 1, 2 or 3.
        layers: convolutions, at least 2.
        padding: of every layer; None for GLEAM's (reflection, in 3-D replication) or, where `spectral` is given,
            zeros: repeating pixels at the border costs a factor of 2 in the bound of each layer in 2-D.
        periodic: whether the first axis goes round, as the time of a heartbeat does.
        spectral: bound of the Lipschitz constant of f - identity, below 1; None for none.
        generator: of the initial weights, He-normal; the last layer a tenth of that, so that the network
            starts near the identity.

    Raises:
        InputError: a setting out of range.
    """

    kind = "modl"

    def __init__(
        self,
        width: int = 70,
        kernel: int | Sequence[int] = 3,
        *,
        channels: int = 2,
        outputs: int = 2,
        dimensions: int = 2,
        layers: int = 5,
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
        if layers < 2:
            raise InputError(f"layers: expected at least 2, found {layers}")
        widths = [channels, *[width] * (layers - 1), outputs]
        self.layers = nn.ModuleList(
            convolution(
                widths[index],
                widths[index + 1],
                self.kernel,
                generator,
                gain=0.1 if index == layers - 1 else 1.0,
                padding=self.padding,
            )
            for index in range(layers)
        )

    def branch(self, image: Tensor) -> Tensor:
        """The convolutions with ReLU between."""
        hidden = self.layers[0](image)
        for layer in list(self.layers)[1:]:
            hidden = layer(torch.relu(hidden))
        return torch.as_tensor(hidden)

    def branch_bound(self) -> Tensor:
        """The product of the layers' bounds."""
        return torch.stack([convolution_bound(layer_weight(layer), self.padding) for layer in self.layers]).prod()

    def convolutions(self) -> int:
        """How many k-sized convolutions follow each other."""
        return len(self.layers)

    def settings(self) -> dict[str, Any]:
        """The JSON-able arguments that build the same denoiser, but for its weights."""
        return super().settings() | {"layers": len(self.layers)}
