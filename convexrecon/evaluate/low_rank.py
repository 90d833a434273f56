"""Classical opponents for series of images: locally low rank, and low rank plus sparse."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from convexrecon.errors import InputError
from convexrecon.evaluate.baselines import cg_sense
from convexrecon.evaluate.casorati import shrink_singular_values
from convexrecon.physics.accelerated_gradient import accelerated_gradient, squared_maps, step_length
from convexrecon.physics.forward_model import ForwardModel

# Fractions of a block by which grids are moved: the corners, edges and centre of each grid fall within others.
_OFFSETS = ((0.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.25, 0.75, 0.5), (0.75, 0.25, 0.0))


@dataclass(frozen=True)
class LowRankResult:
    """What `solve_low_rank` and `solve_low_rank_plus_sparse` found.

    Attributes:
        image: (B, t, *N) complex, in the units of the k-space.
        low_rank: its low-rank part L, (B, t, *N); the image itself without a sparse part.
        iterations: (B,) iterations each series took.
        change: (B,) last relative change of each series.
    """

    image: Tensor
    low_rank: Tensor
    iterations: Tensor
    change: Tensor


def low_rank(sense: ForwardModel, kspace: Tensor, lam: float, iterations: int = 60) -> Tensor:
    """The image of `solve_low_rank` with its defaults: k-space -> (B, t, *N) image."""
    return solve_low_rank(sense, kspace, lam, iterations=iterations).image


def low_rank_plus_sparse(sense: ForwardModel, kspace: Tensor, lam: float, iterations: int = 100) -> Tensor:
    """The image of `solve_low_rank_plus_sparse` with its defaults: k-space -> (B, t, *N) image."""
    return solve_low_rank_plus_sparse(sense, kspace, lam, iterations=iterations).image


def solve_low_rank(
    sense: ForwardModel,
    kspace: Tensor,
    lam: float,
    *,
    block: int | Sequence[int] | None = 8,
    grids: int = 2,
    generator: torch.Generator | None = None,
    iterations: int = 60,
    tolerance: float = 5e-4,
) -> LowRankResult:
    """``min_x 1/2 ||A x - y||^2 + lam w sum_b ||C_b x||_*``, C_b x the Casorati matrix of block b.

    ``w = sqrt(pixels of a block) + sqrt(frames)``: noise of standard deviation s in every pixel has singular
    values up to about w s, so that lam means the same for any size of blocks. With several `grids` of blocks each
    proximal step is the mean of theirs, the exact proximal step of a convex penalty (the proximal average), and
    the iteration converges; it removes the edges of blocks. With a `generator` grids are moved by another
    random offset in every iteration, as is common: even fewer edges, but no fixed point. By FISTA from CG-SENSE.
    Liang, ISBI 988 (2007); Trzasko and Manduca, ISMRM 4371 (2011); Zhang et al., Magn Reson Med 73:655 (2015);
    Ong and Lustig, IEEE JSTSP 10:672 (2016), for w; Yu, NeurIPS (2013).

    Args:
        sense: the operator A of a series, first axis time, as `Sense` of `axes=2`; any device.
        kspace: its y, (B, C, t, *N) complex, uncentred, zero where not sampled.
        lam: weight of the penalty, at least 0, in the units of the image.
        block: side of the blocks, of all spatial axes or of each, in pixels; None for one block, the image.
        grids: how many grids of blocks, 1 to 4.
        generator: of random offsets, on the CPU; None leaves grids where they are.
        iterations: most iterations, at least 1.
        tolerance: relative change of the image between iterations at which a series stops.

    Raises:
        InputError: an argument out of range, or k-space of a shape that the operator does not have.
    """
    _check("low_rank", sense, lam, iterations)
    if not 1 <= grids <= len(_OFFSETS):
        raise InputError(f"low_rank: expected 1 to {len(_OFFSETS)} grids, found {grids}")
    start = cg_sense(sense, kspace, lam=1e-2, iterations=10)
    sizes = _block_sizes(block, start.shape[2:])
    step = step_length(sense)
    threshold = lam * noise_singular_value(sizes, start.shape[1]) * step
    adjoint = sense.adjoint(kspace)
    support = (squared_maps(sense) > 0).to(start.real.dtype)
    fixed = [
        tuple(int(f * size) for f, size in zip(fractions[-len(sizes) :], sizes, strict=True))
        for fractions in _OFFSETS[:grids]
    ]

    def proximal_gradient(x: Tensor) -> Tensor:
        moved = x - _spread(step, x) * (sense.normal(x) - adjoint)
        drawn = (0,) * len(sizes) if generator is None else _draw(sizes, generator)
        total = torch.zeros_like(x)
        for offset in fixed:
            shifted = [a + b for a, b in zip(offset, drawn, strict=True)]
            total = total + shrink_singular_values(moved, threshold, sizes, shifted)
        return total / len(fixed)

    result = accelerated_gradient(
        proximal_gradient, start * support, support=support, iterations=iterations, tolerance=tolerance
    )
    return LowRankResult(result.point, result.point, result.iterations, result.change)


def solve_low_rank_plus_sparse(
    sense: ForwardModel,
    kspace: Tensor,
    lam: float,
    *,
    ratio: float = 0.3,
    block: int | Sequence[int] | None = None,
    iterations: int = 100,
    tolerance: float = 5e-4,
) -> LowRankResult:
    """``min_{L,S} 1/2 ||A (L + S) - y||^2 + ratio lam w sum_b ||C_b L||_* + lam ||T S||_1``, x = L + S.

    T is the orthonormal Fourier transform over time, w as in `solve_low_rank`; Otazo's is one block, the image.
    The l1 norm is of complex moduli, the frequency zero among them. By FISTA on L and S together, whose step is
    ``1 / (2 ||A||^2)``, from L = CG-SENSE. Otazo et al., Magn Reson Med 73:1125 (2015), eq. 5; Lin and Fessler,
    IEEE TCI 5:17 (2019), for acceleration.

    Args:
        sense: the operator A of a series, first axis time, as `Sense` of `axes=2`; any device.
        kspace: its y, (B, C, t, *N) complex, uncentred, zero where not sampled.
        lam: weight of the sparse part, at least 0, in the units of the image.
        ratio: weight of the low-rank part relative to lam; 0.2 to 0.4 were best for cardiac cine, 1 is 1.5 dB worse.
        block: side of the blocks of L, of all spatial axes or of each, in pixels; None for one block, the image.
        iterations: most iterations, at least 1.
        tolerance: relative change of (L, S) between iterations at which a series stops.

    Raises:
        InputError: an argument out of range, or k-space of a shape that the operator does not have.
    """
    _check("low_rank_plus_sparse", sense, lam, iterations)
    if not ratio > 0:
        raise InputError(f"low_rank_plus_sparse: expected ratio > 0, found {ratio}")
    start = cg_sense(sense, kspace, lam=1e-2, iterations=10)
    sizes = _block_sizes(block, start.shape[2:])
    step = step_length(sense) / 2
    weight = ratio * noise_singular_value(sizes, start.shape[1])
    adjoint = sense.adjoint(kspace)
    support = (squared_maps(sense) > 0).to(start.real.dtype)

    def proximal_gradient(parts: Tensor) -> Tensor:
        slope = _spread(step, adjoint) * (sense.normal(parts.sum(1)) - adjoint)
        smooth = shrink_singular_values(parts[:, 0] - slope, lam * weight * step, sizes)
        return torch.stack([smooth, _shrink_frequencies(parts[:, 1] - slope, lam * step)], 1)

    parts = torch.stack([start * support, torch.zeros_like(start)], 1)
    result = accelerated_gradient(
        proximal_gradient, parts, support=support.unsqueeze(1), iterations=iterations, tolerance=tolerance
    )
    return LowRankResult(result.point.sum(1), result.point[:, 0], result.iterations, result.change)


def noise_singular_value(block: Sequence[int], frames: int) -> float:
    """``w = sqrt(pixels) + sqrt(frames)``: about the largest singular value of unit noise, pixels by frames."""
    return math.sqrt(math.prod(block)) + math.sqrt(frames)


def _shrink_frequencies(series: Tensor, threshold: Tensor) -> Tensor:
    """``T^H soft(T x, threshold)``, T the orthonormal Fourier transform over time."""
    frequencies = torch.fft.fft(series, dim=1, norm="ortho")
    modulus = frequencies.abs()
    kept = (1 - _spread(threshold, modulus) / modulus.clamp_min(torch.finfo(modulus.dtype).tiny)).clamp_min(0)
    return torch.fft.ifft(frequencies * kept, dim=1, norm="ortho")


def _spread(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.ndim - 1))


def _draw(sizes: Sequence[int], generator: torch.Generator) -> tuple[int, ...]:
    return tuple(int(torch.randint(size, (), generator=generator)) for size in sizes)


def _block_sizes(block: int | Sequence[int] | None, shape: Sequence[int]) -> tuple[int, ...]:
    if block is None:
        return tuple(shape)
    sizes = (block,) * len(shape) if isinstance(block, int) else tuple(block)
    if len(sizes) != len(shape) or min(sizes) < 1:
        raise InputError(f"block: expected sizes of at least 1 for the axes {tuple(shape)}, found {block}")
    return tuple(min(size, have) for size, have in zip(sizes, shape, strict=True))


def _check(name: str, sense: ForwardModel, lam: float, iterations: int) -> None:
    if not 2 <= sense.ndim <= 4 or not lam >= 0 or iterations < 1:
        raise InputError(
            f"{name}: expected an operator of a series (time and one to three axes), lam >= 0, iterations >= 1; "
            f"found {sense.ndim} dimensions, lam={lam}, iterations={iterations}"
        )
