"""Where the filters of gates can come from: Gaussian ones, zero-mean ones, pieces of the data, all of them."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from convexrecon.convex.arrangements import FilterDraw, gaussian_filters
from convexrecon.convex.patches import patch_bands
from convexrecon.errors import InputError


def zero_mean_filters(
    samples: Sequence[Tensor], count: int, kernel: tuple[int, ...], generator: torch.Generator
) -> Tensor:
    """``g ~ N(0, I)`` less its mean in every channel: (count, C, *k). Blind to constant images.

    Raises:
        InputError: a kernel of one pixel, of which nothing would be left.
    """
    if all(size == 1 for size in kernel):
        raise InputError(f"gates: zero_mean expects a kernel of more than one pixel, found {kernel}")
    filters = gaussian_filters(samples, count, kernel, generator)
    return filters - filters.mean(dim=tuple(range(2, filters.ndim)), keepdim=True)


def patch_filters(samples: Sequence[Tensor], count: int, kernel: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Patches of the samples as filters, with a random sign: (count, C, *k).

    Drawn evenly over the images and, within an image, over the pixels that are not zero: a gate that asks
    whether a patch is like one that the data hold.

    Raises:
        InputError: samples that are zero everywhere.
    """
    images = [image for sample in samples for image in sample.split(1) if bool(image.any())]
    if not images:
        raise InputError("gates: no gate opens on any pixel; is the input all zero?")
    chosen = torch.randint(len(images), (count,), generator=generator)
    signs = torch.randint(2, (count,), generator=generator) * 2.0 - 1
    filters = torch.empty(count, images[0].shape[1], *kernel)
    for index in chosen.unique().tolist():
        wanted = (chosen == index).nonzero().squeeze(1)
        image = images[index]
        inside = image[0].abs().amax(0).flatten().nonzero().squeeze(1)
        places = inside[torch.randint(len(inside), (len(wanted),), generator=generator).to(inside.device)]
        filters[wanted] = _patches_at(image, kernel, places).T.reshape(-1, *filters.shape[1:]).to(filters)
    return filters * signs.view(-1, *[1] * (filters.ndim - 1))


def _patches_at(image: Tensor, kernel: tuple[int, ...], places: Tensor) -> Tensor:
    """The patches at some pixels of an image (1, C, *N), in their order: (d, places)."""
    found, done = image.new_empty(image.shape[1] * math.prod(kernel), len(places)), 0
    for band in patch_bands(image, kernel, constant=False):
        here = ((places >= done) & (places < done + band.shape[1])).nonzero().squeeze(1)
        found[:, here] = band[:, places[here] - done]
        done += band.shape[1]
    return found


def patch_difference_filters(
    samples: Sequence[Tensor], count: int, kernel: tuple[int, ...], generator: torch.Generator
) -> Tensor:
    """Differences of two patches of the samples: (count, C, *k): gates that tell the two apart.

    Raises:
        InputError: samples that are zero everywhere.
    """
    pairs = patch_filters(samples, 2 * count, kernel, generator)
    return pairs[:count] - pairs[count:]


def mixed_filters(samples: Sequence[Tensor], count: int, kernel: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """An equal share of each of the other choices, in random order: (count, C, *k)."""
    draws = [draw for name, draw in FILTER_DRAWS.items() if name != "mixed"]
    shares = [count // len(draws) + (index < count % len(draws)) for index in range(len(draws))]
    parts = [draw(samples, share, kernel, generator) for draw, share in zip(draws, shares, strict=True) if share]
    # Scales differ between the choices and mean nothing; draw_gates sets them.
    return torch.cat(parts)[torch.randperm(count, generator=generator)]


FILTER_DRAWS: dict[str, FilterDraw] = {
    "gaussian": gaussian_filters,
    "zero_mean": zero_mean_filters,
    "patches": patch_filters,
    "patch_differences": patch_difference_filters,
    "mixed": mixed_filters,
}
