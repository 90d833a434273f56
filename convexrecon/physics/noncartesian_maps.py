"""Coil sensitivity maps from the centre of k-space that was sampled off the grid."""

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from convexrecon.errors import InputError
from convexrecon.physics.conjugate_gradient import conjugate_gradient
from convexrecon.physics.density_compensation import pipe_menon
from convexrecon.physics.fourier import centred_ifft, fft
from convexrecon.physics.noncartesian_fourier import NonCartesianFourier
from convexrecon.physics.nufft import check_trajectory
from convexrecon.physics.sensitivity_maps import espirit, walsh

MapsMethod = Literal["espirit", "walsh", "root-sum-of-squares"]

# The region solved for is this much wider than the one returned: samples near its edge depend on what lies beyond.
_MARGIN = 1.35
_ITERATIONS = 20
_TOLERANCE = 1e-3


def noncartesian_maps(
    samples: Tensor,
    coordinates: Tensor,
    shape: tuple[int, ...],
    *,
    method: MapsMethod = "espirit",
    calibration: int = 24,
    kernel: int = 6,
    threshold: float = 0.02,
) -> Tensor:
    """Sensitivity maps from the low-resolution centre of k-space: `gridded_calibration`, then a Cartesian method.

    Args:
        samples: (B, C, samples) complex, the image origin at index 0 (see `nufft.uncentre_samples`), unweighted.
        coordinates: (samples, d) real, cycles per field of view; the centre should be fully sampled.
        shape: (y, x) or (z, y, x), in pixels.
        method: ``espirit`` or ``walsh`` of `sensitivity_maps`, 2-D; or ``root-sum-of-squares``, 2-D and 3-D:
            low-resolution coil images over the root of their sum of squares, with their phase.
        calibration: side of the central region, in cycles per field of view.
        kernel: side of the patches of ``espirit``, in samples; less than half of the region's.
        threshold: pixels below this times the largest root-sum-of-squares are outside; not for ``espirit``.

    Returns:
        (B, C, *N) complex64: sum_c |maps_c|^2 is 1 inside the object and 0 outside.

    Raises:
        InputError: what `gridded_calibration` refuses; an unknown method, or one that is 2-D alone for 3-D.
    """
    if method not in get_args(MapsMethod):
        raise InputError(f"method: expected one of {', '.join(get_args(MapsMethod))}; found {method!r}")
    if len(shape) != 2 and method != "root-sum-of-squares":
        raise InputError(f"method: {method} is for 2-D images; expected 'root-sum-of-squares' for {tuple(shape)}")
    if not 0 <= threshold < 1:
        raise InputError(f"threshold: found {threshold}; expected a number from 0 to below 1")
    centre = gridded_calibration(samples, coordinates, shape, calibration)
    if len(shape) != 2 or method == "root-sum-of-squares":
        return _low_resolution_maps(centre, shape, threshold)
    plane = (shape[0], shape[1])
    return espirit(centre, plane, kernel=kernel) if method == "espirit" else walsh(centre, plane, threshold=threshold)


def gridded_calibration(samples: Tensor, coordinates: Tensor, shape: tuple[int, ...], size: int = 24) -> Tensor:
    """The central square (cube) of Cartesian k-space that the samples within it agree with.

    Samples with ``|k_a| <= M/2`` are fitted by an image of M pixels over the same field of view, in density
    compensated least squares by conjugate gradients; the middle of its k-space is returned. Unlike plain gridding this
    interpolates, so the linear relations between neighbouring samples that ESPIRiT looks for survive.

    Args:
        samples: (B, C, samples) complex, the image origin at index 0, unweighted.
        coordinates: (samples, d) real, cycles per field of view.
        shape: (y, x) or (z, y, x), in pixels.
        size: side of the region, even, in cycles per field of view; along an axis of fewer pixels, all of it.

    Returns:
        (B, C, *min(size, N)) complex, centred k-space, DC at index n//2, on the scale of `fourier.fft`.

    Raises:
        InputError: coordinates `check_trajectory` refuses; samples of another shape, NaN or Inf; an odd or
            too small size; fewer samples in the region than it has unknowns.
    """
    check_trajectory(coordinates, shape)
    if coordinates.ndim != 2 or samples.ndim != 3 or not samples.is_complex() or samples.shape[-1] != len(coordinates):
        raise InputError(
            f"samples: expected complex (B, C, samples) for coordinates (samples, {len(shape)}), shots flattened; "
            f"found {samples.dtype} {tuple(samples.shape)} for {tuple(coordinates.shape)}"
        )
    if not bool(torch.isfinite(torch.view_as_real(samples)).all()):
        raise InputError("samples: hold NaN or Inf; expected finite k-space samples")
    if size < 4 or size % 2:
        raise InputError(f"calibration: expected an even number of cycles, at least 4; found {size}")
    # Even, so that k-space of the low-resolution image ends at M/2 on both sides as the box does.
    low = tuple(n if n <= size else min(n, 2 * math.ceil(size * _MARGIN / 2)) for n in shape)
    inside = (coordinates.abs() <= coordinates.new_tensor(low) / 2).all(-1)
    found, least = int(inside.sum()), math.prod(min(size, n) for n in shape)
    if found < least:
        raise InputError(
            f"calibration: {found} samples in the central {low} cycles; expected at least {least}, one for each "
            "point of the region: ask for a smaller one, or sample the centre more densely"
        )
    kspace = fft(_fit(samples[..., inside], coordinates[inside], low), len(shape))
    for axis, (n, m) in enumerate(zip(shape, low, strict=True), 2):
        kept = min(size, n)
        # Frequencies -kept//2 .. of a transform whose origin is to be pixel N//2 of the full image.
        frequency = torch.arange(kept, device=kspace.device) - kept // 2
        turns = (frequency * (n // 2) % n).double() / n
        phase = torch.polar(torch.ones_like(turns), 2 * torch.pi * turns).to(kspace.dtype)
        kspace = kspace.index_select(axis, frequency % m) * phase.view(-1, *[1] * (kspace.ndim - axis - 1))
    return kspace


def _fit(samples: Tensor, coordinates: Tensor, shape: tuple[int, ...]) -> Tensor:
    """(B, C, *M): the image whose transform fits the samples best, weighted by density."""
    weights = pipe_menon(coordinates, shape, iterations=10)
    fourier = NonCartesianFourier(coordinates, shape, weights, eps=1e-5)
    # Scaled per coil image, or squares of very small or large samples leave the range of numbers.
    peak = samples.abs().amax(-1, keepdim=True)
    peak = torch.where(peak > 0, peak, 1)
    rhs = fourier.adjoint(fourier.weigh(samples / peak))
    solved = conjugate_gradient(
        lambda x: fourier.normal(x.view_as(rhs)).flatten(0, 1) + _TOLERANCE * x,
        rhs.flatten(0, 1),
        tolerance=_TOLERANCE,
        max_iterations=_ITERATIONS,
    )
    return solved.solution.view_as(rhs) * peak.view(*peak.shape[:2], *[1] * len(shape))


def _low_resolution_maps(calibration: Tensor, shape: tuple[int, ...], threshold: float) -> Tensor:
    """Coil images under a Hann window over their root-sum-of-squares, zero below the threshold."""
    peak = calibration.abs().flatten(1).amax(1).view(-1, *[1] * (calibration.ndim - 1))
    if not bool((peak > 0).all()):
        raise InputError("samples: zero everywhere in the centre of k-space; expected a signal")
    kspace = (calibration / peak).to(torch.complex64)
    padded = kspace.new_zeros((*kspace.shape[:2], *shape))
    middle = padded
    for axis, size in enumerate(shape, 2):
        n = kspace.shape[axis]
        if n < size:
            window = torch.cos(torch.pi * (torch.arange(n) - n // 2) / (n + 2)).square().to(kspace)
            kspace = kspace * window.view(-1, *[1] * (kspace.ndim - axis - 1))
        middle = middle.narrow(axis, size // 2 - n // 2, n)
    middle.copy_(kspace)
    images = centred_ifft(padded, len(shape))
    intensity = torch.linalg.vector_norm(images, dim=1, keepdim=True)
    inside = intensity > threshold * intensity.flatten(1).amax(1).view(-1, *[1] * (intensity.ndim - 1))
    return torch.where(inside, images / torch.where(inside, intensity, 1), 0)
