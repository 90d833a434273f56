"""The search for gates worth adding: candidates are drawn, scored on a share of the pixels, and improved.

Which of all arrangements a program misses most is a non-convex question, NP-hard in general. What is found
here are good gates, never the proof that there is no better one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from convexrecon.convex.arrangements import FilterDraw, Gates, gaussian_filters, joined
from convexrecon.convex.gate_improvement import ascend, search_lines
from convexrecon.convex.gate_scores import Rule, explained, score
from convexrecon.convex.sampled_pixels import SampledPixels
from convexrecon.errors import InputError
from convexrecon.solvers.penalties import Penalty

# Candidates scored anew after each choice.
RESCORED = 16


@dataclass(frozen=True)
class Candidates:
    """Gates with their scores on a share of the pixels.

    Attributes:
        gates: K gates, best first.
        scores: of the rule, (K,) float64.
    """

    gates: Gates
    scores: Tensor


def search_gates(
    drawn: Gates,
    pixels: SampledPixels,
    residual: Tensor,
    penalty: Penalty,
    rule: Rule,
    *,
    improved: int = 32,
    steps: int = 40,
    lines: int = 0,
    generator: torch.Generator | None = None,
) -> Candidates:
    """The candidates drawn, and the best of them improved, in the order of their scores.

    Args:
        drawn: candidates of unit response, as `draw_candidates` makes them.
        pixels: the share of the pixels that scores are taken on.
        residual: r = t - A W there, (m, n).
        penalty: whose dual norm measures a violation.
        rule: "violation", by how much a gate's dual constraint is violated; or "explained", the decrease of the
            loss that the gate alone can give.
        improved: how many of those drawn, the best, are improved and scored again.
        steps: of the ascent.
        lines: of the exact searches after it.
        generator: of the lines' directions; needed where there are lines.

    Raises:
        InputError: an unknown rule.
    """
    if rule not in get_args(Rule):
        raise InputError(f"rule: expected one of {', '.join(get_args(Rule))}, found {rule!r}")
    scores = score(drawn, pixels, residual, penalty, rule)
    gates = drawn
    if improved > 0:
        best = scores.argsort(descending=True, stable=True)[:improved]
        better = ascend(drawn.select(best), pixels, residual, rule, steps)
        if lines > 0:
            better = search_lines(better, pixels, residual, rule, lines, generator or torch.Generator())
        gates = joined(gates, better)
        scores = torch.cat([scores, score(better, pixels, residual, penalty, rule)])
    order = scores.argsort(descending=True, stable=True)
    return Candidates(gates.select(order), scores[order])


def draw_candidates(
    pixels: SampledPixels,
    samples: Sequence[Tensor],
    kernel: tuple[int, ...],
    count: int,
    generator: torch.Generator,
    *,
    draw: FilterDraw = gaussian_filters,
    offset_scale: float = 1.0,
    whitened: float = 0.5,
    periodic: bool = False,
) -> Gates:
    """Gates from the distribution of `draw_gates`, scaled on the pixels; trivial and duplicate ones stay.

    Args:
        pixels: of the program.
        samples: inputs (B, C, *N) that `draw` may take patches from.
        kernel: of the gates.
        count: K.
        generator: all randomness comes from it.
        draw: where filters come from.
        offset_scale: standard deviation of the offsets, in units of the response's.
        whitened: share of the candidates drawn from N(0, C^-1) instead.
        periodic: whether the first image axis goes round.
    """
    filters = draw(samples, count, kernel, generator).to(pixels.patches)
    white = torch.rand(count, generator=generator) < whitened
    fresh = gaussian_filters(samples, int(white.sum()), kernel, generator).to(filters)
    filters[white] = (fresh.flatten(1) @ pixels.roots[1]).view_as(fresh)
    rms = (filters.flatten(1) @ pixels.roots[0]).norm(dim=1).clamp_min(1e-12)
    offsets = torch.randn(count, generator=generator) * offset_scale
    return Gates(filters / rms.view(-1, *[1] * (filters.ndim - 1)), offsets.to(filters), periodic)


def choose(
    candidates: Candidates, pixels: SampledPixels, residual: Tensor, penalty: Penalty, rule: Rule, count: int
) -> Gates:
    """The best candidate, then the best for what that one leaves unexplained, and so on: `count` gates.

    Args:
        candidates: best first; the best few are scored again after each choice.
        pixels: X.
        residual: r, (m, n).
        penalty: whose dual norm measures a violation.
        rule: by which candidates were scored.
        count: how many to choose; fewer if there are no more candidates.
    """
    pool = candidates.gates.select(torch.arange(min(len(candidates.gates), count + RESCORED)))
    chosen, best = pool.select(torch.arange(0)), 0
    while len(pool) > 0:
        gate, rest = pool.select(torch.tensor([best])), torch.arange(len(pool)) != best
        chosen, pool = joined(chosen, gate), pool.select(rest)
        if len(chosen) == count or len(pool) == 0:
            break
        residual = pixels.residual(gate, explained(gate, pixels, residual)[1], residual)
        best = int(score(pool, pixels, residual, penalty, rule).argmax())
    return chosen
