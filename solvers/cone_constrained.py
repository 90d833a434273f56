r"""The cone-constrained program of a two-layer ReLU network: ADMM with an exact factor, certified by duality.

.. math::
    \min_{w, z} \frac{1}{2n} \Big\| \sum_g A_g (w_g - z_g) - t \Big\|^2 + \beta \sum_g (\|w_g\| + \|z_g\|)
    \quad\text{s.t.}\quad C_g w_g \ge 0,\ C_g z_g \ge 0 .

For a ReLU network A_g = D_g P and C_g = (2 D_g - I) P (arXiv 2012.05169, theorem 1).

The prox of a norm restricted to a cone is the projection onto the cone followed by the shrinkage of the norm,
so one split serves both, its iterates stay inside the cones, and a polyhedral projection (non-negative least
squares in d dimensions, started from the last one) replaces the slack per constraint that makes the textbook
ADMM slow.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .cone_projection import project_onto_cones

OVER_RELAXATION = 1.7
CHECK_EVERY = 10
POLISH_STEPS = 20
RHO_RANGE = (0.03, 100.0)  # times the mean diagonal of A^T A / n


@dataclass(frozen=True)
class ConeSolution:
    """A feasible point and how far from optimal it can be at most.

    w, z: (G, d) float64. objective: its value. relative_gap: duality gap over the objective at zero.
    max_violation: largest distance by which w_g or z_g is outside a half-space of its cone (rounding only).
    iterations: of ADMM.
    """

    w: Tensor
    z: Tensor
    objective: float
    relative_gap: float
    max_violation: float
    iterations: int


@dataclass(frozen=True)
class ConeCertificate:
    """The objective at a point, a lower bound of the optimum, their distance over P(0), and feasibility."""

    objective: float
    lower_bound: float
    relative_gap: float
    max_violation: float


@dataclass(frozen=True)
class _Program:
    """What the iterations use: design (n, G d), cones (2 G, r, d) for w, then z, with rows of norm one."""

    design: Tensor
    cones: Tensor
    target: Tensor
    beta: float

    def residual(self, v: Tensor) -> Tensor:
        """t - sum_g A_g (w_g - z_g) for v = (w, z) of shape (2 G, d)."""
        w, z = v.chunk(2)
        return self.target - self.design @ (w - z).reshape(-1)

    def objective(self, v: Tensor) -> float:
        loss = self.residual(v).square().sum() / (2 * len(self.target))
        return float(loss + self.beta * v.norm(dim=1).sum())

    def correlations(self, residual: Tensor) -> Tensor:
        """(A_g^T r / n, -A_g^T r / n): minus the gradient of the loss in (w, z), (2 G, d)."""
        half = (self.design.T @ residual / len(residual)).reshape(-1, self.cones.shape[2])
        return torch.cat([half, -half])

    def violation(self, v: Tensor) -> float:
        return max(0.0, -float((self.cones @ v[:, :, None]).min()))


def _program(blocks: Tensor, cones: Tensor, target: Tensor, beta: float) -> _Program:
    if blocks.ndim != 3 or cones.ndim != 3 or target.ndim != 1:
        raise ValueError(
            f"expected blocks (G, n, d), cones (G, r, d) and target (n,), "
            f"found {tuple(blocks.shape)}, {tuple(cones.shape)} and {tuple(target.shape)}"
        )
    groups, samples, width = blocks.shape
    if min(groups, samples, width, cones.shape[1]) == 0:
        raise ValueError(f"blocks {tuple(blocks.shape)} and cones {tuple(cones.shape)} must not be empty")
    if cones.shape[0] != groups or cones.shape[2] != width or len(target) != samples:
        raise ValueError(
            f"blocks {tuple(blocks.shape)} ask for cones ({groups}, r, {width}) and a target ({samples},), "
            f"found {tuple(cones.shape)} and {tuple(target.shape)}"
        )
    if not (beta > 0 and beta < float("inf")):
        raise ValueError(f"beta must be positive and finite, found {beta}")
    for name, tensor in (("blocks", blocks), ("cones", cones), ("target", target)):
        if not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{name} holds NaN or Inf")
    rows = torch.nn.functional.normalize(cones.double(), dim=2, eps=1e-300)
    design = blocks.double().transpose(0, 1).reshape(samples, groups * width)
    return _Program(design, torch.cat([rows, rows]), target.double(), float(beta))


def cone_beta_max(blocks: Tensor, cones: Tensor, target: Tensor) -> float:
    r"""Smallest beta whose optimum is zero: max over g and both signs of ||Pi_{K_g}(+-A_g^T t / n)||.

    blocks: (G, n, d); cones: (G, r, d); target: (n,). Raises ValueError for shapes that do not fit or NaN.
    """
    program = _program(blocks, cones, target, 1.0)
    projected, _ = project_onto_cones(program.correlations(program.target), program.cones)
    return float(projected.norm(dim=1).max())


def cone_certificate(
    blocks: Tensor, cones: Tensor, target: Tensor, beta: float, w: Tensor, z: Tensor
) -> ConeCertificate:
    r"""How far a feasible point (w, z) is from the optimum, measured from the data alone.

    With nu = s r / n, r the residual at (w, z), and any multipliers a_g, a'_g >= 0 with
    ||A_g^T nu + C_g^T a_g|| <= beta and ||-A_g^T nu + C_g^T a'_g|| <= beta,

    .. math:: P^* \ge D(\nu) = \langle\nu, t\rangle - \tfrac{n}{2}\|\nu\|^2 .

    The multipliers are those of the projection of +-A_g^T r / n onto the cones, which makes the left sides
    smallest; s is the best scale that keeps them feasible. The bound needs only a >= 0, not that the
    projection is exact. blocks: (G, n, d); cones: (G, r, d); target: (n,); w, z: (G, d). Raises ValueError
    for shapes that do not fit, NaN or Inf, or beta <= 0.
    """
    program = _program(blocks, cones, target, beta)
    expected = (blocks.shape[0], blocks.shape[2])
    if tuple(w.shape) != expected or tuple(z.shape) != expected:
        raise ValueError(f"w and z must be {expected}, found {tuple(w.shape)} and {tuple(z.shape)}")
    return _certificate(program, torch.cat([w, z]).double())[0]


def _certificate(program: _Program, v: Tensor, multipliers: Tensor | None = None) -> tuple[ConeCertificate, Tensor]:
    """The certificate at v, and the multipliers to start its next projection from."""
    residual = program.residual(v)
    projected, multipliers = project_onto_cones(program.correlations(residual), program.cones, multipliers)
    length = float(residual.square().sum())
    along = float(residual @ program.target)
    n = len(residual)
    limit = program.beta / max(float(projected.norm(dim=1).max()), 1e-300)
    scale = min(max(along / max(length, 1e-300), 0.0), limit)
    bound = (scale * along - scale**2 * length / 2) / n
    objective = program.objective(v)
    at_zero = max(float(program.target.square().sum()) / (2 * n), 1e-300)
    gap = max(objective - bound, 0.0) / at_zero
    return ConeCertificate(objective, bound, gap, program.violation(v)), multipliers


def solve_cone_constrained(
    blocks: Tensor,
    cones: Tensor,
    target: Tensor,
    beta: float,
    *,
    tolerance: float = 1e-8,
    max_iterations: int = 20_000,
) -> ConeSolution:
    r"""Solve the cone-constrained program until its relative duality gap is at most `tolerance`.

    ADMM on the loss in x against norms and cones in v: (A^T A / n + rho I) x = A^T t / n + rho (v - y) by a
    Cholesky factor kept until rho changes, v = shrink(Pi_K(x_relaxed + y), beta / rho), y the scaled
    multiplier; rho balances the primal and dual residuals. Now and then Newton steps on the face of v polish
    it. Works in float64 on the device of `blocks`. blocks: (G, n, d); cones: (G, r, d); target: (n,);
    beta > 0. The result's relative_gap says whether the tolerance was met. Raises ValueError for shapes that
    do not fit, NaN or Inf, or beta <= 0.

    >>> blocks, cones = torch.eye(3)[None], torch.eye(3)[None]
    >>> solution = solve_cone_constrained(blocks, cones, torch.tensor([3.0, -6.0, 0.0]), 0.5)
    >>> solution.w.round(decimals=4), solution.z.round(decimals=4)
    (tensor([[1.5000, 0.0000, 0.0000]], dtype=torch.float64),
     tensor([[0.0000, 4.5000, 0.0000]], dtype=torch.float64))
    """
    program = _program(blocks, cones, target, beta)
    v = torch.zeros(program.cones.shape[0], program.cones.shape[2]).to(program.cones)
    certificate, _ = _certificate(program, v)
    if certificate.relative_gap <= tolerance:
        return _solution(v, certificate, 0)
    return _admm(program, v, tolerance, max_iterations)


def _solution(v: Tensor, certificate: ConeCertificate, iterations: int) -> ConeSolution:
    w, z = v.chunk(2)
    found = certificate
    return ConeSolution(w, z, found.objective, found.relative_gap, found.max_violation, iterations)


def _admm(program: _Program, v: Tensor, tolerance: float, max_iterations: int) -> ConeSolution:
    """The iterations of `solve_cone_constrained`, polished on the current face every so often."""
    hessian = program.design.T @ program.design / len(program.target)
    linear = program.design.T @ program.target / len(program.target)
    rho = typical = float(hessian.diagonal().mean())
    factor = _factor(hessian, rho)
    y, best = torch.zeros_like(v), (v, _certificate(program, v)[0])
    multipliers = probe = None
    next_polish, next_rho = 4 * CHECK_EVERY, 2 * CHECK_EVERY
    for k in range(1, max_iterations + 1):
        x = _minimize_loss(factor, linear, rho, v - y)
        shifted = OVER_RELAXATION * x + (1 - OVER_RELAXATION) * v + y
        projected, multipliers = project_onto_cones(shifted, program.cones, multipliers)
        shrink = 1 - program.beta / rho / projected.norm(dim=1, keepdim=True).clamp_min(1e-300)
        previous, v = v, projected * shrink.clamp_min(0)
        y = shifted - v
        if k % CHECK_EVERY and k < max_iterations:
            continue
        ratio = _residual_ratio(x, v, previous, y)
        certificate, probe = _certificate(program, v, probe)
        if k >= next_polish and certificate.relative_gap > tolerance:
            next_polish = max(k + 4 * CHECK_EVERY, 3 * k // 2)
            polished = _polish(program, hessian, v, multipliers > 0)
            candidate, probe = _certificate(program, polished, probe)
            if candidate.objective < certificate.objective:
                # Restart from the better point with the multiplier its gradient gives.
                v, certificate = polished, candidate
                y = program.correlations(program.residual(v)) / rho
        if certificate.relative_gap < best[1].relative_gap:
            best = (v, certificate)
        if best[1].relative_gap <= tolerance:
            return _solution(*best, k)
        # Balancing alone drives rho far too low when beta is tiny, hence the range; changes get rarer, since
        # ADMM converges when rho rests.
        change = min(max(rho * ratio, RHO_RANGE[0] * typical), RHO_RANGE[1] * typical) / rho
        if k >= next_rho and not 0.5 <= change <= 2:
            next_rho = k + max(2 * CHECK_EVERY, k // 4)
            rho, y, multipliers = rho * change, y / change, multipliers / change
            factor = _factor(hessian, rho)
    return _solution(*best, max_iterations)


def _factor(hessian: Tensor, rho: float) -> Tensor:
    eye = torch.eye(len(hessian), dtype=hessian.dtype, device=hessian.device)
    factor: Tensor = torch.linalg.cholesky(hessian + rho / 2 * eye)
    return factor


def _minimize_loss(factor: Tensor, linear: Tensor, rho: float, anchor: Tensor) -> Tensor:
    """argmin_x loss(x) + rho/2 ||x - anchor||^2; only w - z meets the data, so the factor has size G d."""
    w, z = anchor.chunk(2)
    rhs = linear + rho / 2 * (w - z).reshape(-1)
    difference = torch.cholesky_solve(rhs[:, None], factor)[:, 0].view_as(w)
    return torch.cat([w + z + difference, w + z - difference]) / 2


def _residual_ratio(x: Tensor, v: Tensor, previous: Tensor, y: Tensor) -> float:
    """Square root of the relative primal over the relative dual residual: the factor rho asks for."""
    primal = float((x - v).norm() / torch.maximum(x.norm(), v.norm()).clamp_min(1e-300))
    dual = float((v - previous).norm() / y.norm().clamp_min(1e-300))
    return float((max(primal, 1e-300) / max(dual, 1e-300)) ** 0.5)


def _polish(program: _Program, hessian: Tensor, v: Tensor, active: Tensor) -> Tensor:
    """Descend from v by Newton steps that keep zero groups zero and active rows at equality.

    There the objective is smooth. A row that blocks a step becomes active; leaving a face is left to ADMM.
    v: (2 G, d) in the cones; active: (2 G, r). Returns a point in the cones whose objective is no larger.
    """
    value = program.objective(v)
    for _ in range(POLISH_STEPS):
        norms = v.norm(dim=1)
        alive = norms > 1e-10 * norms.max()
        if not bool(alive.any()):
            break
        step, slope = _newton_step(program, hessian, v, active, alive)
        heights = (program.cones @ v[:, :, None])[:, :, 0]
        rates = (program.cones @ step[:, :, None])[:, :, 0]
        falling = ~active & (rates < -1e-14 * step.norm(dim=1, keepdim=True))
        furthest = torch.where(falling, heights.clamp_min(0) / (-rates).clamp_min(1e-300), torch.inf)
        row = int(furthest.argmin())
        limit = float(furthest.view(-1)[row])
        length = min(1.0, limit)
        while length > 1e-8 and program.objective(v + length * step) > value + 1e-4 * length * slope:
            length /= 2
        if limit <= length:
            active = active.clone()
            active.view(-1)[row] = True
        elif length <= 1e-8:
            break
        moved = v + length * step
        new_value = program.objective(moved)
        if new_value > value:
            break
        converged = value - new_value < 1e-16 * value and limit > length
        v, value = moved, new_value
        if converged:
            break
    return v


def _newton_step(program: _Program, hessian: Tensor, v: Tensor, active: Tensor, alive: Tensor) -> tuple[Tensor, float]:
    """The Newton step in the linear span of the face, and the objective's slope along it."""
    groups = torch.nonzero(alive)[:, 0]
    d = v.shape[1]
    eye = torch.eye(d, dtype=v.dtype, device=v.device)
    width = max(1, int(active[groups].sum(dim=1).max()))
    index = active[groups].to(torch.uint8).topk(width, dim=1).indices
    rows = program.cones[groups[:, None], index] * active[groups].gather(1, index)[:, :, None]
    span = torch.block_diag(*(eye - torch.linalg.pinv(rows, rtol=1e-10) @ rows))
    norms = v[groups].norm(dim=1)[:, None]
    unit = v[groups] / norms
    gradient = program.beta * unit - program.correlations(program.residual(v))[groups]
    place = (groups % (len(v) // 2) * d)[:, None] + torch.arange(d, device=v.device)
    sign = torch.where(groups < len(v) // 2, 1.0, -1.0).to(v).repeat_interleave(d)
    curvature = hessian[place.view(-1)[:, None], place.view(-1)] * sign[:, None] * sign
    bend = (eye - unit[:, :, None] * unit[:, None, :]) * (program.beta / norms)[:, :, None]
    curvature = span @ (curvature + torch.block_diag(*bend)) @ span
    ridge = curvature.diagonal().mean().clamp_min(1e-300)
    outside = torch.eye(len(span), dtype=v.dtype, device=v.device) - span
    system = curvature + ridge * (outside + 1e-12 * torch.eye(len(span), dtype=v.dtype, device=v.device))
    solution = span @ torch.linalg.solve(system, -(span @ gradient.reshape(-1)))
    step = torch.zeros_like(v)
    step[groups] = solution.view(-1, d)
    return step, float(solution @ gradient.reshape(-1))
