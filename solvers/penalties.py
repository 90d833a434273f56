"""Group penalties R: value, proximal map and dual norm of each, on weights (G, d, m)."""

from typing import Protocol

import torch
from torch import Tensor


class Penalty(Protocol):
    """``R(W) = sum_g R(W_g)`` with R a norm; a new penalty is one class with these four members."""

    name: str

    def value(self, weights: Tensor) -> Tensor:
        """Sum of the group norms: (G, d, m) -> scalar."""
        ...

    def prox(self, weights: Tensor, step: float | Tensor) -> Tensor:
        """``argmin_V 1/2 ||V - W||^2 + step R(V)``: (G, d, m) -> (G, d, m); one step, or (G,) of them."""
        ...

    def dual_norm(self, weights: Tensor) -> Tensor:
        """Dual norm of each group, max <V, W_g> over R(V) <= 1: (G, d, m) -> (G,)."""
        ...


class GroupLasso:
    """``R(W_g) = ||W_g||_F``. Its own dual.

    >>> penalty = GroupLasso()
    >>> W = torch.tensor([[[3.0], [4.0]], [[0.3], [0.4]]])
    >>> penalty.value(W).item(), penalty.prox(W, 1.0).flatten(1).norm(dim=1).tolist()
    (5.5, [4.0, 0.0])
    """

    name = "group_lasso"

    def value(self, weights: Tensor) -> Tensor:
        """Sum of Frobenius norms."""
        return weights.flatten(1).norm(dim=1).sum()

    def prox(self, weights: Tensor, step: float | Tensor) -> Tensor:
        """Shrink each group towards zero by `step` in norm."""
        norms = weights.flatten(1).norm(dim=1)
        scale = (1 - step / norms.clamp_min(torch.finfo(weights.dtype).tiny)).clamp_min(0)
        return weights * scale.view(-1, 1, 1)

    def dual_norm(self, weights: Tensor) -> Tensor:
        """Frobenius norms."""
        return weights.flatten(1).norm(dim=1)


class NuclearNorm:
    """``R(W_g) = ||W_g||_*``, the sum of singular values; its dual is the spectral norm.

    Exactly the weight decay of the two-layer gated network whose neurons feed all outputs
    (Sahiner et al., ICLR 2021, arXiv 2012.13329). Singular values and vectors come from the
    eigen-decomposition of the small m x m Gram matrices, batched over groups.

    >>> W = torch.diag(torch.tensor([3.0, 1.0])).unsqueeze(0)
    >>> NuclearNorm().value(W).item(), NuclearNorm().dual_norm(W).tolist()
    (4.0, [3.0])
    """

    name = "nuclear"

    def value(self, weights: Tensor) -> Tensor:
        """Sum of all singular values."""
        return _singular(weights)[0].sum()

    def prox(self, weights: Tensor, step: float | Tensor) -> Tensor:
        """Soft-threshold the singular values of each group."""
        singular, right = _singular(weights)
        if isinstance(step, Tensor):
            step = step.unsqueeze(1)
        scale = (1 - step / singular.clamp_min(torch.finfo(weights.dtype).tiny)).clamp_min(0)
        return weights @ ((right * scale.unsqueeze(1)) @ right.transpose(1, 2))

    def dual_norm(self, weights: Tensor) -> Tensor:
        """Largest singular values."""
        return _singular(weights)[0][:, -1]


def _singular(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Singular values (G, m), ascending, and right singular vectors (G, m, m)."""
    gram = weights.transpose(1, 2) @ weights
    values, vectors = torch.linalg.eigh(gram)
    # Below rounding of the Gram matrix an eigenvalue is noise, and its root would not be small.
    noise = 16 * torch.finfo(weights.dtype).eps * values[:, -1:]
    return torch.where(values > noise, values, 0).sqrt(), vectors


PENALTIES: dict[str, type[GroupLasso] | type[NuclearNorm]] = {
    GroupLasso.name: GroupLasso,
    NuclearNorm.name: NuclearNorm,
}


def penalty_named(name: str) -> Penalty:
    """The penalty called `name`; ValueError names those there are."""
    if name not in PENALTIES:
        raise ValueError(f"penalty: expected one of {', '.join(PENALTIES)}, found {name!r}")
    return PENALTIES[name]()
