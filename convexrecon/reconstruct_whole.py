"""A volume or a series of a scanner file reconstructed as one image by a network of three axes."""

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from convexrecon.cascade import Cascade
from convexrecon.data.dataset import Batch, undersample
from convexrecon.data.prepared_files import Layout
from convexrecon.data.scan import ReadSlice, Scan
from convexrecon.data.slice_preparation import PreparationSettings, combined, crop_oversampling
from convexrecon.data.volume_preparation import prepared_series, prepared_volume
from convexrecon.errors import InputError
from convexrecon.physics.masks import calibration_extent, is_fully_sampled, sampling_mask
from convexrecon.reconstruct_slices import LARGEST_CALIBRATION
from convexrecon.seeding import derive_seed
from convexrecon.training.config import RunSettings


@dataclass(frozen=True, eq=False)
class Whole:
    """A reconstruction.

    Attributes:
        image: (z or t, y, x) complex64, in the scanner's units.
        reference: of a fully sampled scan, the same from all samples; else None.
        mask: centred samples used, (y, x) of a volume, (t, y, x) of a series.
        seconds: of the network alone.
    """

    image: Tensor
    reference: Tensor | None
    mask: Tensor
    seconds: float


def reconstruct_whole(
    cascade: Cascade,
    info: Scan,
    read: ReadSlice,
    layout: Layout,
    settings: RunSettings,
    device: torch.device,
) -> Whole:
    """Reconstruct all slices or frames of a scan together.

    Args:
        cascade: of three image axes, on the device.
        info: of the scan.
        read: its slices.
        layout: "volume" or "cine".
        settings: of the run, whose masks a fully sampled scan is undersampled with.
        device: where to compute.

    Raises:
        InputError: a scan that cannot be read, no calibration region in its mask.
    """
    batch, reference, mask = whole_sample(info, read, layout, settings, device)
    started = time.perf_counter()
    with torch.no_grad():
        image = (cascade(batch.sense, batch.kspace)[0] * batch.scale[0]).cpu()
    spent = time.perf_counter() - started
    return Whole(image, None if reference is None else reference.cpu(), mask, spent)


def whole_sample(
    info: Scan, read: ReadSlice, layout: Layout, settings: RunSettings, device: torch.device
) -> tuple[Batch, Tensor | None, Tensor]:
    """All slices or frames of a scan as a network of three axes sees them; arguments as of `reconstruct_whole`.

    Returns:
        The batch of one sample; of a fully sampled scan its reference, (z or t, y, x), in the scanner's units; the
        centred mask, (y, x) of a volume, (t, y, x) of a series.

    Raises:
        InputError: as `reconstruct_whole`.
    """
    frames = _sampled(info, read, layout)
    retrospective = all(is_fully_sampled(frame) for frame in frames)
    crops = layout == "cine" and bool((frames == frames[:, :1]).all())
    rows = min(info.recon_size[0], info.shape[2]) if crops else info.shape[2]
    mask = _mask(info, layout, settings, frames, rows, retrospective=retrospective)
    masks = mask if mask.ndim == 3 else mask.expand(info.shape[0], -1, -1)

    def full(index: int) -> Tensor:
        kspace = torch.from_numpy(read(index)).to(device)
        return crop_oversampling(kspace, rows) if crops else kspace

    def measured(index: int) -> Tensor:
        return full(index) * masks[index].to(device)

    try:
        extent = calibration_extent(masks.amax(0))
        limited = (min(extent[0], LARGEST_CALIBRATION), min(extent[1], LARGEST_CALIBRATION))
        options = PreparationSettings(espirit_kernel=min(PreparationSettings().espirit_kernel, *limited))
        prepared = prepared_series if layout == "cine" else prepared_volume
        parts = list(prepared(info, options, measured, calibration=limited, crop_readout=False))
        kspace = torch.stack([part[0] for part in parts], 1)
        maps = parts[0][1].unsqueeze(1) if layout == "cine" else torch.stack([part[1] for part in parts], 1)
        batch = undersample(kspace, maps, mask.to(device), volume=info.volume, recon_size=info.recon_size)
    except InputError as error:
        message = str(error)
        raise InputError(message if message.startswith(str(info.path)) else f"{info.path}: {message}") from None
    reference = None
    if retrospective:
        of_slices = maps.expand(kspace.shape).unbind(1)
        reference = torch.stack([combined(full(index), m).cpu() for index, m in enumerate(of_slices)])
    return batch, reference, mask


def _sampled(info: Scan, read: ReadSlice, layout: Layout) -> Tensor:
    """The samples that the file has, (t, y, x) or (1, y, x) bool, centred: its own mask, or what is not zero."""
    if info.mask is not None:
        return torch.from_numpy(info.mask).unsqueeze(0)
    found = torch.stack([torch.from_numpy((read(k) != 0).any(0)) for k in range(info.shape[0])])
    frames = found if layout == "cine" else found.any(0, keepdim=True)
    if not bool(frames.flatten(1).any(1).all()):
        raise InputError(f"{info.path}: kspace is zero everywhere in a frame; expected measured samples")
    return frames


def _mask(
    info: Scan, layout: Layout, settings: RunSettings, frames: Tensor, rows: int, *, retrospective: bool
) -> Tensor:
    """What is reconstructed from: the scan's own samples, or masks as in training; (y, x) or (t, y, x) float32."""
    if retrospective:
        shape = (rows, info.shape[3]) if layout == "volume" else (info.shape[0], rows, info.shape[3])
        rng = torch.Generator().manual_seed(derive_seed(settings.seed, "mask", info.volume))
        try:
            return sampling_mask(shape, settings.mask, rng)
        except InputError as error:
            raise InputError(f"{info.path}: {error}") from None
    cropped = frames[:, :1].expand(-1, rows, -1) if rows != frames.shape[1] else frames
    return cropped.float().squeeze(0).clone()
