"""The runs that reproduce GLEAM: settings by layout and size, training, and the cost of a step of every trainer."""

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import benchmark_scripts as benchmark_scripts
from cells import cell
from command_line import Given
from parallel_gleam import Epoch, measured
from scans import Scans, data_sets
from scored_runs import Row
from seeded_runs import seeded_runs

from convexrecon.data.dataset import PreparedSlices
from convexrecon.physics.masks import MaskSettings
from convexrecon.training.config import RunSettings
from convexrecon.training.descent_settings import DescentSettings, GleamSettings
from convexrecon.training.measured_step import TIMED_STEPS, step_memory, step_seconds
from convexrecon.training.model_settings import ModelSettings

COSTS: tuple[Any, ...] = ("end_to_end", "checkpointing", "reversible", "gleam")
# Layout -> method -> a row a seed.
Layouts = dict[str, dict[str, list[Row]]]


@dataclass(frozen=True)
class Part:
    """One layout: scans, mask, network (greedy blocks in modules; blocks end to end), training."""

    scans: Scans
    mask: MaskSettings
    blocks: int
    modules: int
    end_to_end: int
    width: int
    epochs: int
    learning_rate: float
    slab: int | None = None


@dataclass(frozen=True)
class Scale:
    """All layouts; the network whose steps are measured; what several ranks train on."""

    layouts: dict[str, Part]
    cost_blocks: int
    cost_width: int
    rounds: int
    parallel: dict[str, int]


def _parallel(blocks: int, units: int, size: int, coils: int, slices: int, repeats: int) -> dict[str, int]:
    return {"ranks": 2, "blocks": blocks, "units": units, "modules": 0, "size": size} | {
        "coils": coils,
        "slices": slices,
        "repeats": repeats,
    }


def _poisson(acceleration: float, calibration: int) -> MaskSettings:
    return MaskSettings(kind="poisson", acceleration=acceleration, calibration=calibration)


SCALES = {
    "tiny": Scale(
        {
            "slices": Part(Scans((2, 1, 1), 2, (40, 32), 2, (0, 0, 0), 12), _poisson(4, 8), 4, 2, 2, 4, 1, 2e-3),
            "volume": Part(
                Scans((2, 1, 1), 8, (32, 32), 2, (0, 0, 0), 12, "volume"), _poisson(4, 8), 2, 2, 1, 4, 1, 2e-3
            ),
            "cine": Part(
                Scans((2, 1, 1), 6, (32, 32), 2, (0, 0, 0), 12, "cine"),
                MaskSettings(kind="variable", acceleration=4, center_fraction=0.08), 2, 2, 1, 4, 1, 2e-3,
            ),
        },
        4, 4, 1, _parallel(2, 4, 40, 2, 4, 1),
    ),
    "synthetic": Scale(
        {
            "slices": Part(Scans((6, 2, 4), 2, (48, 44), 3, (0, 0, 0), 12), _poisson(4, 10), 6, 3, 2, 12, 20, 3e-3),
            "volume": Part(
                Scans((4, 1, 2), 8, (32, 32), 3, (0, 0, 0), 12, "volume"), _poisson(4, 8), 6, 3, 2, 8, 15, 3e-3
            ),
            "cine": Part(
                Scans((4, 1, 2), 6, (32, 32), 3, (0, 0, 0), 12, "cine"),
                MaskSettings(kind="variable", acceleration=4, center_fraction=0.08), 6, 3, 2, 8, 15, 3e-3,
            ),
        },
        8, 16, 2, _parallel(8, 16, 96, 4, 12, 2),
    ),
    "full": Scale(
        {
            "slices": Part(
                Scans((14, 2, 3), 1, (320, 256), 8, (14, 2, 3), 20), _poisson(16, 20), 24, 3, 8, 100, 18, 1e-4
            ),
            "volume": Part(
                Scans((14, 2, 3), 1, (320, 256), 8, (14, 2, 3), 20, "volume"),
                _poisson(16, 20), 12, 3, 4, 64, 100, 1e-4, 16,
            ),
        },
        8, 70, 5, _parallel(8, 70, 320, 8, 24, 5),
    ),
}  # fmt: skip


def all_layouts(scale: Scale, kind: str) -> dict[str, Part]:
    """Those that scans of a kind can serve: fastMRI's are slices, mridata.org's volumes of slices."""
    return {layout: part for layout, part in scale.layouts.items() if kind == "mridata" or layout == "slices"}


def settings_of(part: Part, method: Any, seed: int) -> RunSettings:
    """A run; end to end is as deep as one module."""
    blocks = part.end_to_end if method == "end_to_end" else part.blocks
    return RunSettings(
        method=method,
        mask=part.mask,
        slab=part.slab,
        model=ModelSettings(blocks=blocks, kernel=3, denoiser="resnet", width=part.width, consistency="gradient"),
        descent=DescentSettings(
            epochs=part.epochs,
            learning_rate=part.learning_rate,
            loss="l1",
            weight_decay=1e-4,
            validate_every=5,
            gleam=GleamSettings(part.modules),
        ),
        training_seed=seed,
    )


def train_layout(given: Given, scale: Scale, layout: str) -> tuple[dict[str, list[Row]], str]:
    """Method -> a row a seed, and the data in words; of slices checkpointing as well, at the greedy depth."""
    part = scale.layouts[layout]
    data = data_sets(given, part.scans, given.out / "data" / layout)
    methods = ("gleam", "checkpointing", "end_to_end") if layout == "slices" else ("gleam", "end_to_end")
    rows = {
        method: seeded_runs(given, data, f"{layout}_{method}", partial(settings_of, part, method)) for method in methods
    }
    return rows, data.words


def memory_of(given: Given, scale: Scale, layout: str) -> dict[str, float]:
    """MB of a step of greedy training and of end to end's smaller network."""
    part = scale.layouts[layout]
    folder = given.out / "data" / layout / "prepared" / "train"

    def found() -> dict[str, float]:
        slices = PreparedSlices(folder, part.mask, slab=part.slab)
        return {
            method: step_memory(settings_of(part, method, 0), slices, given.device).activations_mb
            for method in ("gleam", "end_to_end")
        }

    settings = {"blocks": part.blocks, "modules": part.modules, "end to end": part.end_to_end, "width": part.width}
    memory: dict[str, float] = cell(given.out / "cells", f"memory_{layout}", settings, found)
    return memory


def costs(given: Given, scale: Scale) -> dict[str, dict[str, float]]:
    """MB and seconds of a step by trainer: MoDL's denoiser, a module a block, trainers in turn, the least of rounds."""
    part = scale.layouts["slices"]
    slices = PreparedSlices(given.out / "data" / "slices" / "prepared" / "train", part.mask)

    def settings(method: Any) -> RunSettings:
        model = ModelSettings(
            blocks=scale.cost_blocks, kernel=3, denoiser="modl", width=scale.cost_width, cg_iterations=10
        )
        return RunSettings(method=method, mask=part.mask, model=model)

    def found() -> dict[str, dict[str, float]]:
        least = {method: float("inf") for method in COSTS}
        for _ in range(scale.rounds):
            for method in COSTS:
                started = time.process_time()
                step = step_seconds(settings(method), slices, given.device)
                # Of the process, which other work on the machine leaves alone; the first step is not in TIMED_STEPS.
                passed = (time.process_time() - started) / (TIMED_STEPS + 1)
                seconds = passed if given.device.type == "cpu" else step.forward + step.backward
                least[method] = min(least[method], seconds)
        memory = {method: step_memory(settings(method), slices, given.device).activations_mb for method in COSTS}
        return {method: {"MB": memory[method], "s": least[method]} for method in COSTS}

    of = {"blocks": scale.cost_blocks, "width": scale.cost_width, "rounds": scale.rounds}
    rows: dict[str, dict[str, float]] = cell(given.out / "cells", "costs", of, found)
    return rows


def parallel_epochs(given: Given, scale: Scale) -> tuple[Sequence[Epoch], list[list[Epoch]]]:
    """Epochs on one rank, and on two."""

    def found() -> dict[str, Any]:
        singles, shared = measured(argparse.Namespace(**scale.parallel))
        return {"singles": [asdict(e) for e in singles], "shared": [[asdict(e) for e in ranks] for ranks in shared]}

    entry = cell(given.out / "cells", "parallel", scale.parallel, found)
    singles = [Epoch(**part) for part in entry["singles"]]
    return singles, [[Epoch(**part) for part in ranks] for ranks in entry["shared"]]
