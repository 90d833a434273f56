"""Convex layer-wise against end-to-end training on the same real anatomies, cascade shape and masks.

Simulates multi-coil scans from image stacks (.npy, .npz, .h5; complex where possible), prepares them, trains
both, and evaluates them with the classical baselines on the test images. Every step is skipped when its result
is there, so an interrupted run continues. Run:

    python benchmarks/quality.py --train T.npy --validation V.npy --test S.npy --out work --mask poisson
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from convexrecon.convex.program import ProgramSettings
from convexrecon.data.preparation import PreparationSettings, prepare
from convexrecon.data.simulation import simulate_dataset
from convexrecon.evaluate.tables import text_table
from convexrecon.physics.masks import MaskSettings
from convexrecon.report.evaluation import evaluate_and_report
from convexrecon.training.config import RunSettings
from convexrecon.training.convex_settings import ConvexSettings
from convexrecon.training.descent_settings import DescentSettings
from convexrecon.training.model_settings import ModelSettings
from convexrecon.training.run_folder import RunFolder
from convexrecon.training.train import train

WIDE_INPUTS = ("image", "zero_filled", "initial")


def runs(mask: str, units: int, epochs: int) -> dict[str, RunSettings]:
    """The runs compared: the plain pair first, then the convex ones with what closes the gap, then its mirror."""
    plain = RunSettings(
        mask=MaskSettings(kind=mask, acceleration=4.0, center_fraction=0.04),  # type: ignore[arg-type]
        model=ModelSettings(blocks=5, kernel=5, units=units),
    )
    by_backpropagation = replace(plain, method="end_to_end", descent=DescentSettings(epochs=epochs, learning_rate=3e-3))
    # Chosen on the validation slices, as is all that the convex runs differ in.
    whitened = 0.5 if mask == "poisson" else 0.0
    half = ConvexSettings(pixel_fraction=0.5, lam_scale=0.25, whitened=whitened)
    consistent = ConvexSettings(
        ProgramSettings(tolerance=1e-4), loss="consistent", pixel_fraction=0.25, whitened=whitened
    )
    from_cg = replace(plain.model, initial="cg_sense")
    seeing_all = replace(from_cg, inputs=WIDE_INPUTS)
    return {
        "convex": replace(plain, convex=ConvexSettings(whitened=whitened)),
        "end_to_end": by_backpropagation,
        "convex_wide": replace(plain, model=replace(from_cg, units=2 * units, blocks=8), convex=half),
        "convex_inputs": replace(plain, model=replace(seeing_all, blocks=8), convex=half),
        "consistent": replace(plain, model=from_cg, convex=consistent),
        "consistent_inputs": replace(plain, model=seeing_all, convex=consistent),
        "end_to_end_inputs": replace(by_backpropagation, model=seeing_all),
    }


def data(options: argparse.Namespace) -> Path:
    """Scans and prepared volumes of the three image stacks."""
    for seed, name in enumerate(("train", "validation", "test")):
        scans = options.out / "scans" / name
        size = (options.size, options.size)
        simulate_dataset(scans, images=getattr(options, name), slices=3, size=size, coils=8, noise=0.01, seed=seed)
        prepare(scans, options.out / "prepared" / name, PreparationSettings())
    return Path(options.out) / "prepared"


def main() -> None:
    """Train what is asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("train", "validation", "test"):
        parser.add_argument(f"--{name}", type=Path, required=True, help="image stack")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--mask", default="poisson", choices=("poisson", "random", "equispaced"))
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--units", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=150)
    parser.add_argument("--methods", nargs="*", help="some of the runs by name; all if left out")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    prepared = data(options)
    wanted = runs(options.mask, options.units, options.epochs)
    folders = []
    for name in options.methods or wanted:
        folder = options.out / options.mask / name
        train(wanted[name], prepared / "train", folder, validation=prepared / "validation")
        folders.append(folder)
    evaluation, report = evaluate_and_report(folders, prepared / "test", out=options.out / options.mask)
    print(text_table(evaluation.summary))
    for folder in folders:
        summary = RunFolder(folder).read_summary()
        peak = max(row["peak_memory_mb"] for row in RunFolder(folder).read_metrics())
        print(f"{folder.name}: trained in {summary['training_seconds']:.0f} s, peak {peak:.0f} MB")
    print(report)


if __name__ == "__main__":
    main()
