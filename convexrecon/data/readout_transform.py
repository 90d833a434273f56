"""The fully sampled readout of three-dimensional k-space taken to image space: its places are then slices."""

import numpy as np
import torch
from numpy.typing import NDArray

from convexrecon.physics.fourier import centred_fft, centred_ifft

# Complex numbers transformed at a time.
AT_ONCE = 2**22


def inverse_along(samples: NDArray[np.complex64], axis: int) -> NDArray[np.complex64]:
    """Orthonormal inverse transform along one axis, the origin at N//2 on both sides; the shape stays."""
    return _along(samples, axis, inverse=True)


def forward_along(images: NDArray[np.complex64], axis: int) -> NDArray[np.complex64]:
    """The inverse of `inverse_along`."""
    return _along(images, axis, inverse=False)


def transform_first_axis(array: NDArray[np.complex64]) -> None:
    """`inverse_along` the first axis of an array (z, C, y, x), in place, some rows y at a time."""
    step = rows_at_once(array.shape)
    for start in range(0, array.shape[2], step):
        rows = slice(start, start + step)
        array[:, :, rows] = inverse_along(array[:, :, rows], 0)


def rows_at_once(shape: tuple[int, ...]) -> int:
    """How many rows y of (z, C, y, x) are transformed at a time."""
    return max(1, AT_ONCE * shape[2] // int(np.prod(shape, dtype=object)))


def _along(array: NDArray[np.complex64], axis: int, *, inverse: bool) -> NDArray[np.complex64]:
    last = torch.from_numpy(np.ascontiguousarray(np.moveaxis(array, axis, -1), np.complex64))
    moved = centred_ifft(last, 1) if inverse else centred_fft(last, 1)
    return np.moveaxis(moved.numpy(), -1, axis)
