"""Small problems that the tests of the solvers share."""

import torch


def random_problem(
    seed: int, groups: int = 5, rows: int = 60, features: int = 7, outputs: int = 2
) -> tuple[torch.Tensor, torch.Tensor]:
    """Correlated features cut by random patterns, as patches are cut by gates."""
    rng = torch.Generator().manual_seed(seed)
    mixing = torch.randn(features, features, generator=rng, dtype=torch.float64)
    mixing = mixing * torch.logspace(0, -2, features, dtype=torch.float64)
    patches = torch.randn(rows, features, generator=rng, dtype=torch.float64) @ mixing
    patterns = torch.rand(groups, rows, 1, generator=rng) > 0.4
    blocks = patches * patterns
    truth = torch.randn(groups, features, outputs, generator=rng, dtype=torch.float64)
    noise = torch.randn(rows, outputs, generator=rng, dtype=torch.float64)
    return blocks, torch.einsum("gnd,gdm->nm", blocks[:2], truth[:2]) + 0.5 * noise
