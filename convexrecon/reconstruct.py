"""A scanner file and a trained run to images, in the scanner's units."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

from convexrecon.cascade import Cascade, image_axes
from convexrecon.data.atomic_hdf5 import atomic_hdf5
from convexrecon.data.dataset import undersample
from convexrecon.data.fastmri import ScanInfo, read_kspace, read_scan_info
from convexrecon.data.ismrmrd_samples import Units
from convexrecon.data.preparation import PreparationSettings, crop_oversampling, layout_of, prepare_slice
from convexrecon.data.prepared_files import Layout
from convexrecon.data.shot_preparation import has_trajectory
from convexrecon.denoisers.patchwise import Extent
from convexrecon.errors import InputError
from convexrecon.evaluate.metrics import SliceScore, score_volume, score_whole
from convexrecon.physics.fourier import centred_ifft, crop_centre
from convexrecon.physics.masks import (
    acceleration_of,
    calibration_extent,
    is_fully_sampled,
    sampling_mask,
)
from convexrecon.reconstruct_shots import ShotImages, reconstruct_shots
from convexrecon.reconstruct_whole import reconstruct_whole
from convexrecon.seeding import derive_seed
from convexrecon.training.config import RunSettings
from convexrecon.training.run_folder import RunFolder
from convexrecon.weights import load_cascade

# A larger calibration region says nothing more of smooth sensitivities and costs time.
LARGEST_CALIBRATION = 24


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
    undersample_it: bool | None = None,
    units: Units | None = None,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> Reconstruction:
    """Reconstruct every slice of a scan with a trained run.

    The sampling mask is the file's own if it states one, else what of its k-space is not zero. A fully
    sampled scan is undersampled with the run's mask settings, seeded by the file's name, and the result
    scored against it. Coil sensitivities come from the fully sampled centre that the mask has.

    `out` is HDF5 in fastMRI layout: `reconstruction` (slice, y, x) float32 magnitudes of the recon size in
    the scanner's units, `reconstruction_complex` of the same shape, `mask` (y, x) and, of a fully sampled
    scan, `target_complex`.

    Args:
        run: run folder.
        file: fastMRI-style scan.
        out: HDF5 file for the images.
        patch: most pixels along every axis, or each, that are denoised at a time, with a halo that leaves the images as
            they are; None for whole images.
        layout: what the scan's slices are, "slices", a "volume" or a "cine"; None for what its attribute says. A
            network of three axes takes a volume or a series as a whole, one of two axes slice by slice all the same.
        undersample_it: of a file with trajectories, whether shots are left out as in training; None for where they
            cover k-space. `out` then has `coordinates` (shots, S, d) and `shots` in place of `mask`.
        units: of a file with trajectories, see `data.ismrmrd_samples`; None where they can be told.
        device: where to compute.
        progress: whether to show a bar.

    Raises:
        InputError: not a trained run, a scan that cannot be read, no calibration region in its mask, a patch that does
            not suit the denoisers.
    """
    folder, target = RunFolder(Path(run)), torch.device(device)
    settings = folder.settings()
    cascade = load_cascade(folder.weights)[0].to(target)
    if patch != "as trained":
        for block in cascade:
            block.use_patches(patch)
    if Path(out).resolve() == Path(file).resolve():
        raise InputError(f"{out}: is the scan itself; expected another file for the images")
    if has_trajectory(Path(file)):
        if layout is not None:
            raise InputError(f"{file}: layout {layout!r} asked for of a scan along a trajectory; expected none")
        images = reconstruct_shots(
            cascade, image_axes(cascade), Path(file), settings, undersample=undersample_it, units=units, device=target
        )
        return _write_shots(images, Path(file), folder, Path(out))
    info = read_scan_info(file)
    if undersample_it is not None or units is not None:
        raise InputError(f"{file}: is on the grid; expected undersample and units for scans along a trajectory alone")
    if image_axes(cascade) == 3:
        return _whole_file(cascade, info, layout_of(info, layout), folder, Path(out), target)
    sampled = _sampled(info)
    retrospective = is_fully_sampled(sampled)
    crops = bool((sampled == sampled[:1]).all())
    rows = min(info.recon_size[0], info.shape[2]) if crops else info.shape[2]
    mask = _mask(info, settings, sampled, rows, retrospective)
    size = (min(info.recon_size[0], rows), min(info.recon_size[1], info.shape[3]))
    shape = (info.shape[0], *size)
    seconds = 0.0
    with atomic_hdf5(out) as file_out:
        names = ["reconstruction_complex", *(["target_complex"] if retrospective else [])]
        stores = {name: file_out.create_dataset(name, shape, "c8") for name in names}
        magnitude = file_out.create_dataset("reconstruction", shape, "f4")
        for index in tqdm(range(info.shape[0]), "reconstructing", leave=False, disable=not progress):
            kspace = torch.from_numpy(read_kspace(info.path, index))
            image, reference, spent = _one_slice(
                cascade, kspace, mask, info, index, crops=crops, retrospective=retrospective, device=target
            )
            seconds += spent
            stores["reconstruction_complex"][index] = crop_centre(image, size).numpy()
            magnitude[index] = crop_centre(image, size).abs().numpy()
            if retrospective:
                stores["target_complex"][index] = crop_centre(reference, size).numpy()
        file_out.create_dataset("mask", data=mask.numpy())
        file_out.attrs.update(_attributes(info, folder, mask))
        scores = _scores(info, stores) if retrospective else []
    return Reconstruction(
        out=Path(out),
        slices=info.shape[0],
        acceleration=acceleration_of(mask),
        retrospective=retrospective,
        seconds_per_slice=seconds / info.shape[0],
        psnr=_mean(scores, "psnr"),
        ssim=_mean(scores, "ssim"),
        nmse=_mean(scores, "nmse"),
    )


def _write_shots(found: ShotImages, file: Path, run: RunFolder, out: Path) -> Reconstruction:
    with atomic_hdf5(out) as store:
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
    cascade: Cascade, info: ScanInfo, layout: Layout, run: RunFolder, out: Path, device: torch.device
) -> Reconstruction:
    """As `reconstruct_file`, all slices together; `mask` is (t, y, x) of a series."""
    if layout == "slices":
        raise InputError(
            f"{info.path}: the network of {run.path} is of volumes or series, the file says nothing of its slices; "
            "expected its attribute layout, or --layout, to be 'volume' or 'cine'"
        )
    whole = reconstruct_whole(cascade, info, layout, run.settings(), device, LARGEST_CALIBRATION)
    image = crop_centre(whole.image, info.recon_size).numpy()
    score = None
    with atomic_hdf5(out) as file:
        file["reconstruction_complex"] = image
        file["reconstruction"] = np.abs(image)
        file["mask"] = whole.mask.numpy()
        if whole.reference is not None:
            reference = crop_centre(whole.reference, info.recon_size).numpy()
            file["target_complex"] = reference
            score = score_whole("reconstruction", info.volume, image, reference, whole.seconds)
        file.attrs.update(_attributes(info, run, whole.mask))
    return Reconstruction(
        out=out,
        slices=len(image),
        acceleration=acceleration_of(whole.mask),
        retrospective=score is not None,
        seconds_per_slice=whole.seconds / len(image),
        psnr=None if score is None else score.psnr,
        ssim=None if score is None else score.ssim,
        nmse=None if score is None else score.nmse,
    )


def _one_slice(
    cascade: Cascade,
    kspace: Tensor,
    mask: Tensor,
    info: ScanInfo,
    index: int,
    *,
    crops: bool,
    retrospective: bool,
    device: torch.device,
) -> tuple[Tensor, Tensor, float]:
    """One slice's image and, where there is one, its reference, in the scanner's units; and the seconds."""
    try:
        full = crop_oversampling(kspace, mask.shape[0]) if crops else kspace
        measured = full * mask
        extent = calibration_extent(mask)
        limited = (min(extent[0], LARGEST_CALIBRATION), min(extent[1], LARGEST_CALIBRATION))
        kernel = min(PreparationSettings().espirit_kernel, *limited)
        measured, maps, _ = prepare_slice(
            measured.to(device),
            info.recon_size,
            PreparationSettings(espirit_kernel=kernel),
            calibration=limited,
            crop_readout=False,
        )
        batch = undersample(measured, maps, mask.to(device), volume=info.volume, slice_index=index)
    except InputError as error:
        raise InputError(f"{info.path}: slice {index}: {error}") from None
    started = time.perf_counter()
    with torch.no_grad():
        image = cascade(batch.sense, batch.kspace)[0] * batch.scale[0]
    spent = time.perf_counter() - started
    reference = image
    if retrospective:
        reference = _combined(full.to(device), maps)
    return image.cpu(), reference.cpu(), spent


def _combined(kspace: Tensor, maps: Tensor) -> Tensor:
    return (maps.conj() * centred_ifft(kspace, 2)).sum(0)


def _sampled(info: ScanInfo) -> Tensor:
    """The samples that the file has, (y, x) bool, centred: its own mask, or what is not zero."""
    if info.mask is not None:
        return torch.from_numpy(info.mask)
    found = torch.zeros(info.shape[2:], dtype=torch.bool)
    for index in range(info.shape[0]):
        found |= torch.from_numpy((read_kspace(info.path, index) != 0).any(0))
    if not bool(found.any()):
        raise InputError(f"{info.path}: kspace is zero everywhere; expected measured samples")
    return found


def _mask(info: ScanInfo, settings: RunSettings, sampled: Tensor, rows: int, retrospective: bool) -> Tensor:
    """What is reconstructed from, (rows, x) float32: the scan's own samples, or a mask as in training."""
    if not retrospective:
        return sampled[:1].expand(rows, -1).float().clone() if rows != sampled.shape[0] else sampled.float()
    rng = torch.Generator().manual_seed(derive_seed(settings.seed, "mask", info.volume))
    try:
        return sampling_mask((rows, info.shape[3]), settings.mask, rng)
    except InputError as error:
        raise InputError(f"{info.path}: {error}") from None


def _attributes(info: ScanInfo, run: RunFolder, mask: Tensor) -> dict[str, str | float | int]:
    return {
        **info.attributes,
        "source": info.path.name,
        "run": run.path.name,
        "acceleration_reached": acceleration_of(mask),
    }


def _scores(info: ScanInfo, stores: dict[str, NDArray[np.complex64]]) -> list[SliceScore]:
    return score_volume(
        "reconstruction",
        info.volume,
        np.asarray(stores["reconstruction_complex"]),
        np.asarray(stores["target_complex"]),
        list(range(info.shape[0])),
        0.0,
    )


def _mean(scores: list[SliceScore], name: str) -> float | None:
    return float(np.mean([getattr(score, name) for score in scores])) if scores else None
