"""Sufficient statistics that gates are added to: only the new rows and columns of H are accumulated."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from convexrecon.convex.arrangements import Gates, joined
from convexrecon.convex.gated_convolution import feature_count
from convexrecon.convex.patches import PIXELS_PER_CHUNK, BlockBatch, pixel_chunks
from convexrecon.errors import InputError
from convexrecon.solvers.quadratics import DenseQuadratic


@dataclass(frozen=True)
class GrownStatistics:
    """H, c and tau of the gates so far.

    Attributes:
        gates: the arrangement, P gates.
        matrix: H = A^T A / n, (P, d, P, d) float64.
        linear: c = A^T T / n, (P, d, m) float64.
        tau: ||T||^2 / n.
        pixels: n.
        constant: whether filters have a constant term.
    """

    gates: Gates
    matrix: Tensor
    linear: Tensor
    tau: float
    pixels: int
    constant: bool

    def quadratic(self) -> DenseQuadratic:
        """As the solvers take them."""
        side = self.linear.shape[0] * self.linear.shape[1]
        return DenseQuadratic(self.matrix.view(side, side), self.linear, self.tau)

    def select(self, keep: Tensor) -> "GrownStatistics":
        """Those of the gates at index or mask `keep`."""
        matrix = self.matrix[keep][:, :, keep].contiguous()
        return GrownStatistics(self.gates.select(keep), matrix, self.linear[keep], self.tau, self.pixels, self.constant)


def grow_statistics(
    before: GrownStatistics | None, batches: Iterable[BlockBatch], new: Gates, constant: bool
) -> GrownStatistics:
    """The statistics with Q gates more, in one pass: ``H_ij`` where i is new, j any; the rest is kept.

    As in `sufficient_statistics` each block is the product of gate products, here Q (P + Q) rows of zeros and
    ones, with the products of the features, of which only those a <= b are formed.

    Args:
        before: statistics of P gates on the same data, or None for P = 0.
        batches: one pass over the data.
        new: Q gates.
        constant: whether filters have a constant term.

    Raises:
        InputError: no pixel in the data, or NaN or Inf among them.
    """
    gates = new if before is None else joined(before.gates, new)
    added, size = len(new), feature_count(new.filters.shape[1], new.kernel, constant)
    device = new.filters.device
    upper = torch.triu_indices(size, size, device=device)
    products = torch.empty(upper.shape[1], PIXELS_PER_CHUNK, device=device)
    packed = torch.zeros(added * len(gates), upper.shape[1], dtype=torch.float64, device=device)
    linear: Tensor | None = None
    energy, pixels = 0.0, 0
    for batch in batches:
        for chunk in pixel_chunks(batch, gates, constant, torch.float32):
            fresh = chunk.open[-added:]
            gate_products = (fresh.unsqueeze(1) * chunk.open).flatten(0, 1)
            packed += gate_products @ pair_products(chunk.patches, products).T
            gated = (fresh.unsqueeze(1) * chunk.target).flatten(0, 1) @ chunk.patches.T
            term = gated.view(added, -1, size).transpose(1, 2).double()
            linear = term if linear is None else linear + term
            energy += float(chunk.target.double().square().sum())
            pixels += chunk.target.shape[1]
    if linear is None or pixels == 0:
        raise InputError("statistics: no pixel in the data")
    if not (torch.isfinite(linear).all() and torch.isfinite(packed).all()):
        raise InputError("statistics: NaN or Inf in the data or overflow of their products")
    rows = torch.empty(added, len(gates), size, size, dtype=torch.float64, device=device)
    rows[..., upper[0], upper[1]] = packed.view(added, len(gates), -1) / pixels
    rows[..., upper[1], upper[0]] = packed.view(added, len(gates), -1) / pixels
    matrix = _bordered(None if before is None else before.matrix, rows.transpose(1, 2))
    linear = linear / pixels
    if before is not None:
        linear = torch.cat([before.linear, linear])
    return GrownStatistics(gates, matrix, linear, energy / pixels, pixels, constant)


def pair_products(rows: Tensor, buffer: Tensor) -> Tensor:
    """Products of rows a <= b, in the order of `torch.triu_indices`: (r, n) -> (r (r + 1) / 2, n), in the buffer."""
    start = 0
    for index in range(rows.shape[0]):
        stop = start + rows.shape[0] - index
        torch.mul(rows[index:], rows[index], out=buffer[start:stop, : rows.shape[1]])
        start = stop
    return buffer[:, : rows.shape[1]]


def _bordered(before: Tensor | None, rows: Tensor) -> Tensor:
    """The symmetric (P + Q, d, P + Q, d) of which (P, d, P, d) and the last rows (Q, d, P + Q, d) are known."""
    added, size, total, _ = rows.shape
    matrix = torch.empty(total, size, total, size, dtype=rows.dtype, device=rows.device)
    if before is not None:
        matrix[:-added, :, :-added] = before
    matrix[-added:] = rows
    matrix[:-added, :, -added:] = rows[:, :, :-added].permute(2, 3, 0, 1)
    return matrix
