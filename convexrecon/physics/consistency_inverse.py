"""Data consistency undone: its input from its output, and how much that amplifies."""

import math

import torch
from torch import Tensor

from convexrecon.physics.conjugate_gradient import conjugate_gradient
from convexrecon.physics.data_consistency import (
    DataConsistency,
    GradientDataConsistency,
    ProximalDataConsistency,
)
from convexrecon.physics.forward_model import ForwardModel

# Relative residuals that float32 conjugate gradients reach.
TOLERANCE = 1e-7
MAX_ITERATIONS = 100


def inverse_amplification(consistency: DataConsistency) -> float:
    """How much the inverse amplifies an error at most, for ``||A|| <= 1``; infinite where there may be no inverse.

    The eigenvalues m of A^H A lie in [0, 1]. The inverse of the proximal step has (m + lam) / lam, that of the
    gradient step 1 / (1 - step m): at step >= 1 some m may make it singular, as fully sampled k-space (m = 1) does at
    step = 1. Measured components lose log2 of this many bits with every block.

    >>> from convexrecon.physics.data_consistency import ProximalDataConsistency
    >>> round(inverse_amplification(ProximalDataConsistency(0.5)), 6)
    3.0
    """
    if isinstance(consistency, ProximalDataConsistency):
        return (1 + consistency.lam) / consistency.lam
    if isinstance(consistency, GradientDataConsistency):
        step = float(consistency.step.detach())
        return max(1.0, 1 / (1 - step)) if step < 1 else math.inf
    return 1.0


@torch.no_grad()
def invert_consistency(
    consistency: DataConsistency, image: Tensor, sense: ForwardModel, adjoint_kspace: Tensor
) -> Tensor:
    """The z that data consistency makes x of.

    Proximal: ``z = x + A^H (A x - y) / lam``, as exact as the conjugate gradients that made x were: their residual
    over lam is its error (Kellman et al., IEEE TCI 2020, arXiv 2003.05551). Gradient: the solution of
    ``(1 - step A^H A) z = x - step A^H y`` by conjugate gradients, positive definite for step < 1.
    Where all maps are zero, z = x.

    Args:
        consistency: the step.
        image: x, (B, *N) complex.
        sense: A.
        adjoint_kspace: A^H y, (B, *N) complex.

    Returns:
        z, (B, *N). Not to be used where `inverse_amplification` is infinite.
    """
    if isinstance(consistency, ProximalDataConsistency):
        return image + (sense.normal(image) - adjoint_kspace) / consistency.log_lam.exp()
    if isinstance(consistency, GradientDataConsistency):
        step = consistency.step
        return conjugate_gradient(
            lambda z: z - step * sense.normal(z),
            image - step * adjoint_kspace,
            tolerance=TOLERANCE,
            max_iterations=MAX_ITERATIONS,
            initial=image,
        ).solution
    return image
