"""The strength of a program's penalty chosen on data held out, from one pass over the data where H fits."""

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace

from torch import Tensor

from convexrecon.convex.arrangements import Gates
from convexrecon.convex.gated_convolution import GatedConvolution
from convexrecon.convex.patches import Stream
from convexrecon.convex.program import solve_statistics
from convexrecon.convex.program_settings import STRONG_RATIO, BlockSolution, Method, ProgramSettings, choose_method
from convexrecon.convex.refinement import float64_parts
from convexrecon.convex.streamed_program import MAX_PASSES, posed_by_passes, solve_streamed, streamed_path, strength
from convexrecon.convex.sufficient_statistics import accumulate
from convexrecon.errors import InputError
from convexrecon.solvers.path import geometric_betas, solve_path
from convexrecon.solvers.penalties import penalty_named
from convexrecon.solvers.processes import ALONE, Processes
from convexrecon.solvers.solution import Solution

# Strengths tried from one power of ten to the next: quality moves by hundredths of a dB between them.
PER_DECADE = 3
# Weaker penalties are tried until so many in a row were worse than the best: the loss has one minimum, nearly.
WORSE_IN_A_ROW = 2
# Relative gap of those that are only compared.
COMPARED_TOLERANCE = 1e-4


@dataclass(frozen=True)
class HeldOutChoice:
    """An optimum, and how its strength was found.

    Attributes:
        solved: the program solved at the strength chosen.
        betas: the strengths tried, decreasing; the optimum of the first is the empty network.
        losses: of their optima on the data held out, ``1/(2n) ||A W - t||^2``.
    """

    solved: BlockSolution
    betas: tuple[float, ...]
    losses: tuple[float, ...]

    @property
    def loss(self) -> float:
        """On the data held out, at the strength chosen."""
        return min(self.losses)


def solve_held_out(
    stream: Stream, held_out: Stream, gates: Gates, settings: ProgramSettings, processes: Processes = ALONE
) -> HeldOutChoice:
    """Solve the program of a block at the strength whose optimum is the best one on data held out.

    Tried from beta_max, where the network is empty, down to ``beta_ratio beta_max``, three a decade, until two in a
    row are worse than the best. The one chosen is solved and certified as `solve_program` does.

    Args:
        stream: the data of the program.
        held_out: other data, of the same program.
        gates: the arrangement, P gates.
        settings: penalty, weakest strength as `beta_ratio`, accuracy, method.
        processes: as in `solve_program`, with a share of both.

    Raises:
        InputError: `settings.beta` is given, `beta_ratio` is not below 1, nothing is held out; or as `solve_program`.
    """
    if settings.beta is not None or settings.beta_ratio >= 1:
        raise InputError(
            f"held-out strength: expected beta_ratio below 1 and no beta, found {settings.beta_ratio} "
            f"and {settings.beta}"
        )
    task = _Task(stream, held_out, gates, settings, processes, time.perf_counter())
    # Most paths end before penalties are weak, which is what passes are slow for.
    method = choose_method(gates, settings, lambda: max(settings.beta_ratio, STRONG_RATIO))
    return _from_statistics(task, method) if method.name == "statistics" else _by_passes(task, method)


def strengths(largest: float, ratio: float) -> list[float]:
    """Decreasing from `largest` to ``largest * ratio``, `PER_DECADE` to a power of ten."""
    return geometric_betas(largest, ratio, 1 + max(1, math.ceil(-PER_DECADE * math.log10(ratio) - 1e-9)))


def held_out_loss(stream: Stream, gates: Gates, weights: Tensor, constant: bool, processes: Processes = ALONE) -> float:
    """``1/(2n) ||A W - t||^2`` over the pixels of data that count, summed in float64.

    Args:
        stream: the data.
        gates: the arrangement.
        weights: W, (P, d, m).
        constant: whether the last feature is the constant 1.
        processes: those that have a share of the data each.

    Raises:
        InputError: no pixel.
    """
    keep = weights.flatten(1).norm(dim=1) > 0
    energy, pixels = 0.0, 0
    for batch in stream():
        residual = batch.target
        if bool(keep.any()):
            layer = GatedConvolution(gates.select(keep), batch.features, constant)
            residual = residual - layer.forward(weights[keep].to(batch.features))
        squares = residual.double().square()
        energy += float((squares if batch.rows is None else squares * batch.rows).sum())
        pixels += batch.pixels
    _, (energy, count) = processes.sums(weights.new_zeros(0).double(), energy, pixels)
    if count == 0:
        raise InputError("held-out strength: expected data held out, found no pixel")
    return energy / (2 * count)


@dataclass(frozen=True)
class _Task:
    """The arguments of `solve_held_out`, and when it began."""

    stream: Stream
    held_out: Stream
    gates: Gates
    settings: ProgramSettings
    processes: Processes
    started: float

    @property
    def compared(self) -> ProgramSettings:
        """As accurate as optima need be that are only compared."""
        return replace(self.settings, tolerance=max(self.settings.tolerance, COMPARED_TOLERANCE))

    def best(self, path: Iterable[Solution]) -> tuple[Tensor, float, tuple[float, ...], tuple[float, ...]]:
        """The best weights of a path and their strength; strengths and losses of all that were tried."""
        betas: list[float] = []
        losses: list[float] = []
        best: tuple[Tensor, float] | None = None
        for solution in path:
            weights, (beta,) = self.processes.agree_on(solution.weights, solution.beta)
            loss = held_out_loss(self.held_out, self.gates, weights, self.settings.constant, self.processes)
            if best is None or loss < min(losses):
                best = weights, beta
            betas.append(beta)
            losses.append(loss)
            if len(losses) - 1 - losses.index(min(losses)) >= WORSE_IN_A_ROW:
                break
        assert best is not None
        return *best, tuple(betas), tuple(losses)

    def solved(
        self, solution: Solution, beta_max: float, pixels: int, accumulated: float, method: Method
    ) -> BlockSolution:
        """The program solved, with the time that it took."""
        return BlockSolution(
            gates=self.gates,
            solution=solution,
            beta_max=beta_max,
            pixels=pixels,
            seconds_accumulate=accumulated - self.started,
            seconds_solve=time.perf_counter() - accumulated,
            method=method,
        )


def _from_statistics(task: _Task, method: Method) -> HeldOutChoice:
    settings, processes = task.settings, task.processes
    statistics = accumulate(task.stream(), task.gates, constant=settings.constant, processes=processes)
    quadratic, pixels, accumulated = statistics.quadratic(), statistics.pixels, time.perf_counter()
    del statistics  # its sums take as much memory as H
    largest, _ = strength(quadratic, settings)
    betas, penalty = strengths(largest, settings.beta_ratio), penalty_named(settings.penalty)
    path = solve_path(quadratic, penalty, betas, tolerance=task.compared.tolerance)
    weights, beta, tried, losses = task.best(path)
    found = solve_statistics(quadratic, task.stream, task.gates, settings, beta, initial=weights, processes=processes)
    return HeldOutChoice(task.solved(found, largest, pixels, accumulated, method), tried, losses)


def _by_passes(task: _Task, method: Method) -> HeldOutChoice:
    settings, processes = task.settings, task.processes
    quadratic, model, method = posed_by_passes(task.stream, task.gates, settings, method, processes)
    accumulated = time.perf_counter()
    _, (largest,) = processes.agree_on(quadratic.linear, strength(quadratic, settings)[0])
    betas = strengths(largest, settings.beta_ratio)
    weights, beta, tried, losses = task.best(streamed_path(quadratic, model, task.compared, betas, processes))
    exact = float64_parts(task.stream, task.gates, settings.constant)
    posed = replace(settings, beta=beta)
    found = solve_streamed(quadratic, model, exact, posed, MAX_PASSES, processes, initial=weights)
    return HeldOutChoice(task.solved(found, largest, quadratic.rows, accumulated, method), tried, losses)
