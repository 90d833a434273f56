"""The Fourier part of non-Cartesian imaging: weighted, of norm one, and its normal operator as a convolution."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial

import torch
from torch import Tensor

from convexrecon.errors import InputError
from convexrecon.physics.nufft import Nufft, check_trajectory
from convexrecon.physics.padded_convolution import padded_convolution

_NORM_STEPS = 30


@dataclass(frozen=True, eq=False)
class NonCartesianFourier:
    """``s W^(1/2) F``: a trajectory, its weights, and all that is computed once for them.

    F is `Nufft`, W = diag(weights). Without weights the centre of k-space, where trajectories are dense, counts
    for far more than its edge; with density compensation (`density_compensation.pipe_menon`) F^H W F is close
    to the identity where k-space is covered, and least squares takes few iterations. s is chosen so that
    ``||s^2 F^H W F|| = 1``, as for a Cartesian mask; so a data-consistency weight means the same here and there.
    The norm is that of images without coils, by 30 Lanczos steps from the point spread function: from below, and
    to a per cent or better.

    F^H W F is a convolution with the point spread function, and `normal` is that convolution, by FFTs on the
    doubled grid: no sample is touched. Fessler et al., IEEE TSP 53:3393 (2005); Wajer and Pruessmann, ISMRM 2001.

    Attributes:
        coordinates: (samples, d) or (B, samples, d) real, cycles per field of view; see `Nufft`.
        shape: (y, x) or (z, y, x), in pixels.
        weights: (samples,) or (B, samples) real, not negative; ones if None. Their overall scale does not matter.
        eps: relative error of a transform; see `Nufft`.

    Raises:
        InputError: what `Nufft` and `check_trajectory` refuse; weights of another shape, negative, NaN, Inf or all
            zero.
    """

    coordinates: Tensor
    shape: tuple[int, ...]
    weights: Tensor | None = None
    eps: float = 1e-4
    _transfers: dict[torch.dtype, Tensor] = field(default_factory=dict, init=False, repr=False)
    _moved: dict[torch.device, "NonCartesianFourier"] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        check_trajectory(self.coordinates, self.shape)
        weights, wanted = self.weights, self.coordinates.shape[:-1]
        if weights is None:
            return
        if weights.shape != wanted or weights.is_complex() or weights.device != self.coordinates.device:
            raise InputError(
                f"weights: expected real {tuple(wanted)} on {self.coordinates.device}, one for each of the "
                f"coordinates; found {weights.dtype} {tuple(weights.shape)} on {weights.device}"
            )
        if not bool((torch.isfinite(weights) & (weights >= 0)).all()):
            raise InputError("weights: expected finite numbers, none negative; found NaN, Inf or a negative one")
        if not bool((weights.reshape(-1, wanted[-1]) > 0).any(1).all()):
            raise InputError("weights: a trajectory has no sample of positive weight")

    @cached_property
    def nufft(self) -> Nufft:
        """F, without weights and scale."""
        return Nufft(self.coordinates, self.shape, self.eps)

    @property
    def scale(self) -> Tensor:
        """s, (B or 1,) float64."""
        return self._scaled_kernel[0]

    @cached_property
    def _scaled_kernel(self) -> tuple[Tensor, Tensor]:
        """s, and the spectrum of the scaled point spread function in single precision, from whose norm it is."""
        # Single precision is ample for a norm to a per cent.
        transfer = self._kernel(torch.complex64)
        # The point spread function has something of every direction the samples see.
        start = torch.fft.ifftn(transfer, dim=tuple(range(1, transfer.ndim)))
        for axis, size in enumerate(self.shape, 1):
            start = start.roll(size // 2, axis).narrow(axis, 0, size)
        normal = partial(padded_convolution, spectrum=transfer)
        scale = _largest_eigenvalue(lambda x: normal(x.unsqueeze(1)).squeeze(1), start.contiguous()).rsqrt()
        return scale, transfer.mul_(scale.to(transfer.dtype).square().view(-1, *[1] * len(self.shape)))

    def weigh(self, samples: Tensor) -> Tensor:
        """``s W^(1/2) y``: measured samples (..., samples) on the scale of what `forward` predicts.

        Samples have B as their first axis if the coordinates have.
        """
        root = (self.scale.unsqueeze(1) * self._relative.sqrt()).to(samples.real.dtype)
        if self.coordinates.ndim == 2:
            return samples * root[0]
        return samples * root.view(len(root), *[1] * (samples.ndim - 2), -1)

    def forward(self, image: Tensor) -> Tensor:
        """``s W^(1/2) F x``: image (B, C, *N) complex -> samples (B, C, samples)."""
        return self.weigh(self.nufft.forward(image))

    def adjoint(self, samples: Tensor) -> Tensor:
        """``s F^H W^(1/2) y``: samples (B, C, samples) complex -> image (B, C, *N)."""
        return self.nufft.adjoint(self.weigh(samples))

    def normal(self, image: Tensor) -> Tensor:
        """``s^2 F^H W F x``: image (B, C, *N) complex -> image (B, C, *N), by convolution."""
        return padded_convolution(image, self.transfer(image.dtype))

    def to(self, device: torch.device | str) -> "NonCartesianFourier":
        """The same on another device, one object however often it is asked for; itself where it is there already."""
        there = torch.empty(0, device=device).device
        if there == self.coordinates.device:
            return self
        if there not in self._moved:
            weights = None if self.weights is None else self.weights.to(there)
            self._moved[there] = NonCartesianFourier(self.coordinates.to(there), self.shape, weights, self.eps)
        return self._moved[there]

    def transfer(self, dtype: torch.dtype) -> Tensor:
        """(B or 1, *2N) real, DC at index 0: the spectrum of the scaled point spread function, for complex `dtype`."""
        if dtype == torch.complex64:
            return self._scaled_kernel[1]
        if dtype not in self._transfers:
            scale = self.scale.to(dtype.to_real())
            self._transfers[dtype] = self._kernel(dtype) * scale.square().view(-1, *[1] * len(self.shape))
        return self._transfers[dtype]

    def _kernel(self, dtype: torch.dtype) -> Tensor:
        """Spectrum of t(l) = 1 / prod N sum_j w_j exp(2 pi i k_j l / N), -N < l < N, without the scale s."""
        d = len(self.shape)
        doubled = tuple(2 * size for size in self.shape)
        coordinates = self.coordinates.double().reshape(-1, self.nufft.samples, d)
        # The doubled grid begins at l = -N: a shift of its origin by N pixels, a phase of k turns.
        turns = coordinates.sum(-1)
        shifted = torch.polar(self._relative, -2 * torch.pi * turns).to(dtype)
        # Twice the field of view has twice the cycles.
        spread = Nufft(2 * coordinates, doubled, self.eps).adjoint(shifted) * 2 ** (d / 2) / self._pixels**0.5
        for axis, size in enumerate(self.shape, 1):
            spread = spread.roll(size, axis)
        # t is Hermitian; all that the real part drops is at l = -N, which is no difference of two pixels.
        return torch.fft.fftn(spread, dim=tuple(range(1, d + 1))).real.contiguous()

    @cached_property
    def _relative(self) -> Tensor:
        """(B or 1, samples) float64: weights relative to the largest of their trajectory."""
        if self.weights is None:
            return torch.ones_like(self.coordinates[..., 0], dtype=torch.float64).reshape(-1, self.nufft.samples)
        weights = self.weights.double().reshape(-1, self.nufft.samples)
        return weights / weights.amax(1, keepdim=True)

    @property
    def _pixels(self) -> int:
        return int(torch.Size(self.shape).numel())


def joined_trajectories(parts: Sequence[tuple[NonCartesianFourier, int]]) -> NonCartesianFourier:
    """One trajectory of each part, as often as said, as those of one batch: of one shape and number of samples.

    Raises:
        InputError: parts of several image shapes, or numbers of samples.
    """
    first = parts[0][0]
    kinds = {(part.shape, part.coordinates.shape[-2]) for part, _ in parts}
    if len(kinds) > 1:
        raise InputError(f"trajectories: of (image shape, samples) {sorted(kinds)}; expected one of them in a batch")

    def repeated(values: Tensor, count: int, axes: int) -> Tensor:
        return values.expand(count, *values.shape[-axes:])

    coordinates = torch.cat([repeated(part.coordinates, count, 2) for part, count in parts])
    weights = torch.cat([repeated(part._relative, count, 1) for part, count in parts])
    return NonCartesianFourier(coordinates, first.shape, weights, first.eps)


def _largest_eigenvalue(normal: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """(B,) float64 by Lanczos, from below; orthogonality that rounding loses does not hurt the extreme value."""
    spread = (-1,) + (1,) * (start.ndim - 1)
    length = torch.linalg.vector_norm(start.flatten(1), dim=1)
    before, vector = torch.zeros_like(start), start
    tridiagonal = torch.zeros(len(start), _NORM_STEPS, _NORM_STEPS, dtype=torch.float64, device=start.device)
    off = torch.zeros_like(length)
    for step in range(_NORM_STEPS):
        # A Krylov space that is exhausted continues with zeros, which add nothing.
        vector = torch.where(length.view(spread) > 0, vector / length.view(spread), 0)
        mapped = normal(vector) - off.view(spread) * before
        diagonal = (vector.conj() * mapped).real.flatten(1).sum(1)
        tridiagonal[:, step, step] = diagonal
        before, vector = vector, mapped - diagonal.view(spread) * vector
        length = torch.linalg.vector_norm(vector.flatten(1), dim=1)
        length = off = torch.where(length > 1e-5 * tridiagonal[:, 0, 0], length, 0)
        if step + 1 < _NORM_STEPS:
            tridiagonal[:, step, step + 1] = tridiagonal[:, step + 1, step] = off.double()
    return torch.linalg.eigvalsh(tridiagonal)[:, -1]
