"""The program of a block: its data as a stream, its optimum, its certificate."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from torch import Tensor
from tqdm.auto import tqdm

from convexrecon.cascade import Cascade, to_channels
from convexrecon.convex.arrangements import Gates
from convexrecon.convex.consistent_program import solve_consistent_program
from convexrecon.convex.gate_growth import GrownSolution
from convexrecon.convex.held_out_strength import HeldOutChoice, solve_held_out
from convexrecon.convex.patches import BlockBatch, Stream
from convexrecon.convex.program import BlockSolution, certify_program, solve_program
from convexrecon.convex.recovery import weights_of
from convexrecon.denoisers.feature_stack import FeatureStack
from convexrecon.denoisers.gated import GatedDenoiser
from convexrecon.errors import InputError
from convexrecon.solvers.certificates import Certificate
from convexrecon.training.block_data import BlockData
from convexrecon.training.block_gates import fixed_gates, grow_gates
from convexrecon.training.consistent_loss import consistent_data
from convexrecon.training.image_store import key_of, read_store
from convexrecon.training.random_phase import turned
from convexrecon.training.rank_exchange import processes_of
from convexrecon.training.self_supervised_loss import held_out_data, unsupervised_stream


def block_stream(data: BlockData, cascade: Cascade, index: int, *, whole: bool = False) -> Stream:
    """The data of block `index`'s program: a pass over the stores at each call, always the same.

    The rows are the pixels where the target is not exactly zero, i.e. where a coil map is not: elsewhere a
    block does not act. Of these a share `pixel_fraction` is drawn, by a generator named after the slice, and seen with
    random phases if asked for; all of them as they are where the data are `whole`, as to judge the block by.
    """

    def stream() -> Iterator[BlockBatch]:
        task = f"block {index + 1}: pass over the data"
        for entry in tqdm(data.slices.slices, task, leave=False, disable=not data.progress):
            key = key_of(entry.volume, entry.slice_index)
            target = read_store(data.targets, [key]).to(data.device)
            rows = (target != 0).unsqueeze(1)
            copies = [(0.0, rows)] if whole else data.copies(data.drawn(rows, index, entry), index, entry)
            for phase, part in copies:
                features, skip = data.features_and_skip(cascade, [key], index, phase)
                yield BlockBatch(features, to_channels(turned(target, phase)) - skip, part)

    return stream


@dataclass(frozen=True)
class SolvedBlock:
    """The optimum of a block's program.

    Attributes:
        solved: gates, weights, certificate.
        grown: how the gates were found, or None if they were not grown.
        choice: how the strength of the penalty was found, or None if it was given.
    """

    solved: BlockSolution
    grown: GrownSolution | None = None
    choice: HeldOutChoice | None = None


def solve_block(
    data: BlockData, cascade: Cascade, index: int, samples: Sequence[Tensor], held_out: BlockData | None = None
) -> SolvedBlock:
    """The optimum of block `index`'s program, with the gates and the loss that the settings ask for.

    Gates are grown on the image loss; a consistent loss then takes them as they are. Of several ranks each has its
    share of the data in `data`, and all get the same optimum.

    Args:
        data: the training slices.
        cascade: the blocks before it.
        index: of the block, from 0.
        samples: its inputs (B, C, *N) on a few training slices.
        held_out: slices that the strength of the penalty is chosen on; None where the settings give it.
    """
    settings, convex = data.settings, data.settings.convex
    processes = processes_of(data.ranks)
    stream = block_stream(data, cascade, index)
    grown = None if convex.grow.rule == "none" else grow_gates(settings, index, samples, stream)
    if grown is not None and convex.loss == "image":
        return SolvedBlock(grown.solved, grown)
    gates = fixed_gates(settings, index, samples) if grown is None else grown.solved.gates
    # One bit of a gate moves pixels that lie on its border.
    gates = replace(gates, filters=processes.agreed(gates.filters), offsets=processes.agreed(gates.offsets))
    if held_out is not None:
        judged_on = block_stream(held_out, cascade, index, whole=True)
        choice = solve_held_out(stream, judged_on, gates, convex.program, processes)
        return SolvedBlock(choice.solved, choice=choice)
    if convex.loss == "image":
        return SolvedBlock(solve_program(stream, gates, convex.program, processes))
    with _loss_data(data, cascade, index) as (behind, model_stream):
        return SolvedBlock(solve_consistent_program(behind, model_stream, gates, convex.program, processes), grown)


@contextmanager
def _loss_data(data: BlockData, cascade: Cascade, index: int) -> Iterator[tuple[Stream, Stream]]:
    """The data of a loss behind a map of the output, and those that its curvature is modelled from."""
    if data.settings.convex.loss == "self_supervised":
        with held_out_data(data, cascade, index) as stream:
            yield stream, unsupervised_stream(data, cascade, index)
        return
    with consistent_data(data, cascade, index) as stream:
        yield stream, block_stream(data, cascade, index)


def block_weights(cascade: Cascade, index: int) -> tuple[Gates, Tensor]:
    """Gates and weights W (P, d, m) of a trained convex block or stacked layer.

    Raises:
        InputError: the block was not trained by a convex program.
    """
    blocks = list(cascade)
    if blocks and isinstance(blocks[0].denoiser, FeatureStack):
        network = blocks[0].denoiser.layer(index)
        return network.gates, weights_of(network)
    denoiser = blocks[index].denoiser
    if not isinstance(denoiser, GatedDenoiser):
        raise InputError(f"block {index + 1}: trained by backpropagation; only convex blocks have certificates")
    return denoiser.gates, denoiser.weights


def certify_block(data: BlockData, cascade: Cascade, index: int, beta: float) -> Certificate:
    """Re-measure a block's duality gap in one float64 pass over the data, without the statistics.

    Raises:
        InputError: the block was not trained by a convex program.
    """
    gates, weights = block_weights(cascade, index)
    data.write_fixed(cascade)
    data.write_images(cascade, 0 if data.stacks_features else index)
    program = data.settings.convex.program
    if data.settings.convex.loss == "image":
        return certify_program(block_stream(data, cascade, index), gates, weights, beta, program)
    with _loss_data(data, cascade, index) as (stream, _):
        return certify_program(stream, gates, weights, beta, program)
