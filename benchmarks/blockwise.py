"""Memory and time of a training step patch by patch, against the size of the volume and of the patch.

One step of training of a cascade with gradient data consistency on a synthetic volume (Cartesian SENSE, half of the
samples), by backpropagation through whole volumes ("whole"), with gradient checkpointing ("checkpointing"), and patch
by patch with the halo that leaves the gradient as it is. Memory is what the tensors that the step makes take at most.
The gradient's error is relative to that of the whole volume. Run:

    python benchmarks/blockwise.py --volumes 32 48 64 --patches 16 24 32
"""

import argparse
import math
import time
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor

from convexrecon.cascade import Block, Cascade
from convexrecon.data.dataset import Batch
from convexrecon.denoisers.building import DenoiserKind, new_denoiser
from convexrecon.denoisers.patchwise import receptive_field
from convexrecon.physics.data_consistency import GradientDataConsistency
from convexrecon.physics.sense import Sense
from convexrecon.training.descent import Portion
from convexrecon.training.descent_settings import DescentSettings
from convexrecon.training.live_memory import LiveMemory
from convexrecon.training.ranks import Ranks
from convexrecon.training.step_clock import StepClock
from convexrecon.training.train_descent import TRAINERS


@dataclass(frozen=True)
class Measured:
    """One step of training.

    Attributes:
        memory_mb: the most that its tensors take.
        seconds: of the process in it, which other work on the machine leaves alone; on a GPU, of the clock.
        gradient: of all parameters in one.
    """

    memory_mb: float
    seconds: float
    gradient: Tensor


def volume(size: int, coils: int) -> Batch:
    """A ball of smooth noise seen by coils around it, half of its k-space."""
    rng, shape = torch.Generator().manual_seed(0), (size,) * 3
    axes = torch.meshgrid(*[torch.linspace(-1, 1, size)] * 3, indexing="ij")
    noise = torch.randn(1, 1, *[max(2, size // 4)] * 3, generator=rng)
    smooth = torch.nn.functional.interpolate(noise, shape, mode="trilinear")[0, 0]
    ball = (torch.stack(axes).square().sum(0) < 0.8).float()
    target = ((1 + 0.3 * smooth) * ball).to(torch.complex64)
    angles = [2 * math.pi * coil / coils for coil in range(coils)]
    centres = [(math.sin(angle), math.cos(angle), math.sin(2 * angle)) for angle in angles]
    away = [(torch.stack(axes) - torch.tensor(centre).view(3, 1, 1, 1)).square().sum(0) for centre in centres]
    maps = torch.stack(
        [torch.polar(torch.exp(-far / 2), torch.full_like(far, a)) for far, a in zip(away, angles, strict=True)]
    )
    maps = (maps / maps.abs().square().sum(0).sqrt())[None]
    mask = (torch.rand(1, 1, *shape, generator=rng) < 0.5).float()
    sense = Sense(maps, mask)
    return Batch(sense.forward(target[None]), sense, target[None], torch.ones(1), ("synthetic",), (0,), (size, size))


def network(kind: DenoiserKind, width: int, blocks: int) -> Cascade:
    """An untrained cascade."""
    rng = torch.Generator().manual_seed(0)
    return Cascade(
        Block(
            new_denoiser(kind, width=width, dimensions=3, generator=rng),
            GradientDataConsistency(learn=True),
        )
        for _ in range(blocks)
    )


def measure(model: Cascade, method: str, patch: int | None, batch: Batch) -> Measured:
    """A step from the same weights. Following its tensors takes no time to speak of beside 3-D convolutions."""
    copy, device = deepcopy(model), batch.kspace.device
    for block in copy:
        block.use_patches(patch)
    descent = TRAINERS[method](copy, DescentSettings(clip=1e9), Ranks())
    now = time.process_time if device.type == "cpu" else time.perf_counter
    with LiveMemory(device) as memory:
        started = now()
        descent.step(Portion(batch), StepClock(device))
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = now() - started
    gradient = torch.cat([parameter.grad.flatten() for parameter in copy.parameters() if parameter.grad is not None])
    return Measured(memory.peak_mb, seconds, gradient)


def row(size: int, name: str, found: Measured, expected: Measured) -> str:
    """A row of the table."""
    image_mb = 8e-6 * size**3
    error = float((found.gradient - expected.gradient).norm() / expected.gradient.norm())
    of_gradient = "-" if found is expected else f"{error:.0e}"
    return (
        f"| {size}^3 | {name} | {found.memory_mb:.1f} | {found.memory_mb / image_mb:.0f} | {found.seconds:.2f} | "
        f"{found.seconds / expected.seconds:.1f} | {of_gradient} |"
    )


def main() -> None:
    """Measure what is asked for and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--volumes", type=int, nargs="+", default=[32, 48, 64])
    parser.add_argument("--patches", type=int, nargs="+", default=[16, 24, 32])
    parser.add_argument("--denoiser", choices=["relu", "resnet", "modl"], default="modl")
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--blocks", type=int, default=2)
    parser.add_argument("--coils", type=int, default=4)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = network(options.denoiser, options.width, options.blocks).to(options.device)
    halo = receptive_field(next(iter(model)).denoiser)
    print(f"{options.denoiser}, width {options.width}, {options.blocks} blocks, halo {halo[0]}\n")
    print("| volume | method | MB | complex volumes | s | of whole | gradient error |")
    print("|---|---|---:|---:|---:|---:|---:|", flush=True)
    # The first step of a process is slower.
    measure(model, "end_to_end", None, volume(options.volumes[0], options.coils).to(options.device))
    for size in options.volumes:
        batch = volume(size, options.coils).to(options.device)
        expected = measure(model, "end_to_end", None, batch)
        print(row(size, "whole", expected, expected), flush=True)
        print(row(size, "checkpointing", measure(model, "checkpointing", None, batch), expected), flush=True)
        for patch in options.patches:
            found = measure(model, "end_to_end", patch, batch)
            print(row(size, f"patches of {patch}^3", found, expected), flush=True)


if __name__ == "__main__":
    main()
