"""Where a reconstruction errs by what its blocks do there: errors by cluster of pixels, and by gate."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from convexrecon.errors import InputError
from convexrecon.interpret.patterns import PatternMap
from convexrecon.interpret.two_layers import open_gates


@dataclass(frozen=True, eq=False)
class ClusterErrors:
    """Errors of the clusters of a pattern map.

    Attributes:
        pixels: (k,) share of the clustered pixels that a cluster has.
        energy: error's name -> (k,) share of its energy in each cluster.
        rms: error's name -> (k,) root mean square in each cluster.
    """

    pixels: Tensor
    energy: dict[str, Tensor]
    rms: dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class GateErrors:
    """Errors where a gate is open, and where it is not.

    Attributes:
        open: (P,) share of pixels where a gate is open.
        rms_open: (P,) root mean square error there; 0 of a gate that never opens.
        rms_closed: (P,) and elsewhere; 0 of a gate that is open everywhere.
    """

    open: Tensor
    rms_open: Tensor
    rms_closed: Tensor


def errors_by_cluster(found: PatternMap, errors: Mapping[str, Tensor]) -> ClusterErrors:
    """How much of several errors is in each cluster, e.g. of a block's input and of its denoiser's output.

    Args:
        found: clusters of the pixels.
        errors: name -> (B, *N) complex or real, of the map's shape.

    Raises:
        InputError: an error of another shape.
    """
    chosen = found.labels >= 0
    labels, count = found.labels[chosen], len(found.sizes)
    energy, rms = {}, {}
    for name, error in errors.items():
        if error.shape != found.labels.shape:
            raise InputError(
                f"errors: {name} has shape {tuple(error.shape)}; expected that of the map, {tuple(found.labels.shape)}"
            )
        squares = error.cpu().abs().double().square()[chosen]
        sums = torch.zeros(count, dtype=torch.float64).index_add_(0, labels, squares)
        energy[name] = sums / sums.sum().clamp_min(torch.finfo(torch.float64).tiny)
        rms[name] = (sums / found.sizes).sqrt()
    return ClusterErrors(found.sizes / found.sizes.sum(), energy, rms)


def errors_by_gate(denoiser: nn.Module, features: Tensor, error: Tensor, *, where: Tensor | None = None) -> GateErrors:
    """How large an error is where each gate is open.

    Args:
        denoiser: gated or ReLU.
        features: u, its input, (B, C, *N).
        error: (B, *N) complex or real.
        where: (B, *N), nonzero for the pixels that count; all if None.

    Raises:
        InputError: a denoiser of more than two layers, an error of another shape.
    """
    if error.shape != features[:, 0].shape:
        raise InputError(f"error: expected {tuple(features[:, 0].shape)} as the input, found {tuple(error.shape)}")
    chosen = torch.ones_like(error, dtype=torch.bool) if where is None else where.expand_as(error) > 0
    squares = error.abs().double().square()[chosen]
    open_ = open_gates(denoiser, features).movedim(1, -1)[chosen].double()
    counts, sums = open_.sum(0), squares @ open_
    rest = len(squares) - counts
    return GateErrors(
        open=counts / max(len(squares), 1),
        rms_open=(sums / counts.clamp_min(1)).sqrt(),
        rms_closed=((squares.sum() - sums).clamp_min(0) / rest.clamp_min(1)).sqrt(),
    )
