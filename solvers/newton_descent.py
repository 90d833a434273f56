"""The outer loop and the line search that Newton's methods in variational weights share."""

import math
from collections.abc import Callable
from typing import Protocol, TypeVar

from torch import Tensor

from .certificates import certify
from .penalties import Penalty
from .quadratics import DenseQuadratic
from .solution import Solution

# Shortest steps: of a model that is tried at full length only, and of the plain one.
FULL_LENGTH = 0.5
SMALLEST_STEP = 1e-4


class Point(Protocol):
    """Variational weights t with what they determine: W, R = c - HW (G, d, m), and the value of phi."""

    @property
    def t(self) -> Tensor: ...

    @property
    def weights(self) -> Tensor: ...

    @property
    def residual(self) -> Tensor: ...

    @property
    def value(self) -> float: ...


AnyPoint = TypeVar("AnyPoint", bound=Point)


def descend(
    quadratic: DenseQuadratic,
    penalty: Penalty,
    beta: float,
    point: AnyPoint,
    step: Callable[[AnyPoint, float], AnyPoint | None],
    tolerance: float,
    max_iterations: int,
) -> Solution:
    """Steps from `point` until W is certified; `step` is given the relative gap, and gives None where it is stuck."""
    iteration = 0
    while True:
        certificate = certify(quadratic, penalty, beta, point.weights, quadratic.linear - point.residual)
        nearer = None
        if certificate.relative_gap > tolerance and iteration < max_iterations:
            nearer = step(point, certificate.relative_gap)
        if nearer is None:
            converged = certificate.relative_gap <= tolerance
            return Solution(point.weights, beta, certificate, iteration, converged)
        point, iteration = nearer, iteration + 1


def shortened(
    evaluate: Callable[[float], AnyPoint], point: AnyPoint, expected: float, shortest: float
) -> AnyPoint | None:
    """The point at the first of the lengths 1, 1/2, 1/4 .. down to `shortest` at which phi falls as it should.

    Args:
        evaluate: length of the step -> the point there.
        point: where the step starts.
        expected: slope of phi along it.
        shortest: lengths are above this.

    Returns:
        The point, or None if there is none or rounding makes it the same.
    """
    length = 1.0
    while length > shortest:
        trial = evaluate(length)
        rounding = 1e-14 * (abs(point.value) + abs(trial.value))
        # At Inf there is no ridge solution; its rounding is Inf too.
        if trial.value < math.inf and trial.value <= point.value + 1e-4 * length * min(expected, 0.0) + rounding:
            return trial if bool((trial.t != point.t).any()) else None
        length /= 2
    return None
