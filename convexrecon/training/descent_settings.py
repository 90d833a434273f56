"""The settings of the trainers that descend a loss: what they share, and what is one's own."""

from dataclasses import dataclass, field
from typing import Literal

from convexrecon.errors import InputError

Loss = Literal["l2", "l1", "ssim"]
Schedule = Literal["cosine", "halving", "constant"]
Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class GleamSettings:
    """Greedy decoupled modules.

    Attributes:
        modules: how many modules of consecutive blocks, each with its own optimizer and loss; 0 for one a block.
    """

    modules: int = 0

    def __post_init__(self) -> None:
        if self.modules < 0:
            raise InputError(f"gleam: expected modules >= 0 (0: one a block), found {self.modules}")


@dataclass(frozen=True)
class ReversibleSettings:
    """Memory-efficient learning: block inputs recomputed from outputs.

    Attributes:
        iterations: most fixed-point iterations of the inversion of a residual denoiser.
        checkpoint_every: most blocks between two block inputs that are kept. More are kept where data consistency
            contracts so much that rounding would exceed the tolerance: every 3 at lam = 0.5, every one at 0.05 or with
            gradient steps of 1 and more.
        tolerance: relative error of block inputs computed from outputs, as measured, above which they are computed
            from a kept input instead. The gradient's is 10 to 100 times that: where ReLUs switch, it jumps.
    """

    iterations: int = 20
    checkpoint_every: int = 8
    tolerance: float = 3e-6

    def __post_init__(self) -> None:
        if self.iterations < 1 or self.checkpoint_every < 1 or not self.tolerance > 0:
            raise InputError(
                "reversible: expected iterations >= 1, checkpoint_every >= 1, tolerance > 0, "
                f"found {self.iterations}, {self.checkpoint_every}, {self.tolerance}"
            )


@dataclass(frozen=True)
class DescentSettings:
    """How a cascade is trained by descent of a loss, whatever the trainer.

    Attributes:
        epochs: passes over the training slices; of the layer-wise trainer, for each block.
        learning_rate: of Adam, at its highest.
        warmup: share of the steps over which the rate rises from zero.
        schedule: "cosine" to 1 % of the rate, "halving" every `halve_every` epochs, or "constant".
        halve_every: epochs.
        weight_decay: of Adam.
        loss: "l2" (mean squared complex error), "l1" (mean absolute) or "ssim" (mostly 1 - SSIM, see `losses`).
        lam: initial weight of proximal data consistency.
        step: initial step of gradient data consistency.
        learn_consistency: whether lam or step is learned.
        clip: largest gradient norm; larger ones are scaled down.
        precision: of the denoisers' arithmetic; data consistency, losses and weights are float32 always.
        validate_every: epochs between validations.
        save_every: steps between checkpoints within an epoch; there is one at the end of each anyway.
        start_run: run folder of a convex cascade that is turned into ReLU blocks to start from, or None. Its learned
            weights want a smaller learning rate than random ones.
        start_sharpness: how near the start is to the convex cascade, see `convex_start.relu_start`.
        gleam: of method "gleam".
        reversible: of method "reversible".
    """

    epochs: int = 50
    learning_rate: float = 2e-3
    warmup: float = 0.05
    schedule: Schedule = "cosine"
    halve_every: int = 10
    weight_decay: float = 0.0
    loss: Loss = "l2"
    lam: float = 0.5
    step: float = 1.0
    learn_consistency: bool = True
    clip: float = 1.0
    precision: Precision = "float32"
    validate_every: int = 1
    save_every: int = 500
    start_run: str | None = None
    start_sharpness: float = 10.0
    gleam: GleamSettings = field(default_factory=GleamSettings)
    reversible: ReversibleSettings = field(default_factory=ReversibleSettings)

    def __post_init__(self) -> None:
        if self.epochs < 1 or not self.learning_rate > 0 or self.validate_every < 1:
            raise InputError(
                "descent: expected epochs >= 1, learning_rate > 0, validate_every >= 1, "
                f"found {self.epochs}, {self.learning_rate}, {self.validate_every}"
            )
        if not 0 <= self.warmup < 1 or self.halve_every < 1 or not self.weight_decay >= 0:
            raise InputError(
                "descent: expected 0 <= warmup < 1, halve_every >= 1, weight_decay >= 0, "
                f"found {self.warmup}, {self.halve_every}, {self.weight_decay}"
            )
        if not self.start_sharpness > 0:
            raise InputError(f"descent: expected start_sharpness > 0, found {self.start_sharpness}")
        if not self.clip > 0 or not self.lam > 0 or not 0 < self.step < 2:
            raise InputError(
                f"descent: expected clip > 0, lam > 0, 0 < step < 2, found {self.clip}, {self.lam}, {self.step}"
            )
        if self.save_every < 1:
            raise InputError(f"descent: expected save_every >= 1, found {self.save_every}")
