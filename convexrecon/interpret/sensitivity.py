"""Where a reconstruction is sensitive: per pixel, how far noise on the samples moves it, and what others it moves."""

from collections.abc import Callable

import torch
from torch import Tensor

from convexrecon.errors import InputError
from convexrecon.interpret.local_map import LocalMap


@torch.no_grad()
def noise_sensitivity(local: LocalMap, draws: int, generator: torch.Generator) -> Tensor:
    """Root mean square change of every output pixel, of white noise of unit variance on every input: (B, *N).

    The norm of a pixel's row of J over root 2, estimated from random inputs: its relative deviation is about
    ``1 / sqrt(2 draws)`` at a pixel. Of a map of k-space it is a map of noise, as the g-factor's; noise where nothing
    is sampled does nothing.

    Args:
        local: J, of image or k-space.
        draws: random inputs.
        generator: of them, on the CPU.

    Raises:
        InputError: fewer than one draw.
    """
    return _root_mean(local.forward, local.point, draws, generator)


@torch.no_grad()
def influence(local: LocalMap, draws: int, generator: torch.Generator) -> Tensor:
    """The norm of every input's column of J over root 2, estimated from random outputs; of the shape of `point`.

    How far a change at one place moves the whole image.

    Args:
        local: J, of image or k-space.
        draws: random outputs.
        generator: of them, on the CPU.

    Raises:
        InputError: fewer than one draw.
    """
    return _root_mean(local.adjoint, local.output, draws, generator)


def _root_mean(product: Callable[[Tensor], Tensor], like: Tensor, draws: int, generator: torch.Generator) -> Tensor:
    if draws < 1:
        raise InputError(f"draws: expected at least 1, found {draws}")
    total: Tensor | None = None
    for _ in range(draws):
        noise = torch.randn(like.shape, dtype=like.dtype, generator=generator).to(like.device)
        found = product(noise)
        square = found.real.square() + found.imag.square()
        total = square if total is None else total + square
    assert total is not None
    return (total / draws).sqrt()
