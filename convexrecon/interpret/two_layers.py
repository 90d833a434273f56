"""A two-layer denoiser as what it is at a pixel: gates, and the linear filter that each of them switches on.

``f(u)_p = u_p + sum_i d_i(p) ((V_i * u)_p + c_i)`` with d_i(p) zero or one. For the gated denoiser V_i and c_i are its
weights; a hidden unit j of the ReLU denoiser switches ``V_j = v_j u_j^T`` on where its response is positive.
Convex Regularization behind Neural Reconstruction (ICLR 2021, arXiv 2012.05169), section 3.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from convexrecon.convex.gated_convolution import split_weights
from convexrecon.denoisers.gated import GatedDenoiser
from convexrecon.denoisers.relu import ReluDenoiser
from convexrecon.denoisers.residual import layer_weight
from convexrecon.errors import InputError


@dataclass(frozen=True, eq=False)
class SwitchedFilters:
    """What the gates of a denoiser switch on.

    Attributes:
        taps: V, (P, m, C, *k): output m of gate i is the correlation of the input with ``taps[i, m]``.
        constants: c, (P, m), zeros where filters have no constant term.
    """

    taps: Tensor
    constants: Tensor

    @property
    def norms(self) -> Tensor:
        """Norm of each gate's filter and constant term together, (P,), as the group lasso weighs it."""
        return (self.taps.flatten(1).square().sum(1) + self.constants.square().sum(1)).sqrt()

    @property
    def live(self) -> Tensor:
        """Gates whose filter is not all zero, (P,) bool."""
        return self.norms > 0


def has_two_layers(denoiser: nn.Module) -> bool:
    """Whether `switched_filters` and `open_gates` can read the denoiser."""
    return isinstance(denoiser, GatedDenoiser | ReluDenoiser)


@torch.no_grad()
def switched_filters(denoiser: nn.Module) -> SwitchedFilters:
    """The filters that a two-layer denoiser's gates, or hidden units, switch on; in the precision of its weights.

    Raises:
        InputError: a denoiser of more layers.

    >>> from convexrecon.denoisers.building import new_denoiser
    >>> relu = new_denoiser("relu", width=6, generator=torch.Generator().manual_seed(0))
    >>> switched_filters(relu).taps.shape
    torch.Size([6, 2, 2, 3, 3])
    """
    if isinstance(denoiser, GatedDenoiser):
        channels, kernel = denoiser.gate_filters.shape[1], denoiser.gates.kernel
        taps, constants = split_weights(denoiser.weights, channels, kernel, denoiser.constant)
        return SwitchedFilters(taps, taps.new_zeros(taps.shape[:2]) if constants is None else constants)
    if isinstance(denoiser, ReluDenoiser):
        first = layer_weight(denoiser.network[0])
        second = layer_weight(denoiser.network[2]).flatten(1).T * denoiser.factor()
        bias = denoiser.network[0].get_parameter("bias") if denoiser.bias else first.new_zeros(len(first))
        return SwitchedFilters(torch.einsum("jm,j...->jm...", second, first), second * bias.unsqueeze(1))
    raise _too_deep(denoiser)


@torch.no_grad()
def open_gates(denoiser: nn.Module, features: Tensor) -> Tensor:
    """d: which gates, or hidden units, are open at every pixel: features (B, C, *N) -> (B, P, *N) bool.

    Raises:
        InputError: a denoiser of more than two layers.
    """
    if isinstance(denoiser, GatedDenoiser):
        return denoiser.gates.patterns(features)
    if isinstance(denoiser, ReluDenoiser):
        if not denoiser.periodic:
            return torch.as_tensor(denoiser.network[0](features) > 0)
        reach, frames = denoiser.kernel[0] // 2, features.shape[2]
        around = torch.arange(-reach, frames + reach, device=features.device) % frames
        responses = denoiser.network[0](features.index_select(2, around))
        return torch.as_tensor(responses[:, :, reach : reach + frames] > 0)
    raise _too_deep(denoiser)


def _too_deep(denoiser: nn.Module) -> InputError:
    return InputError(
        f"gates: expected a denoiser of two layers (gated or relu), whose gates are seen at its input; "
        f"found {type(denoiser).__name__}"
    )
