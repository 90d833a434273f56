"""A scanner file and a trained run to images, in the scanner's units."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import h5py
import numpy as np
import torch
from torch import Tensor

from convexrecon.cascade import Cascade, image_axes
from convexrecon.data.ismrmrd_acquisitions import encoding_of, open_acquisitions
from convexrecon.data.ismrmrd_samples import Units
from convexrecon.data.ismrmrd_scan import voxel_of
from convexrecon.data.preparation import layout_of
from convexrecon.data.prepared_files import Layout
from convexrecon.data.scan import Axis, ReadSlice, Scan
from convexrecon.data.scans import one_scan, open_scan
from convexrecon.data.shot_preparation import has_trajectory
from convexrecon.denoisers.patchwise import Extent
from convexrecon.errors import InputError
from convexrecon.evaluate.metrics import SliceScore, score_whole
from convexrecon.image_files import image_file, image_format
from convexrecon.physics.fourier import crop_centre
from convexrecon.physics.masks import acceleration_of
from convexrecon.reconstruct_shots import ShotImages, reconstruct_shots
from convexrecon.reconstruct_slices import reconstruct_slices
from convexrecon.reconstruct_whole import reconstruct_whole
from convexrecon.training.run_folder import RunFolder
from convexrecon.weights import load_cascade


@dataclass(frozen=True)
class Reconstruction:
    """What `reconstruct_file` did.

    Attributes:
        out: the file with the images.
        slices: how many.
        acceleration: samples on the grid over samples used; off it, see `reconstruct_shots.ShotImages`.
        retrospective: whether a fully sampled scan was undersampled here, so that there is a reference.
        seconds_per_slice: of the network alone, coil sensitivities taken as given.
        psnr, ssim, nmse: means over slices against the fully sampled SENSE image; None without reference.
    """

    out: Path
    slices: int
    acceleration: float
    retrospective: bool
    seconds_per_slice: float
    psnr: float | None = None
    ssim: float | None = None
    nmse: float | None = None

    def describe(self) -> str:
        """A few lines for a person."""
        how = "undersampled here as in training" if self.retrospective else "as acquired"
        text = f"{self.slices} slices, R = {self.acceleration:.2f} ({how}), {self.seconds_per_slice:.2f} s a slice"
        if self.psnr is not None:
            text += (
                f"\nagainst the fully sampled scan: PSNR {self.psnr:.2f} dB, SSIM {self.ssim:.4f}, NMSE {self.nmse:.2e}"
            )
        return f"{text}\n{self.out}"


def reconstruct_file(
    run: Path | str,
    file: Path | str,
    out: Path | str,
    *,
    patch: Extent | Literal["as trained"] | None = "as trained",
    layout: Layout | None = None,
    readout: Axis | None = None,
    keep_complex: bool = False,
    undersample_it: bool | None = None,
    units: Units | None = None,
    field_of_view: float | None = None,
    select: Mapping[str, int] | None = None,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> Reconstruction:
    """Reconstruct every slice of a scan with a trained run.

    The sampling mask is the file's own if it states one, else what of its k-space is not zero. A fully
    sampled scan is undersampled with the run's mask settings, seeded by the file's name, and the result
    scored against it. Coil sensitivities come from the fully sampled centre that the mask has.

    `out` is by its suffix NIfTI, BART or ISMRMRD images, see `image_file`, or HDF5 in fastMRI layout:
    `reconstruction` (slice, y, x) float32 magnitudes of the recon size in the scanner's units,
    `reconstruction_complex` of the same shape, `mask` (y, x), or (t, y, x) of a series, and, of a fully sampled
    scan, `target_complex`.

    Args:
        run: run folder.
        file: scan of any format of `data.scans`.
        out: file for the images.
        patch: most pixels along every axis, or each, that are denoised at a time, with a halo that leaves the images as
            they are; None for whole images.
        layout: what the scan's slices are, "slices", a "volume" or a "cine"; None for what it says itself. A
            network of three axes takes a volume or a series as a whole, one of two axes slice by slice all the same.
        readout: of scans in three dimensions, see `scans.open_scan`.
        keep_complex: whether a NIfTI file gets complex images instead of magnitudes.
        undersample_it: of a file with trajectories, whether shots are left out as in training; None for where they
            cover k-space. `out` then has `coordinates` (shots, S, d) and `shots` in place of `mask`.
        units: of a file with trajectories, see `data.ismrmrd_samples`; None where they can be told.
        field_of_view: of a file with trajectories, by how much images are larger than planned while they are computed,
            see `data.field_of_view`; None for that of the data the run was trained on.
        select: of an ISMRMRD file, which value of counters to take, as of `preparation.prepare`.
        device: where to compute.
        progress: whether to show a bar.

    Raises:
        InputError: not a trained run, a scan that cannot be read, no calibration region in its mask, a patch that does
            not suit the denoisers, a name for the images that no format has.
    """
    image_format(out)
    folder, target = RunFolder(Path(run)), torch.device(device)
    cascade = load_cascade(folder.weights)[0].to(target)
    if patch != "as trained":
        for block in cascade:
            block.use_patches(patch)
    path = one_scan(file)
    if Path(out).resolve() == path.resolve():
        raise InputError(f"{out}: is the scan itself; expected another file for the images")
    axes = image_axes(cascade)
    if has_trajectory(path):
        for name, value in (("layout", layout), ("readout", readout)):
            if value is not None:
                raise InputError(f"{path}: {name} {value!r} asked for of a scan along a trajectory; expected none")
        found = reconstruct_shots(
            cascade, axes, path, folder.settings(), undersample=undersample_it, units=units, select=select,
            field_of_view=folder.field_of_view if field_of_view is None else field_of_view, device=target,
        )  # fmt: skip
        return _write_shots(found, path, folder, Path(out), volume=axes == 3, keep_complex=keep_complex)
    if undersample_it is not None or units is not None or field_of_view is not None:
        raise InputError(
            f"{path}: is on the grid; expected undersample, units and field_of_view for scans along a trajectory alone"
        )
    info = open_scan(path, readout, select)
    known = _known_layout(info, layout, axes, folder)
    return _write_slices(cascade, axes, info, known, folder, Path(out), target, keep_complex=keep_complex, bar=progress)


def _known_layout(info: Scan, layout: Layout | None, axes: int, run: RunFolder) -> Layout:
    """What the scan's slices are to a network of so many axes; one of three takes those of a 3-D scan as a volume."""
    known = layout_of(info, layout)
    if axes == 3 and known == "slices":
        if not info.volumetric:
            raise InputError(
                f"{info.path}: the network of {run.path} is of volumes or series, the file says nothing of its "
                "slices; expected its attribute layout, or --layout, to be 'volume' or 'cine'"
            )
        return "volume"
    return known


def _write_slices(
    cascade: Cascade,
    axes: int,
    info: Scan,
    layout: Layout,
    run: RunFolder,
    out: Path,
    device: torch.device,
    *,
    keep_complex: bool,
    bar: bool,
) -> Reconstruction:
    """A scan on the grid, slice by slice or all together."""
    of_images: Layout = "volume" if info.volumetric else layout
    with (
        info.samples() as read,
        image_file(out, of_images, voxel_mm=info.voxel_mm, header=info.header, keep_complex=keep_complex) as images,
    ):
        if axes == 3:
            mask, seconds, scores = _whole_file(cascade, info, read, layout, run, images, device)
        else:
            mask, seconds, scores = reconstruct_slices(
                cascade, info, read, layout, run.settings(), images, device, progress=bar
            )
        images.attrs.update(_attributes(info, run, mask))
        retrospective = "target_complex" in images
    return Reconstruction(
        out=out,
        slices=info.shape[0],
        acceleration=acceleration_of(mask),
        retrospective=retrospective,
        seconds_per_slice=seconds / info.shape[0],
        psnr=_mean(scores, "psnr"),
        ssim=_mean(scores, "ssim"),
        nmse=_mean(scores, "nmse"),
    )


def _write_shots(
    found: ShotImages, file: Path, run: RunFolder, out: Path, *, volume: bool, keep_complex: bool
) -> Reconstruction:
    with open_acquisitions(file) as raw:
        voxel, header = voxel_of(encoding_of(raw), volumetric=volume), raw.header
    layout: Layout = "volume" if volume else "slices"
    with image_file(out, layout, voxel_mm=voxel, header=header, keep_complex=keep_complex) as store:
        store["reconstruction_complex"] = found.images
        store["reconstruction"] = np.abs(found.images)
        if found.references is not None:
            store["target_complex"] = found.references
        store["coordinates"], store["shots"] = found.coordinates, found.kept
        store.attrs.update(source=file.name, run=run.path.name, acceleration_reached=found.acceleration)
    return Reconstruction(
        out=out,
        slices=len(found.images),
        acceleration=found.acceleration,
        retrospective=found.references is not None,
        seconds_per_slice=found.seconds / len(found.images),
        psnr=_mean(found.scores, "psnr"),
        ssim=_mean(found.scores, "ssim"),
        nmse=_mean(found.scores, "nmse"),
    )


def _whole_file(
    cascade: Cascade,
    info: Scan,
    read: ReadSlice,
    layout: Layout,
    run: RunFolder,
    images: h5py.File,
    device: torch.device,
) -> tuple[Tensor, float, list[SliceScore]]:
    """All slices together into `images`: the mask used, the seconds, and the score of what has a reference."""
    whole = reconstruct_whole(cascade, info, read, layout, run.settings(), device)
    image = crop_centre(whole.image, info.recon_size).numpy()
    images["reconstruction_complex"] = image
    images["reconstruction"] = np.abs(image)
    images["mask"] = whole.mask.numpy()
    if whole.reference is None:
        return whole.mask, whole.seconds, []
    reference = crop_centre(whole.reference, info.recon_size).numpy()
    images["target_complex"] = reference
    return whole.mask, whole.seconds, [score_whole("reconstruction", info.volume, image, reference, whole.seconds)]


def _attributes(info: Scan, run: RunFolder, mask: Tensor) -> dict[str, str | float | int]:
    return {
        **info.attributes,
        "source": info.path.name,
        "run": run.path.name,
        "acceleration_reached": acceleration_of(mask),
    }


def _mean(scores: list[SliceScore], name: str) -> float | None:
    return float(np.mean([getattr(score, name) for score in scores])) if scores else None
