"""A training run and what it came to on test slices, one row, kept beside the run: a killed script continues."""

import json
from pathlib import Path
from typing import Any

import torch

from convexrecon.atomic_write import write_text
from convexrecon.evaluate.compare import evaluate_runs
from convexrecon.evaluate.training_cost import training_rows
from convexrecon.training.config import RunSettings
from convexrecon.training.run_folder import RunFolder
from convexrecon.training.train import train

Row = dict[str, Any]


def scored_run(settings: RunSettings, prepared: Path, folder: Path, *, device: torch.device | str = "cpu") -> Row:
    """Train, or take what is trained, and score it on the test slices.

    Args:
        settings: of the run.
        prepared: folder of the prepared folders train, validation and test.
        folder: of the run.
        device: where to compute.

    Returns:
        "validation PSNR" (dB, best), "test PSNR" and "test SSIM" (means over slices), "training s", "activations MB" of
        a step, the last "objective", and the "curve" of (seconds, validation PSNR).

    Raises:
        InputError: a folder that holds a run of other settings or data.
    """
    train(settings, prepared / "train", folder, validation=prepared / "validation", device=device, progress=False)
    run, result = RunFolder(folder), folder / "row.json"
    if not result.exists():
        evaluation = evaluate_runs([run], prepared / "test", baselines=False, pictures=0, device=device, progress=False)
        rows, summary = run.read_metrics(), run.read_summary()
        scores = next(iter(evaluation.summary.values()))
        row = {
            "validation PSNR": max(r["psnr_validation"] for r in rows if r["psnr_validation"] is not None),
            "test PSNR": scores["psnr"],
            "test SSIM": scores["ssim"],
            "training s": summary["training_seconds"],
            "activations MB": max((r.get("activations_mb") or 0.0) for r in rows),
            "objective": rows[-1].get("objective", rows[-1].get("loss")),
        }
        write_text(result, json.dumps(row))
    found: Row = json.loads(result.read_text())
    print(folder.parent.name, folder.name, {key: value for key, value in found.items() if key != "curve"}, flush=True)
    points = [(row["seconds"], row["psnr_validation"]) for row in training_rows(run)]
    return found | {"curve": [(seconds, score) for seconds, score in points if score is not None]}
