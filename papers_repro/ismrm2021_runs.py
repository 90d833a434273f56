"""The runs that reproduce ISMRM 2021 #1953: their settings by size, training, and the batch that fits."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import benchmark_scripts as benchmark_scripts
from cells import cell
from command_line import Given
from scans import DataSets, Scans
from scored_runs import Row, scored_run
from seeded_runs import seeded_runs

from convexrecon.convex.program import ProgramSettings
from convexrecon.physics.masks import MaskSettings
from convexrecon.training.config import RunSettings
from convexrecon.training.convex_settings import ConvexSettings
from convexrecon.training.descent_settings import DescentSettings
from convexrecon.training.fit_memory import fit_methods
from convexrecon.training.model_settings import ModelSettings
from convexrecon.training.run_folder import RunFolder

MASKS = {
    "Poisson": MaskSettings(kind="poisson", acceleration=4.0, calibration=16),
    "1-D": MaskSettings(kind="random", acceleration=4.0, center_fraction=0.04),
}
STACKINGS = ("cascade", "features")
# (stacking, method, mask) -> a row a seed.
Rows = dict[tuple[str, str, str], list[Row]]


@dataclass(frozen=True)
class Scale:
    """How large: scans, network, training, the scan whose batches are counted.

    Of stacked features the weakest penalty that the validation slices choose from, relative to beta_max, and how many
    times the epochs their opponent has, which learns more slowly without data consistency.
    """

    scans: Scans
    blocks: int
    units: int
    kernel: int
    epochs: dict[str, int]
    learning_rate: float
    halving: bool
    batch_size: tuple[int, int]
    batch_coils: int
    batch_units: int
    gigabytes: float
    feature_beta: float = 1e-3
    feature_epochs: int = 1


SCALES = {
    "tiny": Scale(
        Scans((2, 1, 1), 2, (48, 40), 3, (0, 0, 0), 12),
        2, 4, 3, {"Poisson": 2, "1-D": 2}, 3e-3, False, (48, 40), 2, 4, 4.0,
    ),
    "synthetic": Scale(
        Scans((24, 4, 4), 2, (48, 44), 3, (0, 0, 0), 12),
        5, 12, 5, {"Poisson": 15, "1-D": 15}, 3e-3, False, (320, 320), 15, 32, 12.0,
        feature_epochs=2,
    ),
    "full": Scale(
        Scans((30, 3, 6), 1, (320, 320), 15, (30, 3, 6)),
        5, 256, 7, {"Poisson": 40, "1-D": 30}, 1e-4, True, (320, 320), 15, 256, 12.0,
    ),
}  # fmt: skip


def settings_of(stacking: str, method: str, mask: str, seed: int, scale: Scale) -> RunSettings:
    """A run. Of stacked channels the opponent is five convolutions beside a skip, as wide as what is stacked."""
    whitened = 0.5 if (mask, stacking) == ("Poisson", "cascade") else 0.0
    strength = scale.feature_beta if (stacking, method) == ("features", "convex") else 1e-4
    convex = ConvexSettings(ProgramSettings(beta_ratio=strength), gates="patches", whitened=whitened)
    epochs = scale.epochs[mask] * (scale.feature_epochs if stacking == "features" else 1)
    descent = DescentSettings(
        epochs=epochs,
        learning_rate=scale.learning_rate,
        schedule="halving" if scale.halving else "cosine",
        validate_every=max(1, epochs // 12),
    )
    common = RunSettings(
        mask=_mask(mask, scale),
        model=ModelSettings(blocks=scale.blocks, kernel=scale.kernel, units=scale.units, cg_iterations=8),
        convex=convex,
        descent=descent,
        training_seed=seed,
    )
    if stacking == "cascade":
        return replace(common, method="convex" if method == "convex" else "end_to_end")
    kernel = min(7, scale.kernel + 2)
    if method == "convex":
        # An optimum has up to two neurons a gate, one gate more than are drawn, and passes two channels on.
        drawn = max(2, scale.units // 2 - 2)
        stacked = ModelSettings(
            stacking="features", blocks=scale.blocks, kernel=kernel, units=drawn, consistency="none"
        )
        return replace(common, model=stacked)
    deep = ModelSettings(blocks=1, kernel=kernel, denoiser="modl", width=scale.units, consistency="none")
    return replace(common, method="end_to_end", model=deep)


def _mask(mask: str, scale: Scale) -> MaskSettings:
    return replace(MASKS[mask], calibration=min(16, scale.scans.calibration))


def folder_of(out: Path, stacking: str, method: str, mask: str, seed: int) -> Path:
    """Of a run."""
    return out / "runs" / _name(stacking, method, mask) / f"seed_{seed}"


def _name(stacking: str, method: str, mask: str) -> str:
    return f"{mask}_{stacking}_{method}"


def train_all(given: Given, scale: Scale, data: DataSets) -> Rows:
    """(stacking, method, mask) -> a row a seed."""
    rows: Rows = {}
    for mask in MASKS:
        for stacking in STACKINGS:
            for method in ("convex", "end_to_end"):
                settings = partial(settings_of, stacking, method, mask, scale=scale)
                rows[stacking, method, mask] = seeded_runs(given, data, _name(stacking, method, mask), settings)
    return rows


def batches(given: Given, scale: Scale) -> dict[str, Any]:
    """The batch that fits by method, and the memory of a step; None: any."""
    common = settings_of("cascade", "convex", "Poisson", 0, scale)
    common = replace(common, model=replace(common.model, units=scale.batch_units))
    trainers = [replace(common, method=method) for method in ("end_to_end", "layerwise", "convex")]

    def measure() -> dict[str, Any]:
        fits = fit_methods(
            trainers, scale.gigabytes, size=scale.batch_size, coils=scale.batch_coils, device=given.device
        )
        return {fit.method: {"largest": fit.largest, "each MB": fit.each_mb, "total MB": fit.total_mb} for fit in fits}

    size = {"size": scale.batch_size, "coils": scale.batch_coils, "units": scale.batch_units, "GB": scale.gigabytes}
    found: dict[str, Any] = cell(given.out / "cells", "batch", size | {"blocks": scale.blocks}, measure)
    return found


def other_batch(given: Given, scale: Scale, data: DataSets) -> Row:
    """The first convex run with two slices a batch."""
    settings = replace(settings_of("cascade", "convex", "Poisson", 0, scale), batch_size=2)
    return scored_run(settings, data.train.parent, given.out / "runs" / "batch_of_2" / "seed_0", device=given.device)


def layers(given: Given, stacking: str, mask: str, seed: int) -> list[float]:
    """Validation PSNR after each block of a convex run; stacked layers that would not help are not among them."""
    rows = RunFolder(folder_of(given.out, stacking, "convex", mask, seed)).read_metrics()
    return [float(row["psnr_validation"]) for row in rows]


def late_gain(rows: list[Row]) -> float:
    """What runs by descent gained in validation PSNR in the second half of their time, dB, on average."""
    gains = []
    for row in rows:
        curve = row["curve"]
        half = max(score for seconds, score in curve if seconds <= max(curve[-1][0] / 2, curve[0][0]))
        gains.append(max(score for _, score in curve) - half)
    return sum(gains) / len(gains)
