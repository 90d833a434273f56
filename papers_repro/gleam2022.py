"""GLEAM (Ozturkler et al. 2022): greedy against end-to-end training at equal memory, its cost, and several ranks.

    python papers_repro/gleam2022.py --out DIR
    python papers_repro/gleam2022.py --out DIR --data mridata FOLDER       2-D and 3-D; fastmri FOLDER: 2-D alone

Slices, volumes and series; beside checkpointing and inversion, which have the same memory; and two processes that share
the modules. A stopped run continues.
"""

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

import benchmark_scripts as benchmark_scripts
from claims import Claim, Rule
from command_line import Given, parsed, run_script, script_parser
from gleam2022_runs import (
    COSTS,
    SCALES,
    Layouts,
    Scale,
    all_layouts,
    costs,
    memory_of,
    parallel_epochs,
    train_layout,
)
from parallel_gleam import Epoch, shortest, timeline
from plots import bar_panels, point_panels
from results import write_paper
from scored_runs import Row

from convexrecon.report.html import Picture

CITATION = (
    "B. Ozturkler, A. Sahiner, T. Ergen, A. Desai, C. Sandino, S. Vasanawala, J. Pauly, M. Mardani, M. Pilanci: GLEAM: "
    "Greedy Learning for Large-Scale Accelerated MRI Reconstruction, arXiv 2207.08393 (2022)."
)
ABSTRACT = "the abstract of GLEAM"
WORKSHOP = "the abstract of its precursor at a NeurIPS 2021 workshop"
CINE = "the abstract of its precursor ISMRM 2022 #0845"
# By layout: what it is called, dB, where that was read.
PUBLISHED = {"slices": ("2-D", 1.1, ABSTRACT), "volume": ("3-D", 1.8, ABSTRACT), "cine": ("cine", 3.3, CINE)}
CINE_SSIM = 0.025


def gain_claims(layout: str, runs: dict[str, list[Row]], memory: dict[str, float], setting: str) -> list[Claim]:
    """Greedy training's lead over end-to-end training of what fits in the same memory."""
    name, decibel, source = PUBLISHED[layout]
    pairs = list(zip(runs["gleam"], runs["end_to_end"], strict=True))
    where = f"{setting}; {memory['gleam']:.3g} MB a step, end to end {memory['end_to_end']:.3g} MB"

    def claim(what: str, published: float, unit: str, digits: str, key: str) -> Claim:
        gains = tuple(float(greedy[key] - end[key]) for greedy, end in pairs)
        text = f"greedy training's lead in {what} over end-to-end training in the same memory, {name}"
        printed = f"{published:g} {unit}".strip()
        return Claim(text, printed, source, gains, unit, digits, where, Rule("at least", published))

    found = [claim("PSNR", decibel, "dB", ".2f", "test PSNR")]
    if layout == "cine":
        found.append(claim("SSIM", CINE_SSIM, "", ".4f", "test SSIM"))
    return found


def quality_claim(runs: dict[str, list[Row]], setting: str) -> Claim:
    """Greedy training against the gradients that checkpointing and inversion compute."""
    pairs = zip(runs["checkpointing"], runs["gleam"], strict=True)
    return Claim(
        "the lead in PSNR of checkpointing or inversion (one gradient) over greedy training, 2-D",
        "none: it generalizes as well",
        ABSTRACT,
        tuple(float(exact["test PSNR"] - greedy["test PSNR"]) for exact, greedy in pairs),
        "dB",
        ".2f",
        setting,
        Rule("at most", 0.0),
    )


def cost_claims(found: dict[str, dict[str, float]], setting: str) -> list[Claim]:
    """Time and memory of a step beside the other trainers'."""
    greedy = found["gleam"]

    def claim(text: str, published: str, source: str, value: float, rule: Rule) -> Claim:
        return Claim(text, published, source, (value,), "times", ".2f", setting, rule)

    return [
        claim("time of a step of checkpointing over that of greedy training", "1.3 times", ABSTRACT,
              found["checkpointing"]["s"] / greedy["s"], Rule("at least", 1.3)),
        claim("time of a step of inversion over that of greedy training", "1.3 times", ABSTRACT,
              found["reversible"]["s"] / greedy["s"], Rule("at least", 1.3)),
        claim("memory of greedy training over that of checkpointing", "the same memory", ABSTRACT,
              greedy["MB"] / found["checkpointing"]["MB"], Rule("at most", 1.05, "5 % for what is kept beside")),
        claim("memory of end-to-end training over that of greedy training", "6 times", WORKSHOP,
              found["end_to_end"]["MB"] / greedy["MB"], Rule("at least", 6.0)),
        claim("time of a step of greedy training over that of end-to-end training", "no additional compute", WORKSHOP,
              greedy["s"] / found["end_to_end"]["s"], Rule("at most", 1.05, "5 % for timing")),
    ]  # fmt: skip


def parallel_claim(singles: Sequence[Epoch], shared: list[list[Epoch]], setting: str) -> Claim:
    """Two processes; the seconds of a process, since other work on the machine hides the clock's."""
    alone = min(epoch.cpu for epoch in singles)
    busiest = min(max(epoch.cpu for epoch in ranks) for ranks in shared)
    clock = min(epoch.seconds for epoch in singles) / max(epoch.seconds for epoch in shortest(shared))
    return Claim(
        "the processor time of one rank over that of the busier of two that share the modules",
        "modules run in parallel on several GPUs; no number",
        ABSTRACT,
        (alone / busiest,),
        "times",
        ".2f",
        f"{setting}; by the clock {clock:.2f} times",
        Rule("not comparable", reason="no number is published, and these are two processes on a CPU"),
    )


def quality_figure(found: Layouts) -> Picture:
    """PSNR of all runs by layout."""
    names = {"gleam": "greedy", "checkpointing": "checkpointing, as deep", "end_to_end": "end to end, same memory"}
    panels = {
        PUBLISHED[layout][0]: {
            names[method]: [float(row["test PSNR"]) for row in rows] for method, rows in runs.items()
        }
        for layout, runs in found.items()
    }
    return Picture(
        point_panels(panels, ["test PSNR (dB)"] * len(panels)),
        "Test PSNR after training; lines are means, points training seeds. End to end has as many blocks as fit in the "
        "memory of greedy training.",
    )


def cost_figure(found: dict[str, dict[str, float]]) -> Picture:
    """Memory and time of a step by method."""
    names = {"end_to_end": "end to end", "reversible": "inversion", "gleam": "greedy"}
    panels = {
        title: {names.get(method, method): [found[method][key]] for method in COSTS}
        for title, key in (("memory of a step", "MB"), ("time of a step", "s"))
    }
    return Picture(bar_panels(panels, ["MB", "s"]), "What one training step of the same network takes, by trainer.")


def report(given: Given, scale: Scale, found: Layouts, words: dict[str, str]) -> None:
    """Table and figures."""
    claims: list[Claim] = []
    for layout, runs in found.items():
        part = scale.layouts[layout]
        setting = (
            f"{words[layout]}; ResNets of {part.width} channels and gradient steps, {part.blocks} blocks in "
            f"{part.modules} modules against {part.end_to_end} blocks, {part.epochs} epochs"
        )
        claims += gain_claims(layout, runs, memory_of(given, scale, layout), setting)
        if "checkpointing" in runs:
            claims.append(quality_claim(runs, setting))
    cost = costs(given, scale)
    network = f"{scale.cost_blocks} blocks of MoDL's denoiser, {scale.cost_width} channels"
    claims += cost_claims(cost, f"{words['slices']}; {network}")
    singles, shared = parallel_epochs(given, scale)
    two = scale.parallel
    epoch = f"{two['size']} x {two['size']}, {two['blocks']} blocks, {two['slices']} slices an epoch"
    claims.append(parallel_claim(singles, shared, epoch))
    seconds = {m: fmean(r["training s"] for r in rows) for m, rows in found["slices"].items()}
    notes = [
        "Blocks are gradient steps and ResNets, as released; their step of 2, on the edge of stability, is a learned "
        "one here that starts at 1. Each module of consecutive blocks has its own loss and optimizer. End to end has "
        "the blocks of one module, which is what fits in the same memory.",
        "Training of slices took "
        + ", ".join(f"{m.replace('_', ' ')} {s:.0f} s" for m, s in seconds.items())
        + " a run.",
    ]
    figures = {"quality": quality_figure(found), "cost": cost_figure(cost)}
    figures["parallel"] = Picture(
        timeline(shortest(shared)), "An epoch on two processes, each with half of the modules; gaps are waiting."
    )
    write_paper(
        given.out,
        title="Greedy learning (GLEAM, 2022)",
        citation=CITATION,
        command="python papers_repro/gleam2022.py --out DIR",
        notes=notes,
        claims=claims,
        figures=figures,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Train and measure what is missing, write the table."""
    given = parsed(script_parser(__doc__), arguments)
    scale = SCALES[given.size]
    if given.data != "synthetic":
        scale = replace(scale, layouts=all_layouts(scale, given.data))
    found, words = {}, {}
    for layout in scale.layouts:
        found[layout], words[layout] = train_layout(given, scale, layout)
    report(given, scale, found, words)
    print((given.out / "table.md").read_text())


if __name__ == "__main__":
    run_script(main)
