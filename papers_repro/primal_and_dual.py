"""A two-layer denoiser trained by descent of the network, by descent of its convex dual, and by certified programs.

The network is ``f(Y) = sum_j v_j (Y * u_j)_+``, without biases and skip, as in arXiv 2012.05169, section 3; all
minimize ``1/(2n) ||f(Y) - X||^2`` and the same strength of weight decay.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from denoising_pairs import Pairs
from torch import Tensor

from convexrecon.convex.arrangements import Gates, convolve, draw_gates
from convexrecon.convex.patches import BlockBatch, Stream
from convexrecon.convex.program import ProgramSettings, solve_program
from convexrecon.convex.relu_program import ReluSettings, solve_relu_program
from convexrecon.seeding import generator

# Weight of the hinge on the sign constraints, as the paper's first author released it.
HINGE = 1e-4
# Images of a batch of Adam, and points of a curve.
BATCH = 32
POINTS = 18


@dataclass(frozen=True)
class Sizes:
    """Neurons, sampled patterns, kernel, steps of Adam and its rate for network and dual, and beta / beta_max."""

    neurons: int
    patterns: int
    kernel: int
    primal_steps: int
    primal_rate: float
    dual_steps: int
    dual_rate: float
    beta_ratio: float


Row = dict[str, Any]


def compare(pairs: Pairs, sizes: Sizes, seed: int) -> Row:
    """Train all; curves and end points, JSON-able.

    Returns:
        "primal", "dual": "step", "train" (objective) and "test" (half the mean square) by step, "psnr" of every test
        image; "gated", "within": the same of the certified programs, on the dual's patterns without, on the network's
        with sign constraints, with "gap" and "patterns"; "filters" and "weights" of the gated program.
    """
    kernel = (sizes.kernel, sizes.kernel)
    gates = draw_gates([pairs.noisy], sizes.patterns, kernel, generator(seed, "patterns"), offset_scale=0.0)
    stream = _stream(pairs)
    program = ProgramSettings(beta_ratio=sizes.beta_ratio, constant=False, tolerance=1e-5)
    solved = solve_program(stream, gates, program)
    beta = solved.solution.beta
    weights = solved.solution.weights
    gated = _ends(pairs, _gated(gates, weights)) | {
        "train": solved.solution.certificate.objective,
        "gap": solved.solution.certificate.relative_gap,
        "patterns": len(gates),
        "live": int((weights.flatten(1).norm(dim=1) > 0).sum()),
    }
    primal, neurons = _primal(pairs, sizes, beta, seed)
    return {
        "beta": beta,
        "primal": primal,
        "dual": _dual(pairs, sizes, gates, beta, seed),
        "gated": gated,
        "within": _within(pairs, stream, neurons, beta),
        "filters": gates.filters.flatten(1).tolist(),
        "weights": weights[..., 0].tolist(),
    }


def _primal(pairs: Pairs, sizes: Sizes, beta: float, seed: int) -> tuple[Row, Tensor]:
    """Adam on the network with weight decay; its curve, and the filters of its neurons."""
    rng = generator(seed, "network")
    u = torch.randn(sizes.neurons, 1, sizes.kernel, sizes.kernel, generator=rng) / sizes.kernel
    v = torch.randn(sizes.neurons, generator=rng) / math.sqrt(sizes.neurons)
    u.requires_grad_()
    v.requires_grad_()

    def network(noisy: Tensor) -> Tensor:
        return torch.einsum("bjyx,j->byx", torch.relu(convolve(noisy, u)), v)[:, None]

    def penalty() -> Tensor:
        return beta / 2 * (u.square().sum() + v.square().sum())

    curve = _descend([u, v], network, penalty, pairs, sizes.primal_steps, sizes.primal_rate, seed)
    return curve, u.detach()


def _dual(pairs: Pairs, sizes: Sizes, gates: Gates, beta: float, seed: int) -> Row:
    """The paper's way: Adam on w and z of sampled patterns, a hinge for the sign constraints."""
    shape = (2, len(gates), sizes.kernel**2)
    both = (1e-3 * torch.randn(shape, generator=generator(seed, "dual"))).requires_grad_()
    hinge = torch.zeros(())

    def network(noisy: Tensor) -> Tensor:
        nonlocal hinge
        patches = F.unfold(noisy, sizes.kernel, padding=sizes.kernel // 2)
        open_ = gates.patterns(noisy).flatten(2)
        responses = torch.einsum("sgd,bdn->sbgn", both, patches)
        signs = 2 * open_.to(responses) - 1
        hinge = torch.relu(-signs * responses).mean()
        return ((responses[0] - responses[1]) * open_).sum(1).view_as(noisy)

    def penalty() -> Tensor:
        return beta * (both.square().sum(2) + 1e-16).sqrt().sum()

    curve = _descend(
        [both], network, penalty, pairs, sizes.dual_steps, sizes.dual_rate, seed, lambda: HINGE * len(gates) * hinge
    )
    return curve | {"patterns": len(gates), "hinge": float(hinge)}


def _descend(
    parameters: list[Tensor],
    network: Callable[[Tensor], Tensor],
    penalty: Callable[[], Tensor],
    pairs: Pairs,
    steps: int,
    rate: float,
    seed: int,
    extra: Callable[[], Tensor] = lambda: torch.zeros(()),
) -> Row:
    """Adam with a cosine on batches of images; objective and test loss along the way, PSNR at the end."""
    optimizer = torch.optim.Adam(parameters, lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, 0.01 * rate)
    order = generator(seed, "batches")
    points = {round(steps * (k / POINTS) ** 2) for k in range(1, POINTS + 1)}
    curve: Row = {"step": [], "train": [], "test": []}
    for step in range(1, steps + 1):
        chosen = torch.randint(len(pairs.noisy), (min(BATCH, len(pairs.noisy)),), generator=order)
        loss = _half_square(network(pairs.noisy[chosen]), pairs.clean[chosen]) + penalty() + extra()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step in points:
            with torch.no_grad():
                curve["step"].append(step)
                curve["train"].append(_over(network, pairs.noisy, pairs.clean) + float(penalty()))
                curve["test"].append(_over(network, pairs.noisy_test, pairs.clean_test))
    with torch.no_grad():
        return curve | {"psnr": _ends(pairs, network)["psnr"]}


def _within(pairs: Pairs, stream: Stream, neurons: Tensor, beta: float) -> Row:
    """The certified optimum among networks whose neurons have the sign patterns of the descended one's."""
    alive = neurons.flatten(1).norm(dim=1)
    gates = Gates(neurons[alive > 1e-3 * alive.max()], torch.zeros(int((alive > 1e-3 * alive.max()).sum())))
    solved = solve_relu_program(stream, gates, ReluSettings(beta=beta, constant=False, tolerance=1e-4))
    weights = (solved.w - solved.z)[..., None]
    return _ends(pairs, _gated(gates, weights)) | {
        "train": solved.certificate.objective,
        "gap": solved.certificate.relative_gap,
        "patterns": len(gates),
        "converged": solved.converged,
    }


def _gated(gates: Gates, weights: Tensor) -> Callable[[Tensor], Tensor]:
    """``sum_i D_i (V_i * Y)`` of weights (P, d, 1)."""
    filters = weights[..., 0].float().view(len(gates), 1, *gates.kernel)
    return lambda noisy: (convolve(noisy, filters) * gates.patterns(noisy)).sum(1, keepdim=True)


def _ends(pairs: Pairs, network: Callable[[Tensor], Tensor]) -> Row:
    found = torch.cat([network(part) for part in pairs.noisy_test.split(BATCH)])
    squares = (found - pairs.clean_test).double().square()
    peaks = pairs.clean_test.double().abs().flatten(1).amax(1)
    psnr = 20 * peaks.log10() - 10 * squares.flatten(1).mean(1).log10()
    return {"test": float(squares.mean()) / 2, "psnr": psnr.tolist()}


def _over(network: Callable[[Tensor], Tensor], noisy: Tensor, clean: Tensor) -> float:
    sums = [
        float(_half_square(network(part), target)) * part.numel()
        for part, target in zip(noisy.split(BATCH), clean.split(BATCH), strict=True)
    ]
    return sum(sums) / noisy.numel()


def _half_square(found: Tensor, wanted: Tensor) -> Tensor:
    return (found - wanted).square().mean() / 2


def _stream(pairs: Pairs) -> Stream:
    batches = [
        BlockBatch(noisy, clean)
        for noisy, clean in zip(pairs.noisy.split(BATCH), pairs.clean.split(BATCH), strict=True)
    ]
    return lambda: batches
