"""Growing gates against the exact optimum over all arrangements, where those can be enumerated."""

from dataclasses import replace
from itertools import combinations, product
from math import comb
from typing import Any

import pytest
import torch
from denoising_data import gates_for, smooth_batches
from torch import Tensor

from convexrecon.convex.arrangements import Gates, draw_gates
from convexrecon.convex.gate_growth import CandidateSource, GrowthSettings, grow_program
from convexrecon.convex.gate_search import draw_candidates
from convexrecon.convex.patches import BlockBatch
from convexrecon.convex.program import ProgramSettings, certify_program, solve_program
from convexrecon.convex.sampled_pixels import SampledPixels
from convexrecon.errors import InputError
from convexrecon.solvers.certificates import dual_value
from convexrecon.solvers.penalties import penalty_named
from convexrecon.solvers.reference import reference_gated

SIZE = (2, 5)
EXACT = ProgramSettings(beta=0.02, tolerance=1e-8)
# One search without success proves little.
THOROUGH = GrowthSettings(
    rule="violation", per_round=8, candidates=256, improved=16, lines=8, patience=3, pixels=1000, tolerance=1e-4
)


def tiny_problem(seed: int) -> BlockBatch:
    """A curved function of two features at ten points: no few patterns are enough for it."""
    rng = torch.Generator().manual_seed(seed)
    features = torch.randn(1, 2, *SIZE, generator=rng)
    bent = torch.stack([features[:, 0] * features[:, 1], features.square().sum(1)], 1)
    return BlockBatch(features, bent + 0.1 * torch.randn(bent.shape, generator=rng))


def all_patterns(points: Tensor) -> Tensor:
    """Every pattern that an affine gate cuts points (n, 2) into, but the one that is shut everywhere: (K, n).

    A line that separates can be moved until it passes through two of the points, which it then may leave on
    either side.
    """
    found = {tuple([True] * len(points))}
    for i, j in combinations(range(len(points)), 2):
        along = points[j] - points[i]
        side = (points - points[i]) @ torch.stack([-along[1], along[0]]) > 0
        for (first, second), turned in product(product((False, True), repeat=2), (False, True)):
            pattern = ~side if turned else side.clone()
            pattern[i], pattern[j] = first, second
            found.add(tuple(pattern.tolist()))
    found.discard(tuple([False] * len(points)))
    return torch.tensor(sorted(found))


def explicit(batch: BlockBatch) -> tuple[Tensor, Tensor]:
    """Blocks (K, n, 3) of all arrangements and targets (n, 2)."""
    points = batch.features[0].flatten(1).T.double()
    patterns = all_patterns(points)
    assert len(patterns) == 2 * sum(comb(len(points) - 1, k) for k in range(3)) - 1  # Cover's count, less the shut one
    patches = torch.cat([points, torch.ones(len(points), 1)], 1)
    return patterns.unsqueeze(2) * patches, batch.target[0].flatten(1).T.double()


def source_for(samples: list[Tensor], kernel: tuple[int, ...]) -> CandidateSource:
    def source(pixels: SampledPixels, count: int, generator: torch.Generator) -> Gates:
        return draw_candidates(pixels, samples, kernel, count, generator)

    return source


def vertex_source(points: Tensor) -> CandidateSource:
    """Gates that pass between points (n, 2) next to two of them: the way to reach cells too thin to draw."""

    def source(pixels: SampledPixels, count: int, generator: torch.Generator) -> Gates:
        pairs = torch.stack([torch.randperm(len(points), generator=generator)[:2] for _ in range(count)])
        first, second = points[pairs[:, 0]], points[pairs[:, 1]]
        along = second - first
        normal = torch.stack([-along[:, 1], along[:, 0]], 1) / along.norm(dim=1, keepdim=True)
        sides = 1e-5 * (torch.randint(2, (count, 2), generator=generator) * 2 - 1)
        tilt = (sides[:, 1:] - sides[:, :1]) / along.square().sum(1, keepdim=True) * along
        filters = (normal * (torch.randint(2, (count, 1), generator=generator) * 2 - 1)) + tilt
        return Gates(filters.view(-1, 2, 1, 1), (filters * first).sum(1) - sides[:, 0])

    return source


@pytest.mark.parametrize("rule", ["violation", "explained"])
@pytest.mark.parametrize("penalty", ["group_lasso", "nuclear"])
def test_growing_reaches_the_optimum_over_all_arrangements(rule: Any, penalty: str) -> None:
    batch = tiny_problem(0)
    blocks, targets = explicit(batch)
    if penalty == "nuclear":  # fewer points: each gate costs the reference a semidefinite constraint
        batch = BlockBatch(batch.features[..., :3], batch.target[..., :3])
        blocks, targets = explicit(batch)
    reference = reference_gated(blocks.numpy(), targets.numpy(), 0.02, penalty)
    grown = grow_program(
        lambda: [batch],
        vertex_source(batch.features[0].flatten(1).T),
        Gates(torch.zeros(1, 2, 1, 1), torch.zeros(1)),
        100,
        replace(EXACT, penalty=penalty, tolerance=1e-8 if penalty == "group_lasso" else 1e-6),
        replace(THOROUGH, rule=rule),
        torch.Generator().manual_seed(1),
    )
    assert grown.stopped_by == "no_violation"
    assert grown.solved.solution.certificate.objective == pytest.approx(reference.objective, rel=1e-4)
    assert grown.search.largest_violation == pytest.approx(1, abs=2e-3)
    assert reference.objective * (1 - 3e-3) < grown.search.searched_bound < reference.objective * (1 + 1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_the_searched_bound_is_that_of_the_worst_arrangement(seed: int) -> None:
    batch = tiny_problem(seed)
    blocks, targets = explicit(batch)
    reference = reference_gated(blocks.numpy(), targets.numpy(), 0.02)
    grown = grow_program(
        lambda: [batch],
        vertex_source(batch.features[0].flatten(1).T),
        Gates(torch.zeros(1, 2, 1, 1), torch.zeros(1)),
        3,
        EXACT,
        THOROUGH,
        torch.Generator().manual_seed(seed),
    )
    assert grown.stopped_by == "budget"
    weights, gates = grown.solved.solution.weights, grown.solved.gates
    patches = torch.cat([batch.features[0].flatten(1).T.double(), torch.ones(10, 1)], 1)
    open_ = gates.patterns(batch.features)[0].flatten(1).double()
    residual = targets - torch.einsum("pn,nd,pdm->nm", open_, patches, weights)
    largest = float(torch.einsum("knd,nm->kdm", blocks, residual).flatten(1).norm(dim=1).max()) / 10
    assert largest > 1.5 * 0.02  # three gates are far from all of them
    assert grown.search.largest_violation == pytest.approx(largest / 0.02, rel=1e-5)
    exact = dual_value(float(residual.square().sum()) / 10, float((residual * targets).sum()) / 10, largest, 0.02)
    assert grown.search.searched_bound == pytest.approx(exact, rel=1e-4)
    assert exact <= reference.objective <= grown.solved.solution.certificate.objective
    # The certificate is for the three gates alone: it is above what all arrangements can reach.
    assert grown.solved.solution.certificate.bound > reference.objective


@pytest.mark.parametrize("rule", ["violation", "explained"])
def test_grown_gates_are_better_than_drawn_ones_and_their_certificate_holds(rule: Any) -> None:
    data = smooth_batches(2, (40, 36))
    samples = [b.features for b in data]
    settings = ProgramSettings(beta=1e-4)
    growth = GrowthSettings(rule=rule, per_round=3, candidates=48, improved=12, pixels=1500)
    grown = grow_program(
        lambda: data,
        source_for(samples, (3, 3)),
        gates_for(data, 1),
        8,
        settings,
        growth,
        torch.Generator().manual_seed(0),
    )
    assert len(grown.solved.gates) == 8
    assert [step.gates for step in grown.rounds] == [4, 7, 8]
    objectives = [step.objective for step in grown.rounds]
    assert objectives == sorted(objectives, reverse=True)
    assert all(step.violation > 1.01 for step in grown.rounds)
    found = grown.solved.solution
    measured = certify_program(lambda: data, grown.solved.gates, found.weights, found.beta, settings)
    assert found.certificate.relative_gap <= 1e-5
    assert measured.relative_gap <= 2e-5
    for seed in range(3):
        drawn = draw_gates(samples, 8, (3, 3), torch.Generator().manual_seed(seed), whitened=0.5)
        other = solve_program(lambda: data, drawn, settings).solution.certificate
        assert found.certificate.objective < other.objective
    again = solve_program(lambda: data, grown.solved.gates, settings).solution.certificate
    assert again.objective == pytest.approx(found.certificate.objective, rel=1e-5)
    assert grown.search.searched_bound < found.certificate.bound
    norms = penalty_named("group_lasso").dual_norm(found.weights)
    assert bool((norms > 0).all())


def test_growth_does_not_depend_on_how_the_data_are_batched() -> None:
    data = smooth_batches(3)
    rows = [b.rows for b in data if b.rows is not None]
    together = BlockBatch(torch.cat([b.features for b in data]), torch.cat([b.target for b in data]), torch.cat(rows))
    growth = GrowthSettings(rule="explained", per_round=2, candidates=16, improved=4, pixels=600)
    results = [
        grow_program(
            lambda batches=batches: batches,  # type: ignore[misc]
            source_for([data[0].features], (3, 3)),
            gates_for(data, 1),
            5,
            ProgramSettings(),
            growth,
            torch.Generator().manual_seed(4),
        )
        for batches in (data, [together])
    ]
    assert torch.equal(results[0].solved.gates.filters, results[1].solved.gates.filters)
    assert torch.equal(results[0].solved.gates.offsets, results[1].solved.gates.offsets)


def test_a_beta_above_all_violations_leaves_the_linear_filter_empty() -> None:
    data = smooth_batches(1)
    grown = grow_program(
        lambda: data,
        source_for([data[0].features], (3, 3)),
        gates_for(data, 1),
        8,
        ProgramSettings(beta=1e3),
        GrowthSettings(rule="violation", candidates=8, improved=2, pixels=300),
        torch.Generator(),
    )
    assert grown.stopped_by == "no_violation"
    assert grown.solved.solution.active_groups == 0
    assert grown.search.largest_violation < 1
    assert grown.search.searched_bound == pytest.approx(grown.solved.solution.certificate.objective)


def test_what_growth_refuses() -> None:
    data = smooth_batches(1)
    like = gates_for(data, 1)

    def grow(budget: int, settings: ProgramSettings, growth: GrowthSettings, batches: list[BlockBatch]) -> None:
        source = source_for([data[0].features], (3, 3))
        grow_program(lambda: batches, source, like, budget, settings, growth, torch.Generator())

    violation = GrowthSettings(rule="violation")
    with pytest.raises(InputError, match="expected the rule 'violation' or 'explained', found 'none'"):
        grow(4, ProgramSettings(), GrowthSettings(), data)
    with pytest.raises(InputError, match="budget of at least 1 gate, found 0"):
        grow(0, ProgramSettings(), violation, data)
    with pytest.raises(InputError, match="statistics of 64 gates need"):
        grow(64, ProgramSettings(memory_gb=0.001), violation, data)
    nothing = BlockBatch(data[0].features, torch.zeros_like(data[0].target))
    with pytest.raises(InputError, match="nothing to learn"):
        grow(4, ProgramSettings(), violation, [nothing])
    broken = BlockBatch(data[0].features, data[0].target * float("nan"))
    with pytest.raises(InputError, match="NaN or Inf"):
        grow(4, ProgramSettings(), violation, [broken])
    with pytest.raises(InputError, match="no pixel"):
        grow(4, ProgramSettings(), violation, [])
    with pytest.raises(InputError, match=r"grow\.per_round: expected at least 1, found 0"):
        GrowthSettings(per_round=0)
    with pytest.raises(InputError, match="tolerance > 0, found 0"):
        GrowthSettings(tolerance=0.0)
