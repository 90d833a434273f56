"""The largest batch, or the most blocks, that a trainer fits into so many gigabytes, and what they are taken by."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from convexrecon.convex.gated_convolution import feature_count
from convexrecon.convex.sufficient_statistics import gram_bytes
from convexrecon.data.dataset import PreparedSlices
from convexrecon.data.preparation import PreparationSettings, prepare
from convexrecon.data.simulation import simulate_dataset
from convexrecon.errors import InputError
from convexrecon.evaluate.tables import aligned
from convexrecon.training.config import RunSettings, kernel_of
from convexrecon.training.measured_step import step_memory
from convexrecon.training.memory_model import MemoryModel, Varied, memory_model, varied
from convexrecon.training.profiler import resident_mb

# Values that are asked about.
MOST = 4096
# A step of so many slices or blocks, and bytes, is run to check the prediction.
CHECKED_VALUE, CHECKED_MB = 32, 2000.0


@dataclass(frozen=True)
class FittedMemory:
    """What fits, and its parts in units of 1e6 bytes.

    Attributes:
        method: the trainer.
        vary: "batch" or "blocks".
        largest: the largest that fits; 0 if nothing does; None if `MOST` and more do.
        activations_mb: tensors that a step of the largest (of one, if unbounded or nothing fits) makes and holds.
        each_mb: of these, for every slice or block.
        fixed_mb: of these, whatever is varied.
        weights_mb: parameters.
        optimizer_mb: the optimizer's state.
        process_mb: of the process before training: libraries; 0 on CUDA.
        gram_mb: of a convex fit, H and its factor.
        total_mb: all of it.
        measured_mb: activations measured at the largest, or None where that was not run.
    """

    method: str
    vary: Varied
    largest: int | None
    activations_mb: float
    each_mb: float
    fixed_mb: float
    weights_mb: float
    optimizer_mb: float
    process_mb: float
    gram_mb: float | None
    total_mb: float
    measured_mb: float | None


def fit_memory(
    settings: RunSettings,
    slices: PreparedSlices,
    gigabytes: float,
    *,
    vary: Varied = "batch",
    device: torch.device | str = "cpu",
    process_mb: float | None = None,
) -> FittedMemory:
    """The largest batch, or number of blocks, of `settings.method` that fits, for slices as large as the largest.

    On CUDA steps are run, ever larger and then by bisection, until they do not fit or memory is out. Elsewhere a
    linear model is made from two small steps (`memory_model`), to which weights, optimizer state and the process
    are added, and checked by a step at the answer unless that is large. Scratch memory inside an operation is not
    in the model.

    Args:
        settings: trainer and cascade.
        slices: prepared slices; copies of the largest are what is trained on.
        gigabytes: allowed, in units of 1e9 bytes, > 0.
        vary: "batch" or "blocks".
        device: where to train.
        process_mb: what the process takes beside training, where it is not this one now: one that measured before
            keeps memory that a fresh one does not have.

    Raises:
        InputError: no memory allowed, or settings that the method refuses.
    """
    target = torch.device(device)
    if not gigabytes > 0:
        raise InputError(f"gigabytes: expected a positive number, found {gigabytes}")
    process = 0.0 if target.type == "cuda" else resident_mb() if process_mb is None else process_mb
    model = memory_model(settings, slices, vary, target)
    largest = model.largest(1e3 * gigabytes, MOST, beside_mb=process, activations_alone=False)
    if largest < MOST and target.type == "cuda" and settings.method != "convex":
        largest = _by_trying(settings, slices, gigabytes, vary, target)
    return _described(model, slices, largest if largest < MOST else None, process, target)


def _described(
    model: MemoryModel, slices: PreparedSlices, largest: int | None, process: float, device: torch.device
) -> FittedMemory:
    settings = model.settings
    default = settings.model.blocks if model.vary == "blocks" else settings.batch_size
    step = model.at(largest or (default if largest is None else 1))
    measured = None
    if largest and largest <= CHECKED_VALUE and step.activations_mb <= CHECKED_MB:
        measured = step_memory(varied(settings, model.vary, largest), slices, device).activations_mb
    gram = None
    if settings.method == "convex":
        channels, kernel = 2 * len(settings.model.inputs), kernel_of(settings, slices.dimensions)
        gram = gram_bytes(settings.model.units, feature_count(channels, kernel, settings.convex.program.constant)) / 1e6
    return FittedMemory(
        method=settings.method,
        vary=model.vary,
        largest=largest,
        activations_mb=step.activations_mb,
        each_mb=model.activations_each_mb,
        fixed_mb=model.activations_fixed_mb,
        weights_mb=step.weights_mb,
        optimizer_mb=step.optimizer_mb,
        process_mb=process,
        gram_mb=gram,
        total_mb=process + step.weights_mb + step.optimizer_mb + step.activations_mb,
        measured_mb=measured,
    )


def _by_trying(
    settings: RunSettings, slices: PreparedSlices, gigabytes: float, vary: Varied, device: torch.device
) -> int:
    """Double until a step does not fit, then bisect."""

    def fits(value: int) -> bool:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        try:
            step_memory(varied(settings, vary, value), slices, device)
        except torch.cuda.OutOfMemoryError:
            return False
        return torch.cuda.max_memory_allocated(device) <= 1e9 * gigabytes

    return largest_that(fits, MOST)


def largest_that(fits: Callable[[int], bool], most: int) -> int:
    """The largest value from 1 to `most` that fits, 0 if 1 does not: doubled until it fails, then bisected.

    >>> largest_that(lambda value: value <= 11, 100)
    11
    """
    low, high = 0, 1
    while high <= most and fits(high):
        low, high = high, 2 * high
    high = min(high, most + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def fit_methods(
    trainers: Sequence[RunSettings],
    gigabytes: float,
    *,
    data: Path | str | None = None,
    size: tuple[int, int] | None = None,
    coils: int = 8,
    vary: Varied = "batch",
    device: torch.device | str = "cpu",
) -> list[FittedMemory]:
    """`fit_memory` of several trainers on prepared data or, without them, on one simulated slice.

    Args:
        trainers: their settings.
        gigabytes: allowed for each.
        data: folder of prepared volumes, or None.
        size: (y, x) of the simulated slice where there are no data.
        coils: of it.
        vary: "batch" or "blocks".
        device: where to train.

    Raises:
        InputError: neither data nor size, memory that is too little for any of them, or what `fit_memory` refuses.
    """
    with ExitStack() as stack:
        if data is not None:
            slices = PreparedSlices(data, trainers[0].mask, seed=trainers[0].seed, slab=trainers[0].slab)
        elif size is not None:
            slices = stack.enter_context(simulated_slice(trainers[0], size, coils))
        else:
            raise InputError("fit-memory: expected a folder of data or a size")
        process = resident_mb()
        fits = [
            fit_memory(settings, slices, gigabytes, vary=vary, device=device, process_mb=process)
            for settings in trainers
        ]
    if all(fit.largest == 0 for fit in fits):
        least = min(fits, key=lambda fit: fit.total_mb)
        one = "slice" if vary == "batch" else "block"
        raise InputError(
            f"gigabytes = {gigabytes:g}: one {one} by {least.method} takes {least.total_mb / 1e3:.3g} GB "
            f"({least.process_mb / 1e3:.3g} of them the process itself); expected more than that"
        )
    return fits


@contextmanager
def simulated_slice(settings: RunSettings, size: tuple[int, int], coils: int) -> Iterator[PreparedSlices]:
    """One simulated slice (coils, y, x), to measure on where there are no data; gone on leaving.

    Raises:
        InputError: a size or number of coils that cannot be simulated or prepared.
    """
    with TemporaryDirectory() as folder:
        scans, prepared = Path(folder) / "scans", Path(folder) / "prepared"
        simulate_dataset(scans, volumes=1, slices=1, size=size, coils=coils, anatomy="head", progress=False)
        prepare(scans, prepared, PreparationSettings(), progress=False)
        yield PreparedSlices(prepared, settings.mask, seed=settings.seed)


def text_of(fits: Sequence[FittedMemory], gigabytes: float) -> str:
    """A table for the terminal: a row a trainer, its largest value and the parts in MB (1e6 bytes)."""
    one = "slice" if fits[0].vary == "batch" else "block"
    headings = ["method", f"largest {fits[0].vary}", "activations", f"a {one}", "fixed", "H, factor", "weights"]
    headings += ["optimizer", "process", "total", "measured"]
    rows = []
    for fit in fits:
        found = "any" if fit.largest is None else str(fit.largest) if fit.largest else "none"
        numbers = [fit.activations_mb, fit.each_mb, fit.fixed_mb, fit.gram_mb, fit.weights_mb, fit.optimizer_mb]
        numbers += [fit.process_mb, fit.total_mb, fit.measured_mb]
        rows.append([fit.method, found, *map(_megabytes, numbers)])
    notes = [
        "",
        f"MB of 1e6 bytes, {gigabytes:g} GB allowed. total = process + weights + optimizer + activations;",
        f"activations (gradients included): what a step makes and holds at most, a {one} times their number + fixed,",
        "and at the largest, where it was affordable, measured. H, factor: the share of a convex fit.",
        f"any: {MOST} and more; none: not one fits.",
    ]
    return "\n".join([*aligned([headings, *rows]), *notes])


def _megabytes(number: float | None) -> str:
    if number is None:
        return "–"
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}" if number >= 0.01 else "0"
