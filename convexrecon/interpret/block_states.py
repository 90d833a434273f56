"""What every block of a cascade sees and makes on one measurement."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from convexrecon.cascade import Cascade, input_channels
from convexrecon.physics.forward_model import ForwardModel


@dataclass(frozen=True, eq=False)
class BlockState:
    """One block at work.

    Attributes:
        before: the image before the block, (B, *N) complex.
        channels: what its denoiser sees, (B, 2 inputs, *N) real.
        denoised: what it makes of it, (B, *N) complex, zero where all coil maps are.
        after: the image behind data consistency, (B, *N) complex.
    """

    before: Tensor
    channels: Tensor
    denoised: Tensor
    after: Tensor


@torch.no_grad()
def block_states(cascade: Cascade, sense: ForwardModel, kspace: Tensor) -> Iterator[BlockState]:
    """Yield every block's state, in order.

    Args:
        cascade: the network.
        sense: A.
        kspace: y, scaled and uncentred, (B, C, *N) or (B, C, samples).
    """
    adjoint_kspace = sense.adjoint(kspace)
    initial = image = cascade.start(sense, adjoint_kspace)
    for block in cascade:
        images = {"image": image, "zero_filled": adjoint_kspace, "initial": initial}
        denoised = block.denoise(image, sense, adjoint_kspace, initial)
        after = block.consistency(denoised, sense, adjoint_kspace)
        yield BlockState(image, input_channels(images, block.inputs), denoised, after)
        image = after
