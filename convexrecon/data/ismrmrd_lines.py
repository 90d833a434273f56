"""The lines of a Cartesian ISMRMRD scan: where in k-space each belongs, and its samples there."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from convexrecon.data.ismrmrd_acquisitions import RawAcquisitions, places, refuse_several
from convexrecon.data.ismrmrd_layout import REVERSE, Encoding, flagged
from convexrecon.errors import InputError
from convexrecon.physics.fourier import centred_fft, centred_ifft, crop_centre


@dataclass(frozen=True, eq=False)
class LinePlaces:
    """Where the lines of a scan go.

    Attributes:
        grid: (B, t, N_1, N_2): slices, frames, phase encodes 1 and 2.
        where: (acquisitions,) the place of each in the flattened grid.
        coils: C.
        length: samples of a whole readout.
        kept: samples of it once its oversampling is removed.
    """

    grid: tuple[int, int, int, int]
    where: NDArray[np.int64]
    coils: int
    length: int
    kept: int


def line_places(
    raw: RawAcquisitions, encoding: Encoding, *, time: str | None = None, remove_oversampling: bool = True
) -> LinePlaces:
    """Where the lines go, as `ismrmrd.read_cartesian` says; from the heads alone.

    Raises:
        InputError: another trajectory than Cartesian; counters outside the matrix, or with several values and no
            place in k-space; lines of several numbers of coils.
    """
    if encoding.trajectory != "cartesian":
        raise InputError(
            f"{raw.path}: the header says trajectory {encoding.trajectory!r}; expected 'cartesian' (others are "
            "read by ismrmrd_samples.read_samples)"
        )
    refuse_several(raw, "contrast", "set")
    length, first, second = encoding.encoded
    coils = np.unique(raw.heads["active_channels"])
    if len(coils) > 1:
        raise InputError(f"{raw.path}: acquisitions of {coils.tolist()} coils; expected one number")
    slices, slice_count = places(raw, "slice")
    frames, frame_count = places(raw, _time_counter(raw, time))
    grid = (slice_count, frame_count, first, second)
    steps = [_steps(raw, axis, size, encoding.centers[axis]) for axis, size in enumerate((first, second))]
    where = np.ravel_multi_index((slices, frames, *steps), grid)
    kept = encoding.kept_readout if remove_oversampling else length
    return LinePlaces(grid, where, int(coils[0]), length, kept)


def placed_readouts(
    raw: RawAcquisitions, part: slice, data: list[NDArray[np.complex64]], length: int, kept: int
) -> tuple[NDArray[np.complex64], NDArray[np.bool_]]:
    """Readouts (n, C, kept) of one length, reversed ones turned, and which samples were measured, (n, 1, kept)."""
    heads = raw.heads[part]
    reverse = flagged(heads["flags"], (REVERSE,))
    lines = np.zeros((len(data), len(data[0]), length), np.complex64)
    sampled = np.zeros((len(data), 1, length), np.bool_)
    for index, samples in enumerate(data):
        before, after = int(heads["discard_pre"][index]), int(heads["discard_post"][index])
        good = samples[:, before : samples.shape[1] - after]
        centre = int(heads["center_sample"][index]) - before
        if reverse[index]:
            good, centre = good[:, ::-1], good.shape[1] - 1 - centre
        # Converters disagree about the centre of complete readouts, and need not say it.
        start = 0 if good.shape[1] == length else length // 2 - centre
        stop = start + good.shape[1]
        if start < 0 or stop > length or stop == start:
            raise InputError(
                f"{raw.path}: acquisition {raw.rows[part][index]} has {good.shape[1]} samples with its centre at "
                f"{centre}; expected at most {length}, centre at {length // 2}, as the header's encoded matrix"
            )
        lines[index, :, start:stop] = good
        sampled[index, :, start:stop] = True
    if kept == length:
        return lines, sampled
    frequencies = np.round((np.arange(kept) - kept // 2) * (length / kept)).astype(np.int64) + length // 2
    sampled = sampled[..., np.clip(frequencies, 0, length - 1)]
    images = crop_centre(centred_ifft(torch.from_numpy(lines), 1), (kept,))
    # Orthonormal transforms of other lengths: noise keeps its level.
    return centred_fft(images, 1).numpy() * sampled, sampled


def _steps(raw: RawAcquisitions, axis: int, size: int, center: int | None) -> NDArray[np.int64]:
    name = f"kspace_encode_step_{axis + 1}"
    found = raw.heads["idx"][name].astype(np.int64)
    steps = found - (size // 2 if center is None or size == 1 else center) + size // 2
    if size == 1 and len(np.unique(found)) == 1:
        return np.zeros_like(found)
    if steps.min() < 0 or steps.max() >= size:
        raise InputError(
            f"{raw.path}: {name} from {found.min()} to {found.max()} with centre {center}; expected to fit the "
            f"header's encoded matrix of {size}"
        )
    return steps


def _time_counter(raw: RawAcquisitions, time: str | None) -> str:
    if time not in (None, "phase", "repetition"):
        raise InputError(f"time: {time!r}; expected 'phase', 'repetition' or None")
    several = [name for name in ("phase", "repetition") if places(raw, name)[1] > 1]
    others = [name for name in several if name != time]
    if time is not None:
        refuse_several(raw, *others)
        return time
    if len(several) > 1:
        raise InputError(
            f"{raw.path}: both phase and repetition have several values; expected time and select to say which"
        )
    return several[0] if several else "phase"
