r"""The algebra of second-order cones Q = {(t, v) : ||v|| <= t} that interior-point methods need, batched.

Points are (..., 1 + d) with t first. Nesterov and Todd's scaling W of a primal point s and a dual point y,
both inside the cone, is the symmetric map with W^{-1} s = W y = lambda (Vandenberghe, The CVXOPT linear and
quadratic cone program solvers, section 4.2).
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Scaling:
    """W = size (2 p p^T - J) with p = (w + e) / sqrt(2 (w_0 + 1)), J = diag(1, -I).

    size: (...); axis: w (..., 1 + d), w^T J w = 1; point: lambda (..., 1 + d).
    """

    size: Tensor
    axis: Tensor
    point: Tensor

    def inverse(self, x: Tensor) -> Tensor:
        """W^{-1} x."""
        return _reflect(_flip(self.axis), x) / self.size[..., None]

    def forward(self, x: Tensor) -> Tensor:
        """W x."""
        return _reflect(self.axis, x) * self.size[..., None]


def scaling(primal: Tensor, dual: Tensor) -> Scaling:
    """Nesterov and Todd's scaling of two points inside the cone, (..., 1 + d)."""
    primal_size, dual_size = _size(primal), _size(dual)
    s, y = primal / primal_size[..., None], dual / dual_size[..., None]
    half = ((1 + (s * y).sum(-1)) / 2).clamp_min(1e-300).sqrt()
    axis = (s + _flip(y)) / (2 * half[..., None])
    # Its first entry from the others, so that rounding does not leave the hyperboloid.
    axis = torch.cat([(1 + axis[..., 1:].square().sum(-1, keepdim=True)).sqrt(), axis[..., 1:]], -1)
    found = Scaling((primal_size / dual_size).sqrt(), axis, primal)
    return Scaling(found.size, axis, found.forward(dual))


def product(x: Tensor, y: Tensor) -> Tensor:
    """Jordan product (x^T y, x_0 y_1 + y_0 x_1)."""
    first = (x * y).sum(-1, keepdim=True)
    return torch.cat([first, x[..., :1] * y[..., 1:] + y[..., :1] * x[..., 1:]], -1)


def divide(x: Tensor, y: Tensor) -> Tensor:
    """The z whose Jordan product with x, inside the cone, is y."""
    first = (x[..., :1] * y[..., :1] - (x[..., 1:] * y[..., 1:]).sum(-1, keepdim=True)) / _size(x)[..., None] ** 2
    return torch.cat([first, (y[..., 1:] - first * x[..., 1:]) / x[..., :1]], -1)


def longest_step(x: Tensor, step: Tensor) -> Tensor:
    """The largest a with x + a step in the cone, for x inside it: (...), infinite where none is."""
    # In coordinates in which x is e the cone's condition is that the smallest eigenvalue stays positive.
    size = _size(x)[..., None]
    unit = x / size
    first = (_flip(unit) * step).sum(-1, keepdim=True) / size
    rest = step[..., 1:] / size - (first + step[..., :1] / size) / (unit[..., :1] + 1) * unit[..., 1:]
    lowest = first[..., 0] - rest.norm(dim=-1)
    return torch.where(lowest < 0, -1 / lowest.clamp_max(-1e-300), torch.inf)


def inside(x: Tensor) -> bool:
    """Whether all points are strictly inside."""
    return bool((x[..., 0] > x[..., 1:].norm(dim=-1)).all())


def _size(x: Tensor) -> Tensor:
    """sqrt(x^T J x), as a product of sums that keeps its digits near the boundary."""
    length = x[..., 1:].norm(dim=-1)
    return ((x[..., 0] - length).clamp_min(1e-300) * (x[..., 0] + length)).sqrt()


def _flip(x: Tensor) -> Tensor:
    """J x."""
    return torch.cat([x[..., :1], -x[..., 1:]], -1)


def _reflect(axis: Tensor, x: Tensor) -> Tensor:
    """(2 p p^T - J) x with p = (axis + e) / sqrt(2 (axis_0 + 1))."""
    along = (axis[..., 1:] * x[..., 1:]).sum(-1, keepdim=True)
    first = axis[..., :1] * x[..., :1] + along
    return torch.cat([first, x[..., 1:] + (x[..., :1] + along / (1 + axis[..., :1])) * axis[..., 1:]], -1)
