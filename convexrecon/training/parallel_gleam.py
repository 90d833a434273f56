"""GLEAM on several ranks: each has a run of consecutive modules, and batches pass from rank to rank."""

from collections import deque
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from convexrecon.cascade import Block, Cascade
from convexrecon.errors import InputError
from convexrecon.training.descent import Descent, Portion, parameters_of
from convexrecon.training.descent_settings import DescentSettings
from convexrecon.training.gleam import GreedyModules, module_optimizers, split_evenly, split_modules
from convexrecon.training.ranks import Ranks
from convexrecon.training.step_clock import StepClock

# Images that may be under way to the next rank: enough to even out batches of unlike size, few enough to hold.
AHEAD = 4


def parallel_gleam(model: Cascade, options: DescentSettings, ranks: Ranks) -> Descent:
    """`gleam` with modules m_r .. m_{r+1} - 1 on rank r: the same weights, as no module ever waits for a gradient.

    For every batch, a rank receives the image of the rank before, updates its modules, and sends on the output
    before the last one's step. All ranks work at the same time, on batches that follow one another: rank 0 is
    ahead of the last by the number of ranks, and by `AHEAD` more at most. Runs of consecutive modules pass one
    image a batch and rank; with module m on rank m mod R there would be one a module, and rank 0 would have to
    wait for the last before it could go on with its second module of the same batch. Data are read by every rank.

    Each rank's loss is that of the final image, so zero on all but the last. Ozturkler et al., GLEAM,
    arXiv 2207.08393 (2022), section on parallel modules.

    Raises:
        InputError: more modules than blocks, or more ranks than modules.
    """
    modules = split_modules(model, options.gleam.modules)
    if ranks.count > len(modules):
        raise InputError(
            f"gleam: {ranks.count} ranks and {len(modules)} modules; "
            "expected at most as many ranks (torchrun --nproc-per-node) as modules (gleam.modules)"
        )
    optimizers = module_optimizers(modules, options)
    owners = [rank for rank, run in enumerate(split_evenly(modules, ranks.count)) for _ in run]
    mine = [number for number, owner in enumerate(owners) if owner == ranks.rank]
    greedy = GreedyModules([modules[m] for m in mine], [optimizers[m] for m in mine], options)
    is_last = ranks.rank == ranks.count - 1
    # Not computed where no block sees it: with conjugate gradients it costs as much as a block.
    needs_initial = ranks.is_lead or any("initial" in block.inputs for module in greedy.modules for block in module)
    outbox = _Outbox(ranks)

    def step(portion: Portion, clock: StepClock) -> float:
        batch = portion.batch
        with clock.forward():
            adjoint = batch.sense.adjoint(batch.kspace)
            initial = model.start(batch.sense, adjoint) if needs_initial else adjoint
        image = initial if ranks.is_lead else _received(batch.target, ranks)
        output, loss = greedy.descend(image, portion, adjoint, initial, clock)
        if is_last:
            return float(loss)
        outbox.put(output)
        return 0.0

    def gather() -> None:
        outbox.drain()
        for owner, module, optimizer in zip(owners, modules, optimizers, strict=True):
            _spread_module(module, owner, ranks)
            _spread_adam(optimizer, owner, ranks)

    return Descent(optimizers, step, splits_batches=False, gather=gather)


def _received(like: Tensor, ranks: Ranks) -> Tensor:
    """The image of the rank before, of the shape of `like`."""
    parts = torch.empty_like(torch.view_as_real(like), memory_format=torch.contiguous_format)
    ranks.receive(parts, ranks.rank - 1)
    return torch.view_as_complex(parts)


class _Outbox:
    """Images under way to the next rank, held until they have arrived."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._waits: deque[Callable[[], None]] = deque()

    def put(self, image: Tensor) -> None:
        """Send an image; waits for the first one where `AHEAD` are under way."""
        while len(self._waits) >= AHEAD:
            self._waits.popleft()()
        self._waits.append(self._ranks.send(torch.view_as_real(image).contiguous(), self._ranks.rank + 1))

    def drain(self) -> None:
        """Wait for all of them."""
        while self._waits:
            self._waits.popleft()()


def _spread_module(module: Sequence[Block], owner: int, ranks: Ranks) -> None:
    """Overwrite a module's weights by its owner's."""
    for block in module:
        ranks.broadcast(block.state_dict().values(), owner)


def _spread_adam(optimizer: torch.optim.Optimizer, owner: int, ranks: Ranks) -> None:
    """Overwrite Adam's moments and step counts by the owner's; other ranks may not have any yet."""
    parameters = parameters_of(optimizer)
    if not parameters:
        return
    counts = [float(optimizer.state[p].get("step", -1.0)) for p in parameters]
    steps = torch.tensor(counts, dtype=torch.float64, device=parameters[0].device)
    ranks.broadcast([steps], owner)
    for parameter, count in zip(parameters, steps.tolist(), strict=True):
        if count < 0:  # no gradient has reached it
            optimizer.state.pop(parameter, None)
            continue
        entry = optimizer.state[parameter]
        if ranks.rank != owner:
            entry["step"] = torch.tensor(count, dtype=torch.float32)
            for name in ("exp_avg", "exp_avg_sq"):
                entry.setdefault(name, torch.zeros_like(parameter, requires_grad=False))
        ranks.broadcast([entry["exp_avg"], entry["exp_avg_sq"]], owner)
