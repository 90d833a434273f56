"""Batched CG against dense solves: per-sample stops, implicit gradients, data consistency."""

import pytest
import torch

from convexrecon.errors import InputError
from convexrecon.physics.conjugate_gradient import CgResult, conjugate_gradient, proximal_solve
from convexrecon.physics.consistency_path import best_lam, consistency_path
from convexrecon.physics.data_consistency import GradientDataConsistency, ProximalDataConsistency
from convexrecon.physics.sense import Sense


def random_sense(shape: tuple[int, ...] = (6, 9), batch: int = 3, coils: int = 4, seed: int = 0) -> Sense:
    rng = torch.Generator().manual_seed(seed)
    maps = torch.randn(batch, coils, *shape, generator=rng, dtype=torch.complex128)
    maps = maps / maps.abs().square().sum(1, keepdim=True).sqrt()
    mask = (torch.rand(1, 1, *shape, generator=rng, dtype=torch.float64) < 0.4).double()
    return Sense(maps, mask)


def random_image(sense: Sense, seed: int = 1) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    shape = (sense.maps.shape[0], *sense.maps.shape[2:])
    return torch.randn(shape, generator=rng, dtype=torch.complex128)


def dense_normal(sense: Sense, sample: int) -> torch.Tensor:
    """A^H A of one sample as a matrix, column by column."""
    one = Sense(sense.maps[sample : sample + 1], sense.mask)
    size = sense.maps[0, 0].numel()
    columns = torch.eye(size, dtype=torch.complex128).view(size, 1, *sense.maps.shape[2:])
    return torch.stack([one.normal(column).flatten() for column in columns], 1)


@pytest.mark.parametrize("shape", [(6, 9), (3, 4, 5)])
def test_the_solution_is_that_of_a_dense_solve(shape: tuple[int, ...]) -> None:
    sense = random_sense(shape)
    rhs = random_image(sense)
    found = conjugate_gradient(lambda x: sense.normal(x) + 0.1 * x, rhs, tolerance=1e-13, max_iterations=200)
    for sample in range(3):
        matrix = dense_normal(sense, sample)
        matrix += 0.1 * torch.eye(len(matrix), dtype=matrix.dtype)
        exact = torch.linalg.solve(matrix, rhs[sample].flatten())
        torch.testing.assert_close(found.solution[sample].flatten(), exact, rtol=1e-9, atol=1e-10)


def solve_alone(sense: Sense, rhs: torch.Tensor) -> CgResult:
    return conjugate_gradient(lambda x: sense.normal(x) + 0.3 * x, rhs, tolerance=1e-5)


def test_a_sample_does_not_depend_on_the_batch_it_sits_in() -> None:
    sense = random_sense()
    # Very different scales: one sample converges long before the others.
    rhs = random_image(sense) * torch.tensor([1e-3, 1.0, 1e4], dtype=torch.float64).view(3, 1, 1)
    for _ in range(30):  # nearly an eigenvector, solved in a step or two
        rhs[1] = sense.normal(rhs)[1]
    together = conjugate_gradient(lambda x: sense.normal(x) + 0.3 * x, rhs, tolerance=1e-5)
    assert len(together.iterations.unique()) > 1
    for sample in range(3):
        alone_sense = Sense(sense.maps[sample : sample + 1], sense.mask)
        alone = solve_alone(alone_sense, rhs[sample : sample + 1])
        assert int(alone.iterations[0]) == int(together.iterations[sample])
        torch.testing.assert_close(alone.solution[0], together.solution[sample])


def test_a_zero_right_hand_side_gives_zero() -> None:
    sense = random_sense()
    rhs = random_image(sense)
    rhs[1] = 0
    found = conjugate_gradient(lambda x: sense.normal(x) + 0.1 * x, rhs)
    assert torch.isfinite(torch.view_as_real(found.solution)).all()
    assert not found.solution[1].any()
    assert int(found.iterations[1]) == 0


def test_proximal_gradients_match_finite_differences() -> None:
    sense = random_sense((3, 4), batch=2, coils=2)
    adjoint_kspace, image = random_image(sense, 2), random_image(sense, 3)
    lam = torch.tensor(0.37, dtype=torch.float64)
    for tensor in (adjoint_kspace, image, lam):
        tensor.requires_grad_(True)

    def solve(a: torch.Tensor, z: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return proximal_solve(sense, a, z, weight, tolerance=1e-14, max_iterations=200)

    assert torch.autograd.gradcheck(solve, (adjoint_kspace, image, lam), atol=1e-6)


@pytest.mark.parametrize("shape", [(6, 9), (3, 4, 5)])
def test_implicit_gradients_are_those_of_unrolled_iterations(shape: tuple[int, ...]) -> None:
    sense = random_sense(shape)
    found = {}
    for how in ("implicit", "unrolled"):
        adjoint_kspace, image = random_image(sense, 2).requires_grad_(), random_image(sense, 3).requires_grad_()
        lam = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
        if how == "implicit":
            result = proximal_solve(sense, adjoint_kspace, image, lam, tolerance=1e-13, max_iterations=100)
        else:
            rhs = adjoint_kspace + lam * image
            result = conjugate_gradient(
                lambda x: sense.normal(x) + lam * x,  # noqa: B023
                rhs,
                tolerance=1e-13,
                max_iterations=100,
            ).solution
        loss = (result - random_image(sense, 4)).abs().square().sum()
        found[how] = torch.autograd.grad(loss, (adjoint_kspace, image, lam))
    for implicit, unrolled in zip(found["implicit"], found["unrolled"], strict=True):
        assert float((implicit - unrolled).abs().max()) < 1e-9 * float(unrolled.abs().max())


def test_the_proximal_step_minimizes_its_objective() -> None:
    sense = random_sense()
    truth, image = random_image(sense, 4), random_image(sense, 5)
    kspace = sense.forward(truth)
    step = ProximalDataConsistency(0.25, iterations=200, tolerance=1e-13).double()
    found = step(image, sense, sense.adjoint(kspace)).detach().requires_grad_(True)
    objective = (sense.forward(found) - kspace).abs().square().sum() + 0.25 * (found - image).abs().square().sum()
    (gradient,) = torch.autograd.grad(objective, found)
    assert float(gradient.abs().max()) < 1e-7  # log lam is kept in float32


def test_the_gradient_step_is_that_of_the_data_term() -> None:
    sense = random_sense()
    kspace = sense.forward(random_image(sense, 6))
    image = random_image(sense, 7).requires_grad_(True)
    (gradient,) = torch.autograd.grad((sense.forward(image) - kspace).abs().square().sum() / 2, image)
    stepped = GradientDataConsistency(0.8)(image, sense, sense.adjoint(kspace))
    torch.testing.assert_close(stepped, image - 0.8 * gradient, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("lam", [0.01, 0.3, 20.0])
def test_the_consistency_path_predicts_the_error_of_every_lam(lam: float) -> None:
    sense = random_sense()
    truth, image = random_image(sense, 8), random_image(sense, 9)
    image[2] = truth[2]  # nothing to correct: the residual is zero
    adjoint_kspace = sense.adjoint(sense.forward(truth))
    path = consistency_path(sense, adjoint_kspace, image, truth, steps=54)
    step = ProximalDataConsistency(lam, iterations=300, tolerance=1e-13).double()
    exact = (step(image, sense, adjoint_kspace) - truth).abs().square().flatten(1).sum(1)
    torch.testing.assert_close(path.squared_error(lam), exact, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("lam", [0.01, 0.3, 20.0])
def test_the_consistency_path_predicts_the_error_at_held_out_samples(lam: float) -> None:
    sense = random_sense()
    truth, image = random_image(sense, 8), random_image(sense, 9)
    unseen = Sense(sense.maps, 1 - sense.mask)
    kspace = sense.forward(truth) + 0.1 * sense.forward(random_image(sense, 10))
    held_out = unseen.forward(truth)
    adjoint_kspace = sense.adjoint(kspace)
    path = consistency_path(sense, adjoint_kspace, image, held_out, steps=54, measure=unseen.forward)
    step = ProximalDataConsistency(lam, iterations=300, tolerance=1e-13).double()
    found = unseen.forward(step(image, sense, adjoint_kspace))
    exact = (found - held_out).abs().square().flatten(1).sum(1)
    torch.testing.assert_close(path.squared_error(lam), exact, rtol=1e-5, atol=1e-8)


def test_best_lam_is_the_minimum_over_a_fine_grid() -> None:
    sense = random_sense()
    truth = random_image(sense, 10)
    image = truth + 0.5 * random_image(sense, 11)
    noisy = sense.forward(truth) + 0.3 * sense.forward(random_image(sense, 12))
    path = consistency_path(sense, sense.adjoint(noisy), image, truth, steps=54)
    grid = torch.logspace(-3, 2, 4001, dtype=torch.float64)
    errors = torch.stack([path.squared_error(float(lam)).sum() for lam in grid])
    assert best_lam([path]) == pytest.approx(float(grid[errors.argmin()]), rel=5e-3)


def test_senseless_weights_and_steps_are_refused() -> None:
    with pytest.raises(InputError, match="lam: expected a positive"):
        ProximalDataConsistency(0.0)
    with pytest.raises(InputError, match="edge of stability"):
        GradientDataConsistency(2.0)
