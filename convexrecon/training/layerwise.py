"""Convex layer-wise training: solve a block's program, freeze it, apply it, go on to the next."""

import dataclasses
import shutil
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from convexrecon.cascade import Block, Cascade
from convexrecon.convex.gate_growth import GrownSolution
from convexrecon.convex.program import BlockSolution
from convexrecon.convex.recovery import gated_network
from convexrecon.data.dataset import PreparedSlices
from convexrecon.denoisers.feature_stack import FeatureStack
from convexrecon.denoisers.gated import GatedDenoiser
from convexrecon.denoisers.gated_network import GatedNetwork
from convexrecon.errors import InputError
from convexrecon.evaluate.metrics import psnr
from convexrecon.physics.consistency_path import ConsistencyPath, best_lam, consistency_path
from convexrecon.physics.data_consistency import (
    DataConsistency,
    GradientDataConsistency,
    NoDataConsistency,
    ProximalDataConsistency,
)
from convexrecon.training.block_data import BlockData
from convexrecon.training.block_program import solve_block
from convexrecon.training.config import RunSettings
from convexrecon.training.image_store import evenly_spaced, key_of, keys_of, read_store, write_store
from convexrecon.training.profiler import Profile
from convexrecon.training.ranks import Ranks
from convexrecon.training.run_folder import RunFolder
from convexrecon.weights import load_cascade, save_cascade

# Slices on which gates are scaled and told apart.
GATE_SLICES = 8
# Largest data-consistency weight chosen on held-out samples. They do not tell what the denoiser does to the samples
# that the block sees, which the data correct, and ask for ever larger weights from block to block.
MOST_LAM_HELD_OUT = 0.1

Record = dict[str, Any]


def train_layerwise(
    settings: RunSettings,
    train: PreparedSlices,
    validation: PreparedSlices | None,
    run: RunFolder,
    *,
    device: torch.device | str = "cpu",
    ranks: Ranks | None = None,
    progress: bool = True,
) -> Cascade:
    """Train, or continue, a convex cascade in a run folder: one pass over the data per program.

    Each block's program is solved to its certified optimum on the images that the frozen blocks before it
    produce; its data-consistency weight is then chosen on training slices. Weights, metrics and summary
    are written after every block; a killed run continues from the last one, to the same result.

    Args:
        settings: of the run.
        train: training slices.
        validation: held-out slices, or None.
        run: the run folder.
        device: where to compute.
        ranks: the processes of the run; None for this one alone.
        progress: whether to show bars and a line per block.

    Raises:
        InputError: the run holds more blocks than are asked for, or data no program can be posed on.
    """
    device, ranks = torch.device(device), ranks or Ranks()
    if ranks.count > 1:
        raise InputError(f"convex: expected one process, found {ranks.count}")
    # Validation sees every sample, as reconstruction does.
    sets = [BlockData("train", train, settings, run.state, device, progress, settings.convex.samples_held_out)]
    if validation is not None:
        sets.append(BlockData("validation", validation, settings, run.state, device, progress))
    cascade, records = _resume(run, settings)
    cascade.to(device)
    for index in range(len(records), settings.model.blocks):
        with Profile(device) as profile:
            cascade, record = _train_block(sets, cascade, index)
        record |= {"seconds": profile.seconds, "peak_memory_mb": profile.peak_memory_mb}
        records.append(record)
        save_cascade(run.weights, cascade, {"records": records})
        if progress:
            tqdm.write(_line(record, settings.model.blocks))
        run.write_metrics(records)
        run.update_summary(method="convex", blocks=records)
    if not records:
        save_cascade(run.weights, cascade, {"records": records})
    run.write_metrics(records)
    run.update_summary(method="convex", blocks=records, training_seconds=sum(r["seconds"] for r in records))
    shutil.rmtree(run.state, ignore_errors=True)
    return cascade


def _resume(run: RunFolder, settings: RunSettings) -> tuple[Cascade, list[Record]]:
    """The frozen blocks so far, and their records, from the one file that is written last."""
    if not run.weights.exists():
        return Cascade(initial=settings.model.initial), []
    cascade, notes = load_cascade(run.weights)
    records: list[Record] = notes["records"]
    if len(records) > settings.model.blocks:
        raise InputError(
            f"{run.path}: holds {len(records)} trained blocks, asked for model.blocks = {settings.model.blocks}; "
            "expected at least as many"
        )
    return cascade, records


def _train_block(sets: list[BlockData], cascade: Cascade, index: int) -> tuple[Cascade, Record]:
    data, settings = sets[0], sets[0].settings
    before = 0 if data.stacks_features else index
    for part in sets:
        part.write_fixed(cascade)
        part.write_images(cascade, before)
    samples = _sample_features(data, cascade, index)
    model = settings.model
    block_solved = solve_block(data, cascade, index, samples)
    solved = block_solved.solved
    if data.stacks_features:
        cascade = _stack_layer(cascade, solved, samples, settings)
        block = next(iter(cascade))
    else:
        denoiser = GatedDenoiser(solved.gates, solved.solution.weights, constant=settings.convex.program.constant)
        block = Block(denoiser, NoDataConsistency(), inputs=model.inputs).to(data.device)
        block.consistency = _consistency(data, cascade, block, index)
        cascade = Cascade([*cascade, block], initial=cascade.initial)
    block.to(data.device)
    scores = [_apply(part, cascade, block, index, before) for part in sets]
    record = _record(index, solved, block.consistency.lam, model.units)
    if block_solved.grown is not None:
        record |= _growth_record(block_solved.grown, settings.convex.loss)
    record |= {"psnr_train": scores[0], "psnr_validation": scores[1] if len(scores) > 1 else None}
    return cascade, record


def _sample_features(data: BlockData, cascade: Cascade, index: int) -> list[Tensor]:
    """Inputs of the block on a few training slices, the same ones for any batch size."""
    chosen = [data.slices.slices[position] for position in evenly_spaced(data.slices.slices, GATE_SLICES)]
    return [data.features(cascade, [key_of(entry.volume, entry.slice_index)], index) for entry in chosen]


def _stack_layer(cascade: Cascade, solved: BlockSolution, samples: list[Tensor], settings: RunSettings) -> Cascade:
    """Append a layer to the feature stack, its hidden channels scaled to unit root mean square."""
    constant = settings.convex.program.constant
    network = gated_network(solved.gates, solved.solution.weights.cpu(), constant=constant)
    if network.filters.shape[0] == 0:
        raise InputError(
            "features: the optimum of this layer is the empty network, so there are no hidden channels to "
            "stack on; expected a smaller beta"
        )
    power = torch.stack([network.hidden(sample.cpu()).square().mean((0, *range(2, sample.ndim))) for sample in samples])
    network = network.normalized(power.mean(0).sqrt().clamp_min(1e-12))
    layers: list[GatedNetwork] = []
    for block in cascade:
        assert isinstance(block.denoiser, FeatureStack)
        layers = [block.denoiser.layer(k) for k in range(len(block.denoiser.networks))]
    return Cascade([Block(FeatureStack([*layers, network]), NoDataConsistency())], initial=cascade.initial)


def _consistency(data: BlockData, cascade: Cascade, block: Block, index: int) -> DataConsistency:
    """The block's data consistency; the proximal weight, unless given, is the best on training slices."""
    model, convex = data.settings.model, data.settings.convex
    if model.consistency == "gradient":
        return GradientDataConsistency()
    if model.consistency == "none":
        return NoDataConsistency()
    lam = convex.lam
    if lam is None:
        chosen = evenly_spaced(data.slices.slices, convex.lam_slices)
        paths = [_consistency_path(data, cascade, block, index, position) for position in chosen]
        lam = best_lam(paths) if data.held_out == 0 else best_lam(paths, high=MOST_LAM_HELD_OUT)
        lam *= convex.lam_scale
    return ProximalDataConsistency(lam, iterations=model.cg_iterations).to(data.device)


def _consistency_path(data: BlockData, cascade: Cascade, block: Block, index: int, position: int) -> ConsistencyPath:
    """Error of one slice for every lam: against its target or, of a slice that is split, its held-out samples."""
    batch, held_out = data.load_split(position) if data.held_out > 0 else (data.load(position), None)
    image = read_store(data.images(index), keys_of(batch)).to(data.device)
    sense = batch.sense
    adjoint = sense.adjoint(batch.kspace)
    steps = data.settings.model.cg_iterations
    with torch.no_grad():
        denoised = block.denoise(image, sense, adjoint, cascade.start(sense, adjoint))
        if held_out is None:
            return consistency_path(sense, adjoint, denoised, batch.target, steps=steps)
        measure = held_out.sense.forward
        return consistency_path(sense, adjoint, denoised, held_out.kspace, steps=steps, measure=measure)


@dataclass
class _Mean:
    total: float = 0.0
    count: int = 0


def _apply(data: BlockData, cascade: Cascade, block: Block, index: int, before: int) -> float:
    """Write the images after the block and return their mean slice-wise PSNR; drop those before it."""
    mean = _Mean()

    def images() -> Any:
        for batch in data.batches(f"{data.name}: applying block {index + 1}"):
            sense = batch.sense
            image = read_store(data.images(before), keys_of(batch)).to(data.device)
            with torch.no_grad():
                adjoint = sense.adjoint(batch.kspace)
                result = block(image, sense, adjoint, cascade.start(sense, adjoint))
            mean.total += sum(psnr(x, ref) for x, ref in zip(result, batch.target, strict=True))
            mean.count += len(result)
            yield keys_of(batch), result

    if data.stacks_features:
        for _ in images():
            pass
    else:
        write_store(data.images(index + 1), images())
        data.drop_images(index)
    return mean.total / mean.count


def _record(index: int, solved: BlockSolution, lam: float | None, units: int) -> Record:
    certificate = solved.solution.certificate
    return {
        "block": index + 1,
        "objective": certificate.objective,
        "bound": certificate.bound,
        "relative_gap": certificate.relative_gap,
        "converged": solved.solution.converged,
        "beta": solved.solution.beta,
        "beta_max": solved.beta_max,
        "active_gates": solved.solution.active_groups,
        "gates": len(solved.gates),
        "units": units,
        "lam": lam,
        "pixels": solved.pixels,
        "iterations": solved.solution.iterations,
        "matrix_free": solved.matrix_free,
        "method": solved.method.name,
        "method_reason": solved.method.reason,
        "seconds_accumulate": solved.seconds_accumulate,
        "seconds_solve": solved.seconds_solve,
    }


def _growth_record(grown: GrownSolution, loss: str) -> Record:
    """What the growth did and, where the block was solved for its loss, what the last search found."""
    record: Record = {
        "growth": [dataclasses.asdict(step) for step in grown.rounds],
        "growth_stopped_by": grown.stopped_by,
        "seconds_search": grown.seconds_search,
    }
    return record | (dataclasses.asdict(grown.search) if loss == "image" else {})


def _line(record: Record, blocks: int) -> str:
    validation = record["psnr_validation"]
    lam = record["lam"]
    return (
        f"block {record['block']}/{blocks}: gap {record['relative_gap']:.1e}, "
        f"{record['active_gates']}/{record['gates']} gates, "
        + (f"lam {lam:.3g}, " if lam is not None else "")
        + f"PSNR train {record['psnr_train']:.2f} dB"
        + (f", validation {validation:.2f} dB" if validation is not None else "")
        + f", {record['seconds']:.1f} s, {record['peak_memory_mb']:.0f} MB"
    )
