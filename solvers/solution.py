"""What every algorithm returns."""

from dataclasses import dataclass

from torch import Tensor

from .certificates import Certificate


@dataclass(frozen=True)
class Solution:
    """Weights with the certificate measured at them.

    Attributes:
        weights: (G, d, m) float64; groups that the penalty removed are exactly zero.
        beta: the penalty's weight.
        certificate: duality gap at `weights`.
        iterations: steps taken.
        converged: whether the certificate reached the tolerance asked for.
    """

    weights: Tensor
    beta: float
    certificate: Certificate
    iterations: int
    converged: bool

    @property
    def active_groups(self) -> int:
        """Number of groups that are not zero."""
        return int((self.weights.flatten(1).norm(dim=1) > 0).sum())
