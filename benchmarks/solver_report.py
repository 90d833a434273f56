"""Tables and figure of `solver_comparison.py`."""

from itertools import accumulate
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from solver_cases import CASES
from timed_trials import TARGET, Outcome

# Okabe and Ito's colours, and a marker each for those who see none of them.
STYLES = {
    "convexrecon": ("#000000", "o"),
    "R-FISTA": ("#555555", "*"),
    "SCNN": ("#E69F00", "s"),
    "skglm": ("#56B4E9", "^"),
    "celer": ("#009E73", "v"),
    "Clarabel": ("#CC79A7", "D"),
    "SCS": ("#D55E00", "P"),
    "CRONOS": ("#0072B2", "X"),
}


def line(outcome: Outcome) -> str:
    """One outcome as text."""
    name = f"{outcome.case}, beta {outcome.ratio:g}, {outcome.solver} ({outcome.variant})"
    why = outcome.reached["effort"] if outcome.reached else outcome.failure
    return f"{name}: {cell(outcome)}" + (f" ({why})" if why else "")


def cell(outcome: Outcome) -> str:
    """CPU and wall seconds to the target, or how far it came."""
    reached = outcome.reached
    if reached is not None:
        return f"{reached['cpu']:.2f} / {reached['wall']:.2f}"
    if outcome.failure and not outcome.points:
        return "not run"
    within = "" if outcome.best_gap is None else f", gap {outcome.best_gap:.1e}"
    return ("broke off" if outcome.failure else f"> {outcome.limit:.0f}") + within


def markdown(results: dict[str, Any]) -> str:
    """All tables."""
    found = [Outcome(**outcome) for outcome in results["outcomes"]]
    under = results["conditions"]
    versions = ", ".join(f"{name} {version}" for name, version in under["versions"].items())
    parts = [f"Python {under['python']}, {versions}; {under['threads']} thread(s), limit {under['limit']:g} s a run."]
    if found:
        parts.append(f"CPU / wall seconds to a certified gap of {TARGET:g} P(0):")
        parts.extend(_table([o for o in found if o.case == case]) for case in dict.fromkeys(o.case for o in found))
        parts.append(_notes(found))
    for name, rows in results["scaling"].items():
        parts.append(f"{name}:")
        parts.append(table(list(rows[0]), [[_number(value) for value in row.values()] for row in rows]))
    return "\n\n".join(part for part in parts if part) + "\n"


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _number(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.1e}" if 0 < abs(value) < 1e-2 else f"{value:.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _table(outcomes: list[Outcome]) -> str:
    ratios = sorted({outcome.ratio for outcome in outcomes}, reverse=True)
    rows = []
    for solver, variant in dict.fromkeys((outcome.solver, outcome.variant) for outcome in outcomes):
        of = {o.ratio: o for o in outcomes if (o.solver, o.variant) == (solver, variant)}
        cells = [cell(of[ratio]) if ratio in of else "" for ratio in ratios]
        rows.append([solver, variant, *cells])
    return table([outcomes[0].case, "settings", *(f"beta {ratio:g} beta_max" for ratio in ratios)], rows)


def _notes(outcomes: list[Outcome]) -> str:
    """Why something was not run or broke off, once each."""
    notes = {f"- {o.solver} ({o.variant}), {o.case}: {o.failure}": None for o in outcomes if o.failure}
    return "\n".join(("Not run, or broken off:\n", *notes)) if notes else ""


def draw(outcomes: list[dict[str, Any]], path: Path) -> None:
    """Best certified gap so far against CPU seconds, a panel per case, at the strength in the middle."""
    found = [Outcome(**outcome) for outcome in outcomes]
    cases = [case for case in dict.fromkeys(outcome.case for outcome in found) if CASES[case].public]
    ratios = sorted({outcome.ratio for outcome in found})
    ratio = ratios[len(ratios) // 2]
    width = 4.2 * max(len(cases), 2) + 0.6
    figure, axes = plt.subplots(1, len(cases), figsize=(width, 4.8), squeeze=False, sharey=True)
    for axis, name in zip(axes[0], cases, strict=True):
        _panel(axis, [o for o in found if o.case == name and o.ratio == ratio])
        case = CASES[name]
        size = f"{case.rows:,} pixels, {case.kernel} x {case.kernel}, {case.gates} gates"
        axis.set_title(f"{name}: {size}\n$\\beta$ = {ratio:g} $\\beta_{{\\max}}$", fontsize=10)
    axes[0, 0].set_ylabel("best certified gap so far, relative to P(0)")
    handles: dict[str, Any] = {}
    for axis in axes[0]:
        handles.update({text: handle for handle, text in zip(*axis.get_legend_handles_labels(), strict=True)})
    columns = 2 * len(axes[0]) if len(axes[0]) > 1 else 4
    figure.legend(handles.values(), handles.keys(), loc="lower center", ncols=columns, frameon=False, fontsize=8)
    lines = -(-len(handles) // columns)
    figure.tight_layout(rect=(0, 0.02 + 0.045 * lines, 1, 1))
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _panel(axis: Any, outcomes: list[Outcome]) -> None:
    for outcome in outcomes:
        points = sorted((p["cpu"], p["gap"]) for p in outcome.points if 0 < p["gap"] < float("inf"))
        if not points:
            continue
        seconds, gaps = zip(*points, strict=True)
        color, marker = STYLES[outcome.solver]
        default = outcome.variant == "default" and outcome.solver != "convexrecon"
        axis.plot(
            seconds,
            list(accumulate(gaps, min)),
            color=color,
            marker=marker,
            markersize=5,
            # The last point always has its marker.
            markevery=range(len(gaps) - 1, -1, -max(1, len(gaps) // 8)),
            linewidth=1 if default else 2,
            linestyle="--" if default else "-",
            markerfacecolor="white" if default else color,
            label=outcome.solver + (f", {outcome.variant}" if outcome.solver != "convexrecon" else ""),
        )
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.axhline(TARGET, color="0.5", linewidth=0.8, linestyle=":")
    axis.set_xlabel("CPU time (s)")
    axis.grid(which="major", color="0.92")
    axis.spines[["top", "right"]].set_visible(False)
