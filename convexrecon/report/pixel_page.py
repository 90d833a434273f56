"""From a run, a scan, a slice and a pixel to the page that explains it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm.auto import tqdm

from convexrecon.data.ismrmrd_samples import Units
from convexrecon.data.prepared_files import Layout
from convexrecon.data.sample_batch import Batch
from convexrecon.errors import InputError
from convexrecon.interpret.explanation import Explainer, PixelExplanation, explainer
from convexrecon.physics.fourier import crop_start
from convexrecon.report.explain_page import as_slices, write_explanation
from convexrecon.scan_sample import pixel_size, sample_of_file
from convexrecon.training.run_folder import RunFolder
from convexrecon.weights import load_cascade

# Bytes that a page may have, and what a number of a filter and a pixel of a row take.
LARGEST_PAGE = 8e6
_BYTES_A_TAP = 2.7
_BYTES_A_ROW = 22_000


@dataclass(frozen=True, eq=False)
class PixelPage:
    """What `explain_pixel` did.

    Attributes:
        out: the page.
        pixel: (y, x) asked for, as `reconstruct` counts it.
        slice_index: of the scan.
        explanation: of this pixel.
        pixels: how many can be clicked.
        error: its error in % of max|x*|, or None without a reference.
    """

    out: Path
    pixel: tuple[int, int]
    slice_index: int
    explanation: PixelExplanation
    pixels: int
    error: float | None

    def describe(self) -> str:
        """A few lines for a person."""
        found = self.explanation
        lines = [f"slice {self.slice_index}, pixel y = {self.pixel[0]}, x = {self.pixel[1]}"]
        for number, read in enumerate(found.blocks, 1):
            gates = "" if read.gates is None else f"{int(read.gates.sum())} of {len(read.gates)} gates fire, "
            values = [abs(value) for value in found.values[2 * number - 2 : 2 * number + 1]]
            lines.append(
                f"block {number}: {gates}magnitude {values[0]:.4f}, denoised {values[1]:.4f}, "
                f"consistent {values[2]:.4f}"
            )
        if self.error is not None:
            lines.append(f"error {self.error:.2f} % of max|x*|")
        return "\n".join([*lines, f"{self.out} ({self.pixels} pixels to click)"])


def explain_pixel(
    run: Path | str,
    file: Path | str,
    out: Path | str,
    *,
    slice_index: int,
    pixel: tuple[int, int],
    grid: int = 100,
    layout: Layout | None = None,
    units: Units | None = None,
    select: Mapping[str, int] | None = None,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> PixelPage:
    """Write the page that explains a pixel, and the pixels of a coarse grid around it.

    Args:
        run: run folder of a trained model.
        file: scan or prepared volume; see `scan_sample.sample_of_file`.
        out: the HTML file.
        slice_index: slice, frame or plane.
        pixel: (y, x) in the images that `reconstruct_file` writes.
        grid: most other pixels; fewer where the page would be larger than some 8 MB.
        layout: what a Cartesian scan's slices are; what it says itself if None.
        units: of a trajectory that does not tell.
        select: of an ISMRMRD scan, which value of counters to take.
        device: where to compute.
        progress: whether to show a bar.

    Raises:
        InputError: no such slice or pixel, or as `scan_sample.sample_of_file`.
    """
    if grid < 0:
        raise InputError(f"grid: expected a number of pixels, 0 for none but the one asked for, found {grid}")
    folder, place = RunFolder(Path(run)), torch.device(device)
    batch, reference = sample_of_file(run, file, slice_index, layout=layout, units=units, select=select, device=place)
    cascade = load_cascade(folder.weights)[0].to(place)
    size = batch.target.shape[-2:]
    crop = as_slices(size, batch.recon_size[-2:])
    shown = (crop[0].stop - crop[0].start, crop[1].stop - crop[1].start)
    if any(not 0 <= index < extent for index, extent in zip(pixel, shown, strict=True)):
        raise InputError(
            f"pixel: expected y,x of 0 to {shown[0] - 1}, 0 to {shown[1] - 1} in {Path(file).name}, "
            f"found {pixel[0]},{pixel[1]}"
        )
    whole = batch.target.ndim == 4
    plane = (slice_index + _planes_before(batch),) if whole else ()
    asked = explainer(cascade, batch.sense, batch.kspace, reference=reference)
    wanted = (*plane, pixel[0] + crop[0].start, pixel[1] + crop[1].start)
    first = asked.explain(wanted)
    others = [at for at in asked.grid(_affordable(first, grid), plane=plane) if _inside(at, crop) and at != wanted]
    bar = tqdm(others, "explaining pixels", leave=False, disable=not progress)
    found = [first, *[asked.explain(at) for at in bar]]
    write_explanation(
        out,
        asked,
        found,
        title=f"What {folder.path.resolve().name} does at a pixel",
        subtitle=f"{Path(file).name}, slice {slice_index}",
        crop=crop,
        spacing=pixel_size(file, volumetric=whole, select=select),
    )
    return PixelPage(Path(out), pixel, slice_index, first, len(found), _error(asked, first))


def _planes_before(batch: Batch) -> int:
    """Planes of a computed volume before the first one of the scanner's."""
    have = batch.target.shape[1]
    kept = batch.recon_size[0] if len(batch.recon_size) == 3 else have
    return crop_start(have, min(have, kept))


def _affordable(found: PixelExplanation, grid: int) -> int:
    """How many pixels a page has room for."""
    taps = sum(read.taps.numel() + read.neighbourhood.numel() for read in found.blocks)
    return min(grid, int(LARGEST_PAGE / (_BYTES_A_TAP * taps + _BYTES_A_ROW)))


def _inside(at: tuple[int, ...], crop: tuple[slice, slice]) -> bool:
    return all(part.start <= index < part.stop for index, part in zip(at[-2:], crop, strict=True))


def _error(asked: Explainer, found: PixelExplanation) -> float | None:
    if asked.reference is None or found.reference is None:
        return None
    return 100 * abs(found.values[-1] - found.reference) / float(asked.reference.abs().max())
