"""The gates of a block as the settings ask for them: drawn, taken from a trained network, or grown."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from convexrecon.convex.arrangements import Gates, draw_gates, with_open_gate
from convexrecon.convex.gate_growth import GrownSolution, grow_program
from convexrecon.convex.gate_sampling import FILTER_DRAWS
from convexrecon.convex.gate_search import draw_candidates
from convexrecon.convex.patches import Stream
from convexrecon.convex.sampled_pixels import SampledPixels
from convexrecon.convex.trained_gates import trained_gates
from convexrecon.errors import InputError
from convexrecon.seeding import generator
from convexrecon.training.config import RunSettings, kernel_of, seed_of_training
from convexrecon.training.run_folder import RunFolder
from convexrecon.weights import load_cascade


def fixed_gates(settings: RunSettings, index: int, samples: Sequence[Tensor]) -> Gates:
    """The gates of block `index` where they are not grown; on the samples' device.

    Stacked features have one more, always open: what it filters is linear, and it passes the image on to later layers.

    Args:
        settings: of the run.
        index: of the block, from 0.
        samples: inputs of the block (B, C, *N) on a few training slices.

    Raises:
        InputError: the trained run has no such block, or one of another shape.
    """
    gates = _gates_asked_for(settings, index, samples)
    return with_open_gate(gates) if settings.model.stacking == "features" else gates


def _gates_asked_for(settings: RunSettings, index: int, samples: Sequence[Tensor]) -> Gates:
    convex, device = settings.convex, samples[0].device
    kernel = _kernel(settings, samples)
    if convex.gates_run is not None:
        shape = (samples[0].shape[1], *kernel)
        gates = _gates_of_run(Path(convex.gates_run), index, shape, settings.model.units)
        return replace(gates, periodic=settings.model.periodic).to(device)
    return draw_gates(
        samples,
        settings.model.units,
        kernel,
        generator(seed_of_training(settings), "gates", index),
        offset_scale=convex.offset_scale,
        whitened=convex.whitened,
        draw=FILTER_DRAWS[convex.gates],
        periodic=settings.model.periodic,
    ).to(device)


def grow_gates(settings: RunSettings, index: int, samples: Sequence[Tensor], stream: Stream) -> GrownSolution:
    """Block `index`'s program with the image loss, its gates grown; the same for any batch size.

    Args:
        settings: of the run.
        index: of the block, from 0.
        samples: inputs of the block (B, C, *N) on a few training slices.
        stream: the data of the program.
    """
    convex, kernel = settings.convex, _kernel(settings, samples)

    def source(pixels: SampledPixels, count: int, rng: torch.Generator) -> Gates:
        return draw_candidates(
            pixels,
            samples,
            kernel,
            count,
            rng,
            draw=FILTER_DRAWS[convex.gates],
            offset_scale=convex.offset_scale,
            whitened=convex.whitened,
            periodic=settings.model.periodic,
        )

    shape = (1, samples[0].shape[1], *kernel)
    like = Gates(torch.zeros(shape), torch.zeros(1), settings.model.periodic).to(samples[0].device)
    rng = generator(seed_of_training(settings), "gates", index)
    return grow_program(stream, source, like, settings.model.units, convex.program, convex.grow, rng)


def _kernel(settings: RunSettings, samples: Sequence[Tensor]) -> tuple[int, ...]:
    return kernel_of(settings, samples[0].ndim - 2)


def _gates_of_run(folder: Path, index: int, shape: tuple[int, ...], count: int) -> Gates:
    blocks = list(load_cascade(RunFolder(folder).weights)[0])
    if index >= len(blocks):
        raise InputError(f"{folder}: has {len(blocks)} blocks, asked for the gates of block {index + 1}")
    gates = trained_gates(blocks[index].denoiser, count)
    if gates.filters.shape[1:] != shape:
        raise InputError(
            f"{folder}: the gates of block {index + 1} are {tuple(gates.filters.shape[1:])} (channels, kernel), "
            f"expected {shape} as in this run"
        )
    return gates
