"""What is written down of a convex block: its certificate, how it was solved, and a line for a person."""

import dataclasses
from typing import Any

from convexrecon.convex.gate_growth import GrownSolution
from convexrecon.convex.program import BlockSolution
from convexrecon.training.config import RunSettings
from convexrecon.training.shortfall import shortfall

Record = dict[str, Any]


def records_summary(records: list[Record]) -> Record:
    """What the run came to, under the keys that every method's summary has."""
    return {
        "method": "convex",
        "blocks": records,
        "psnr_validation": records[-1]["psnr_validation"] if records else None,
        "training_seconds": sum(record["seconds"] for record in records),
        "peak_memory_mb": max((record["peak_memory_mb"] for record in records), default=0.0),
        "activations_mb": max((record.get("activations_mb") or 0.0 for record in records), default=0.0),
    }


def block_record(index: int, solved: BlockSolution, lam: float | None, settings: RunSettings) -> Record:
    """What solving its program came to.

    Args:
        index: of the block, from 0.
        solved: its program.
        lam: its weight of data consistency, None if it has none.
        settings: of the run.
    """
    certificate, program = solved.solution.certificate, settings.convex.program
    return {
        "block": index + 1,
        "objective": certificate.objective,
        "bound": certificate.bound,
        "relative_gap": certificate.relative_gap,
        "tolerance": program.tolerance,
        "converged": solved.solution.converged,
        "shortfall": shortfall(index + 1, solved, program),
        "beta": solved.solution.beta,
        "beta_max": solved.beta_max,
        "active_gates": solved.solution.active_groups,
        "gates": len(solved.gates),
        "units": settings.model.units,
        "lam": lam,
        "pixels": solved.pixels,
        "iterations": solved.solution.iterations,
        "matrix_free": solved.matrix_free,
        "method": solved.method.name,
        "method_reason": solved.method.reason,
        "seconds_accumulate": solved.seconds_accumulate,
        "seconds_solve": solved.seconds_solve,
    }


def growth_record(grown: GrownSolution, loss: str) -> Record:
    """What the growth did and, where the block was solved for its loss, what the last search found."""
    record: Record = {
        "growth": [dataclasses.asdict(step) for step in grown.rounds],
        "growth_stopped_by": grown.stopped_by,
        "seconds_search": grown.seconds_search,
    }
    return record | (dataclasses.asdict(grown.search) if loss == "image" else {})


def described(record: Record, blocks: int) -> str:
    """A line on a block, one of so many, for a person."""
    validation = record["psnr_validation"]
    lam = record["lam"]
    return (
        f"block {record['block']}/{blocks}: gap {record['relative_gap']:.1e}"
        + ("" if record["converged"] else f" (asked for {record['tolerance']:g})")
        + ", "
        f"{record['active_gates']}/{record['gates']} gates, "
        + (f"lam {lam:.3g}, " if lam is not None else "")
        + f"PSNR train {record['psnr_train']:.2f} dB"
        + (f", validation {validation:.2f} dB" if validation is not None else "")
        + f", {record['seconds']:.1f} s, {record['peak_memory_mb']:.0f} MB"
    )
