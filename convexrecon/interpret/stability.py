"""Networks side by side on one measurement: what is certified, what holds there, and the worst that was found."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from convexrecon.cascade import Cascade
from convexrecon.interpret.lipschitz_bounds import CascadeBound, cascade_bounds
from convexrecon.interpret.local_map import local_map
from convexrecon.interpret.operator_norm import OperatorNorm, operator_norm
from convexrecon.interpret.worst_case import WorstCase, worst_case
from convexrecon.physics.forward_model import ForwardModel
from convexrecon.seeding import generator


@dataclass(frozen=True, eq=False)
class Stability:
    """A network's, from k-space to image.

    Attributes:
        certified: bounds at every pattern of gates and ReLUs.
        local: the norm of the exact local map at the measurement: the most that a small change is amplified.
        worst: the worst perturbation found of the given size.
        worst_psnr_drop: by how many dB it lowers the PSNR against the target; None without a target.
    """

    certified: CascadeBound
    local: OperatorNorm
    worst: WorstCase
    worst_psnr_drop: float | None


def compare_stability(
    networks: Mapping[str, Cascade],
    sense: ForwardModel,
    kspace: Tensor,
    *,
    seed: int = 0,
    radius: float = 0.01,
    steps: int = 40,
    target: Tensor | None = None,
) -> dict[str, Stability]:
    """The same perturbation radius, starts and steps for all networks.

    Args:
        networks: name -> cascade, convex, end-to-end or whatever.
        sense: A.
        kspace: y, (B, C, *N) or (B, C, samples).
        seed: of starting vectors and noise, the same for all.
        radius: of the perturbation, as a share of ``||y||``.
        steps: of the ascent.
        target: x*, (B, *N), or None.

    Raises:
        InputError: as `cascade_bounds`, `local_map` and `worst_case`.
    """
    found = {}
    for name, cascade in networks.items():
        local = operator_norm(local_map(cascade, sense, kspace, of="kspace"), generator(seed, "norm"))
        worst = worst_case(cascade, sense, kspace, generator(seed, "worst"), radius=radius, steps=steps)
        drop = None
        if target is not None:
            with torch.no_grad():
                image = cascade(sense, kspace)
            change = (image + worst.change - target).abs().square().mean() / (image - target).abs().square().mean()
            drop = float(10 * torch.log10(change))
        found[name] = Stability(cascade_bounds(cascade), local, worst, drop)
    return found
