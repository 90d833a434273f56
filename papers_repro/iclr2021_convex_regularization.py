"""Sahiner et al., ICLR 2021: a two-layer denoiser and its convex dual reach the same loss; what the dual's filters are.

    python papers_repro/iclr2021_convex_regularization.py --out DIR
    python papers_repro/iclr2021_convex_regularization.py --out DIR --digits MNIST --data fastmri FOLDER

Digits with noise (scikit-learn's, or MNIST's idx files in a folder) and zero-filled scans, each by descent of the
network, by descent of the dual on sampled patterns, and by certified programs. A stopped run continues.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import fmean

from cells import cell
from claims import Claim, Rule
from command_line import Given, parsed, run_script, script_parser
from denoising_pairs import Pairs, digit_pairs, scan_pairs
from iclr2021_patterns import cluster_figure, null_claim, response_figure
from plots import Panel, Series, line_panels
from primal_and_dual import Row, Sizes, compare
from results import write_paper
from scans import Scans, data_sets

from convexrecon.report.html import Picture

CITATION = (
    "A. Sahiner, M. Mardani, B. Ozturkler, M. Pilanci, J. Pauly: Convex Regularization Behind Neural Reconstruction, "
    "ICLR 2021, arXiv 2012.05169."
)
FIGURES = "the text and figures of the paper"
SIGMAS = (0.25, 0.5, 0.75)
ACCELERATIONS = (2, 4, 8)
# Curves of a figure that lie closer cannot be told apart.
EQUAL = 0.05
LEVELS = {"gated program, certified": "gated", "dual on the network's patterns, certified": "within"}


@dataclass(frozen=True)
class Scale:
    """How large: digits, scans and their crop, and the trainings on either."""

    digits: tuple[int, int]
    on_digits: Sizes
    scans: Scans
    crop: int
    on_scans: Sizes
    accelerations: tuple[int, ...] = ACCELERATIONS
    sigmas: tuple[float, ...] = SIGMAS


SCALES = {
    "tiny": Scale(
        (40, 40), Sizes(6, 8, 3, 20, 1e-2, 20, 5e-3, 1e-3),
        Scans((2, 1, 1), 1, (40, 32), 2, (0, 0, 0), 12), 24, Sizes(6, 8, 3, 20, 1e-2, 20, 5e-3, 1e-3), (4,), (0.5,),
    ),
    "synthetic": Scale(
        (200, 200), Sizes(64, 128, 3, 1000, 1e-2, 300, 5e-3, 1e-3),
        Scans((4, 1, 2), 2, (56, 48), 4, (0, 0, 0), 12), 36, Sizes(48, 96, 3, 700, 1e-2, 250, 5e-3, 1e-3),
    ),
    "full": Scale(
        (600, 10_000), Sizes(512, 8000, 3, 20_000, 1e-3, 20_000, 1e-3, 1e-3),
        Scans((49, 1, 10), 1, (320, 320), 15, (49, 1, 10), 16), 80,
        Sizes(1024, 5000, 3, 20_000, 1e-3, 20_000, 1e-3, 1e-3),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Experiment:
    """One panel: its title, file name, data and trainings, a row a seed."""

    title: str
    name: str
    pairs: Pairs
    sizes: Sizes
    rows: list[Row]


def experiments(given: Given, scale: Scale) -> list[Experiment]:
    """Digits at every noise level, scans at every acceleration."""
    digits: Path | None = given.rest.digits
    found = []
    for sigma in scale.sigmas:
        pairs = digit_pairs(digits, sigma, *scale.digits)
        found.append(_trained(given, f"digits, σ = {sigma:g}", f"digits_{sigma:g}", pairs, scale.on_digits))
    data = data_sets(given, scale.scans, given.out / "data")
    for acceleration in scale.accelerations:
        pairs = scan_pairs(data, acceleration, min(10, scale.scans.calibration), scale.crop)
        found.append(_trained(given, f"scans, R = {acceleration}", f"scans_{acceleration}", pairs, scale.on_scans))
    return found


def _trained(given: Given, title: str, name: str, pairs: Pairs, sizes: Sizes) -> Experiment:
    rows = []
    for seed in range(given.seeds):
        settings = asdict(sizes) | {"seed": seed, "data": pairs.words, "images": list(pairs.noisy.shape)}
        rows.append(cell(given.out / "cells", f"{name}_seed_{seed}", settings, partial(compare, pairs, sizes, seed)))
        print(title, {key: rows[-1][key]["train"] for key in ("gated", "within")}, flush=True)
    return Experiment(title, name, pairs, sizes, rows)


def _setting(experiment: Experiment) -> str:
    sizes = experiment.sizes
    network = f"{sizes.neurons} neurons, {sizes.patterns} sampled patterns, {sizes.kernel} x {sizes.kernel}"
    return f"{experiment.pairs.words}; {network}"


def claims_of(experiment: Experiment) -> list[Claim]:
    """That primal and dual agree: by the paper's way, and by certified programs."""
    rows = experiment.rows
    setting = _setting(experiment)
    rule = Rule("at most", EQUAL, "curves closer than that look the same")

    def off(key: str, method: str) -> tuple[float, ...]:
        return tuple(abs(_last(row[method][key]) / _last(row["primal"][key]) - 1) for row in rows)

    def claim(text: str, values: tuple[float, ...], where: str = setting) -> Claim:
        return Claim(f"{text}, {experiment.title}", "equal", FIGURES, values, "", ".3f", where, rule)

    certified = f"{setting}; relative gap {max(row['within']['gap'] for row in rows):.0e} or less"
    found = [
        claim(
            "the relative difference of the training loss of the dual by Adam from the network's", off("train", "dual")
        ),
        claim("the relative difference of the test loss of the dual by Adam from the network's", off("test", "dual")),
        claim(
            "the relative difference of the certified optimum on the network's own patterns from the network's loss",
            off("train", "within"),
            certified,
        ),
    ]
    if experiment.name in ("scans_2", "scans_4"):
        apart = tuple(abs(fmean(row["dual"]["psnr"]) - fmean(row["primal"]["psnr"])) for row in rows)
        found.append(
            Claim(
                f"the difference in test PSNR of the dual by Adam from the network, {experiment.title}",
                "none: the same PSNR of a test slice", FIGURES, apart, "dB", ".2f", setting,
                Rule("at most", 0.1, "PSNR is printed to a tenth at best"),
            )
        )  # fmt: skip
    return found


def _last(value: float | Sequence[float]) -> float:
    return float(value[-1]) if isinstance(value, Sequence) else float(value)


def loss_figure(found: Sequence[Experiment], key: str, label: str) -> Picture:
    """Loss over iterations, with the certified programs as levels."""
    panels = []
    for experiment in found:
        rows = experiment.rows
        steps = rows[0]["primal"]["step"]
        span = [min(rows[0]["dual"]["step"][0], steps[0]), max(rows[0]["dual"]["step"][-1], steps[-1])]
        lines = {
            "network, Adam": Series(steps, [row["primal"][key] for row in rows]),
            "dual, Adam": Series(rows[0]["dual"]["step"], [row["dual"][key] for row in rows]),
        }
        for name, method in LEVELS.items():
            levels = [[row[method][key]] * 2 for row in rows]
            lines[name] = Series(span, levels, dashed=True, markers=False)
        panels.append(Panel(experiment.title, lines, "iterations of Adam", label, log_x=True, log_y=True))
    return Picture(
        line_panels(panels),
        f"{label.capitalize()} over iterations, mean and range over seeds. Adam on the network cannot go below the "
        "dashed level of its own patterns but by changing them; the gated program has no sign constraints.",
    )


def report(given: Given, scale: Scale, found: Sequence[Experiment]) -> None:
    """Table and figures."""
    first = found[0].rows
    gap = max(row["gated"]["gap"] for experiment in found for row in experiment.rows)
    lower = fmean(1 - row["within"]["train"] / _last(row["primal"]["train"]) for e in found for row in e.rows)
    violated = fmean(row["dual"]["hinge"] for row in first)
    notes = [
        "One real channel, no biases, no skip; real and imaginary parts of scans are images of their own. The dual by "
        "Adam is the paper's way: weights of sampled sign patterns, the constraints by a hinge of weight 1e-4. It "
        f"leaves them violated by {violated:.2g} on average, and so is near the gated program, not the network's.",
        f"Gated programs are certified to {gap:.0e}. With the sign constraints, on the patterns of the trained "
        f"neurons, the certified optimum is {100 * lower:.1f} % below the loss that Adam ended with, on average.",
        "The paper's strength of weight decay, rates and kernel are in an appendix that was not available; here it is "
        f"{scale.on_digits.beta_ratio:g} of the strength at which the gated program's optimum is zero.",
    ]
    middle = found[len(scale.sigmas) // 2]
    kernel, last = middle.sizes.kernel, found[-1]
    claims = [claim for experiment in found for claim in claims_of(experiment)]
    claims += [null_claim(e.rows, e.sizes.kernel, e.title, _setting(e)) for e in (middle, last)]
    write_paper(
        given.out,
        title="Convex regularization (ICLR 2021)",
        citation=CITATION,
        command="python papers_repro/iclr2021_convex_regularization.py --out DIR",
        notes=notes,
        claims=claims,
        figures={
            "training_loss": loss_figure(found, "train", "training objective"),
            "test_loss": loss_figure(found, "test", "test loss"),
            "clusters_digits": cluster_figure(middle.rows[0], middle.pairs, kernel, middle.title),
            "clusters_scans": cluster_figure(last.rows[0], last.pairs, kernel, last.title),
            "responses_digits": response_figure(middle.rows[0], kernel, middle.title),
            "responses_scans": response_figure(last.rows[0], kernel, last.title),
        },
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what is missing, write the table."""
    parser = script_parser(__doc__)
    parser.add_argument("--digits", type=Path, help="folder of MNIST's idx files; scikit-learn's digits if left out")
    given = parsed(parser, arguments)
    scale = SCALES[given.size]
    report(given, scale, experiments(given, scale))
    print((given.out / "table.md").read_text())


if __name__ == "__main__":
    run_script(main)
