"""Certified bounds: how much a block, and a cascade, can amplify a small change of its input, whatever the image.

What is bounded is the norm of the local linear map J at *every* pattern of gates or ReLUs, those that no image has
among them. A network of ReLUs is continuous, so that this is a Lipschitz constant. A gated denoiser is linear inside
its cells and may jump between them, by ``(V_i * u)_p + c_i`` where gate i switches at pixel p: for it the bound holds
between inputs of the same patterns, and says nothing of a change that switches gates.

Two-layer denoisers. With gates D_i = (1 + S_i) / 2, S_i diagonal of ones and minus ones, and V_i = sum_r v_ir u_ir^T
its decomposition into outputs and filters with ||v_ir|| = ||u_ir||,
``J = I + sum_i V_i / 2 + (1 / 2) sum_ir v_ir S_i u_ir^T``, so that
``||J|| <= ||I + sum_i V_i / 2|| + (1 / 2) min(||[v_ir]|| ||[u_ir]||, sum_i ||V_i||)``: norms of convolutions, bounded
by `denoisers.lipschitz.convolution_bound`. The half that is common to all patterns is not counted gate by gate.

Data consistency, for ``||A|| <= 1`` and m the smallest eigenvalue of A^H A: the exact proximal step passes at most
``lam / (m + lam)`` of a change of the denoised image and, of the data, ``max_s s / (s^2 + lam)`` over 0 <= s <= 1; the
gradient step ``max(1 - step m, |1 - step|)`` and step.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from convexrecon.cascade import Cascade
from convexrecon.denoisers.lipschitz import convolution_bound
from convexrecon.denoisers.residual import ResidualDenoiser
from convexrecon.errors import InputError
from convexrecon.interpret.two_layers import has_two_layers, switched_filters
from convexrecon.physics.data_consistency import (
    DataConsistency,
    GradientDataConsistency,
    ProximalDataConsistency,
)


@dataclass(frozen=True)
class BlockBound:
    """What is certified of one block.

    Attributes:
        denoiser: bound of its local linear maps at every pattern.
        passed: of a change of the denoised image, what data consistency passes at most.
        data: of a change of the measured k-space, what it adds at most.
        continuous: whether the denoiser is, so that its bound is a Lipschitz constant.
    """

    denoiser: float
    passed: float
    data: float
    continuous: bool

    @property
    def block(self) -> float:
        """From the block's input channels to its output, the data held."""
        return self.denoiser * self.passed


@dataclass(frozen=True)
class CascadeBound:
    """What is certified of a cascade.

    Attributes:
        blocks: of each.
        image: from the initial image to the reconstruction, the data held.
        kspace: from the measured k-space to the reconstruction; None where the initial image is of few steps of
            conjugate gradients, which are not linear in the data.
    """

    blocks: tuple[BlockBound, ...]
    image: float
    kspace: float | None


@torch.no_grad()
def denoiser_bound(denoiser: nn.Module) -> float:
    """Bound of the norm of a denoiser's local linear map at every pattern, in float64.

    Raises:
        InputError: a feature stack or a denoiser of another library.
    """
    if has_two_layers(denoiser):
        filters = switched_filters(denoiser)
        return two_layer_bound(filters.taps.double())
    if isinstance(denoiser, ResidualDenoiser):
        bound = float(denoiser.branch_bound().double())
        return 1 + (bound if denoiser.spectral is None else min(bound, denoiser.spectral))
    raise InputError(f"denoiser: no bound is known of a {type(denoiser).__name__}")


def two_layer_bound(taps: Tensor) -> float:
    """``max over all patterns ||I + sum_i D_i V_i||`` at most: taps V (P, m, C, *k), the skip from the first m of C."""
    outputs, channels = taps.shape[1:3]
    common = taps.sum(0) / 2
    middle = tuple(size // 2 for size in taps.shape[3:])
    for index in range(outputs):
        common[(index, index, *middle)] += 1
    left, values, right = torch.linalg.svd(taps.flatten(2), full_matrices=False)
    root = values.sqrt()
    outwards = (left * root.unsqueeze(1)).movedim(0, 1).flatten(1)
    inwards = (right * root.unsqueeze(2)).flatten(0, 1).view(-1, channels, *taps.shape[3:])
    together = float(torch.linalg.matrix_norm(outwards, 2)) * float(convolution_bound(inwards))
    apart = sum(float(convolution_bound(filter_)) for filter_ in taps if bool(filter_.any()))
    return float(convolution_bound(common)) + min(together, apart) / 2


def consistency_bounds(consistency: DataConsistency, smallest: float = 0.0) -> tuple[float, float]:
    """What data consistency passes at most, of a change of the denoised image and of the data.

    Args:
        consistency: the step, the proximal one exactly solved.
        smallest: a lower bound of the eigenvalues of A^H A inside the object, 0 where k-space is undersampled.

    Raises:
        InputError: `smallest` not in 0 to 1.
    """
    if not 0 <= smallest <= 1:
        raise InputError(f"smallest: expected an eigenvalue of A^H A, 0 to 1, found {smallest}")
    if isinstance(consistency, ProximalDataConsistency):
        lam = consistency.lam
        largest = min(1.0, max(math.sqrt(lam), math.sqrt(smallest)))
        return lam / (smallest + lam), largest / (largest**2 + lam)
    if isinstance(consistency, GradientDataConsistency):
        step = float(consistency.step.detach())
        return max(abs(1 - step * smallest), abs(1 - step)), abs(step)
    return 1.0, 0.0


def cascade_bounds(cascade: Cascade, *, smallest: float = 0.0) -> CascadeBound:
    """Certified bounds of a cascade and each of its blocks; see the module for what exactly is certified.

    A denoiser that sees several images sees the changes of all of them; the bound adds their squares.

    Args:
        cascade: of gated, ReLU, ResNet or MoDL denoisers.
        smallest: a lower bound of the eigenvalues of A^H A inside the object.

    Raises:
        InputError: a denoiser of which no bound is known.
    """
    blocks = []
    for block in cascade:
        passed, data = consistency_bounds(block.consistency, smallest)
        continuous = isinstance(block.denoiser, ResidualDenoiser)
        blocks.append(BlockBound(denoiser_bound(block.denoiser), passed, data, continuous))
    inputs = [block.inputs for block in cascade]
    image = _compose(blocks, inputs, start=1.0, data=0.0)
    kspace = _compose(blocks, inputs, start=1.0, data=1.0) if cascade.initial == "zero_filled" else None
    return CascadeBound(tuple(blocks), image, kspace)


def _compose(blocks: list[BlockBound], inputs: list[tuple[str, ...]], *, start: float, data: float) -> float:
    """The change of the last image, of a change of the initial image by `start` and of the data by `data`."""
    change = start
    for bound, names in zip(blocks, inputs, strict=True):
        sizes = {"image": change, "zero_filled": data, "initial": start}
        seen = math.hypot(*[sizes[name] for name in names])
        change = bound.passed * bound.denoiser * seen + bound.data * data
    return change
