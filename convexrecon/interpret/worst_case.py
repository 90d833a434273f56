"""The perturbation of the measurement that moves a reconstruction most, sought by projected gradient ascent.

``max ||F(y + r) - F(y)|| over ||r|| <= radius``, after Antun et al., PNAS 117:30088 (2020), who search in the image
domain and weigh ||r|| instead of bounding it. What is found is a lower bound of the worst case; `lipschitz_bounds`
bounds it from above where the network is continuous. Gates and ReLUs switch along the way as they will.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from convexrecon.cascade import Cascade
from convexrecon.errors import InputError
from convexrecon.physics.forward_model import ForwardModel


@dataclass(frozen=True, eq=False)
class WorstCase:
    """The worst perturbation found.

    Attributes:
        perturbation: r, of the shape of the k-space, zero where nothing is sampled.
        change: F(y + r) - F(y), (B, *N).
        amplification: ``||F(y + r) - F(y)|| / ||r||``.
        random: the same of random noise of the same norm, the mean over the starts.
        history: the amplification at every step of the best start.
    """

    perturbation: Tensor
    change: Tensor
    amplification: float
    random: float
    history: tuple[float, ...]


def worst_case(
    cascade: Cascade,
    sense: ForwardModel,
    kspace: Tensor,
    generator: torch.Generator,
    *,
    radius: float = 0.01,
    steps: int = 40,
    starts: int = 1,
    step: float = 0.3,
) -> WorstCase:
    """Seek the worst perturbation of a measurement.

    Args:
        cascade: any whose forward pass can be differentiated.
        sense: A.
        kspace: y, (B, C, *N) or (B, C, samples).
        generator: of the starts, white noise on the samples, on the CPU.
        radius: largest ``||r||``, as a share of ``||y||``.
        steps: of the ascent, from each start.
        starts: how many.
        step: length of the first step, in units of the radius; it falls to zero as a cosine.

    Raises:
        InputError: radius, steps, starts or step not positive.
    """
    for name, value in (("radius", radius), ("steps", steps), ("starts", starts), ("step", step)):
        if not value > 0:
            raise InputError(f"{name}: expected a positive number, found {value}")
    length = radius * float(torch.linalg.vector_norm(kspace))
    with torch.no_grad():
        before = cascade(sense, kspace)
    found: list[WorstCase] = []
    random = []
    for _ in range(starts):
        # A of an image of noise: zero where nothing is sampled.
        image = torch.randn(before.shape, dtype=before.dtype, generator=generator).to(before.device)
        noise = _of_length(sense.forward(image), length)
        one = _ascend(cascade, sense, kspace, before, noise, length, steps, step)
        random.append(one.history[0])
        found.append(one)
    best = max(found, key=lambda one: one.amplification)
    mean = sum(random) / len(random)
    return WorstCase(best.perturbation, best.change, best.amplification, mean, best.history)


def _ascend(
    cascade: Cascade,
    sense: ForwardModel,
    kspace: Tensor,
    before: Tensor,
    start: Tensor,
    length: float,
    steps: int,
    step: float,
) -> WorstCase:
    """Steps along the gradient, back to the sphere after each: the change grows with ||r||, so it is on the sphere."""
    current, best = start, (-1.0, start, torch.zeros_like(before))
    history = []
    for index in range(steps + 1):
        point = current.detach().requires_grad_()
        change = cascade(sense, kspace + point) - before
        amplification = float(torch.linalg.vector_norm(change.detach())) / length
        history.append(amplification)
        if amplification > best[0]:
            best = (amplification, current, change.detach())
        if index == steps:
            break
        (gradient,) = torch.autograd.grad(torch.linalg.vector_norm(change), point)
        rate = step * (1 + math.cos(math.pi * index / steps)) / 2
        current = _of_length(current + _of_length(gradient, rate * length), length)
    return WorstCase(best[1], best[2], best[0], history[0], tuple(history))


def _of_length(vector: Tensor, length: float) -> Tensor:
    norm = torch.linalg.vector_norm(vector).clamp_min(torch.finfo(vector.real.dtype).tiny)
    return (vector * (length / norm)).detach()
