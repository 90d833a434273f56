"""The data consistency of a convex block; its weight, unless given, is the best on training slices."""

from dataclasses import fields

import torch
from torch import Tensor

from convexrecon.cascade import Block, Cascade
from convexrecon.physics.consistency_path import ConsistencyPath, best_lam, consistency_path
from convexrecon.physics.data_consistency import (
    DataConsistency,
    GradientDataConsistency,
    NoDataConsistency,
    ProximalDataConsistency,
)
from convexrecon.training.block_data import BlockData
from convexrecon.training.image_store import keys_of, read_store

# Largest data-consistency weight chosen on held-out samples. They do not tell what the denoiser does to the samples
# that the block sees, which the data correct, and ask for ever larger weights from block to block.
MOST_LAM_HELD_OUT = 0.1


def block_consistency(data: BlockData, cascade: Cascade, block: Block, index: int) -> DataConsistency:
    """The data consistency that follows the denoiser of block `index`; the same on all ranks.

    Args:
        data: the training slices.
        cascade: the blocks before it.
        block: whose denoiser it is.
        index: of the block, from 0.
    """
    model, convex = data.settings.model, data.settings.convex
    if model.consistency == "none" or model.stacking == "published_features":
        return NoDataConsistency()
    if model.consistency == "gradient":
        return GradientDataConsistency()
    lam = convex.lam
    if lam is None:

        def path(position: int) -> list[Tensor]:
            found = _consistency_path(data, cascade, block, index, position)
            return [getattr(found, field.name) for field in fields(found)]

        paths = [ConsistencyPath(*tensors) for tensors in data.of_spread_slices(convex.lam_slices, path)]
        lam = best_lam(paths) if data.held_out == 0 else best_lam(paths, high=MOST_LAM_HELD_OUT)
        lam *= convex.lam_scale
    return ProximalDataConsistency(lam, iterations=model.cg_iterations).to(data.device)


def _consistency_path(data: BlockData, cascade: Cascade, block: Block, index: int, position: int) -> ConsistencyPath:
    """Error of one slice for every lam: against its target or, of a slice that is split, its held-out samples."""
    batch, held_out = data.load_split(position) if data.held_out > 0 else (data.load(position), None)
    image = read_store(data.input("image", index), keys_of(batch)).to(data.device)
    sense = batch.sense
    adjoint = sense.adjoint(batch.kspace)
    steps = data.settings.model.cg_iterations
    with torch.no_grad():
        denoised = block.denoise(image, sense, adjoint, data.start_for(block, cascade, batch, adjoint))
        if held_out is None:
            return consistency_path(sense, adjoint, denoised, batch.target, steps=steps)
        measure = held_out.sense.forward
        return consistency_path(sense, adjoint, denoised, held_out.kspace, steps=steps, measure=measure)
