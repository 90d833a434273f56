"""The settings of a network: what its blocks see, are made of and start from."""

from dataclasses import dataclass
from typing import Literal

from convexrecon.cascade import BLOCK_INPUTS
from convexrecon.denoisers.building import DenoiserKind
from convexrecon.errors import InputError
from convexrecon.physics.initial_image import check_weight


@dataclass(frozen=True)
class ModelSettings:
    """The shape of the network.

    Attributes:
        stacking: "cascade" (denoiser and data consistency in turn); "features" (each layer sees the hidden channels
            of the one before and the input image, and adds to what the layers before it made; data consistency behind
            the last); or "published_features" (as the ISMRM 2021 abstract has them: hidden channels alone, every
            layer's output in place of the one before, no data consistency).
        blocks: number of blocks, or of layers when stacking features.
        kernel: odd kernel size, of all axes or one for each, e.g. [3, 5, 5] of (t, y, x).
        periodic: whether the first axis of three goes round, as the time of a heartbeat does.
        units: gates of a gated block, hidden units of a ReLU block.
        denoiser: of the methods that descend a loss: "relu" (two layers, as the convex ones), "resnet" (GLEAM's) or
            "modl" (MoDL's).
        width: channels inside "resnet" and "modl"; None for 100 and 70.
        spectral: bound of the Lipschitz constant of a denoiser's residual part, below 1; None for none. It makes
            denoisers invertible, and smoother than they would be.
        inputs: images that a denoiser sees, the current "image" first; also "zero_filled" and, where it is
            another image, "initial".
        initial: image before the first block, "zero_filled", "cg_sense", "cg_sense_sharp" or, of series,
            "time_average" or "kt_focuss"; or "l1_wavelet", compressed sensing, of anything.
        initial_weight: of the penalty of "l1_wavelet", in units of scaled images, whose zero-filled magnitude
            has a 95th percentile of 1; None to choose it on training samples when the run starts.
        consistency: "proximal", "gradient" or "none".
        cg_iterations: most conjugate-gradient steps of a proximal step.
        patch: most pixels along every axis, or each, that are denoised at a time; None for whole images. The memory
            of denoisers is then that of a patch, in training too, for computing everything inside twice. Hidden
            channels that features are stacked on are of whole images still.
        halo: pixels that a patch sees beyond those; None for the receptive field, with which nothing changes.
    """

    stacking: Literal["cascade", "features", "published_features"] = "cascade"
    blocks: int = 5
    kernel: int | tuple[int, ...] = 5
    periodic: bool = False
    units: int = 32
    denoiser: DenoiserKind = "relu"
    width: int | None = None
    spectral: float | None = None
    inputs: tuple[str, ...] = ("image",)
    initial: Literal["zero_filled", "cg_sense", "cg_sense_sharp", "time_average", "kt_focuss", "l1_wavelet"] = (
        "zero_filled"
    )
    initial_weight: float | None = None
    consistency: Literal["proximal", "gradient", "none"] = "proximal"
    cg_iterations: int = 12
    patch: int | tuple[int, ...] | None = None
    halo: int | tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        sizes = self.kernel if isinstance(self.kernel, tuple) else (self.kernel,)
        if self.blocks < 0 or self.units < 1 or not sizes or any(size < 1 or size % 2 == 0 for size in sizes):
            raise InputError(
                "model: expected blocks >= 0, units >= 1 and an odd kernel, "
                f"found {self.blocks}, {self.units}, {self.kernel}"
            )
        if self.width is not None and (self.width < 1 or self.denoiser == "relu"):
            raise InputError(
                "model.width: expected at least 1, and denoiser = 'resnet' or 'modl' ('relu' has units), "
                f"found {self.width} and {self.denoiser!r}"
            )
        if self.spectral is not None and not 0 < self.spectral < 1:
            raise InputError(f"model.spectral: expected in (0, 1), found {self.spectral}")
        known = len(set(self.inputs)) == len(self.inputs) and set(self.inputs) <= set(BLOCK_INPUTS)
        if not known or self.inputs[:1] != ("image",):
            raise InputError(
                f"model.inputs: expected 'image' first, then any of {BLOCK_INPUTS[1:]}, found {self.inputs}"
            )
        if self.halo is not None and self.patch is None:
            raise InputError(f"model.halo: expected model.patch with it, found {self.halo} and no patch")
        if self.stacking != "cascade" and len(self.inputs) > 1:
            raise InputError(f"model: stacking = {self.stacking!r} expects inputs = ['image'], found {self.inputs}")
        if self.initial == "zero_filled" and set(self.inputs) >= {"zero_filled", "initial"}:
            raise InputError("model.inputs: 'initial' is the zero-filled image here; expected one of the two")
        try:
            check_weight(self.initial, self.initial_weight)
        except InputError as error:
            raise InputError(f"model.{error}") from None
