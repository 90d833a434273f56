"""Which block removed which error: what is wrong after every step, by frequency, measured or not, and by cause.

The error e of an image falls into bands of frequency, ``e = sum_b P_b e``, whose energies add up. Of each band,
``Re <P_b e, A^H A e>`` is what the measured samples see, at a Cartesian scan the energy of e at the sampled places of
k-space; over the bands it adds up to ||A e||^2. The rest is what was not measured: aliasing and missing detail.

Two causes: reconstructed from A x*, samples without noise, what remains is the error of undersampling; what the actual
samples change of that is the error of noise, and of whatever else A x* does not explain. They need not be orthogonal.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from convexrecon.cascade import Cascade
from convexrecon.errors import InputError
from convexrecon.interpret.block_states import block_states
from convexrecon.physics.forward_model import ForwardModel
from convexrecon.physics.fourier import fft, ifft

BANDS = 6


@dataclass(frozen=True, eq=False)
class StageError:
    """The error after a step. Energies are shares of ||x*||^2.

    Attributes:
        name: "initial image", "denoiser 1", "consistency 1", "denoiser 2" and so on.
        block: 1, 2, ...; 0 of the initial image.
        error: e, (B, *N) complex.
        energy: of each band, (bands,); they add up to the squared relative error.
        measured: of each band, what the samples see, (bands,).
        undersampling: energy of the error of a reconstruction from A x*.
        noise: energy of what the actual samples change of it.
    """

    name: str
    block: int
    error: Tensor
    energy: Tensor
    measured: Tensor
    undersampling: float
    noise: float

    @property
    def unmeasured(self) -> Tensor:
        """Of each band, what no sample sees, (bands,)."""
        return self.energy - self.measured


@torch.no_grad()
def block_errors(
    cascade: Cascade,
    sense: ForwardModel,
    kspace: Tensor,
    target: Tensor,
    *,
    bands: int = BANDS,
    axes: int | None = None,
) -> list[StageError]:
    """The error of the initial image, and after every denoiser and every data consistency.

    Args:
        cascade: the network.
        sense: A.
        kspace: y, (B, C, *N) or (B, C, samples), scaled.
        target: x*, (B, *N), on the same scale.
        bands: rings of equal width in frequency, the last with the corners; see `band_edges`.
        axes: the last so many image axes have frequencies, e.g. 2 of a series (t, y, x); all if None.

    Raises:
        InputError: a target of another shape or of zeros, fewer than one band, more axes than there are.
    """
    if target.shape != sense.adjoint(kspace).shape or not bool(target.any()):
        raise InputError(f"target: expected an image of the measurement's shape, not zero; found {tuple(target.shape)}")
    rings = _rings(target, bands, target.ndim - 1 if axes is None else axes)
    whole = float(target.abs().square().sum())
    stages = zip(_images(cascade, sense, kspace), _images(cascade, sense, sense.forward(target)), strict=True)
    found = []
    for (name, block, image), (_, _, ideal) in stages:
        error = image - target
        parts = [ifft(ring * fft(error, ring.ndim), ring.ndim) for ring in rings]
        seen = sense.normal(error)
        found.append(
            StageError(
                name=name,
                block=block,
                error=error,
                energy=torch.stack([_energy(part) for part in parts]) / whole,
                measured=torch.stack([(part.conj() * seen).real.sum().double().cpu() for part in parts]) / whole,
                undersampling=float(_energy(ideal - target)) / whole,
                noise=float(_energy(image - ideal)) / whole,
            )
        )
    return found


def band_edges(bands: int, axes: int) -> list[float]:
    """Where bands end, in cycles a pixel, from 0 to the corner of k-space; all but the last are equally wide.

    >>> band_edges(2, 2)
    [0.0, 0.25, 0.7071067811865476]
    """
    return [0.5 * k / bands for k in range(bands)] + [0.5 * math.sqrt(axes)]


def _images(cascade: Cascade, sense: ForwardModel, kspace: Tensor) -> Iterator[tuple[str, int, Tensor]]:
    """The image after every step, with the step's name and block."""
    if not len(cascade):
        yield "initial image", 0, cascade(sense, kspace)
    for number, state in enumerate(block_states(cascade, sense, kspace), 1):
        if number == 1:
            yield "initial image", 0, state.before
        yield f"denoiser {number}", number, state.denoised
        yield f"consistency {number}", number, state.after


def _rings(image: Tensor, bands: int, axes: int) -> list[Tensor]:
    """Zeros and ones over the frequencies of the last axes, DC at index 0, one tensor a band."""
    if bands < 1:
        raise InputError(f"bands: expected at least 1, found {bands}")
    if not 1 <= axes < image.ndim:
        raise InputError(f"axes: expected 1 to {image.ndim - 1}, the image's, found {axes}")
    radius = torch.zeros((), dtype=torch.float64)
    for axis in range(-axes, 0):
        cycles = torch.fft.fftfreq(image.shape[axis], dtype=torch.float64)
        radius = radius + cycles.square().view(-1, *[1] * (-axis - 1))
    edges = torch.tensor(band_edges(bands, axes)[1:-1], dtype=torch.float64)
    which = torch.bucketize(radius.sqrt(), edges, right=True)
    return [(which == band).to(image.real) for band in range(bands)]


def _energy(image: Tensor) -> Tensor:
    return image.abs().double().square().sum().cpu()
