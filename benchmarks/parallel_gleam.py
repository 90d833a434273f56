"""GLEAM on one rank and on several: seconds of an epoch, and what share of it each rank works.

Every rank has one thread. Epochs on one rank (the others sleep) and on all take turns, so that other work on the
machine slows both alike; the speed-up is the ratio of the shortest. Cores that are taken by other work hide it: the
ratio of CPU seconds, which does not count waiting, is therefore printed beside it. An epoch is what a run of
training does but for validation: slices read from disk, updates, and the gathering of weights and moments at its end.
Run:

    python benchmarks/parallel_gleam.py --ranks 2 --blocks 8 --units 32 --figure timeline.png
"""

import argparse
import json
import os
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from matplotlib.figure import Figure
from torch.multiprocessing.spawn import spawn

from convexrecon.data.dataset import PreparedSlices
from convexrecon.data.preparation import PreparationSettings, prepare
from convexrecon.data.simulation import simulate_dataset
from convexrecon.physics.masks import MaskSettings
from convexrecon.report.figures import COLOURS as HOUSE
from convexrecon.report.figures import clean_axes
from convexrecon.training.config import RunSettings
from convexrecon.training.descent import Descent, Portion
from convexrecon.training.descent_settings import DescentSettings, GleamSettings
from convexrecon.training.gleam import gleam
from convexrecon.training.model_settings import ModelSettings
from convexrecon.training.new_cascade import new_cascade
from convexrecon.training.parallel_gleam import parallel_gleam
from convexrecon.training.ranks import Ranks, joined_ranks
from convexrecon.training.step_clock import StepClock

CPU = torch.device("cpu")
COLOURS = {"data": HOUSE[6], "forward": HOUSE[0], "backward": HOUSE[1]}


class Timeline(StepClock):
    """A clock that keeps when each part began and ended, on the clock that all processes share."""

    def __init__(self) -> None:
        super().__init__(CPU)
        self.spans: list[tuple[str, float, float]] = []

    @contextmanager
    def _part(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        with super()._part(name):
            yield
        self.spans.append((name, started, time.perf_counter()))


@dataclass
class Epoch:
    """One rank's part of an epoch.

    Attributes:
        started: on the shared clock, seconds.
        seconds: from its begin to the gathered weights.
        cpu: seconds that the process computed, all its threads.
        spans: what the rank did when.
    """

    started: float
    seconds: float
    cpu: float
    spans: list[tuple[str, float, float]] = field(default_factory=list)

    @property
    def busy(self) -> float:
        """Share of the time in which the rank did not wait for another."""
        return sum(stop - start for _, start, stop in self.spans) / self.seconds


def run_epoch(descent: Descent, data: PreparedSlices) -> Epoch:
    """All slices once, one a batch."""
    clock, started, cpu = Timeline(), time.perf_counter(), time.process_time()
    for index in range(len(data)):
        with clock.data():
            batch = data.load(index)
        descent.step(Portion(batch), clock)
    descent.gather()
    return Epoch(started, time.perf_counter() - started, time.process_time() - cpu, clock.spans)


def settings(options: argparse.Namespace) -> RunSettings:
    """Of the cascade and its modules."""
    return RunSettings(
        method="gleam",
        mask=MaskSettings(kind="poisson", acceleration=4.0),
        model=ModelSettings(blocks=options.blocks, kernel=5, units=options.units),
        descent=DescentSettings(gleam=GleamSettings(options.modules)),
    )


def work(rank: int, port: int, folder: Path, options: argparse.Namespace) -> None:
    """One rank: epochs alone and together in turn; the first rank writes ``folder/../epochs.json``."""
    torch.set_num_threads(1)
    names = {"RANK": rank, "WORLD_SIZE": options.ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in names.items()}
    run = settings(options)
    data = PreparedSlices(folder, run.mask)
    with joined_ranks(CPU) as (ranks, _):
        alone = gleam(new_cascade(run), run.descent, Ranks())
        together = parallel_gleam(new_cascade(run), run.descent, ranks)
        singles: list[Epoch] = []
        shared: list[list[Epoch]] = []
        for repeat in range(options.repeats + 1):
            if ranks.is_lead:
                singles.append(run_epoch(alone, data))
            ranks.wait()
            shared.append(gathered(run_epoch(together, data), ranks))
            if repeat == 0:  # what is loaded and allocated the first time
                singles.clear()
                shared.clear()
        # Threads of gloo let go of what was gathered only now: at the end of the process they could no longer.
        ranks.wait()
    if ranks.is_lead:
        every = {"singles": [asdict(e) for e in singles], "shared": [[asdict(e) for e in all_] for all_ in shared]}
        (folder.parent / "epochs.json").write_text(json.dumps(every))


def measured(options: argparse.Namespace) -> tuple[list[Epoch], list[list[Epoch]]]:
    """Simulate, then epochs on one rank, and epochs on all: of each the parts of all ranks."""
    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        scans, prepared = Path(folder) / "scans", Path(folder) / "prepared"
        size = (options.size, options.size)
        simulate_dataset(scans, volumes=1, slices=options.slices, size=size, coils=options.coils, progress=False)
        prepare(scans, prepared, PreparationSettings(), progress=False)
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        spawn(work, args=(port, prepared, options), nprocs=options.ranks)
        found = json.loads((Path(folder) / "epochs.json").read_text())
    singles = [Epoch(**entry) for entry in found["singles"]]
    return singles, [[Epoch(**entry) for entry in entries] for entries in found["shared"]]


def shortest(shared: list[list[Epoch]]) -> list[Epoch]:
    """The epoch on all ranks whose slowest rank was the fastest."""
    return min(shared, key=lambda ranks: max(epoch.seconds for epoch in ranks))


def gathered(epoch: Epoch, ranks: Ranks) -> list[Epoch]:
    """The epochs of all ranks."""
    every: list[Any] = [None] * ranks.count
    dist.all_gather_object(every, epoch)
    return every


def report(singles: list[Epoch], shared: list[list[Epoch]], options: argparse.Namespace) -> None:
    """Print the table, draw the timeline of the shortest epoch on all ranks."""
    one, best = min(singles, key=lambda e: e.seconds), shortest(shared)
    many, spread = max(epoch.seconds for epoch in best), [max(e.seconds for e in all_) for all_ in shared]
    alone = min(epoch.cpu for epoch in singles)
    busiest = min(max(epoch.cpu for epoch in all_) for all_ in shared)
    print(
        f"{options.blocks} blocks, {options.units} units, {options.size} x {options.size}, {options.coils} coils, "
        f"{options.slices} slices, {options.repeats} epochs each; load of the machine {os.getloadavg()[0]:.1f}"
    )
    print(f"1 rank : {one.seconds:.2f} s (longest {max(e.seconds for e in singles):.2f}), CPU {alone:.2f} s")
    print(f"{options.ranks} ranks: {many:.2f} s (longest {max(spread):.2f}), CPU of the busiest {busiest:.2f} s")
    print(f"speed-up {one.seconds / many:.2f}; no more than {ideal(options):.2f} for {options.slices} batches")
    print(f"CPU seconds of one rank over those of the busiest of {options.ranks}: {alone / busiest:.2f}")
    for rank, epoch in enumerate(best):
        print(f"rank {rank}: busy {epoch.busy:.0%}, on a core {epoch.cpu / epoch.seconds:.0%} of {epoch.seconds:.2f} s")


def ideal(options: argparse.Namespace) -> float:
    """Speed-up of equal shares without any cost of passing on: the last rank starts R - 1 batches late."""
    return float(options.slices * options.ranks / (options.slices + options.ranks - 1))


def timeline(epochs: list[Epoch]) -> Figure:
    """A bar a rank: what it did when; gaps are waiting."""
    figure = Figure(figsize=(9, 0.9 + 0.6 * len(epochs)), layout="constrained")
    axes = figure.subplots()
    origin = min(epoch.started for epoch in epochs)
    for rank, epoch in enumerate(epochs):
        for name, colour in COLOURS.items():
            bars = [(start - origin, stop - start) for part, start, stop in epoch.spans if part == name]
            axes.broken_barh(bars, (rank - 0.4, 0.8), color=colour, label=name if rank == 0 else None)
    axes.set(yticks=range(len(epochs)), ylabel="rank", xlabel="seconds")
    axes.set_title(", ".join(f"rank {rank} busy {epoch.busy:.0%}" for rank, epoch in enumerate(epochs)))
    clean_axes(axes)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return figure


def main() -> None:
    """Simulate, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {
        "ranks": 2, "blocks": 8, "units": 32, "modules": 0, "size": 160, "coils": 8, "slices": 16, "repeats": 5,
    }.items():  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--figure", type=Path, help="picture of the timeline")
    options = parser.parse_args()
    singles, shared = measured(options)
    report(singles, shared, options)
    if options.figure:
        timeline(shortest(shared)).savefig(options.figure)


if __name__ == "__main__":
    main()
