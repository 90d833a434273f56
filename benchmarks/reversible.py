"""Memory, time and inversion error of memory-efficient learning against the number of blocks.

One step of training of a cascade of MoDL's denoisers on one simulated scan: end to end, by gradient checkpointing, with
inversion alone ("inversion"), and with as many block inputs kept as the tolerance makes necessary ("reversible").
Memory is what the tensors that the step makes take at most. The error is that of the inversion as the trainer measures
it, beside that of the gradient, relative to backpropagation's through the same network; all methods solve data
consistency to the same tolerance. Run:

    python benchmarks/reversible.py --blocks 4 8 16 32
"""

import argparse
import tempfile
import time
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from convexrecon.cascade import Cascade
from convexrecon.data.dataset import Batch, PreparedSlices, stack
from convexrecon.data.preparation import PreparationSettings, prepare
from convexrecon.data.simulation import simulate_dataset
from convexrecon.physics.masks import MaskSettings
from convexrecon.training.config import RunSettings
from convexrecon.training.descent import Portion
from convexrecon.training.descent_settings import DescentSettings, ReversibleSettings
from convexrecon.training.live_memory import LiveMemory
from convexrecon.training.model_settings import ModelSettings
from convexrecon.training.new_cascade import new_cascade
from convexrecon.training.ranks import Ranks
from convexrecon.training.reversible import reversible
from convexrecon.training.step_clock import StepClock
from convexrecon.training.train_descent import TRAINERS

METHODS = ("end_to_end", "checkpointing", "inversion", "reversible")
# Of inversion alone: nothing is kept, and no error is too large.
ALONE = ReversibleSettings(checkpoint_every=10**6, tolerance=1e30)


@dataclass(frozen=True)
class Measured:
    """One step of training.

    Attributes:
        memory_mb: the most that its tensors take.
        seconds: the shortest of the repeats: of the process, which other work on the machine leaves alone; on a GPU, of
            the clock.
        gradient: of all parameters in one.
        report: what the trainer says of the step.
    """

    memory_mb: float
    seconds: float
    gradient: Tensor
    report: dict[str, float]


def scan(size: int, coils: int) -> Batch:
    """One simulated slice, Poisson-disc undersampled 4-fold."""
    with tempfile.TemporaryDirectory() as folder:
        scans, prepared = Path(folder) / "scans", Path(folder) / "prepared"
        shape = (size, size - size // 8)
        simulate_dataset(scans, volumes=1, slices=1, size=shape, coils=coils, anatomy="head", progress=False)
        prepare(scans, prepared, PreparationSettings(), progress=False)
        return stack([PreparedSlices(prepared, MaskSettings(kind="poisson", acceleration=4.0)).load(0)])


def network(blocks: int, width: int, lam: float, spectral: float | None) -> Cascade:
    """An untrained cascade whose data consistency is solved as `reversible` has it, whoever trains it."""
    model = ModelSettings(blocks=blocks, kernel=3, denoiser="modl", width=width, spectral=spectral)
    cascade = new_cascade(RunSettings(model=model, descent=DescentSettings(lam=lam)))
    reversible(cascade, DescentSettings(), Ranks())
    return cascade


def measure(model: Cascade, method: str, batch: Batch, repeats: int) -> Measured:
    """Steps of one method, each from the same weights."""
    settings = ALONE if method == "inversion" else ReversibleSettings()
    options = DescentSettings(clip=1e9, reversible=settings)
    trainer = TRAINERS["reversible" if method == "inversion" else method]
    device, seconds = batch.kspace.device, []
    for repeat in range(repeats + 1):
        copy = deepcopy(model)
        descent = trainer(copy, options, Ranks())
        if repeat == 0:
            with LiveMemory(device) as memory:
                descent.step(Portion(batch), StepClock(device))
        else:
            clock, started = StepClock(device), time.process_time()
            descent.step(Portion(batch), clock)
            passed = time.process_time() - started
            seconds.append(passed if device.type == "cpu" else sum(clock.seconds.values()))
    gradients = [parameter.grad for parameter in copy.parameters() if parameter.grad is not None]
    return Measured(memory.peak_mb, min(seconds), torch.cat([g.flatten() for g in gradients]), descent.report())


def row(blocks: int, method: str, found: Measured, expected: Measured) -> str:
    """A row of the table."""
    error = "-"
    shares = "- | -"
    if found.report:
        error = f"{found.report['inversion_error']:.1e}"
        shares = f"{found.report['inverted_share']:.2f} | {found.report['fallback_share']:.2f}"
    off = float((found.gradient - expected.gradient).norm() / expected.gradient.norm())
    of_gradient = "-" if found is expected else f"{off:.0e}"
    return f"| {blocks} | {method} | {found.memory_mb:.1f} | {found.seconds:.2f} | {error} | {of_gradient} | {shares} |"


def main() -> None:
    """Measure what is asked for and print one table for each bound."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, nargs="+", default=[4, 8, 16, 32])
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--coils", type=int, default=4)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--lam", type=float, default=0.5)
    parser.add_argument("--bounds", type=float, nargs="+", default=[0.0, 0.9], help="spectral; 0 for none")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    batch = scan(options.size, options.coils).to(device)
    for bound in options.bounds:
        print(f"\nspectral bound: {bound or 'none'}; lam {options.lam}\n")
        print("| blocks | method | MB | s | inversion error | gradient error | inverted | fell back |")
        print("|---:|---|---:|---:|---:|---:|---:|---:|", flush=True)
        for blocks in options.blocks:
            model = network(blocks, options.width, options.lam, bound or None).to(device)
            expected = measure(model, "end_to_end", batch, options.repeats)
            for method in METHODS:
                found = expected if method == "end_to_end" else measure(model, method, batch, options.repeats)
                print(row(blocks, method, found, expected), flush=True)


if __name__ == "__main__":
    main()
