r"""Nuclear norm on H as a smooth problem in one small matrix a group: Newton's method with working sets.

As `variational_newton`, from ``||W||_* = min_T tr(W T^{-1} W^T) / (2 beta) + beta tr(T) / 2`` over positive
semidefinite T (m, m):

.. math:: \varphi(T) = \min_W \tfrac12 \langle W, HW\rangle - \langle c, W\rangle
          + \sum_g \tfrac12 \mathrm{tr}(W_g T_g^{-1} W_g^T) + \tfrac{\beta^2}{2} \sum_g \mathrm{tr}\, T_g ,

whose minimizer is ``W_g = R_g T_g`` with R = c - HW, and whose gradient is ``(beta^2 I - R_g^T R_g) / 2``.
The rank of T_g is that of W_g, so that singular values that the penalty removes cost nothing. G m (m + 1) / 2
unknowns; a factorization of size d times the sum of the ranks a step.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from .certificates import beta_max, check_beta
from .newton_descent import FULL_LENGTH, SMALLEST_STEP, descend, shortened
from .penalties import NuclearNorm
from .quadratics import DenseQuadratic
from .solution import Solution
from .variational_newton import NEWCOMERS, RIDGE, RIDGE_START

# Eigenvalues of T_g below this share of its largest are zero.
SMALLEST_SHARE = 1e-9
MODEL_ITERATIONS = 3000


@dataclass(frozen=True)
class _Point:
    """phi at T (G, m, m): roots F (q, m) and groups (q,) of the eigenvalues in use, T_g = sum of F F^T over them.

    factor: of I + F^T H F. weights W and residual R = c - HW: (G, d, m).
    """

    t: Tensor
    roots: Tensor
    group_of: Tensor
    factor: Tensor
    weights: Tensor
    residual: Tensor
    value: float

    @property
    def gram(self) -> Tensor:
        """R_g^T R_g: (G, m, m)."""
        return self.residual.transpose(1, 2) @ self.residual


def nuclear_newton(
    quadratic: DenseQuadratic,
    beta: float,
    *,
    initial: Tensor | None = None,
    tolerance: float = 1e-5,
    max_iterations: int = 100,
) -> Solution:
    """``min_W f(W) + beta sum_g ||W_g||_*`` by projected Newton steps in T, a factorization each.

    Args:
        quadratic: f with H as a matrix.
        beta: weight of the penalty, > 0.
        initial: (G, d, m), a solution for a beta nearby.
        tolerance: stop at this relative duality gap.
        max_iterations: most Newton steps.

    Raises:
        ValueError: beta not a positive finite number.
    """
    check_beta(beta)
    if beta == 0:
        raise ValueError("beta: expected a positive number, found 0")
    point = _evaluate(quadratic, _start(quadratic, initial, beta), beta)
    if point.value == float("inf"):
        point = _evaluate(quadratic, torch.zeros_like(point.t), beta)
        if quadratic.indefinite:  # phi is not convex: there is nothing to descend to
            max_iterations = 0

    def step(point: _Point, gap: float) -> _Point | None:
        return _step(quadratic, point, beta, min(1e-4, max(1e-3 * gap, 1e-12)))

    return descend(quadratic, NuclearNorm(), beta, point, step, tolerance, max_iterations)


def _start(quadratic: DenseQuadratic, initial: Tensor | None, beta: float) -> Tensor:
    linear = quadratic.linear
    if initial is None:
        if beta >= RIDGE_START * beta_max(quadratic, NuclearNorm()):
            return linear.new_zeros(len(linear), linear.shape[2], linear.shape[2])
        initial = quadratic.shifted_inverse(RIDGE * max(quadratic.mean_curvature, 1e-300))(linear)
    values, vectors = torch.linalg.eigh(initial.transpose(1, 2) @ initial)
    return _symmetric(vectors, values.clamp_min(0).sqrt() / beta)


def _symmetric(vectors: Tensor, values: Tensor) -> Tensor:
    return (vectors * values.unsqueeze(1)) @ vectors.transpose(1, 2)


def _evaluate(quadratic: DenseQuadratic, t: Tensor, beta: float) -> _Point:
    linear = quadratic.linear
    groups, features, _ = linear.shape
    values, vectors = torch.linalg.eigh(t)
    group_of, index = (values > SMALLEST_SHARE * values[:, -1:].clamp_min(0)).nonzero(as_tuple=True)
    roots = vectors[group_of, :, index] * values[group_of, index].sqrt().unsqueeze(1)
    weights = torch.zeros_like(linear)
    if len(roots) == 0:
        return _Point(t, roots, group_of, linear.new_zeros(0, 0), weights, linear, 0.0)
    matrix = quadratic.matrix.view(groups, features, groups, features)
    local = matrix.index_select(0, group_of).index_select(2, group_of)
    local *= (roots @ roots.T).view(len(roots), 1, len(roots), 1)
    side = len(roots) * features
    system = local.view(side, side)
    system.diagonal().add_(1)
    factor, failed = torch.linalg.cholesky_ex(system)
    if bool(failed):
        return _Point(t, roots, group_of, factor, weights, linear, float("inf"))
    pulled = torch.einsum("qdm,qm->qd", linear[group_of], roots)
    solved = torch.cholesky_solve(pulled.view(side, 1), factor).view(-1, features)
    weights.index_add_(0, group_of, torch.einsum("qd,qm->qdm", solved, roots))
    residual = linear - quadratic.multiply(weights)
    size = float(torch.diagonal(t, dim1=1, dim2=2).sum())
    return _Point(t, roots, group_of, factor, weights, residual, (beta**2 * size - float((pulled * solved).sum())) / 2)


def _step(quadratic: DenseQuadratic, point: _Point, beta: float, accuracy: float) -> _Point | None:
    """The next point, lower in phi; None where rounding allows none."""
    values, vectors = torch.linalg.eigh(point.gram)
    norms = values.clamp_min(0).sqrt()
    working = _working_set(point, norms[:, -1], beta)
    values, norms, vectors = values[working], norms[working], vectors[working]
    hessian = _hessian(quadratic, point, working)
    slope = (beta**2 - values) / 2
    secular = torch.where(norms > beta, values * (1 - norms / beta), slope)
    gradient = _symmetric(vectors, slope)
    for model, shortest in ((secular, FULL_LENGTH), (slope, SMALLEST_STEP)):
        move = torch.zeros_like(point.t)
        move[working] = _semidefinite_minimum(hessian, _symmetric(vectors, model), point.t[working], accuracy)
        move[working] -= point.t[working]
        expected = float((gradient * move[working]).sum())
        nearer = shortened(partial(_along, quadratic, point, move, beta), point, expected, shortest)
        if nearer is not None:
            return nearer
    return None


def _along(quadratic: DenseQuadratic, point: _Point, move: Tensor, beta: float, length: float) -> _Point:
    return _evaluate(quadratic, point.t + length * move, beta)


def _working_set(point: _Point, largest: Tensor, beta: float) -> Tensor:
    """Groups in use, and of the others that violate ||R_g|| <= beta those that do so most."""
    used = torch.zeros_like(largest, dtype=torch.bool)
    used[point.group_of] = True
    violating = (~used & (largest > beta)).nonzero().squeeze(1)
    newcomers = violating[largest[violating].argsort(descending=True)[: max(NEWCOMERS, int(used.sum()))]]
    return torch.cat([used.nonzero().squeeze(1), newcomers])


def _basis(outputs: int, like: Tensor) -> Tensor:
    """An orthonormal basis of the symmetric matrices: (m (m + 1) / 2, m, m)."""
    rows, columns = torch.triu_indices(outputs, outputs)
    basis = like.new_zeros(len(rows), outputs, outputs)
    index = torch.arange(len(rows))
    basis[index, rows, columns] = 2**-0.5
    basis[index, columns, rows] = 2**-0.5
    basis[index[rows == columns], rows[rows == columns], rows[rows == columns]] = 1
    return basis


def _hessian(quadratic: DenseQuadratic, point: _Point, working: Tensor) -> Tensor:
    """``<R_g E_k, K R_h E_l>`` for all groups of the working set and basis matrices E: (w b, w b)."""
    groups, features, outputs = point.residual.shape
    basis = _basis(outputs, point.t)
    directions = torch.einsum("gdm,kmn->gkdn", point.residual[working], basis)
    count, size = len(working), len(basis)
    matrix = quadratic.matrix.view(groups * features, groups, features)
    images = point.residual.new_empty(groups, features, outputs, count, size)
    for column, group in enumerate(working.tolist()):
        image = matrix[:, group] @ directions[column].permute(1, 2, 0).flatten(1)
        images[:, :, :, column] = image.view(groups, features, outputs, size)
    hessian = torch.einsum("gkdn,gdnhl->gkhl", directions, images[working]).reshape(count * size, count * size)
    if len(point.roots):
        pulled = torch.einsum("qdmc,qm->qdc", images.flatten(3)[point.group_of], point.roots)
        half = torch.linalg.solve_triangular(point.factor, pulled.reshape(-1, count * size), upper=False)
        hessian = hessian - half.T @ half
    return (hessian + hessian.T) / 2


def _semidefinite_minimum(hessian: Tensor, gradient: Tensor, t: Tensor, accuracy: float) -> Tensor:
    """``argmin_S 1/2 <S - T, Q (S - T)> + <g, S - T>`` over positive semidefinite S_g (n, m, m).

    By ADMM in the coordinates of `_basis`, groups scaled to a Hessian of unit diagonal; `accuracy` relative. On
    the CPU: a GPU would spend its time starting thousands of small steps.
    """
    device = t.device
    hessian, gradient, t = hessian.cpu(), gradient.cpu(), t.cpu()
    count, outputs, _ = t.shape
    basis = _basis(outputs, t)
    size = len(basis)
    curvature = hessian.diagonal().view(count, size).mean(1)
    scale = curvature.clamp_min(1e-14 * max(float(curvature.max()), 1e-300)).rsqrt().repeat_interleave(size)
    known, slope = (torch.einsum("gmn,kmn->gk", part, basis).flatten() for part in (t, gradient))
    linear = (hessian @ known - slope) * scale
    values, vectors = torch.linalg.eigh(hessian * scale * scale.unsqueeze(1))
    values = values.clamp_min(1e-13 * float(values[-1]))
    rho = float(values.log().mean().exp())
    split, dual = known / scale, torch.zeros_like(known)
    for iteration in range(1, MODEL_ITERATIONS + 1):
        free = vectors @ ((vectors.T @ (linear + rho * (split - dual))) / (values + rho))
        relaxed = 1.7 * free - 0.7 * split
        previous = split
        split = _nearest_semidefinite(relaxed + dual, basis)
        dual = dual + relaxed - split
        if iteration % 10:
            continue
        primal = float((free - split).norm() / split.norm().clamp_min(1e-300))
        change = float((split - previous).norm() / dual.norm().clamp_min(1e-300))
        if max(primal, change) <= accuracy:
            break
        factor = min(max((primal / max(change, 1e-300)) ** 0.5, 0.2), 5.0)
        if not 0.3 < factor < 3 and iteration < MODEL_ITERATIONS // 2:
            rho, dual = rho * factor, dual / factor
    return torch.einsum("gk,kmn->gmn", (split * scale).view(count, size), basis).to(device)


def _nearest_semidefinite(coordinates: Tensor, basis: Tensor) -> Tensor:
    matrices = torch.einsum("gk,kmn->gmn", coordinates.view(-1, len(basis)), basis)
    values, vectors = torch.linalg.eigh(matrices)
    return torch.einsum("gmn,kmn->gk", _symmetric(vectors, values.clamp_min(0)), basis).flatten()
