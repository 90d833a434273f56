"""Projection onto polyhedral cones by the active sets of Lawson and Hanson, many cones at a time."""

import torch
from torch import Tensor


def project_onto_cones(points: Tensor, cones: Tensor, start: Tensor | None = None) -> tuple[Tensor, Tensor]:
    r"""Euclidean projection onto polyhedral cones, p_k = argmin ||p - x_k|| s.t. C_k p >= 0, batched over k.

    By Moreau p = x + C^T a with a = argmin_{a >= 0} ||x + C^T a||, by the active sets of Lawson and Hanson.
    points: (K, d); cones: (K, r, d), rows of norm one (or zero); start: (K, r) multipliers to start from.
    Returns p (K, d) and the multipliers a (K, r), always non-negative.

    >>> project_onto_cones(torch.tensor([[-1.0, 2.0]]), torch.eye(2)[None])[0]
    tensor([[0., 2.]])
    """
    d = points.shape[1]
    multipliers = cones.new_zeros(cones.shape[:2]) if start is None else start.clone()
    passive = multipliers > 0
    scale = points.norm(dim=1)
    tolerance = 8 * d * torch.finfo(points.dtype).eps * scale
    entered = torch.full_like(scale, -1, dtype=torch.long)
    finished = torch.zeros_like(scale, dtype=torch.bool)
    projected = points
    for _ in range(3 * cones.shape[1] + 10 * d):
        wanted = _least_squares_on(passive, points, cones)
        blocked = passive & (wanted <= 0)
        step = torch.where(blocked, multipliers / (multipliers - wanted).clamp_min(1e-300), torch.inf).amin(dim=1)
        full = step > 1
        moved = multipliers + step.clamp_max(1)[:, None] * (wanted - multipliers)
        moved = torch.where(full[:, None], wanted, moved)
        dropped = blocked & (moved <= 1e-14 * moved.amax(dim=1, keepdim=True))
        dropped |= blocked & (multipliers / (multipliers - wanted).clamp_min(1e-300) <= step[:, None])
        # A row that leaves as soon as it entered was wanted by rounding alone: the projection is found.
        bounced = (entered >= 0) & dropped.gather(1, entered.clamp_min(0)[:, None])[:, 0] & (step <= 0)
        moved = torch.where(dropped | ~passive, 0, moved).clamp_min(0)
        multipliers = torch.where(finished[:, None], multipliers, moved)
        passive = torch.where(finished[:, None], passive, passive & ~dropped)
        projected = points + (multipliers[:, None] @ cones)[:, 0]
        lowest, row = (cones @ projected[:, :, None])[:, :, 0].min(dim=1)
        finished = finished | bounced | (full & (lowest >= -tolerance))
        if bool(finished.all()):
            break
        enters = full & ~finished
        entered = torch.where(enters, row, -1)
        passive = passive | (torch.nn.functional.one_hot(row, passive.shape[1]).bool() & enters[:, None])
    return projected, multipliers


def _least_squares_on(passive: Tensor, points: Tensor, cones: Tensor) -> Tensor:
    """argmin ||x + C^T a|| over a supported on the passive rows (at most d of them, independent): (K, r)."""
    width = max(1, int(passive.sum(dim=1).max()))
    index = passive.to(torch.uint8).topk(width, dim=1).indices
    used = passive.gather(1, index)
    rows = torch.where(used[:, :, None], cones.gather(1, index[:, :, None].expand(-1, -1, cones.shape[2])), 0)
    gram = rows @ rows.mT + torch.diag_embed((~used).to(rows.dtype))
    factor, pivots, _ = torch.linalg.lu_factor_ex(gram)
    solution = torch.linalg.lu_solve(factor, pivots, -rows @ points[:, :, None])
    solution = solution - torch.linalg.lu_solve(factor, pivots, rows @ (points[:, :, None] + rows.mT @ solution))
    solution = torch.where(used, solution[:, :, 0].nan_to_num(0.0), 0)
    return torch.zeros_like(passive, dtype=points.dtype).scatter(1, index, solution)
