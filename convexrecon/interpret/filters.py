"""What a block's filters are as filters: frequency responses, ranking, null filters, rank, and life along the path."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from convexrecon.errors import InputError
from convexrecon.interpret.two_layers import SwitchedFilters, switched_filters
from convexrecon.solvers.solution import Solution


@dataclass(frozen=True, eq=False)
class FilterSummary:
    """A block's filters, ranked.

    Attributes:
        filters: V and c, of all P gates.
        norms: (P,), norm of each gate's filter and constant.
        order: (P,) int64, gates from the largest norm to the smallest.
        null: (P,) bool, filters that are zero, or below the relative tolerance.
        effective_rank: of the P filters as vectors: how many directions they share their energy among.
        gate_ranks: (P,), the same for each gate's filter as a matrix of outputs and inputs: 1 to m; 0 of null filters.
    """

    filters: SwitchedFilters
    norms: Tensor
    order: Tensor
    null: Tensor
    effective_rank: float
    gate_ranks: Tensor


@dataclass(frozen=True)
class PathPoint:
    """A solution of the path, in short.

    Attributes:
        beta: its strength.
        share: of the largest beta of the path.
        active: gates whose filters are not all zero.
        born: gates that were not active at the beta before.
        died: gates that were.
        effective_rank: of its filters.
        norm: Frobenius norm of all of them.
    """

    beta: float
    share: float
    active: int
    born: int
    died: int
    effective_rank: float
    norm: float


@torch.no_grad()
def filter_summary(denoiser: nn.Module, *, tolerance: float = 0.0) -> FilterSummary:
    """Rank the filters of a gated or ReLU denoiser.

    Args:
        denoiser: gated or ReLU.
        tolerance: filters of at most this share of the largest norm count as null; 0 for exact zeros, which the
            group lasso has and weight decay has not.

    Raises:
        InputError: a denoiser of more than two layers.
    """
    filters = switched_filters(denoiser)
    norms = filters.norms
    null = norms <= tolerance * norms.max() if len(norms) else norms > 0
    rows = torch.cat([filters.taps.flatten(2), filters.constants.unsqueeze(2)], 2).double()
    ranks = [effective_rank(torch.linalg.svdvals(row)) for row in rows]
    return FilterSummary(
        filters=filters,
        norms=norms,
        order=torch.argsort(norms, descending=True, stable=True),
        null=null,
        effective_rank=effective_rank(torch.linalg.svdvals(rows.flatten(1))),
        gate_ranks=torch.tensor([0.0 if bool(gone) else rank for rank, gone in zip(ranks, null, strict=True)]),
    )


def effective_rank(singular_values: Tensor) -> float:
    """exp of the entropy of the singular values' shares; 0 for none (Roy and Vetterli, EUSIPCO 2007).

    >>> round(effective_rank(torch.tensor([1.0, 1.0, 0.0])), 6)
    2.0
    """
    total = float(singular_values.sum())
    if total == 0:
        return 0.0
    shares = singular_values[singular_values > 0].double() / total
    return math.exp(float(-(shares * shares.log()).sum()))


def frequency_response(taps: Tensor, size: Sequence[int]) -> Tensor:
    """``H(w) = sum_o T_o exp(i <w, o>)``, the factor of the wave exp(i <w, p>): taps (..., *k) -> (..., *size).

    Zero frequency is in the middle, at index size // 2; axis d runs over w in [-pi, pi) radians a pixel, or
    [-1/2, 1/2) cycles a pixel. The taps are those of a correlation, o counted from the middle tap.

    Args:
        taps: real or complex, odd k along each of the last axes.
        size: frequencies along each of these axes, at least k.

    Raises:
        InputError: fewer frequencies than taps.

    >>> frequency_response(torch.ones(3, 3) / 9, (8, 8))[4, 4]
    tensor(1.+0.j)
    """
    kernel = taps.shape[-len(size) :]
    if any(count < extent for count, extent in zip(size, kernel, strict=True)):
        raise InputError(f"size: expected at least the kernel {tuple(kernel)}, found {tuple(size)}")
    axes = tuple(range(-len(size), 0))
    # Of a correlation: the inverse transform's sign, without its factor.
    found = torch.fft.ifftn(taps, s=tuple(size), dim=axes, norm="forward")
    for axis, (count, extent) in enumerate(zip(size, kernel, strict=True), -len(size)):
        turns = torch.arange(count, dtype=torch.float64) * (extent // 2) / count
        phase = torch.polar(torch.ones_like(turns), -2 * math.pi * turns).to(found)
        found = found * phase.view(-1, *[1] * (-axis - 1))
    return torch.fft.fftshift(found, dim=axes)


def complex_parts(taps: Tensor) -> tuple[Tensor, Tensor]:
    """A real filter of complex images as ``z -> a * z + b * conj(z)``: taps (..., 2, 2 n, *k) -> a, b (..., n, *k).

    Channels are real and imaginary parts in turn, of n images. A filter with b = 0 treats all phases alike.

    Raises:
        InputError: taps without (output, input) axes of 2 and an even number.
    """
    axes = _image_axes(taps)
    real, imaginary = taps.unbind(-axes - 2)
    of_real, to_real = real.unflatten(-axes - 1, (-1, 2)).unbind(-axes - 1)
    of_imaginary, to_imaginary = imaginary.unflatten(-axes - 1, (-1, 2)).unbind(-axes - 1)
    a = torch.complex(of_real + to_imaginary, of_imaginary - to_real) / 2
    b = torch.complex(of_real - to_imaginary, of_imaginary + to_real) / 2
    return a, b


def path_life(solutions: Iterable[Solution]) -> list[PathPoint]:
    """How many gates live along the path of decreasing beta, and when they are born and die.

    Args:
        solutions: of `convex.program.program_path` or `solvers.path.solve_path`.
    """
    points: list[PathPoint] = []
    before: Tensor | None = None
    for solution in solutions:
        rows = solution.weights.flatten(1).double()
        active = rows.norm(dim=1) > 0
        earlier = torch.zeros_like(active) if before is None else before
        points.append(
            PathPoint(
                beta=solution.beta,
                share=solution.beta / (points[0].beta if points else solution.beta),
                active=int(active.sum()),
                born=int((active & ~earlier).sum()),
                died=int((earlier & ~active).sum()),
                effective_rank=effective_rank(torch.linalg.svdvals(rows)),
                norm=float(rows.norm()),
            )
        )
        before = active
    return points


def _image_axes(taps: Tensor) -> int:
    """How many of the last axes are of the kernel: those behind (outputs 2, inputs even)."""
    for axes in (1, 2, 3):
        if taps.ndim >= axes + 2 and taps.shape[-axes - 2] == 2 and taps.shape[-axes - 1] % 2 == 0:
            return axes
    raise InputError(f"taps: expected (..., 2, even, *k), found {tuple(taps.shape)}")
