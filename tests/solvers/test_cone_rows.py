"""The rows of dense cones, and directions inside cones from guesses outside."""

import torch
from relu_problems import relu_problem

from convexrecon.solvers.cone_rows import DenseRows, interior_directions


def test_the_lowest_rows_are_those_of_a_sort() -> None:
    generator = torch.Generator().manual_seed(0)
    cones = torch.randn(3, 11, 4, generator=generator, dtype=torch.float64)
    cones[1, 5] = 0
    points = torch.randn(3, 2, 4, generator=generator, dtype=torch.float64)
    reference = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    for direction in (None, reference):
        found = DenseRows(cones).lowest(points, direction, 4)
        for g in range(3):
            for j in range(2):
                expected = []
                for row in cones[g]:
                    if not row.any():
                        continue
                    height = float(row @ points[g, j])
                    scale = float(row.norm() if direction is None else row @ direction[g])
                    relative = height / scale if scale > 0 else (-torch.inf if height < 0 else torch.inf)
                    expected.append((relative, row / row.norm()))
                values = sorted(value for value, _ in expected)[:4]
                torch.testing.assert_close(found.values[g, j], torch.tensor(values, dtype=torch.float64))
                by_value = dict(expected)
                for value, row in zip(values, found.rows[g, j], strict=True):
                    if abs(value) < torch.inf:
                        torch.testing.assert_close(row, by_value[value])


def test_a_guess_just_outside_a_narrow_cone_is_mended() -> None:
    problem = relu_problem(1, 3000, 6, 4)
    cones = DenseRows(problem.cones)
    gates = torch.nn.functional.normalize(problem.gates, dim=1)
    noise = torch.randn(gates.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for size in (0.0, 1e-5, 1e-3, 1e-1):
        directions, inside = interior_directions(cones, gates + size * noise)
        assert bool(inside.all())
        assert float((problem.cones @ directions[:, :, None]).min()) > 0
        torch.testing.assert_close(directions.norm(dim=1), torch.ones(4, dtype=torch.float64))


def test_a_guess_on_the_wall_is_moved_off_it() -> None:
    cones = torch.tensor([[[0.0, 1.0], [1.0, 0.0]]], dtype=torch.float64)
    directions, inside = interior_directions(DenseRows(cones), torch.tensor([[1.0, 0.0]]))
    assert bool(inside.all())
    assert float((cones @ directions[:, :, None]).min()) > 1e-4


def test_cones_without_interior_are_reported() -> None:
    cones = torch.eye(3, dtype=torch.float64).repeat(2, 2, 1)
    cones[1, 3] *= -1  # both sides of a plane
    _, inside = interior_directions(DenseRows(cones), torch.ones(2, 3))
    assert inside.tolist() == [True, False]
