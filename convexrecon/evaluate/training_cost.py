"""What trained runs reached and what it cost them, as one table whatever the method."""

import csv
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from statistics import fmean, median
from typing import Any

from convexrecon.atomic_write import atomic_path
from convexrecon.evaluate.tables import Summary, aligned, markdown_rows
from convexrecon.training.run_folder import RunFolder


@dataclass(frozen=True)
class TrainingCost:
    """One trained run. What was not measured is None.

    Attributes:
        name: of the run.
        method: its trainer.
        blocks: of its cascade.
        epochs: of a method that descends; of "layerwise", over all blocks.
        psnr_validation: dB, of the weights that were kept.
        psnr_test: dB, mean over test slices.
        ssim_test: mean over test slices.
        training_seconds: without validation, but for applying finished blocks to its slices.
        step_data: seconds a step for loading a batch.
        step_forward: for the forward pass.
        step_backward: for the backward pass and the update.
        peak_memory_mb: of the process, or of the CUDA allocator, in units of 1e6 bytes.
        activations_mb: most that the tensors made in a step, or in fitting a convex block, take.
    """

    name: str
    method: str
    blocks: int
    epochs: int | None
    psnr_validation: float | None
    psnr_test: float | None
    ssim_test: float | None
    training_seconds: float
    step_data: float | None
    step_forward: float | None
    step_backward: float | None
    peak_memory_mb: float
    activations_mb: float | None


# Attribute, heading, format.
_COLUMNS: tuple[tuple[str, str, str], ...] = (
    ("name", "run", ""),
    ("method", "method", ""),
    ("blocks", "blocks", "d"),
    ("epochs", "epochs", "d"),
    ("psnr_validation", "validation (dB)", ".2f"),
    ("psnr_test", "test (dB)", ".2f"),
    ("ssim_test", "test SSIM", ".4f"),
    ("training_seconds", "training (s)", ".1f"),
    ("step_data", "data (s)", ".3g"),
    ("step_forward", "forward (s)", ".3g"),
    ("step_backward", "backward (s)", ".3g"),
    ("peak_memory_mb", "peak (MB)", ",.0f"),
    ("activations_mb", "step (MB)", ".3g"),
)
NOTES = (
    "validation, test: mean PSNR over slices. training: seconds without validation, but for applying a finished block "
    "to the validation slices (convex, layerwise).",
    "data, forward, backward: seconds of one step for loading a batch, for the forward pass, for the backward pass and "
    "the update; the median over epochs.",
    "peak: memory of the whole process, libraries included, or of the CUDA allocator. step: most that the tensors made "
    "in one step, or in the fit of one convex block, take at the same time. MB of 1e6 bytes.",
)


def training_cost(name: str, run: RunFolder, test: Mapping[str, float | int | None] | None = None) -> TrainingCost:
    """The row of a finished run; `test` is its entry in the summary of an evaluation.

    Raises:
        InputError: not a run folder.
    """
    settings, summary, rows = run.settings(), run.read_summary(), run.read_metrics()
    test = test or {}
    return TrainingCost(
        name=name,
        method=settings.method,
        blocks=settings.model.blocks,
        epochs=len(rows) if settings.method != "convex" else None,
        psnr_validation=summary.get("psnr_validation"),
        psnr_test=test.get("psnr"),
        ssim_test=test.get("ssim"),
        training_seconds=float(summary["training_seconds"]),
        step_data=_typical(rows, "seconds_data"),
        step_forward=_typical(rows, "seconds_forward"),
        step_backward=_typical(rows, "seconds_backward"),
        peak_memory_mb=float(summary["peak_memory_mb"]),
        activations_mb=summary.get("activations_mb"),
    )


def training_costs(runs: Mapping[str, RunFolder], test: Summary | None = None) -> list[TrainingCost]:
    """The rows of several runs."""
    return [training_cost(name, run, (test or {}).get(name)) for name, run in runs.items()]


def training_rows(run: RunFolder) -> list[dict[str, Any]]:
    """The metrics of a run with `seconds` counted from its start, also where they are kept for every block."""
    rows, done, before = run.read_metrics(), 0.0, 0.0
    by_block = run.settings().method == "convex"
    result: list[dict[str, Any]] = []
    for number, row in enumerate(rows):
        if number > 0 and (by_block or row.get("block") != rows[number - 1].get("block")):
            done += before
        before = float(row["seconds"])
        result.append({**row, "seconds": done + before})
    return result


def cost_cells(costs: Sequence[TrainingCost]) -> list[list[str]]:
    """Headings, then a row a run; columns that no run has a value for are left out."""
    shown = [column for column in _COLUMNS if any(getattr(cost, column[0]) is not None for cost in costs)]
    if all(cost.name == cost.method for cost in costs):
        shown = [column for column in shown if column[0] != "name"]
    rows = [[_cell(getattr(cost, key), form) for key, _, form in shown] for cost in costs]
    return [[heading for _, heading, _ in shown], *rows]


def cost_notes(runs: Mapping[str, RunFolder]) -> list[str]:
    """What the columns mean, and what a convex block's seconds go to."""
    parts = {"accumulate": "passes for H", "solve": "solving", "lam": "choosing λ", "apply": "applying and scoring"}
    notes = list(NOTES)
    for name, run in runs.items():
        rows = run.read_metrics()
        if run.settings().method == "convex" and rows:
            means = [
                f"{fmean(row[f'seconds_{key}'] for row in rows):.3g} {words}"
                for key, words in parts.items()
                if all(f"seconds_{key}" in row for row in rows)
            ]
            notes.append(f"{name}: seconds of a block, on average: {', '.join(means)}.")
    return notes


def cost_text(costs: Sequence[TrainingCost], notes: Sequence[str]) -> str:
    """For the terminal."""
    return "\n".join([*aligned(cost_cells(costs)), "", *notes])


def cost_markdown(costs: Sequence[TrainingCost], notes: Sequence[str]) -> str:
    """As a Markdown table, notes as a list."""
    return "\n".join([*markdown_rows(cost_cells(costs)), "", *(f"- {note}" for note in notes), ""])


def write_costs(path: str | os.PathLike[str], costs: Sequence[TrainingCost]) -> None:
    """A row a run as CSV, atomically, numbers in full precision, what is not known empty."""
    with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(TrainingCost)])
        writer.writeheader()
        writer.writerows(asdict(cost) for cost in costs)


def _typical(rows: Sequence[Mapping[str, Any]], key: str) -> float | None:
    values = [float(row[key]) for row in rows if row.get(key) is not None]
    return median(values) if values else None


def _cell(value: Any, form: str) -> str:
    return "–" if value is None else format(value, form)
