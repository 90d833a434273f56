"""Linear maps by their action: what the matrix-free algorithms need, and a dense one for small problems."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class LinearMap(Protocol):
    """``A: (G, d, m) -> data``, with its exact adjoint."""

    def forward(self, weights: Tensor) -> Tensor:
        """A W: weights (G, d, m) -> data, any shape."""
        ...

    def adjoint(self, data: Tensor) -> Tensor:
        """A^T R: data -> (G, d, m)."""
        ...


@dataclass(frozen=True)
class DenseBlocks:
    """``A W = sum_g A_g W_g`` with explicit blocks; for tests and small problems.

    Attributes:
        blocks: (G, n, d) real.
    """

    blocks: Tensor

    def forward(self, weights: Tensor) -> Tensor:
        """(G, d, m) -> (n, m)."""
        return torch.einsum("gnd,gdm->nm", self.blocks, weights)

    def adjoint(self, data: Tensor) -> Tensor:
        """(n, m) -> (G, d, m)."""
        return torch.einsum("gnd,nm->gdm", self.blocks, data)
