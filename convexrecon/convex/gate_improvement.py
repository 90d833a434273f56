"""Candidate gates made better: by smoothed ascent, and by exact searches along lines."""

from dataclasses import replace

import torch
from torch import Tensor

from convexrecon.convex.arrangements import Gates
from convexrecon.convex.gate_lines import best_on_lines
from convexrecon.convex.gate_scores import Rule
from convexrecon.convex.sampled_pixels import SampledPixels

# Most pixels that gates are improved on.
THINNED_PIXELS = 16_384
# The ascent: first and last width of the sigmoid, in standard deviations of the response, and step as a
# share of the width.
ASCENT_WIDTHS = (0.5, 0.05)
ASCENT_STEP = 1.0


def ascend(gates: Gates, pixels: SampledPixels, residual: Tensor, rule: Rule, steps: int) -> Gates:
    """Gates near those given that score better, by ascent of ``||M X^T s((g * u - b) / width) r||_F``.

    The step function of a gate has no slope; a sigmoid s that narrows from step to step has. M is the identity
    for violations and the inverse root of ``X^T X`` for what is explained. Steps are taken on the sphere of
    filters with unit response, where all directions that patches vary in count alike.

    Args:
        gates: K gates.
        pixels: X.
        residual: r, (m, n).
        rule: what is to be large.
        steps: of the ascent.
    """
    patches, part = pixels.thinned(residual, THINNED_PIXELS)
    white, seen = pixels.roots[1] @ patches[: pixels.taps], _measured_features(patches, rule)
    filters = gates.filters.flatten(1) @ pixels.roots[0]
    size = filters.norm(dim=1).clamp_min(1e-12)
    filters, offsets = filters / size.unsqueeze(1), gates.offsets / size
    first, last = ASCENT_WIDTHS
    for step in range(steps):
        width = first * (last / first) ** (step / max(steps - 1, 1))
        slope_filters, slope_offsets = _smoothed_slope(filters, offsets, width, white, seen, part)
        slope_filters = slope_filters - (slope_filters * filters).sum(1, keepdim=True) * filters
        length = (slope_filters.square().sum(1) + slope_offsets.square()).sqrt().clamp_min(1e-30)
        filters = filters + ASCENT_STEP * width * slope_filters / length.unsqueeze(1)
        filters = filters / filters.norm(dim=1, keepdim=True).clamp_min(1e-12)
        offsets = offsets + ASCENT_STEP * width * slope_offsets / length
    return replace(gates, filters=(filters @ pixels.roots[1]).view_as(gates.filters), offsets=offsets)


def _smoothed_slope(
    filters: Tensor, offsets: Tensor, width: float, white: Tensor, seen: Tensor, residual: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradient of ``1/2 ||seen s r||_F^2`` in whitened filters (K, taps) and offsets (K,)."""
    open_ = torch.sigmoid((filters @ white - offsets.unsqueeze(1)) / width)
    gated = (open_.unsqueeze(1) * residual).flatten(0, 1) @ seen.T
    back = (gated @ seen).view(len(filters), *residual.shape)
    slope = (back * residual).sum(1) * open_ * (1 - open_)
    return slope @ white.T, -slope.sum(1)


def search_lines(
    gates: Gates, pixels: SampledPixels, residual: Tensor, rule: Rule, lines: int, generator: torch.Generator
) -> Gates:
    """Gates moved to the best pattern on a line through each, again and again; the first line moves the offset.

    Looks at every pattern on the way, so that it finds those that few gates cut: the thing to do where pixels
    are few. On images the ascent ends where lines gain less than 1 %, at ten times the cost.

    Args:
        gates: K gates of unit response.
        pixels: X.
        residual: r, (m, n).
        rule: what is to be large.
        lines: how many, one after another.
        generator: of their directions.
    """
    patches, part = pixels.thinned(residual, THINNED_PIXELS)
    taps = patches[: pixels.taps]
    terms = (_measured_features(patches, rule).unsqueeze(1) * part).flatten(0, 1).T.double()
    filters, offsets = torch.zeros_like(gates.filters), torch.ones_like(gates.offsets)
    for line in range(lines):
        if line > 0:
            drawn = torch.randn(len(gates), pixels.taps, generator=generator).to(filters)
            filters = (drawn @ pixels.roots[1]).view_as(filters)
            offsets = torch.randn(len(gates), generator=generator).to(offsets)
        moved = best_on_lines(gates, filters, offsets, taps, terms)
        # A gate and its positive multiples have the same pattern; directions are meant for unit response.
        size = (moved.filters.flatten(1) @ pixels.roots[0]).norm(dim=1).clamp_min(1e-12)
        unit = moved.filters / size.view(-1, *[1] * (filters.ndim - 1))
        gates = replace(moved, filters=unit, offsets=moved.offsets / size)
    return gates


def _measured_features(patches: Tensor, rule: Rule) -> Tensor:
    """M X: the patches themselves for violations, white ones for what is explained: (d, n)."""
    if rule == "violation":
        return patches
    moment = (patches.double() @ patches.double().T) / patches.shape[1]
    moment.diagonal().add_(1e-7 * moment.diagonal().mean())
    return torch.linalg.solve_triangular(torch.linalg.cholesky(moment).float(), patches, upper=False)
