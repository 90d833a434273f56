"""What a gate would be worth to a program, on a share of its pixels, without solving for it."""

from typing import Literal

import torch
from torch import Tensor

from convexrecon.convex.arrangements import Gates
from convexrecon.convex.grown_statistics import pair_products
from convexrecon.convex.patches import PIXELS_PER_CHUNK
from convexrecon.convex.sampled_pixels import SampledPixels
from convexrecon.solvers.penalties import Penalty

Rule = Literal["violation", "explained"]

# Ridge of the fit of one gate's filters, relative to the mean of the diagonal.
RIDGE = 1e-5


def score(gates: Gates, pixels: SampledPixels, residual: Tensor, penalty: Penalty, rule: Rule) -> Tensor:
    """The worth of every gate by `violations` or by `explained`: (K,) float64."""
    if rule == "violation":
        return violations(gates, pixels, residual, penalty)
    return explained(gates, pixels, residual)[0]


def violations(gates: Gates, pixels: SampledPixels, residual: Tensor, penalty: Penalty) -> Tensor:
    """``||X^T D_i r / n||_dual`` of every gate: (K,) float64.

    At the optimum r of a program, a gate stays empty if it is added to it exactly where this is at most beta.

    Args:
        gates: K gates.
        pixels: X, n pixels.
        residual: r, (m, n).
        penalty: whose dual norm it is.
    """
    total: Tensor | float = 0.0
    for part in pixels.parts(gates, residual):
        total = total + part.adjoint(part.target).double()
    assert isinstance(total, Tensor)
    return penalty.dual_norm(total / pixels.count)


def explained(gates: Gates, pixels: SampledPixels, residual: Tensor) -> tuple[Tensor, Tensor]:
    """The decrease of ``||r||^2 / (2n)`` that every gate alone can give, and the filters that give it.

    ``1/2 tr(c_i^T H_i^-1 c_i)`` at ``W_i = H_i^-1 c_i``, with ``c_i = X^T D_i r / n``, ``H_i = X^T D_i X / n``,
    slightly regularized.

    Args:
        gates: K gates.
        pixels: X, n pixels.
        residual: r, (m, n).

    Returns:
        (K,) and (K, d, m), float64.
    """
    size = pixels.patches.shape[0]
    upper = torch.triu_indices(size, size, device=pixels.patches.device)
    products = torch.empty(upper.shape[1], PIXELS_PER_CHUNK, device=upper.device)
    packed = torch.zeros(len(gates), upper.shape[1], dtype=torch.float64, device=upper.device)
    linear = torch.zeros(len(gates), size, residual.shape[0], dtype=torch.float64, device=upper.device)
    for part in pixels.parts(gates, residual):
        packed += part.open @ pair_products(part.patches, products).T
        linear += part.adjoint(part.target)
    matrix = torch.zeros(len(gates), size, size, dtype=torch.float64, device=upper.device)
    matrix[:, upper[0], upper[1]] = packed / pixels.count
    matrix[:, upper[1], upper[0]] = packed / pixels.count
    diagonal = matrix.diagonal(dim1=1, dim2=2)
    # A gate that is never open has a zero matrix; it explains nothing.
    diagonal += (RIDGE * diagonal.mean(1, keepdim=True)).clamp_min(torch.finfo(torch.float32).tiny)
    fits = torch.cholesky_solve(linear / pixels.count, torch.linalg.cholesky(matrix))
    return (linear / pixels.count * fits).sum((1, 2)) / 2, fits
