"""Convex layer-wise training: solve a block's program, freeze it, apply it, go on to the next."""

import shutil
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from convexrecon.cascade import Block, Cascade
from convexrecon.data.dataset import PreparedSlices
from convexrecon.denoisers.feature_stack import FeatureStack
from convexrecon.denoisers.gated import GatedDenoiser
from convexrecon.errors import InputError
from convexrecon.evaluate.metrics import psnr
from convexrecon.physics.data_consistency import NoDataConsistency
from convexrecon.training.block_consistency import block_consistency
from convexrecon.training.block_data import BlockData
from convexrecon.training.block_program import solve_block
from convexrecon.training.block_record import Record, block_record, described, growth_record, records_summary
from convexrecon.training.config import RunSettings
from convexrecon.training.fit_activations import fit_activations_mb
from convexrecon.training.image_store import key_of, keys_of, read_store, write_store
from convexrecon.training.initial_weight import with_initial_weight
from convexrecon.training.new_cascade import without_blocks
from convexrecon.training.profiler import Profile
from convexrecon.training.rank_exchange import processes_of
from convexrecon.training.ranks import Ranks
from convexrecon.training.run_folder import RunFolder
from convexrecon.training.stacked_layer import chooses_strength, helps, stacked
from convexrecon.training.tensorboard_log import EventLog, event_log
from convexrecon.weights import load_cascade, save_cascade

# Slices on which gates are scaled and told apart.
GATE_SLICES = 8


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
    are written after every block; a killed run continues from the last one, to the same result. A program that is
    not solved to its tolerance is warned of, and stays so marked in all of them.

    Where the strength of the penalty is chosen on validation slices, a layer of stacked features that lowers their loss
    at no strength is not added, and training ends: the summary's `stopped_by` says so.

    Of n ranks each has every n-th slice. What a program needs of the data is summed over them; then each solves it
    from the same numbers, no later than the first one could tell the others, and applies the block to its own slices.
    Results are those of one process, to rounding.

    Args:
        settings: of the run.
        train: training slices.
        validation: held-out slices, or None.
        run: the run folder.
        device: where to compute.
        ranks: the processes of the run; None for this one alone.
        progress: whether to show bars and a line per block.

    Raises:
        InputError: the run holds more blocks than are asked for, or data no program can be posed on; more ranks
            than training slices, or several ranks and gates to be grown.
    """
    device, ranks = torch.device(device), ranks or Ranks()
    progress = progress and ranks.is_lead
    _check_ranks(ranks, settings, train)
    state = _own_state(run, ranks)
    settings = with_initial_weight(settings, train, run, device=device, ranks=ranks, progress=progress)
    sets = _data_sets(settings, train, validation, state, device, ranks, progress)
    cascade, records, stopped_by = _resume(run, settings)
    cascade.to(device)
    with event_log(run.path, {}, done=len(records), active=ranks.is_lead) as log:
        for index in range(len(records), settings.model.blocks if stopped_by is None else 0):
            with Profile(device) as before:
                samples = _write_inputs(sets, cascade, index)
            activations = _activations(sets[0], cascade, index, samples, records)
            with Profile(device) as fit:
                trained = _train_block(sets, cascade, index, samples, records)
            if trained is None:
                stopped_by = f"layer {index + 1} would not lower the validation loss at any strength of its penalty"
                if progress:
                    tqdm.write(f"{stopped_by}: training ends with {index} layers")
                break
            cascade, record = trained
            record["seconds"] = before.seconds + fit.seconds
            record["peak_memory_mb"] = max(before.peak_memory_mb, fit.peak_memory_mb)
            record["activations_mb"] = activations
            records.append(record)
            if ranks.is_lead:
                _write(run, cascade, records, stopped_by)
            if progress:
                tqdm.write(described(record, settings.model.blocks))
            if ranks.is_lead and record["shortfall"] is not None:
                warnings.warn(record["shortfall"], stacklevel=2)
            _log_block(log, sets, record)
    ranks.wait()
    if ranks.is_lead:
        _write(run, cascade, records, stopped_by)
        run.update_summary(**records_summary(records), stopped_by=stopped_by)
        shutil.rmtree(run.state, ignore_errors=True)
    ranks.wait()
    return cascade


def _data_sets(
    settings: RunSettings,
    train: PreparedSlices,
    validation: PreparedSlices | None,
    state: Path,
    device: torch.device,
    ranks: Ranks,
    progress: bool,
) -> list[BlockData]:
    """This rank's training slices and, if there are any, validation slices, their images in the folder `state`."""

    def share(name: str, slices: PreparedSlices, held_out: float) -> BlockData:
        mine = slices.only(ranks.share(range(len(slices))))
        return BlockData(name, mine, settings, state, device, progress, held_out, ranks, len(slices))

    sets = [share("train", train, settings.convex.samples_held_out)]
    if validation is not None:
        # Validation sees every sample, as reconstruction does.
        sets.append(share("validation", validation, 0.0))
    return sets


def _log_block(log: EventLog, sets: list[BlockData], record: Record) -> None:
    """Every number of the block's record, and the first validation slice after the block."""
    log.scalars(record, record["block"])
    if log.writes and len(sets) > 1 and not sets[1].stacks_features:
        batch = sets[1].load(0)
        image = read_store(sets[1].images(record["block"]), keys_of(batch)).to(batch.target.device)
        log.picture("validation", image[0], batch.target[0], record["block"])


def _check_ranks(ranks: Ranks, settings: RunSettings, train: PreparedSlices) -> None:
    if ranks.count > len(train):
        raise InputError(
            f"torchrun: {ranks.count} processes for {len(train)} training slices; expected at most one process a slice"
        )
    if ranks.count > 1 and settings.convex.grow.rule != "none":
        raise InputError(
            f"torchrun: gates are grown in one process, found {ranks.count} and convex.grow.rule = "
            f"{settings.convex.grow.rule!r}; expected one process, or the rule 'none'"
        )


def _own_state(run: RunFolder, ranks: Ranks) -> Path:
    """The folder of this rank's images; those of another number of ranks, which have other shares, are removed."""
    if ranks.is_lead and run.state.exists():
        for entry in run.state.iterdir():
            if entry.is_dir() and not entry.name.endswith(f"_of_{ranks.count}"):
                shutil.rmtree(entry)
    ranks.wait()
    return run.state / f"{ranks.rank + 1}_of_{ranks.count}"


def _write(run: RunFolder, cascade: Cascade, records: list[Record], stopped_by: str | None) -> None:
    """The weights first: a run continues from them, and they hold its records."""
    save_cascade(run.weights, cascade, {"records": records, "stopped_by": stopped_by})
    run.write_metrics(records)
    run.update_summary(method="convex", blocks=records)


def _resume(run: RunFolder, settings: RunSettings) -> tuple[Cascade, list[Record], str | None]:
    """The frozen blocks so far, their records and why there will be no more, from the one file that is written last."""
    if not run.weights.exists():
        return without_blocks(settings.model), [], None
    cascade, notes = load_cascade(run.weights)
    records: list[Record] = notes["records"]
    if len(records) > settings.model.blocks:
        raise InputError(
            f"{run.path}: holds {len(records)} trained blocks, asked for model.blocks = {settings.model.blocks}; "
            "expected at least as many"
        )
    for block in cascade:
        published = isinstance(block.denoiser, FeatureStack) and not block.denoiser.residual
        if published and settings.model.stacking == "features":
            raise InputError(
                f"{run.path}: holds a stack whose layers replace each other, from an earlier version; expected "
                "another --out, and model.stacking = 'published_features' for such a stack"
            )
    return cascade, records, notes.get("stopped_by")


def _write_inputs(sets: list[BlockData], cascade: Cascade, index: int) -> list[Tensor]:
    """Put on disk what the block sees; its inputs on a few training slices."""
    for part in sets:
        part.write_fixed(cascade)
        part.write_images(cascade, 0 if part.stacks_features else index)
    return _sample_features(sets[0], cascade, index)


def _activations(data: BlockData, cascade: Cascade, index: int, samples: list[Tensor], records: list[Record]) -> float:
    """What the block's fit takes: measured once in a run, unless later blocks see more channels."""
    known = None if data.stacks_features or not records else records[-1].get("activations_mb")
    return fit_activations_mb(data, cascade, index, samples) if known is None else float(known)


def _train_block(
    sets: list[BlockData], cascade: Cascade, index: int, samples: list[Tensor], records: list[Record]
) -> tuple[Cascade, Record] | None:
    """The cascade with a block more and its record; None where a stacked layer is not worth adding."""
    data, settings = sets[0], sets[0].settings
    before = 0 if data.stacks_features else index
    model = settings.model
    held_out = sets[1] if chooses_strength(settings, len(sets) > 1) else None
    block_solved = solve_block(data, cascade, index, samples, held_out)
    solved, choice = block_solved.solved, block_solved.choice
    if data.stacks_features and choice is not None and not helps(choice.loss, records):
        return None
    choosing = time.perf_counter()
    denoiser: nn.Module
    if data.stacks_features:
        denoiser = stacked(cascade, solved, samples, settings)
    else:
        denoiser = GatedDenoiser(solved.gates, solved.solution.weights, constant=settings.convex.program.constant)
    block = Block(denoiser, NoDataConsistency(), inputs=model.inputs, patch=model.patch, halo=model.halo)
    block = block.to(data.device)
    block.consistency = block_consistency(data, cascade, block, index)
    cascade = cascade.with_blocks([*([] if data.stacks_features else cascade), block])
    block.to(data.device)
    agreed = processes_of(data.ranks).agreed
    for tensor in block.state_dict().values():
        tensor.copy_(agreed(tensor.clone()))
    applying = time.perf_counter()
    scores = [_apply(part, cascade, block, index, before) for part in sets]
    record = block_record(index, solved, block.consistency.lam, settings)
    if block_solved.grown is not None:
        record |= growth_record(block_solved.grown, settings.convex.loss)
    if choice is not None:
        record |= {"held_out_loss": choice.loss, "betas_tried": choice.betas, "held_out_losses": choice.losses}
    record |= {"seconds_lam": applying - choosing, "seconds_apply": time.perf_counter() - applying}
    record |= {"psnr_train": scores[0], "psnr_validation": scores[1] if len(scores) > 1 else None}
    return cascade, record


def _sample_features(data: BlockData, cascade: Cascade, index: int) -> list[Tensor]:
    """Inputs of the block on a few training slices, the same ones for any batch size and number of ranks."""

    def features(position: int) -> list[Tensor]:
        entry = data.slices.slices[position]
        nothing = torch.zeros(1, 1, dtype=torch.bool)
        phase, _ = next(data.copies(nothing, index, entry))
        return [data.features(cascade, [key_of(entry.volume, entry.slice_index)], index, phase)]

    return [sample for (sample,) in data.of_spread_slices(GATE_SLICES, features)]


@dataclass
class _Mean:
    total: float = 0.0
    count: int = 0


def _apply(data: BlockData, cascade: Cascade, block: Block, index: int, before: int) -> float:
    """Write the images after the block and return the mean slice-wise PSNR of all ranks; drop those before it."""
    mean = _Mean()

    def images() -> Any:
        for batch in data.batches(f"{data.name}: applying block {index + 1}"):
            sense = batch.sense
            image = read_store(data.images(before), keys_of(batch)).to(data.device)
            with torch.no_grad():
                adjoint = sense.adjoint(batch.kspace)
                result = block(image, sense, adjoint, data.start_for(block, cascade, batch, adjoint))
            mean.total += sum(psnr(x, ref) for x, ref in zip(result, batch.target, strict=True))
            mean.count += len(result)
            yield keys_of(batch), result

    if data.stacks_features:
        for _ in images():
            pass
    else:
        write_store(data.images(index + 1), images())
        data.drop_images(index)
    total, count = data.ranks.sum([mean.total, mean.count], data.device)
    return total / count
