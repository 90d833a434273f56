"""Miller et al. 2022: block-wise learning of 3-D non-Cartesian reconstruction, its memory, and L1-wavelet beside it.

    python papers_repro/blockwise2022.py --out DIR
    python papers_repro/blockwise2022.py --out DIR --data mridata FOLDER      their volumes, sampled anew along spokes

One training step through whole volumes and patch by patch, against the size of the patch; then a small cascade against
a tuned L1-wavelet reconstruction: PSNR and time. A stopped run continues.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from statistics import fmean
from typing import Any

import torch
from cells import cell
from claims import Claim, Rule
from command_line import Given, parsed, run_script, script_parser
from kooshball_volumes import KooshballScan, kooshball_scans
from plots import Panel, Series, bar_panels, line_panels, point_panels
from results import write_paper
from scans import DataSets, Scans, data_sets

from convexrecon.cascade import Block, Cascade
from convexrecon.denoisers.building import new_denoiser
from convexrecon.denoisers.patchwise import receptive_field
from convexrecon.errors import InputError
from convexrecon.evaluate.baselines import tune, zero_filled
from convexrecon.evaluate.metrics import psnr
from convexrecon.physics.data_consistency import GradientDataConsistency
from convexrecon.physics.l1_wavelet import l1_wavelet
from convexrecon.report.html import Picture
from convexrecon.report.pictures import comparison
from convexrecon.seeding import generator
from convexrecon.training.live_memory import LiveMemory

CITATION = (
    "Z. Miller, A. Pirasteh, K. Johnson: Memory Efficient Model Based Deep Learning Reconstructions for High Spatial "
    "Resolution 3D Non-Cartesian Acquisitions, arXiv 2204.13862, Phys Med Biol 68:075008 (2023)."
)
ABSTRACT = "the abstract"
# In the middle of the published ranges of the matrix; unrolls as in the same laboratory's released code.
PUBLISHED_VOXELS = 375 * 250 * 375
PUBLISHED_UNROLLS = 6

Row = dict[str, Any]


@dataclass(frozen=True)
class Scale:
    """How large: volumes, spokes, noise; what memory is measured on; the cascade that is trained.

    Patches change no gradient, but small ones are slow on a CPU: without `trained_patch` whole volumes are trained on.
    """

    scans: Scans
    shots: int
    noise: float
    width: int
    unrolls: int
    patches: tuple[int, ...]
    trained_width: int
    trained_unrolls: int
    trained_patch: int | None
    steps: int
    learning_rate: float


SCALES = {
    "tiny": Scale(Scans((1, 1, 1), 16, (32, 32), 2, (0, 0, 0), 12, "volume"), 60, 0.05, 4, 1, (12,), 4, 1, 16, 2, 2e-3),
    "synthetic": Scale(
        Scans((3, 1, 2), 24, (36, 32), 4, (0, 0, 0), 12, "volume"), 250, 0.1, 32, 2, (12, 18, 24), 12, 3, None, 60, 3e-3
    ),
    "full": Scale(
        Scans((14, 2, 3), 1, (320, 256), 8, (14, 2, 3), 20, "volume"),
        12_000, 0.1, 32, 6, (64, 96, 128), 32, 6, 128, 2000, 1e-3,
    ),
}  # fmt: skip


def cascade_of(width: int, unrolls: int, patch: int | None, seed: int) -> Cascade:
    """An untrained cascade of MoDL's denoisers and gradient steps, denoised patch by patch."""
    rng = generator(seed, "blockwise")
    blocks = []
    for _ in range(unrolls):
        denoiser = new_denoiser("modl", width=width, dimensions=3, generator=rng)
        blocks.append(Block(denoiser, GradientDataConsistency(learn=True), patch=patch))
    return Cascade(blocks)


def step(model: Cascade, scan: KooshballScan) -> torch.Tensor:
    """Loss and gradients of one volume."""
    loss = (model(scan.sense, scan.kspace) - scan.target).abs().mean()
    loss.backward()
    return loss.detach()


def memory(scale: Scale, scan: KooshballScan, device: torch.device) -> list[Row]:
    """MB and seconds of a step: of the whole volume, of twice the unrolls, and by patch size."""
    scan.sense.normal(scan.target)  # what is computed once for a trajectory

    def measured(patch: int | None, unrolls: int) -> Row:
        model = cascade_of(scale.width, unrolls, patch, 0).to(device)
        started = time.process_time()
        with LiveMemory(device) as live:
            step(model, scan)
        return {"patch": patch, "unrolls": unrolls, "MB": live.peak_mb, "s": time.process_time() - started}

    rows = [measured(None, scale.unrolls), measured(None, 2 * scale.unrolls)]
    return rows + [measured(patch, scale.unrolls) for patch in scale.patches]


def train(scale: Scale, scans: Sequence[KooshballScan], seed: int, device: torch.device) -> tuple[Cascade, float]:
    """Adam, a volume a step, patch by patch; the cascade, and seconds."""
    model = cascade_of(scale.trained_width, scale.trained_unrolls, scale.trained_patch, seed).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=scale.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, scale.steps, 0.01 * scale.learning_rate)
    order, started = generator(seed, "order"), time.perf_counter()
    for _ in range(scale.steps):
        optimizer.zero_grad()
        step(model, scans[int(torch.randint(len(scans), (1,), generator=order))])
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model, time.perf_counter() - started


def quality(given: Given, scale: Scale, data: DataSets, seed: int) -> Row:
    """PSNR and process seconds of gridding, L1-wavelet (tuned on a training volume) and the cascade; a middle slice."""
    train_on = kooshball_scans(data.train, scale.shots, scale.noise, given.device, most=64)
    tests = kooshball_scans(data.test, scale.shots, scale.noise, given.device, most=8)
    model, seconds = train(scale, train_on, seed, given.device)
    samples = [(scan.sense, scan.kspace, scan.target) for scan in train_on[:1]]
    tuned = tune(l1_wavelet, samples, low=1e-3, high=3e-2, points=4, refinements=2)
    methods: dict[str, Callable[[KooshballScan], torch.Tensor]] = {
        "gridding": lambda scan: zero_filled(scan.sense, scan.kspace),
        "L1-wavelet": lambda scan: l1_wavelet(scan.sense, scan.kspace, tuned.lam),
        "block-wise": lambda scan: model(scan.sense, scan.kspace),
    }
    row: Row = {"training s": seconds, "lam": tuned.lam, "psnr": {}, "s": {}, "slice": {}}
    for name, method in methods.items():
        started = time.process_time()
        with torch.no_grad():
            images = [method(scan) for scan in tests]
        row["s"][name] = (time.process_time() - started) / len(tests)
        row["psnr"][name] = fmean(psnr(i[0].cpu(), scan.target[0].cpu()) for i, scan in zip(images, tests, strict=True))
        row["slice"][name] = _middle(images[0])
    return row | {"reference": _middle(tests[0].target)}


def _middle(volume: torch.Tensor) -> list[Any]:
    """The middle slice as real and imaginary parts."""
    parts: list[Any] = torch.view_as_real(volume[0, volume.shape[1] // 2].cpu()).tolist()
    return parts


def claims_of(scale: Scale, rows: Sequence[Row], runs: Sequence[Row], voxels: int, data: DataSets) -> list[Claim]:
    """Memory, extrapolated to the paper's matrix; time and quality beside L1-wavelet."""
    whole, deeper = rows[0]["MB"], rows[1]["MB"]
    each = (deeper - whole) / scale.unrolls
    predicted = (whole + (PUBLISHED_UNROLLS - scale.unrolls) * each) * PUBLISHED_VOXELS / voxels / 1e3
    one = f"MoDL's denoiser of {scale.width} channels, at {voxels:,} voxels and {scale.unrolls} unrolls"
    small = min(rows[2:], key=lambda row: float(row["MB"]))
    setting = f"{data.words} as kooshball of {scale.shots} spokes; {scale.trained_unrolls} unrolls, {scale.steps} steps"
    gains = tuple(float(run["psnr"]["block-wise"] - run["psnr"]["L1-wavelet"]) for run in runs)
    faster = tuple(float(run["s"]["L1-wavelet"] / run["s"]["block-wise"]) for run in runs)
    memory_words = "the memory of ordinary backpropagation at the paper's matrix"
    patch_words = "the memory of a whole volume's step over that of the smallest patches"
    extrapolated = f"{one}, extrapolated to 375 x 250 x 375 and {PUBLISHED_UNROLLS} unrolls"
    smallest = f"{one}, patches of {small['patch']}"
    timed = f"{setting}; L1-wavelet of 120 iterations, on one CPU thread"
    half = Rule("at least", 2.0, "half of the memory and less")

    def claim(
        text: str, published: str, ours: tuple[float, ...], unit: str, digits: str, where: str, by: Rule
    ) -> Claim:
        return Claim(text, published, ABSTRACT, ours, unit, digits, where, by)

    return [
        claim(memory_words, "more than 250 GB", (predicted,), "GB", ".0f", extrapolated, Rule("at least", 250.0)),
        claim(patch_words, "set by the patch alone", (whole / small["MB"],), "times", ".1f", smallest, half),
        claim(
            "the time of L1-wavelet over the network's", "38 times", faster, "times", ".1f", timed, Rule("at least", 38)
        ),
        claim(
            "the network's lead over L1-wavelet in PSNR",
            "better, no number",
            gains,
            "dB",
            ".2f",
            setting,
            Rule("at least", 0),
        ),
    ]


def figures_of(rows: Sequence[Row], runs: Sequence[Row]) -> dict[str, Picture]:
    """Memory against the patch, quality and time, a slice."""
    patched = sorted(rows[2:], key=lambda row: int(row["patch"]))
    x = [int(row["patch"]) for row in patched]
    panels = [
        Panel(
            title,
            {
                "patch by patch": Series(x, [[row[key] for row in patched]]),
                "whole volume": Series(x, [[rows[0][key]] * len(x)], dashed=True, markers=False),
            },
            "largest side of a patch (voxels)",
            unit,
            from_zero=True,
        )
        for title, key, unit in (("memory of a step", "MB", "MB"), ("processor time of a step", "s", "s"))
    ]
    names = list(runs[0]["psnr"])
    qualities = {"quality": {name: [float(run["psnr"][name]) for run in runs] for name in names}}
    times = {"time of a volume": {name: [float(run["s"][name]) for run in runs] for name in names}}
    images = {name: torch.view_as_complex(torch.tensor(part)).numpy() for name, part in runs[0]["slice"].items()}
    reference = torch.view_as_complex(torch.tensor(runs[0]["reference"])).numpy()
    return {
        "memory": Picture(
            line_panels(panels), "One training step of the same cascade, through the whole volume and patch by patch."
        ),
        "quality": Picture(
            point_panels(qualities, ["test PSNR (dB)"]), "Test volumes off the grid; lines are means, points seeds."
        ),
        "time": Picture(bar_panels(times, ["s"]), "Processor time of the reconstruction of a volume, one thread."),
        "images": Picture(comparison(reference, images), "The middle slice of a test volume, first seed."),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and train what is missing, write the table."""
    given = parsed(script_parser(__doc__), arguments)
    if given.data == "fastmri":
        raise InputError("--data fastmri: its scans are of two axes; expected --data mridata FOLDER, of volumes")
    scale = SCALES[given.size]
    data = data_sets(given, scale.scans, given.out / "data")
    first = kooshball_scans(data.test, scale.shots, scale.noise, given.device, most=1)[0]
    settings = asdict(scale) | {"data": data.words}
    rows: list[Row] = cell(given.out / "cells", "memory", settings, partial(memory, scale, first, given.device))
    runs: list[Row] = [
        cell(given.out / "cells", f"quality_{seed}", settings, partial(quality, given, scale, data, seed))
        for seed in range(given.seeds)
    ]
    halo = receptive_field(next(iter(cascade_of(2, 1, None, 0))).denoiser)[0]
    patch = scale.trained_patch
    trained = "on whole volumes, whose gradients are the same" if patch is None else f"in patches of {patch}"
    notes = [
        "Volumes are sampled anew along 3-D radial spokes by the golden means, with density compensation and noise. "
        f"Blocks are MoDL's 3-D denoisers, patch by patch with a halo of {halo} voxels that changes nothing, and "
        "gradient steps on the whole volume.",
        f"The cascade whose quality is measured was trained {trained}. "
        f"Training took {fmean(run['training s'] for run in runs):.0f} s a seed. L1-wavelet was tuned on one training "
        "volume.",
    ]
    write_paper(
        given.out,
        title="Block-wise learning (2022)",
        citation=CITATION,
        command="python papers_repro/blockwise2022.py --out DIR",
        notes=notes,
        claims=claims_of(scale, rows, runs, first.target.numel(), data),
        figures=figures_of(rows, runs),
    )
    print((given.out / "table.md").read_text())


if __name__ == "__main__":
    run_script(main)
