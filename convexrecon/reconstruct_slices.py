"""The slices of a scan reconstructed one by one, by a network of two axes."""

import time
from dataclasses import dataclass

import h5py
import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from convexrecon.cascade import Cascade
from convexrecon.data.dataset import Batch, undersample
from convexrecon.data.prepared_files import Layout
from convexrecon.data.scan import ReadSlice, Scan
from convexrecon.data.slice_preparation import (
    EmptySliceError,
    PreparationSettings,
    combined,
    crop_oversampling,
    prepare_slice,
)
from convexrecon.data.volume_preparation import filled_slices, named
from convexrecon.errors import InputError
from convexrecon.evaluate.metrics import SliceScore, score_volume
from convexrecon.physics.fourier import crop_centre
from convexrecon.physics.masks import calibration_extent, is_fully_sampled, sampling_mask
from convexrecon.seeding import derive_seed
from convexrecon.training.config import RunSettings

# A larger calibration region says nothing more of smooth sensitivities and costs time.
LARGEST_CALIBRATION = 24


@dataclass(frozen=True, eq=False)
class SliceSampling:
    """Which samples of a scan its slices are reconstructed from.

    Attributes:
        mask: (y, x) float32 zeros and ones, centred.
        retrospective: whether a fully sampled scan is undersampled here, so that there is a reference.
        crops: whether the readout is y and is cropped in image space.
        in_volume: whether the slices are those of a volume.
    """

    mask: Tensor
    retrospective: bool
    crops: bool
    in_volume: bool


def reconstruct_slices(
    cascade: Cascade,
    info: Scan,
    read: ReadSlice,
    layout: Layout,
    settings: RunSettings,
    images: h5py.File,
    device: torch.device,
    *,
    progress: bool,
) -> tuple[Tensor, float, list[SliceScore]]:
    """Reconstruct slice after slice into `images`; the centred mask used, (y, x), seconds of the network, the scores.

    Slices of a volume that hold no object are zero and have no score.

    Args:
        cascade: of two image axes, on the device.
        info: of the scan.
        read: its slices.
        layout: what they are.
        settings: of the run, whose masks a fully sampled scan is undersampled with.
        images: gets `reconstruction`, `reconstruction_complex`, `mask` and, with a reference, `target_complex`.
        device: where to compute.
        progress: whether to show a bar.

    Raises:
        InputError: a scan that cannot be read, no calibration region in its mask.
    """
    sampling = slice_sampling(info, read, layout, settings)
    mask, retrospective, in_volume = sampling.mask, sampling.retrospective, sampling.in_volume
    size = (min(info.recon_size[0], mask.shape[0]), min(info.recon_size[1], info.shape[3]))
    filled = list(range(info.shape[0]))
    if in_volume:
        filled = filled_slices(info, lambda index: torch.from_numpy(read(index)))
    names = ["reconstruction_complex", *(["target_complex"] if retrospective else [])]
    stores = {name: images.create_dataset(name, (info.shape[0], *size), "c8") for name in names}
    magnitude = images.create_dataset("reconstruction", (info.shape[0], *size), "f4")
    seconds, done = 0.0, []
    for index in tqdm(filled, "reconstructing", leave=False, disable=not progress):
        try:
            batch, reference = undersampled_slice(info, read, index, sampling, device)
        except EmptySliceError:
            if in_volume:
                continue
            raise
        started = time.perf_counter()
        with torch.no_grad():
            image = (cascade(batch.sense, batch.kspace)[0] * batch.scale[0]).cpu()
        seconds += time.perf_counter() - started
        done.append(index)
        stores["reconstruction_complex"][index] = crop_centre(image, size).numpy()
        magnitude[index] = crop_centre(image, size).abs().numpy()
        if reference is not None:
            stores["target_complex"][index] = crop_centre(reference.cpu(), size).numpy()
    images.create_dataset("mask", data=mask.numpy())
    if not retrospective:
        return mask, seconds, []
    found, references = (np.asarray(stores[name][done]) for name in names)
    return mask, seconds, score_volume("reconstruction", info.volume, found, references, done, 0.0)


def slice_sampling(info: Scan, read: ReadSlice, layout: Layout, settings: RunSettings) -> SliceSampling:
    """The scan's own samples or, of a fully sampled one, those of a mask as in training, seeded by its name.

    Raises:
        InputError: k-space that is zero everywhere, a mask that does not suit its size.
    """
    sampled = _sampled(info, read)
    retrospective = is_fully_sampled(sampled)
    in_volume = info.volumetric or layout == "volume"
    # A volume's y is a phase encode: only a readout can be cropped.
    crops = not in_volume and bool((sampled == sampled[:1]).all())
    rows = min(info.recon_size[0], info.shape[2]) if crops else info.shape[2]
    return SliceSampling(_mask(info, settings, sampled, rows, retrospective), retrospective, crops, in_volume)


def undersampled_slice(
    info: Scan, read: ReadSlice, index: int, sampling: SliceSampling, device: torch.device
) -> tuple[Batch, Tensor | None]:
    """One slice as a batch of one and, where there is one, its reference (y, x) in the scanner's units.

    Coil sensitivities come from the fully sampled centre of the mask.

    Raises:
        InputError: a slice that cannot be read, no calibration region in the mask.
        EmptySliceError: a slice without an object.
    """
    samples, mask = torch.from_numpy(read(index)), sampling.mask.to(device)
    full = (crop_oversampling(samples, mask.shape[0]) if sampling.crops else samples).to(device)
    with named(info, index):
        extent = calibration_extent(mask)
        limited = (min(extent[0], LARGEST_CALIBRATION), min(extent[1], LARGEST_CALIBRATION))
        kernel = min(PreparationSettings().espirit_kernel, *limited)
        measured, maps, _ = prepare_slice(
            full * mask,
            (int(full.shape[-2]), int(full.shape[-1])),
            PreparationSettings(espirit_kernel=kernel),
            calibration=limited,
            crop_readout=False,
        )
        batch = undersample(measured, maps, mask, volume=info.volume, slice_index=index, recon_size=info.recon_size)
    return batch, combined(full, maps) if sampling.retrospective else None


def _sampled(info: Scan, read: ReadSlice) -> Tensor:
    """The samples that the file has, (y, x) bool, centred: its own mask, or what is not zero."""
    if info.mask is not None:
        return torch.from_numpy(info.mask)
    found = torch.zeros(info.shape[2:], dtype=torch.bool)
    for index in range(info.shape[0]):
        found |= torch.from_numpy((read(index) != 0).any(0))
    if not bool(found.any()):
        raise InputError(f"{info.path}: kspace is zero everywhere; expected measured samples")
    return found


def _mask(info: Scan, settings: RunSettings, sampled: Tensor, rows: int, retrospective: bool) -> Tensor:
    """What is reconstructed from, (rows, x) float32: the scan's own samples, or a mask as in training."""
    if not retrospective:
        return sampled[:1].expand(rows, -1).float().clone() if rows != sampled.shape[0] else sampled.float()
    rng = torch.Generator().manual_seed(derive_seed(settings.seed, "mask", info.volume))
    try:
        return sampling_mask((rows, info.shape[3]), settings.mask, rng)
    except InputError as error:
        raise InputError(f"{info.path}: {error}") from None
