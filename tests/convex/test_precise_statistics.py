"""Programs whose inputs are too much alike for products in single precision."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from denoising_data import gates_for, smooth_batches

from convexrecon.convex import precise_statistics
from convexrecon.convex.patches import BlockBatch
from convexrecon.convex.program import ProgramSettings, certify_program, program_path, solve_program
from convexrecon.convex.sufficient_statistics import SufficientStatistics, accumulate

WEAK = ProgramSettings(beta_ratio=1e-6, tolerance=1e-4)


def twin_batches() -> list[BlockBatch]:
    """Images beside nearly the same images, as a block sees with inputs = ["image", "initial"]."""
    rng = torch.Generator().manual_seed(5)

    def doubled(batch: BlockBatch) -> BlockBatch:
        other = batch.features + 1e-3 * torch.randn(batch.features.shape, generator=rng)
        return BlockBatch(torch.cat([batch.features, other], 1), batch.target, batch.rows)

    return [doubled(batch) for batch in smooth_batches(2, (48, 40))]


@pytest.mark.parametrize(
    ("method", "penalty"), [("statistics", "group_lasso"), ("statistics", "nuclear"), ("matrix_free", "group_lasso")]
)
def test_nearly_equal_inputs_are_certified(method: str, penalty: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = twin_batches()
    gates = gates_for(data, 4)
    settings = replace(WEAK, penalty=penalty, method=method)  # type: ignore[arg-type]
    asked: list[torch.dtype] = []

    def watched(*args: Any, precision: torch.dtype, **options: Any) -> SufficientStatistics:
        asked.append(precision)
        return accumulate(*args, precision=precision, **options)

    monkeypatch.setattr(precise_statistics, "accumulate", watched)
    solution = solve_program(lambda: data, gates, settings).solution
    assert solution.converged
    assert asked == [torch.float64]
    measured = certify_program(lambda: data, gates, solution.weights, solution.beta, settings)
    assert measured.relative_gap <= 1.01e-4


def test_passes_in_double_precision_go_on_where_h_does_not_fit() -> None:
    data = twin_batches()
    gates = gates_for(data, 3)
    settings = replace(WEAK, beta_ratio=1e-4, memory_gb=0.0)
    solved = solve_program(lambda: data, gates, settings)
    assert solved.matrix_free
    assert solved.solution.converged
    fits = solve_program(lambda: data, gates, replace(settings, memory_gb=1.0, beta=solved.solution.beta))
    assert solved.solution.certificate.objective == pytest.approx(fits.solution.certificate.objective, rel=1e-4)


def test_an_ordinary_program_takes_one_pass_in_single_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise AssertionError("statistics in double precision")

    monkeypatch.setattr(precise_statistics, "accumulate", refused)
    data = smooth_batches()
    assert solve_program(lambda: data, gates_for(data), ProgramSettings()).solution.converged


def test_certificates_along_a_path_hold_on_the_data() -> None:
    data = twin_batches()
    gates = gates_for(data, 6)
    largest = solve_program(lambda: data, gates, replace(WEAK, beta_ratio=1.0)).beta_max
    betas = [1e-3 * largest, 1e-6 * largest]
    for solution in program_path(lambda: data, gates, WEAK, betas):
        measured = certify_program(lambda: data, gates, solution.weights, solution.beta, WEAK)
        assert measured.relative_gap == pytest.approx(solution.certificate.relative_gap, abs=1e-5)
        assert measured.relative_gap <= 1.1e-4
