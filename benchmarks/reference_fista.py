"""Accelerated proximal gradient with restarts, as SCNN's R-FISTA takes it: every product is a pass over the arrays.

It needs no package, so that a comparison has a first-order method beside it wherever it is run.
"""

from dataclasses import dataclass
from typing import Any

import torch
from solver_cases import Arrays
from timed_trials import Solve, Trial
from torch import Tensor

from convexrecon.solvers.penalties import penalty_named
from convexrecon.solvers.proximal_gradient import proximal_gradient


@dataclass(frozen=True)
class ArrayQuadratic:
    """``1/(2n) ||sum_g D_g X W_g - t||^2`` of explicit arrays.

    Attributes:
        patches: X, (n, d) float32.
        open: D, (n, P) float32.
        linear: c, (P, d, 1) float64.
        tau: ||t||^2 / n.
    """

    patches: Tensor
    open: Tensor
    linear: Tensor
    tau: float

    @classmethod
    def of(cls, arrays: Arrays) -> "ArrayQuadratic":
        """Of a case."""
        patches, open_, target = (torch.from_numpy(part) for part in (arrays.patches, arrays.open, arrays.target))
        linear = (open_ * target[:, None]).T @ patches / len(target)
        return cls(patches, open_, linear.double()[..., None], float(target.double().square().mean()))

    def multiply(self, weights: Tensor) -> Tensor:
        """H W: (P, d, 1) -> (P, d, 1)."""
        fitted = ((self.patches @ weights[..., 0].float().T) * self.open).sum(1)
        pulled = (self.open * fitted[:, None]).T @ self.patches
        return (pulled / len(fitted)).double()[..., None]


def fista(arrays: Arrays, options: dict[str, Any]) -> Solve:
    """Run from scratch at decreasing tolerances.

    Options: tolerances (relative gaps of its own certificate).
    """

    def solve(trial: Trial) -> None:
        for tolerance in options["tolerances"]:
            with trial.timed():
                quadratic = ArrayQuadratic.of(arrays)
                found = proximal_gradient(
                    quadratic, penalty_named("group_lasso"), trial.beta, tolerance=tolerance, max_iterations=10**6
                )
            if trial.report(found.weights[..., 0].numpy(), f"{found.iterations} iterations"):
                return

    return solve
