"""The non-uniform Fourier transform: k-space anywhere, in the conventions of `physics.fourier`.

finufft does the work on the CPU, cufinufft on CUDA devices; either is imported when first needed. Barnett,
Magland and af Klinteberg, SIAM J Sci Comput 41:C479 (2019); Shih et al., IPDPSW (2021).
"""

import importlib
import math
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from convexrecon.errors import InputError

_AXES = {2: "(y, x)", 3: "(z, y, x)"}
# The smallest accuracy that a transform in single precision can promise.
_SINGLE_EPS = 1e-6


@dataclass(frozen=True, eq=False)
class Nufft:
    """``y_j = 1 / sqrt(prod N) sum_n x_n exp(-2 pi i sum_a k_ja n_a / N_a)``, n_a = 0 .. N_a - 1, and its adjoint.

    k is in cycles per field of view and the image origin is index 0, so at whole k this is exactly
    ``fourier.fft(image)[k mod N]``. Samples as scanners give them, with the origin in the middle of the image,
    pass through `uncentre_samples` once. Forward and adjoint are adjoint to rounding whatever `eps`, and
    differentiable any number of times with respect to image and samples; coordinates are constants.

    Plans (sorted points, the work space of the FFT) are kept in the object and reused while the number of
    transforms and of torch's threads, or its CUDA stream, stay the same.

    Attributes:
        coordinates: (samples, d) real, d = 2 or 3, axes as those of the image, within [-N/2, N/2]; or
            (B, samples, d), one trajectory for each entry of the first axis of images and samples.
        shape: (y, x) or (z, y, x), in pixels.
        eps: relative error of a transform; 1e-4 is enough for training. In complex64 rounding of the
            coordinates adds about 1e-7 N, and nothing below 1e-6 is reached.

    Raises:
        InputError: coordinates `check_coordinates` refuses, eps outside [1e-14, 0.1], and on use: finufft not
            installed, arrays of another shape, type or device.

    >>> grid = torch.cartesian_prod(torch.arange(-2.0, 2), torch.arange(-3.0, 3))
    >>> image = torch.randn(4, 6, dtype=torch.complex128)
    >>> samples = Nufft(grid, (4, 6), eps=1e-12).forward(image).reshape(4, 6)
    >>> torch.allclose(samples, torch.fft.fftshift(torch.fft.fft2(image, norm="ortho")), atol=1e-10)
    True
    """

    coordinates: Tensor
    shape: tuple[int, ...]
    eps: float = 1e-4
    _plans: dict[tuple[int, bool, torch.dtype], tuple[Any, Any]] = field(default_factory=dict, init=False, repr=False)
    _phases: dict[torch.dtype, Tensor] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        check_coordinates(self.coordinates, self.shape)
        if not 1e-14 <= self.eps <= 0.1:
            raise InputError(f"eps: expected a relative accuracy from 1e-14 to 0.1, found {self.eps}")

    @property
    def samples(self) -> int:
        """Number of samples of a trajectory."""
        return self.coordinates.shape[-2]

    def forward(self, image: Tensor) -> Tensor:
        """Image (..., *N) complex -> samples (..., samples); the first axis is B if coordinates have one."""
        self._check(image, self.shape, "image")
        return _Forward.apply(image, self)

    def adjoint(self, samples: Tensor) -> Tensor:
        """Samples (..., samples) complex -> image (..., *N); the first axis is B if coordinates have one."""
        self._check(samples, (self.samples,), "samples")
        return _Adjoint.apply(samples, self)

    def _check(self, data: Tensor, tail: tuple[int, ...], name: str) -> None:
        found, lead = tuple(data.shape), data.ndim - len(tail)
        if lead < 0 or found[lead:] != tail:
            hint = "" if name == "image" else ": as many as the trajectory, shots flattened"
            raise InputError(f"{name}: expected (..., {', '.join(map(str, tail))}){hint}; found {found}")
        batch = self.coordinates.shape[:-2]
        if batch and (lead == 0 or found[0] != batch[0]):
            raise InputError(f"{name}: expected {batch[0]} along the first axis, one a trajectory; found {found}")
        if data.dtype not in (torch.complex64, torch.complex128):
            raise InputError(f"{name}: expected complex64 or complex128, found {data.dtype}")
        if data.device != self.coordinates.device:
            raise InputError(f"{name}: on {data.device}, but the coordinates are on {self.coordinates.device}")

    def _transform(self, data: Tensor, adjoint: bool) -> Tensor:
        tail = (self.samples,) if adjoint else self.shape
        ends = self.shape if adjoint else (self.samples,)
        leading = data.shape[: data.ndim - len(tail)]
        # A conjugate or negative that torch has put off must be carried out before raw memory is handed over.
        data = data.detach().resolve_conj().resolve_neg()
        if data.numel() == 0:
            return data.new_zeros((*leading, *ends))
        entries = data.unsqueeze(0) if self.coordinates.ndim == 2 else data
        out = [self._execute(e, part.reshape(-1, *tail), adjoint) for e, part in enumerate(entries)]
        return torch.stack(out).reshape(*leading, *ends)

    def _execute(self, entry: int, data: Tensor, adjoint: bool) -> Tensor:
        plan, phase = self._plan(entry, len(data), data.dtype, adjoint), self._phase(data.dtype)[entry]
        if adjoint:
            data = phase.conj() * data
        data = data.contiguous()
        out = plan.execute(data) if data.device.type == "cuda" else torch.from_numpy(plan.execute(data.numpy()))
        return out.reshape(len(data), *self.shape) if adjoint else phase * out.reshape(len(data), -1)

    def _plan(self, entry: int, transforms: int, dtype: torch.dtype, adjoint: bool) -> Any:
        device = self.coordinates.device
        options: dict[str, Any] = {"n_trans": transforms}
        if device.type == "cuda":
            stream = torch.cuda.current_stream(device)
            options |= {"gpu_device_id": stream.device_index, "gpu_stream": stream.cuda_stream}
        else:
            options |= {"nthreads": torch.get_num_threads()}
        made, plan = self._plans.get((entry, adjoint, dtype), (None, None))
        if made == options:
            return plan
        plan = _backend(device).Plan(
            1 if adjoint else 2,
            self.shape,
            eps=max(self.eps, _SINGLE_EPS) if dtype == torch.complex64 else self.eps,
            isign=1 if adjoint else -1,
            dtype=str(dtype).removeprefix("torch."),
            **options,
        )
        coordinates = self.coordinates.detach().reshape(-1, self.samples, len(self.shape))[entry].double()
        angles = 2 * torch.pi * coordinates / coordinates.new_tensor(self.shape)
        points = [axis.contiguous() for axis in angles.to(dtype.to_real()).unbind(-1)]
        plan.setpts(*(points if device.type == "cuda" else [p.numpy() for p in points]))
        self._plans[entry, adjoint, dtype] = options, plan
        return plan

    def _phase(self, dtype: torch.dtype) -> Tensor:
        """(B or 1, samples): from the library's image origin, N//2, to index 0, and the scale of the transform."""
        if dtype not in self._phases:
            coordinates = self.coordinates.detach().reshape(-1, self.samples, len(self.shape))
            self._phases[dtype] = (_origin_phase(coordinates, self.shape) / math.sqrt(math.prod(self.shape))).to(dtype)
        return self._phases[dtype]


class _Forward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor, nufft: Nufft) -> Tensor:
        ctx.nufft = nufft
        return nufft._transform(image, adjoint=False)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return _Adjoint.apply(gradient, ctx.nufft), None


class _Adjoint(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, samples: Tensor, nufft: Nufft) -> Tensor:
        ctx.nufft = nufft
        return nufft._transform(samples, adjoint=True)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return _Forward.apply(gradient, ctx.nufft), None


def uncentre_samples(samples: Tensor, coordinates: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Samples with the image origin at pixel N//2, as scanners have it, to the origin at index 0.

    Times ``exp(-2 pi i sum_a k_a (N_a // 2) / N_a)``: what `fourier.uncentre` is to Cartesian k-space.

    Args:
        samples: (..., samples) complex.
        coordinates: (samples, d), cycles per field of view; or (B, samples, d) for samples (B, C, samples).
        shape: (y, x) or (z, y, x), in pixels.

    Raises:
        InputError: coordinates `check_trajectory` refuses, or not as many as samples.
    """
    check_trajectory(coordinates, shape)
    if samples.ndim == 0 or samples.shape[-1] != coordinates.shape[-2]:
        raise InputError(
            f"samples: expected {coordinates.shape[-2]} along the last axis, as many as coordinates "
            f"(shots flattened); found {tuple(samples.shape)}"
        )
    phase = _origin_phase(coordinates, shape)
    return samples * (phase if coordinates.ndim == 2 else phase.unsqueeze(1)).to(samples)


def check_coordinates(coordinates: Tensor, shape: tuple[int, ...]) -> None:
    """Refuse what cannot be coordinates in cycles per field of view of an image of `shape`.

    Raises:
        InputError: not real (samples, d) or (B, samples, d) with d = len(shape) = 2 or 3; NaN or Inf; beyond
            N/2; a gradient asked for.
    """
    d, found = len(shape), tuple(coordinates.shape)
    if d not in _AXES or min(shape) < 1:
        raise InputError(f"shape: expected (y, x) or (z, y, x), at least one pixel each; found {tuple(shape)}")
    if coordinates.ndim not in (2, 3) or not coordinates.is_floating_point() or found[-1] != d or 0 in found:
        raise InputError(
            f"coordinates: expected real (samples, {d}) or (B, samples, {d}), last axis {_AXES[d]}; "
            f"found {coordinates.dtype} {found}"
        )
    if coordinates.requires_grad:
        raise InputError("coordinates: require a gradient, but the transform is not differentiated by them")
    if not bool(torch.isfinite(coordinates).all()):
        raise InputError("coordinates: hold NaN or Inf; expected finite cycles per field of view")
    largest = coordinates.abs().reshape(-1, d).amax(0).tolist()
    # A float32 N/2 may have been rounded up.
    if any(k > size / 2 * (1 + 1e-5) for k, size in zip(largest, shape, strict=True)):
        raise InputError(
            f"coordinates: reach {_numbers(largest)} along {_AXES[d]}; expected cycles per field of view, at most "
            f"N/2 = {_numbers([size / 2 for size in shape])} for an image of {tuple(shape)} pixels"
        )


def check_trajectory(coordinates: Tensor, shape: tuple[int, ...]) -> None:
    """Refuse coordinates of a whole trajectory in other units than cycles per field of view, too.

    Raises:
        InputError: what `check_coordinates` refuses, or all within [-0.5, 0.5] or [-pi, pi] though the image has
            16 pixels or more along some axis.
    """
    check_coordinates(coordinates, shape)
    if max(shape) < 16:
        return
    largest = coordinates.abs().reshape(-1, len(shape)).amax(0).tolist()
    for limit, units, factor in ((0.5, "cycles per pixel", "N"), (math.pi, "radians per pixel", "N / (2 pi)")):
        if max(largest) <= limit * (1 + 1e-5):
            raise InputError(
                f"coordinates: reach only {_numbers(largest)} along {_AXES[len(shape)]}, which looks like {units}; "
                "expected cycles per field of view, up to N/2 = "
                f"{_numbers([size / 2 for size in shape])}: multiply by {factor}"
            )


def _origin_phase(coordinates: Tensor, shape: tuple[int, ...]) -> Tensor:
    """exp(-2 pi i sum_a k_a (N_a // 2) / N_a): (..., d) -> (...) complex128."""
    # In double precision: a float32 angle of many turns is inaccurate.
    fractions = torch.tensor([(size // 2) / size for size in shape], dtype=torch.float64, device=coordinates.device)
    turns = (coordinates.double() * fractions).sum(-1)
    return torch.polar(torch.ones_like(turns), -2 * torch.pi * turns)


def _numbers(values: list[float]) -> str:
    return "(" + ", ".join(f"{value:.4g}" for value in values) + ")"


def _backend(device: torch.device) -> ModuleType:
    """The library that transforms on `device`; finufft and cufinufft have the same plans."""
    names = {"cpu": ("finufft", "noncartesian"), "cuda": ("cufinufft", "noncartesian-cuda")}
    if device.type not in names:
        raise InputError(f"device: expected cpu or cuda for a non-uniform Fourier transform, found {device}")
    package, extra = names[device.type]
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise InputError(
            f"{package}: not installed, and non-Cartesian k-space on {device.type} needs it: "
            f"pip install 'convexrecon[{extra}]'"
        ) from error
