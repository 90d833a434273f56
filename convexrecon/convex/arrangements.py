"""Hyperplane arrangements: gates, the sign patterns they cut the patches into, and how they are drawn."""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from convexrecon.errors import InputError

# Directions of the patches with a smaller share of the largest variance are noise to the whitening.
SMALLEST_VARIANCE = 1e-7

# Gates whose responses are in memory at a time; a multiple of eight, so that their patterns fill whole bytes.
GATES_DECIDED = 64
# Pixels whose responses are in memory at a time: those of a 512 x 512 image, a few slices of a volume.
PIXELS_DECIDED = 2**18

CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}

# Samples (B, C, *N), count, kernel, generator -> filters (count, C, *k) of any scale.
FilterDraw = Callable[[Sequence[Tensor], int, tuple[int, ...], torch.Generator], Tensor]


@dataclass(frozen=True)
class Gates:
    """Fixed filters whose responses' signs select the linear filter that acts on a pixel.

    ``D_i(p) = 1[(g_i * u)(p) >= b_i]``: filter and offset are the first layer's weights and (negative)
    bias of the ReLU network that the gated one stands for.

    Attributes:
        filters: g, (P, C, *k) float32, odd k.
        offsets: b, (P,) float32, in the units of g * u; zeros for gates through the origin.
        periodic: whether the first image axis goes round, as the time of a heartbeat does: for the gates, and for the
            filters that they gate.
    """

    filters: Tensor
    offsets: Tensor
    periodic: bool = False

    def __post_init__(self) -> None:
        if self.filters.ndim < 3 or any(size % 2 == 0 for size in self.filters.shape[2:]):
            raise InputError(f"gates: expected (P, C, *k) with odd k, found {tuple(self.filters.shape)}")
        if self.offsets.shape != self.filters.shape[:1]:
            raise InputError(f"offsets: expected ({self.filters.shape[0]},), found {tuple(self.offsets.shape)}")

    def __len__(self) -> int:
        return self.filters.shape[0]

    @property
    def kernel(self) -> tuple[int, ...]:
        """Kernel size along each image axis."""
        return tuple(self.filters.shape[2:])

    def patterns(self, features: Tensor) -> Tensor:
        """D: features (B, C, *N) -> (B, P, *N) bool; zero padding beyond the border, or around.

        Evaluated in float32 whatever the precision of the features: which gates are open is part of the
        network, and an independent float64 measurement must see the same ones.
        """
        bands = [open_ for _, open_ in self.bands(features)]
        return bands[0] if len(bands) == 1 else torch.cat(bands, 2)

    def bands(self, features: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """`patterns`, some rows of the first image axis at a time: which rows, and (B, P, rows, ..) bool.

        Patterns are decided in these bands everywhere, for the same reason as in `groups`.
        """
        for rows in row_bands(features.shape[2:]):
            yield rows, torch.cat([group._decided(features, rows) for group in self.groups()], 1)

    def groups(self) -> "list[Gates]":
        """These gates, `GATES_DECIDED` at a time: however many there are, few responses are held in float32.

        Patterns are decided in these groups everywhere, since a convolution of another size may round otherwise.
        """
        starts = range(0, max(len(self), 1), GATES_DECIDED)
        return [self.select(slice(start, start + GATES_DECIDED)) for start in starts]

    def _decided(self, features: Tensor, rows: slice) -> Tensor:
        responses = convolve_rows(features, self.filters.float(), rows, periodic=self.periodic)
        return responses >= self.offsets.float().view(1, -1, *[1] * (features.ndim - 2))

    def always_open(self) -> int | None:
        """The number of the first gate that is open whatever the input, one of zeros; None if there is none."""
        zero = (self.filters == 0).flatten(1).all(1) & (self.offsets <= 0)
        return int(zero.nonzero()[0]) if bool(zero.any()) else None

    def select(self, keep: Tensor | slice) -> "Gates":
        """The gates at index, mask or slice `keep`."""
        return replace(self, filters=self.filters[keep], offsets=self.offsets[keep])

    def to(self, device: torch.device | str) -> "Gates":
        """The same gates on another device."""
        return replace(self, filters=self.filters.to(device), offsets=self.offsets.to(device))


def convolve(features: Tensor, filters: Tensor, *, periodic: bool = False) -> Tensor:
    """Same-size cross-correlation with zero padding: (B, C, *N), (F, C, *k) -> (B, F, *N).

    Where the first axis is `periodic` it goes round instead.
    """
    padding = [size // 2 for size in filters.shape[2:]]
    if periodic:
        features, padding[0] = around(features, slice(0, features.shape[2]), padding[0]), 0
    # TF32 would change which gates are open and spoil the certificates.
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        return CONVOLUTIONS[len(padding)](features, filters, padding=tuple(padding))


def around(features: Tensor, rows: slice, margin: int) -> Tensor:
    """Some rows of the first axis of (B, C, *N), which goes round, and `margin` more on both sides.

    >>> around(torch.arange(4.0).view(1, 1, 4), slice(0, 2), 3).flatten().tolist()
    [1.0, 2.0, 3.0, 0.0, 1.0, 2.0, 3.0, 0.0]
    """
    seen = torch.arange(rows.start - margin, rows.stop + margin, device=features.device)
    return features.index_select(2, seen % features.shape[2])


def row_bands(shape: Sequence[int]) -> list[slice]:
    """The rows of the first axis of an image of `shape`, about `PIXELS_DECIDED` pixels at a time.

    >>> row_bands((4, 512, 256))
    [slice(0, 2, None), slice(2, 4, None)]
    """
    rows = max(1, PIXELS_DECIDED // max(1, math.prod(shape[1:])))
    return [slice(start, min(start + rows, shape[0])) for start in range(0, max(shape[0], 1), rows)]


def convolve_rows(features: Tensor, filters: Tensor, rows: slice, *, periodic: bool = False) -> Tensor:
    """Some rows of the first axis of `convolve`, in the filters' precision: (B, C, *N), (F, C, *k) -> (B, F, n, ..)."""
    half = filters.shape[2] // 2
    if periodic:
        seen = around(features, rows, half).to(filters.dtype)
        return convolve(seen, filters)[:, :, half : seen.shape[2] - half]
    start, stop = max(rows.start - half, 0), min(rows.stop + half, features.shape[2])
    responses = convolve(features[:, :, start:stop].to(filters.dtype), filters)
    return responses[:, :, rows.start - start : rows.stop - start]


def with_open_gate(gates: Gates) -> Gates:
    """The same gates behind one that is always open, with which a block has a filter that acts everywhere.

    >>> with_open_gate(Gates(torch.randn(3, 2, 5, 5), torch.zeros(3))).always_open()
    0
    """
    filters, offsets = torch.zeros_like(gates.filters[:1]), torch.full_like(gates.offsets[:1], -1.0)
    return joined(replace(gates, filters=filters, offsets=offsets), gates)


def joined(first: Gates, second: Gates) -> Gates:
    """The gates of both, in order."""
    filters, offsets = torch.cat([first.filters, second.filters]), torch.cat([first.offsets, second.offsets])
    return replace(first, filters=filters, offsets=offsets)


def gaussian_filters(
    samples: Sequence[Tensor], count: int, kernel: tuple[int, ...], generator: torch.Generator
) -> Tensor:
    """``g ~ N(0, I)``: (count, C, *k). Images are smooth, so that these respond to brightness."""
    return torch.randn(count, samples[0].shape[1], *kernel, generator=generator)


def draw_gates(
    samples: Sequence[Tensor],
    count: int,
    kernel: tuple[int, ...],
    generator: torch.Generator,
    *,
    offset_scale: float = 1.0,
    whitened: float = 0.0,
    draw: FilterDraw = gaussian_filters,
    periodic: bool = False,
) -> Gates:
    """Draw gates with Gaussian offsets; duplicate and trivial patterns are replaced.

    Filters come from `draw`, a share of them instead from ``N(0, C^-1)`` with C the covariance of the patches,
    which respond to edges and texture; all are scaled so that g * u has unit variance on the samples, and
    ``b ~ N(0, offset_scale^2)``.
    Offsets of 0.5 to 1 standard deviation of the response are worth 0.4 to 0.5 dB; without them the
    denoiser is positively homogeneous. A pattern is trivial when the gate is never open on the samples,
    and a duplicate when it agrees with an earlier gate on every sample pixel.

    Args:
        samples: inputs (B, C, *N) on which variance and patterns are measured.
        count: P, the number of gates wanted; fewer are returned when the data have no more distinct
            patterns than that.
        kernel: odd kernel size along each image axis.
        generator: all randomness comes from it.
        offset_scale: standard deviation of the offsets in units of the response's; 0 for gates through
            the origin.
        whitened: share of the gates drawn from N(0, C^-1), from 0 to 1.
        draw: where the other filters come from; `gate_sampling` has more.
        periodic: whether the first image axis goes round.

    Raises:
        InputError: a size, share or scale out of range, or data on which every pattern is trivial.
    """
    if count < 1 or offset_scale < 0 or any(size < 1 or size % 2 == 0 for size in kernel):
        raise InputError(
            f"gates: expected count >= 1, odd kernel, offset_scale >= 0, found {count}, {kernel}, {offset_scale}"
        )
    if not 0 <= whitened <= 1:
        raise InputError(f"gates: expected a whitened share from 0 to 1, found {whitened}")
    whitening = _inverse_root_covariance(samples, kernel, periodic) if whitened > 0 else None
    found: Gates | None = None
    seen: set[bytes] = set()
    for _ in range(8):
        filters = draw(samples, count, kernel, generator)
        if whitening is not None:
            chosen = torch.rand(count, generator=generator) < whitened
            white = gaussian_filters(samples, int(chosen.sum()), kernel, generator)
            filters[chosen] = (white.flatten(1) @ whitening).view_as(white)
        offsets = torch.randn(count, generator=generator) * offset_scale
        fresh = Gates(_unit_response(filters, samples, periodic), offsets, periodic)
        keep = _distinct(fresh, samples, seen)
        fresh = fresh.select(keep)
        found = fresh if found is None else joined(found, fresh)
        if len(found) >= count:
            break
    assert found is not None
    if len(found) == 0:
        raise InputError("gates: no gate opens on any pixel; is the input all zero?")
    return found.select(torch.arange(min(count, len(found))))


def _inverse_root_covariance(samples: Sequence[Tensor], kernel: tuple[int, ...], periodic: bool) -> Tensor:
    """C^(-1/2), C the second moment of the samples' patches: (d, d), on the CPU."""
    size = samples[0].shape[1] * math.prod(kernel)
    covariance = torch.zeros(size, size, dtype=torch.float64)
    basis = torch.eye(size).view(size, samples[0].shape[1], *kernel)
    for sample in samples:
        for image in sample.split(1):
            for rows in row_bands(image.shape[2:]):
                patches = convolve_rows(image, basis.to(image), rows, periodic=periodic).flatten(2)[0].double()
                covariance += (patches @ patches.T).cpu()
    values, vectors = torch.linalg.eigh(covariance)
    root = values.clamp_min(SMALLEST_VARIANCE * float(values[-1])).rsqrt()
    return ((vectors * root) @ vectors.T).float()


def _unit_response(filters: Tensor, samples: Sequence[Tensor], periodic: bool) -> Tensor:
    """Scale each filter so that its response has unit root mean square over the samples."""
    power = torch.zeros(filters.shape[0], dtype=torch.float64)
    pixels = 0
    for sample in samples:
        for rows in row_bands(sample.shape[2:]):
            responses = convolve_rows(sample, filters.to(sample), rows, periodic=periodic)
            power += responses.double().square().transpose(0, 1).flatten(1).sum(1).cpu()
            pixels += responses[:, 0].numel()
    rms = (power / pixels).sqrt().clamp_min(1e-12).to(filters.dtype)
    return filters / rms.view(-1, *[1] * (filters.ndim - 1))


def _distinct(gates: Gates, samples: Sequence[Tensor], seen: set[bytes]) -> Tensor:
    """Indices of gates that open somewhere and whose pattern is not in `seen`, which is extended."""
    codes = [hashlib.blake2b(digest_size=32) for _ in range(len(gates))]
    opens = torch.zeros(len(gates), dtype=torch.bool)
    for sample in samples:
        for _, open_ in gates.to(sample.device).bands(sample):
            patterns = open_.transpose(0, 1).flatten(1).cpu()
            opens |= patterns.any(1)
            for code, pattern in zip(codes, patterns, strict=True):
                code.update(pattern.numpy().tobytes())
    keep = []
    for index, code in enumerate(codes):
        if bool(opens[index]) and code.digest() not in seen:
            seen.add(code.digest())
            keep.append(index)
    return torch.tensor(keep, dtype=torch.int64)
