"""The gated convolution at chosen pixels of an image, as matrix products: on a CPU far faster than convolutions."""

import torch
import torch.nn.functional as F
from torch import Tensor

from convexrecon.convex.arrangements import Gates
from convexrecon.convex.patches import PIXELS_PER_CHUNK
from convexrecon.errors import InputError


def gated_at(gates: Gates, weights: Tensor, features: Tensor, rows: Tensor, *, constant: bool) -> Tensor:
    """``sum_i D_i . (W_i * u)`` where `rows` is set, zero elsewhere; not differentiated.

    Patches of a few thousand pixels are gathered, and gates' and filters' responses are one product in cache, while a
    convolution of a volume writes all responses to memory. Rounding may decide a gate otherwise than `Gates.patterns`
    where its response is within rounding of its offset.

    Args:
        gates: the arrangement, P gates of C channels, not periodic.
        weights: W, (P, d, m), d = C prod(k) + constant.
        features: u, (B, C, *N) real.
        rows: (B, *N) bool.
        constant: whether the filters have a constant term.

    Returns:
        (B, m, *N), of the features' precision.

    Raises:
        InputError: gates that go round an axis.

    >>> gates = Gates(torch.randn(3, 2, 3, 3), torch.zeros(3))
    >>> rows = torch.rand(1, 8, 9) < 0.5
    >>> gated_at(gates, torch.randn(3, 19, 2), torch.randn(1, 2, 8, 9), rows, constant=True).shape
    torch.Size([1, 2, 8, 9])
    """
    if gates.periodic:
        raise InputError("gates: go round an axis; expected gates of images that end at their border")
    matrix, offsets = _responses_of(gates, weights.to(features.dtype), constant)
    halves = [extent // 2 for extent in gates.kernel]
    margins = [half for half in reversed(halves) for _ in range(2)]
    outputs = weights.shape[2]
    result = features.new_zeros(len(features), outputs, *features.shape[2:])
    for index, image in enumerate(F.pad(features, margins)):
        taps = _taps(gates.kernel, image.shape[1:]).to(image.device)
        pixels = image.flatten(1).T.contiguous()
        centres = F.pad(rows[index], margins).flatten().nonzero()
        parts = [
            _summed(torch.addmm(offsets, pixels[part + taps].flatten(1), matrix), len(gates), outputs)
            for part in centres.split(PIXELS_PER_CHUNK)
        ]
        result[index][:, rows[index]] = torch.cat(parts).T
    return result


def _responses_of(gates: Gates, weights: Tensor, constant: bool) -> tuple[Tensor, Tensor]:
    """What takes patches, tap by tap, to responses: (k C, P + m P) and what is added, (P + m P)."""
    count, channels = gates.filters.shape[:2]
    filters = gates.filters.to(weights.dtype).reshape(count, -1)
    of_outputs = weights.permute(2, 0, 1).flatten(0, 1)
    bias = of_outputs[:, -1] if constant else of_outputs.new_zeros(len(of_outputs))
    both = torch.cat([filters, of_outputs[:, :-1] if constant else of_outputs])
    matrix = both.unflatten(1, (channels, -1)).permute(2, 1, 0).flatten(0, 1)
    return matrix.contiguous(), torch.cat([-gates.offsets.to(weights.dtype), bias])


def _taps(kernel: tuple[int, ...], padded: torch.Size) -> Tensor:
    """How far the pixels of a patch are from its centre in a flattened padded image."""
    taps, stride = torch.zeros(1, dtype=torch.int64), 1
    for extent, size in zip(reversed(kernel), reversed(padded), strict=True):
        steps = stride * (torch.arange(extent) - extent // 2)
        taps, stride = (steps.unsqueeze(1) + taps).flatten(), stride * size
    return taps


def _summed(responses: Tensor, gates: int, outputs: int) -> Tensor:
    """(pixels, P + m P) -> (pixels, m): every output's responses, summed over the gates that are open."""
    open_ = (responses[:, :gates] >= 0).unsqueeze(1)
    return (responses[:, gates:].unflatten(1, (outputs, gates)) * open_).sum(2)
