"""Memory and time of a training step of every trainer, on the same cascade and simulated data.

    python benchmarks/trainer_cost.py --out FOLDER                     ReLU, ResNet and MoDL denoisers
    python benchmarks/trainer_cost.py --out FOLDER --denoisers relu    some of them

Memory: tensors that the step makes and holds at most (`LiveMemory`), for 4 to 32 blocks; the slope of a trainer over
end-to-end's. The batch that fits where end to end fits one slice: the figure of ISMRM 2021 #1953. Time: steps of all
trainers in turn, several rounds of them, the least of each; ratios to GLEAM's.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import torch

from convexrecon.data.dataset import PreparedSlices
from convexrecon.data.preparation import PreparationSettings, prepare
from convexrecon.data.simulation import simulate_dataset
from convexrecon.denoisers.building import DenoiserKind
from convexrecon.physics.masks import MaskSettings
from convexrecon.training.config import RunSettings
from convexrecon.training.convex_settings import ConvexSettings
from convexrecon.training.measured_step import step_memory, step_seconds
from convexrecon.training.memory_model import memory_model
from convexrecon.training.model_settings import ModelSettings

METHODS = ("end_to_end", "checkpointing", "reversible", "gleam", "layerwise", "convex")
BLOCKS = (4, 8, 16, 32)
CPU = torch.device("cpu")

Row = dict[str, Any]


def settings_of(method: Any, denoiser: DenoiserKind, blocks: int, given: argparse.Namespace) -> RunSettings:
    """One trainer's cascade: 5 x 5 kernels for two layers, 3 x 3 for the deeper ones, as published."""
    relu = denoiser == "relu"
    model = ModelSettings(
        blocks=blocks,
        kernel=5 if relu else 3,
        units=given.units,
        denoiser=denoiser,
        width=None if relu else given.width,
        cg_iterations=10,
    )
    mask = MaskSettings(kind="poisson", acceleration=4.0, calibration=16)
    return RunSettings(method=method, mask=mask, model=model, convex=ConvexSettings(whitened=0.5))


def trainers(denoiser: DenoiserKind) -> tuple[str, ...]:
    """The convex blocks have two layers: they stand beside the ReLU cascade alone."""
    return METHODS if denoiser == "relu" else METHODS[:-1]


def slices_of(given: argparse.Namespace) -> PreparedSlices:
    """A few simulated slices."""
    scans, prepared = given.out / "scans", given.out / "prepared"
    simulate_dataset(
        scans, volumes=2, slices=3, size=(given.size, given.size), coils=given.coils, anatomy="head", progress=False
    )
    prepare(scans, prepared, PreparationSettings(), progress=False)
    return PreparedSlices(prepared, MaskSettings(kind="poisson", acceleration=4.0, calibration=16))


def memory(denoiser: DenoiserKind, slices: PreparedSlices, given: argparse.Namespace) -> list[Row]:
    """MB of a step against the number of blocks; the slope relative to end to end's; batches at equal memory."""
    rows: list[Row] = []
    for method in trainers(denoiser):
        found = {b: step_memory(settings_of(method, denoiser, b, given), slices, CPU) for b in BLOCKS}
        slope = (found[BLOCKS[-1]].activations_mb - found[BLOCKS[0]].activations_mb) / (BLOCKS[-1] - BLOCKS[0])
        rows.append({"method": method, **{f"{b} blocks": found[b].activations_mb for b in BLOCKS}, "MB a block": slope})
    for row in rows:
        row["of end to end's"] = row["MB a block"] / rows[0]["MB a block"]
    allowed = memory_model(settings_of("end_to_end", denoiser, 5, given), slices, "batch", CPU).at(given.batch)
    for row in rows:
        model = memory_model(settings_of(row["method"], denoiser, 5, given), slices, "batch", CPU)
        row[f"batch where end to end fits {given.batch}"] = model.largest(allowed.activations_mb, 100_000)
    return rows


def seconds(denoiser: DenoiserKind, slices: PreparedSlices, given: argparse.Namespace) -> list[Row]:
    """Seconds of a step, forward and backward, the least of several rounds over all trainers."""
    least: dict[str, tuple[float, float]] = {}
    for _ in range(given.rounds):
        for method in trainers(denoiser):
            if method in ("convex", "layerwise"):
                continue
            settings = replace(settings_of(method, denoiser, 8, given), batch_size=1)
            found = step_seconds(settings, slices, CPU)
            before = least.get(method, (float("inf"), float("inf")))
            least[method] = min(before, (found.forward, found.backward), key=sum)
    gleam = sum(least["gleam"])
    return [
        {"method": m, "forward s": f, "backward s": b, "step s": f + b, "over GLEAM's": (f + b) / gleam}
        for m, (f, b) in least.items()
    ]


def markdown(title: str, rows: Sequence[Row]) -> str:
    """A table of rows with the same keys."""
    lines = [f"### {title}\n", "| " + " | ".join(rows[0]) + " |", "|---" + "|---:" * (len(rows[0]) - 1) + "|"]
    for row in rows:
        cells = [f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values()]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--denoisers", nargs="*", default=get_args(DenoiserKind), choices=get_args(DenoiserKind))
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--coils", type=int, default=8)
    parser.add_argument("--units", type=int, default=32)
    parser.add_argument("--width", type=int, default=None, help="of resnet and modl; their published ones without")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    slices = slices_of(given)
    tables: dict[str, list[Row]] = {}
    for denoiser in given.denoisers:
        tables[f"{denoiser}: MB of a step"] = memory(denoiser, slices, given)
        tables[f"{denoiser}: seconds of a step, 8 blocks"] = seconds(denoiser, slices, given)
        text = "\n".join(markdown(title, rows) for title, rows in tables.items())
        (given.out / "trainer_cost.md").write_text(text)
        (given.out / "trainer_cost.json").write_text(json.dumps(tables, indent=1))
    print(text)


if __name__ == "__main__":
    main()
