"""Runs of a solver in a process of their own: timed, certified outside the clock, and ended at a limit.

A package that cannot be interrupted is given increasing budgets (or decreasing tolerances), each from scratch;
one that calls back is certified on its way with the clock stopped. Either way the seconds to the gap are those
of the cheapest run that reaches it.
"""

import multiprocessing
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from solver_cases import Array, Arrays, Case

from convexrecon.convex.patches import pixel_chunks
from convexrecon.convex.program import ProgramSettings, certify_program, solve_program

# Relative certified gap at which a solver is done.
TARGET = 1e-4

# Our solver is run at larger tolerances too, for the figure, where that takes less than this.
CURVE_SECONDS = 30.0

# Making the arrays and compiling (numba) are not timed, but do not take longer than this.
PREPARATION_LIMIT = 900.0


class UnsuitableError(Exception):
    """Why a package is not run on a case."""


class ReachedError(Exception):
    """Raised out of a package's callback when there is nothing left to find out."""


class Stopwatch:
    """CPU seconds of all threads and wall seconds, while it runs."""

    def __init__(self) -> None:
        self.cpu = self.wall = 0.0
        self._resume()

    def _resume(self) -> None:
        self._cpu, self._wall = time.process_time(), time.perf_counter()

    def stop(self) -> None:
        """Add what has passed since it was started."""
        self.cpu += time.process_time() - self._cpu
        self.wall += time.perf_counter() - self._wall

    @contextmanager
    def paused(self) -> Iterator[None]:
        """The block does not count."""
        self.stop()
        yield
        self._resume()


@dataclass
class Trial:
    """One solver on one program: its clock, and what it found.

    Attributes:
        case: the program.
        beta: the strength.
        limit: wall seconds of a run.
        certified: weights (P, d) -> relative gap.
        send: where messages go, a kind and its content.
    """

    case: Case
    beta: float
    limit: float
    certified: Callable[[Array], float]
    send: Callable[[tuple[str, Any]], None]
    watch: Stopwatch = field(default_factory=Stopwatch)

    @contextmanager
    def timed(self) -> Iterator[Stopwatch]:
        """The clock of one run, from zero."""
        self.send(("started", None))
        self.watch = Stopwatch()
        yield self.watch
        self.watch.stop()

    def report(self, weights: npt.ArrayLike, effort: str) -> bool:
        """Certify what a run found; whether that, or its time, is enough. Call with the clock stopped."""
        found = np.asarray(weights, dtype=np.float64)
        gap = self.certified(found) if np.isfinite(found).all() else float("inf")
        self.send(("point", {"cpu": self.watch.cpu, "wall": self.watch.wall, "gap": gap, "effort": effort}))
        return gap <= TARGET or self.watch.wall > self.limit


# A package's adapter: arrays and settings -> what is timed. Preparing (building arrays, compiling) is not.
Solve = Callable[[Trial], None]
Adapter = Callable[[Arrays, dict[str, Any]], Solve]


@dataclass(frozen=True)
class Outcome:
    """What came of a solver on a program.

    Attributes:
        case, ratio: the program, by name and beta / beta_max.
        solver, variant: the package and its settings, by name.
        points: seconds, gap and effort of every run (or of every look at the one run).
        limit: wall seconds of a run.
        failure: why it was not run, or broke off, or None; running beyond the limit is no failure.
    """

    case: str
    ratio: float
    solver: str
    variant: str
    points: list[dict[str, Any]]
    limit: float
    failure: str | None = None

    @property
    def reached(self) -> dict[str, Any] | None:
        """The cheapest point within the target, by CPU seconds."""
        within = [point for point in self.points if point["gap"] <= TARGET]
        return min(within, key=lambda point: float(point["cpu"])) if within else None

    @property
    def best_gap(self) -> float | None:
        """The smallest gap that was seen."""
        return min((float(point["gap"]) for point in self.points), default=None)


@dataclass(frozen=True)
class Task:
    """A package with settings on a case, at several strengths; `adapter` None stands for our own solver."""

    case: Case
    ratios: tuple[float, ...]
    solver: str
    variant: str
    adapter: Adapter | None
    options: dict[str, Any]
    limit: float
    threads: int
    memory_gb: float


def outcomes(task: Task) -> Iterator[Outcome]:
    """Run a task; a new process each time that a run had to be ended at the limit."""
    pending = list(task.ratios)

    def outcome(points: list[dict[str, Any]], failure: str | None) -> Outcome:
        return Outcome(task.case.name, pending.pop(0), task.solver, task.variant, points, task.limit, failure)

    while pending:
        points: list[dict[str, Any]] = []
        for kind, content in _messages(task, tuple(pending)):
            if kind == "point":
                points.append(content)
            elif kind == "unsuitable":
                while pending:
                    yield outcome([], content)
                return
            elif kind in ("finished", "failed", "ended"):
                yield outcome(points, content)
                points = []


def _messages(task: Task, ratios: tuple[float, ...]) -> Iterator[tuple[str, Any]]:
    """What the process says, up to its end or to a run that goes beyond the limit."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(task, ratios, theirs), daemon=True)
    process.start()
    theirs.close()
    patience = PREPARATION_LIMIT
    try:
        while ours.poll(patience):
            try:
                message = ours.recv()
            except EOFError:
                process.join(10)
                break
            yield message
            if message[0] == "all finished":
                return
            # The clock of the run, and some leeway for callbacks, which end themselves, to do so.
            patience = task.limit * 1.1 + 5 if message[0] in ("started", "point") else PREPARATION_LIMIT
        yield "ended", None if process.is_alive() else f"its process ended ({process.exitcode})"
    finally:
        process.terminate()
        process.join()
        ours.close()


def _work(task: Task, ratios: tuple[float, ...], pipe: Connection) -> None:
    """In the process: prepare once, then every strength in turn."""
    torch.set_num_threads(task.threads)
    limit = int(task.memory_gb * 1e9)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    case, gates, stream = task.case, task.case.draw(), task.case.held()
    largest = beta_max(case)
    try:
        solve = _ours(case) if task.adapter is None else task.adapter(_checked_arrays(case), task.options)
    except (UnsuitableError, ImportError, MemoryError) as error:
        pipe.send(("unsuitable", _reason(error, task)))
        return
    for ratio in ratios:
        program = ProgramSettings(beta=ratio * largest, constant=False)

        def certified(weights: Array, program: ProgramSettings = program) -> float:
            tensor = torch.from_numpy(weights).view(case.gates, case.features, 1)
            assert program.beta is not None
            return certify_program(stream, gates, tensor, program.beta, program).relative_gap

        try:
            solve(Trial(case, ratio * largest, task.limit, certified, pipe.send))
        except Exception as error:  # whatever a package raises is a line of the table, not the end of the run
            pipe.send(("failed", _reason(error, task)))
        else:
            pipe.send(("finished", None))
    pipe.send(("all finished", None))


def _reason(error: Exception, task: Task) -> str:
    if isinstance(error, MemoryError):
        return f"out of memory ({task.memory_gb:g} GB)"
    if isinstance(error, ImportError):
        return f"not installed ({error})"
    text = " ".join(str(error).split())
    return text if isinstance(error, UnsuitableError) else f"{type(error).__name__}: {text[:200]}"


def beta_max(case: Case) -> float:
    """The smallest beta whose optimum is zero: max_g ||X^T D_g t / n||, in float64."""
    gates = case.draw()
    correlation = torch.zeros(case.gates, case.features, 1, dtype=torch.float64)
    for batch in case.stream():
        for chunk in pixel_chunks(batch, gates, False, torch.float64):
            correlation += chunk.adjoint(chunk.target)
    return float(correlation.flatten(1).norm(dim=1).max()) / case.rows


def _ours(case: Case) -> Solve:
    """`solve_program`, whole: statistics, solver, certificate on the data."""
    gates, stream = case.draw(), case.held()

    def run(trial: Trial, tolerance: float) -> bool:
        wanted = ProgramSettings(beta=trial.beta, constant=False, tolerance=tolerance)
        with trial.timed():
            found = solve_program(stream, gates, wanted)
        return trial.report(found.solution.weights.numpy(), f"tolerance {tolerance:g}")

    def solve(trial: Trial) -> None:
        any(run(trial, tolerance) for tolerance in (TARGET, TARGET / 3, TARGET / 10))
        if trial.watch.wall < CURVE_SECONDS:
            for tolerance in (1e-1, 1e-2, 1e-3):
                run(trial, tolerance)

    return solve


def _checked_arrays(case: Case) -> Arrays:
    """The arrays of a case.

    Raises:
        RuntimeError: ``1/(2n) ||sum_g D_g X W_g - t||^2`` of the arrays is not the program's objective.
    """
    arrays, gates = Arrays.of(case, case.draw()), case.draw()
    weights = 0.01 * torch.randn(case.gates, case.features, 1, generator=torch.Generator().manual_seed(2))
    responses = arrays.patches @ weights[..., 0].numpy().T
    loss = float(np.square((responses * arrays.open).sum(1) - arrays.target, dtype=np.float64).mean()) / 2
    negligible = ProgramSettings(beta=1e-30, constant=False)
    theirs = certify_program(case.held(), gates, weights.double(), 1e-30, negligible).objective
    if not abs(loss - theirs) <= 1e-5 * theirs:
        raise RuntimeError(f"arrays of {case.name}: objective {loss} where the program has {theirs}")
    return arrays
