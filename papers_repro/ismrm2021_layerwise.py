"""Ozturkler et al., ISMRM 2021 #1953: layer-wise against end-to-end training, and the batch that fits.

    python papers_repro/ismrm2021_layerwise.py --out DIR
    python papers_repro/ismrm2021_layerwise.py --out DIR --data fastmri FOLDER

Convex layer-wise training and end-to-end training of a network of the same shape, of both stackings: denoisers and data
consistency in turn, and the paper's hidden channels stacked. A stopped run continues.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from statistics import fmean
from typing import Any

import benchmark_scripts as benchmark_scripts
from claims import Claim, Rule
from command_line import Given, parsed, run_script, script_parser
from ismrm2021_runs import (
    MASKS,
    SCALES,
    STACKINGS,
    Rows,
    Scale,
    batches,
    folder_of,
    late_gain,
    layers,
    other_batch,
    train_all,
)
from plots import Panel, Series, bar_panels, line_panels
from results import write_paper
from scans import DataSets, data_sets
from scored_runs import Row

from convexrecon.evaluate.compare import evaluate_runs
from convexrecon.report.html import Picture
from convexrecon.report.pictures import comparison
from convexrecon.training.run_folder import RunFolder

CITATION = (
    "B. Ozturkler, A. Sahiner, T. Ergen, A. Desai, S. Vasanawala, J. Pauly, M. Mardani, M. Pilanci: Scalable and "
    "Interpretable Neural MRI Reconstruction via Layer-Wise Training, ISMRM 2021, #1953."
)
TEXT = "the text of the abstract itself"
WORDS = {"cascade": "denoisers and data consistency in turn", "features": "hidden channels stacked"}
# By mask: dB and SSIM.
PUBLISHED = {"Poisson": (0.06, 0.002), "1-D": (0.3, 0.003)}
BATCH_GAIN = 1.6
# dB of validation PSNR in the second half of training, above which that was not long enough.
STILL_GAINING = 0.5


def gap_claims(rows: Rows, setting: str) -> list[Claim]:
    """End to end's lead, of both stackings and masks."""
    found = []
    for mask, (decibel, similarity) in PUBLISHED.items():
        for stacking in STACKINGS:
            ends = rows[stacking, "end_to_end", mask]
            pairs = list(zip(ends, rows[stacking, "convex", mask], strict=True))
            for key, unit, limit, digits in (("test PSNR", "dB", decibel, ".2f"), ("test SSIM", "", similarity, ".4f")):
                what = "PSNR" if unit else "SSIM"
                claim = Claim(
                    f"end to end's lead over layer-wise training in {what}, {mask} R = 4, {WORDS[stacking]}",
                    f"{limit:g} {unit}".strip(),
                    TEXT,
                    tuple(float(end[key] - convex[key]) for end, convex in pairs),
                    unit,
                    digits,
                    setting,
                    Rule("at most", limit, "below zero layer-wise training is ahead"),
                )
                found.append(_against_the_finished(claim, late_gain(ends)))
    return found


def _against_the_finished(claim: Claim, gain: float) -> Claim:
    """A lead over an opponent that had not finished bears nothing out."""
    if claim.verdict == "yes" and gain > STILL_GAINING:
        reason = (
            f"end to end still gained {gain:.2f} dB in the second half of its training: a lead over it says nothing of "
            "the one trained to its end"
        )
        return replace(claim, rule=Rule("not comparable", reason=reason))
    return claim


def layer_claim(given: Given, stacking: str, mask: str, scale: Scale, setting: str) -> Claim:
    """Of the paper's figure of quality after each added layer."""
    curves = [layers(given, stacking, mask, seed) for seed in range(given.seeds)]
    # A run that ended with one layer has no gain to measure.
    steps = [min(after - before for before, after in pairwise(curve)) for curve in curves if len(curve) > 1]
    claim = Claim(
        f"the smallest gain of an added layer in PSNR, {mask} R = 4, {WORDS[stacking]}",
        "a rise with every one of five layers, in a figure",
        "the caption of the abstract's Figure 2",
        tuple(steps),
        "dB",
        ".2f",
        setting,
        Rule("at least", 0.0, "no layer lowers the quality") if steps else Rule("not comparable", reason="one layer"),
    )
    counts = [len(curve) for curve in curves]
    if claim.verdict != "no" and min(counts) < scale.blocks:
        reason = (
            f"{', '.join(map(str, counts))} of {scale.blocks} layers were added: the next one would not have lowered "
            "the loss of the validation slices, which choose the strength of its penalty. Fewer do not show a rise "
            "with every one of five"
        )
        return replace(claim, rule=Rule("not comparable", reason=reason))
    return claim


def memory_claims(fits: dict[str, Any], scale: Scale, same: tuple[Row, Row], setting: str) -> list[Claim]:
    """Batch size and independence of it."""
    end, layerwise, convex = (fits[name] for name in ("end_to_end", "layerwise", "convex"))
    size = f"{scale.batch_size[0]} x {scale.batch_size[1]}, {scale.batch_coils} coils, {scale.blocks} blocks of "
    size += f"{scale.batch_units} units with data consistency, in {scale.gigabytes:g} GB"
    # Without a bound on the batch what another slice takes decides.
    bounded = end["largest"] and layerwise["largest"]
    gain = layerwise["largest"] / end["largest"] if bounded else end["each MB"] / layerwise["each MB"]
    number = "any batch" if convex["largest"] is None else f"{convex['largest']} slices"
    return [
        Claim(
            "the batch of layer-wise training over that of end-to-end training in the same memory",
            "more than 1.6 times on a GPU of 12 GB",
            f"{TEXT} and its Figure 4",
            (gain,),
            "times",
            ".2f",
            f"{size}, by descent of one block's loss; a convex fit takes {number}",
            Rule("at least", BATCH_GAIN),
        ),
        Claim(
            "the change of PSNR of layer-wise training when the batch size changes",
            "none: independent of the batch size",
            TEXT,
            (abs(float(same[0]["test PSNR"] - same[1]["test PSNR"])),),
            "dB",
            ".4f",
            f"convex, batches of one and of two slices; {setting}",
            Rule("at most", 0.01, "rounding of another order of sums"),
        ),
    ]


def layer_figure(given: Given, rows: Rows, scale: Scale) -> Picture:
    """Quality after each added layer beside end to end's."""
    panels = []
    x = list(range(1, scale.blocks + 1))
    for mask in MASKS:
        lines: dict[str, Series] = {}
        for stacking in STACKINGS:
            curves = [layers(given, stacking, mask, seed) for seed in range(given.seeds)]
            # Where no further layer helps, the network stays as it is.
            curves = [curve + curve[-1:] * (len(x) - len(curve)) for curve in curves]
            lines[f"convex, {stacking}"] = Series(x, curves)
            ends = [[float(row["validation PSNR"])] * len(x) for row in rows[stacking, "end_to_end", mask]]
            lines[f"end to end, {stacking}"] = Series(x, ends, dashed=True, markers=False)
        panels.append(Panel(f"{mask}, R = 4", lines, "layers", "validation PSNR (dB)"))
    return Picture(
        line_panels(panels),
        "Validation PSNR after each added convex layer, and of the whole network trained end to end (dashed); mean and "
        "range over training seeds. “cascade”: data consistency behind every layer; “features”: the paper's stacking "
        "of hidden channels, without; level from where no further layer lowered the validation loss.",
    )


def batch_figure(fits: dict[str, Any], scale: Scale) -> Picture:
    """Slices that fit, and memory of one more."""
    bounded = {name: fit for name, fit in fits.items() if fit["largest"] is not None}
    unlimited = [name for name in fits if name not in bounded]
    words = {"end_to_end": "end to end", "layerwise": "layer-wise descent", "convex": "convex"}
    panels = {
        "largest batch": {words[name]: [float(fit["largest"])] for name, fit in bounded.items()},
        "memory of one more slice": {words[name]: [float(fit["each MB"])] for name, fit in fits.items()},
    }
    note = f" {', '.join(unlimited).capitalize()}: any batch, slices pass through one by one." if unlimited else ""
    return Picture(
        bar_panels(panels, ["slices", "MB"]),
        f"The batch that fits in {scale.gigabytes:g} GB, and what another slice of it takes.{note}",
    )


def image_figure(given: Given, mask: str, data: DataSets) -> Picture:
    """One test slice by every method."""
    names = ["convex", "end to end", "convex, features", "end to end, features"]
    pairs = [(s, m) for s in STACKINGS for m in ("convex", "end_to_end")]
    runs = [RunFolder(folder_of(given.out, stacking, method, mask, 0)) for stacking, method in pairs]
    found = evaluate_runs(
        runs, data.test, tune_on=data.train, pictures=1, names=names, device=given.device, progress=False
    )
    shown = found.pictured[0]
    scores = {s.method: s for s in found.scores if (s.volume, s.slice_index) == (shown.volume, shown.slice_index)}
    images = {name: shown.images[name] for name in ("zero-filled", "L1-wavelet", *names)}
    return Picture(
        comparison(shown.reference, images, scores=scores, mask=shown.mask),
        f"A test slice, {mask} mask at R = 4, first seed; PSNR of the complex error, SSIM.",
    )


def report(given: Given, scale: Scale, data: DataSets, rows: Rows) -> None:
    """Table and figures."""
    fits = batches(given, scale)
    setting = (
        f"{data.words}; {scale.blocks} layers of {scale.units} units, end to end "
        f"{'/'.join(str(e) for e in dict.fromkeys(scale.epochs.values()))} epochs"
        f"{f' ({scale.feature_epochs} times that of stacked channels)' if scale.feature_epochs > 1 else ''}"
    )
    claims = gap_claims(rows, setting)
    claims += [layer_claim(given, stacking, mask, scale, setting) for mask in MASKS for stacking in STACKINGS]
    same = rows["cascade", "convex", "Poisson"][0], other_batch(given, scale, data)
    claims += memory_claims(fits, scale, same, setting)
    seconds = {
        method: fmean(row["training s"] for mask in MASKS for row in rows["cascade", method, mask])
        for method in ("convex", "end_to_end")
    }
    late = fmean(late_gain(rows["cascade", "end_to_end", mask]) for mask in MASKS)
    notes = [
        "The published network stacks hidden channels; ours stacks them too (“features”), and also denoisers with data "
        "consistency in turn (“cascade”). Layers are solved as convex programs, not descended. The opponent of stacked "
        "channels is five convolutions of the same kernel and width beside a skip.",
        "Stacked to the letter (stacking = 'published_features': hidden channels alone, each layer's output in place "
        "of the one before, one strength of the penalty for all) added layers lower the quality at the size of the "
        "synthetic data; benchmarks/README.md says why. Here a layer also sees the image, adds to what the layers "
        "before it made, and has the strength that the validation slices choose.",
        f"On average a convex run of the cascade took {seconds['convex']:.0f} s, an end-to-end run "
        f"{seconds['end_to_end']:.0f} s; in the second half of that it still gained {late:.2f} dB. Absolute PSNR is "
        "published in pictures alone.",
    ]
    figures = {"layers": layer_figure(given, rows, scale), "batch_size": batch_figure(fits, scale)}
    figures |= {f"images_{mask}": image_figure(given, mask, data) for mask in MASKS}
    write_paper(
        given.out,
        title="Layer-wise training (ISMRM 2021)",
        citation=CITATION,
        command="python papers_repro/ismrm2021_layerwise.py --out DIR",
        notes=notes,
        claims=claims,
        figures=figures,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what is missing, measure what is missing, write the table."""
    given = parsed(script_parser(__doc__), arguments)
    scale = SCALES[given.size]
    data = data_sets(given, scale.scans, given.out / "data")
    report(given, scale, data, train_all(given, scale, data))
    print((given.out / "table.md").read_text())


if __name__ == "__main__":
    run_script(main)
