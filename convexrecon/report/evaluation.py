"""Evaluate runs and write what was found: summaries, CSV, figures, the HTML report."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from convexrecon.evaluate.compare import Evaluation, evaluate_runs
from convexrecon.evaluate.tables import write_scores
from convexrecon.evaluate.training_cost import training_rows
from convexrecon.report.run_report import Example, build_report
from convexrecon.training.config import flat_settings
from convexrecon.training.run_folder import RunFolder


def evaluate_and_report(
    runs: Sequence[Path | str],
    data: Path | str,
    *,
    out: Path | str | None = None,
    tune_on: Path | str | None = None,
    baselines: bool = True,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> tuple[Evaluation, Path]:
    """Evaluate runs on held-out data, add the figures to their summaries, and write CSV, report and figures.

    Args:
        runs: run folders.
        data: folder of prepared volumes, held out from training.
        out: folder for `evaluation.csv`, `report.html` and `figures/`; the first run's if None.
        tune_on: see `evaluate.compare.evaluate_runs`.
        baselines: whether to compare with the classical methods.
        device: where to compute.
        progress: whether to show bars.

    Returns:
        The evaluation, and the path of the report.
    """
    folders = [RunFolder(Path(run)) for run in runs]
    evaluation = evaluate_runs(folders, data, tune_on=tune_on, baselines=baselines, device=device, progress=progress)
    place = folders[0].path if out is None else Path(out)
    place.mkdir(parents=True, exist_ok=True)
    write_scores(place / "evaluation.csv", evaluation.scores)
    for folder in folders:
        folder.update_summary(
            evaluation=evaluation.summary,
            tuned={name: tuning.lam for name, tuning in evaluation.tuned.items()},
        )
    report = place / "report.html"
    convex = [folder for folder in folders if folder.settings().method == "convex"]
    others = [folder for folder in folders if folder.settings().method != "convex"]
    names = [folder.path.resolve().name for folder in folders]
    build_report(
        report,
        title="Reconstruction report",
        subtitle=f"{', '.join(names)} on {Path(data).resolve().name}",
        settings={folder.path.resolve().name: printed_settings(folder) for folder in folders}
        | {"baselines": {f"{n}: lam, tuned on training slices": f"{t.lam:.3g}" for n, t in evaluation.tuned.items()}},
        blocks={folder.path.resolve().name: folder.read_metrics() for folder in convex},
        evaluation=evaluation.summary,
        scores=evaluation.scores,
        examples=[
            Example(p.volume, p.slice_index, p.reference, p.images, p.mask, p.layout, p.whole)
            for p in evaluation.pictured
        ],
        figures=place / "figures",
        curves={folder.path.resolve().name: training_rows(folder) for folder in others},
    )
    return evaluation, report


def printed_settings(folder: RunFolder) -> dict[str, str]:
    """The settings that decide a run's outcome, by dotted name."""
    settings = folder.settings()
    skipped = "descent." if settings.method == "convex" else "convex."
    flat: dict[str, Any] = flat_settings(settings)
    chosen = folder.read_summary().get("initial_weight")
    if chosen is not None:
        flat["model.initial_weight"] = f"{chosen:.3g}, chosen on training samples"
    return {name: str(value) for name, value in flat.items() if not name.startswith(skipped)}
