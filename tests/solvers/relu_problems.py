"""Small programs of ReLU networks that the tests of the cone solvers share."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ReluProblem:
    """blocks D_g X (G, n, d), cones (2 D_g - I) X (G, n, d), target (n,) and the gates (G, d) they come from."""

    blocks: Tensor
    cones: Tensor
    target: Tensor
    gates: Tensor


def relu_problem(seed: int, n: int, d: int, groups: int, spread: float = 0.0) -> ReluProblem:
    """Random patches whose deviations fall by 10^spread, and a ReLU network's output with as much noise."""
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    patches = randn(n, d) * torch.logspace(0, -spread, d, dtype=torch.float64)
    patches = patches @ torch.linalg.qr(randn(d, d))[0]
    gates = randn(groups, d)
    opens = (patches @ gates.T >= 0).double().T[:, :, None]
    clean = (patches @ randn(d, 3)).relu().sum(1)
    target = clean + clean.abs().mean() * randn(n)
    return ReluProblem(opens * patches, (2 * opens - 1) * patches, target, gates)
