"""A program whose inputs are too much alike for products in single precision: its H in double precision."""

from dataclasses import replace

import torch
from torch import Tensor

from convexrecon.convex.arrangements import Gates
from convexrecon.convex.patches import Stream
from convexrecon.convex.program_settings import ProgramSettings
from convexrecon.convex.refinement import Again
from convexrecon.convex.sufficient_statistics import accumulate
from convexrecon.solvers.path import solve
from convexrecon.solvers.penalties import penalty_named
from convexrecon.solvers.processes import Processes
from convexrecon.solvers.quadratics import DenseQuadratic
from convexrecon.solvers.solution import Solution


def solve_precisely(
    stream: Stream, gates: Gates, settings: ProgramSettings, beta: float, processes: Processes, weights: Tensor
) -> tuple[Solution, Again]:
    """The optimum from statistics whose products are in float64: twice the time of one pass, eight digits more.

    Args:
        stream: the data of the program.
        gates: the arrangement, P gates.
        settings: penalty and accuracy.
        beta: strength, > 0.
        processes: those that have a share of the data each in their stream.
        weights: W to start from, (P, d, m).

    Returns:
        The solution, and how to refine it.
    """
    statistics = accumulate(stream(), gates, constant=settings.constant, precision=torch.float64, processes=processes)
    quadratic = statistics.quadratic()
    solution = solve(
        quadratic, penalty_named(settings.penalty), beta, tolerance=settings.tolerance / 2, initial=weights
    )
    return solution, refinement_of(quadratic, settings, beta)


def refinement_of(quadratic: DenseQuadratic, settings: ProgramSettings, beta: float) -> Again:
    """Solves a program again with the gradient that was measured on the data, for `refinement.refined`."""

    def again(correlation: Tensor, weights: Tensor) -> Solution:
        exact = replace(quadratic, linear=quadratic.multiply(weights) + correlation)
        return solve(exact, penalty_named(settings.penalty), beta, tolerance=settings.tolerance / 2, initial=weights)

    return again
