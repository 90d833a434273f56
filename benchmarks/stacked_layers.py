"""What every added layer of a stack of hidden channels is worth, by how layers are put together.

The same gates are drawn for all forms. Simulated scans unless `--prepared` names a folder with prepared volumes in
`train`, `validation` and `test`; test PSNR is of the whole stack. A run that is done is not done again. Run:

    python benchmarks/stacked_layers.py --out work --mask poisson
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from scored_runs import scored_run

from convexrecon.convex.program import ProgramSettings
from convexrecon.data.preparation import PreparationSettings, prepare
from convexrecon.data.simulation import simulate_dataset
from convexrecon.physics.masks import MaskSettings
from convexrecon.training.config import RunSettings
from convexrecon.training.convex_settings import ConvexSettings
from convexrecon.training.model_settings import ModelSettings
from convexrecon.training.run_folder import RunFolder


def runs(mask: str, layers: int, units: int, ratio: float, seed: int) -> dict[str, RunSettings]:
    """The runs compared. Stacked features have a gate more than are drawn, which the others are given too."""
    features = RunSettings(
        mask=MaskSettings(kind=mask, acceleration=4.0, calibration=12, center_fraction=0.04),  # type: ignore[arg-type]
        model=ModelSettings(stacking="features", blocks=layers, kernel=5, units=units, consistency="none"),
        convex=ConvexSettings(gates="patches"),
        training_seed=seed,
    )
    plain = replace(features.model, stacking="published_features", units=units + 1)
    one_ratio = replace(features.convex, program=ProgramSettings(beta_ratio=ratio))
    first = replace(plain, stacking="cascade", blocks=1, consistency="proximal")
    return {
        "published": replace(features, model=plain, convex=one_ratio),
        "published, validation": replace(
            features, model=plain, convex=replace(features.convex, beta_from="validation")
        ),
        "features": features,
        "features, consistent": replace(features, model=replace(features.model, consistency="proximal")),
        "a cascade's first block": replace(features, model=first),
    }


def simulated(out: Path) -> Path:
    """Prepared volumes of random heads."""
    for seed, (name, volumes) in enumerate({"train": 24, "validation": 4, "test": 4}.items()):
        scans = out / "scans" / name
        simulate_dataset(
            scans, volumes=volumes, slices=2, size=(48, 44), coils=3, anatomy="head", seed=seed, progress=False
        )
        prepare(scans, out / "prepared" / name, PreparationSettings(calibration=12), progress=False)
    return out / "prepared"


def row(name: str, seed: int, run: RunFolder, test: float) -> str:
    """A run as a row of the table, layer by layer."""
    layers = run.read_metrics()

    def each(form: str, key: str) -> str:
        return " / ".join(format(layer[key], form) for layer in layers)

    strengths = " / ".join(f"{layer['beta'] / layer['beta_max']:.0e}" for layer in layers)
    gap, seconds = max(layer["relative_gap"] for layer in layers), sum(layer["seconds"] for layer in layers)
    return (
        f"| {name} | {seed} | {each('.5f', 'objective')} | {each('.2f', 'psnr_train')} | "
        f"{each('.2f', 'psnr_validation')} | {test:.2f} | {strengths} | {gap:.0e} | {seconds:.0f} |"
    )


def main() -> None:
    """Train with what is asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--prepared", type=Path, help="folder that holds train/, validation/, test/; else simulated")
    parser.add_argument("--mask", default="poisson", choices=("poisson", "random"))
    parser.add_argument("--layers", type=int, default=5)
    parser.add_argument("--units", type=int, default=4)
    parser.add_argument("--ratio", type=float, default=3e-2, help="beta / beta_max of the published form")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--forms", nargs="*", help="some of the forms by name; all if left out")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    prepared = options.prepared or simulated(options.out)
    lines = []
    for name in options.forms or runs(options.mask, 1, 1, 0.1, 0):
        for seed in range(options.seeds):
            settings = runs(options.mask, options.layers, options.units, options.ratio, seed)[name]
            folder = options.out / options.mask / name / f"seed_{seed}"
            found = scored_run(settings, prepared, folder)
            lines.append(row(name, seed, RunFolder(folder), found["test PSNR"]))
    columns = ("form", "seed", "objective", "training PSNR dB", "validation PSNR dB", "test PSNR dB", "beta / beta_max")
    print("| " + " | ".join((*columns, "worst gap", "s")) + " |")
    print("|---|---:|---|---|---|---:|---|---:|---:|")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
