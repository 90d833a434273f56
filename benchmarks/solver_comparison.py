"""Time to a certified optimum: our solver against the public ones, on the same programs, machine and threads.

    python benchmarks/solver_comparison.py --out FOLDER            tables (Markdown, JSON) and convergence.png
    python benchmarks/solver_comparison.py --out FOLDER --quick    the small case, one strength, under two minutes
    python benchmarks/solver_comparison.py --out FOLDER --search   all settings of all packages on the small case

The packages are the extra `compare` (pip install -e '.[compare]'); what is not installed is a line of the table.
"""

import argparse
import importlib.metadata
import json
import os
import platform
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

# The libraries read these when they are loaded, in this process and in those that it starts.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
PACKAGES = ("torch", "numpy", "pyscnn", "skglm", "celer", "cvxpy", "clarabel", "scs")

QUICK_LIMIT = 5.0
OUR_LIMIT = 3600.0
MEASURED = ("small", "medium", "wide", "wide, all pixels")
RATIOS = (0.3, 0.1, 0.01)


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cases", nargs="*", help="some of the cases, also tiny and little; the others if left out")
    parser.add_argument("--solvers", nargs="*", help="some of the packages; all if left out")
    parser.add_argument("--variants", nargs="*", help="settings by name, in place of the default and the best ones")
    parser.add_argument("--ratios", nargs="*", type=float, default=RATIOS, help="beta / beta_max")
    parser.add_argument("--limit", type=float, default=120.0, help="wall seconds of one run, or twice ours if more")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--memory", type=float, default=20.0, help="GB of address space a process may have")
    parser.add_argument("--skip", nargs="*", default=(), choices=("comparison", "floor", "path", "growth"))
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--quick", action="store_true")
    how.add_argument("--search", action="store_true")
    return parser.parse_args()


def main() -> None:
    """Run what is asked for; the files are written anew after every solver, so that nothing is lost."""
    given = options()
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(given.threads)))
    if given.threads == 1:
        os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    import solver_report
    from solver_scaling import scaling

    given.out.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {"conditions": conditions(given), "outcomes": [], "scaling": {}}
    if "comparison" not in given.skip:
        for outcome in comparison(given):
            results["outcomes"].append(asdict(outcome))
            print(solver_report.line(outcome), flush=True)
            write(results, given.out)
    if not given.search:
        for name, rows in scaling(given.threads, given.skip, given.quick):
            results["scaling"][name] = rows
            write(results, given.out)
    print((given.out / "solvers.md").read_text())


def comparison(given: argparse.Namespace) -> Iterator[Any]:
    """Every case, every package as it comes and at its best settings, every strength."""
    from public_solvers import BEST, SETTINGS
    from solver_cases import CASES
    from timed_trials import Task, outcomes

    small = given.quick or given.search
    names = ("small",) if small else given.cases or MEASURED
    ratios = (0.1,) if small else tuple(given.ratios)
    limit = min(given.limit, QUICK_LIMIT) if given.quick else given.limit
    for name in names:
        case = CASES[name]
        how = (given.threads, given.memory)
        longest = 0.0
        for outcome in outcomes(Task(case, ratios, "convexrecon", "default", None, {}, OUR_LIMIT, *how)):
            longest = max(longest, outcome.reached["wall"] if outcome.reached else 0.0)
            yield outcome
        # Nothing is ended before it had twice as long as ours.
        common = (limit if given.quick else max(limit, 2 * longest), *how)
        for package in given.solvers or SETTINGS:
            adapter, variants = SETTINGS[package]
            if not case.public:
                continue
            wanted = [BEST[package]] if given.quick else ["default", BEST[package]]
            for variant in given.variants or (variants if given.search else dict.fromkeys(wanted)):
                yield from outcomes(Task(case, ratios, package, variant, adapter, variants[variant], *common))


def conditions(given: argparse.Namespace) -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "machine": platform.machine(),
        "python": platform.python_version(),
        "threads": given.threads,
        "limit": given.limit,
        "versions": {package: version(package) for package in PACKAGES},
    }


def version(package: str) -> str:
    """Of an installed package."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def write(results: dict[str, Any], folder: Path) -> None:
    """The JSON, the Markdown and the figure, of what there is so far."""
    import solver_report

    (folder / "solvers.json").write_text(json.dumps(results, indent=1))
    (folder / "solvers.md").write_text(solver_report.markdown(results))
    if results["outcomes"]:
        solver_report.draw(results["outcomes"], folder / "convergence.png")


if __name__ == "__main__":
    main()
