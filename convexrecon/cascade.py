"""The unrolled network: denoiser and data consistency in turn. One model, whatever trains it."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from convexrecon.denoisers.patchwise import Extent, Patching, patching
from convexrecon.denoisers.residual import with_factor_once
from convexrecon.errors import InputError
from convexrecon.physics.data_consistency import DataConsistency
from convexrecon.physics.forward_model import ForwardModel
from convexrecon.physics.initial_image import initial_image

# Images that a denoiser may see, the current one always first: what blocks before it smoothed away is in the others.
BLOCK_INPUTS = ("image", "zero_filled", "initial")


def to_channels(image: Tensor) -> Tensor:
    """Complex image (B, *N) -> real channels (B, 2, *N)."""
    return torch.view_as_real(image).movedim(-1, 1).contiguous()


def input_channels(images: Mapping[str, Tensor], inputs: Sequence[str]) -> Tensor:
    """What a denoiser sees of complex images (B, *N), by name: real (B, 2 len(inputs), *N)."""
    return torch.cat([to_channels(images[name]) for name in inputs], 1)


def to_complex(channels: Tensor) -> Tensor:
    """Real channels (B, 2, *N) -> complex image (B, *N)."""
    return torch.complex(channels[:, 0], channels[:, 1])


class Block(nn.Module):
    """One step of a cascade, ``x -> consistency(support . denoiser(x))``.

    The denoised image is set to zero where all coil maps are zero: nothing is measured there.

    Args:
        denoiser: real (B, 2 len(inputs), *N) -> (B, 2, *N).
        consistency: one of `physics.data_consistency`.
        inputs: the images that the denoiser sees, from `BLOCK_INPUTS`, "image" first.
        precision: "float32", or "bfloat16" for the denoiser's convolutions alone (autocast).
        patch: most pixels along every axis, or each, that are denoised at a time; None for whole images.
        halo: pixels that a patch sees beyond them; None for as many as leave the result as it is.

    Raises:
        InputError: a patch or halo that does not suit the denoiser.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        consistency: DataConsistency,
        *,
        inputs: Sequence[str] = ("image",),
        precision: str = "float32",
        patch: Extent | None = None,
        halo: Extent | None = None,
    ) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.consistency = consistency
        self.inputs = tuple(inputs)
        self.precision = precision
        self.patches: Patching | None = None
        self.use_patches(patch, halo)

    def use_patches(self, patch: Extent | None, halo: Extent | None = None) -> None:
        """Denoise patch by patch from now on, or whole images; arguments as of the block.

        Raises:
            InputError: a patch or halo that does not suit the denoiser, or a halo without a patch.
        """
        if patch is None and halo is not None:
            raise InputError(f"halo: whole images have none; expected a patch with it, found halo = {halo}")
        self.patches = None if patch is None else patching(self.denoiser, patch, halo)

    def denoise(
        self,
        image: Tensor,
        sense: ForwardModel,
        adjoint_kspace: Tensor,
        initial: Tensor,
        *,
        denoiser: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """The denoised image before data consistency; arguments as `forward`, result (B, *N).

        `denoiser` takes the place of the block's own, for one that computes the same in another way.
        """
        denoiser = self.denoiser if denoiser is None else denoiser
        if self.patches is not None:
            denoiser = partial(self.patches.apply, with_factor_once(denoiser))
        channels = input_channels({"image": image, "zero_filled": adjoint_kspace, "initial": initial}, self.inputs)
        if self.precision == "bfloat16":
            with torch.autocast(image.device.type, torch.bfloat16):
                denoised = denoiser(channels).to(channels.dtype)
        else:
            denoised = denoiser(channels)
        return to_complex(denoised) * support(sense)

    def forward(self, image: Tensor, sense: ForwardModel, adjoint_kspace: Tensor, initial: Tensor) -> Tensor:
        """x (B, *N), A, A^H y (B, *N), the image before the first block (B, *N) -> the next x (B, *N)."""
        denoised = self.denoise(image, sense, adjoint_kspace, initial)
        result: Tensor = self.consistency(denoised, sense, adjoint_kspace)
        return result


class Cascade(nn.Module):
    """Blocks in sequence, from the initial image to the reconstruction.

    Args:
        blocks: the steps; none gives the initial image.
        initial: "zero_filled" (A^H y), "cg_sense" (ten CG steps on A^H A + 0.01), "cg_sense_sharp" (on A^H A + 0.001)
            or, of series, "time_average" (CG from what does not change in time) or "kt_focuss" (sparse in temporal
            frequency), or "l1_wavelet" (compressed sensing); see `physics.initial_image`.
        initial_weight: of the penalty of "l1_wavelet", in units of the scaled image; None for the others.

    Raises:
        InputError: an unknown initial image, or a weight that it does not have or that is missing.
    """

    def __init__(
        self, blocks: Iterable[Block] = (), *, initial: str = "zero_filled", initial_weight: float | None = None
    ) -> None:
        super().__init__()
        initial_image(initial, initial_weight)  # raises what is wrong with them
        self.blocks = nn.ModuleList(blocks)
        self.initial = initial
        self.initial_weight = initial_weight

    def with_blocks(self, blocks: Iterable[Block]) -> "Cascade":
        """Other blocks behind the same initial image."""
        return Cascade(blocks, initial=self.initial, initial_weight=self.initial_weight)

    def __len__(self) -> int:
        return len(self.blocks)

    def __iter__(self) -> Iterator[Block]:
        for block in self.blocks:
            assert isinstance(block, Block)
            yield block

    def start(self, sense: ForwardModel, adjoint_kspace: Tensor) -> Tensor:
        """The image before the first block: A^H y (B, *N) -> (B, *N)."""
        return initial_image(self.initial, self.initial_weight)(sense, adjoint_kspace)

    def images(self, sense: ForwardModel, kspace: Tensor) -> Iterator[Tensor]:
        """Yield the image before the first block and after every block, each (B, *N)."""
        adjoint_kspace = sense.adjoint(kspace)
        initial = image = self.start(sense, adjoint_kspace)
        yield image
        for block in self:
            image = block(image, sense, adjoint_kspace, initial)
            yield image

    def forward(self, sense: ForwardModel, kspace: Tensor) -> Tensor:
        """Undersampled k-space (B, C, *N), scaled, uncentred -> image (B, *N)."""
        image = None
        for image in self.images(sense, kspace):  # noqa: B007
            pass
        assert image is not None
        return image


def support(sense: ForwardModel) -> Tensor:
    """1 where any coil map is not zero, (B, *N) float32."""
    return (sense.maps.abs().amax(1) > 0).to(torch.float32).expand(sense.image_shape)


def image_axes(cascade: Cascade) -> int:
    """Number of image axes that a cascade's denoisers act on; 2 where they have no convolution to tell."""
    for block in cascade:
        for name, tensor in block.denoiser.state_dict().items():
            if name.endswith(("gate_filters", "weight")) and tensor.ndim > 3:
                return tensor.ndim - 2
    return 2
