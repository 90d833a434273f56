"""Small denoisers of every kind, and images, for the tests of interpretation."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from convexrecon.convex.arrangements import Gates
from convexrecon.denoisers.building import new_denoiser
from convexrecon.denoisers.gated import GatedDenoiser

KINDS = ("gated", "relu", "resnet", "modl")


def denoiser(
    kind: str,
    *,
    seed: int = 0,
    kernel: Sequence[int] = (3, 3),
    channels: int = 2,
    width: int = 6,
    size: float = 0.1,
    periodic: bool = False,
) -> nn.Module:
    """A denoiser of a kind with random weights; `size` is that of a gated one's filters."""
    rng = torch.Generator().manual_seed(seed)
    if kind == "gated":
        features = channels * int(torch.tensor(kernel).prod()) + 1
        gates = Gates(torch.randn(width, channels, *kernel, generator=rng), torch.randn(width, generator=rng))
        weights = size * torch.randn(width, features, 2, generator=rng)
        weights[1] = 0
        return GatedDenoiser(gates, weights, constant=True)
    made: nn.Module = new_denoiser(
        kind,  # type: ignore[arg-type]
        width=width,
        kernel=kernel,
        channels=channels,
        dimensions=len(kernel),
        periodic=periodic,
        generator=rng,
    )
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if name.endswith("bias"):
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=rng))
    return made


def channels_of(shape: Sequence[int], *, channels: int = 2, seed: int = 1, batch: int = 1) -> Tensor:
    """Random real channels (batch, channels, *shape)."""
    return torch.randn(batch, channels, *shape, generator=torch.Generator().manual_seed(seed))
