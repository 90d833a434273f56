"""The program without a penalty: the solution of least norm, whatever the rank of H."""

import torch

from .certificates import Certificate
from .quadratics import DenseQuadratic
from .solution import Solution

# Eigenvalues below this share of the largest are taken for rounding.
SMALLEST_EIGENVALUE = 1e-12


def least_squares(quadratic: DenseQuadratic) -> Solution:
    """``W = H^+ c`` by the eigen-decomposition of H: the least-norm minimizer of f, a limit of beta -> 0.

    Its certificate rests on H, since without a penalty a dual point has to be orthogonal to the data exactly:
    ``f(W) - min f = <g, H^+ g> / 2`` with g = HW - c, of which the part within the range of H counts.

    Args:
        quadratic: f with H as a matrix, of any rank.
    """
    values, vectors = torch.linalg.eigh(quadratic.matrix)
    keep = values > SMALLEST_EIGENVALUE * float(values[-1].clamp_min(0))
    basis, curvature = vectors[:, keep], values[keep].unsqueeze(1)
    linear = quadratic.linear.flatten(0, 1)
    weights = (basis @ (basis.T @ linear / curvature)).view_as(quadratic.linear)
    product = quadratic.multiply(weights)
    gradient = basis.T @ (product.flatten(0, 1) - linear)
    objective = (quadratic.tau - 2 * float((weights * quadratic.linear).sum()) + float((weights * product).sum())) / 2
    gap = float((gradient.square() / curvature).sum()) / 2
    relative = gap / (quadratic.tau / 2) if quadratic.tau > 0 else 0.0
    return Solution(weights, 0.0, Certificate(objective, objective - gap, relative, 0.0), 0, True)
