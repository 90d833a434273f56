"""A denoiser patch by patch: the same output and gradients, with the activations of one patch instead of the image.

Every patch is cut with a halo, denoised, and its centre kept. Where the halo is as wide as the receptive field, no kept
pixel sees where the patch was cut. The halo ends at the border of the image, so that what the denoiser pads with there
(zeros, reflection, replication) is what it would have padded the whole image with; along an axis that goes round it
goes round too. When gradients are wanted, each patch is computed again in the backward pass, one at a time.

Miller, Pirasteh and Johnson, Phys Med Biol 68:075008 (2023), arXiv 2204.13862, there called block-wise learning, who
pad the volume instead and shift the last patch.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from convexrecon.denoisers.feature_stack import FeatureStack
from convexrecon.denoisers.gated import GatedDenoiser
from convexrecon.denoisers.gated_network import GatedNetwork
from convexrecon.denoisers.residual import ResidualDenoiser
from convexrecon.errors import InputError

# Pixels along every image axis, or along each of them.
Extent = int | Sequence[int]
Denoise = Callable[[Tensor], Tensor]


def receptive_field(denoiser: nn.Module) -> tuple[int, ...]:
    """How far, in pixels along each image axis, an output pixel sees: ``sum over layers of k // 2``.

    Raises:
        InputError: not a denoiser of this library.

    >>> from convexrecon.denoisers.building import new_denoiser
    >>> receptive_field(new_denoiser("modl", kernel=3, generator=torch.Generator()))
    (5, 5)
    """
    if isinstance(denoiser, ResidualDenoiser):
        return tuple(denoiser.convolutions() * (size // 2) for size in denoiser.kernel)
    if isinstance(denoiser, GatedDenoiser | GatedNetwork):
        return tuple(size // 2 for size in denoiser.gates.kernel)
    if isinstance(denoiser, FeatureStack):
        layers = [receptive_field(denoiser.layer(index)) for index in range(len(denoiser.networks))]
        return tuple(sum(reach) for reach in zip(*layers, strict=True))
    raise InputError(
        f"halo: the receptive field of a {type(denoiser).__name__} is not known; expected a halo, in pixels"
    )


@dataclass(frozen=True)
class Patching:
    """How images are cut for one denoiser; made by `patching`, which checks it.

    Attributes:
        patch: most pixels along each axis that are kept of a patch; patches are as equal as can be.
        halo: pixels seen beyond them.
        periodic: axes that go round. One that a patch and its halo span is not cut: the denoiser sees all of it.
    """

    patch: tuple[int, ...]
    halo: tuple[int, ...]
    periodic: tuple[bool, ...]

    def apply(self, denoiser: Denoise, image: Tensor) -> Tensor:
        """The denoiser's output, put together from its patches': (B, C, *N) -> (B, m, *N).

        Memory, beside images: the activations of a patch (of all B), with gradients and without.

        Args:
            denoiser: (B, C, *n) -> (B, m, *n) for any n.
            image: u.

        Raises:
            InputError: an image of other axes, or a denoiser that changes their sizes.
        """
        axes = image.ndim - 2
        if axes != len(self.patch):
            raise InputError(f"patch: {self.patch} expects images of {len(self.patch)} axes, found {axes}")
        cuts = [
            _windows(size, patch, halo, periodic)
            for size, patch, halo, periodic in zip(image.shape[2:], self.patch, self.halo, self.periodic, strict=True)
        ]

        # Axis by axis: the gradient of a cut is as large as what is cut, and of a few slabs that is the image.
        def joined(part: Tensor, chosen: tuple[_Window, ...]) -> Tensor:
            axis = len(chosen)
            if axis == axes:
                return _centre(denoiser, part, [window.keep for window in chosen])
            parts = [joined(window.cut(part, axis + 2), (*chosen, window)) for window in cuts[axis]]
            return parts[0] if len(parts) == 1 else torch.cat(parts, axis + 2)

        return joined(image, ())


def patching(denoiser: nn.Module, patch: Extent, halo: Extent | None = None) -> Patching:
    """How to cut images for a denoiser.

    Args:
        denoiser: one of this library, or another if `halo` is given; of another no axis is taken to go round.
        patch: most pixels, kept of a patch, of every axis or of each.
        halo: pixels that a patch sees beyond them; None for the receptive field, with which nothing changes. A smaller
            one, of which a warning tells, saves computing and changes the output near the patches' edges.

    Raises:
        InputError: numbers of axes that do not match, a patch smaller than the kernel or below 1, a halo below 0.
    """
    known = isinstance(denoiser, ResidualDenoiser | GatedDenoiser | GatedNetwork | FeatureStack)
    reach = receptive_field(denoiser) if known or halo is None else None
    named = next((len(e) for e in (reach, patch, halo) if e is not None and not isinstance(e, int)), None)
    if named is None:
        raise InputError(f"patch: expected a size for each axis, since this denoiser has no axes, found {patch}")
    sizes = _per_axis("patch", patch, named)
    margins = _per_axis("halo", reach if halo is None else halo, named)
    least = _kernel(denoiser) if known else (1,) * named
    if any(size < needed for size, needed in zip(sizes, least, strict=True)):
        raise InputError(f"patch: expected at least the kernel {least}, found {sizes}")
    if min(margins) < 0:
        raise InputError(f"halo: expected at least 0 pixels, found {margins}")
    if reach is not None and any(margin < needed for margin, needed in zip(margins, reach, strict=True)):
        warnings.warn(
            f"halo {margins} is smaller than the receptive field {reach}: the output changes near the edges of "
            f"patches; with halo = {reach} or more it would not",
            stacklevel=2,
        )
    return Patching(sizes, margins, _periodic_axes(denoiser, named))


@dataclass(frozen=True)
class _Window:
    """Along one axis: what the denoiser sees, from a start that may be below 0 where the axis goes round, and what of
    that is kept."""

    start: int
    stop: int
    keep: slice

    def cut(self, image: Tensor, axis: int) -> Tensor:
        size = image.shape[axis]
        if self.start >= 0 and self.stop <= size:
            return image.narrow(axis, self.start, self.stop - self.start)
        return image.index_select(axis, torch.arange(self.start, self.stop, device=image.device) % size)


def _windows(size: int, patch: int, halo: int, periodic: bool) -> list[_Window]:
    """Patches of one axis, at most `patch` pixels each and of lengths that differ by one at most."""
    count = max(1, -(-size // patch))
    edges = [k * size // count for k in range(count + 1)]
    spanned = not periodic or -(-size // count) + 2 * halo >= size
    windows = []
    for first, last in pairwise(edges):
        start, stop = first - halo, last + halo
        if spanned:
            start, stop = (0, size) if periodic else (max(start, 0), min(stop, size))
        windows.append(_Window(start, stop, slice(first - start, last - start)))
    return windows


def _centre(denoiser: Denoise, patch: Tensor, keep: Sequence[slice]) -> Tensor:
    """The kept part of the denoiser's output; when gradients are wanted, nothing of its inside is."""

    def run(image: Tensor) -> Tensor:
        output = denoiser(image)
        if output.shape[2:] != image.shape[2:]:
            raise InputError(
                f"patch: expected a denoiser that keeps the image size, found {tuple(image.shape)} made "
                f"{tuple(output.shape)}"
            )
        # A copy, or the view would hold on to the output of the halo.
        return output[(slice(None), slice(None), *keep)].contiguous()

    if not torch.is_grad_enabled():
        return run(patch)
    return torch.as_tensor(checkpoint(run, patch, use_reentrant=False, preserve_rng_state=False))


def _per_axis(name: str, extent: Extent | None, axes: int) -> tuple[int, ...]:
    sizes = (extent,) * axes if isinstance(extent, int) else tuple(extent or ())
    if len(sizes) != axes:
        raise InputError(f"{name}: expected one number of pixels, or one for each of {axes} axes, found {extent}")
    if name == "patch" and min(sizes) < 1:
        raise InputError(f"patch: expected at least 1 pixel along each axis, found {sizes}")
    return sizes


def _kernel(denoiser: nn.Module) -> tuple[int, ...]:
    """The largest kernel of a denoiser of this library."""
    if isinstance(denoiser, FeatureStack):
        kernels = [denoiser.layer(index).gates.kernel for index in range(len(denoiser.networks))]
        return tuple(max(sizes) for sizes in zip(*kernels, strict=True))
    if isinstance(denoiser, ResidualDenoiser):
        return denoiser.kernel
    assert isinstance(denoiser, GatedDenoiser | GatedNetwork)
    return denoiser.gates.kernel


def _periodic_axes(denoiser: nn.Module, axes: int) -> tuple[bool, ...]:
    if isinstance(denoiser, FeatureStack):
        denoiser = denoiser.layer(0)
    if not isinstance(denoiser, ResidualDenoiser | GatedDenoiser | GatedNetwork):
        return (False,) * axes
    every = isinstance(denoiser, ResidualDenoiser) and denoiser.padding == "circular"
    return tuple(every or (denoiser.periodic and axis == 0) for axis in range(axes))
