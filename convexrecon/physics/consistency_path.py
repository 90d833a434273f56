"""Every data-consistency weight at once: the proximal step as a function of lam, from one Krylov space.

With r = A^H (y - A z), which does not depend on lam, the proximal step is
``x(lam) = z + (A^H A + lam)^-1 r``. The Krylov space of (A^H A, r) is the same for every shift lam, so m
Lanczos steps Q T = A^H A Q give x(lam) = z + ||r|| Q (T + lam)^-1 e_1 for all of them, and the squared
error against a target, an image or samples, is a rational function of lam with m (m + 3) numbers per sample.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from convexrecon.physics.conjugate_gradient import inner
from convexrecon.physics.forward_model import ForwardModel


@dataclass(frozen=True)
class ConsistencyPath:
    """Squared error of the proximal step against the target, as a function of lam.

    With c_j = b_j / (s_j + lam), ``||E x(lam) - t||^2 = ||E z - t||^2 + 2 <a, c> + <c, G c>``: E is the identity
    and t the target image, or E measures samples and t is what they are.

    Attributes:
        before: (B,) float64, ||E z - t||^2.
        nodes: (B, m) float64, Ritz values s_j.
        overlap: (B, m) float64, a_j = Re <E Q u_j, E z - t>.
        weight: (B, m) float64, b_j = ||r|| (u_j)_1.
        gram: (B, m, m) float64, G_jk = Re <E Q u_j, E Q u_k>.
    """

    before: Tensor
    nodes: Tensor
    overlap: Tensor
    weight: Tensor
    gram: Tensor

    def squared_error(self, lam: float) -> Tensor:
        """||E x(lam) - t||^2 per sample, (B,) float64."""
        shrunk = self.weight / (self.nodes + lam)
        quadratic = torch.einsum("bj,bjk,bk->b", shrunk, self.gram, shrunk)
        return self.before + (2 * self.overlap * shrunk).sum(1) + quadratic


def consistency_path(
    sense: ForwardModel,
    adjoint_kspace: Tensor,
    image: Tensor,
    target: Tensor,
    *,
    steps: int = 15,
    measure: Callable[[Tensor], Tensor] | None = None,
) -> ConsistencyPath:
    """Lanczos from ``r = A^H (y - A z)`` with full reorthogonalization; see `ConsistencyPath`.

    Args:
        sense: the operator A.
        adjoint_kspace: A^H y, (B, *N) complex.
        image: z, (B, *N) complex.
        target: t, (B, *N) complex, or what `measure` makes of such.
        steps: m, as many as the CG iterations of the step that will be used.
        measure: E, linear, (B, *N) -> (B, any) complex; the identity if None.
    """
    residual = adjoint_kspace - sense.normal(image)
    norm = inner(residual, residual).sqrt()
    batch, spread = residual.shape[0], (-1,) + (1,) * (residual.ndim - 1)
    basis = [residual / torch.where(norm > 0, norm, 1).view(spread)]
    diagonal = torch.zeros(batch, steps, dtype=torch.float64, device=residual.device)
    off = torch.zeros(batch, steps, dtype=torch.float64, device=residual.device)
    for j in range(steps):
        vector = sense.normal(basis[j])
        diagonal[:, j] = inner(basis[j], vector)
        for earlier in basis:
            vector = vector - (earlier.conj() * vector).flatten(1).sum(1).view(spread) * earlier
        length = inner(vector, vector).sqrt()
        off[:, j] = length
        # A sample whose Krylov space is exhausted continues with zeros, which add nothing.
        alive = length > 1e-6
        basis.append(torch.where(alive.view(spread), vector / torch.where(alive, length, 1).view(spread), 0))
        off[:, j] *= alive
    tridiagonal = torch.diag_embed(diagonal)
    tridiagonal += torch.diag_embed(off[:, :-1], 1) + torch.diag_embed(off[:, :-1], -1)
    nodes, vectors = torch.linalg.eigh(tridiagonal)
    seen = [q if measure is None else measure(q) for q in basis[:-1]]
    error = (image if measure is None else measure(image)) - target
    overlaps = torch.stack([inner(s, error) for s in seen], 1).double()
    products = torch.stack([torch.stack([inner(s, other) for other in seen], 1) for s in seen], 1).double()
    return ConsistencyPath(
        before=inner(error, error).double(),
        nodes=nodes.clamp_min(0),
        overlap=(vectors.transpose(1, 2) @ overlaps.unsqueeze(-1)).squeeze(-1),
        weight=norm.double().unsqueeze(1) * vectors[:, 0, :],
        gram=vectors.transpose(1, 2) @ products @ vectors,
    )


def best_lam(paths: list[ConsistencyPath], *, low: float = 1e-3, high: float = 1e2) -> float:
    """The lam in [low, high] that minimizes the summed squared error of all samples.

    A logarithmic grid finds the basin, golden section refines it to 0.1 %.
    """

    def total(log_lam: float) -> float:
        return sum(float(path.squared_error(10.0**log_lam).sum()) for path in paths)

    left, right = torch.log10(torch.tensor([low, high], dtype=torch.float64)).tolist()
    grid = torch.linspace(left, right, 41, dtype=torch.float64).tolist()
    values = [total(point) for point in grid]
    best = values.index(min(values))
    a, b = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    golden = (5**0.5 - 1) / 2
    while b - a > 4e-4:
        inner_left, inner_right = b - golden * (b - a), a + golden * (b - a)
        if total(inner_left) < total(inner_right):
            b = inner_right
        else:
            a = inner_left
    return float(10.0 ** ((a + b) / 2))
