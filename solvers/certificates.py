"""The duality-gap certificate: how far from the global optimum the weights can be at most."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from .penalties import Penalty
from .processes import ALONE, Processes
from .quadratics import Part, Quadratic


@dataclass(frozen=True)
class Certificate:
    """A bound on suboptimality that holds whatever algorithm made the weights.

    Attributes:
        objective: P(W) = f(W) + beta R(W).
        bound: D(nu) <= min P, the objective of a feasible dual point.
        relative_gap: (objective - bound) / P(0); at most this far from the optimum, relative to the
            objective of the empty network.
        dual_norm: max_g ||(A^T rho / n)_g||_dual; at most beta at the optimum.
    """

    objective: float
    bound: float
    relative_gap: float
    dual_norm: float


def certify(
    quadratic: Quadratic, penalty: Penalty, beta: float, weights: Tensor, product: Tensor | None = None
) -> Certificate:
    """Duality gap at `weights` from the statistics alone: A^T rho / n = c - H W, rho = T - A W.

    Args:
        quadratic: the statistics.
        penalty: R.
        beta: its weight.
        weights: W, (G, d, m) float64.
        product: H W if already known, else it is computed.
    """
    if product is None:
        product = quadratic.multiply(weights)
    correlation = float((quadratic.linear * weights).sum())
    energy = float((weights * product).sum())
    return _gap(
        residual_energy=max(quadratic.tau - 2 * correlation + energy, 0.0),
        residual_target=quadratic.tau - correlation,
        tau=quadratic.tau,
        penalty_value=beta * float(penalty.value(weights)),
        largest=float(penalty.dual_norm(quadratic.linear - product).max()),
        beta=beta,
    )


@dataclass(frozen=True)
class Measurement:
    """What a pass over the data finds at given weights.

    Attributes:
        certificate: the duality gap.
        correlation: A^T (T - A W) / n, (G, d, m) float64: the negative gradient of f.
    """

    certificate: Certificate
    correlation: Tensor


def measure_on_data(
    parts: Iterable[Part], penalty: Penalty, beta: float, weights: Tensor, processes: Processes = ALONE
) -> Measurement:
    """Duality gap and gradient at `weights` from one pass over the data: residuals are formed, H is not.

    Independent of the statistics the weights were found with. Give float64 parts for a float64 measure. Of several
    processes each gives its share of the parts.

    Raises:
        ValueError: no data.
    """
    pulled = torch.zeros_like(weights, dtype=torch.float64)
    # ||rho||^2, <rho, T> and ||T||^2, a tensor, so that a GPU need not be waited for at every part.
    sums = pulled.new_zeros(3)
    rows = 0
    for part in parts:
        target = part.target
        residual = target - part.map.forward(weights.to(target.dtype))
        pulled += part.map.adjoint(residual).double()
        left, whole = residual.double(), target.double()
        sums += torch.stack([left.square().sum(), (left * whole).sum(), whole.square().sum()])
        rows += part.rows
    pulled, (*totals, count) = processes.sums(pulled, *sums.tolist(), rows)
    if count == 0:
        raise ValueError("parts: no data")
    residual_energy, residual_target, tau = (total / count for total in totals)
    certificate = _gap(
        residual_energy=residual_energy,
        residual_target=residual_target,
        tau=tau,
        penalty_value=beta * float(penalty.value(weights.double())),
        largest=float(penalty.dual_norm(pulled / count).max()),
        beta=beta,
    )
    return Measurement(certificate, pulled / count)


def _gap(
    *,
    residual_energy: float,
    residual_target: float,
    tau: float,
    penalty_value: float,
    largest: float,
    beta: float,
) -> Certificate:
    """Gap from ||rho||^2 / n, <rho, T> / n, ||T||^2 / n, beta R(W) and max_g ||(A^T rho / n)_g||_dual."""
    objective = residual_energy / 2 + penalty_value
    bound = dual_value(residual_energy, residual_target, largest, beta)
    relative = (objective - bound) / (tau / 2) if tau > 0 else 0.0
    return Certificate(objective, bound, max(relative, 0.0), largest)


def dual_value(residual_energy: float, residual_target: float, largest: float, beta: float) -> float:
    """The best dual objective on the ray of a residual: a lower bound on min P if `largest` is no smaller than it is.

    ``D(nu) = <nu, T> - n/2 ||nu||^2`` at nu = s rho / n, s from `dual_scale`, whose arguments these are.
    """
    scale = dual_scale(residual_energy, residual_target, largest, beta)
    return scale * residual_target - scale**2 * residual_energy / 2


def dual_scale(residual_energy: float, residual_target: float, largest: float, beta: float) -> float:
    """The s at which ``D(s rho / n)`` is greatest among the feasible ones, 0 <= s <= beta / largest.

    Unconstrained that is ``<rho, T> / ||rho||^2``.

    Args:
        residual_energy: ||rho||^2 / n.
        residual_target: <rho, T> / n.
        largest: max_g ||(A^T rho / n)_g||_dual over all groups of the program.
        beta: weight of the penalty.
    """
    feasible = beta / largest if largest > 0 else float("inf")
    best = residual_target / residual_energy if residual_energy > 0 else 0.0
    return max(min(best, feasible), 0.0)


def beta_max(quadratic: Quadratic, penalty: Penalty) -> float:
    """The smallest beta at which W = 0 is optimal: max_g ||c_g||_dual."""
    return float(penalty.dual_norm(quadratic.linear).max())


def check_beta(beta: float) -> None:
    """Refuse a beta that is not a finite number >= 0."""
    if not (beta >= 0 and torch.isfinite(torch.tensor(beta))):
        raise ValueError(f"beta: expected a finite number >= 0, found {beta}")
