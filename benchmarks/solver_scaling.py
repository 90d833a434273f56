"""How our solver's time grows: against the arithmetic it cannot avoid, along a path, and with the pixels."""

import math
import time
from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from block_fit import product_seconds
from solver_cases import CASES, Case
from timed_trials import TARGET

from convexrecon.convex.program import ProgramSettings, program_path, solve_program
from convexrecon.training.profiler import Profile

Row = dict[str, Any]
RATIO = 0.1
PATH_VALUES = 20
PATH_END = 1e-3


def scaling(threads: int, skip: Collection[str], quick: bool) -> Iterator[tuple[str, list[Row]]]:
    """The tables that are wanted, by title; `quick` keeps to the first, of the small case."""
    torch.set_num_threads(threads)
    cases = [CASES["small"]] if quick else [CASES[name] for name in ("small", "medium", "wide, all pixels")]
    _solved(CASES["small"], RATIO)  # loads and warms libraries up
    if "floor" not in skip:
        yield f"Time over that of the packed product alone, beta {RATIO:g} beta_max", [floor(case) for case in cases]
    if "path" not in skip and not quick:
        title = f"A path of {PATH_VALUES} values down to {PATH_END:g} beta_max over one solve at its end"
        yield title, [path(case) for case in cases[:2]]
    if "growth" not in skip and not quick:
        yield "Growth with the pixels, slices made as they are read", growth(CASES["medium"], (1, 2, 4, 8, 16))


def _solved(case: Case, ratio: float, *, held: bool = True) -> tuple[float, Any]:
    """Wall seconds of one whole solve, and what it gave."""
    stream, gates = case.held() if held else case.stream, case.draw()
    started = time.perf_counter()
    found = solve_program(stream, gates, ProgramSettings(beta_ratio=ratio, constant=False, tolerance=TARGET))
    return time.perf_counter() - started, found


def floor(case: Case) -> Row:
    """Total time of a solve over that of its P (P + 1) / 2 x d (d + 1) / 2 multiply-adds a pixel."""
    product = product_seconds(case.gates, case.features, case.rows)
    seconds, found = _solved(case, RATIO)
    return {
        "case": case.name,
        "pixels": case.rows,
        "product s": product,
        "accumulate s": found.seconds_accumulate,
        "solve and certify s": found.seconds_solve,
        "total s": seconds,
        "ratio": seconds / product,
        "certified gap": found.solution.certificate.relative_gap,
    }


def path(case: Case) -> Row:
    """Time of a whole path over that of one solve at its last value, statistics included in both."""
    stream, gates = case.held(), case.draw()
    single, _ = _solved(case, PATH_END)
    started = time.perf_counter()
    program = ProgramSettings(constant=False, tolerance=TARGET)
    solutions = list(program_path(stream, gates, program))
    seconds = time.perf_counter() - started
    return {
        "case": case.name,
        "values": len(solutions),
        "path s": seconds,
        "one solve s": single,
        "ratio": seconds / single,
        "largest gap": max(solution.certificate.relative_gap for solution in solutions),
        "active gates at the end": solutions[-1].active_groups,
    }


def growth(case: Case, counts: Collection[int]) -> list[Row]:
    """Seconds and peak memory against n; the last row is the exponent of time fitted in the logarithms."""
    rows: list[Row] = []
    for count in counts:
        streamed = replace(case, slices=count)
        with Profile(torch.device("cpu")) as profile:
            seconds, _ = _solved(streamed, RATIO, held=False)
        rows.append({"pixels": streamed.rows, "s": seconds, "peak MB": profile.peak_memory_mb})
    exponent = np.polyfit([math.log(row["pixels"]) for row in rows], [math.log(row["s"]) for row in rows], 1)[0]
    return [*rows, {"pixels": "fitted exponent", "s": float(exponent), "peak MB": ""}]
