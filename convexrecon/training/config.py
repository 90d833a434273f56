"""The settings of a run: dataclasses, read from TOML and written back resolved."""

import dataclasses
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import tomli_w

from convexrecon.cascade import BLOCK_INPUTS
from convexrecon.convex.gate_growth import GrowthSettings
from convexrecon.convex.program import ProgramSettings
from convexrecon.denoisers.building import DenoiserKind
from convexrecon.denoisers.convolution import kernel_sizes
from convexrecon.errors import InputError
from convexrecon.physics.initial_image import check_weight
from convexrecon.physics.masks import MaskSettings
from convexrecon.training.descent_settings import DescentSettings

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Settings = TypeVar("Settings")
Method = Literal["convex", "end_to_end", "checkpointing", "gleam", "reversible", "layerwise"]
METHODS: tuple[str, ...] = get_args(Method)
GateChoice = Literal["gaussian", "zero_mean", "patches", "patch_differences", "mixed", "trained"]


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


@dataclass(frozen=True)
class RunSettings:
    """Everything that decides the outcome of a training run, but the data.

    Attributes:
        method: how the cascade is trained.
        seed: of all randomness: masks, the split of the data, and what `training_seed` is of.
        training_seed: of initial weights, gates, drawn pixels and the order of the slices; None for `seed`. Runs that
            differ in it alone see the same data.
        batch_size: slices of one shape taken together.
        validation_fraction: share of the volumes held out.
        slab: how many slices of a volume are taken together, of data whose layout is "volume"; all if None.
        mask: how the data are undersampled.
        random_phase: whether training images are seen with random global phases, each with another in every step or,
            in a convex program, its pixels shared among several. Worth most where subjects are few, as volumes and
            series are.
        model: the network.
        convex: of method "convex".
        descent: of the others.
    """

    method: Method = "convex"
    seed: int = 0
    training_seed: int | None = None
    batch_size: int = 1
    validation_fraction: float = 0.15
    slab: int | None = None
    random_phase: bool = False
    mask: MaskSettings = field(default_factory=MaskSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    convex: ConvexSettings = field(default_factory=ConvexSettings)
    descent: DescentSettings = field(default_factory=DescentSettings)

    def __post_init__(self) -> None:
        if self.slab is not None and self.slab < 1:
            raise InputError(f"slab: expected at least 1 slice, found {self.slab}")
        if self.batch_size < 1:
            raise InputError(f"batch_size: expected at least 1, found {self.batch_size}")
        if not 0 <= self.validation_fraction < 1:
            raise InputError(f"validation_fraction: expected in [0, 1), found {self.validation_fraction}")
        if self.training_seed is not None and self.training_seed < 0:
            raise InputError(f"training_seed: expected at least 0, found {self.training_seed}")
        if self.method == "convex" and self.model.stacking == "features" and self.convex.grow.rule != "none":
            raise InputError(
                "convex.grow: gates of stacked features are drawn; expected grow.rule = 'none' or model.stacking = "
                f"'published_features', found {self.convex.grow.rule!r}"
            )
        consistent = self.model.stacking == "cascade" and self.model.consistency != "none"
        if self.method == "convex" and self.convex.loss != "image" and not consistent:
            raise InputError(
                f"convex.loss = {self.convex.loss!r} expects model.stacking = 'cascade' and a data consistency, found "
                f"{self.model.stacking!r} and {self.model.consistency!r}"
            )
        if self.method == "convex" and self.convex.loss != "image" and self.random_phase:
            raise InputError(f"random_phase: expected convex.loss = 'image', found {self.convex.loss!r}")


def seed_of_training(settings: RunSettings) -> int:
    """The seed of what `training_seed` is of."""
    return settings.seed if settings.training_seed is None else settings.training_seed


def kernel_of(settings: RunSettings, dimensions: int) -> tuple[int, ...]:
    """The kernel size along each image axis; InputError where the settings name another number of axes."""
    try:
        return kernel_sizes(settings.model.kernel, dimensions)
    except InputError as error:
        raise InputError(f"model.{error}") from None


def load_settings(path: Path) -> RunSettings:
    """Read settings from a TOML file; what it leaves out keeps its default.

    Raises:
        InputError: the file is missing or not TOML, a key is unknown, a value has the wrong type.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; expected a TOML configuration") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid TOML ({error})") from None
    return _build(RunSettings, table, str(path))


def dump_settings(settings: RunSettings) -> str:
    """The resolved settings as TOML; options that are None are left out, which reads back as None."""
    return tomli_w.dumps(_without_none(dataclasses.asdict(settings)))


def flat_settings(settings: RunSettings) -> dict[str, Any]:
    """Every setting under its dotted name, e.g. ``{"model.blocks": 5}``."""

    def flatten(prefix: str, table: dict[str, Any]) -> dict[str, Any]:
        flat: dict[str, Any] = {}
        for key, value in table.items():
            name = f"{prefix}{key}"
            flat.update(flatten(f"{name}.", value) if isinstance(value, dict) else {name: value})
        return flat

    return flatten("", dataclasses.asdict(settings))


def _without_none(table: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _without_none(value) if isinstance(value, dict) else value
        for key, value in table.items()
        if value is not None
    }


def _build(kind: type[Settings], table: dict[str, Any], where: str) -> Settings:
    hints = get_type_hints(kind)
    unknown = sorted(set(table) - set(hints))
    if unknown:
        raise InputError(f"{where}: unknown key {unknown[0]!r}; expected one of {', '.join(hints)}")
    values = {}
    for key, value in table.items():
        hint = hints[key]
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            if not isinstance(value, dict):
                raise InputError(f"{where}: {key}: expected a table, found {value!r}")
            values[key] = _build(hint, value, f"{where}: [{key}]")
        else:
            values[key] = _checked(value, hint, f"{where}: {key}")
    try:
        return kind(**values)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _checked(value: Any, hint: Any, where: str) -> Any:
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise InputError(f"{where}: expected one of {', '.join(get_args(hint))}, found {value!r}")
        return value
    if get_origin(hint) is tuple:
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise InputError(f"{where}: expected a list of strings, found {value!r}")
        return tuple(value)
    accepted = [t for t in (get_args(hint) or (hint,)) if t is not type(None)]
    if isinstance(value, list) and tuple[int, ...] in accepted:
        if not all(type(item) is int for item in value):
            raise InputError(f"{where}: expected a whole number or a list of them, found {value!r}")
        return tuple(value)
    kind = accepted[0]
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise InputError(f"{where}: expected {kind.__name__}, found {value!r}")
    return value
