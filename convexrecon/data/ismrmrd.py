"""ISMRMRD raw data, as of mridata.org and scanner converters: Cartesian lines sorted into k-space.

Heads are read as one array, samples many acquisitions at a time: records of h5py one by one would be some sixty
times slower. Image axes are those of the scanner in their order, readout first: (y, x) is the header's
(x, y), and (z, y, x) is its (x, y, z). K-space is centred, DC at N//2.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from convexrecon.data.fastmri import PathLike, refuse_non_finite
from convexrecon.data.ismrmrd_acquisitions import (
    RawAcquisitions,
    encoding_of,
    open_acquisitions,
)
from convexrecon.data.ismrmrd_layout import Encoding
from convexrecon.data.ismrmrd_lines import LinePlaces, line_places, placed_readouts
from convexrecon.errors import InputError
from convexrecon.physics.fourier import centred_fft, centred_ifft


@dataclass(frozen=True, eq=False)
class CartesianScan:
    """A Cartesian ISMRMRD scan in the layout of this library.

    Attributes:
        path: the file.
        kspace: (B, C, *N) complex64, centred, zero where not sampled; B slices. N is (y, x) for 2-D encoding,
            (z, y, x) for 3-D, with time before it where there are several frames, see `read_cartesian`.
        mask: (B, 1, *N) bool, what was sampled.
        encoding: what the header says.
        header: the XML header.
        noise: (C, samples) complex64, the samples of noise measurements; None where there are none.
    """

    path: Path
    kspace: NDArray[np.complex64]
    mask: NDArray[np.bool_]
    encoding: Encoding
    header: bytes
    noise: NDArray[np.complex64] | None


def read_cartesian(
    path: PathLike,
    *,
    time: Literal["phase", "repetition"] | None = None,
    select: Mapping[str, int] | None = None,
    remove_oversampling: bool = True,
    group: str = "dataset",
) -> CartesianScan:
    """Sort the lines of a Cartesian scan into k-space; what is measured more than once is averaged.

    A line of encoding steps (e1, e2) goes to (e1 - center_1 + N_1//2, e2 - center_2 + N_2//2), with the centers of
    the header (N//2 where it has none), N its encoded matrix size; sample s of a partial echo goes to
    ``s - center_sample + N_0//2``, a complete readout to its place whatever its center_sample. Reversed lines are
    turned around; noise, separate calibration, navigator and other lines that make no image are left out.
    Readouts are usually sampled twice as densely as the image needs: images of the encoded field of view are cropped
    to that of the reconstruction along the readout. Of a partial echo that mixes what was and was not sampled; the mask
    keeps the frequencies that were.

    Args:
        path: the .h5 file.
        time: the counter that numbers frames; None: that of phase and repetition which has several values.
        select: which value of the counters contrast and set (and phase, repetition or slice) to take, e.g.
            ``{"contrast": 0}``; one that has several values and no place in k-space must be selected.
        remove_oversampling: False keeps the readout as it was sampled.
        group: of the file.

    Raises:
        InputError: a missing, damaged or truncated file or one of another layout; a header that does not parse or
            says another trajectory; no line that makes an image; counters outside the matrix; lines of several
            encoding spaces, numbers of coils, or longer than the matrix; NaN or Inf.
    """
    with open_acquisitions(path, select=select, group=group) as raw:
        encoding = encoding_of(raw)
        placed = line_places(raw, encoding, time=time, remove_oversampling=remove_oversampling)
        lines, counts = _sort_lines(raw, placed)
        noise = raw.noise()
    # (B, t, phase 1, phase 2, C, readout) -> (B, C, t, readout, phase 1, phase 2), and without axes of length one.
    kspace, sampled = lines.transpose(0, 4, 1, 5, 2, 3), counts.transpose(0, 4, 1, 5, 2, 3) > 0
    if encoding.encoded[2] == 1:
        kspace, sampled = kspace[..., 0], sampled[..., 0]
    if kspace.shape[2] == 1:
        kspace, sampled = kspace[:, :, 0], sampled[:, :, 0]
    whole = np.ascontiguousarray(kspace)
    return CartesianScan(Path(path), whole, np.ascontiguousarray(sampled), encoding, raw.header, noise)


def readout_slices(kspace: NDArray[np.complex64]) -> NDArray[np.complex64]:
    """A volume's k-space (1, C, z, y, x) as slices (z, C, y, x): the readout z, complete, is transformed back.

    Each slice is then a 2-D problem of its own, with the phase encodes as (y, x), as volumes of mridata.org are used.

    Raises:
        InputError: not one volume.
    """
    if kspace.ndim != 5 or kspace.shape[0] != 1:
        raise InputError(f"kspace: expected one volume (1, C, z, y, x), found {kspace.shape}")
    last = torch.from_numpy(np.ascontiguousarray(kspace[0].transpose(0, 2, 3, 1)))
    slices = centred_ifft(last, 1).numpy()
    return np.ascontiguousarray(slices.transpose(3, 0, 1, 2))


def encode_slices(kspace: NDArray[np.complex64], *, alternate: bool = False) -> NDArray[np.complex64]:
    """Partitions of a 3-D scan that the file keeps as slices (s, C, y, x) as k-space of a volume (1, C, y, x, s).

    Some converters store the second phase encode already transformed, counted by `slice`. Result axes are readout,
    phase encode 1 and phase encode 2, as (z, y, x).

    Args:
        kspace: (s, C, y, x), centred in y and x.
        alternate: whether every other slice has the opposite sign, as of a transform that was not centred.

    Raises:
        InputError: another number of axes.
    """
    if kspace.ndim != 4:
        raise InputError(f"kspace: expected slices (s, C, y, x), found {kspace.shape}")
    last = torch.from_numpy(np.ascontiguousarray(kspace.transpose(1, 2, 3, 0)))
    if alternate:
        last = last * (1 - 2 * (torch.arange(last.shape[-1]) % 2))
    return centred_fft(last, 1).numpy()[None]


def _sort_lines(raw: RawAcquisitions, placed: LinePlaces) -> tuple[NDArray[np.complex64], NDArray[np.uint16]]:
    """Means (B, t, N_1, N_2, C, n) of lines, and how many samples each is of, (B, t, N_1, N_2, 1, n)."""
    grid = placed.grid
    total = np.zeros((int(np.prod(grid)), placed.coils, placed.kept), np.complex64)
    counts = np.zeros((len(total), 1, placed.kept), np.uint16)
    for part, data, _ in raw.samples():
        lines, sampled = placed_readouts(raw, part, data, placed.length, placed.kept)
        where = placed.where[part]
        if len(np.unique(where)) == len(lines):
            total[where] += lines
            counts[where] += sampled
        else:
            np.add.at(total, where, lines)
            np.add.at(counts, where, sampled)
    total /= np.maximum(counts, 1)
    refuse_non_finite(total, f"{raw.path}: k-space")
    return total.reshape(*grid, *total.shape[1:]), counts.reshape(*grid, *counts.shape[1:])
