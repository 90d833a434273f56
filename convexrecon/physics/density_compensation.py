"""Density compensation: the area of k-space that each sample of a trajectory stands for."""

import math

import torch
from torch import Tensor

from convexrecon.errors import InputError
from convexrecon.physics.nufft import Nufft, check_trajectory


def pipe_menon(coordinates: Tensor, shape: tuple[int, ...], *, iterations: int = 30, eps: float = 1e-6) -> Tensor:
    """Weights w with ``sum_i w_i psi(k_j - k_i) = 1`` at every sample j, by ``w <- w / (psi * w)``.

    psi is the Fejer kernel, with zeros at whole cycles: its transform is a triangle that ends where no two pixels
    of the image are further apart. It is positive, so the iteration is safe; and of integral one, so w is an area
    in units of the Nyquist cell, one cycle squared (cubed), up to a tenth less where neighbours are a cycle apart
    off the axes. On the Cartesian grid w = 1. No sample stands for more than one cell, whatever is missing
    around it, so that ``F^H W F`` of an undersampled trajectory is no larger than of a full one; areas, as those
    of a `ramp`, grow instead.
    Pipe and Menon, Magn Reson Med 41:179 (1999); the kernel after Johnson and Pipe, Magn Reson Med 61:439 (2009).

    Args:
        coordinates: (samples, d) or (B, samples, d) real, cycles per field of view.
        shape: (y, x) or (z, y, x), in pixels.
        iterations: of the fixed point; 10 reach a few per cent.
        eps: relative error of the transforms, which compute psi * w on the doubled grid.

    Returns:
        (samples,) or (B, samples), float32 or as the coordinates, positive.

    Raises:
        InputError: coordinates `check_trajectory` refuses; no iterations.
    """
    check_trajectory(coordinates, shape)
    if iterations < 1:
        raise InputError(f"iterations: expected at least 1, found {iterations}")
    nufft = Nufft(2 * coordinates.double(), tuple(2 * size for size in shape), eps)
    window = torch.ones((), dtype=torch.float64, device=coordinates.device)
    for size in shape:
        # Differences -N .. N-1 of pixels; zero is at index N, hence the phase of k turns below.
        distance = (torch.arange(2 * size, dtype=torch.float64, device=coordinates.device) - size).abs()
        window = window.unsqueeze(-1) * (1 - distance / size)
    # The two transforms bring 1 / prod 2N; the kernel wants 1 / prod N.
    window = window * 2 ** len(shape)
    weights = torch.ones(coordinates.shape[:-1], dtype=torch.float64, device=coordinates.device)
    phase = torch.polar(weights, 2 * torch.pi * coordinates.double().sum(-1))
    for _ in range(iterations):
        spread = (phase * nufft.forward(window * nufft.adjoint(phase.conj() * weights))).real
        # psi * w is at least w psi(0) = w; the error of the transform must not take it below.
        weights = weights / torch.maximum(spread, weights)
    return weights.to(coordinates.dtype if coordinates.dtype == torch.float64 else torch.float32)


def ramp(coordinates: Tensor, shape: tuple[int, ...], shots: int, *, capped: bool = False) -> Tensor:
    """Areas of the samples of `shots` full-diameter radial spokes at even angles and readout steps, 2-D or 3-D.

    ``w = pi |k| dk / shots`` (2-D) or ``2 pi |k|^2 dk / shots`` (3-D) and, at the centre, the ball of radius dk/2
    shared by all spokes. In Nyquist cells. At once what `pipe_menon` iterates for, which of a large volume takes hours.

    Args:
        coordinates: (shots * samples, d) real, spoke by spoke, as from `trajectories.radial` or `kooshball`.
        shape: (y, x) or (z, y, x), in pixels.
        shots: number of spokes.
        capped: whether no sample stands for more than a cell across its spoke, as of `pipe_menon`, where these are few.

    Raises:
        InputError: coordinates `check_trajectory` refuses, or not a multiple of `shots` samples of one trajectory.
    """
    check_trajectory(coordinates, shape)
    d = len(shape)
    if coordinates.ndim != 2 or shots < 1 or len(coordinates) % shots:
        raise InputError(
            f"coordinates: expected (shots * samples, {d}) of {shots} spokes; found {tuple(coordinates.shape)}"
        )
    spokes = coordinates.double().reshape(shots, -1, d)
    step = torch.linalg.vector_norm(spokes[:, 1] - spokes[:, 0], dim=-1, keepdim=True)
    radius = torch.linalg.vector_norm(spokes, dim=-1)
    centre = radius < step / 4
    # Half the circumference, or half the sphere: a spoke has two ends.
    across = math.pi * radius / shots if d == 2 else 2 * math.pi * radius.square() / shots
    area = (across.clamp_max(1) if capped else across) * step
    ball = math.pi * step.square() / 4 if d == 2 else math.pi * step**3 / 6
    area = torch.where(centre, ball / shots, area)
    return area.flatten().to(coordinates.dtype)
