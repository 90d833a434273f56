"""The slices of a volume and the frames of a series prepared one after the other, consistently."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from convexrecon.data.scan import ReadSlice, Scan
from convexrecon.data.slice_preparation import (
    EmptySliceError,
    PreparationSettings,
    combined,
    crop_oversampling,
    prepare_slice,
)
from convexrecon.errors import InputError
from convexrecon.physics.fourier import crop_centre
from convexrecon.physics.sensitivity_maps import virtual_coil

# A slice whose k-space is below this fraction of the volume's largest holds no object, only noise.
EMPTY_SLICE = 0.02
# Slices that the phase of the maps of a volume is fixed on.
PHASE_SLICES = 8

Parts = tuple[Tensor, Tensor, Tensor]
Read = Callable[[int], Tensor]


def prepared_volume(
    info: Scan,
    settings: PreparationSettings,
    read: Read,
    *,
    calibration: tuple[int, int] | None = None,
    crop_readout: bool = True,
) -> Iterator[Parts]:
    """K-space (C, y, x), maps (C, y, x) and image (y, x) of every slice of a volume, in order.

    The readout, the slice axis, is transformed already: every slice is a two-dimensional problem, and its maps are
    exact. What data leave free, their phase, is fixed by one virtual coil for the whole volume, so that it goes on
    smoothly from slice to slice. Slices beside the object have maps of zero.

    Args:
        info: of the scan.
        settings: how sensitivities are estimated.
        read: slice index -> k-space (C, y, x), centred.
        calibration: (y, x) extent of the fully sampled centre to use; the settings' square if None.
        crop_readout: whether y is fully sampled, so that it can be cropped in image space to the recon size.

    Raises:
        InputError: no slice has signal, or what `prepare_slice` refuses.
    """
    filled = filled_slices(info, read)
    prepare = partial(
        prepare_slice, recon_size=info.recon_size, settings=settings, calibration=calibration, crop_readout=crop_readout
    )
    step = max(len(filled) // PHASE_SLICES, 1)
    maps, centres = [], []
    for index in filled[step // 2 :: step]:
        parts = unless_empty(info, index, partial(prepare, read(index)))
        if parts is not None:
            maps.append(parts[1])
            centres.append(crop_centre(parts[0], calibration or (settings.calibration, settings.calibration)))
    if not maps:
        raise InputError(f"{info.path}: no slice has coil sensitivities; expected an object")
    virtual = virtual_coil(torch.stack(maps), torch.stack(centres))
    for index in range(info.shape[0]):
        kspace = read(index)
        if index in filled:
            parts = unless_empty(info, index, partial(prepare, kspace, virtual=virtual))
            if parts is not None:
                yield parts
                continue
        kspace = crop_oversampling(kspace, info.recon_size[0]) if crop_readout else kspace
        yield kspace, torch.zeros_like(kspace), torch.zeros_like(kspace[0])


def filled_slices(info: Scan, read: Read) -> list[int]:
    """The slices of a volume that hold an object; InputError where none has a signal."""
    peaks = torch.stack([read(index).abs().max().cpu() for index in range(info.shape[0])])
    if not bool(peaks.max() > 0):
        raise InputError(f"{info.path}: kspace is zero everywhere; expected measured samples")
    return list((peaks > EMPTY_SLICE * peaks.max()).nonzero().squeeze(1).tolist())


def prepared_series(
    info: Scan,
    settings: PreparationSettings,
    read: Read,
    *,
    calibration: tuple[int, int] | None = None,
    crop_readout: bool = True,
) -> Iterator[Parts]:
    """As `prepared_volume` of the frames of a series, with maps of the mean over time, the same for all.

    The mean of a sample is over the frames that have it: where each has others, together they have a whole centre.
    """
    total = read(0).clone()
    count = (total != 0).any(0).float()
    for index in range(1, info.shape[0]):
        kspace = read(index)
        total += kspace
        count = count + (kspace != 0).any(0)
    with named(info, None):
        _, maps, _ = prepare_slice(
            total / count.clamp_min(1), info.recon_size, settings, calibration=calibration, crop_readout=crop_readout
        )
    for index in range(info.shape[0]):
        kspace = crop_oversampling(read(index), info.recon_size[0]) if crop_readout else read(index)
        yield kspace, maps, combined(kspace, maps)


def reader(info: Scan, kspace: ReadSlice, device: torch.device, check: Callable[[Tensor], None]) -> Read:
    """Reads a slice, k-space (C, y, x), onto the device, after a check that may refuse it."""

    def read(index: int) -> Tensor:
        samples = torch.from_numpy(kspace(index)).to(device)
        with named(info, index):
            check(samples)
        return samples

    return read


def unless_empty(info: Scan, index: int, prepare: Callable[[], Parts]) -> Parts | None:
    """What `prepare` makes of slice `index`, or None: towards its ends an object may be too little for maps."""
    try:
        with named(info, index):
            return prepare()
    except EmptySliceError:
        return None


@contextmanager
def named(info: Scan, index: int | None) -> Iterator[None]:
    """Errors with the file and the slice, or the mean of all of them, that they are about."""
    try:
        yield
    except InputError as error:
        what = "mean over time" if index is None else f"slice {index}"
        raise type(error)(f"{info.path}: {what}: {error}") from None
