"""From a gated optimum to a ReLU network with the same outputs on the data: decomposition in pattern cones."""

from dataclasses import dataclass

import torch
from torch import Tensor

from convexrecon.convex.arrangements import Gates
from convexrecon.convex.patches import Stream
from convexrecon.convex.pattern_cones import PatternCones
from convexrecon.errors import InputError
from convexrecon.solvers.cone_decomposition import decompose_in_cones


@dataclass(frozen=True)
class ConeWeights:
    """Weights of ReLU neurons with the outputs of gated ones.

    Attributes:
        w, z: (P, d, m) float64; each column is in its gate's cone, w - z the gated weights up to rounding.
        norms: sum of ||w|| + ||z|| over gates and outputs.
        blow_up: norms / sum of the norms of the columns of the gated weights; at least 1.
        relative_gap: norms are at most this much larger than the least possible, each pair relative to itself.
        rounds: passes over the data.
        converged: whether the tolerance was reached.
    """

    w: Tensor
    z: Tensor
    norms: float
    blow_up: float
    relative_gap: float
    rounds: int
    converged: bool


def decompose_weights(
    stream: Stream,
    gates: Gates,
    weights: Tensor,
    *,
    constant: bool,
    tolerance: float = 1e-3,
    max_rounds: int = 50,
) -> ConeWeights:
    """V_i = w_i - z_i with both parts in the cone of gate i and ||w_i|| + ||z_i|| as small as possible.

    ``relu(x^T w) - relu(x^T z) = D x^T V`` at every pixel of the data, and elsewhere wherever the neurons' signs
    agree with the gate. Cones of many pixels are narrow, and the parts that much longer than V.

    Args:
        stream: called once a pass; yields the data (targets are not used), always the same.
        gates: the arrangement, P gates.
        weights: V, (P, d, m); each output is decomposed on its own.
        constant: whether the last feature is the constant 1.
        tolerance: of each sum of norms against the least possible, relative.
        max_rounds: passes over the data at most.

    Raises:
        InputError: no data, weights that do not fit the gates, or gates that no neuron stands for.
    """
    cones = PatternCones(stream, gates, constant)
    features = gates.filters[0].numel() + int(constant)
    if weights.ndim != 3 or tuple(weights.shape[:2]) != (len(gates), features):
        raise InputError(f"weights: expected ({len(gates)}, {features}, m), found {tuple(weights.shape)}")
    if not bool(torch.isfinite(weights).all()):
        raise InputError("weights: hold NaN or Inf")
    wanted = weights.double().transpose(1, 2)
    found = decompose_in_cones(wanted, cones, cones.interior(), tolerance=tolerance, max_rounds=max_rounds)
    total = float(found.norms.sum())
    size = float(wanted.norm(dim=2).sum())
    return ConeWeights(
        found.w.transpose(1, 2),
        found.z.transpose(1, 2),
        total,
        total / size if size > 0 else 1.0,
        found.relative_gap,
        found.rounds,
        found.converged,
    )
