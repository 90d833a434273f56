"""Memory-efficient learning (Kellman et al. 2020, Wang et al. 2021): cost and error against unrolls, and quality.

    python papers_repro/mel2021.py --out DIR
    python papers_repro/mel2021.py --out DIR --data mridata FOLDER

One training step by backpropagation, checkpointing, inversion alone and inversion with sparse checkpoints, against the
number of unrolled blocks; then what more blocks in the same memory are worth. A stopped run continues.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean

import benchmark_scripts as benchmark_scripts
from cells import cell
from claims import Claim, Rule
from command_line import Given, parsed, run_script, script_parser
from plots import Panel, Series, line_panels
from results import write_paper
from reversible import METHODS, measure, network
from scans import DataSets, Scans, data_sets
from scored_runs import Row
from seeded_runs import seeded_runs

from convexrecon.data.dataset import PreparedSlices, stack
from convexrecon.physics.masks import MaskSettings
from convexrecon.report.html import Picture
from convexrecon.training.config import RunSettings
from convexrecon.training.descent_settings import DescentSettings
from convexrecon.training.measured_step import step_memory
from convexrecon.training.model_settings import ModelSettings

CITATION = (
    "M. Kellman, K. Zhang, E. Markley, J. Tamir, E. Bostan, M. Lustig, L. Waller: Memory-efficient Learning for "
    "Large-scale Computational Imaging, arXiv 2003.05551. K. Wang, M. Kellman, C. Sandino, K. Zhang, S. Vasanawala, "
    "J. Tamir, S. Yu, M. Lustig: Memory-efficient Learning for High-Dimensional MRI Reconstruction, MICCAI 2021, "
    "arXiv 2103.04003."
)
NOTEBOOK = "the outputs of the executed notebooks that Kellman et al. released (30 unrolls)"
ABSTRACT = "the abstract of Wang et al."
MASK = MaskSettings(kind="poisson", acceleration=4.0)
LAM = 0.5
NAMES = {
    "end_to_end": "backpropagation",
    "checkpointing": "checkpointing",
    "inversion": "inversion alone",
    "reversible": "inversion and checkpoints",
}


@dataclass(frozen=True)
class Scale:
    """How large: scans, unrolls that are measured, denoiser, and the unrolls, epochs and channels of the quality."""

    scans: Scans
    unrolls: tuple[int, ...]
    width: int
    repeats: int
    trained: tuple[int, ...]
    trained_width: int
    epochs: int
    learning_rate: float


SCALES = {
    "tiny": Scale(Scans((2, 1, 1), 2, (40, 32), 2, (0, 0, 0), 12), (2, 4), 4, 1, (1, 2), 4, 1, 2e-3),
    "synthetic": Scale(Scans((6, 2, 3), 2, (48, 44), 3, (0, 0, 0), 12), (5, 10, 20, 30), 16, 1, (1, 2, 4), 8, 8, 3e-3),
    "full": Scale(
        Scans((14, 2, 3), 1, (320, 256), 8, (14, 2, 3)), (10, 15, 20, 25, 30), 64, 3, (1, 5, 10), 64, 100, 1e-4
    ),
}


def steps(given: Given, scale: Scale, data: DataSets) -> list[Row]:
    """A row for every number of unrolls and method: MB, seconds, relative errors of inputs and gradient."""
    batch = stack([PreparedSlices(data.test, _mask(scale)).load(0)]).to(given.device)
    shape = list(batch.kspace.shape[1:])

    def measured(blocks: int) -> list[Row]:
        model = network(blocks, scale.width, LAM, None).to(given.device)
        expected = measure(model, METHODS[0], batch, scale.repeats)
        rows = []
        for method in METHODS:
            found = expected if method == METHODS[0] else measure(model, method, batch, scale.repeats)
            off = float((found.gradient - expected.gradient).norm() / expected.gradient.norm())
            error = found.report.get("inversion_error", 0.0)
            rows.append(
                {"unrolls": blocks, "method": method, "MB": found.memory_mb, "s": found.seconds}
                | {"error": error, "gradient error": off}
            )
        return rows

    rows: list[Row] = []
    for blocks in scale.unrolls:
        settings = {"unrolls": blocks, "width": scale.width, "lam": LAM, "shape": shape, "repeats": scale.repeats}
        rows += cell(given.out / "cells", f"step_{blocks}", settings, partial(measured, blocks))
    return rows


def _mask(scale: Scale) -> MaskSettings:
    return replace(MASK, calibration=min(16, scale.scans.calibration))


def settings_of(blocks: int, seed: int, scale: Scale) -> RunSettings:
    """A reversible run; a single block is trained by backpropagation, which keeps no more."""
    return RunSettings(
        method="reversible" if blocks > 1 else "end_to_end",
        mask=_mask(scale),
        model=ModelSettings(
            blocks=blocks, kernel=3, denoiser="modl", width=scale.trained_width, spectral=0.9, cg_iterations=10
        ),
        descent=DescentSettings(epochs=scale.epochs, learning_rate=scale.learning_rate, loss="l1", validate_every=5),
        training_seed=seed,
    )


def qualities(given: Given, scale: Scale, data: DataSets) -> dict[int, list[Row]]:
    """Trained runs by number of unrolls, a row a seed."""
    return {
        blocks: seeded_runs(given, data, f"unrolls_{blocks}", partial(settings_of, blocks, scale=scale))
        for blocks in scale.trained
    }


def trained_memory(given: Given, scale: Scale, data: DataSets) -> dict[str, float]:
    """MB of a step of the trained networks, by unrolls; and of backpropagation through as many."""
    slices = PreparedSlices(data.train, _mask(scale))

    def found() -> dict[str, float]:
        memory = {}
        for blocks in scale.trained:
            settings = settings_of(blocks, 0, scale)
            memory[f"{blocks}"] = step_memory(settings, slices, given.device).activations_mb
            back = replace(settings, method="end_to_end")
            memory[f"{blocks} by backpropagation"] = step_memory(back, slices, given.device).activations_mb
        return memory

    settings = {"unrolls": scale.trained, "width": scale.trained_width, "data": data.words}
    memory: dict[str, float] = cell(given.out / "cells", "memory", settings, found)
    return memory


def cost_claims(rows: Sequence[Row], scale: Scale, setting: str) -> list[Claim]:
    """Memory, time and error at the most unrolls, beside the released notebooks'."""
    most, fewest = max(scale.unrolls), min(scale.unrolls)
    at = {(row["unrolls"], row["method"]): row for row in rows}
    back, alone, sparse = (at[most, method] for method in ("end_to_end", "inversion", "reversible"))
    one = f"{setting}, {most} unrolls"

    def claim(text: str, published: str, value: float, unit: str, digits: str, rule: Rule, where: str = one) -> Claim:
        return Claim(text, published, NOTEBOOK, (value,), unit, digits, where, rule)

    growth = at[most, "reversible"]["MB"] / at[fewest, "reversible"]["MB"]
    return [
        claim("memory of backpropagation over that of inversion with sparse checkpoints", "27 times (5820 and 216 MB)",
              back["MB"] / sparse["MB"], "times", ".1f", Rule("at least", 27.0)),
        claim("growth of the memory of inversion with sparse checkpoints from the fewest to the most unrolls",
              "1.00 times from 10 to 30 unrolls", growth, "times", ".2f",
              Rule("at most", 1.1, "weights, whose gradients count, are not shared"),
              f"{setting}, {fewest} to {most} unrolls"),
        claim("time of inversion with sparse checkpoints over that of backpropagation", "1.54 times (1.40 and 0.91 s)",
              sparse["s"] / back["s"], "times", ".2f", Rule("at most", 1.54)),
        claim("relative error of the inputs that inversion alone recomputes", "907: lost beyond 20 unrolls",
              alone["error"], "", ".2g", Rule("at least", 1.0, "as large as the inputs themselves")),
        claim("relative error of the gradient of inversion with sparse checkpoints",
              "5.8e-10, of the inputs; its definition was not found", sparse["gradient error"], "", ".1e",
              Rule("at most", 1e-3, "what float32 leaves of a gradient where ReLUs switch")),
    ]  # fmt: skip


def quality_claim(runs: dict[int, list[Row]], memory: dict[str, float], setting: str) -> Claim:
    """More unrolls in the memory that backpropagation needs for fewer."""
    few = min(runs)
    allowed = memory[f"{few} by backpropagation"] * 1.25
    fitting = [blocks for blocks in runs if memory[f"{blocks}"] <= allowed]
    many = max(fitting)
    gains = [float(b["test PSNR"] - a["test PSNR"]) for a, b in zip(runs[few], runs[many], strict=True)]
    return Claim(
        "the gain in PSNR of more unrolls in the memory of fewer",
        "better quality with more unrolls, in pictures and tables that were not available",
        ABSTRACT,
        tuple(gains),
        "dB",
        ".2f",
        f"{setting}; {few} unrolls by backpropagation in {memory[f'{few} by backpropagation']:.3g} MB, {many} by "
        f"inversion in {memory[f'{many}']:.3g} MB (at most a quarter more)",
        Rule("at least", 0.0) if many > few else Rule("not comparable", reason="no more unrolls fit into that memory"),
    )


def cost_figure(rows: Sequence[Row], scale: Scale) -> Picture:
    """Memory, time and error against unrolls."""

    def lines(key: str, methods: Sequence[str]) -> dict[str, Series]:
        found = {}
        for method in methods:
            values = [max(float(row[key]), 1e-12) for row in rows if row["method"] == method]
            found[NAMES[method]] = Series(scale.unrolls, [values])
        return found

    panels = [
        Panel("memory of a step", lines("MB", METHODS), "unrolls", "MB", from_zero=True),
        Panel("time of a step", lines("s", METHODS), "unrolls", "s", from_zero=True),
        Panel("error of recomputed inputs", lines("error", METHODS[2:]), "unrolls", "relative error", log_y=True),
    ]
    return Picture(
        line_panels(panels),
        "One training step against the number of unrolled blocks. Inversion alone keeps nothing and is lost after some "
        "blocks; a few kept inputs mend that. Checkpointing keeps the input of every block.",
    )


def quality_figure(runs: dict[int, list[Row]], memory: dict[str, float]) -> Picture:
    """Quality against unrolls and memory."""
    x = sorted(runs)
    by_seed = [[float(row["test PSNR"]) for row in seeds] for seeds in zip(*(runs[b] for b in x), strict=True)]
    panels = [
        Panel("quality", {"inversion": Series(x, by_seed)}, "unrolls", "test PSNR (dB)"),
        Panel(
            "memory of a step of these networks",
            {
                "inversion": Series(x, [[memory[f"{b}"] for b in x]]),
                "backpropagation": Series(x, [[memory[f"{b} by backpropagation"] for b in x]]),
            },
            "unrolls",
            "MB",
            from_zero=True,
        ),
    ]
    return Picture(
        line_panels(panels),
        "What more unrolls gain (mean and range over training seeds), and the memory that they take.",
    )


def report(given: Given, scale: Scale, data: DataSets) -> None:
    """Table and figures."""
    rows, runs = steps(given, scale, data), qualities(given, scale, data)
    memory = trained_memory(given, scale, data)
    setting = f"{data.words}; MoDL's denoiser of {scale.width} channels, lam = {LAM}"
    trained = f"{data.words}; {scale.trained_width} channels, {scale.epochs} epochs"
    checkpoints = {row["unrolls"]: row for row in rows if row["method"] == "checkpointing"}[max(scale.unrolls)]
    sparse = {row["unrolls"]: row for row in rows if row["method"] == "reversible"}[max(scale.unrolls)]
    spent = ", ".join(f"{b} unrolls {fmean(r['training s'] for r in runs[b]):.0f} s" for b in sorted(runs))
    notes = [
        "Blocks are MoDL's denoisers and data consistency; inversion is by fixed-point iteration and the closed form "
        "of data consistency. Memory is what the tensors of one step take at most, gradients of the weights included; "
        "weights are not shared among blocks.",
        f"Plain gradient checkpointing, which the papers do not compare with, takes {checkpoints['MB']:.3g} MB and "
        f"{checkpoints['s']:.2g} s a step at {max(scale.unrolls)} unrolls; inversion with sparse checkpoints takes "
        f"{sparse['MB']:.3g} MB and {sparse['s']:.2g} s. Training times: {spent} a run.",
    ]
    write_paper(
        given.out,
        title="Memory-efficient learning (2020, MICCAI 2021)",
        citation=CITATION,
        command="python papers_repro/mel2021.py --out DIR",
        notes=notes,
        claims=[*cost_claims(rows, scale, setting), quality_claim(runs, memory, trained)],
        figures={"cost": cost_figure(rows, scale), "quality": quality_figure(runs, memory)},
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and train what is missing, write the table."""
    given = parsed(script_parser(__doc__), arguments)
    scale = SCALES[given.size]
    report(given, scale, data_sets(given, scale.scans, given.out / "data"))
    print((given.out / "table.md").read_text())


if __name__ == "__main__":
    run_script(main)
