"""H approximated by a Kronecker product: a model of a Hessian that is too large to be held."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

# Directions without data keep this share of the largest eigenvalue.
SMALLEST_EIGENVALUE = 1e-10


@dataclass(frozen=True)
class KroneckerQuadratic:
    """``H ~ K (x) F`` with K (G, G) between groups and F (d, d) between features, held by eigen-decompositions.

    For blocks ``H_gh = X^T D_g D_h X / n`` with 0/1 patterns D, K holds the shares of rows that both patterns let
    through and F is X^T X / n: exact where patterns do not depend on the features, and near enough elsewhere for
    `quasi_newton` to learn the rest. Memory is G^2 + d^2 instead of (G d)^2.

    Attributes:
        group_values, group_vectors: eigenvalues (G,) and eigenvectors (G, G) of K.
        feature_values, feature_vectors: (d,) and (d, d), of F.
        linear: c, (G, d, m) float64.
        tau: ||T||^2 / n.
    """

    group_values: Tensor
    group_vectors: Tensor
    feature_values: Tensor
    feature_vectors: Tensor
    linear: Tensor
    tau: float

    @classmethod
    def of(cls, groups: Tensor, features: Tensor, linear: Tensor, tau: float) -> "KroneckerQuadratic":
        """From K (G, G) and F (d, d), symmetric positive semidefinite; made definite.

        Raises:
            ValueError: sizes that do not fit c.
        """
        if groups.shape[0] != linear.shape[0] or features.shape[0] != linear.shape[1]:
            raise ValueError(
                f"factors: expected sizes {tuple(linear.shape[:2])}, found {groups.shape[0]} and {features.shape[0]}"
            )
        by_group, group_vectors = torch.linalg.eigh(groups.double())
        by_feature, feature_vectors = torch.linalg.eigh(features.double())
        values = [v.clamp_min(SMALLEST_EIGENVALUE * float(v[-1])) for v in (by_group, by_feature)]
        return cls(values[0], group_vectors, values[1], feature_vectors, linear, tau)

    def multiply(self, weights: Tensor) -> Tensor:
        """H W."""
        return self._filtered(weights, self._spectrum())

    @property
    def mean_curvature(self) -> float:
        """Mean of the diagonal of H."""
        return float(self.group_values.mean() * self.feature_values.mean())

    def shifted_inverse(self, shift: float) -> Callable[[Tensor], Tensor]:
        """``R -> (H + shift I)^-1 R`` on (G, d, any)."""
        inverse = 1 / (self._spectrum() + shift)
        return lambda rhs: self._filtered(rhs, inverse)

    def scaled(self, factor: float) -> "KroneckerQuadratic":
        """With ``factor H`` for H."""
        return replace(self, group_values=factor * self.group_values)

    def _spectrum(self) -> Tensor:
        return self.group_values.unsqueeze(1) * self.feature_values

    def _filtered(self, weights: Tensor, spectrum: Tensor) -> Tensor:
        """Multiplied by `spectrum` (G, d) in the eigenbasis."""
        groups, features, outputs = weights.shape
        # Features last, so that each of the four products is a single large one.
        rows = weights.transpose(1, 2).reshape(groups, outputs * features)
        turned = (self.group_vectors.T @ rows).view(groups * outputs, features) @ self.feature_vectors
        scaled = turned.view(groups, outputs, features) * spectrum.unsqueeze(1)
        back = scaled.view(groups * outputs, features) @ self.feature_vectors.T
        rows = self.group_vectors @ back.view(groups, outputs * features)
        return rows.view(groups, outputs, features).transpose(1, 2).contiguous()
