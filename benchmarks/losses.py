"""What the loss of a block's program buys: of its denoiser's output, of the block's output, of held-out samples.

The same cascade is trained with each loss and validated on the same slices with all their samples. Simulated scans
unless `--prepared` names a folder with prepared volumes in `train` and `validation`. A run that is done is not done
again. Run:

    python benchmarks/losses.py --out work --mask random
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from convexrecon.convex.program import ProgramSettings
from convexrecon.data.preparation import PreparationSettings, prepare
from convexrecon.data.simulation import simulate_dataset
from convexrecon.physics.masks import MaskSettings
from convexrecon.training.config import RunSettings
from convexrecon.training.convex_settings import ConvexSettings
from convexrecon.training.model_settings import ModelSettings
from convexrecon.training.run_folder import RunFolder
from convexrecon.training.train import train


def runs(mask: str, blocks: int, units: int, tolerance: float, held_out: float) -> dict[str, RunSettings]:
    """The runs compared: every loss behind the proximal step, and the supervised ones behind the gradient step."""
    image = RunSettings(
        mask=MaskSettings(kind=mask, acceleration=4.0, center_fraction=0.04),  # type: ignore[arg-type]
        model=ModelSettings(blocks=blocks, kernel=5, units=units, initial="cg_sense"),
        convex=ConvexSettings(
            ProgramSettings(tolerance=tolerance), pixel_fraction=0.25, whitened=0.5 if mask == "poisson" else 0.0
        ),
    )
    consistent = replace(image, convex=replace(image.convex, loss="consistent"))
    blind = replace(image.convex, loss="self_supervised", held_out=held_out)
    gradient = replace(image.model, consistency="gradient")
    return {
        "image": image,
        "consistent": consistent,
        "self_supervised": replace(image, convex=blind),
        "self_supervised_output": replace(image, convex=replace(blind, held_out_behind="consistency")),
        "image_gradient": replace(image, model=gradient),
        "consistent_gradient": replace(consistent, model=gradient),
    }


def simulated(out: Path) -> Path:
    """Prepared volumes of random anatomies."""
    for seed, (name, volumes) in enumerate({"train": 6, "validation": 2}.items()):
        scans = out / "scans" / name
        simulate_dataset(scans, volumes=volumes, slices=3, size=(96, 80), coils=6, anatomy="head", seed=seed)
        prepare(scans, out / "prepared" / name, PreparationSettings())
    return out / "prepared"


def row(name: str, run: RunFolder) -> str:
    """A run as a row of the table; passes and seconds are those of all its blocks."""
    blocks = run.read_metrics()
    passes = "-" if name.startswith("image") else str(sum(block["iterations"] for block in blocks))
    quality = " / ".join(f"{block['psnr_validation']:.2f}" for block in blocks)
    gap = max(block["relative_gap"] for block in blocks)
    seconds = sum(block["seconds"] for block in blocks)
    return f"| {name} | {quality} | {passes} | {seconds:.0f} | {gap:.0e} |"


def main() -> None:
    """Train with what is asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--prepared", type=Path, help="folder that holds train/ and validation/; else simulated")
    parser.add_argument("--mask", default="random", choices=("poisson", "random", "equispaced"))
    parser.add_argument("--blocks", type=int, default=3)
    parser.add_argument("--units", type=int, default=16)
    parser.add_argument("--tolerance", type=float, default=1e-3)
    parser.add_argument("--held-out", type=float, default=0.4, help="share of the samples, self-supervised")
    parser.add_argument("--losses", nargs="*", help="some of the runs by name; all if left out")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    prepared = options.prepared or simulated(options.out)
    wanted = runs(options.mask, options.blocks, options.units, options.tolerance, options.held_out)
    print("| loss | validation PSNR dB after each block | passes | training s | worst gap |\n|---|---|---:|---:|---:|")
    for name in options.losses or wanted:
        folder = options.out / options.mask / name
        train(wanted[name], prepared / "train", folder, validation=prepared / "validation", progress=False)
        print(row(name, RunFolder(folder)), flush=True)


if __name__ == "__main__":
    main()
