"""The gated denoiser: identity plus a gated convolution, whose training is convex."""

import torch
from torch import Tensor, nn

from convexrecon.convex.arrangements import Gates
from convexrecon.convex.gated_convolution import GatedConvolution


class GatedDenoiser(nn.Module):
    """``f(u) = u + sum_i D_i . (W_i * u)`` with fixed gates D_i = 1[g_i * u >= b_i].

    Args:
        gates: the arrangement, P gates on C channels.
        weights: W, (P, d, m), d = C prod(k) + constant, m <= C outputs.
        constant: whether the filters have a constant term.
    """

    kind = "gated"

    def __init__(self, gates: Gates, weights: Tensor, *, constant: bool) -> None:
        super().__init__()
        self.gate_filters: Tensor
        self.gate_offsets: Tensor
        self.register_buffer("gate_filters", gates.filters)
        self.register_buffer("gate_offsets", gates.offsets)
        # Kept in float64, applied in the image's precision: rounding W to float32 moves the correlations
        # that the certificate compares with beta by more than a small beta allows.
        self.weights = nn.Parameter(weights.double(), requires_grad=False)
        self.constant = constant
        self.periodic = gates.periodic

    @property
    def gates(self) -> Gates:
        """The arrangement."""
        return Gates(self.gate_filters, self.gate_offsets, self.periodic)

    @property
    def active_gates(self) -> int:
        """Number of gates whose filters are not all zero."""
        return int((self.weights.flatten(1).norm(dim=1) > 0).sum())

    def correction(self, image: Tensor) -> Tensor:
        """A W, what is added to the image: (B, C, *N) -> (B, m, *N)."""
        keep = self.weights.flatten(1).norm(dim=1) > 0
        if not bool(keep.any()):
            return torch.zeros_like(image[:, : self.weights.shape[2]])
        layer = GatedConvolution(self.gates.select(keep), image, self.constant)
        return layer.forward(self.weights[keep].to(image.dtype))

    def forward(self, image: Tensor) -> Tensor:
        """u (B, C, *N) real -> f(u) (B, m, *N); the skip is from the first m channels."""
        return image[:, : self.weights.shape[2]] + self.correction(image)
