"""What is known of the optimum over all arrangements: as much as a search found, and no more."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from convexrecon.convex.arrangements import Gates, joined
from convexrecon.convex.patches import BlockBatch, PatchMap, pixel_chunks
from convexrecon.errors import InputError
from convexrecon.solvers.certificates import dual_value
from convexrecon.solvers.penalties import Penalty


@dataclass(frozen=True)
class ArrangementSearch:
    """The dual constraints of all arrangements, as far as they were searched. Not a certificate.

    The dual of the program over *all* arrangements asks ``||X^T D r / n||_dual <= beta`` of every pattern D
    that any gate can cut. No search can know that it saw the worst of them.

    Attributes:
        candidates_searched: gates scored on a share of the pixels.
        candidates_measured: those of them measured on all the data, together with the gates in use.
        largest_violation: ``max ||X^T D r / n||_dual / beta`` over the measured; at most 1 where no measured gate
            could still lower the objective.
        searched_bound: what would be a lower bound on the objective over all arrangements if no gate
            violated its constraint more than the worst that was found; if one does, it is too high.
    """

    candidates_searched: int
    candidates_measured: int
    largest_violation: float
    searched_bound: float


def measure_candidates(
    batches: Iterable[BlockBatch],
    gates: Gates,
    weights: Tensor,
    beta: float,
    penalty: Penalty,
    constant: bool,
    candidates: Gates,
    searched: int,
) -> ArrangementSearch:
    """The dual constraints of candidates, and of the gates in use, in one float64 pass over the data.

    With ``nu = s r / n`` and s = beta / the largest dual norm measured, the dual objective
    ``<nu, t> - n/2 ||nu||^2`` is that of `solvers.certificates.certify`, its maximum taken over more gates.

    Args:
        batches: one pass over the data.
        gates: the arrangement, P gates.
        weights: W, (P, d, m), the optimum for these gates.
        beta: its strength.
        penalty: whose dual norm it is.
        constant: whether filters have a constant term.
        candidates: Q >= 1 gates found by a search.
        searched: how many were scored to find them.

    Raises:
        InputError: no pixel in the data.
    """
    total: Tensor | None = None
    energy = correlation = 0.0
    pixels, used = 0, len(gates)
    weights = weights.double()
    for batch in batches:
        for chunk in pixel_chunks(batch, joined(gates, candidates), constant, torch.float64):
            present = PatchMap(chunk.patches, chunk.open[:used], chunk.target)
            residual = chunk.target - present.forward(weights)
            pulled = chunk.adjoint(residual)
            total = pulled if total is None else total + pulled
            energy += float(residual.square().sum())
            correlation += float((residual * chunk.target).sum())
            pixels += chunk.target.shape[1]
    if total is None or pixels == 0:
        raise InputError("search: no pixel in the data")
    largest = float(penalty.dual_norm(total / pixels).max())
    return ArrangementSearch(
        candidates_searched=searched,
        candidates_measured=len(candidates),
        largest_violation=largest / beta,
        searched_bound=dual_value(energy / pixels, correlation / pixels, largest, beta),
    )
