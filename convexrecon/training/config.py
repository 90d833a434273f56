"""The settings of a run: dataclasses, read from TOML and written back resolved."""

import dataclasses
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import tomli_w

from convexrecon.denoisers.convolution import kernel_sizes
from convexrecon.errors import InputError
from convexrecon.physics.masks import MaskSettings
from convexrecon.training.convex_settings import ConvexSettings
from convexrecon.training.descent_settings import DescentSettings
from convexrecon.training.model_settings import ModelSettings

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Settings = TypeVar("Settings")
Method = Literal["convex", "end_to_end", "checkpointing", "gleam", "reversible", "layerwise"]
METHODS: tuple[str, ...] = get_args(Method)


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
