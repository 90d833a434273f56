"""Scores of candidate gates against their definitions, the improvement of candidates, the choice among them."""

from typing import Any

import pytest
import torch
from denoising_data import gates_for, smooth_batches

from convexrecon.convex.arrangements import Gates, joined
from convexrecon.convex.gate_improvement import ascend, search_lines
from convexrecon.convex.gate_sampling import FILTER_DRAWS
from convexrecon.convex.gate_scores import RIDGE, explained, score, violations
from convexrecon.convex.gate_search import Candidates, choose, draw_candidates, search_gates
from convexrecon.convex.grown_statistics import grow_statistics
from convexrecon.convex.patches import BlockBatch
from convexrecon.convex.sampled_pixels import SampledPixels, sample_pixels
from convexrecon.convex.sufficient_statistics import accumulate
from convexrecon.errors import InputError
from convexrecon.solvers.penalties import GroupLasso, NuclearNorm

KERNEL = (3, 3)


def pixels_of(data: list[BlockBatch], share: float = 1.0) -> SampledPixels:
    return sample_pixels(data, gates_for(data, 1), True, share, torch.Generator().manual_seed(0))


def candidates(data: list[BlockBatch], pixels: SampledPixels, count: int = 24) -> Gates:
    rng = torch.Generator().manual_seed(1)
    return draw_candidates(pixels, [b.features for b in data], KERNEL, count, rng)


def test_scores_are_what_they_are_defined_as() -> None:
    data = smooth_batches()
    pixels, gates = pixels_of(data), gates_for(data, 4)
    closed = Gates(gates.filters[:1], torch.full((1,), 1e6))
    gates = joined(gates, closed)
    quadratic = accumulate(data, gates).quadratic()
    gain, fits = explained(gates, pixels, pixels.target)
    for index in range(4):
        part = slice(index * 19, index * 19 + 19)
        matrix = quadratic.matrix[part, part].clone()
        matrix.diagonal().add_(RIDGE * matrix.diagonal().mean())
        fit = torch.linalg.solve(matrix, quadratic.linear[index])
        assert float(gain[index]) == pytest.approx(float((fit * quadratic.linear[index]).sum()) / 2, rel=1e-4)
        torch.testing.assert_close(fits[index], fit, rtol=1e-2, atol=1e-3)
    assert float(gain[4]) == 0
    for penalty in (GroupLasso(), NuclearNorm()):
        torch.testing.assert_close(
            violations(gates, pixels, pixels.target, penalty), penalty.dual_norm(quadratic.linear), rtol=1e-5, atol=1e-9
        )


def test_residuals_on_the_pixels_are_those_of_the_program() -> None:
    data = smooth_batches()
    pixels, gates = pixels_of(data), gates_for(data, 4)
    quadratic = accumulate(data, gates).quadratic()
    weights = torch.randn(4, 19, 2, generator=torch.Generator().manual_seed(0)).double()
    residual = pixels.residual(gates, weights)
    energy = quadratic.tau + float((weights * (quadratic.multiply(weights) - 2 * quadratic.linear)).sum())
    assert float(residual.double().square().sum()) / residual.shape[1] == pytest.approx(energy, rel=1e-4)


@pytest.mark.parametrize("choice", FILTER_DRAWS)
def test_candidates_have_unit_response(choice: str) -> None:
    data = smooth_batches()
    pixels = pixels_of(data, 0.5)
    rng = torch.Generator().manual_seed(1)
    gates = draw_candidates(pixels, [b.features for b in data], KERNEL, 30, rng, draw=FILTER_DRAWS[choice])
    response = gates.filters.flatten(1) @ pixels.patches[: pixels.taps]
    torch.testing.assert_close(response.square().mean(1), torch.ones(30), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("rule", ["violation", "explained"])
def test_improved_candidates_score_better(rule: Any) -> None:
    data = smooth_batches(2, (40, 36))
    pixels, penalty = pixels_of(data), GroupLasso()
    drawn = candidates(data, pixels)
    before = score(drawn, pixels, pixels.target, penalty, rule)
    ascended = ascend(drawn, pixels, pixels.target, rule, 40)
    after = score(ascended, pixels, pixels.target, penalty, rule)
    assert float(after.mean()) > 1.1 * float(before.mean())
    rng = torch.Generator().manual_seed(2)
    searched = search_lines(drawn, pixels, pixels.target, rule, 6, rng)
    assert float(score(searched, pixels, pixels.target, penalty, rule).mean()) > 1.1 * float(before.mean())
    found = search_gates(drawn, pixels, pixels.target, penalty, rule, improved=8, steps=40)
    assert len(found.gates) == 32
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)
    torch.testing.assert_close(found.scores, score(found.gates, pixels, pixels.target, penalty, rule))


def test_lines_never_lose_a_violation() -> None:
    data = smooth_batches()
    pixels, penalty = pixels_of(data), GroupLasso()
    gates = candidates(data, pixels)
    for line in range(1, 5):
        rng = torch.Generator().manual_seed(line)
        better = search_lines(gates, pixels, pixels.target, "violation", line, rng)
        before, after = (violations(g, pixels, pixels.target, penalty) for g in (gates, better))
        assert bool((after >= before * (1 - 1e-4)).all())
        gates = better


def test_a_gate_is_not_chosen_twice() -> None:
    data = smooth_batches()
    pixels, penalty = pixels_of(data), GroupLasso()
    found = search_gates(candidates(data, pixels), pixels, pixels.target, penalty, "explained", improved=0)
    twice = Candidates(joined(found.gates.select(torch.tensor([0])), found.gates), found.scores[:1].repeat(25))
    chosen = choose(twice, pixels, pixels.target, penalty, "explained", 3)
    patterns = chosen.patterns(data[0].features)[0].flatten(1)
    assert torch.equal(chosen.filters[0], found.gates.filters[0])
    assert len(torch.unique(patterns, dim=0)) == 3
    assert len(choose(twice, pixels, pixels.target, penalty, "explained", 99)) == 25
    none = Candidates(found.gates.select(torch.arange(0)), found.scores[:0])
    assert len(choose(none, pixels, pixels.target, penalty, "explained", 2)) == 0
    with pytest.raises(InputError, match="expected one of violation, explained, found 'luck'"):
        search_gates(found.gates, pixels, pixels.target, penalty, "luck")  # type: ignore[arg-type]


def test_a_share_without_pixels_is_refused() -> None:
    with pytest.raises(InputError, match="no pixel in a share of 1e-09"):
        pixels_of(smooth_batches(), 1e-9)


def test_grown_statistics_are_those_of_one_pass() -> None:
    data = smooth_batches()
    gates = gates_for(data, 7)
    whole = accumulate(data, gates)
    grown = None
    for start, stop in ((0, 1), (1, 4), (4, 7)):
        grown = grow_statistics(grown, data, gates.select(torch.arange(start, stop)), True)
    assert grown is not None
    expected, found = whole.quadratic(), grown.quadratic()
    assert grown.pixels == whole.pixels
    assert grown.tau == pytest.approx(expected.tau)
    torch.testing.assert_close(found.matrix, expected.matrix, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(found.linear, expected.linear, rtol=1e-5, atol=1e-7)
    keep = torch.tensor([True, False, True, True, False, False, True])
    some = accumulate(data, gates.select(keep)).quadratic()
    torch.testing.assert_close(grown.select(keep).quadratic().matrix, some.matrix, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(grown.select(keep).quadratic().linear, some.linear, rtol=1e-5, atol=1e-7)
