"""Several trainers under one budget: trained, tabled, pictured, on one page."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from convexrecon.atomic_write import atomic_path, write_text
from convexrecon.evaluate.compare import Evaluation, evaluate_runs
from convexrecon.evaluate.training_cost import (
    TrainingCost,
    cost_cells,
    cost_markdown,
    cost_notes,
    training_costs,
    training_rows,
    write_costs,
)
from convexrecon.report.evaluation import printed_settings
from convexrecon.report.figures import quality_and_cost
from convexrecon.report.html import FIGURE_DPI, Picture, Section, definitions, rows_table
from convexrecon.report.run_report import Example, build_report
from convexrecon.training.budget import Budget
from convexrecon.training.config import RunSettings
from convexrecon.training.run_folder import RunFolder
from convexrecon.training.train_several import train_several

CAPTION = (
    "Left: validation PSNR against seconds of training; a convex or layer-wise run gains points block by block. "
    "Right: what was reached against the memory of one training step, or of the fit of one convex block."
)


def compare_trainers(
    runs: Mapping[str, RunSettings],
    data: Path | str,
    out: Path | str,
    budget: Budget,
    *,
    validation: Path | str | None = None,
    test: Path | str | None = None,
    device: torch.device | str = "cpu",
    progress: bool = True,
    say: Callable[[str], object] = print,
) -> tuple[list[TrainingCost], list[str]]:
    """Train every configuration under the budget, then write table, plot and page into `out`.

    `comparison.csv` and `.md`: the table; `comparison.png`: quality over time and over memory; `report.html`: both,
    with the pictures of test slices, the certificates of convex runs and all settings.

    Args:
        runs, data, out, budget, validation, device, progress, say: see `training.train_several.train_several`.
        test: folder of prepared volumes to score all of them on, or None.

    Returns:
        A row a run, and the notes under the table.
    """
    folder = Path(out)
    trained = train_several(
        runs, data, folder, budget, validation=validation, device=device, progress=progress, say=say
    )
    evaluation = None
    if test is not None:
        evaluation = evaluate_runs(
            list(trained.values()), test, baselines=False, names=list(trained), device=device, progress=progress
        )
    costs = training_costs(trained, evaluation.summary if evaluation else None)
    notes = [f"Budget: {budget.describe()}.", *cost_notes(trained)]
    write_costs(folder / "comparison.csv", costs)
    write_text(folder / "comparison.md", cost_markdown(costs, notes))
    curves = {name: training_rows(run) for name, run in trained.items()}
    figure = quality_and_cost(curves, {cost.name: vars(cost) for cost in costs})
    with atomic_path(folder / "comparison.png") as temporary:
        figure.savefig(temporary, format="png", dpi=FIGURE_DPI)
    headings, *rows = cost_cells(costs)
    comparison = Section(
        "Trainers", notes[:1], [rows_table(headings, rows), definitions(notes[1:])], [Picture(figure, CAPTION)]
    )
    _page(folder, trained, comparison, evaluation, Path(data))
    return costs, notes


def _page(
    folder: Path, trained: Mapping[str, RunFolder], comparison: Section, evaluation: Evaluation | None, data: Path
) -> None:
    convex = {name: run for name, run in trained.items() if run.settings().method == "convex"}
    pictured = evaluation.pictured if evaluation else []
    build_report(
        folder / "report.html",
        title="Comparison of trainers",
        subtitle=f"{', '.join(trained)}, trained on {data.resolve().name}",
        settings={name: printed_settings(run) for name, run in trained.items()},
        blocks={name: run.read_metrics() for name, run in convex.items()},
        evaluation=evaluation.summary if evaluation else {},
        scores=evaluation.scores if evaluation else [],
        examples=[Example(p.volume, p.slice_index, p.reference, p.images, p.mask, p.layout, p.whole) for p in pictured],
        curves={},
        figures=folder / "figures",
        comparison=comparison,
    )
