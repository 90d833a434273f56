"""Image quality, each figure named by its definition: PSNR, SSIM as fastMRI, NMSE.

Everything is computed in float64 on the host, one slice at a time, and comes out as a plain float.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from skimage.metrics import structural_similarity
from torch import Tensor

from convexrecon.errors import InputError

Array = npt.NDArray[Any]
ArrayLike = Tensor | Array
"""A torch tensor on any device, or a numpy array; real or complex."""

SSIM_WINDOW = 7

DEFINITIONS: dict[str, str] = {
    "psnr": "20 log10(max|x*| / RMSE) in dB: complex error x - x*, maximum over that slice",
    "psnr_magnitude": "20 log10(max|x*| / RMSE) in dB: error of magnitudes |x| - |x*|, maximum over that slice",
    "ssim": "structural similarity of magnitudes as in fastMRI: uniform 7x7 window, K1 = 0.01, K2 = 0.03, "
    "data range = maximum of the volume's reference magnitude",
    "nmse": "||x - x*||^2 / ||x*||^2: complex error, over one slice",
    "seconds": "wall-clock seconds to reconstruct one slice; coil maps are taken as given",
}
"""What every figure means; printed under every table. Of a volume or a series, its slices together are the "slice"."""


@dataclass(frozen=True)
class SliceScore:
    """The scores of one reconstructed slice; `DEFINITIONS` says what each means."""

    method: str
    volume: str
    slice_index: int
    psnr: float
    psnr_magnitude: float
    ssim: float
    nmse: float
    seconds: float


def psnr(reconstruction: ArrayLike, reference: ArrayLike) -> float:
    """Peak signal-to-noise ratio of one slice, ``20 log10(max|x*| / rms(x - x*))``, in dB.

    The error is complex, so a wrong phase counts. Ozturkler et al., ISMRM 2021 #1953, report slice-wise PSNR.

    Args:
        reconstruction: x, (y, x) or any shape, real or complex.
        reference: x*, same shape and units.

    Returns:
        dB; infinite when the two are equal.

    Raises:
        InputError: shapes differ, an entry is NaN or infinite, or the reference is zero.

    >>> round(psnr(np.array([[1.0, 0.9]]), np.array([[1.0, 1.0]])), 3)
    23.01
    """
    x, ref = _pair(reconstruction, reference)
    return _decibel(x - ref, ref)


def psnr_magnitude(reconstruction: ArrayLike, reference: ArrayLike) -> float:
    """Peak signal-to-noise ratio of magnitudes, ``20 log10(max|x*| / rms(|x| - |x*|))``, in dB.

    Arguments and errors as `psnr`; never less than `psnr`, since phase errors are forgiven.
    """
    x, ref = _pair(reconstruction, reference)
    return _decibel(np.abs(x) - np.abs(ref), ref)


def nmse(reconstruction: ArrayLike, reference: ArrayLike) -> float:
    """Normalized mean squared error of complex images, ``||x - x*||^2 / ||x*||^2``; arguments as `psnr`."""
    x, ref = _pair(reconstruction, reference)
    return _energy(x - ref) / _energy(ref)


def ssim(reconstruction: ArrayLike, reference: ArrayLike, data_range: float) -> float:
    """Structural similarity of the magnitudes of one slice, as fastMRI computes it.

    Uniform 7x7 window, K1 = 0.01, K2 = 0.03 and the sample covariance; Wang et al., IEEE Trans Image Process
    13:600 (2004), in the form of Zbontar et al., arXiv 1811.08839.

    Args:
        reconstruction: (y, x), real or complex.
        reference: (y, x), same units.
        data_range: the maximum reference magnitude of the whole volume, same units.

    Raises:
        InputError: as `psnr`; also a slice smaller than the window, or a data range that is not positive.
    """
    x, ref = _pair(reconstruction, reference)
    if ref.ndim != 2 or min(ref.shape) < SSIM_WINDOW:
        raise InputError(f"ssim: expected one slice (y, x) of at least {SSIM_WINDOW}x{SSIM_WINDOW}, found {ref.shape}")
    if not data_range > 0 or not np.isfinite(data_range):
        raise InputError(f"ssim: expected a positive data_range, found {data_range}")
    return float(structural_similarity(np.abs(ref), np.abs(x), win_size=SSIM_WINDOW, data_range=float(data_range)))


def score_volume(
    method: str,
    volume: str,
    reconstructions: ArrayLike,
    references: ArrayLike,
    slice_indices: Sequence[int],
    seconds: float | Sequence[float],
    *,
    volume_maximum: float | None = None,
) -> list[SliceScore]:
    """Score every slice of one volume.

    Args:
        method: name of the method, a row of the table.
        volume: name of the volume.
        reconstructions: (S, y, x) real or complex.
        references: (S, y, x), same units.
        slice_indices: the S indices of these slices in their file.
        seconds: reconstruction time of each slice, one number for all or S numbers.
        volume_maximum: the SSIM data range; by default ``max|references|``, right when all slices are given.

    Raises:
        InputError: shapes or counts differ, NaN or Inf, a reference slice that is zero.
    """
    # Values are checked slice by slice below, where the message can name the slice.
    x, ref = _host(reconstructions), _host(references)
    if x.shape != ref.shape or ref.ndim != 3 or len(slice_indices) != ref.shape[0] or ref.size == 0:
        raise InputError(
            f"volume {volume}: expected reconstructions and references (S, y, x) and S slice indices, "
            f"found {x.shape}, {ref.shape} and {len(slice_indices)} indices"
        )
    times = [float(seconds)] * len(ref) if isinstance(seconds, int | float) else [float(s) for s in seconds]
    if len(times) != len(ref):
        raise InputError(f"volume {volume}: expected {len(ref)} times, found {len(times)}")
    peak = float(np.abs(ref).max()) if volume_maximum is None else volume_maximum
    return [
        _score_slice(method, volume, int(index), image, truth, peak, duration)
        for image, truth, index, duration in zip(x, ref, slice_indices, times, strict=True)
    ]


def score_whole(
    method: str, volume: str, reconstruction: ArrayLike, reference: ArrayLike, seconds: float
) -> SliceScore:
    """Score a volume or a series as one image: PSNR and NMSE over all of it, SSIM the mean over its slices.

    Args:
        method: name of the method.
        volume: name of the volume.
        reconstruction: (z, y, x) or (t, y, x), real or complex.
        reference: same shape and units; slices without an object, zero everywhere, do not count in the SSIM.
        seconds: reconstruction time.

    Raises:
        InputError: shapes differ or are not three-dimensional, NaN or Inf, a reference that is zero.
    """
    x, ref = _host(reconstruction), _host(reference)
    if x.shape != ref.shape or ref.ndim != 3:
        raise InputError(f"volume {volume}: expected two images of three axes, found {x.shape} and {ref.shape}")
    try:
        peak = float(np.abs(ref).max())
        similar = [ssim(image, truth, peak) for image, truth in zip(x, ref, strict=True) if np.any(truth)]
        return SliceScore(
            method=method,
            volume=volume,
            slice_index=0,
            psnr=psnr(x, ref),
            psnr_magnitude=psnr_magnitude(x, ref),
            ssim=float(np.mean(similar)),
            nmse=nmse(x, ref),
            seconds=seconds,
        )
    except InputError as error:
        raise InputError(f"{method}, volume {volume}: {error}") from error


def _score_slice(
    method: str, volume: str, index: int, image: Array, truth: Array, peak: float, seconds: float
) -> SliceScore:
    try:
        return SliceScore(
            method=method,
            volume=volume,
            slice_index=index,
            psnr=psnr(image, truth),
            psnr_magnitude=psnr_magnitude(image, truth),
            ssim=ssim(image, truth, peak),
            nmse=nmse(image, truth),
            seconds=seconds,
        )
    except InputError as error:
        raise InputError(f"{method}, volume {volume}, slice {index}: {error}") from error


def _pair(reconstruction: ArrayLike, reference: ArrayLike) -> tuple[Array, Array]:
    x, ref = _host(reconstruction), _host(reference)
    if x.shape != ref.shape:
        raise InputError(f"reconstruction has shape {x.shape}, the reference {ref.shape}: expected the same")
    for name, array in (("reconstruction", x), ("reference", ref)):
        if not np.isfinite(array).all():
            raise InputError(f"{name}: holds NaN or Inf, expected finite numbers")
    if not np.any(ref):
        raise InputError("reference: is zero everywhere, so no relative error is defined")
    return x, ref


def _host(array: ArrayLike) -> Array:
    values = array.detach().cpu().numpy() if isinstance(array, Tensor) else np.asarray(array)
    return values.astype(np.complex128 if np.iscomplexobj(values) else np.float64)


def _energy(array: Array) -> float:
    return float(np.sum(np.abs(array) ** 2))


def _decibel(error: Array, reference: Array) -> float:
    rms = np.sqrt(_energy(error) / error.size)
    if rms == 0:
        return float("inf")
    return float(20 * np.log10(np.abs(reference).max() / rms))
