"""The explicit two-layer gated network: neurons with a filter, a fixed gate and output weights."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from convexrecon.convex.arrangements import Gates, convolve
from convexrecon.errors import InputError


class GatedNetwork(nn.Module):
    """``f(x) = sum_r v_r  D_{i(r)} . (u_r * x + c_r)``: two layers, without skip.

    Args:
        gates: the arrangement, P gates on C channels.
        filters: u, (R, C, *k).
        constants: c, (R,), or None for filters without a constant term.
        gate_of: i(r), (R,) int64, the gate of each neuron.
        outputs: v, (R, m), the 1x1 convolution.
    """

    kind = "gated_network"

    def __init__(
        self, gates: Gates, filters: Tensor, constants: Tensor | None, gate_of: Tensor, outputs: Tensor
    ) -> None:
        super().__init__()
        self.gate_filters: Tensor
        self.gate_offsets: Tensor
        self.gate_of: Tensor
        self.register_buffer("gate_filters", gates.filters)
        self.register_buffer("gate_offsets", gates.offsets)
        self.register_buffer("gate_of", gate_of)
        self.filters = nn.Parameter(filters, requires_grad=False)
        self.constants = None if constants is None else nn.Parameter(constants, requires_grad=False)
        self.outputs = nn.Parameter(outputs, requires_grad=False)
        self.periodic = gates.periodic

    @property
    def gates(self) -> Gates:
        """The arrangement."""
        return Gates(self.gate_filters, self.gate_offsets, self.periodic)

    def hidden(self, features: Tensor) -> Tensor:
        """The frozen hidden channels: (B, C, *N) -> (B, R, *N)."""
        if self.filters.shape[0] == 0:
            return features.new_zeros(features.shape[0], 0, *features.shape[2:])
        responses = convolve(features, self.filters.to(features), periodic=self.periodic)
        if self.constants is not None:
            responses = responses + self.constants.to(features).view(1, -1, *[1] * (features.ndim - 2))
        return responses * self.gates.patterns(features)[:, self.gate_of]

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, *N) -> (B, m, *N)."""
        return self.combined(self.hidden(features))

    def combined(self, hidden: Tensor) -> Tensor:
        """The 1x1 convolution of the hidden channels: (B, R, *N) -> (B, m, *N)."""
        return torch.einsum("br...,rm->bm...", hidden, self.outputs.to(hidden))

    def normalized(self, scales: Tensor) -> "GatedNetwork":
        """The same function with hidden channel r divided by ``scales[r]``."""
        shape = (-1, *[1] * (self.filters.ndim - 1))
        return GatedNetwork(
            self.gates,
            self.filters / scales.view(shape),
            None if self.constants is None else self.constants / scales,
            self.gate_of,
            self.outputs * scales.unsqueeze(1),
        )

    def carrying(self, channels: Sequence[int]) -> "GatedNetwork":
        """The same function with a hidden channel more for each of these input channels, which it passes on.

        Args:
            channels: their numbers; each becomes a neuron of the gate that is always open, with no output weight.

        Raises:
            InputError: no gate is always open.
        """
        gate = self.gates.always_open()
        if gate is None:
            raise InputError("carrying: expected a gate that is always open, found none")
        filters = self.filters.new_zeros(len(channels), *self.filters.shape[1:])
        middle = tuple(size // 2 for size in self.gates.kernel)
        for row, channel in enumerate(channels):
            filters[(row, channel, *middle)] = 1
        added = len(channels)
        return GatedNetwork(
            self.gates,
            torch.cat([self.filters, filters]),
            None if self.constants is None else torch.cat([self.constants, self.constants.new_zeros(added)]),
            torch.cat([self.gate_of, self.gate_of.new_full((added,), gate)]),
            torch.cat([self.outputs, self.outputs.new_zeros(added, self.outputs.shape[1])]),
        )
