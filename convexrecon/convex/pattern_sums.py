r"""Second moments of patches under every pair of a set of gates, at the cost of a single one.

A set of b gates cuts the pixels into 2^b classes by their pattern. The moments of the classes,

.. math:: S_c = \sum_{p: \text{pattern}(p) = c} x_p x_p^T ,

cost one product x x^T a pixel, whatever b is, and those of every pair of gates are sums of them,
H_ij = sum of S_c over the patterns c in which both i and j are open. A product by pairs costs b (b + 1) / 2 times
as much; rows that a gate switches off are not multiplied at all. The idea is that of the "four Russians"
(Arlazarov, Dinic, Kronrod and Faradzhev, Soviet Math Dokl 11:1209 (1970)) for products of 0/1 matrices.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

# Rows of a matrix product: each class is cut into segments of so many, the last filled up with zeros.
SEGMENT = 64
# Numbers that hold the rows of the segments multiplied at once: they and their products stay in cache.
SEGMENT_ENTRIES = 2**21
# Most numbers that hold the moments of all classes.
MOMENT_ENTRIES = 2**24


def pattern_bits(rows: int, features: int) -> int:
    """Size b of the sets of gates that suits so many rows: classes of about a segment, moments that fit.

    >>> pattern_bits(262_144, 51), pattern_bits(16_384, 51), pattern_bits(262_144, 99), pattern_bits(10, 3)
    (11, 8, 10, 2)
    """
    by_rows = max(rows // SEGMENT, 1).bit_length() - 1
    by_memory = (MOMENT_ENTRIES // features**2).bit_length() - 1
    return max(2, min(by_rows, by_memory, 11))


@dataclass(frozen=True)
class Workspace:
    """Memory for the products, kept from one set of gates to the next: asking for it anew takes as long.

    Attributes:
        moments: of the classes, flat.
        segments: rows of the segments multiplied at once, (s, SEGMENT, d).
        products: theirs, (s, d, d).
    """

    moments: Tensor
    segments: Tensor
    products: Tensor

    @classmethod
    def like(cls, rows: Tensor, bits: int) -> "Workspace":
        """For sets of at most `bits` gates on rows (n, d)."""
        features = rows.shape[1]
        at_once = max(1, SEGMENT_ENTRIES // (SEGMENT * features))
        return cls(
            rows.new_empty(2**bits * features**2),
            rows.new_empty(at_once, SEGMENT, features),
            rows.new_empty(at_once, features, features),
        )


def pair_moments(rows: Tensor, open_: Tensor, workspace: Workspace) -> Tensor:
    """``H_ij = sum_p D_i(p) D_j(p) x_p x_p^T`` for all pairs of b gates.

    Args:
        rows: x and a row of zeros after them, (n + 1, d); d a multiple of four is fastest.
        open_: D, (b, n) bool.
        workspace: for at least b gates.

    Returns:
        (b, b, d, d) in the precision of `rows`.
    """
    bits, features = open_.shape[0], rows.shape[1]
    low = bits // 2
    moments = class_moments(rows, pattern_codes(open_), 2**bits, workspace)
    moments = moments.view(2 ** (bits - low), 2**low * features**2)
    # Rows of ones beside the gates' truth tables sum over the patterns of the other half.
    upper = torch.cat([moments.new_ones(1, 2 ** (bits - low)), _truth_table(bits - low, moments)])
    lower = torch.cat([moments.new_ones(1, 2**low), _truth_table(low, moments)])
    by_upper = (upper @ moments).view(bits - low + 1, 2**low, features**2)
    pairs = moments.new_empty(bits, bits, features**2)
    pairs[low:, :low] = torch.matmul(lower[1:], by_upper[1:])
    pairs[:low, low:] = pairs[low:, :low].transpose(0, 1)
    pairs[:low, :low] = _pairs_of(lower[1:], by_upper[0])
    pairs[low:, low:] = _pairs_of(upper[1:], moments.view(2 ** (bits - low), 2**low, features**2).sum(1))
    pairs = pairs.view(bits, bits, features, features)
    return (pairs + pairs.transpose(2, 3)) / 2  # symmetric to the last bit


def pattern_codes(open_: Tensor) -> Tensor:
    """The pattern of each pixel as a number, gate i the bit i: (b, n) bool -> (n,) int32.

    >>> pattern_codes(torch.tensor([[True, False], [True, True]])).tolist()
    [3, 2]
    """
    weights = 2 ** torch.arange(open_.shape[0], dtype=torch.int32, device=open_.device)
    return (open_ * weights.unsqueeze(1)).sum(0, dtype=torch.int32)


def class_moments(rows: Tensor, codes: Tensor, classes: int, workspace: Workspace) -> Tensor:
    """``S_c = sum_{p: codes_p = c} x_p x_p^T``: (n + 1, d), (n,) -> (classes, d, d), but zero for class 0.

    Rows are sorted by class and multiplied in segments of one class each, many segments at a time. In class 0
    every gate is closed: its rows are never needed.
    """
    features = rows.shape[1]
    order, segment_class = _segments(codes, classes)
    moments = workspace.moments[: classes * features**2].view(classes, features, features).zero_()
    at_once = workspace.segments.shape[0]
    for start in range(0, len(segment_class), at_once):
        index = order[start : start + at_once]
        segments, products = workspace.segments[: len(index)], workspace.products[: len(index)]
        torch.index_select(rows, 0, index.flatten(), out=segments.view(-1, features))
        torch.bmm(segments.transpose(1, 2), segments, out=products)
        moments.index_add_(0, segment_class[start : start + at_once], products)
    return moments


def _segments(codes: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Row numbers in segments of one class, (s, SEGMENT), filled up with n; and the classes, (s,)."""
    sorted_codes, order = torch.sort(codes, stable=True)
    counts = torch.bincount(codes, minlength=classes)
    closed = int(counts[0])
    sorted_codes, order = sorted_codes[closed:], order[closed:]
    counts[0] = 0
    segments = (counts + SEGMENT - 1) // SEGMENT
    first_row, first_segment = counts.cumsum(0) - counts, segments.cumsum(0) - segments
    place = torch.arange(len(order), device=codes.device) + (SEGMENT * first_segment - first_row)[sorted_codes]
    filled = order.new_full((int(segments.sum()) * SEGMENT,), len(codes))
    filled[place] = order
    return filled.view(-1, SEGMENT), torch.arange(classes, device=codes.device).repeat_interleave(segments)


def _truth_table(bits: int, like: Tensor) -> Tensor:
    """(bits, 2^bits): whether gate i is open in pattern c."""
    patterns = torch.arange(2**bits, device=like.device)
    return (patterns >> torch.arange(bits, device=like.device).unsqueeze(1) & 1).to(like)


def _pairs_of(table: Tensor, moments: Tensor) -> Tensor:
    """(b, 2^b) truth table, (2^b, d^2) moments -> (b, b, d^2)."""
    bits = table.shape[0]
    return ((table.unsqueeze(0) * table.unsqueeze(1)).flatten(0, 1) @ moments).view(bits, bits, moments.shape[1])
