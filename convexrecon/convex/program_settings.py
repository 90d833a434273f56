"""What a block's program is, how exactly and by which method it is solved; and its solution."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from convexrecon.convex.arrangements import Gates
from convexrecon.convex.fused_tiles import Products
from convexrecon.convex.gated_convolution import feature_count
from convexrecon.convex.pair_cover import pair_cover
from convexrecon.convex.sufficient_statistics import gram_bytes
from convexrecon.errors import InputError
from convexrecon.solvers.penalties import penalty_named
from convexrecon.solvers.solution import Solution

# Gates of a set when H is accumulated at scale, and passes that a model of H asks for.
USUAL_SET = 10
USUAL_PASSES = 60
# From so many unknowns on, factors of H take longer than the passes that a penalty of at least this strength needs.
LARGE_SIDE = 8_000
STRONG_RATIO = 5e-3


@dataclass(frozen=True)
class ProgramSettings:
    """``min_W 1/(2n) ||A W - t||^2 + beta R(W)``: what R and beta are, and how exactly to solve.

    Attributes:
        penalty: "group_lasso" (sum of Frobenius norms) or "nuclear" (sum of nuclear norms: weight decay
            of the two-layer gated network).
        beta: absolute strength, or None to use `beta_ratio`.
        beta_ratio: strength relative to beta_max, the smallest beta whose optimum is the empty network.
        constant: whether filters have a constant term (a bias behind the gate).
        tolerance: relative duality gap to reach.
        max_iterations: of the solver, or passes over the data where there is no H; None for its own default.
        memory_gb: most memory for H and its factor.
        method: "statistics" (H from one pass over the data), "subsampled" (H from a share of the pixels, then a few
            passes over all of them), "matrix_free" (passes over the data alone), or "auto".
        subsample: rows per unknown that a subsampled H is made from.
        products: how passes multiply on an NVIDIA GPU: in float32 ("ieee"), as three TF32 products, nearly as exact
            ("tf32x3"), or as one ("tf32"), all fused; or "torch", in float32 and not fused, as on other devices. The
            certificate is measured in float64 whatever this is.
    """

    penalty: str = "group_lasso"
    beta: float | None = None
    beta_ratio: float = 1e-4
    constant: bool = True
    tolerance: float = 1e-5
    max_iterations: int | None = None
    memory_gb: float = 8.0
    method: Literal["auto", "statistics", "subsampled", "matrix_free"] = "auto"
    subsample: float = 4.0
    products: Products = "ieee"

    def __post_init__(self) -> None:
        try:
            penalty_named(self.penalty)
        except ValueError as error:
            raise InputError(str(error)) from None
        if self.beta is not None and not (self.beta > 0 and math.isfinite(self.beta)):
            raise InputError(f"beta: expected a positive finite number, found {self.beta}")
        if not (self.beta_ratio > 0 and math.isfinite(self.beta_ratio)):
            raise InputError(f"beta_ratio: expected a positive finite number, found {self.beta_ratio}")
        if self.method not in ("auto", "statistics", "subsampled", "matrix_free"):
            raise InputError(f"method: expected auto, statistics, subsampled or matrix_free, found {self.method!r}")
        if self.products not in get_args(Products):
            raise InputError(f"products: expected one of {', '.join(get_args(Products))}, found {self.products!r}")
        if not self.subsample > 0:
            raise InputError(f"subsample: expected a positive number, found {self.subsample}")
        if not self.tolerance > 0:
            raise InputError(f"tolerance: expected a positive number, found {self.tolerance}")


@dataclass(frozen=True)
class Method:
    """How a program is solved.

    Attributes:
        name: "statistics", "subsampled", "matrix_free", or "behind_map" for a loss behind a map of the output.
        reason: why, in a sentence with the numbers that decided.
    """

    name: str
    reason: str


def statistics_fit(gates: Gates, settings: ProgramSettings) -> bool:
    """Whether H and its factor fit into the memory allowed."""
    features = feature_count(gates.filters.shape[1], gates.kernel, settings.constant)
    return gram_bytes(len(gates), features) <= settings.memory_gb * 1e9


def choose_method(gates: Gates, settings: ProgramSettings, beta_ratio: Callable[[], float]) -> Method:
    """H or no H: what was asked for; else no H where it does not fit, or where passes are less work.

    A pixel costs d^2 for every set of gates that cover the pairs when H is accumulated, and 4 P d in a pass, for
    each of two outputs. The weaker the penalty the more passes it takes, the fewer factors of H.

    Args:
        gates: the arrangement.
        settings: penalty, strength, memory.
        beta_ratio: gives beta / beta_max; called where it matters.

    Raises:
        InputError: statistics were asked for and do not fit.
    """
    features = feature_count(gates.filters.shape[1], gates.kernel, settings.constant)
    allowed, fits = settings.memory_gb, statistics_fit(gates, settings)
    needed = gram_bytes(len(gates), features) / 1e9
    size = f"H of {len(gates)} gates with {features} features and its factor take {needed:.2g} GB"
    if settings.method in ("statistics", "subsampled"):
        if not fits:
            raise InputError(f"program: {size}; expected at most memory_gb = {allowed:g}, or method = 'matrix_free'")
        return Method(settings.method, f"as asked for; {size}")
    if settings.method == "matrix_free":
        return Method("matrix_free", "as asked for")
    if not fits:
        return Method("matrix_free", f"{size}, more than memory_gb = {allowed:g}")
    once = len(pair_cover(len(gates), USUAL_SET)) * features**2
    by_passes = USUAL_PASSES * 8 * len(gates) * features
    if once > by_passes:
        return Method("matrix_free", f"{USUAL_PASSES} passes are {once / by_passes:.1f} times less work than H")
    side = len(gates) * features
    if side > LARGE_SIDE and beta_ratio() >= STRONG_RATIO:
        return Method("matrix_free", f"factors of H, of side {side}, take longer than passes at this strength")
    return Method("statistics", f"{size} of {allowed:g}, and less work than {USUAL_PASSES} passes")


@dataclass(frozen=True)
class BlockSolution:
    """The optimum of one block's program.

    Attributes:
        gates: the arrangement.
        solution: weights (P, d, m), certificate, iterations.
        beta_max: the smallest beta whose optimum is the empty network.
        pixels: n.
        seconds_accumulate: time of making H, or what stands in for it.
        seconds_solve: time of the solver and of the passes that measure its certificate.
        method: how it was solved, and why so.
    """

    gates: Gates
    solution: Solution
    beta_max: float
    pixels: int
    seconds_accumulate: float
    seconds_solve: float
    method: Method

    @property
    def matrix_free(self) -> bool:
        """Whether H was never formed."""
        return self.method.name == "matrix_free"
