"""Processes that share the rows of a problem, here as threads that do not round alike."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch
from torch import Tensor

from convexrecon.solvers.certificates import measure_on_data
from convexrecon.solvers.linear_maps import DenseBlocks
from convexrecon.solvers.penalties import GroupLasso
from convexrecon.solvers.processes import Processes
from convexrecon.solvers.quadratics import DenseQuadratic, Part, StreamedQuadratic
from convexrecon.solvers.quasi_newton import proximal_quasi_newton
from convexrecon.solvers.solution import Solution

COUNT = 3


def meeting() -> Callable[[int], Processes]:
    """Processes that are threads of this one."""
    here, brought = Barrier(COUNT, timeout=20), dict[int, Tensor]()

    def of(rank: int) -> Processes:
        def exchanged(tensor: Tensor, combined: Callable[[dict[int, Tensor]], Tensor]) -> Tensor:
            brought[rank] = tensor
            here.wait()
            assert len({part.shape for part in brought.values()}) == 1
            result = combined(brought).clone()
            here.wait()
            return result

        return Processes(
            lambda tensor: exchanged(tensor, lambda parts: sum((parts[r] for r in range(COUNT)), torch.zeros(()))),
            lambda tensor: exchanged(tensor, lambda parts: parts[0]),
        )

    return of


def test_processes_that_round_differently_stop_together_at_the_optimum_of_all_rows() -> None:
    rng = torch.Generator().manual_seed(5)
    blocks = torch.randn(4, 90, 6, generator=rng, dtype=torch.float64)
    targets = torch.randn(90, 2, generator=rng, dtype=torch.float64)
    whole, penalty, beta = DenseQuadratic.from_data(blocks, targets), GroupLasso(), 0.02
    # Shares of 50, 40 and no rows.
    shares = [slice(0, 50), slice(50, 90), slice(90, 90)]
    of = meeting()

    def solved(rank: int) -> tuple[Solution, float]:
        mine = shares[rank]
        parts = [Part(DenseBlocks(blocks[:, mine]), targets[mine], len(targets[mine]))]
        processes = of(rank)
        quadratic = StreamedQuadratic(lambda: parts, processes)
        assert quadratic.rows == 90
        # A model of its own each: as if rounding were very coarse.
        model = DenseQuadratic(whole.matrix + (0.1 + rank) * torch.eye(24, dtype=torch.float64), whole.linear, 1.0)
        found, _ = proximal_quasi_newton(quadratic, model, penalty, beta, tolerance=1e-9, processes=processes)
        return found, measure_on_data(parts, penalty, beta, found.weights, processes).certificate.relative_gap

    with ThreadPoolExecutor(COUNT) as pool:
        found = list(pool.map(solved, range(COUNT)))
    alone, _ = proximal_quasi_newton(whole, whole, penalty, beta, tolerance=1e-9)
    for solution, gap in found:
        assert solution.converged
        assert gap <= 1e-8
        assert torch.equal(solution.weights, found[0][0].weights)
        assert solution.iterations == found[0][0].iterations
        assert found[0][0].certificate.objective == pytest.approx(alone.certificate.objective, rel=1e-8)
