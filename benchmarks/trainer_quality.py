"""What each trainer makes of the same cascade and data: at equal epochs, time and memory, over seeds and batches.

    python benchmarks/trainer_quality.py methods --train T.h5 --validation V.h5 --test E.h5 --out FOLDER
    python benchmarks/trainer_quality.py seeds   --train T.h5 --validation V.h5 --test E.h5 --out FOLDER

The stacks are of images, made into multi-coil scans as `convexrecon simulate --images` does. A killed benchmark
continues where it was. `methods` trains every method with every training seed and prints mean and range; `seeds`
trains the convex and the end-to-end cascade with five seeds and three batch sizes and draws the spread.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

import torch
from scored_runs import Row, scored_run

from convexrecon.convex.program import ProgramSettings
from convexrecon.data.preparation import PreparationSettings, prepare
from convexrecon.data.simulation import simulate_dataset
from convexrecon.physics.masks import MaskSettings
from convexrecon.training.config import RunSettings
from convexrecon.training.convex_settings import ConvexSettings
from convexrecon.training.descent_settings import DescentSettings
from convexrecon.training.model_settings import ModelSettings

BATCH_SIZES = (1, 2, 6)
SEEDS = (0, 1, 2, 3, 4)


def base(given: argparse.Namespace) -> RunSettings:
    """What all runs share."""
    return RunSettings(
        mask=MaskSettings(kind="poisson", acceleration=4.0, calibration=16),
        model=ModelSettings(blocks=given.blocks, kernel=5, units=given.units),
        convex=ConvexSettings(ProgramSettings(beta_ratio=1e-4), gates="patches", whitened=0.5),
        descent=DescentSettings(epochs=given.epochs, learning_rate=3e-3),
    )


def methods(given: argparse.Namespace) -> dict[str, RunSettings]:
    """Every trainer by name; those of one block have the memory that greedy training of all blocks has.

    Layer-wise training shares the epochs among its blocks, so that all see as many slices.
    """
    common = base(given)
    descent = common.descent
    shared = replace(descent, epochs=max(1, descent.epochs // given.blocks))
    one = replace(common.model, blocks=1)
    return {
        "convex": common,
        "end_to_end": replace(common, method="end_to_end"),
        "end_to_end, 1 block": replace(common, method="end_to_end", model=one),
        "gleam": replace(common, method="gleam"),
        "layerwise": replace(common, method="layerwise", descent=shared),
        "reversible": replace(common, method="reversible", model=replace(common.model, spectral=0.9)),
        "end_to_end, spectral": replace(common, method="end_to_end", model=replace(common.model, spectral=0.9)),
    }


def data(given: argparse.Namespace) -> Path:
    """Scans and prepared volumes of the three stacks."""
    for seed, name in enumerate(("train", "validation", "test")):
        scans, size = given.out / "scans" / name, (given.size, given.size)
        stack = getattr(given, name)
        simulate_dataset(scans, images=stack, slices=3, size=size, coils=given.coils, noise=0.01, seed=seed)
        prepare(scans, given.out / "prepared" / name, PreparationSettings())
    return Path(given.out) / "prepared"


def compare_methods(given: argparse.Namespace) -> Iterator[tuple[str, list[Row]]]:
    """Every method with every training seed, and the convex cascade fine-tuned from where it ended."""
    prepared = data(given)
    for name, settings in methods(given).items():
        if given.methods and name not in given.methods:
            continue
        rows = []
        for seed in SEEDS[: given.seeds]:
            folder = given.out / name.replace(", ", "_").replace(" ", "_") / f"seed_{seed}"
            rows.append(scored_run(replace(settings, training_seed=seed), prepared, folder))
        yield name, rows
    start = given.out / "convex"
    if start.exists() and (not given.methods or "convex, then end to end" in given.methods):
        rows = []
        for seed in SEEDS[: given.seeds]:
            tuned = replace(base(given).descent, learning_rate=3e-4, warmup=0.2, start_run=str(start / f"seed_{seed}"))
            settings = replace(base(given), method="end_to_end", descent=tuned, training_seed=seed)
            rows.append(scored_run(settings, prepared, given.out / "convex_then_end_to_end" / f"seed_{seed}"))
        yield "convex, then end to end", rows


def spread(given: argparse.Namespace) -> Iterator[tuple[str, list[Row]]]:
    """Convex and end to end with every seed and batch size."""
    prepared = data(given)
    for method in ("convex", "end_to_end"):
        rows = []
        for batch in BATCH_SIZES:
            for seed in SEEDS[: given.seeds]:
                settings = replace(methods(given)[method], batch_size=batch, training_seed=seed)
                row = scored_run(settings, prepared, given.out / f"{method}_batch_{batch}" / f"seed_{seed}")
                rows.append({**row, "batch": batch, "seed": seed})
        yield method, rows


def markdown(results: Mapping[str, Sequence[Row]]) -> str:
    """Mean, standard deviation and range of every figure, a line a method.

    Of equal time: the best validation PSNR that a method had by the time that the convex cascade was trained.
    """
    convex = [row["training s"] for row in results.get("convex", [])]
    limit = mean(convex) if convex else float("inf")
    at = f"validation dB after {limit:.0f} s | " if convex else ""
    lines = [
        f"| method | runs | validation PSNR dB | test PSNR dB | test SSIM | {at}loss x 1000 | training s | step MB |",
        "|---|---:|---:|---:|---:|" + ("---:|" if convex else "") + "---:|---:|---:|",
    ]
    for name, rows in results.items():
        cells = [
            _spread([row["validation PSNR"] for row in rows], 2),
            _spread([row["test PSNR"] for row in rows], 2),
            _spread([row["test SSIM"] for row in rows], 4),
            *([_by_then([row["curve"] for row in rows], 1.1 * limit)] if convex else []),
            _spread([1000 * row["objective"] for row in rows], 3),
            f"{mean(row['training s'] for row in rows):.0f}",
            f"{max(row['activations MB'] for row in rows):.0f}",
        ]
        lines.append(f"| {name} | {len(rows)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _by_then(curves: Sequence[Sequence[tuple[float, float]]], limit: float) -> str:
    best = [max((score for seconds, score in curve if seconds <= limit), default=None) for curve in curves]
    known = [score for score in best if score is not None]
    return _spread(known, 2) if len(known) == len(best) else "–"


def _spread(values: Sequence[float], digits: int) -> str:
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    low, high = min(values), max(values)
    return f"{mean(values):.{digits}f} ± {stdev(values):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def draw(results: Mapping[str, Sequence[Row]], path: Path) -> None:
    """Final validation PSNR of every run by batch size: the spread over the seeds."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6, 3.5), layout="constrained")
    for shift, (name, rows) in enumerate(results.items()):
        places = [BATCH_SIZES.index(row["batch"]) + 0.2 * (shift - 0.5) for row in rows]
        color = ("#0072B2", "#D55E00")[shift]
        axis.plot(places, [row["validation PSNR"] for row in rows], "o", color=color, alpha=0.7, label=name)
    axis.set_xticks(range(len(BATCH_SIZES)), [str(size) for size in BATCH_SIZES])
    axis.set_xlabel("batch size (slices)")
    axis.set_ylabel("validation PSNR (dB)")
    axis.legend(frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Train what is asked for; print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("methods", "seeds"))
    for name in ("train", "validation", "test"):
        parser.add_argument(f"--{name}", type=Path, required=True, help="image stack")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--coils", type=int, default=6)
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--units", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=len(SEEDS))
    parser.add_argument("--methods", nargs="*")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    results = dict(compare_methods(given) if given.what == "methods" else spread(given))
    table = markdown(results)
    (given.out / f"{given.what}.md").write_text(table)
    if given.what == "seeds":
        draw(results, given.out / "seeds.png")
    print(table)


if __name__ == "__main__":
    main()
