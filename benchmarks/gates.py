"""Objective and image quality against the number of gates, for every way to come by gates.

Trains a convex cascade for each choice, number of gates and seed, and writes `gates.md` (a table) and `gates.png`
(objective of the first block, PSNR after the first and the last block; the bars span the seeds). beta is the same
number for all, so that objectives compare. Runs that are there are not repeated, so an interrupted benchmark
continues. Without --prepared it simulates its data. Run:

    python benchmarks/gates.py --out work --mask poisson
"""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from convexrecon.convex.gate_growth import GrowthSettings
from convexrecon.convex.program import ProgramSettings
from convexrecon.data.preparation import PreparationSettings, prepare
from convexrecon.data.simulation import simulate_dataset
from convexrecon.physics.masks import MaskSettings
from convexrecon.training.config import RunSettings
from convexrecon.training.convex_settings import ConvexSettings
from convexrecon.training.model_settings import ModelSettings
from convexrecon.training.run_folder import RunFolder
from convexrecon.training.train import train

Rows = list[dict[str, Any]]
Results = Mapping[tuple[str, int], list[Rows]]

# Colours of Okabe and Ito, and a wine red of Tol's, told apart by all readers; a marker each for those who see none.
STYLES = {
    "gaussian": ("#000000", "o"),
    "whitened": ("#E69F00", "s"),
    "zero_mean": ("#56B4E9", "v"),
    "patches": ("#009E73", "D"),
    "patch_differences": ("#CC79A7", "P"),
    "trained": ("#999999", "X"),
    "grown_violation": ("#0072B2", "^"),
    "grown_explained": ("#D55E00", "*"),
    "grown_from_patches": ("#882255", "d"),
}


def choices(base: ConvexSettings, trained: Path | None) -> dict[str, ConvexSettings]:
    """Settings by name; gates grow from Gaussian candidates, half of them whitened, or from patches."""
    half = replace(base, whitened=0.5)
    found = {
        "gaussian": base,
        "whitened": half,
        "zero_mean": replace(base, gates="zero_mean"),
        "patches": replace(base, gates="patches"),
        "patch_differences": replace(base, gates="patch_differences"),
        "grown_violation": replace(half, grow=GrowthSettings(rule="violation")),
        "grown_explained": replace(half, grow=GrowthSettings(rule="explained")),
        "grown_from_patches": replace(base, gates="patches", grow=GrowthSettings(rule="explained")),
    }
    if trained is not None:
        found["trained"] = replace(base, gates="trained", gates_run=str(trained.resolve()))
    return found


def data(options: argparse.Namespace) -> Path:
    """Prepared folders `train` and `validation`: those given, or of simulated heads."""
    if options.prepared is not None:
        return Path(options.prepared)
    for seed, (name, volumes) in enumerate((("train", 8), ("validation", 4))):
        scans = options.out / "scans" / name
        simulate_dataset(scans, volumes=volumes, slices=2, size=(96, 80), coils=6, anatomy="head", seed=seed)
        prepare(scans, options.out / "prepared" / name, PreparationSettings())
    return Path(options.out) / "prepared"


def measured(options: argparse.Namespace, prepared: Path) -> Results:
    """Rows of the blocks for every choice and number of gates, one list a seed."""
    program = ProgramSettings(beta=options.beta)
    base = ConvexSettings(program=program, pixel_fraction=options.pixel_fraction)
    settings = RunSettings(
        mask=MaskSettings(kind=options.mask, acceleration=4.0, center_fraction=0.04),
        model=ModelSettings(blocks=options.blocks, initial=options.initial),
    )
    results: dict[tuple[str, int], list[Rows]] = {}
    for seed in range(options.seeds):
        for gates in options.gates:
            for name, convex in choices(base, options.trained).items():
                if options.choices and name not in options.choices:
                    continue
                folder = options.out / options.mask / f"{name}_{gates}_{seed}"
                run = replace(settings, seed=seed, convex=convex, model=replace(settings.model, units=gates))
                if len(RunFolder(folder).read_metrics()) < options.blocks:
                    train(run, prepared / "train", folder, validation=prepared / "validation", progress=False)
                rows = RunFolder(folder).read_metrics()
                results.setdefault((name, gates), []).append(rows)
                print(name, gates, seed, *(f"{row['psnr_validation']:.2f}" for row in rows), flush=True)
    return results


def table(results: Results) -> str:
    """Markdown: objective of block 1, PSNR after the first and last block, training seconds; seeds as min to max."""
    shown = _blocks_shown(results)
    heads = ["choice", "gates", "objective x 1000, block 1", *(f"PSNR dB, block {block}" for block in shown), "s"]
    lines = [f"| {' | '.join(heads)} |", "|---|" + "---:|" * (len(heads) - 1)]
    for (name, gates), seeds in sorted(results.items(), key=lambda item: (list(STYLES).index(item[0][0]), item[0][1])):
        cells = [name, str(gates), _spread([1000 * rows[0]["objective"] for rows in seeds], 3)]
        cells += [_spread([rows[block - 1]["psnr_validation"] for rows in seeds], 2) for block in shown]
        cells.append(f"{sum(row['seconds'] for rows in seeds for row in rows) / len(seeds):.0f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _blocks_shown(results: Results) -> list[int]:
    """The first block and, if it is another one, the last."""
    return sorted({1, len(next(iter(results.values()))[0])})


def _spread(values: list[float], digits: int) -> str:
    mean = f"{sum(values) / len(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def _objective(rows: Rows) -> float:
    return 1000 * float(rows[0]["objective"])


def _psnr(block: int, rows: Rows) -> float:
    return float(rows[block - 1]["psnr_validation"])


def figure(results: Results) -> Figure:
    """Objective and PSNR over the number of gates, a line a choice; bars span the seeds."""
    panels: list[tuple[str, Callable[[Rows], float]]] = [("objective of block 1, x 1000", _objective)]
    panels += [(f"validation PSNR after block {block}, dB", partial(_psnr, block)) for block in _blocks_shown(results)]
    drawing = Figure(figsize=(4.4 * len(panels), 4.6), layout="constrained")
    axes = drawing.subplots(1, len(panels))
    for axis, (title, value) in zip(axes, panels, strict=True):
        for name, (colour, marker) in STYLES.items():
            points = sorted(
                (gates, [value(rows) for rows in seeds]) for (n, gates), seeds in results.items() if n == name
            )
            if not points:
                continue
            means = [sum(values) / len(values) for _, values in points]
            reach = [[m - min(v) for m, (_, v) in zip(means, points, strict=True)]]
            reach.append([max(v) - m for m, (_, v) in zip(means, points, strict=True)])
            gates = [count for count, _ in points]
            axis.errorbar(gates, means, reach, color=colour, marker=marker, label=name.replace("_", " "), capsize=3)
        axis.set_xscale("log", base=2)
        ticks = sorted({gates for _, gates in results})
        axis.set_xticks(ticks, [str(tick) for tick in ticks])
        axis.set_xlabel("gates")
        axis.set_title(title, fontsize=11)
        axis.grid(alpha=0.3)
    drawing.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    return drawing


def main() -> None:
    """Train what is missing; write the table and the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--prepared", type=Path, help="folder with prepared `train` and `validation`")
    parser.add_argument("--trained", type=Path, help="run folder whose gates are tried too")
    parser.add_argument("--mask", default="poisson", choices=("poisson", "random", "equispaced"))
    parser.add_argument("--initial", default="zero_filled", choices=("zero_filled", "cg_sense"))
    parser.add_argument("--choices", nargs="*", help="some of the choices by name; all if left out")
    parser.add_argument("--gates", type=int, nargs="*", default=[8, 16, 32, 64])
    parser.add_argument("--blocks", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--beta", type=float, default=1e-6)
    parser.add_argument("--pixel-fraction", type=float, default=0.25)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    results = measured(options, data(options))
    text = table(results)
    (options.out / "gates.md").write_text(text)
    figure(results).savefig(options.out / "gates.png", dpi=120)
    print(text)


if __name__ == "__main__":
    main()
