"""A convex cascade against CG-SENSE and L1-wavelet on samples off the grid, at several accelerations.

Simulates scans along a trajectory from random anatomies, or from image stacks (.npy, .npz, .h5), prepares them, trains
a run for every acceleration, and evaluates it on other scans; weights of the classical methods are tuned on training
slices. Every step is skipped when its result is there. Run:

    python benchmarks/noncartesian.py --out work --trajectory radial --accelerations 4 8
"""

import argparse
from pathlib import Path
from statistics import mean

import torch

from convexrecon.convex.program import ProgramSettings
from convexrecon.data.dataset import PreparedSlices
from convexrecon.data.noncartesian_simulation import simulate_trajectories
from convexrecon.data.preparation import PreparationSettings, prepare
from convexrecon.evaluate.metrics import psnr
from convexrecon.evaluate.tables import text_table
from convexrecon.physics.initial_image import INITIAL_IMAGES, WEIGHTED_IMAGES
from convexrecon.physics.masks import MaskSettings
from convexrecon.report.evaluation import evaluate_and_report
from convexrecon.training.config import RunSettings
from convexrecon.training.convex_settings import ConvexSettings
from convexrecon.training.model_settings import ModelSettings
from convexrecon.training.run_folder import RunFolder
from convexrecon.training.train import train
from convexrecon.weights import load_cascade


def run(acceleration: float, options: argparse.Namespace) -> RunSettings:
    """A start from compressed sensing unless said otherwise, half of the gates whitened."""
    return RunSettings(
        mask=MaskSettings("shots", acceleration),
        random_phase=options.random_phase,
        model=ModelSettings(
            blocks=options.blocks,
            kernel=options.kernel,
            units=options.units,
            initial=options.initial,
            initial_weight=options.initial_weight,
            inputs=tuple(options.inputs),
        ),
        convex=ConvexSettings(
            ProgramSettings(tolerance=1e-4),
            gates="patches",
            whitened=0.5,
            lam_scale=options.lam_scale,
            lam_slices=8,
            pixel_fraction=options.pixel_fraction,
        ),
        validation_fraction=0.2,
        batch_size=2,
    )


def started(run: RunFolder, test: Path) -> str:
    """Mean PSNR of the initial images, which the blocks start from, on the test slices."""
    settings, (cascade, _) = run.settings(), load_cascade(run.weights)
    slices = PreparedSlices(test, settings.mask, seed=settings.seed)
    scores = []
    for batch in (slices.load(index) for index in range(len(slices))):
        with torch.no_grad():
            image = next(cascade.images(batch.sense, batch.kspace))
        scores.append(psnr(image[0], batch.target[0]))
    weight = "" if cascade.initial_weight is None else f", weight {cascade.initial_weight:.2g}"
    return f"start, {cascade.initial}{weight}: {mean(scores):.2f} dB"


def data(options: argparse.Namespace) -> dict[str, Path]:
    """Prepared scans to train on and to test on."""
    found = {}
    for name, volumes, images in (("train", options.volumes, options.images), ("test", 3, options.test_images)):
        scans = options.out / "scans" / name
        simulate_trajectories(
            scans, options.trajectory, volumes=volumes, slices=2, size=(options.size, options.size), coils=8,
            noise=options.noise, images=images, seed=0 if name == "train" else 1,
        )  # fmt: skip
        found[name] = options.out / "prepared" / name
        prepare(scans, found[name], PreparationSettings())
    return found


def main() -> None:
    """Train and evaluate a run for each acceleration and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--trajectory", default="radial", choices=("radial", "spiral"))
    parser.add_argument("--accelerations", type=float, nargs="*", default=[4.0, 8.0])
    parser.add_argument("--images", type=Path, help="image stack to train on; random anatomies if left out")
    parser.add_argument("--test-images", type=Path, help="image stack to test on")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--volumes", type=int, default=22, help="of two slices, a fifth of them for validation")
    parser.add_argument("--noise", type=float, default=0.01)
    parser.add_argument("--blocks", type=int, default=3)
    parser.add_argument("--units", type=int, default=32)
    parser.add_argument("--kernel", type=int, default=5)
    parser.add_argument("--initial", default="l1_wavelet", choices=(*INITIAL_IMAGES, *WEIGHTED_IMAGES))
    parser.add_argument("--initial-weight", type=float, help="chosen on training samples if left out")
    parser.add_argument("--inputs", nargs="+", default=["image"], help="images that denoisers see")
    parser.add_argument("--lam-scale", type=float, default=1.0)
    parser.add_argument("--pixel-fraction", type=float, default=1.0)
    parser.add_argument("--random-phase", action="store_true")
    parser.add_argument("--name", default="", help="of the run's folder")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    prepared = data(options)
    for acceleration in options.accelerations:
        folder = options.out / f"{options.trajectory}{options.name}_R{acceleration:g}"
        train(run(acceleration, options), prepared["train"], folder)
        evaluation, report = evaluate_and_report([folder], prepared["test"])
        spent = RunFolder(folder).read_summary()["training_seconds"]
        print(f"\nR = {acceleration:g}, trained in {spent:.0f} s\n{text_table(evaluation.summary)}\n{report}")
        print(started(RunFolder(folder), prepared["test"]))


if __name__ == "__main__":
    main()
