"""Gates of networks that are trained already: where their first layer bends, or the gates they have."""

import torch
from torch import Tensor, nn

from convexrecon.convex.arrangements import Gates
from convexrecon.denoisers.gated import GatedDenoiser
from convexrecon.denoisers.relu import ReluDenoiser
from convexrecon.errors import InputError


def trained_gates(denoiser: nn.Module, count: int) -> Gates:
    """The gates of a trained denoiser's strongest units, at most `count`.

    ``relu(u_r * x + b_r)`` is open where ``u_r * x >= -b_r``: gate u_r, offset -b_r. A ReLU unit's strength
    is ``||u_r|| ||v_r||``, a gate's ``||W_i||_F``; units that are off (strength zero) are left out.

    Args:
        denoiser: a `ReluDenoiser` or a `GatedDenoiser`.
        count: most gates wanted.

    Raises:
        InputError: another denoiser, or one whose units are all off.
    """
    if isinstance(denoiser, ReluDenoiser):
        gates, strength = _relu_gates(denoiser)
    elif isinstance(denoiser, GatedDenoiser):
        gates, strength = denoiser.gates, denoiser.weights.detach().flatten(1).norm(dim=1)
    else:
        raise InputError(f"gates: expected a ReLU or a gated denoiser, found {type(denoiser).__name__}")
    order = strength.argsort(descending=True, stable=True)[:count]
    order = order[strength[order] > 0]
    if len(order) == 0:
        raise InputError("gates: all units of the trained denoiser are off")
    return gates.select(order)


def _relu_gates(denoiser: ReluDenoiser) -> tuple[Gates, Tensor]:
    layers = denoiser.network.state_dict()
    filters, outputs = layers["0.weight"], layers["2.weight"].flatten(1)
    offsets = -layers["0.bias"] if "0.bias" in layers else torch.zeros(len(filters), device=filters.device)
    return Gates(filters.clone(), offsets, denoiser.periodic), filters.flatten(1).norm(dim=1) * outputs.norm(dim=0)
