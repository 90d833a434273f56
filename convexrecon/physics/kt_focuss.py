"""k-t FOCUSS: a series whose temporal frequencies are few at every pixel, by a few weighted least-squares problems."""

import torch
from torch import Tensor

from convexrecon.errors import InputError
from convexrecon.physics.conjugate_gradient import conjugate_gradient
from convexrecon.physics.forward_model import ForwardModel

# Of the first problem, relative to ||A||^2 <= 1: of what does not change, and of each step in temporal frequency.
STILL_WEIGHT, FREQUENCY_WEIGHT = 0.001, 0.1
# Of the others: weight of a component as large as the mean of all; least size, relative to it, that w is made from.
SPARSITY_WEIGHT, LEAST = 0.05, 0.02
TOLERANCE = 1e-4


def kt_focuss(sense: ForwardModel, adjoint_kspace: Tensor, *, rounds: int = 2, iterations: int = 25) -> Tensor:
    """``min_x ||A x - y||^2 + sum w |F x|^2``, F the Fourier transform in time, w in turn made from the last x.

    First w grows with the temporal frequency, then ``w = 0.05 mean|F x| / |F x|``, so that at every pixel what
    is small is penalized most: iteratively reweighted least squares for the l1 norm of F x. A series k times as large
    gives a result k times as large, and a phase is kept. Time is taken to go round.
    Jung et al., Magn Reson Med 61:103 (2009); the first problem as in Tsao et al., k-t SENSE, ibid. 50:1031 (2003),
    without training data.

    Args:
        sense: A, of a series whose first axis is time.
        adjoint_kspace: A^H y, (B, t, *N).
        rounds: of weights made from the last x.
        iterations: most conjugate-gradient steps of each problem; twice as many fit more of the noise.

    Returns:
        (B, t, *N).

    Raises:
        InputError: not a series.
    """
    if sense.ndim < 3:
        raise InputError(f"initial: 'kt_focuss' expects series (t, y, x), found images of {sense.ndim} axes")
    frequency = torch.fft.fftfreq(adjoint_kspace.shape[1], 1 / adjoint_kspace.shape[1]).abs()
    weights = STILL_WEIGHT + FREQUENCY_WEIGHT * frequency.to(adjoint_kspace.device)
    spectrum = _spectrum(sense, adjoint_kspace, weights.view(-1, *[1] * (adjoint_kspace.ndim - 2)), iterations)
    for _ in range(rounds):
        sizes = spectrum.abs()
        means = sizes.flatten(1).mean(1).clamp_min(torch.finfo(sizes.dtype).tiny)
        relative = sizes / means.view(-1, *[1] * (sizes.ndim - 1))
        spectrum = _spectrum(sense, adjoint_kspace, SPARSITY_WEIGHT / relative.clamp_min(LEAST), iterations)
    return torch.fft.ifft(spectrum, dim=1, norm="ortho")


def _spectrum(sense: ForwardModel, adjoint_kspace: Tensor, weights: Tensor, iterations: int) -> Tensor:
    """F x of the minimum. Solved for ``sqrt(w) F x``, in which the penalty is as strong everywhere: fewer steps."""
    scales = weights.rsqrt()

    def normal(scaled: Tensor) -> Tensor:
        image = torch.fft.ifft(scales * scaled, dim=1, norm="ortho")
        return scales * torch.fft.fft(sense.normal(image), dim=1, norm="ortho") + scaled

    right = scales * torch.fft.fft(adjoint_kspace, dim=1, norm="ortho")
    return scales * conjugate_gradient(normal, right, tolerance=TOLERANCE, max_iterations=iterations).solution
