"""Volumes and series of a benchmark: one file of images, or simulated anatomies, as three sets of prepared scans."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from convexrecon.data.image_stacks import load_image_stack
from convexrecon.data.preparation import PreparationSettings, prepare
from convexrecon.data.simulation import simulate_dataset

SETS = ("train", "validation", "test")


@dataclass(frozen=True)
class Scans:
    """What is scanned, and how.

    Attributes:
        layout: "volume" or "cine".
        images: file of an array (..., t or z, y, x); None for simulated heads.
        counts: subjects of each set. An array of one subject is cut into so many slabs.
        axis: of an array of one subject, along which it is cut; the readout of its scans.
        frames: slices of a slab, or of a simulated volume or series.
        merge: so many neighbours along the first axis are averaged into one.
        repeats: of the training subjects, each time with other coils, phase, noise and mask.
        size: (y, x) of the scans.
        coils: receive channels.
        noise: of the brightest tissue.
    """

    layout: Literal["volume", "cine"]
    images: Path | None = None
    counts: tuple[int, int, int] = (4, 1, 2)
    axis: int = 0
    frames: int = 16
    merge: int = 1
    repeats: int = 1
    size: tuple[int, int] = (80, 64)
    coils: int = 6
    noise: float = 0.01


def prepared_sets(scans: Scans, out: Path) -> Path:
    """Scan and prepare the three sets; what is there already is kept. Returns the folder that holds them."""
    arrays = {} if scans.images is None else dict(zip(SETS, _split(scans), strict=True))
    for seed, (name, count) in enumerate(zip(SETS, scans.counts, strict=True)):
        folder, images = out / "scans" / name, None if scans.images is None else out / f"{name}.npy"
        if images is not None:
            out.mkdir(parents=True, exist_ok=True)
            np.save(images, np.concatenate([arrays[name]] * (scans.repeats if name == "train" else 1)))
        simulate_dataset(
            folder,
            volumes=count if images is None else None,
            slices=scans.frames if images is None else None,
            anatomy="head",
            images=images,
            layout=scans.layout,
            size=scans.size,
            coils=scans.coils,
            noise=scans.noise,
            seed=seed,
            progress=False,
        )
        prepare(folder, out / "prepared" / name, PreparationSettings(), layout=scans.layout, progress=False)
    return out / "prepared"


def _split(scans: Scans) -> Iterator[NDArray[np.float32]]:
    """The subjects of each set in turn, (subjects, t or z, y, x)."""
    assert scans.images is not None
    stack = load_image_stack(scans.images)
    whole = np.stack(list(stack)).reshape(-1, stack.frames or 1, *stack.shape[1:])
    if len(whole) == 1:
        whole = np.moveaxis(whole, scans.axis + 1, 1)
    kept = whole.shape[1] // scans.merge * scans.merge
    merged = whole[:, :kept].reshape(len(whole), -1, scans.merge, *whole.shape[2:]).mean(2)
    subjects = merged if len(merged) > 1 else _slabs(merged[0], scans.frames, sum(scans.counts))
    if sum(scans.counts) > len(subjects):
        raise SystemExit(f"{scans.images}: {len(subjects)} subjects; expected at least {sum(scans.counts)}")
    done = 0
    for count in scans.counts:
        yield subjects[done : done + count]
        done += count


def _slabs(volume: NDArray[np.float32], frames: int, count: int) -> NDArray[np.float32]:
    """Slabs of so many slices, evenly apart within what is not blank, in order."""
    filled = np.flatnonzero(np.abs(volume).max((1, 2)) > 0.02 * np.abs(volume).max())
    first, last = int(filled[0]), int(filled[-1]) + 1
    if count * frames > last - first:
        raise SystemExit(f"{count} slabs of {frames} slices expected, {last - first} slices found")
    starts = np.linspace(first, last - frames, count).astype(int)
    return np.stack([volume[start : start + frames] for start in starts])
