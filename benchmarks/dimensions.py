"""Volumes and series: classical methods, convex blocks, end-to-end training and GLEAM on held-out subjects.

    python benchmarks/dimensions.py volume --out FOLDER                      simulated heads
    python benchmarks/dimensions.py volume --out FOLDER --images HEAD.npz    a (z, y, x) or (..., z, y, x) array
    python benchmarks/dimensions.py cine --out FOLDER --images CINE.h5       a (..., t, y, x) array

Training, validation and test subjects are apart; of one volume they are slabs. Every classical method is tuned on the
validation subjects, every trained one keeps its best epoch there. "..., GLEAM's memory" is end-to-end training with as
many blocks, or as many units, as a step of GLEAM takes memory for. A killed benchmark continues where it was.
"""

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from dimension_data import Scans, prepared_sets

from convexrecon.convex.gate_growth import GrowthSettings
from convexrecon.convex.program import ProgramSettings
from convexrecon.data.dataset import PreparedSlices
from convexrecon.evaluate.baselines import Reconstruction, zero_filled
from convexrecon.evaluate.classical import classical_methods, tune_methods
from convexrecon.evaluate.compare import evaluate_runs
from convexrecon.evaluate.metrics import score_whole
from convexrecon.physics.initial_image import INITIAL_IMAGES, WEIGHTED_IMAGES
from convexrecon.physics.kt_focuss import kt_focuss
from convexrecon.physics.masks import MaskSettings
from convexrecon.training.config import RunSettings
from convexrecon.training.convex_settings import ConvexSettings
from convexrecon.training.descent_settings import DescentSettings, GleamSettings
from convexrecon.training.measured_step import step_memory
from convexrecon.training.model_settings import ModelSettings
from convexrecon.training.run_folder import RunFolder
from convexrecon.training.train import train
from convexrecon.weights import load_cascade

Row = dict[str, Any]
CPU = torch.device("cpu")
MASKS = {
    "volume": MaskSettings("poisson", acceleration=7.0, calibration=12),
    "cine": MaskSettings("variable", acceleration=6.0, center_fraction=0.06),
}
MODELS = {
    "volume": ModelSettings(kernel=3, initial="cg_sense"),
    "cine": ModelSettings(kernel=(5, 3, 3), initial="kt_focuss", periodic=True),
}


def base(given: argparse.Namespace) -> RunSettings:
    """What all runs share: mask, blocks, units, kernel, the image they start from."""
    model = replace(MODELS[given.layout], blocks=given.blocks, units=given.units, denoiser=given.denoiser)
    model = replace(
        model,
        width=given.width,
        kernel=tuple(given.kernel) if given.kernel else model.kernel,
        initial=given.initial or model.initial,
        initial_weight=given.initial_weight,
        inputs=tuple(given.inputs),
    )
    return RunSettings(
        random_phase=True,
        mask=MASKS[given.layout],
        model=model,
        convex=ConvexSettings(
            ProgramSettings(beta_ratio=given.beta, tolerance=given.tolerance),
            gates="patches",
            whitened=given.whitened,
            grow=GrowthSettings(given.grow),
            pixel_fraction=given.pixels,
            lam_scale=given.lam_scale,
        ),
        descent=DescentSettings(
            epochs=given.epochs,
            learning_rate=given.learning_rate,
            validate_every=max(1, given.epochs // 20),
            gleam=GleamSettings(given.modules),
        ),
    )


def contenders(given: argparse.Namespace, slices: PreparedSlices) -> Iterator[tuple[str, RunSettings]]:
    """The trained methods by name, those that need no measuring of memory first."""
    common = base(given)
    whole = replace(common, method="end_to_end")
    yield "convex", replace(common, model=replace(common.model, blocks=given.convex_blocks, units=given.gates))
    yield "gleam", replace(common, method="gleam")
    yield "end_to_end", whole
    fits = given.out / f"fits_{given.blocks}_{given.units}_{given.modules}.json"
    if not fits.exists():
        fits.write_text(json.dumps(_that_fit(whole, slices)))
    for name, (blocks, units) in json.loads(fits.read_text()).items():
        yield name, replace(whole, model=replace(whole.model, blocks=blocks, units=units))


def _that_fit(whole: RunSettings, slices: PreparedSlices) -> dict[str, tuple[int, int]]:
    """Blocks and units of what end-to-end training can hold where a step of GLEAM fits, every step measured."""
    blocks, units = whole.model.blocks, whole.model.units
    allowed = step_memory(replace(whole, method="gleam"), slices, CPU).activations_mb

    def fits(blocks: int, units: int) -> bool:
        smaller = replace(whole, model=replace(whole.model, blocks=blocks, units=units))
        return step_memory(smaller, slices, CPU).activations_mb <= allowed

    found = {}
    fewer = next((count for count in range(blocks, 0, -1) if fits(count, units)), 0)
    if fewer:
        found[f"end_to_end of {fewer} blocks, GLEAM's memory"] = (fewer, units)
    narrower = units // 2
    while narrower and not fits(blocks, narrower):
        narrower //= 2
    if narrower and whole.model.denoiser == "relu":
        found[f"end_to_end of {narrower} units, GLEAM's memory"] = (blocks, narrower)
    return found


def classical(
    prepared: Path, mask: MaskSettings, out: Path, wanted: Sequence[str] | None
) -> Iterator[tuple[str, list[Row]]]:
    """Zero filling, and every classical method with the weight that is best on the validation subjects."""
    validation, test = (PreparedSlices(prepared / name, mask) for name in ("validation", "test"))
    methods: list[tuple[str, Reconstruction]] = [("zero-filled", lambda sense, kspace, _: zero_filled(sense, kspace))]
    if test.layout == "cine":
        methods.append(("k-t FOCUSS", lambda sense, kspace, _: kt_focuss(sense, sense.adjoint(kspace))))
    methods += [(method.name, method.reconstruct) for method in classical_methods(test.layout)]
    known = {method.name: method for method in classical_methods(test.layout)}
    for name, reconstruct in methods:
        if wanted is not None and name not in wanted:
            continue
        result = out / f"{name.replace(' ', '_')}.json"
        if not result.exists():
            tuned = tune_methods([known[name]], validation, progress=False)[name] if name in known else None
            lam = tuned.lam if tuned is not None else 0.0
            scores, seconds = [], []
            for index in range(len(test)):
                batch, started = test.load(index), time.perf_counter()
                image = reconstruct(batch.sense, batch.kspace, lam)[0]
                seconds.append(time.perf_counter() - started)
                scores.append(score_whole(name, batch.volume[0], image.numpy(), batch.target[0].numpy(), seconds[-1]))
            row: Row = {"test PSNR": mean(s.psnr for s in scores), "test SSIM": mean(s.ssim for s in scores)}
            row |= {
                "validation PSNR": tuned.psnr if tuned is not None else _psnr(reconstruct, validation),
                "lam": lam,
                "s a subject": mean(seconds),
            }
            result.write_text(json.dumps(row))
        found: Row = json.loads(result.read_text())
        print(name, found, flush=True)
        yield name, [found]


def _psnr(reconstruct: Reconstruction, slices: PreparedSlices) -> float:
    """Of a method without a weight to tune, the mean over all subjects."""
    found = []
    for batch in (slices.load(index) for index in range(len(slices))):
        image = reconstruct(batch.sense, batch.kspace, 0.0)[0].numpy()
        found.append(score_whole("", batch.volume[0], image, batch.target[0].numpy(), 0.0).psnr)
    return mean(found)


def trained(settings: RunSettings, prepared: Path, folder: Path) -> Row:
    """Train, or take what is trained, and score it on the test subjects."""
    result = folder / "row.json"
    if not result.exists():
        train(settings, prepared / "train", folder, validation=prepared / "validation", progress=False)
        run = RunFolder(folder)
        evaluation = evaluate_runs([run], prepared / "test", baselines=False, pictures=0, progress=False)
        scores, summary = next(iter(evaluation.summary.values())), run.read_summary()
        row = {
            "validation PSNR": summary["psnr_validation"],
            "test PSNR": scores["psnr"],
            "test SSIM": scores["ssim"],
            "training s": summary["training_seconds"],
            "step MB": summary["activations_mb"],
            "s a subject": mean(score.seconds for score in evaluation.scores),
            "start": {part: _start(run, prepared / part) for part in ("validation", "test")},
        }
        result.write_text(json.dumps(row))
    row = json.loads(result.read_text())
    print(folder.parent.name, folder.name, row, flush=True)
    return dict(row)


@torch.no_grad()
def _start(run: RunFolder, folder: Path) -> float:
    """Mean PSNR of the images that the blocks start from."""
    cascade, slices = load_cascade(run.weights)[0], PreparedSlices(folder, run.settings().mask)
    found = []
    for batch in (slices.load(index) for index in range(len(slices))):
        image = next(cascade.images(batch.sense, batch.kspace))[0].numpy()
        found.append(score_whole("", batch.volume[0], image, batch.target[0].numpy(), 0.0).psnr)
    return mean(found)


def markdown(results: Mapping[str, Sequence[Row]]) -> str:
    """A line a method: means over the seeds, and of the test PSNR the range."""
    lines = [
        "| method | validation PSNR dB | test PSNR dB | test SSIM | training s | step MB | s a subject |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, rows in results.items():
        scores = [row["test PSNR"] for row in rows]
        spread = f" ({min(scores):.2f} to {max(scores):.2f})" if len(rows) > 1 else ""
        cells = [_mean(rows, "validation PSNR", ".2f"), f"{mean(scores):.2f}{spread}", _mean(rows, "test SSIM", ".4f")]
        cells += [_mean(rows, "training s", ".0f"), _mean(rows, "step MB", ".0f"), _mean(rows, "s a subject", ".1f")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _mean(rows: Sequence[Row], key: str, form: str) -> str:
    values = [row[key] for row in rows if row.get(key) is not None]
    return format(mean(values), form) if values else ""


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("layout", choices=("volume", "cine"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=Path, help="array of volumes or series; simulated heads without")
    parser.add_argument("--subjects", type=int, nargs=3, default=(4, 1, 2), help="to train, validate and test on")
    parser.add_argument("--axis", type=int, default=0, help="along which a single volume is cut")
    parser.add_argument("--frames", type=int, default=16, help="of a slab, or of a simulated subject")
    parser.add_argument("--merge", type=int, default=1, help="neighbours along the first axis averaged into one")
    parser.add_argument("--repeats", type=int, default=4, help="of training subjects, with other coils and phase")
    parser.add_argument("--size", type=int, nargs=2, default=(80, 64))
    parser.add_argument("--coils", type=int, default=6)
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--convex-blocks", type=int, default=5)
    parser.add_argument("--units", type=int, default=32)
    parser.add_argument("--gates", type=int, default=32)
    parser.add_argument("--pixels", type=float, default=0.2, help="share of the pixels of convex programs")
    parser.add_argument("--beta", type=float, default=1e-4, help="of convex programs, relative to beta_max")
    parser.add_argument("--tolerance", type=float, default=1e-3, help="relative gap of convex programs")
    parser.add_argument("--lam-scale", type=float, default=1.0, help="of the weights chosen for convex blocks")
    parser.add_argument("--whitened", type=float, default=0.5, help="share of the gates of convex blocks")
    parser.add_argument("--grow", choices=("none", "violation", "explained"), default="none", help="of their gates")
    parser.add_argument("--kernel", type=int, nargs="+", help="odd, of (t or z, y, x); the layout's own if left out")
    parser.add_argument("--initial", choices=(*INITIAL_IMAGES, *WEIGHTED_IMAGES), help="the layout's own if left out")
    parser.add_argument("--initial-weight", type=float, help="of l1_wavelet; chosen on training samples if left out")
    parser.add_argument("--inputs", nargs="+", default=["image"], help="images that denoisers see")
    parser.add_argument("--denoiser", choices=("relu", "resnet", "modl"), default="relu", help="of trained blocks")
    parser.add_argument("--width", type=int, help="of resnet and modl")
    parser.add_argument("--modules", type=int, default=0, help="of GLEAM; one a block if left out")
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--methods", nargs="*", help="trained ones whose names begin so; all if left out")
    parser.add_argument("--classical", nargs="*", help="classical ones by name; all if left out")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    """Everything, or the methods asked for; prints the table and keeps it."""
    given = _options()
    torch.set_num_threads(given.threads)
    counts, size = (tuple(given.subjects), tuple(given.size))
    scans = Scans(
        given.layout, given.images, counts, given.axis, given.frames, given.merge, given.repeats, size, given.coils
    )
    prepared = prepared_sets(scans, given.out)
    results = dict(classical(prepared, MASKS[given.layout], given.out, given.classical))
    wanted = tuple(given.methods) if given.methods is not None else ("",)
    for name, settings in contenders(given, PreparedSlices(prepared / "train", MASKS[given.layout])):
        if not name.startswith(wanted):
            continue
        folder = given.out / name.replace(",", "").replace("'", "").replace(" ", "_")
        seeds = range(given.seeds)
        results[name] = [
            trained(replace(settings, training_seed=seed), prepared, folder / f"seed_{seed}") for seed in seeds
        ]
        (given.out / "table.md").write_text(markdown(results))
        if wanted == (name,):
            break
    print(markdown(results))


if __name__ == "__main__":
    main()
