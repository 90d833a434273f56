"""What a denoiser does to one pixel, exactly: the gates that fire, the linear filter they select, who contributes what.

Every denoiser of this library is piecewise linear. At a given input its output at a pixel is
``f(u)_p = u_p + sum_q T_q u_(p+q) + c``: the taps T and the constant c depend on the input through gates or ReLUs
alone. They are read from the weights where gates are seen at the input, and from the derivative of the output, which
holds the ReLUs, in deeper networks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from convexrecon.denoisers.gated import GatedDenoiser
from convexrecon.denoisers.patchwise import receptive_field
from convexrecon.denoisers.relu import ReluDenoiser
from convexrecon.denoisers.residual import ResidualDenoiser
from convexrecon.errors import InputError
from convexrecon.interpret.two_layers import has_two_layers, open_gates, switched_filters


@dataclass(frozen=True, eq=False)
class PixelFilter:
    """The linear filter that acts on a pixel. K is the window a pixel is seen from, odd along every axis.

    Attributes:
        pixel: its index along every image axis.
        gates: (P,) bool, which gates (hidden units, of the ReLU denoiser) fire; None for deeper networks.
        taps: T without the skip, (m, C, *K); zero where the window leaves the image.
        neighbourhood: u in the window, (C, *K), zero where it leaves the image.
        constant: c, (m,).
        skip: u_p, (m,).
        output: f(u)_p, (m,).
    """

    pixel: tuple[int, ...]
    gates: Tensor | None
    taps: Tensor
    neighbourhood: Tensor
    constant: Tensor
    skip: Tensor
    output: Tensor

    @property
    def contributions(self) -> Tensor:
        """What every pixel and channel of the window adds to the output, (m, C, *K).

        Over the window they sum, with `constant` and `skip`, to `output`, to rounding.
        """
        return self.taps * self.neighbourhood

    @property
    def whole(self) -> Tensor:
        """The taps with the skip: one more at the middle, from each output's own channel; (m, C, *K)."""
        whole = self.taps.clone()
        middle = tuple(size // 2 for size in whole.shape[2:])
        for output in range(len(whole)):
            whole[(output, output, *middle)] += 1
        return whole


def check_pixel(pixel: Sequence[int], shape: Sequence[int]) -> tuple[int, ...]:
    """The pixel as a tuple of indices.

    Raises:
        InputError: not one index for each image axis, or outside the image.
    """
    found = tuple(int(index) for index in pixel)
    if len(found) != len(shape) or any(not 0 <= index < size for index, size in zip(found, shape, strict=True)):
        ranges = ", ".join(f"0 to {size - 1}" for size in shape)
        raise InputError(f"pixel: expected an index for each image axis ({ranges}), found {found}")
    return found


def at_pixel(image: Tensor, pixel: Sequence[int]) -> Tensor:
    """All channels of a pixel: (C, *N) -> (C,)."""
    for index in pixel:
        image = image.select(1, index)
    return image


@torch.no_grad()
def pixel_filter(denoiser: nn.Module, features: Tensor, pixel: Sequence[int], *, sample: int = 0) -> PixelFilter:
    """The linear filter that a denoiser applies at one pixel of its input.

    Args:
        denoiser: gated, ReLU, ResNet, MoDL or a feature stack.
        features: u, (B, C, *N) real, as `block_states` gives them.
        pixel: index along every image axis.
        sample: which of B.

    Raises:
        InputError: a pixel outside the image, a denoiser of unknown receptive field.

    >>> from convexrecon.denoisers.building import new_denoiser
    >>> modl = new_denoiser("modl", width=4, generator=torch.Generator().manual_seed(0))
    >>> image = torch.randn(1, 2, 20, 24, generator=torch.Generator().manual_seed(1))
    >>> read = pixel_filter(modl, image, (3, 12))
    >>> total = read.contributions.flatten(1).sum(1) + read.constant + read.skip
    >>> bool(torch.allclose(total, modl(image)[0, :, 3, 12], atol=1e-5))
    True
    """
    where = check_pixel(pixel, features.shape[2:])
    reach = receptive_field(denoiser)
    periodic = isinstance(denoiser, ResidualDenoiser | GatedDenoiser) and denoiser.periodic
    seen, centre = _surroundings(features[sample : sample + 1], where, reach, periodic)
    neighbourhood = _window(seen[0], centre, reach, periodic)
    if has_two_layers(denoiser):
        gates, taps, constant, correction = _read(denoiser, seen, centre, neighbourhood)
    else:
        gates = None
        taps, correction = _differentiated(denoiser, seen, centre, reach, periodic)
        constant = correction - (taps * neighbourhood).flatten(1).sum(1)
    skip = at_pixel(features[sample, : len(taps)], where)
    return PixelFilter(where, gates, taps, neighbourhood, constant, skip, skip + correction)


def _read(
    denoiser: nn.Module, seen: Tensor, centre: tuple[int, ...], neighbourhood: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gates, taps, constant and correction of a two-layer denoiser, from its weights."""
    filters = switched_filters(denoiser)
    gates = at_pixel(open_gates(denoiser, seen)[0], centre)
    taps = filters.taps[gates].sum(0).to(seen)
    constant = filters.constants[gates].sum(0).to(seen)
    # Beyond the border there is nothing to take from: those taps act on zeros.
    inside = _window(
        torch.ones_like(seen[0, :1]), centre, tuple(size // 2 for size in taps.shape[2:]), _rings(denoiser)
    )
    taps = taps * inside
    return gates, taps, constant, (taps * neighbourhood).flatten(1).sum(1) + constant


def _differentiated(
    denoiser: nn.Module, seen: Tensor, centre: tuple[int, ...], reach: tuple[int, ...], periodic: bool
) -> tuple[Tensor, Tensor]:
    """Taps and correction of a deeper network, by the derivative of its output with all ReLUs held."""
    with torch.enable_grad():
        point = seen.detach().requires_grad_()
        output = at_pixel(denoiser(point)[0], centre)
        rows = [torch.autograd.grad(value, point, retain_graph=True)[0][0] for value in output]
    taps = torch.stack([_window(row, centre, reach, periodic) for row in rows])
    if periodic and seen.shape[2] < 2 * reach[0] + 1:
        # The window goes round more than once: every pixel of the ring counts at one place.
        first = reach[0] - seen.shape[2] // 2
        taps[:, :, :first] = 0
        taps[:, :, first + seen.shape[2] :] = 0
    middle = tuple(reach)
    for index in range(len(rows)):
        taps[(index, index, *middle)] -= 1
    return taps, output.detach() - at_pixel(seen[0, : len(rows)], centre)


def _rings(denoiser: nn.Module) -> bool:
    return isinstance(denoiser, ReluDenoiser | GatedDenoiser) and denoiser.periodic


def _surroundings(
    image: Tensor, where: tuple[int, ...], reach: tuple[int, ...], periodic: bool
) -> tuple[Tensor, tuple[int, ...]]:
    """The part of an image (1, C, *N) that the output at a pixel depends on, with room to spare, and where it is there.

    An axis that goes round is not cut.
    """
    centre = []
    for axis, (index, radius) in enumerate(zip(where, reach, strict=True)):
        if periodic and axis == 0:
            centre.append(index)
            continue
        start = max(index - 2 * radius - 2, 0)
        image = image.narrow(axis + 2, start, min(index + 2 * radius + 3, image.shape[axis + 2]) - start)
        centre.append(index - start)
    return image, tuple(centre)


def _window(image: Tensor, centre: tuple[int, ...], reach: tuple[int, ...], periodic: bool) -> Tensor:
    """The window (C, *K) around a pixel of (C, *N), zero beyond the border."""
    for axis, (index, radius) in enumerate(zip(centre, reach, strict=True)):
        size = image.shape[axis + 1]
        wanted = torch.arange(index - radius, index + radius + 1, device=image.device)
        if periodic and axis == 0:
            image = image.index_select(1, wanted % size)
            continue
        inside = (wanted >= 0) & (wanted < size)
        taken = image.index_select(axis + 1, wanted.clamp(0, size - 1))
        image = taken * inside.to(taken).view(-1, *[1] * (image.ndim - axis - 2))
    return image
