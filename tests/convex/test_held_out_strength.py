"""The strength of a penalty chosen on data held out: what is compared, what is chosen, what is refused."""

from dataclasses import replace

import pytest
import torch
from denoising_data import gates_for, smooth_batches

from convexrecon.convex.gated_convolution import GatedConvolution
from convexrecon.convex.held_out_strength import held_out_loss, solve_held_out, strengths
from convexrecon.convex.patches import BlockBatch
from convexrecon.convex.program import ProgramSettings, solve_program
from convexrecon.errors import InputError

TRAIN, OTHERS = smooth_batches(2), smooth_batches(3, seed=1)
GATES = gates_for(TRAIN)
SETTINGS = ProgramSettings(beta_ratio=1e-3)


def loss_of(data: list[BlockBatch], weights: torch.Tensor) -> float:
    total, pixels = 0.0, 0
    for batch in data:
        assert batch.rows is not None
        out = GatedConvolution(GATES, batch.features, True).forward(weights.float())
        total += float((out - batch.target)[batch.rows.expand_as(out)].square().sum())
        pixels += int(batch.rows.sum())
    return total / (2 * pixels)


def test_the_loss_is_that_of_the_pixels_that_count() -> None:
    weights = torch.randn(5, 19, 2, generator=torch.Generator().manual_seed(0)).double() / 9
    weights[2] = 0
    assert held_out_loss(lambda: OTHERS, GATES, weights, True) == pytest.approx(loss_of(OTHERS, weights), rel=1e-5)
    with pytest.raises(InputError, match="found no pixel"):
        held_out_loss(list, GATES, weights, True)


@pytest.mark.parametrize("method", ["statistics", "matrix_free", "subsampled"])
def test_the_strength_chosen_is_the_best_of_those_tried(method: str) -> None:
    settings = replace(SETTINGS, method=method)  # type: ignore[arg-type]
    found = solve_held_out(lambda: TRAIN, lambda: OTHERS, GATES, settings)
    solution = found.solved.solution
    assert solution.converged
    assert solution.certificate.relative_gap <= settings.tolerance
    assert solution.beta == found.betas[found.losses.index(min(found.losses))]
    assert loss_of(OTHERS, solution.weights) == pytest.approx(found.loss, rel=1e-3)
    for beta, loss in zip(found.betas, found.losses, strict=True):
        alone = solve_program(lambda: TRAIN, GATES, replace(SETTINGS, beta=beta)).solution
        assert loss == pytest.approx(loss_of(OTHERS, alone.weights), rel=3e-3)
    # It is better than nothing, and than hardly any penalty.
    assert found.losses[0] == pytest.approx(loss_of(OTHERS, torch.zeros(5, 19, 2)), rel=1e-5)
    assert found.loss < 0.9 * found.losses[0]


def test_weaker_penalties_are_tried_until_two_in_a_row_are_worse() -> None:
    rng = torch.Generator().manual_seed(0)
    few = [replace(TRAIN[0], rows=torch.rand(TRAIN[0].features[:, :1].shape, generator=rng) < 0.1)]
    found = solve_held_out(lambda: few, lambda: OTHERS, GATES, SETTINGS)
    best = found.losses.index(min(found.losses))
    assert len(found.losses) == best + 3 < len(strengths(1.0, 1e-3))


def test_what_does_not_generalize_leaves_the_network_empty() -> None:
    noise = [replace(b, target=torch.randn(b.target.shape, generator=torch.Generator().manual_seed(3))) for b in TRAIN]
    found = solve_held_out(lambda: noise, lambda: OTHERS, GATES, SETTINGS)
    assert found.solved.solution.beta == found.solved.beta_max
    assert found.solved.solution.active_groups == 0
    assert found.loss == found.losses[0]


def test_strengths_are_three_a_decade() -> None:
    assert strengths(2.0, 1e-2) == pytest.approx([2 * 10 ** (-k / 3) for k in range(7)])
    assert strengths(1.0, 0.9) == pytest.approx([1.0, 0.9])
    assert strengths(1.0, 1e-4)[-1] == pytest.approx(1e-4)


@pytest.mark.parametrize("wrong", [{"beta": 0.1}, {"beta_ratio": 1.0}])
def test_a_strength_that_is_given_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match="expected beta_ratio below 1 and no beta"):
        solve_held_out(lambda: TRAIN, lambda: OTHERS, GATES, replace(SETTINGS, **wrong))  # type: ignore[arg-type]
