"""The proximal quasi-Newton method against cvxpy, where H couples outputs and is known by products alone."""

import pytest
import torch
from random_problems import random_problem

from convexrecon.solvers.certificates import certify
from convexrecon.solvers.linear_maps import DenseBlocks
from convexrecon.solvers.penalties import GroupLasso, NuclearNorm, Penalty
from convexrecon.solvers.proximal_gradient import proximal_gradient
from convexrecon.solvers.quadratics import DenseQuadratic, Part, StreamedQuadratic
from convexrecon.solvers.quasi_newton import UpdatedQuadratic, proximal_quasi_newton
from convexrecon.solvers.reference import reference_gated


class Behind:
    """A self-adjoint map with eigenvalues in [0.1, 1] behind explicit blocks."""

    def __init__(self, blocks: torch.Tensor, mixing: torch.Tensor) -> None:
        self.blocks, self.mixing = DenseBlocks(blocks), mixing

    def forward(self, weights: torch.Tensor) -> torch.Tensor:
        response = self.blocks.forward(weights)
        return (self.mixing @ response.flatten()).view_as(response)

    def adjoint(self, data: torch.Tensor) -> torch.Tensor:
        return self.blocks.adjoint((self.mixing @ data.flatten()).view_as(data))


def coupling(size: int, seed: int) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    vectors, _ = torch.linalg.qr(torch.randn(size, size, generator=rng, dtype=torch.float64))
    return vectors @ torch.diag(0.1 + 0.9 * torch.rand(size, generator=rng, dtype=torch.float64)) @ vectors.T


@pytest.mark.parametrize("ratio", [0.5, 0.05, 0.002])
@pytest.mark.parametrize("seed", [0, 1])
def test_coupled_outputs_reach_the_objective_of_cvxpy(ratio: float, seed: int) -> None:
    blocks, targets = random_problem(seed)
    groups, rows, features = blocks.shape
    mixing = coupling(2 * rows, seed)
    quadratic = StreamedQuadratic(lambda: [Part(Behind(blocks, mixing), targets, rows)])
    beta = ratio * float(GroupLasso().dual_norm(quadratic.linear).max())
    solution, _ = proximal_quasi_newton(
        quadratic, DenseQuadratic.from_data(blocks, targets), GroupLasso(), beta, tolerance=1e-9
    )
    assert solution.converged
    # To cvxpy the two outputs are one, of twice the features; n counts rows, not numbers.
    both = torch.einsum("abrc,grf->gabfc", mixing.view(rows, 2, rows, 2), blocks)
    wide = both.reshape(groups, 2 * rows, 2 * features)
    reference = reference_gated(wide.numpy(), targets.reshape(-1, 1).numpy(), beta / 2)
    assert solution.certificate.objective == pytest.approx(2 * reference.objective, rel=1e-6)


@pytest.mark.parametrize("penalty", [GroupLasso(), NuclearNorm()], ids=lambda p: p.name)
@pytest.mark.parametrize("ratio", [0.2, 0.01])
def test_far_fewer_products_than_proximal_gradient(penalty: Penalty, ratio: float) -> None:
    blocks, targets = random_problem(5)
    mixing = coupling(targets.numel(), 5)
    quadratic = StreamedQuadratic(lambda: [Part(Behind(blocks, mixing), targets, len(targets))])
    beta = ratio * float(penalty.dual_norm(quadratic.linear).max())
    model = DenseQuadratic.from_data(blocks, targets)
    quick, learnt = proximal_quasi_newton(quadratic, model, penalty, beta, tolerance=1e-8)
    slow = proximal_gradient(quadratic, penalty, beta, tolerance=1e-8)
    assert quick.converged
    assert slow.converged
    assert quick.certificate.objective == pytest.approx(slow.certificate.objective, rel=1e-7)
    assert 5 * quick.iterations < slow.iterations
    again, _ = proximal_quasi_newton(quadratic, learnt, penalty, 0.9 * beta, initial=quick.weights, tolerance=1e-8)
    fresh, _ = proximal_quasi_newton(quadratic, model, penalty, 0.9 * beta, tolerance=1e-8)
    assert again.converged
    assert again.iterations < fresh.iterations


def test_the_updated_hessian_is_inverted() -> None:
    blocks, targets = random_problem(2)
    base = DenseQuadratic.from_data(blocks, targets)
    rng = torch.Generator().manual_seed(0)
    vectors = torch.randn(3, *base.linear.shape, generator=rng, dtype=torch.float64) * 0.1
    signs = torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64)
    updated = UpdatedQuadratic(base, vectors, signs, base.linear, base.tau)
    weights = torch.randn(base.linear.shape, generator=rng, dtype=torch.float64)
    shifted = updated.multiply(weights) + 0.3 * weights
    assert torch.allclose(updated.shifted_inverse(0.3)(shifted), weights, atol=1e-9)


def test_a_zero_linear_term_has_the_zero_solution() -> None:
    blocks, targets = random_problem(4)
    zero = torch.zeros_like(targets)
    quadratic = DenseQuadratic.from_data(blocks, zero)
    solution, _ = proximal_quasi_newton(quadratic, quadratic, GroupLasso(), 0.1)
    assert solution.converged
    assert solution.active_groups == 0


@pytest.mark.parametrize("tolerance", [1e-1, 1e-3, 1e-9])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_one_group_that_is_hardly_penalized_takes_few_products(seed: int, tolerance: float) -> None:
    # Where beta is small the gap is that of a dual point which is barely infeasible: W is far better than it says.
    blocks, targets = random_problem(seed, groups=1, rows=200, features=12)
    mixing = coupling(targets.numel(), seed)
    quadratic = StreamedQuadratic(lambda: [Part(Behind(blocks, mixing), targets, len(targets))])
    beta = 1e-5 * float(GroupLasso().dual_norm(quadratic.linear).max())
    model = DenseQuadratic.from_data(blocks, targets)
    solution, _ = proximal_quasi_newton(quadratic, model, GroupLasso(), beta, tolerance=tolerance)
    assert solution.converged
    assert solution.iterations <= 40


class Rounded:
    """Products that are wrong by some noise, different every time and as large however small the product."""

    def __init__(self, exact: DenseQuadratic, noise: float) -> None:
        self.exact, self.noise, self.products = exact, noise, 0
        self.linear, self.tau = exact.linear, exact.tau

    def multiply(self, weights: torch.Tensor) -> torch.Tensor:
        self.products += 1
        rng = torch.Generator().manual_seed(self.products)
        product = self.exact.multiply(weights)
        return product + self.noise * self.linear.norm() * torch.randn(
            product.shape, generator=rng, dtype=product.dtype
        )


def test_products_that_gain_nothing_are_not_taken() -> None:
    exact = DenseQuadratic.from_data(*random_problem(3))
    beta = 0.01 * float(GroupLasso().dual_norm(exact.linear).max())
    rounded = Rounded(exact, 1e-6)
    solution, _ = proximal_quasi_newton(rounded, exact, GroupLasso(), beta, tolerance=1e-12, max_iterations=500)
    assert not solution.converged
    assert rounded.products < 100
    best, _ = proximal_quasi_newton(exact, exact, GroupLasso(), beta, tolerance=1e-9)
    assert exact_objective(exact, beta, solution.weights) < best.certificate.objective + 1e-4 * exact.tau


def exact_objective(quadratic: DenseQuadratic, beta: float, weights: torch.Tensor) -> float:
    return certify(quadratic, GroupLasso(), beta, weights).objective
