"""Compressed sensing with an l1 penalty on wavelet details, by FISTA: the classical opponent, well tuned."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from convexrecon.errors import InputError
from convexrecon.evaluate.baselines import cg_sense
from convexrecon.evaluate.wavelets import Wavelet2d, daubechies4, default_levels
from convexrecon.physics.conjugate_gradient import inner
from convexrecon.physics.sense import Sense

# Shifts of the wavelet grid: every parity of (y, x) once per four, the coarser scales spread evenly.
_SHIFTS = ((0, 0), (5, 10), (10, 7), (15, 13), (4, 2), (1, 8), (14, 5), (11, 15))


@dataclass(frozen=True)
class L1WaveletResult:
    """What `solve_l1_wavelet` found.

    Attributes:
        image: (B, y, x) complex, in the units of the k-space.
        iterations: (B,) iterations each slice took.
        change: (B,) last relative change of each slice.
    """

    image: Tensor
    iterations: Tensor
    change: Tensor


def l1_wavelet(sense: Sense, kspace: Tensor, lam: float, iterations: int = 120) -> Tensor:
    """The image of `solve_l1_wavelet` with its defaults: (B, C, y, x) k-space -> (B, y, x) image."""
    return solve_l1_wavelet(sense, kspace, lam, iterations=iterations).image


def solve_l1_wavelet(
    sense: Sense,
    kspace: Tensor,
    lam: float,
    *,
    iterations: int = 120,
    tolerance: float = 5e-4,
    levels: int | None = None,
    shifts: int = 4,
) -> L1WaveletResult:
    """``min_z 1/2 ||A R z - y||^2 + lam ||W z||_1``, x = R z, over the details of a db4 wavelet transform W.

    R crops from a size divisible by ``2^levels`` to the image and to the support of the coil maps, so that
    ``||R|| = 1`` and nothing is penalised at the edge of the object. The l1 norm is of complex moduli; coarse
    coefficients are free. With several `shifts` of the wavelet grid each proximal step is the mean of theirs:
    the exact proximal step of a convex penalty, the proximal average, so that FISTA still converges. It
    removes the block artefacts of a single grid and is worth about 1 dB. The start is CG-SENSE.
    Lustig et al., Magn Reson Med 58:1182 (2007); Beck and Teboulle, SIAM J Imaging Sci 2:183 (2009);
    O'Donoghue and Candes, Found Comput Math 15:715 (2015); Yu, NeurIPS (2013).

    Args:
        sense: the operator A in two dimensions; any device.
        kspace: y, (B, C, y, x) complex, uncentred, zero where not sampled.
        lam: weight of the penalty, at least 0, in the units of the image.
        iterations: most iterations, at least 1.
        tolerance: relative change of the image between iterations at which a slice stops.
        levels: wavelet levels; by default up to 4, fewer for small images.
        shifts: how many shifted wavelet grids, 1 to 8; 1 is the plain transform.

    Raises:
        InputError: an argument out of range, or k-space whose shape is not that of the maps.
    """
    if sense.ndim != 2 or not lam >= 0 or iterations < 1 or not 1 <= shifts <= len(_SHIFTS):
        raise InputError(
            f"l1_wavelet: expected a 2-D operator, lam >= 0, iterations >= 1, 1 <= shifts <= {len(_SHIFTS)}; "
            f"found {sense.ndim}-D, lam={lam}, iterations={iterations}, shifts={shifts}"
        )
    start = cg_sense(sense, kspace, lam=1e-2, iterations=10)
    height, width = start.shape[-2:]
    levels = default_levels((height, width)) if levels is None else levels
    margin = (0, -width % (1 << levels), 0, -height % (1 << levels))
    size = (height + margin[3], width + margin[1])
    grids = [
        daubechies4(size, levels, shift=shift, dtype=start.real.dtype, device=start.device)
        for shift in _SHIFTS[:shifts]
    ]
    power = (sense.maps.abs() ** 2).sum(1)
    # ||A||^2 <= max sum_c |maps_c|^2; one step length per slice, so that batching changes nothing.
    step = 1 / power.flatten(1).amax(1).clamp_min(1e-12).view(-1, 1, 1)
    support = (power > 0).to(power.dtype)
    adjoint = sense.adjoint(kspace)

    def proximal_gradient(z: Tensor) -> Tensor:
        gradient = sense.normal(z[:, :height, :width] * support) - adjoint
        return _mean_shrink(grids, z - step * F.pad(gradient, margin), lam * step)

    result = _fista(proximal_gradient, F.pad(start, margin), F.pad(support, margin), iterations, tolerance)
    return L1WaveletResult(result.image[:, :height, :width] * support, result.iterations, result.change)


def _mean_shrink(grids: list[Wavelet2d], image: Tensor, threshold: Tensor) -> Tensor:
    total = grids[0].shrink_details(image, threshold)
    for grid in grids[1:]:
        total = total + grid.shrink_details(image, threshold)
    return total / len(grids)


def _fista(
    proximal_gradient: Callable[[Tensor], Tensor],
    start: Tensor,
    support: Tensor,
    iterations: int,
    tolerance: float,
) -> L1WaveletResult:
    """Accelerated proximal gradient; momentum, restart and stop are each slice's own.

    The change is measured on the support alone: elsewhere no data speaks, and z drifts for long.
    """
    image = point = start
    momentum = torch.ones(len(start), dtype=start.real.dtype, device=start.device)
    moving = torch.ones_like(momentum, dtype=torch.bool)
    change = torch.full_like(momentum, float("inf"))
    count = torch.zeros_like(momentum, dtype=torch.int64)
    for _ in range(iterations):
        new = torch.where(moving.view(-1, 1, 1), proximal_gradient(point), image)
        step = new - image
        # Restart when the momentum points uphill: <point - new, new - image> > 0.
        momentum = torch.where(inner(point - new, step) > 0, torch.ones_like(momentum), momentum)
        following = (1 + torch.sqrt(1 + 4 * momentum**2)) / 2
        point = new + ((momentum - 1) / following).view(-1, 1, 1) * step
        image, momentum = new, following
        length = inner(new, new * support).sqrt()
        relative = inner(step, step * support).sqrt() / torch.where(length > 0, length, 1)
        change = torch.where(moving, relative, change)
        count += moving
        moving &= relative > tolerance
        if not bool(moving.any()):
            break
    return L1WaveletResult(image, count, change)
