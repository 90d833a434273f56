r"""The convex program of a two-layer ReLU denoiser: data in, certified optimum and ordinary network out.

.. math::
    \min \frac{1}{2n} \Big\| \sum_i D_i X (w_i - z_i) - t \Big\|^2 + \beta \sum_i (\|w_i\| + \|z_i\|)
    \quad\text{s.t.}\quad (2 D_i - I) X w_i \ge 0,\ (2 D_i - I) X z_i \ge 0

X: n patches of d features. With all sign patterns among the gates its optimum is that of the network's training with
weight decay (Pilanci and Ergen, ICML 2020, theorem 1); with those given, of networks whose neurons have them. One
output: the real and the imaginary part of a complex target are two programs, one channel of the target each.
"""

import math
import time
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from convexrecon.convex.arrangements import Gates
from convexrecon.convex.gated_convolution import feature_count
from convexrecon.convex.patches import BlockBatch, Stream, pixel_chunks
from convexrecon.convex.pattern_cones import PatternCones
from convexrecon.convex.sufficient_statistics import accumulate
from convexrecon.errors import InputError
from convexrecon.solvers.certificates import dual_value
from convexrecon.solvers.cone_cutting_planes import DualProof, solve_by_cutting_planes
from convexrecon.solvers.cone_interior_point import dual_vectors
from convexrecon.solvers.quadratics import DenseQuadratic

# Of the size of H: H and its root, a step's product, system and factor.
MATRICES = 5


@dataclass(frozen=True)
class ReluSettings:
    """What beta is, and how exactly to solve.

    Attributes:
        beta: absolute strength, or None to use `beta_ratio`.
        beta_ratio: strength relative to beta_max of the gated program with the same gates, max_i ||c_i||, so
            that the two can be compared; the ReLU program's own may be smaller.
        constant: whether neurons have a bias; needed if the gates have offsets.
        tolerance: duality gap to reach, relative to the objective of the empty network.
        max_rounds: passes over the rows at most.
        memory_gb: refuse programs that need more for H and the matrices of its size in a step.
    """

    beta: float | None = None
    beta_ratio: float = 1e-3
    constant: bool = True
    tolerance: float = 1e-4
    max_rounds: int = 50
    memory_gb: float = 8.0

    def __post_init__(self) -> None:
        if self.beta is not None and not (self.beta > 0 and math.isfinite(self.beta)):
            raise InputError(f"beta: expected a positive finite number, found {self.beta}")
        if not (self.beta_ratio > 0 and math.isfinite(self.beta_ratio)):
            raise InputError(f"beta_ratio: expected a positive finite number, found {self.beta_ratio}")
        if not self.tolerance > 0:
            raise InputError(f"tolerance: expected a positive number, found {self.tolerance}")


@dataclass(frozen=True)
class ReluCertificate:
    """How far from optimal a point is at most.

    Attributes:
        objective: at the point. bound: of the optimum.
        relative_gap: (objective - bound) / objective of the empty network.
        lowest: the least (2 D_i(p) - 1) x_p^T v over pixels and neurons v, in float64: not negative at a
            feasible point; infinite if all neurons are zero.
    """

    objective: float
    bound: float
    relative_gap: float
    lowest: float


@dataclass(frozen=True)
class ReluSolution:
    """The optimum of a ReLU denoiser's program.

    Attributes:
        gates: the arrangement.
        constant: whether the last feature is the constant 1.
        w, z: (P, d) float64, neurons that add and that subtract; zero where the penalty removed them.
        beta: strength.
        certificate: measured in a pass over the data of its own, without H.
        proof: the dual point of its bound.
        pixels: n.
        rounds, newton_steps: of the cutting planes and of all relaxed programs.
        working_rows: rows of the last relaxed program, the largest number of a gate.
        converged: whether the certificate reached the tolerance.
        seconds_accumulate, seconds_solve: time of H and of all that follows.
    """

    gates: Gates
    constant: bool
    w: Tensor
    z: Tensor
    beta: float
    certificate: ReluCertificate
    proof: DualProof
    pixels: int
    rounds: int
    newton_steps: int
    working_rows: int
    converged: bool
    seconds_accumulate: float
    seconds_solve: float


def solve_relu_program(stream: Stream, gates: Gates, settings: ReluSettings) -> ReluSolution:
    """Solve the program of a ReLU denoiser to a certified optimum; memory does not grow with the data.

    Args:
        stream: called once a pass; yields the data as `BlockBatch`es with targets (B, 1, *N), always the same.
        gates: the arrangement, P gates; their patterns are decided in float32 as everywhere.
        settings: strength, accuracy.

    Raises:
        InputError: no data, NaN or Inf among them, a target of several channels, behind a map or zero
            everywhere, gates never open or that no neuron stands for, or too many gates for the memory.
    """
    started = time.perf_counter()
    quadratic, pixels = _statistics(stream, gates, settings)
    accumulated = time.perf_counter()
    largest = float(quadratic.linear.flatten(1).norm(dim=1).max())
    if largest == 0:
        raise InputError("relu program: no gate is open on a pixel whose target it could fit")
    beta = settings.beta_ratio * largest if settings.beta is None else settings.beta
    cones = PatternCones(stream, gates, settings.constant)
    # The pass that measures the certificate rounds differently: aim a little below the tolerance.
    found = solve_by_cutting_planes(
        quadratic,
        cones,
        cones.interior(),
        beta,
        tolerance=0.9 * settings.tolerance,
        max_rounds=settings.max_rounds,
    )
    solution = ReluSolution(
        gates,
        settings.constant,
        found.w,
        found.z,
        beta,
        ReluCertificate(found.objective, found.bound, found.relative_gap, 0.0),
        found.proof,
        pixels,
        found.rounds,
        found.newton_steps,
        found.proof.rows.shape[1],
        found.converged,
        accumulated - started,
        0.0,
    )
    measured = certify_relu_program(stream, solution)
    reached = measured.relative_gap <= settings.tolerance and measured.lowest >= 0
    seconds = time.perf_counter() - accumulated
    return replace(solution, certificate=measured, converged=reached, seconds_solve=seconds)


def certify_relu_program(stream: Stream, solution: ReluSolution) -> ReluCertificate:
    """Measure objective, feasibility and lower bound in one float64 pass, through residuals, without H.

    Args:
        stream: the data of the program.
        solution: the point, and the dual point to bound the optimum with; with other w and z in it
            (`dataclasses.replace`) it is those whose distance from the optimum is bounded.

    Raises:
        InputError: no data.
    """
    proof, gates = solution.proof, solution.gates
    both = torch.stack([solution.w - solution.z, proof.u], 2)
    neurons = torch.cat([solution.w, solution.z])
    used = (neurons != 0).any(1)
    pulled = torch.zeros_like(both)
    sums = torch.zeros(4, dtype=torch.float64)
    lowest, pixels = float("inf"), 0
    for batch in stream():
        for part in pixel_chunks(batch, gates, solution.constant, torch.float64):
            residual = part.target - part.forward(both)
            pulled += part.adjoint(residual)
            energies = [residual[0] @ residual[0], residual[1] @ residual[1], residual[1] @ part.target[0]]
            sums += torch.stack([*energies, part.target.square().sum()]).cpu()
            heights = (neurons @ part.patches) * (2 * part.open - 1).repeat(2, 1)
            lowest = min([lowest, *heights[used].amin(1).tolist()])
            pixels += part.target.shape[1]
    if pixels == 0:
        raise InputError("relu program: no pixel in the data")
    here, length, along, tau = (sums / pixels).tolist()
    sizes = dual_vectors(proof.rows, proof.multipliers, pulled[:, :, 1] / pixels).norm(dim=-1)
    bound = dual_value(length, along, float(sizes.max()), solution.beta)
    objective = here / 2 + solution.beta * float(neurons.norm(dim=1).sum())
    return ReluCertificate(objective, bound, max(objective - bound, 0.0) / (tau / 2), lowest)


def _statistics(stream: Stream, gates: Gates, settings: ReluSettings) -> tuple[DenseQuadratic, int]:
    """H, c, tau and n, with products in float64: the optimum is pinned by H to all its digits here."""
    features = feature_count(gates.filters.shape[1], gates.kernel, settings.constant)
    needed = 8 * MATRICES * (len(gates) * features) ** 2 / 1e9
    if needed > settings.memory_gb:
        raise InputError(
            f"relu program: {len(gates)} gates of {features} features need {needed:.1f} GB, "
            f"expected at most memory_gb = {settings.memory_gb}"
        )
    statistics = accumulate(
        (_checked(batch) for batch in stream()), gates, constant=settings.constant, precision=torch.float64
    )
    quadratic = statistics.quadratic()
    if quadratic.tau == 0:
        raise InputError("relu program: the target is zero everywhere; there is nothing to learn")
    return quadratic, statistics.pixels


def _checked(batch: BlockBatch) -> BlockBatch:
    if batch.behind is not None:
        raise InputError("relu program: targets behind a map of the output are not supported")
    if batch.target.shape[1] != 1:
        raise InputError(
            f"relu program: expected targets of one channel, found {batch.target.shape[1]}; "
            "make one program for each, such as the real and the imaginary part"
        )
    return batch
