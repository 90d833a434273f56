"""What the trained denoisers share: a skip, a branch beside it and, if wanted, a bound on how much that amplifies."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from convexrecon.denoisers.convolution import PADDINGS, Padding, kernel_sizes, released_padding
from convexrecon.denoisers.lipschitz import smallest_size
from convexrecon.errors import InputError


class ResidualDenoiser(nn.Module):
    """``f(x) = x + F(x)``, with ``F = min(1, spectral / L) branch``.

    L is an upper bound of the branch's Lipschitz constant, the skip from the first `outputs` input channels. With
    `spectral` < 1 and as many outputs as channels, f is invertible: ``z <- f(x) - F(z)`` converges to x, its error
    falling by `spectral` each time. The factor is a function of the weights alone, and gradients go through it:
    it has no state, so that training and evaluation mode agree.

    Args:
        width: channels inside.
        kernel: odd kernel size, of all axes or one for each.
        channels: real input channels, 2 for each complex image.
        outputs: output channels.
        dimensions: 1, 2 or 3.
        padding: beyond the image's border; None for GLEAM's (reflection, in 3-D replication) or, where `spectral` is
            given, zeros: repeating pixels at the border costs a factor of 2 in the bound of each layer in 2-D.
        periodic: whether the first axis goes round, as the time of a heartbeat does, whatever the padding.
        spectral: the bound of F's Lipschitz constant, between 0 and 1; None for none.

    Raises:
        InputError: a setting out of range.
    """

    kind: str

    def __init__(
        self,
        width: int,
        kernel: int | Sequence[int],
        *,
        channels: int,
        outputs: int,
        dimensions: int,
        padding: Padding | None,
        periodic: bool,
        spectral: float | None,
    ) -> None:
        super().__init__()
        self.kernel = kernel_sizes(kernel, dimensions)
        if padding is None:
            padding = released_padding(dimensions) if spectral is None else "zeros"
        if width < 1:
            raise InputError(f"width: expected at least 1 channel inside, found {width}")
        if not 1 <= outputs <= channels:
            raise InputError(f"channels: expected at least as many as outputs >= 1, found {channels}, {outputs}")
        if padding not in PADDINGS:
            raise InputError(f"padding: expected one of {', '.join(PADDINGS)}, found {padding!r}")
        if spectral is not None and not 0 < spectral < 1:
            raise InputError(f"spectral: expected a bound between 0 and 1, or None for none, found {spectral}")
        self.width = width
        self.channels = channels
        self.outputs = outputs
        self.padding: Padding = padding
        self.periodic = periodic
        self.spectral = spectral

    @abstractmethod
    def branch(self, image: Tensor) -> Tensor:
        """What F scales: (B, channels, *N) -> (B, outputs, *N)."""

    @abstractmethod
    def branch_bound(self) -> Tensor:
        """L, an upper bound of the branch's Lipschitz constant: a scalar that the weights can be trained through."""

    @abstractmethod
    def convolutions(self) -> int:
        """How many k-sized convolutions follow each other: F at a pixel sees that many times k // 2 pixels around."""

    def factor(self) -> Tensor:
        """``min(1, spectral / L)``, a scalar; 1 without `spectral`."""
        if self.spectral is None:
            return torch.ones(())
        return (self.spectral / self.branch_bound()).clamp_max(1)

    def residual(self, image: Tensor, factor: Tensor | None = None) -> Tensor:
        """F, what is added to the image: (B, channels, *N) -> (B, outputs, *N).

        Args:
            image: x.
            factor: what `factor` gave for these weights, where F is called often; None to compute it.

        Raises:
            InputError: an image of other axes or channels, or smaller than the padding can be made from.
        """
        self._check(image)
        correction = self._periodic_branch(image) if self.periodic else self.branch(image)
        if self.spectral is None:
            return correction
        return correction * (self.factor() if factor is None else factor)

    def forward(self, image: Tensor) -> Tensor:
        """x (B, channels, *N) real -> x[:, :outputs] + F(x), (B, outputs, *N)."""
        return image[:, : self.outputs] + self.residual(image)

    def settings(self) -> dict[str, Any]:
        """The JSON-able arguments that build the same denoiser, but for its weights."""
        return {
            "width": self.width,
            "kernel": list(self.kernel),
            "channels": self.channels,
            "outputs": self.outputs,
            "dimensions": len(self.kernel),
            "padding": self.padding,
            "periodic": self.periodic,
            "spectral": self.spectral,
        }

    def _periodic_branch(self, image: Tensor) -> Tensor:
        """The branch on as many frames more as it sees, cut off again.

        What is left is the branch on a ring, where no frame is repeated: the bound holds unchanged.
        """
        frames = image.shape[2]
        seen = self.convolutions() * (self.kernel[0] // 2)
        around = torch.arange(-seen, frames + seen, device=image.device) % frames
        return self.branch(image.index_select(2, around))[:, :, seen : seen + frames]

    def _check(self, image: Tensor) -> None:
        if image.ndim != len(self.kernel) + 2 or image.shape[1] != self.channels:
            raise InputError(
                f"{self.kind} denoiser: expected an image (B, {self.channels}, {len(self.kernel)} axes), "
                f"found {tuple(image.shape)}"
            )
        bounded = self.spectral is not None
        least = tuple(
            1 if self.periodic and axis == 0 else smallest_size(self.padding, size, bounded=bounded)
            for axis, size in enumerate(self.kernel)
        )
        if any(size < needed for size, needed in zip(image.shape[2:], least, strict=True)):
            raise InputError(
                f"{self.kind} denoiser: padding {self.padding!r} with kernel {self.kernel} expects an image of at "
                f"least {least}, found {tuple(image.shape[2:])}"
            )


def with_factor_once(denoiser: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The same function, what depends on its weights alone computed now and not for every image."""
    if not isinstance(denoiser, ResidualDenoiser):
        return denoiser
    factor, outputs = denoiser.factor(), denoiser.outputs
    return lambda image: image[:, :outputs] + denoiser.residual(image, factor)


def layer_weight(layer: nn.Module) -> Tensor:
    """The weight of a convolution layer, (outputs, inputs, *k)."""
    return torch.as_tensor(layer.get_parameter("weight"))
