"""The whole line on simulated data: simulate, prepare, train twice, evaluate, report."""

from collections.abc import Callable
from dataclasses import dataclass, replace
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
from convexrecon.training.train import certify_run, train


@dataclass(frozen=True)
class DemoSize:
    """How much data, and how much training."""

    train_volumes: int
    test_volumes: int
    slices: int
    size: tuple[int, int]
    coils: int
    blocks: int
    units: int
    epochs: int


FULL = DemoSize(16, 3, 3, (160, 144), 6, 7, 24, 12)
TINY = DemoSize(3, 1, 2, (64, 56), 4, 2, 6, 3)


def run_demo(
    out: Path,
    *,
    tiny: bool = False,
    device: torch.device | str = "cpu",
    seed: int = 0,
    progress: bool = True,
    say: Callable[[str], object] = print,
) -> Path:
    """Run the demo in a folder and return the path of its report; what is there already is not done again.

    Args:
        out: folder for data, runs and report.
        tiny: a much smaller one, for checks.
        device: where to compute.
        seed: of everything.
        progress: whether to show bars.
        say: prints a line.
    """
    size = TINY if tiny else FULL
    say(f"1/5 simulating {size.train_volumes + size.test_volumes} scans, {size.coils} coils, in {out}/scans")
    data = _data(out, size, device, seed, progress, say)
    settings = _settings(size, seed)
    say("3/5 training the convex cascade: each block a convex program, solved to a certificate")
    train(settings, data / "train", out / "convex", device=device, progress=progress)
    say("4/5 training the same cascade end to end")
    opponent = replace(settings, method="end_to_end")
    train(opponent, data / "train", out / "end_to_end", device=device, progress=progress)
    say("5/5 evaluating both on held-out scans, and re-measuring every certificate in float64")
    gaps = certify_run(RunFolder(out / "convex"), data / "train", device=device, progress=progress)
    evaluation, report = evaluate_and_report(
        [out / "convex", out / "end_to_end"], data / "test", out=out, device=device, progress=progress
    )
    say("")
    say(text_table(evaluation.summary))
    worst = max(float(row["relative_gap"]) for row in gaps)
    say(f"\nEvery convex block is within {worst:.1e} of its global optimum (relative duality gap, re-measured).")
    for name in ("convex", "end_to_end"):
        summary = RunFolder(out / name).read_summary()
        say(f"Training {name}: {summary['training_seconds']:.0f} s")
    say(f"End to end got {size.epochs} epochs here; benchmarks/README.md compares both trained to convergence.")
    say(f"Report with pictures: {report}")
    return report


def _data(
    out: Path,
    size: DemoSize,
    device: torch.device | str,
    seed: int,
    progress: bool,
    say: Callable[[str], object],
) -> Path:
    counts = {"train": (size.train_volumes, seed), "test": (size.test_volumes, seed + 1)}
    for name, (volumes, volume_seed) in counts.items():
        simulate_dataset(
            out / "scans" / name,
            volumes=volumes,
            slices=size.slices,
            size=size.size,
            coils=size.coils,
            anatomy="head",
            seed=volume_seed,
            progress=progress,
        )
    say("2/5 preparing: coil sensitivities by ESPIRiT, target images")
    for name in counts:
        prepare(
            out / "scans" / name,
            out / "prepared" / name,
            PreparationSettings(),
            device=device,
            progress=progress,
        )
    return out / "prepared"


def _settings(size: DemoSize, seed: int) -> RunSettings:
    return RunSettings(
        method="convex",
        seed=seed,
        mask=MaskSettings(kind="poisson", acceleration=4.0, calibration=16),
        model=ModelSettings(blocks=size.blocks, kernel=5, units=size.units),
        convex=ConvexSettings(program=ProgramSettings(penalty="group_lasso", beta_ratio=1e-4), whitened=0.5),
        descent=DescentSettings(epochs=size.epochs, learning_rate=3e-3),
    )
