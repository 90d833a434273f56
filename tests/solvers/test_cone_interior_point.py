"""The interior-point method from starts inside and outside, stopped early and not."""

import pytest
import torch
from relu_problems import ReluProblem, relu_problem

from convexrecon.solvers.cone_constrained import cone_beta_max
from convexrecon.solvers.cone_fits import quadratic_fit
from convexrecon.solvers.cone_interior_point import ConeProgram, solve_cone_program, without_idle_groups
from convexrecon.solvers.quadratics import DenseQuadratic
from convexrecon.solvers.reference import reference_cone


def program_of(problem: ReluProblem, beta: float) -> ConeProgram:
    quadratic = DenseQuadratic.from_data(problem.blocks, problem.target[:, None])
    rows = torch.nn.functional.normalize(problem.cones, dim=2)
    return ConeProgram(quadratic_fit(quadratic.matrix, quadratic.linear[:, :, 0], quadratic.tau), rows, beta)


def test_every_start_and_every_stop_bounds_the_optimum() -> None:
    problem = relu_problem(1, 80, 6, 3, spread=3.0)
    beta = 1e-2 * cone_beta_max(problem.blocks, problem.cones, problem.target)
    program = program_of(problem, beta)
    arrays = (problem.blocks.numpy(), problem.cones.numpy(), problem.target.numpy())
    optimum = reference_cone(*arrays, beta).objective
    inside = problem.gates.expand(2, -1, -1)
    centring = float(problem.target.square().mean()) / program.degree
    for start in (inside, 1e-4 * inside, torch.zeros_like(inside), -inside):
        for stop in (0, 1, 3, 8, 100):
            found = solve_cone_program(program, start, tolerance=1e-9, centring=centring, max_iterations=stop)
            assert found.bound <= optimum + 1e-10
            assert found.objective >= optimum - 1e-10
            if start is inside:
                assert float(program.heights(found.v).min()) > 0
                assert found.objective == pytest.approx(program.objective(found.v))
        assert found.objective - found.bound <= 1e-9


def test_padding_rows_are_no_constraints() -> None:
    problem = relu_problem(2, 30, 4, 2)
    program = program_of(problem, 0.05)
    padded = ConeProgram(program.fit, torch.nn.functional.pad(program.rows, (0, 0, 0, 7)), 0.05)
    start = problem.gates.expand(2, -1, -1)
    apart, together = (solve_cone_program(x, start, tolerance=1e-9, centring=1e-2) for x in (program, padded))
    assert padded.degree == program.degree
    torch.testing.assert_close(apart.v, together.v)
    assert not together.multipliers[:, :, 30:].any()


def test_idle_groups_become_zero_and_others_stay() -> None:
    problem = relu_problem(3, 60, 4, 5)
    beta = 0.5 * cone_beta_max(problem.blocks, problem.cones, problem.target)
    program = program_of(problem, beta)
    found = solve_cone_program(program, problem.gates.expand(2, -1, -1), tolerance=1e-10, centring=1e-2)
    pruned = without_idle_groups(program, found.v)
    assert bool((found.v.norm(dim=2) > 0).all())
    zero = pruned.norm(dim=2) == 0
    assert 0 < int(zero.sum()) < 10
    torch.testing.assert_close(pruned[~zero], found.v[~zero])
    assert program.objective(pruned) <= program.objective(found.v)
