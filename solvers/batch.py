"""Many problems of one size at once: validation folds, outputs apart, values of beta."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .certificates import certify, check_beta
from .path import solve
from .penalties import Penalty
from .quadratics import DenseQuadratic
from .solution import Solution

RELAXATION = 1.7
RIDGE = 1e-3


def solve_batch(
    quadratics: Sequence[DenseQuadratic],
    penalty: Penalty,
    betas: Sequence[float],
    *,
    tolerance: float = 1e-5,
    max_iterations: int = 200,
    check_every: int = 10,
) -> list[Solution]:
    """The solutions of ``min_W f_k(W) + beta_k R(W)`` for problems k of one shape.

    ADMM on all of them in one batch, factorizations and products included, which is what keeps a GPU busy; a problem
    leaves the batch when it is certified. Those that are not by `max_iterations` are finished one by one by `solve`.

    Args:
        quadratics: f_k, all with H of one size, c of one shape and on one device; the same one may come often.
        penalty: R.
        betas: beta_k > 0, one each.
        tolerance: relative duality gap to reach, for each.
        max_iterations: most iterations in the batch.
        check_every: iterations between certificates.

    Raises:
        ValueError: as many betas as problems are expected, and one shape; or a beta is not > 0 and finite.
    """
    if len(quadratics) != len(betas) or len({q.linear.shape for q in quadratics}) > 1:
        raise ValueError(
            f"batch: expected a beta for each of {len(quadratics)} problems of one shape, found {len(betas)} betas, "
            f"shapes {sorted({tuple(q.linear.shape) for q in quadratics})}"
        )
    for beta in betas:
        check_beta(beta)
        if beta == 0:
            raise ValueError("batch: expected betas > 0, found 0")
    found: dict[int, Solution] = {}
    if quadratics:
        batch = _Batch(quadratics, penalty, betas)
        for iteration in range(1, max_iterations + 1):
            batch.advance()
            if iteration % check_every == 0:
                found |= batch.take_certified(tolerance, iteration)
                if not len(batch.alive):
                    break
                batch.adapt(iteration)
        for place, k in enumerate(batch.alive):
            start = batch.split[place]
            found[k] = solve(quadratics[k], penalty, betas[k], tolerance=tolerance, initial=start)
    return [found[k] for k in range(len(quadratics))]


class _Batch:
    """The problems that are not certified yet, and the state of their iteration, stacked."""

    def __init__(self, quadratics: Sequence[DenseQuadratic], penalty: Penalty, betas: Sequence[float]) -> None:
        self.quadratics, self.penalty = quadratics, penalty
        self.alive = list(range(len(quadratics)))
        self.matrix = torch.stack([q.matrix for q in quadratics])
        self.linear = torch.stack([q.linear for q in quadratics])
        self.beta = self.linear.new_tensor(betas)
        curvature = self.matrix.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-300)
        self._factor(RIDGE * curvature)
        self.split = self._solve(self.linear)
        self._factor(self._curvature_of_penalty(curvature))
        self.dual = (self.linear - self._multiply(self.split)) / self._spread(self.rho)
        self.refreshed = 0

    def advance(self) -> None:
        """One over-relaxed iteration of every problem."""
        free = self._solve(self.linear + self._spread(self.rho) * (self.split - self.dual))
        relaxed = RELAXATION * free + (1 - RELAXATION) * self.split
        steps = (self.beta / self.rho).repeat_interleave(self.split.shape[1])
        self.split = self.penalty.prox((relaxed + self.dual).flatten(0, 1), steps).view_as(relaxed)
        self.dual = self.dual + relaxed - self.split

    def take_certified(self, tolerance: float, iteration: int) -> dict[int, Solution]:
        """Remove the problems whose gap is small enough, and return their solutions."""
        products = self._multiply(self.split)
        found, keep = {}, []
        for place, k in enumerate(self.alive):
            beta, weights = float(self.beta[place]), self.split[place]
            certificate = certify(self.quadratics[k], self.penalty, beta, weights, products[place])
            if certificate.relative_gap <= tolerance:
                found[k] = Solution(weights.clone(), beta, certificate, iteration, True)
            else:
                keep.append(place)
        if found:
            self.alive = [self.alive[place] for place in keep]
            for name in ("matrix", "linear", "beta", "factor", "rho", "split", "dual"):
                setattr(self, name, getattr(self, name)[keep])
        return found

    def adapt(self, iteration: int) -> None:
        """Follow the curvature of the penalty, ever more rarely."""
        wanted = self._curvature_of_penalty(self.rho)
        ratio = wanted / self.rho
        if iteration < self.refreshed or not bool(((ratio > 2) | (ratio < 0.5)).any()):
            return
        self.refreshed = 2 * iteration
        self.dual = self.dual / self._spread(ratio)
        self._factor(wanted)

    def _factor(self, rho: Tensor) -> None:
        shifted = self.matrix + torch.diag_embed(rho.unsqueeze(1).expand(-1, self.matrix.shape[1]))
        self.rho, self.factor = rho, torch.linalg.cholesky(shifted)

    def _solve(self, rhs: Tensor) -> Tensor:
        return torch.cholesky_solve(rhs.flatten(1, 2), self.factor).view_as(rhs)

    def _multiply(self, weights: Tensor) -> Tensor:
        return (self.matrix @ weights.flatten(1, 2)).view_as(weights)

    def _curvature_of_penalty(self, fallback: Tensor) -> Tensor:
        norms = self.split.flatten(2).norm(dim=2)
        active = (norms > 0).sum(1)
        return torch.where(active > 0, self.beta * active / norms.sum(1).clamp_min(1e-300), fallback)

    @staticmethod
    def _spread(values: Tensor) -> Tensor:
        return values.view(-1, 1, 1, 1)
