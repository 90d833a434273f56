r"""The cone-constrained program of a two-layer ReLU network on explicit matrices, certified by duality.

.. math::
    \min_{w, z} \frac{1}{2n} \Big\| \sum_g A_g (w_g - z_g) - t \Big\|^2 + \beta \sum_g (\|w_g\| + \|z_g\|)
    \quad\text{s.t.}\quad C_g w_g \ge 0,\ C_g z_g \ge 0 .

For a ReLU network A_g = D_g P and C_g = (2 D_g - I) P (arXiv 2012.05169, theorem 1). Everything is held in
memory and every row is a constraint of the interior-point method; with more than some thousand rows use
`cone_cutting_planes`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .certificates import dual_value
from .cone_fits import quadratic_fit
from .cone_interior_point import ConeProgram, solve_cone_program, without_idle_groups
from .cone_projection import project_onto_cones

# The certificate at a point loses about as many digits as the point has beyond the objective's.
EXTRA_DIGITS = 1e-3


@dataclass(frozen=True)
class ConeSolution:
    """A feasible point and how far from optimal it can be at most.

    w, z: (G, d) float64. objective: its value. relative_gap: duality gap over the objective at zero.
    max_violation: largest distance by which w_g or z_g is outside a half-space of its cone (rounding only).
    iterations: Newton steps.
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
    n = len(residual)
    energy, along = float(residual.square().sum()) / n, float(residual @ program.target) / n
    bound = dual_value(energy, along, float(projected.norm(dim=1).max()), program.beta)
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
    max_iterations: int = 100,
) -> ConeSolution:
    r"""Solve the cone-constrained program until its relative duality gap is at most `tolerance`.

    By the interior-point method of `cone_interior_point`, started outside the cones, since they may have no
    interior; its last point is projected onto them. Works in float64 on the device
    of `blocks`. blocks: (G, n, d); cones: (G, r, d); target: (n,); beta > 0. The result's relative_gap says
    whether the tolerance was met. Raises ValueError for shapes that do not fit, NaN or Inf, or beta <= 0.

    >>> blocks, cones = torch.eye(3)[None], torch.eye(3)[None]
    >>> solution = solve_cone_constrained(blocks, cones, torch.tensor([3.0, -6.0, 0.0]), 0.5)
    >>> solution.w.round(decimals=4).abs(), solution.z.round(decimals=4).abs()
    (tensor([[1.5000, 0.0000, 0.0000]], dtype=torch.float64),
     tensor([[0.0000, 4.5000, 0.0000]], dtype=torch.float64))
    """
    program = _program(blocks, cones, target, beta)
    v = torch.zeros(program.cones.shape[0], program.cones.shape[2]).to(program.cones)
    certificate, _ = _certificate(program, v)
    if certificate.relative_gap <= tolerance:
        return _solution(v, certificate, 0)
    groups, n = blocks.shape[0], len(program.target)
    hessian = program.design.T @ program.design / n
    tau = float(program.target.square().sum()) / n
    fit = quadratic_fit(hessian, program.correlations(program.target)[:groups], tau)
    relaxed = ConeProgram(fit, program.cones[:groups], program.beta)
    start = v.view(2, groups, -1)
    found = solve_cone_program(
        relaxed,
        start,
        tolerance=EXTRA_DIGITS * tolerance * tau / 2,
        centring=tau / 2 / relaxed.degree,
        max_iterations=max_iterations,
    )
    v = without_idle_groups(relaxed, project_onto_cones(found.v.flatten(0, 1), program.cones)[0].view_as(start))
    objective = relaxed.objective(v)
    gap = max(objective - found.bound, 0.0) / (tau / 2)
    flat = v.flatten(0, 1)
    return _solution(flat, ConeCertificate(objective, found.bound, gap, program.violation(flat)), found.iterations)


def _solution(v: Tensor, certificate: ConeCertificate, iterations: int) -> ConeSolution:
    w, z = v.chunk(2)
    found = certificate
    return ConeSolution(w, z, found.objective, found.relative_gap, found.max_violation, iterations)
