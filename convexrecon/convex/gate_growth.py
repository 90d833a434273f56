"""Column generation: gates are added where the optimum so far is most lacking, and the program solved again."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from convexrecon.convex.arrangement_search import ArrangementSearch, measure_candidates
from convexrecon.convex.arrangements import Gates
from convexrecon.convex.gate_scores import Rule, violations
from convexrecon.convex.gate_search import Candidates, choose, search_gates
from convexrecon.convex.gated_convolution import feature_count
from convexrecon.convex.grown_statistics import GrownStatistics, grow_statistics
from convexrecon.convex.patches import Stream
from convexrecon.convex.program import BlockSolution, ProgramSettings, solve_statistics
from convexrecon.convex.program_settings import Method
from convexrecon.convex.sampled_pixels import SampledPixels, sample_pixels
from convexrecon.convex.sufficient_statistics import gram_bytes
from convexrecon.errors import InputError
from convexrecon.solvers.certificates import beta_max
from convexrecon.solvers.path import solve
from convexrecon.solvers.penalties import Penalty, penalty_named
from convexrecon.solvers.solution import Solution

# Pixels, how many and a generator -> candidates of unit response on the pixels.
CandidateSource = Callable[[SampledPixels, int, torch.Generator], Gates]

StoppedBy = Literal["budget", "no_violation"]

# Gap to which the program is solved between rounds, relative to that asked for at the end.
ROUND_TOLERANCE = 10.0
# Candidates of the last search that are measured on all the data.
MEASURED = 32


@dataclass(frozen=True)
class GrowthSettings:
    """How gates are searched for and added.

    Attributes:
        rule: "violation", the gates whose dual constraints are most violated; or "explained", those that
            alone lower the loss the most; or "none", gates are drawn and not grown.
        per_round: gates added before the program is solved again.
        candidates: gates drawn for each round.
        improved: how many of those, the best, are improved by ascent.
        steps: of the ascent.
        lines: exact searches along lines after it, for problems of few pixels.
        patience: searches in a row that must find nothing before growth stops; all but the first by violation.
        pixels: about how many pixels candidates are scored on.
        tolerance: a dual constraint counts as violated when it exceeds beta, and the worst of the gates in use, by
            more than this share.
    """

    rule: Literal["none", "violation", "explained"] = "none"
    per_round: int = 4
    candidates: int = 128
    improved: int = 32
    steps: int = 40
    lines: int = 0
    patience: int = 2
    pixels: int = 32_768
    tolerance: float = 0.01

    def __post_init__(self) -> None:
        least = {"per_round": 1, "candidates": 1, "improved": 0, "steps": 0, "lines": 0, "patience": 1, "pixels": 1}
        for name, smallest in least.items():
            if getattr(self, name) < smallest:
                raise InputError(f"grow.{name}: expected at least {smallest}, found {getattr(self, name)}")
        if not self.tolerance > 0:
            raise InputError(f"grow: expected tolerance > 0, found {self.tolerance}")


@dataclass(frozen=True)
class Round:
    """A round of growth.

    Attributes:
        gates: in use after it.
        objective: of the optimum for them, to ten times the tolerance.
        violation: the largest dual norm of the gates that it added over beta, before they were, on all data.
    """

    gates: int
    objective: float
    violation: float


@dataclass(frozen=True)
class GrownSolution:
    """The optimum for grown gates and how they came about.

    Attributes:
        solved: gates, weights, certificate; the certificate is for these gates, as for any.
        search: what a last search over all arrangements found at the optimum.
        rounds: in order.
        stopped_by: "budget", or "no_violation" when a search found no gate worth adding.
        seconds_search: time of all searches.
    """

    solved: BlockSolution
    search: ArrangementSearch
    rounds: tuple[Round, ...]
    stopped_by: StoppedBy
    seconds_search: float


def grow_program(
    stream: Stream,
    source: CandidateSource,
    like: Gates,
    budget: int,
    settings: ProgramSettings,
    growth: GrowthSettings,
    generator: torch.Generator,
) -> GrownSolution:
    """Solve a program for gates that are found along the way.

    The first gate is open everywhere: the linear filter. In every round candidates are scored on a share of
    the pixels against the residual at the optimum so far, and the best are added whose dual constraints
    are violated, measured on all the data: only they can lower the objective.

    Args:
        stream: called once a pass; yields the data as `BlockBatch`es, always the same.
        source: where candidates come from.
        like: any gates of the program, for kernel, channels and device.
        budget: most gates.
        settings: penalty, strength, accuracy. A relative beta is of the largest dual norm at W = 0 of the open
            gate and the first candidates.
        growth: how to search.
        generator: all randomness comes from it.

    Raises:
        InputError: no data, NaN or Inf among them, a target that is zero everywhere, a budget below one, a rule
            of "none", or a budget whose statistics do not fit in `settings.memory_gb`.
    """
    _check(like, budget, settings, growth)
    seconds = dict.fromkeys(("accumulate", "search", "solve"), 0.0)
    with _timed(seconds, "accumulate"):
        statistics = _linear_filter(stream, like, settings.constant)
        share = growth.pixels / statistics.pixels
        pixels = sample_pixels(stream(), like, settings.constant, share, generator)
    with _timed(seconds, "search"):
        beta = _strength(statistics, source(pixels, growth.candidates, generator), pixels, settings)
    task = _Task(stream, source, pixels, beta, settings, growth, generator, seconds)
    statistics, weights, rounds = _grow(task, statistics, budget)
    gates, quadratic = statistics.gates, statistics.quadratic()
    with _timed(seconds, "solve"):
        solution = solve_statistics(quadratic, stream, gates, settings, beta, weights)
    with _timed(seconds, "search"):
        search = _last_search(task, gates, solution.weights)
    solved = BlockSolution(
        gates=gates,
        solution=solution,
        beta_max=beta_max(quadratic, task.penalty),
        pixels=statistics.pixels,
        seconds_accumulate=seconds["accumulate"],
        seconds_solve=seconds["solve"],
        method=Method("statistics", "rows of H are added with the gates"),
    )
    stopped_by: StoppedBy = "budget" if len(gates) >= budget else "no_violation"
    return GrownSolution(solved, search, rounds, stopped_by, seconds["search"])


@dataclass(frozen=True)
class _Task:
    """What stays the same while gates are added, and the clock."""

    stream: Stream
    source: CandidateSource
    pixels: SampledPixels
    beta: float
    settings: ProgramSettings
    growth: GrowthSettings
    generator: torch.Generator
    seconds: dict[str, float]

    @property
    def penalty(self) -> Penalty:
        return penalty_named(self.settings.penalty)

    def search(self, residual: Tensor, rule: Rule) -> Candidates:
        """Candidates against a residual r (m, n) on the share of the pixels, best first."""
        growth = self.growth
        return search_gates(
            self.source(self.pixels, growth.candidates, self.generator),
            self.pixels,
            residual,
            self.penalty,
            rule,
            improved=growth.improved,
            steps=growth.steps,
            lines=growth.lines,
            generator=self.generator,
        )


def _check(like: Gates, budget: int, settings: ProgramSettings, growth: GrowthSettings) -> None:
    if growth.rule == "none":
        raise InputError("grow: expected the rule 'violation' or 'explained', found 'none'")
    if budget < 1:
        raise InputError(f"grow: expected a budget of at least 1 gate, found {budget}")
    needed = gram_bytes(budget, feature_count(like.filters.shape[1], like.kernel, settings.constant)) / 1e9
    if needed > settings.memory_gb:
        raise InputError(
            f"grow: the statistics of {budget} gates need {needed:.1f} GB, and memory_gb is {settings.memory_gb:g}; "
            "expected fewer gates, a smaller kernel or more memory_gb"
        )


def _grow(task: _Task, statistics: GrownStatistics, budget: int) -> tuple[GrownStatistics, Tensor, tuple[Round, ...]]:
    """Rounds of searching, adding and solving until the budget is spent or nothing is found: with W at the end."""
    rounds: list[Round] = []
    failures = 0
    with _timed(task.seconds, "solve"):
        weights = _between_rounds(task, statistics, None).weights
    while len(statistics.gates) < budget and failures < task.growth.patience:
        with _timed(task.seconds, "search"):
            wanted = min(task.growth.per_round, budget - len(statistics.gates))
            # A gate that explains little may still be violated: before growth stops, violations are looked for.
            rule: Rule = "explained" if task.growth.rule == "explained" and failures == 0 else "violation"
            chosen = _violating(task, statistics.gates, weights, rule, wanted)
        with _timed(task.seconds, "accumulate"):
            added = _added(task, statistics, chosen, weights) if len(chosen) else None
        if added is None:
            failures += 1
            continue
        failures = 0
        statistics, start, violation = added
        with _timed(task.seconds, "solve"):
            solution = _between_rounds(task, statistics, start)
        weights = solution.weights
        rounds.append(Round(len(statistics.gates), solution.certificate.objective, violation))
    return statistics, weights, tuple(rounds)


def _linear_filter(stream: Stream, like: Gates, constant: bool) -> GrownStatistics:
    """The statistics of the one gate that is open everywhere."""
    shut = like.select(slice(0, 1))
    open_ = replace(shut, filters=torch.zeros_like(shut.filters), offsets=torch.full_like(shut.offsets, -1.0))
    statistics = grow_statistics(None, stream(), open_, constant)
    if statistics.tau == 0:
        raise InputError("program: the target is zero everywhere; there is nothing to learn")
    return statistics


def _strength(statistics: GrownStatistics, drawn: Gates, pixels: SampledPixels, settings: ProgramSettings) -> float:
    """beta, where it is relative, to the largest dual norm at W = 0 of the open gate and the candidates."""
    if settings.beta is not None:
        return settings.beta
    penalty = penalty_named(settings.penalty)
    of_candidates = float(violations(drawn, pixels, pixels.target, penalty).max())
    return settings.beta_ratio * max(beta_max(statistics.quadratic(), penalty), of_candidates)


def _between_rounds(task: _Task, statistics: GrownStatistics, start: Tensor | None) -> Solution:
    return solve(
        statistics.quadratic(),
        task.penalty,
        task.beta,
        tolerance=ROUND_TOLERANCE * task.settings.tolerance,
        initial=start,
        max_iterations=task.settings.max_iterations,
    )


def _violating(task: _Task, gates: Gates, weights: Tensor, rule: Rule, wanted: int) -> Gates:
    """The best candidates whose dual constraints are violated on the share of the pixels; maybe none."""
    residual = task.pixels.residual(gates, weights)
    found = task.search(residual, rule)
    dual_norms = found.scores
    if rule != "violation":
        dual_norms = violations(found.gates, task.pixels, residual, task.penalty)
    # Not compared with the gates in use here: on a share of the pixels theirs are far above beta by chance, and gates
    # that explain fine detail, whose dual norms are small, would never be tried.
    keep = dual_norms > (1 + task.growth.tolerance) * task.beta
    found = Candidates(found.gates.select(keep), found.scores[keep])
    return choose(found, task.pixels, residual, task.penalty, rule, wanted)


def _added(
    task: _Task, before: GrownStatistics, chosen: Gates, weights: Tensor
) -> tuple[GrownStatistics, Tensor, float] | None:
    """Statistics with those chosen gates that are violated on all data too, W to start from, the worst violation."""
    grown = grow_statistics(before, task.stream(), chosen, before.constant)
    start = torch.cat([weights, weights.new_zeros(len(chosen), *weights.shape[1:])])
    dual_norms = task.penalty.dual_norm(grown.linear - grown.quadratic().multiply(start))
    # Between rounds the gates in use may exceed beta a little too; one like them is not worth adding.
    in_use = float(dual_norms[: len(before.gates)].max())
    keep = dual_norms > (1 + task.growth.tolerance) * max(task.beta, in_use)
    keep[: len(before.gates)] = True
    if int(keep.sum()) == len(before.gates):
        return None
    violation = float(dual_norms[len(before.gates) :].max()) / task.beta
    return grown.select(keep), start[keep], violation


def _last_search(task: _Task, gates: Gates, weights: Tensor) -> ArrangementSearch:
    """The worst violations at the end, by whatever rule gates were chosen, measured on all data."""
    found = task.search(task.pixels.residual(gates, weights), "violation")
    worst = found.gates.select(torch.arange(min(MEASURED, len(found.gates))))
    return measure_candidates(
        task.stream(), gates, weights, task.beta, task.penalty, task.settings.constant, worst, len(found.gates)
    )


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[name] += time.perf_counter() - started
