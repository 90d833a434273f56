"""What the fit of a convex block takes: measured on one slice, fitted to a loose tolerance."""

import copy
import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from convexrecon.cascade import Block, Cascade
from convexrecon.data.dataset import PreparedSlices, stack
from convexrecon.denoisers.gated import GatedDenoiser
from convexrecon.errors import InputError
from convexrecon.physics.data_consistency import ProximalDataConsistency
from convexrecon.training.block_data import BlockData
from convexrecon.training.block_program import solve_block
from convexrecon.training.config import RunSettings
from convexrecon.training.image_store import keys_of, read_store
from convexrecon.training.live_memory import LiveMemory
from convexrecon.training.ranks import Ranks

# Relative gap at which the measured fit may stop: it has made every tensor of a solver by then.
LOOSE_TOLERANCE = 1e-3
# Strength, relative to beta_max, that validation slices choose for most stacked layers.
USUAL_RATIO = 0.05


def fit_activations_mb(data: BlockData, cascade: Cascade, index: int, samples: Sequence[Tensor]) -> float:
    """The most that the tensors made in fitting a block take at the same time, in units of 1e6 bytes.

    The same figure as a training step has for the trainers that descend (`LiveMemory`): H, its factor and the
    pixels collected; responses and patches of a slice; the block's output and data consistency for a batch. A fit
    goes through its slices one by one, so that their number does not matter, and following every tensor of
    a whole fit takes as long again: it is the fit of the data's largest slice, a few iterations of the solver,
    that is measured. What a solver makes only after more iterations is not seen.

    Args:
        data: the training slices, their images before the block on disk.
        cascade: the blocks before it.
        index: of the block, from 0.
        samples: its inputs on a few training slices.
    """
    # By this process alone: each rank fits its share as one process would.
    alone = replace(data, ranks=Ranks(), total=None, progress=False)
    part = replace(alone, slices=largest_slice(data.slices), settings=_loosened(data.settings))
    with LiveMemory(data.device) as fit:
        solved = solve_block(part, cascade, index, samples).solved
    if data.stacks_features:
        return fit.peak_mb
    model = data.settings.model
    denoiser = GatedDenoiser(solved.gates, solved.solution.weights, constant=data.settings.convex.program.constant)
    consistency = ProximalDataConsistency(0.1, iterations=model.cg_iterations)
    block = Block(denoiser, consistency, inputs=model.inputs, patch=model.patch, halo=model.halo)
    batch = stack([part.load(0)] * min(data.settings.batch_size, len(data.slices)))
    image = read_store(part.images(index), keys_of(batch)).to(data.device)
    with LiveMemory(data.device) as applied, torch.no_grad():
        adjoint = batch.sense.adjoint(batch.kspace)
        block.to(data.device)(image, batch.sense, adjoint, part.start_for(block, cascade, batch, adjoint))
    return max(fit.peak_mb, applied.peak_mb)


def largest_slice(slices: PreparedSlices) -> PreparedSlices:
    """The same data set with its largest slice alone, the first of several.

    Raises:
        InputError: there is no slice.
    """
    if len(slices) == 0:
        raise InputError(f"{slices.folder}: expected at least one slice, found none")
    one = copy.copy(slices)
    one.slices = (max(slices.slices, key=lambda key: math.prod(key.shape)),)
    return one


def _loosened(settings: RunSettings) -> RunSettings:
    convex = settings.convex
    program = replace(convex.program, tolerance=max(convex.program.tolerance, LOOSE_TOLERANCE))
    if settings.model.stacking == "features" and convex.beta_from != "program" and program.beta is None:
        program = replace(program, beta_ratio=max(program.beta_ratio, USUAL_RATIO))
    return replace(settings, convex=replace(convex, program=program))
