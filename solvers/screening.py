"""Which groups are zero at every optimum, proved at any point by its duality gap."""

import torch
from torch import Tensor

from .certificates import certify, dual_scale
from .penalties import Penalty
from .quadratics import DenseQuadratic


def proved_zero(quadratic: DenseQuadratic, penalty: Penalty, beta: float, weights: Tensor) -> Tensor:
    """Groups that no optimum uses: (G,) bool.

    The dual objective is strongly concave, so that the dual optimum is within ``sqrt(2 gap / n)`` of the feasible
    point ``s rho / n`` of the certificate, and ``||A_g||^2 / n`` is the largest eigenvalue of H_gg. Where
    ``s ||(c - HW)_g||_dual + sqrt(2 gap lambda_max(H_gg)) < beta`` the constraint of the group is slack at the
    optimum, hence W_g = 0. Gap-safe rules: Ndiaye, Fercoq, Gramfort and Salmon, JMLR 18:128 (2017).

    Args:
        quadratic: f with H as a matrix.
        penalty: R; its dual norm at most the Frobenius norm, as that of all in `penalties`.
        beta: its weight.
        weights: W, (G, d, m), any point; the nearer to the optimum, the more is proved.
    """
    groups, features, _ = quadratic.linear.shape
    product = quadratic.multiply(weights)
    certificate = certify(quadratic, penalty, beta, weights, product)
    # Rounding of the gap must not prove anything.
    gap = max(certificate.objective - certificate.bound, 0.0) + 1e-13 * quadratic.tau
    blocks = quadratic.matrix.view(groups, features, groups, features).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
    largest = torch.linalg.eigvalsh(blocks)[:, -1].clamp_min(0)
    explained = float((quadratic.linear * weights).sum())
    energy = quadratic.tau - 2 * explained + float((weights * product).sum())
    scale = dual_scale(energy, quadratic.tau - explained, certificate.dual_norm, beta)
    reached = scale * penalty.dual_norm(quadratic.linear - product)
    return reached + (2 * gap * largest).sqrt() < beta
