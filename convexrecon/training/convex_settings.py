"""The settings of convex blocks: their programs, gates, losses and the strengths chosen for them."""

from dataclasses import dataclass, field
from typing import Literal

from convexrecon.convex.gate_growth import GrowthSettings
from convexrecon.convex.program import ProgramSettings
from convexrecon.errors import InputError

GateChoice = Literal["gaussian", "zero_mean", "patches", "patch_differences", "mixed", "trained"]


@dataclass(frozen=True)
class ConvexSettings:
    """How convex blocks are trained.

    Attributes:
        program: penalty, strength and accuracy of each block's program.
        loss: "image" (of the denoiser's output: one pass over the data per block) or "consistent" (of the
            block's output, behind data consistency: a few dozen passes; worth most where the mask leaves
            large gaps, as 1-D masks do) or "self_supervised" (of samples that the block does not see, behind data
            consistency with those that it does: no fully sampled image is used).
        loss_lam: data-consistency weight that a consistent loss sits behind. The block's own is still
            chosen afterwards; a smaller one asks less of the denoiser where there are data, and makes the
            program harder.
        loss_image_share: weight of the image loss in a consistent one. A consistent loss alone says nothing of
            what consistency will overwrite; a little of the image loss settles that, and halves the passes.
        gates: where the gates' filters come from: "gaussian", "zero_mean", "patches" of the data or
            "patch_differences", "mixed" (some of each), or "trained" (the gates of another run's blocks, at most
            as many as those have).
        gates_run: the run folder that "trained" gates are taken from.
        beta_from: whose strength of the penalty a block has: "program" (its `beta` or `beta_ratio`), "validation" (the
            one whose optimum is best on the validation slices, of those from beta_max down to `beta_ratio` of it; a
            stacked layer that lowers their loss at none of them is not added, and ends the training), or "auto":
            "validation" where stacked "features" are trained with validation slices and no `beta`, else "program".
        grow: whether and how gates are searched for instead of drawn; the candidates are drawn as gates are.
        held_out: share of a slice's samples that a self-supervised loss is measured on. The smaller, the more what
            a block is trained on resembles what it will reconstruct from, all samples: 0.2 suits Poisson discs.
        held_out_behind: whose output a self-supervised loss judges at the held-out samples: the "denoiser"'s, or
            the block's, behind data "consistency" with the others (`loss_lam` and `loss_image_share` as for a
            consistent loss).
        offset_scale: standard deviation of the gates' offsets in units of the response's; 0 for gates
            through the origin.
        whitened: share of the gates that are drawn to respond to edges and texture instead of brightness.
            A half is worth 0.15 dB with Poisson masks and costs 0.3 dB with 1-D masks, whose aliasing is smooth.
        pixel_fraction: share of the pixels, drawn anew per slice and block, that the program is posed on;
            with a consistent loss, that the model of its curvature is made from.
        lam: data-consistency weight, or None to choose it per block on training slices.
        lam_slices: how many training slices it is chosen on.
        lam_scale: the weight used, relative to the one chosen. Below 1 the block trusts the data more than
            is best right behind it, which later blocks gain from where scans are as clean as the training
            data, and which lets noise through where they are not.
    """

    program: ProgramSettings = field(default_factory=ProgramSettings)
    loss: Literal["image", "consistent", "self_supervised"] = "image"
    loss_lam: float = 0.05
    loss_image_share: float = 0.05
    gates: GateChoice = "gaussian"
    gates_run: str | None = None
    beta_from: Literal["auto", "program", "validation"] = "auto"
    grow: GrowthSettings = field(default_factory=GrowthSettings)
    held_out: float = 0.4
    held_out_behind: Literal["denoiser", "consistency"] = "denoiser"
    offset_scale: float = 1.0
    whitened: float = 0.0
    pixel_fraction: float = 1.0
    lam: float | None = None
    lam_slices: int = 24
    lam_scale: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.pixel_fraction <= 1:
            raise InputError(f"pixel_fraction: expected in (0, 1], found {self.pixel_fraction}")
        if (self.gates == "trained") != (self.gates_run is not None):
            raise InputError(
                "convex: gates = 'trained' and gates_run = a run folder go together, "
                f"found {self.gates!r} and {self.gates_run!r}"
            )
        if self.gates == "trained" and self.grow.rule != "none":
            raise InputError(
                f"convex: gates = 'trained' are not grown; expected grow.rule = 'none', found {self.grow.rule!r}"
            )
        if not self.loss_image_share >= 0:
            raise InputError(f"loss_image_share: expected a number >= 0, found {self.loss_image_share}")
        if self.beta_from == "validation":
            self._check_path()
        if self.loss == "self_supervised" and self.grow.rule != "none":
            raise InputError(
                "convex: gates are grown on targets, which loss = 'self_supervised' goes without; "
                f"expected grow.rule = 'none', found {self.grow.rule!r}"
            )
        if not 0 < self.held_out < 1:
            raise InputError(f"held_out: expected in (0, 1), found {self.held_out}")
        if not 0 <= self.whitened <= 1:
            raise InputError(f"whitened: expected in [0, 1], found {self.whitened}")
        if not 0 < self.lam_scale <= 1:
            raise InputError(f"lam_scale: expected in (0, 1], found {self.lam_scale}")
        if not self.loss_lam > 0:
            raise InputError(f"loss_lam: expected a positive number, found {self.loss_lam}")
        if self.lam_slices < 1:
            raise InputError(f"lam_slices: expected at least 1, found {self.lam_slices}")

    def _check_path(self) -> None:
        program = self.program
        if program.beta is not None or program.beta_ratio >= 1 or self.loss != "image" or self.grow.rule != "none":
            raise InputError(
                "beta_from: 'validation' expects loss = 'image', grow.rule = 'none', program.beta_ratio below 1 and no "
                f"program.beta, found {self.loss!r}, {self.grow.rule!r}, {program.beta_ratio} and {program.beta}"
            )

    @property
    def samples_held_out(self) -> float:
        """Share of a training slice's samples that the cascade does not see: 0 unless the loss needs them."""
        return self.held_out if self.loss == "self_supervised" else 0.0
