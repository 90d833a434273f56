"""The gated convolution ``A W = sum_i D_i . (W_i * u)`` as a linear map of its filters, and its adjoint."""

from dataclasses import dataclass

import torch
from torch import Tensor

from convexrecon.convex.arrangements import Gates, convolve

# Gates handled at once: bounds the (B, gates, *N) activation that exists at any time.
GATES_PER_CHUNK = 32


@dataclass(frozen=True)
class GatedConvolution:
    """``A: (P, d, m) -> (B, m, *N)`` for one batch of inputs; satisfies `solvers.linear_maps.LinearMap`.

    Row j of the d = C prod(k) + 1 features of a gate is the patch value (channel first, then the
    kernel's axes), the last the constant 1 when `constant` is set, which gives the filters a bias.
    Patches are never formed: forward and adjoint are convolutions, a few gates at a time.

    Attributes:
        gates: the arrangement, P gates of kernel k.
        features: u, (B, C, *N) real.
        constant: whether the filters have a constant term.
        rows: (B, 1, *N) mask of the pixels that count, or None for all.

    >>> gates = Gates(torch.randn(3, 2, 5, 5), torch.zeros(3))
    >>> layer = GatedConvolution(gates, torch.randn(1, 2, 8, 9), constant=True)
    >>> layer.forward(torch.randn(3, 51, 2)).shape
    torch.Size([1, 2, 8, 9])
    """

    gates: Gates
    features: Tensor
    constant: bool
    rows: Tensor | None = None

    def forward(self, weights: Tensor) -> Tensor:
        """A W: (P, d, m) -> (B, m, *N)."""
        out: Tensor | None = None
        for gates, part in self._chunks(weights):
            open_ = gates.patterns(self.features).unsqueeze(2)
            filters, bias = split_weights(part, self.features.shape[1], gates.kernel, self.constant)
            responses = convolve(self.features, filters.flatten(0, 1), periodic=gates.periodic)
            responses = responses.unflatten(1, filters.shape[:2])
            if bias is not None:
                responses = responses + bias.view(1, *bias.shape, *[1] * len(gates.kernel))
            term = (responses * open_).sum(1)
            out = term if out is None else out + term
        assert out is not None
        return out if self.rows is None else out * self.rows

    def adjoint(self, data: Tensor) -> Tensor:
        """A^T R: (B, m, *N) -> (P, d, m)."""
        if self.rows is not None:
            data = data * self.rows
        outputs = data.shape[1]
        pieces = []
        for start in range(0, len(self.gates), GATES_PER_CHUNK):
            index = torch.arange(start, min(start + GATES_PER_CHUNK, len(self.gates)))
            gates = self.gates.select(index)
            gated = gates.patterns(self.features).unsqueeze(2) * data.unsqueeze(1)
            filters = _filter_gradient(self.features, gated.flatten(1, 2), gates)
            rows = filters.view(len(gates), outputs, -1)
            if self.constant:
                sums = gated.transpose(0, 1).flatten(3).sum((1, 3)).unsqueeze(2)
                rows = torch.cat([rows, sums], 2)
            pieces.append(rows.transpose(1, 2))
        return torch.cat(pieces)

    def _chunks(self, weights: Tensor) -> list[tuple[Gates, Tensor]]:
        starts = range(0, len(self.gates), GATES_PER_CHUNK)
        indices = [torch.arange(s, min(s + GATES_PER_CHUNK, len(self.gates))) for s in starts]
        return [(self.gates.select(index), weights[index]) for index in indices]


def split_weights(
    weights: Tensor, channels: int, kernel: tuple[int, ...], constant: bool
) -> tuple[Tensor, Tensor | None]:
    """Weights (P, d, m) -> filters (P, m, C, *k) and constant terms (P, m) or None."""
    rows = weights.transpose(1, 2)
    bias = rows[..., -1] if constant else None
    taps = rows[..., :-1] if constant else rows
    return taps.reshape(*taps.shape[:2], channels, *kernel), bias


def feature_count(channels: int, kernel: tuple[int, ...], constant: bool) -> int:
    """d, the number of features of a gate: C prod(k), one more with a constant term."""
    size = channels
    for extent in kernel:
        size *= extent
    return size + int(constant)


def _filter_gradient(features: Tensor, outputs: Tensor, gates: Gates) -> Tensor:
    """The adjoint of `convolve` in its filters: (B, C, *N), (B, F, *N) -> (F, C, *k)."""
    shape = (outputs.shape[1], features.shape[1], *gates.kernel)
    filters = torch.zeros(shape, dtype=features.dtype, device=features.device, requires_grad=True)
    with torch.enable_grad():
        responses = convolve(features.detach(), filters, periodic=gates.periodic)
        return torch.autograd.grad(responses, filters, outputs)[0]
