"""Coil sensitivity maps from the fully sampled centre of k-space: ESPIRiT, and Walsh's estimate.

Both return maps of unit sum of squares over coils inside the object and zero outside. The phase that the
data leave free is fixed by a virtual coil, one combination of the coils chosen to be sensitive everywhere in
the object, so that maps and SENSE images have a smooth phase where a single coil would have none.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from convexrecon.errors import InputError
from convexrecon.physics.fourier import centred_ifft, crop_centre

# Pixels decomposed at once: bounds the memory to about 200 bytes * coils^2 * this.
_PIXELS_AT_ONCE = 1 << 14
# The phase of the maps is fixed by looking at pixels above this fraction of the brightest.
_OBJECT_LEVEL = 0.1
_PHASE_STEPS = 50


def calibration_region(kspace: Tensor, size: int | tuple[int, int]) -> Tensor:
    """The central `size` square, or (y, x) rectangle, of centred k-space (..., y, x), around index N//2.

    Raises:
        InputError: it is empty or larger than k-space.

    >>> calibration_region(torch.arange(30).reshape(5, 6), 2)
    tensor([[ 8,  9],
            [14, 15]])
    """
    wanted = (size, size) if isinstance(size, int) else size
    have = (int(kspace.shape[-2]), int(kspace.shape[-1]))
    if min(wanted) < 1 or wanted[0] > have[0] or wanted[1] > have[1]:
        raise InputError(
            f"calibration: region of {wanted[0]} x {wanted[1]} samples asked for; "
            f"expected 1 x 1 to {have[0]} x {have[1]} (the k-space size)"
        )
    return crop_centre(kspace, wanted)


def espirit(
    calibration: Tensor,
    shape: tuple[int, int],
    *,
    kernel: int = 6,
    threshold: float = 0.02,
    crop: float = 0.9,
    virtual: Tensor | None = None,
) -> Tensor:
    """ESPIRiT maps: at each pixel r, the eigenvector of the largest eigenvalue of an averaged projection.

    The patches of `kernel` x `kernel` x C calibration samples span a signal space (singular values above
    `threshold` times the largest); P projects on it. With a, b offsets within a patch,

        M(r)_cc' = 1/k^2 sum_{a,b} exp(+i 2 pi a.r) P_(c,a)(c',b) exp(-i 2 pi b.r),    M(r) s(r) = s(r).

    M depends on a - b alone, so it is formed from (2k-1)^2 lags by one small transform per axis.
    Uecker et al., Magn Reson Med 71:990 (2014), eqs. 5 to 10; one map.

    Args:
        calibration: (B, C, cy, cx) complex, the centre of centred k-space.
        shape: (y, x) of the maps, in pixels; at least (cy, cx).
        kernel: side of the patches, in samples.
        threshold: singular values kept, relative to the largest of the slice.
        crop: eigenvalue in [0, 1] below which a pixel is outside the object.
        virtual: (C,) complex, the virtual coil that fixes the phase, see `virtual_coil`; each slice's own if None.

    Returns:
        (B, C, y, x) complex64, on the device of `calibration`: sum_c |maps_c|^2 is 1 inside the object and 0
        outside, where all maps are zero.

    Raises:
        InputError: NaN, Inf or only zeros in a calibration region; a region larger than the image; a kernel
            larger than the region; threshold or crop outside [0, 1].
    """
    _check_calibration(calibration, shape)
    coils, rows, columns = (int(n) for n in calibration.shape[1:])
    if not 1 <= kernel <= min(rows, columns):
        raise InputError(
            f"kernel: {kernel} asked for; expected 1 to {min(rows, columns)}, within the {rows} x {columns} "
            "calibration region"
        )
    for name, value in (("threshold", threshold), ("crop", crop)):
        if not 0 <= value <= 1:
            raise InputError(f"{name}: found {value}; expected a number from 0 to 1")
    lags = _signal_space_lags(calibration, kernel, threshold)
    transforms = tuple(_lag_transform(n, kernel, calibration.device) for n in shape)
    maps = calibration.new_zeros((len(calibration), coils, *shape), dtype=torch.complex64)
    height = max(1, _PIXELS_AT_ONCE // shape[1])
    for index, lag in enumerate(lags):
        along_x = torch.einsum("cdab,xb->cdax", lag, transforms[1])
        for start in range(0, shape[0], height):
            block = transforms[0][start : start + height]
            matrices = torch.einsum("cdax,ya->yxcd", along_x, block)
            vectors = _dominant_vectors(matrices, crop)
            maps[index, :, start : start + height] = vectors.permute(2, 0, 1)
    return _fix_phase(maps, calibration, virtual)


def walsh(
    calibration: Tensor,
    shape: tuple[int, int],
    *,
    box: int = 7,
    threshold: float = 0.05,
    virtual: Tensor | None = None,
) -> Tensor:
    """Walsh's adaptive combination on low-resolution coil images: cheap, without a null space.

    The windowed calibration region gives images I_c; the maps are the dominant eigenvector of their local
    covariance, R_cc'(r) = sum over a `box` x `box` neighbourhood of I_c conj(I_c').
    Walsh et al., Magn Reson Med 43:682 (2000), eq. 18 with white noise.

    Args:
        calibration: (B, C, cy, cx) complex, the centre of centred k-space.
        shape: (y, x) of the maps, in pixels; at least (cy, cx).
        box: side of the neighbourhood, in pixels.
        threshold: pixels whose root-sum-of-squares is below this times the slice's largest are outside.
        virtual: as in `espirit`.

    Returns:
        (B, C, y, x) complex64 as `espirit`.

    Raises:
        InputError: NaN, Inf or only zeros in a calibration region; a region larger than the image; box or
            threshold out of range.
    """
    _check_calibration(calibration, shape)
    if box < 1:
        raise InputError(f"box: found {box}; expected at least 1 pixel")
    if not 0 <= threshold < 1:
        raise InputError(f"threshold: found {threshold}; expected a number from 0 to below 1")
    images = _low_resolution(calibration, shape)
    maps = torch.zeros_like(images)
    height = max(1, _PIXELS_AT_ONCE // shape[1])
    for index, image in enumerate(images):
        intensity = torch.linalg.vector_norm(image, dim=0)
        inside = intensity >= threshold * intensity.max()
        margin = box // 2
        padded = F.pad(image, (margin, box - 1 - margin, margin, box - 1 - margin))
        for start in range(0, shape[0], height):
            rows = padded[:, start : start + height + box - 1]
            matrices = _box_sum(torch.einsum("cyx,dyx->cdyx", rows, rows.conj()), box).permute(2, 3, 0, 1)
            vectors = _dominant_vectors(matrices, 0.0, inside[start : start + height])
            maps[index, :, start : start + height] = vectors.permute(2, 0, 1)
    return _fix_phase(maps, calibration, virtual)


def _check_calibration(calibration: Tensor, shape: tuple[int, int]) -> None:
    found = tuple(calibration.shape)
    if calibration.ndim != 4 or not calibration.is_complex() or 0 in found:
        raise InputError(f"calibration: expected complex (B, C, cy, cx), not empty; found {calibration.dtype} {found}")
    if found[2] > shape[0] or found[3] > shape[1]:
        raise InputError(
            f"calibration: region of {found[2]} x {found[3]} samples is larger than the image, {shape[0]} x {shape[1]}"
        )
    flat = torch.view_as_real(calibration).reshape(found[0], -1)
    for index, row in enumerate(flat):
        where = f"calibration: slice {index} of {found[0]}" if found[0] > 1 else "calibration: the region"
        if not bool(torch.isfinite(row).all()):
            raise InputError(f"{where} holds NaN or Inf; expected finite k-space samples")
        if not bool((row != 0).any()):
            raise InputError(f"{where} is zero everywhere; expected the fully sampled centre of k-space")


def _signal_space_lags(calibration: Tensor, kernel: int, threshold: float) -> Tensor:
    """L(d)_cc' = 1/k^2 sum_{a-b=d} P_(c,a)(c',b): (B, C, C, 2k-1, 2k-1) complex64, zero lag at k-1."""
    batch, coils = calibration.shape[:2]
    # One scale per slice, or squares of very small or large samples leave the range of numbers.
    peak = calibration.abs().amax((1, 2, 3), keepdim=True)
    patches = (calibration.to(torch.complex128) / peak).unfold(2, kernel, 1).unfold(3, kernel, 1)
    rows = patches.permute(0, 2, 3, 1, 4, 5).reshape(batch, -1, coils * kernel**2)
    # Eigenvectors of the smaller Gram matrix: the squared condition number is harmless in double, far above
    # the threshold, and this is several times faster than the singular value decomposition.
    if rows.shape[1] < rows.shape[2]:
        values, left = torch.linalg.eigh(rows @ rows.mH)
        basis = rows.mT @ left.conj()
    else:
        values, basis = torch.linalg.eigh(rows.mT @ rows.conj())
    # Eigenvalues ascend. The floor drops directions that only rounding made, also for threshold = 0.
    keep = values > max(threshold**2, 1e-12) * values[:, -1:]
    basis = basis / torch.linalg.vector_norm(basis, dim=1, keepdim=True).clamp_min(1e-300) * keep[:, None]
    projection = (basis @ basis.mH).reshape(batch, coils, kernel, kernel, coils, kernel, kernel)
    lags = projection.new_zeros((batch, coils, coils, 2 * kernel - 1, 2 * kernel - 1))
    for ay in range(kernel):
        for ax in range(kernel):
            # b runs over the patch, so d = a - b runs backwards from a + (k-1) to a.
            patch = projection[:, :, ay, ax].flip(-1, -2)
            lags[..., ay : ay + kernel, ax : ax + kernel] += patch
    return (lags / kernel**2).to(torch.complex64)


def _lag_transform(size: int, kernel: int, device: torch.device) -> Tensor:
    """exp(+i 2 pi d (n - N//2) / N): (N, 2k-1), from lags -(k-1)..k-1 to pixels."""
    pixels = torch.arange(size) - size // 2
    lags = torch.arange(1 - kernel, kernel)
    # Reduced modulo N in integers: a float32 angle of many turns is inaccurate.
    turns = (pixels[:, None] * lags[None, :] % size).double() / size
    phase = torch.polar(torch.ones_like(turns), 2 * torch.pi * turns)
    return phase.to(device=device, dtype=torch.complex64)


def _dominant_vectors(matrices: Tensor, least: float, inside: Tensor | None = None) -> Tensor:
    """Unit eigenvectors of the largest eigenvalue, (y, x, C); zero where that is below `least` or outside.

    Args:
        matrices: (y, x, C, C) Hermitian, positive semidefinite.
        inside: (y, x) bool, the pixels wanted; all by default.
    """
    flat = matrices.reshape(-1, *matrices.shape[-2:])
    # No eigenvalue exceeds the Frobenius norm: most of the background needs no decomposition.
    wanted = torch.linalg.matrix_norm(flat) >= least
    if inside is not None:
        wanted = wanted & inside.reshape(-1)
    vectors = flat.new_zeros(flat.shape[:2])
    if bool(wanted.any()):
        values, columns = torch.linalg.eigh(flat[wanted])
        vectors[wanted] = columns[..., -1] * (values[..., -1:] >= least)
    return vectors.reshape(matrices.shape[:3])


def virtual_coil(maps: Tensor, calibration: Tensor) -> Tensor:
    """The one combination of coils that is sensitive everywhere in a volume, of which some slices are given.

    With it all slices of the volume get phases that continue each other; with one of its own each would not.

    Args:
        maps: (S, C, y, x) complex, of any phase.
        calibration: (S, C, cy, cx) complex, in the same units for all slices.

    Returns:
        (C,) complex128 of norm 1.
    """
    peaks = calibration.abs().amax((1, 2, 3))
    vectors, intensity, object_ = _object_pixels(maps, calibration, peaks)
    together = vectors.transpose(0, 1).reshape(1, maps.shape[1], -1)
    return _sensitive_everywhere(together, intensity.reshape(1, -1), object_.reshape(1, -1))[0]


def _fix_phase(maps: Tensor, calibration: Tensor, virtual: Tensor | None) -> Tensor:
    """Turn the phase of every pixel so that the virtual coil sum_c conj(w_c) maps_c is real and positive."""
    if virtual is None:
        weight = _sensitive_everywhere(*_object_pixels(maps, calibration))
    else:
        weight = virtual.expand(len(maps), -1)
    response = torch.einsum("bc,bcyx->byx", weight.conj().to(maps.dtype), maps)
    return maps * torch.polar(torch.ones_like(response.real), -response.angle())[:, None]


def _object_pixels(maps: Tensor, calibration: Tensor, peaks: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Maps (B, C, n), intensity (B, n) and which pixels are the object's (B, n), at some of the pixels.

    `peaks` (B,) are the slices' scales where they are one volume, whose brightest pixel then counts for all.
    """
    batch, coils = maps.shape[:2]
    # Where there is signal: far outside, maps of a noisy region may be anything and must not steer w.
    intensity = torch.linalg.vector_norm(_low_resolution(calibration, (maps.shape[-2], maps.shape[-1])), dim=1)
    if peaks is not None:
        intensity = intensity * peaks.view(-1, 1, 1)
    brightest = intensity.amax((1, 2), keepdim=True) if peaks is None else intensity.max()
    object_ = (intensity > _OBJECT_LEVEL * brightest) & (maps != 0).any(1)
    stride = max(1, min(maps.shape[-2:]) // 64)
    object_ = object_[:, ::stride, ::stride].reshape(batch, -1)
    vectors = maps[..., ::stride, ::stride].reshape(batch, coils, -1).to(torch.complex128) * object_[:, None]
    return vectors, intensity[:, ::stride, ::stride].reshape(batch, -1), object_


def _sensitive_everywhere(vectors: Tensor, intensity: Tensor, object_: Tensor) -> Tensor:
    """w (B, C): the virtual coil.

    Where the virtual coil vanishes the phase is singular, so w must keep |w^H s(r)| away from zero over the
    whole object. It starts as the principal component and moves along sum_r s s^H w / |w^H s|^6, the descent
    direction of sum_r |w^H s|^-4; the best w met, by the smallest |w^H s|, is kept.
    """
    covariance = (vectors * intensity[:, None] ** 2) @ vectors.mH
    weight = best = torch.linalg.eigh(covariance).eigenvectors[..., -1]
    best_response = weight.new_full((len(vectors), 1), -1.0, dtype=torch.float64)
    for _ in range(_PHASE_STEPS):
        response = torch.einsum("bc,bcn->bn", weight.conj(), vectors)
        power = response.abs().square()
        weakest = power.masked_fill(~object_, torch.inf).amin(1, keepdim=True)
        best = torch.where(weakest > best_response, weight, best)
        best_response = torch.maximum(weakest, best_response)
        step = torch.einsum("bcn,bn->bc", vectors, response / (power + 1e-4) ** 3)
        weight = _unit(weight + 0.25 * _unit(step))
    return best


def _unit(vectors: Tensor) -> Tensor:
    return vectors / torch.linalg.vector_norm(vectors, dim=-1, keepdim=True).clamp_min(1e-300)


def _low_resolution(calibration: Tensor, shape: tuple[int, int]) -> Tensor:
    """Images (B, C, y, x) complex64 of the calibration region under a Hann window that ends outside it."""
    peak = calibration.abs().amax((1, 2, 3), keepdim=True)
    kspace = (calibration / peak).to(torch.complex64)
    pad: list[int] = []
    for axis, size in ((-1, shape[1]), (-2, shape[0])):
        n = kspace.shape[axis]
        window = torch.cos(torch.pi * (torch.arange(n) - n // 2) / (n + 2)).square().to(kspace)
        kspace = kspace * (window if axis == -1 else window[:, None])
        before = size // 2 - n // 2
        pad += [before, size - n - before]
    return centred_ifft(F.pad(kspace, pad), 2)


def _box_sum(array: Tensor, box: int) -> Tensor:
    """Sums over every full box x box window of the last two axes."""
    for axis in (-1, -2):
        cumulative = F.pad(array, (1, 0) if axis == -1 else (0, 0, 1, 0)).cumsum(axis)
        length = cumulative.shape[axis] - box
        array = cumulative.narrow(axis, box, length) - cumulative.narrow(axis, 0, length)
    return array
