"""What can be said of pixels of one reconstruction: every block's filter, the row of the cascade, the error."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from convexrecon.cascade import Cascade, support
from convexrecon.interpret.block_states import BlockState, block_states
from convexrecon.interpret.local_map import LocalMap, local_map
from convexrecon.interpret.pixel import PixelFilter, check_pixel, pixel_filter
from convexrecon.physics.forward_model import ForwardModel

# Accuracy of the rows: they are to be looked at.
ROW_TOLERANCE = 1e-4


@dataclass(frozen=True, eq=False)
class PixelExplanation:
    """One pixel.

    Attributes:
        pixel: index along every image axis.
        blocks: the filter that acts on it in each block.
        values: complex, before the first block, then for each block behind its denoiser and behind its consistency.
        row: derivative of the reconstruction's magnitude there in the initial image, (*N) complex, the measurement
            held: ``d|x_p| = Re <row, d initial>``.
        reference: the reference there, or None.
    """

    pixel: tuple[int, ...]
    blocks: tuple[PixelFilter, ...]
    values: tuple[complex, ...]
    row: Tensor
    reference: complex | None


@dataclass(frozen=True, eq=False)
class Explainer:
    """One measurement gone through a cascade, of whose pixels one can ask; made by `explainer`.

    Attributes:
        cascade: the network.
        states: of its blocks.
        local: its exact local linear map of the initial image.
        inside: (*N) bool, the object: pixels that any coil sees.
        reference: (*N) complex, or None.
    """

    cascade: Cascade
    states: tuple[BlockState, ...]
    local: LocalMap
    inside: Tensor
    reference: Tensor | None

    def explain(self, pixel: Sequence[int]) -> PixelExplanation:
        """All there is to say of a pixel.

        Raises:
            InputError: a pixel outside the image.
        """
        where = check_pixel(pixel, self.inside.shape)
        place = (0, *where)
        blocks = tuple(
            pixel_filter(block.denoiser, state.channels, where)
            for block, state in zip(self.cascade, self.states, strict=True)
        )
        images = [self.local.point, *[image for state in self.states for image in (state.denoised, state.after)]]
        output = complex(self.local.output[place])
        direction = output / abs(output) if output else 1
        return PixelExplanation(
            pixel=where,
            blocks=blocks,
            values=tuple(complex(image[place]) for image in images),
            row=self.local.row(where, direction=direction)[0],
            reference=None if self.reference is None else complex(self.reference[where]),
        )

    def grid(self, count: int, *, plane: Sequence[int] = ()) -> Iterator[tuple[int, ...]]:
        """At most `count` pixels of the object, evenly over its last two axes, at index `plane` of the others."""
        inside = self.inside[tuple(plane)]
        if count < 1:
            return
        step = max(1, math.ceil(math.sqrt(int(inside.sum()) / count)))
        while True:
            chosen = inside[step // 2 :: step, step // 2 :: step].nonzero()
            if len(chosen) <= count or step >= max(inside.shape):
                break
            step += 1
        for y, x in chosen.tolist():
            yield (*plane, step // 2 + y * step, step // 2 + x * step)


@torch.no_grad()
def explainer(cascade: Cascade, sense: ForwardModel, kspace: Tensor, *, reference: Tensor | None = None) -> Explainer:
    """Reconstruct one measurement and keep what is needed to explain its pixels.

    Args:
        cascade: of denoisers of this library.
        sense: A, of one sample.
        kspace: y, (1, C, *N) or (1, C, samples), scaled and uncentred.
        reference: x*, (*N) on the same scale, or None.

    Raises:
        InputError: as `local_map`.
    """
    states = tuple(block_states(cascade, sense, kspace))
    local = local_map(cascade, sense, kspace, tolerance=ROW_TOLERANCE)
    inside = support(sense).expand_as(local.output.real)[0] > 0
    return Explainer(cascade, states, local, inside, reference)
