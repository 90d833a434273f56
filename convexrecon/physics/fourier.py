"""Orthonormal Fourier transforms, and the one place where centring happens.

Files keep k-space with DC at index N//2. Inside the library k-space is *uncentred*: exactly
``torch.fft.fftn(image)``, with the image left as it is seen. `uncentre` takes the first to the
second once, at the border, by a roll and a phase; no loop ever shifts.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def fft(image: Tensor, ndim: int) -> Tensor:
    """Orthonormal uncentred FFT over the last `ndim` axes: image (..., *N) -> k-space (..., *N)."""
    return torch.fft.fftn(image, dim=_last(ndim), norm="ortho")


def ifft(kspace: Tensor, ndim: int) -> Tensor:
    """Orthonormal uncentred inverse FFT over the last `ndim` axes; the adjoint of `fft`."""
    return torch.fft.ifftn(kspace, dim=_last(ndim), norm="ortho")


def centred_fft(image: Tensor, ndim: int) -> Tensor:
    """Orthonormal FFT with the origin at N//2 on both sides, as scanners and fastMRI files have it."""
    axes = _last(ndim)
    shifted = torch.fft.ifftshift(image, dim=axes)
    return torch.fft.fftshift(torch.fft.fftn(shifted, dim=axes, norm="ortho"), dim=axes)


def centred_ifft(kspace: Tensor, ndim: int) -> Tensor:
    """Orthonormal inverse FFT with the origin at N//2 on both sides; the inverse of `centred_fft`."""
    axes = _last(ndim)
    shifted = torch.fft.ifftshift(kspace, dim=axes)
    return torch.fft.fftshift(torch.fft.ifftn(shifted, dim=axes, norm="ortho"), dim=axes)


def uncentre(kspace: Tensor, ndim: int) -> Tensor:
    """Centred k-space of an image to its uncentred k-space: ``fft(centred_ifft(k))``.

    A roll by N//2 and a phase of modulus one, so samples that are zero stay exactly zero and white
    noise stays white.

    Args:
        kspace: (..., *N) complex, DC at N//2 in each of the last `ndim` axes.

    Returns:
        (..., *N) complex with DC at index 0.
    """
    out = torch.fft.ifftshift(kspace, dim=_last(ndim))
    for axis in _last(ndim):
        out = out * _shift_phase(out, axis).conj()
    return out


def recentre(kspace: Tensor, ndim: int) -> Tensor:
    """Uncentred k-space of an image to its centred k-space; the inverse of `uncentre`."""
    out = kspace
    for axis in _last(ndim):
        out = out * _shift_phase(out, axis)
    return torch.fft.fftshift(out, dim=_last(ndim))


def crop_centre(array: Tensor, shape: Sequence[int]) -> Tensor:
    """Crop the last axes to `shape` around index N//2; an axis already smaller is left as it is."""
    for axis, size in zip(range(-len(shape), 0), shape, strict=True):
        have = array.shape[axis]
        if have > size:
            array = array.narrow(axis, crop_start(have, size), size)
    return array


def crop_start(have: int, size: int) -> int:
    """Where `size` of `have` begin, so that index have//2 becomes size//2."""
    return have // 2 - size // 2


def _last(ndim: int) -> tuple[int, ...]:
    return tuple(range(-ndim, 0))


def _shift_phase(kspace: Tensor, axis: int) -> Tensor:
    """exp(2 pi i f (N//2) / N) along `axis`: what moving the image origin to N//2 does to k-space."""
    size = kspace.shape[axis]
    # The product f * (N//2) is reduced modulo N in integers: a float32 angle of many turns is inaccurate.
    turns = (torch.arange(size) * (size // 2) % size).double() / size
    phase = torch.polar(torch.ones_like(turns), 2 * torch.pi * turns)
    shape = [1] * kspace.ndim
    shape[axis] = size
    return phase.reshape(shape).to(kspace)
