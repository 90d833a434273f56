"""Convolution of images with a kernel twice their size, by FFTs, without the doubled grid ever being held."""

from typing import Any

import torch
from torch import Tensor

# Complex numbers of the doubled grid at once: 2 MB in single precision, about a cache, and 128 MB on devices that want
# much to do.
_ELEMENTS_AT_ONCE = {"cpu": 1 << 18}
_ELEMENTS_ON_DEVICES = 1 << 24


def padded_convolution(image: Tensor, spectrum: Tensor) -> Tensor:
    """``crop F^-1 (t . F pad x)``: an image padded with zeros to twice its size, filtered, and cropped again.

    Differentiable any number of times with respect to the image; it is its own adjoint, since t is real. Memory is
    that of two images (and the image's gradient), whatever the number of axes.

    Args:
        image: x, (B, C, *N) complex.
        spectrum: t, (B or 1, *2N) real, DC at index 0; a constant.

    Returns:
        (B, C, *N).

    >>> image = torch.randn(1, 2, 4, 6, dtype=torch.complex64)
    >>> torch.allclose(padded_convolution(image, torch.ones(1, 8, 12)), image, atol=1e-5)
    True
    """
    return torch.as_tensor(_Convolution.apply(image, spectrum))


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor, spectrum: Tensor) -> Tensor:
        ctx.spectrum = spectrum
        return _convolved(image.detach(), spectrum)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return _Convolution.apply(gradient, ctx.spectrum), None


def _convolved(image: Tensor, spectrum: Tensor) -> Tensor:
    # Axis by axis, so that rows of padding are not transformed and rows to be cropped not transformed back; and, once
    # the first axis is in k-space, some planes at a time, which stay in cache.
    shape = image.shape[2:]
    first, *others = range(-len(shape), 0)
    transformed = torch.fft.fft(image, n=2 * shape[first], dim=first)
    wide = transformed.numel() // (2 * shape[first]) * 2 ** len(others)
    planes = max(1, _ELEMENTS_AT_ONCE.get(image.device.type, _ELEMENTS_ON_DEVICES) // wide)
    for start in range(0, 2 * shape[first], planes):
        count = min(planes, 2 * shape[first] - start)
        part = doubled = transformed.narrow(first, start, count)
        for axis in others:
            doubled = torch.fft.fft(doubled, n=2 * shape[axis], dim=axis)
        doubled = doubled * spectrum.unsqueeze(1).narrow(first, start, count)
        for axis in reversed(others):
            doubled = torch.fft.ifft(doubled, dim=axis).narrow(axis, 0, shape[axis])
        part.copy_(doubled)
    return torch.fft.ifft(transformed, dim=first).narrow(first, 0, shape[first])
