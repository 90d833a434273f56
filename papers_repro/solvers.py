"""Public convex-network solvers (SCNN, ICML 2022; CRONOS, NeurIPS 2024; conic ones): time to a certified optimum.

    python papers_repro/solvers.py --out DIR

The program of a gated denoiser, by this library's solver, by accelerated proximal gradient with restarts, which needs
no package, and by the packages of the extra `compare` that are installed; the others' rows say so. A stopped run
continues. Every gap is measured by this library, in float64 on the data, outside the clock. Data are simulated patches.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

# The libraries read these when they are loaded, in the processes that are started.
os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")

import benchmark_scripts as benchmark_scripts
import numpy as np
from cells import cell
from claims import Claim, Rule
from command_line import Given, parsed, run_script, script_parser
from plots import Panel, Series, line_panels
from public_solvers import BEST, SETTINGS
from results import write_paper
from solver_cases import CASES
from timed_trials import TARGET, Outcome, Task, beta_max, outcomes

from convexrecon.convex.sufficient_statistics import accumulate
from convexrecon.errors import InputError
from convexrecon.report.html import Picture
from convexrecon.solvers.penalties import penalty_named
from convexrecon.solvers.proximal_gradient import proximal_gradient

CITATION = (
    "A. Mishkin, A. Sahiner, M. Pilanci: Fast Convex Optimization for Two-Layer ReLU Networks, ICML 2022, arXiv "
    "2202.01331 (SCNN, R-FISTA). M. Feng, Z. Frangella, M. Pilanci: CRONOS, NeurIPS 2024, arXiv 2411.01088."
)
OURS = "convexrecon"
# Packages at their best settings; the interior-point solver also on the program as it is stated.
VARIANTS = ((OURS, "default"), *BEST.items(), ("Clarabel", "default"))
TOLERANCES = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4)


@dataclass(frozen=True)
class Scale:
    """How large: programs, strengths, wall seconds of a run, and memory of a process in GB."""

    cases: tuple[str, ...]
    ratios: tuple[float, ...]
    limit: float
    memory_gb: float = 20.0


SCALES = {
    "tiny": Scale(("tiny",), (0.1,), 3.0),
    "synthetic": Scale(("little",), (0.1, 0.01), 20.0),
    "full": Scale(("small", "medium", "wide"), (0.3, 0.1, 0.01), 120.0),
}


def trials(given: Given, scale: Scale) -> list[Outcome]:
    """Every case by every solver at every strength, packages at their best settings."""
    found: list[Outcome] = []
    for name in scale.cases:
        for solver, variant in VARIANTS:
            adapter, options = (None, {}) if solver == OURS else (SETTINGS[solver][0], SETTINGS[solver][1][variant])
            task = Task(CASES[name], scale.ratios, solver, variant, adapter, options, scale.limit, 1, scale.memory_gb)
            settings = {"case": name, "ratios": scale.ratios, "limit": scale.limit, "variant": variant}
            file = f"{name} {solver} {variant}".replace(", ", "_").replace(" ", "_")
            entries = cell(given.out / "cells", file, settings, partial(_run, task))
            found += [Outcome(**entry) for entry in entries]
    return found


def _run(task: Task) -> list[dict[str, Any]]:
    return [asdict(outcome) for outcome in outcomes(task)]


def iterations(given: Given, scale: Scale) -> list[int]:
    """Of accelerated proximal gradient with restarts by gap, at the first case and the weakest strength."""
    case, ratio = CASES[scale.cases[0]], min(scale.ratios)

    def measure() -> list[int]:
        quadratic = accumulate(case.stream(), case.draw(), constant=False).quadratic()
        beta, penalty = ratio * beta_max(case), penalty_named("group_lasso")
        return [
            proximal_gradient(quadratic, penalty, beta, tolerance=gap, check_every=1).iterations for gap in TOLERANCES
        ]

    settings = {"case": case.name, "ratio": ratio, "gaps": TOLERANCES}
    counts: list[int] = cell(given.out / "cells", "iterations", settings, measure)
    return counts


def exponent(counts: Sequence[int]) -> float:
    """p of iterations ~ gap^-p, by least squares on logarithms.

    >>> round(exponent([int(1000 * gap**-0.5) for gap in TOLERANCES]), 2)
    0.5
    """
    slope, _ = np.polyfit(-np.log(TOLERANCES), np.log(np.maximum(counts, 1)), 1)
    return float(slope)


def ratio_claims(found: Sequence[Outcome]) -> list[Claim]:
    """A row a solver: its times over ours, a value a program."""
    ours = {(o.case, o.ratio): o.reached for o in found if o.solver == OURS}
    claims = []
    for name in dict.fromkeys(_name(outcome) for outcome in found if outcome.solver != OURS):
        mine = [outcome for outcome in found if _name(outcome) == name]
        values, words, failures = [], [], []
        for outcome in mine:
            program = f"{outcome.case}, {outcome.ratio:g} beta_max"
            own, reached = ours[outcome.case, outcome.ratio], outcome.reached
            if reached is not None and own is not None:
                values.append(float(reached["cpu"] / own["cpu"]))
                words.append(f"{program}: {reached['cpu']:.2f} s against {own['cpu']:.2f} s")
            elif outcome.failure:
                failures.append(outcome.failure)
            else:
                gap = "" if outcome.best_gap is None else f" at a gap of {outcome.best_gap:.1e}"
                words.append(f"{program}: ended after {outcome.limit:g} s{gap}")
        reason = failures[0] if failures else "no time of it for these programs is published"
        claims.append(
            Claim(
                f"the CPU time of {name} to a gap of {TARGET:g} over that of this library",
                "no time for programs of this kind",
                "what could be read of the packages' papers",
                tuple(values), "times", ".3g", "; ".join([f"settings {mine[0].variant!r}, one thread", *words]),
                Rule("not comparable", reason=reason),
            )
        )  # fmt: skip
    return claims


def paper_claims(found: Sequence[Outcome], counts: Sequence[int]) -> list[Claim]:
    """What the SCNN paper says of its own method, by our R-FISTA and Clarabel."""
    rate = Claim(
        "the exponent p of R-FISTA's iterations ~ gap^-p",
        "0.5: O(1/sqrt(gap)) iterations",
        "an account of the SCNN paper by others",
        (exponent(counts),),
        "",
        ".2f",
        f"gaps of {max(TOLERANCES):g} to {min(TOLERANCES):g}, restarts of O'Donoghue and Candes",
        Rule("at most", 0.5, "faster convergence bears out a bound"),
    )
    interior = {(o.case, o.ratio): _seconds(o) for o in found if (o.solver, o.variant) == ("Clarabel", "default")}
    ratios = []
    for outcome in found:
        first, second = _seconds(outcome), interior.get((outcome.case, outcome.ratio))
        if outcome.solver == "R-FISTA" and first is not None and second is not None:
            ratios.append(second / first)
    faster = Claim(
        "the time of an interior-point solver over that of R-FISTA",
        "above 1: faster than commercial interior-point methods",
        "the abstract of the SCNN paper",
        tuple(ratios),
        "times",
        ".3g",
        "Clarabel by cvxpy on the program as stated, or the time it was given; one value a program",
        Rule("at least", 1.0) if ratios else Rule("not comparable", reason="R-FISTA or Clarabel did not run"),
    )
    return [rate, faster]


def _seconds(outcome: Outcome) -> float | None:
    """Wall seconds to the gap, or those that it was given; None where it did not run."""
    if outcome.reached is not None:
        return float(outcome.reached["wall"])
    return None if outcome.failure else outcome.limit


def figure(found: Sequence[Outcome], counts: Sequence[int], scale: Scale) -> Picture:
    """Gap over time for every solver, and iterations over the gap."""
    panels = []
    for name in scale.cases:
        for ratio in scale.ratios:
            lines = {}
            for outcome in found:
                points = sorted((p["cpu"], p["gap"]) for p in outcome.points if 0 < p["gap"] < math.inf)
                if (outcome.case, outcome.ratio) == (name, ratio) and points:
                    best = np.minimum.accumulate([gap for _, gap in points]).tolist()
                    lines[_name(outcome)] = Series([max(seconds, 1e-3) for seconds, _ in points], [best])
            panels.append(Panel(f"{name}, {ratio:g} β_max", lines, "CPU time (s)", "certified gap", True, True))
    line = {"R-FISTA": Series(TOLERANCES, [[float(count) for count in counts]])}
    panels.append(Panel("iterations of R-FISTA", line, "gap", "iterations", True, True))
    missing = sorted({_name(o) for o in found if not o.points})
    note = f" Without a line: {', '.join(missing)}." if missing else ""
    return Picture(
        line_panels(panels),
        f"Smallest certified gap, relative to the objective at zero, against CPU time of one thread ({OURS}: this "
        f"library); and what a smaller gap costs R-FISTA.{note}",
    )


def _name(outcome: Outcome) -> str:
    return "Clarabel, as stated" if (outcome.solver, outcome.variant) == ("Clarabel", "default") else outcome.solver


def report(given: Given, scale: Scale) -> None:
    """Table and figure."""
    found, counts = trials(given, scale), iterations(given, scale)
    absent = sorted({o.solver for o in found if o.failure and "not installed" in o.failure})
    own = [o.reached["cpu"] for o in found if o.solver == OURS and o.reached]
    sizes = [CASES[name] for name in scale.cases]
    programs = [f"“{c.name}” of {c.rows:,} pixels, {c.kernel} x {c.kernel}, {c.gates} gates" for c in sizes]
    notes = [
        "One convex program, the gated denoiser with group lasso and one output, given to every solver with the same "
        f"gates. A solver is done at a gap of {TARGET:g} of the objective at zero, measured by this library in float64 "
        "on the data, the clock stopped. This library's time is all of it, statistics and certificate too: "
        f"{', '.join(f'{seconds:.2f} s' for seconds in own)}. Preparations of the packages are not counted. "
        f"Programs: {', '.join(programs)}.",
    ]
    if absent:
        notes.append(f"Not installed here, with `pip install convexrecon[compare]` they are run: {', '.join(absent)}.")
    write_paper(
        given.out,
        title="Convex-network solvers (ICML 2022, NeurIPS 2024)",
        citation=CITATION,
        command="python papers_repro/solvers.py --out DIR",
        notes=notes,
        claims=[*paper_claims(found, counts), *ratio_claims(found)],
        figures={"convergence": figure(found, counts, scale)},
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing, write the table."""
    parser = script_parser(__doc__)
    parser.add_argument("--full", action="store_true", help="the programs of benchmarks/README.md, some hours")
    given = parsed(parser, arguments)
    if given.data != "synthetic":
        raise InputError("--data: these programs are of simulated patches; expected synthetic; --full for more")
    report(given, SCALES["full"] if given.rest.full else SCALES[given.size])
    print((given.out / "table.md").read_text())


if __name__ == "__main__":
    run_script(main)
