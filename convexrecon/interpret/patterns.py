"""Maps of what a block does where: pixels clustered by the gates that fire there, or by the filter they receive.

The code of a pixel is which gates are open, of those whose filters are not all zero; the ICLR 2021 paper
(arXiv 2012.05169, section 3 and its figures of clusters) groups codes by k-means with k = 12. Two codes can select
nearly the same filter: by filter, pixels are near where ``||T_p - T_q||`` is small, T the sum of the open filters.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from convexrecon.cascade import Cascade, support
from convexrecon.errors import InputError
from convexrecon.interpret.block_states import block_states
from convexrecon.interpret.clusters import k_means
from convexrecon.interpret.two_layers import has_two_layers, open_gates, switched_filters
from convexrecon.physics.forward_model import ForwardModel

By = Literal["code", "filter"]
CLUSTERS = 12


@dataclass(frozen=True, eq=False)
class PatternMap:
    """Clusters of pixels.

    Attributes:
        by: what they were clustered by.
        labels: (B, *N) int64, the largest cluster 0; -1 where pixels were left out.
        sizes: (k,) int64, pixels of each cluster.
        codes: (k, P) float64, how often each gate is open in a cluster.
        taps: (k, m, C, *k), the mean of the filters that the cluster's pixels receive, without the skip.
        constants: (k, m), the mean of their constant terms.
        distinct: how many different codes there are among the pixels.
    """

    by: By
    labels: Tensor
    sizes: Tensor
    codes: Tensor
    taps: Tensor
    constants: Tensor
    distinct: int


@torch.no_grad()
def pattern_map(
    denoiser: nn.Module,
    features: Tensor,
    generator: torch.Generator,
    *,
    by: By = "code",
    k: int = CLUSTERS,
    where: Tensor | None = None,
) -> PatternMap:
    """Cluster the pixels of a denoiser's input by what it does to them.

    Args:
        denoiser: gated or ReLU.
        features: u, (B, C, *N) real.
        generator: of the clusters' starts.
        by: "code", the open gates, or "filter", the sum of the open filters and their constants.
        k: clusters, at most.
        where: (B, *N), nonzero for the pixels to be clustered, e.g. `cascade.support`; all if None.

    Raises:
        InputError: a denoiser of more than two layers, an unknown `by`, no pixels.
    """
    if by not in get_args(By):
        raise InputError(f"by: expected one of {', '.join(get_args(By))}, found {by!r}")
    filters = switched_filters(denoiser)
    rows = torch.cat([filters.taps.flatten(1), filters.constants], 1).double()
    chosen = torch.ones_like(features[:, 0], dtype=torch.bool) if where is None else where.expand_as(features[:, 0]) > 0
    if not bool(chosen.any()):
        raise InputError("where: leaves no pixel to cluster; expected some that are not zero")
    open_ = open_gates(denoiser, features).movedim(1, -1)[chosen].double()
    points = open_[:, filters.live.to(open_.device)]
    if by == "filter":
        # With V V^T = L L^T, distances of d L are those of the filters d V, in P numbers instead of all taps.
        points = open_ @ _root(rows @ rows.T).to(open_)
    found = k_means(points, k, generator)
    labels = torch.full(chosen.shape, -1, dtype=torch.int64)
    labels[chosen.cpu()] = found.labels
    codes = torch.zeros(len(found.sizes), open_.shape[1], dtype=torch.float64)
    codes.index_add_(0, found.labels, open_.cpu()).div_(found.sizes.unsqueeze(1))
    return PatternMap(
        by=by,
        labels=labels,
        sizes=found.sizes,
        codes=codes,
        taps=torch.einsum("cp,p...->c...", codes, filters.taps.cpu().double()),
        constants=codes @ filters.constants.cpu().double(),
        distinct=len(torch.unique(open_[:, filters.live.to(open_.device)], dim=0)),
    )


def pattern_maps(
    cascade: Cascade,
    sense: ForwardModel,
    kspace: Tensor,
    generator: torch.Generator,
    *,
    by: By = "code",
    k: int = CLUSTERS,
) -> list[PatternMap]:
    """Pattern maps of all blocks on one measurement, inside the object, labels matched from block to block.

    A cluster has the label of the one before that it shares most pixels with, all pairs considered together.

    Args:
        cascade: of gated or ReLU denoisers.
        sense: A.
        kspace: y, (B, C, *N) or (B, C, samples).
        generator: of the clusters' starts.
        by: "code" or "filter".
        k: clusters, at most.

    Raises:
        InputError: a cascade of deeper denoisers, or as `pattern_map`.
    """
    deep = [block.denoiser for block in cascade if not has_two_layers(block.denoiser)]
    if deep:
        raise InputError(f"cascade: expected gated or ReLU denoisers, found {type(deep[0]).__name__}")
    maps: list[PatternMap] = []
    for block, state in zip(cascade, block_states(cascade, sense, kspace), strict=True):
        where = support(sense).expand_as(state.channels[:, 0])
        maps.append(pattern_map(block.denoiser, state.channels, generator, by=by, k=k, where=where))
    return matched(maps)


def matched(maps: Sequence[PatternMap]) -> list[PatternMap]:
    """The same maps with clusters in the order of the map before that they overlap most (Hungarian algorithm)."""
    done: list[PatternMap] = []
    for found in maps:
        if not done:
            done.append(found)
            continue
        before = done[-1]
        table = _contingency(before.labels, found.labels, len(before.sizes), len(found.sizes))
        rows, columns = linear_sum_assignment(-table.numpy())
        order = [int(column) for _, column in sorted(zip(rows, columns, strict=True))]
        order += [column for column in range(len(found.sizes)) if column not in order]
        rank = torch.empty(len(order), dtype=torch.int64)
        rank[order] = torch.arange(len(order))
        labels = torch.where(found.labels >= 0, rank[found.labels.clamp_min(0)], -1)
        done.append(
            replace(
                found,
                labels=labels,
                sizes=found.sizes[order],
                codes=found.codes[order],
                taps=found.taps[order],
                constants=found.constants[order],
            )
        )
    return done


def agreement(first: Tensor, second: Tensor) -> float:
    """The adjusted Rand index of two label maps: 1 for the same partition, 0 expected of independent ones.

    Hubert and Arabie, J Classif 2:193 (1985). Pixels that either map leaves out (-1) are left out.

    >>> agreement(torch.tensor([0, 0, 1, 1]), torch.tensor([1, 1, 0, 0]))
    1.0
    """
    both = (first >= 0) & (second >= 0)
    one, other = first[both], second[both]
    table = _contingency(one, other, int(one.max()) + 1, int(other.max()) + 1)

    def pairs(counts: Tensor) -> float:
        return float((counts * (counts - 1) / 2).sum())

    together, rows, columns = pairs(table), pairs(table.sum(1)), pairs(table.sum(0))
    expected = rows * columns / max(pairs(table.sum().view(1)), 1.0)
    largest = (rows + columns) / 2
    return 1.0 if largest == expected else (together - expected) / (largest - expected)


def _contingency(first: Tensor, second: Tensor, rows: int, columns: int) -> Tensor:
    """How many pixels have label i in one map and j in the other, (rows, columns) float64."""
    both = (first >= 0) & (second >= 0)
    pairs = first[both] * columns + second[both]
    return torch.bincount(pairs, minlength=rows * columns).view(rows, columns).double()


def _root(gram: Tensor) -> Tensor:
    """L with L L^T = G, positive semidefinite."""
    values, vectors = torch.linalg.eigh(gram)
    return vectors * values.clamp_min(0).sqrt()
