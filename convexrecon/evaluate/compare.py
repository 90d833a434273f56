"""Trained runs and classical baselines on the same held-out slices, scored the same way."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

from convexrecon.cascade import image_axes
from convexrecon.data.dataset import Batch, PreparedSlices
from convexrecon.data.prepared_files import StoredLayout
from convexrecon.errors import InputError
from convexrecon.evaluate.baselines import Reconstruction, Tuning, zero_filled
from convexrecon.evaluate.classical import classical_methods, tune_methods
from convexrecon.evaluate.metrics import SliceScore, score_volume, score_whole
from convexrecon.evaluate.pictured_shots import PicturedShots, pictured_shots
from convexrecon.evaluate.tables import Scored, Summary, summarize
from convexrecon.physics.forward_model import ForwardModel
from convexrecon.physics.fourier import crop_centre
from convexrecon.physics.sense import Sense
from convexrecon.training.config import RunSettings
from convexrecon.training.run_folder import RunFolder
from convexrecon.weights import load_cascade

Method = Callable[[ForwardModel, Tensor], Tensor]

# What one score is of, by the layout of the data.
SCORED: dict[StoredLayout, Scored] = {
    "slices": "slice",
    "volume": "volume",
    "cine": "series",
    "noncartesian": "slice",
    "noncartesian-volume": "volume",
}


@dataclass(frozen=True)
class Pictured:
    """One slice as every method has it, in the scanner's units, cropped to the recon size.

    Attributes:
        volume: name of its volume.
        slice_index: its index in it.
        reference: (y, x).
        images: method -> (y, x).
        mask: (y, x), or the shots of a trajectory.
        layout: of the data.
        whole: of a volume or a series all of it, "reference" first, then method -> (z or t, y, x); else empty.
    """

    volume: str
    slice_index: int
    reference: NDArray[np.complex64]
    images: dict[str, NDArray[np.complex64]]
    mask: NDArray[np.float32] | PicturedShots
    layout: StoredLayout = "slices"
    whole: dict[str, NDArray[np.complex64]] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate_runs` found.

    Attributes:
        scores: of every slice and method.
        summary: means and deviations per method, see `tables.summarize`.
        tuned: the baselines' weights, chosen on training slices.
        pictured: the middle slices of a few volumes.
    """

    scores: list[SliceScore]
    summary: Summary
    tuned: dict[str, Tuning]
    pictured: list[Pictured] = field(repr=False)


def evaluate_runs(
    runs: Sequence[RunFolder],
    data: Path | str,
    *,
    tune_on: Path | str | None = None,
    baselines: bool = True,
    pictures: int = 2,
    names: Sequence[str] | None = None,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> Evaluation:
    """Reconstruct every slice of a prepared folder with every method, and score it.

    Masks are those of the runs' settings, seeded by volume name, so that all methods see the same samples.
    Images are compared in the scanner's units, cropped to the recon size.

    Args:
        runs: trained runs of the same mask settings.
        data: folder of prepared volumes, held out from training.
        tune_on: folder of prepared volumes that hold the training volumes, for the baselines' weights; where
            the first run was trained if None.
        baselines: whether to add zero-filled and the layout's `classical.classical_methods`.
        pictures: of how many volumes to keep the middle slice.
        names: of the runs in the results; by default methods if they tell the runs apart, else folders.
        device: where to compute.
        progress: whether to show a bar.

    Raises:
        InputError: no runs, runs of different masks, or no data to tune on.
    """
    settings = _common_settings(runs)
    slices = PreparedSlices(data, settings.mask, seed=settings.seed)
    target = torch.device(device)
    methods: dict[str, Method] = {}
    tuned: dict[str, Tuning] = {}
    if baselines:
        classical = classical_methods(slices.layout)
        tuned = tune_methods(classical, _tuning_slices(runs[0], settings, tune_on), device=target, progress=progress)
        methods["zero-filled"] = zero_filled
        for method in classical:
            methods[method.name] = partial(_with_lam, method.reconstruct, tuned[method.name].lam)
    for name, run in zip(names or _names(runs), runs, strict=True):
        methods[name] = _network(run, slices, target)
    scores: list[SliceScore] = []
    pictured: list[Pictured] = []
    with tqdm(
        total=len(slices),
        desc=f"evaluating {SCORED[slices.layout]} by {SCORED[slices.layout]}",
        leave=False,
        disable=not progress,
    ) as bar:
        for volume in slices.volume_names:
            one = _one_volume if slices.dimensions == 2 else _one_whole
            found, picture = one(slices, volume, methods, target, bar)
            scores += found
            if len(pictured) < pictures:
                pictured.append(picture)
    ordered = sorted(scores, key=lambda score: list(methods).index(score.method))
    return Evaluation(ordered, summarize(ordered, SCORED[slices.layout]), tuned, pictured)


def _network(run: RunFolder, slices: PreparedSlices, device: torch.device) -> Method:
    """A run's cascade; one of two axes goes through volumes and series slice by slice."""
    cascade = load_cascade(run.weights)[0].to(device)
    axes = image_axes(cascade)
    if axes > slices.dimensions:
        raise InputError(
            f"{run.path}: its network is of volumes or series, {slices.folder} holds slices; expected data of "
            "layout 'volume' or 'cine'"
        )
    if axes == slices.dimensions:
        return cascade
    if slices.off_grid:
        raise InputError(
            f"{run.path}: its network is of slices, {slices.folder} holds volumes off the grid, whose k-space is "
            "not of slices; expected a network of volumes"
        )
    return partial(_with_lam, slice_by_slice(lambda sense, kspace, _: cascade(sense, kspace)), 0.0)


def _one_volume(
    slices: PreparedSlices, volume: str, methods: dict[str, Method], device: torch.device, bar: "tqdm"
) -> tuple[list[SliceScore], Pictured]:
    """Scores of one volume, all its slices together since SSIM refers to the volume's maximum."""
    positions = [k for k, key in enumerate(slices.slices) if key.volume == volume]
    images: dict[str, list[NDArray[np.complex64]]] = {name: [] for name in methods}
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    references: list[NDArray[np.complex64]] = []
    masks = []
    for position in positions:
        batch = slices.load(position).to(device)
        sense = batch.sense
        for name, method in methods.items():
            result, spent = _timed(method, sense, batch)
            seconds[name].append(spent)
            images[name].append(_in_scanner_units(result, batch))
        references.append(_in_scanner_units(batch.target, batch))
        masks.append(_sampling(batch))
        bar.update()
    indices = [slices.slices[position].slice_index for position in positions]
    scores = [
        score
        for name in methods
        for score in score_volume(name, volume, np.stack(images[name]), np.stack(references), indices, seconds[name])
    ]
    middle = len(positions) // 2
    chosen = {name: stack[middle] for name, stack in images.items()}
    return scores, Pictured(volume, indices[middle], references[middle], chosen, masks[middle])


def _one_whole(
    slices: PreparedSlices, volume: str, methods: dict[str, Method], device: torch.device, bar: "tqdm"
) -> tuple[list[SliceScore], Pictured]:
    """Scores of one volume or series as a whole; pictured are its middle slice, and all of it."""
    (position,) = (k for k, key in enumerate(slices.slices) if key.volume == volume)
    batch = slices.load(position).to(device)
    whole = {"reference": _in_scanner_units(batch.target, batch)}
    scores = []
    for name, method in methods.items():
        result, spent = _timed(method, batch.sense, batch)
        whole[name] = _in_scanner_units(result, batch)
        scores.append(score_whole(name, volume, whole[name], whole["reference"], spent))
    bar.update()
    middle = len(whole["reference"]) // 2
    chosen = {name: images[middle] for name, images in whole.items() if name != "reference"}
    reference = whole["reference"][middle]
    return scores, Pictured(volume, middle, reference, chosen, _sampling(batch, middle), slices.layout, whole)


def _sampling(batch: Batch, middle: int | None = None) -> NDArray[np.float32] | PicturedShots:
    """What a picture shows of the samples of a slice, or of the middle one of several."""
    if batch.shots is not None:
        return pictured_shots(batch)
    mask = batch.mask[0, 0] if middle is None else batch.mask[0, 0, middle]
    shown: NDArray[np.float32] = torch.fft.fftshift(mask).cpu().numpy()
    return shown


def _timed(method: Method, sense: ForwardModel, batch: Batch) -> tuple[Tensor, float]:
    started = time.perf_counter()
    with torch.no_grad():
        result = method(sense, batch.kspace)
    if result.device.type == "cuda":
        torch.cuda.synchronize(result.device)
    return result, time.perf_counter() - started


def slice_by_slice(method: Reconstruction) -> Reconstruction:
    """A method for slices applied to each slice or frame (t, y, x) of its own k-space, all at once."""

    def reconstruct(sense: ForwardModel, kspace: Tensor, lam: float) -> Tensor:
        if sense.ndim == 2 or not isinstance(sense, Sense):
            return method(sense, kspace, lam)
        every_mask = sense.mask.expand(len(kspace), *sense.mask.shape[1:])
        every_map = sense.maps.expand(kspace.shape)
        maps, mask, samples = (part.transpose(1, 2).flatten(0, 1) for part in (every_map, every_mask, kspace))
        return method(Sense(maps, mask), samples, lam).view(len(kspace), *kspace.shape[2:])

    return reconstruct


def _in_scanner_units(image: Tensor, batch: Batch) -> NDArray[np.complex64]:
    cropped = crop_centre(image[0] * batch.scale[0], batch.recon_size)
    return cropped.cpu().numpy()


def _tuning_slices(run: RunFolder, settings: RunSettings, tune_on: Path | str | None) -> PreparedSlices:
    """What the first run was trained on."""
    summary = run.read_summary()
    folder = Path(tune_on if tune_on is not None else summary.get("data_folder", ""))
    if tune_on is None and not folder.is_dir():
        raise InputError(
            f"{run.path}: its training data are no longer at {folder}; expected --tune-on FOLDER for the baselines' "
            "weights, or --no-baselines"
        )
    slices = PreparedSlices(folder, settings.mask, seed=settings.seed, slab=settings.slab)
    trained = {key.rpartition("/")[0] for key in summary.get("data", {}).get("train", [])}
    volumes = [name for name in slices.volume_names if not trained or name in trained]
    return slices.subset(volumes or slices.volume_names)


def _with_lam(method: Reconstruction, lam: float, sense: ForwardModel, kspace: Tensor) -> Tensor:
    return method(sense, kspace, lam)


def _common_settings(runs: Sequence[RunFolder]) -> RunSettings:
    if not runs:
        raise InputError("runs: expected at least one run folder")
    settings = [run.settings() for run in runs]
    for run, other in zip(runs, settings, strict=True):
        if (other.mask, other.seed) != (settings[0].mask, settings[0].seed):
            raise InputError(
                f"{run.path}: has mask {other.mask} and seed {other.seed}, {runs[0].path} has {settings[0].mask} "
                f"and seed {settings[0].seed}; expected runs that see the same samples"
            )
        if not run.weights.exists():
            raise InputError(f"{run.path}: has no weights yet; expected a trained run")
    return settings[0]


def _names(runs: Sequence[RunFolder]) -> list[str]:
    """Methods if they tell the runs apart, else folder names, else paths."""
    for names in (
        [run.settings().method for run in runs],
        [run.path.resolve().name for run in runs],
        [str(run.path) for run in runs],
    ):
        if len(set(names)) == len(names):
            return list(names)
    raise InputError("runs: the same run folder is given twice")
