"""Prepared scans off the grid on disk: which samples a file holds, and one of them in memory.

A file of layout "noncartesian" has slices, of "noncartesian-volume" one volume in 3-D:

    samples      (B, C, shots, S) complex64, the image origin at index 0, not weighted
    coordinates  (B or 1, shots, S, d) float32, cycles per field of view of *N pixels
    maps         (B, C, *N) complex64
    target       (B, *N) complex64

Its attribute `field_of_view` is that of *N, in fields of view of the scan.
"""

from collections.abc import Collection
from functools import lru_cache
from pathlib import Path
from typing import Literal, get_args

import h5py
import torch
from torch import Tensor

from convexrecon.data.sample_batch import Batch, Shots, bright
from convexrecon.data.shared_trajectories import Trajectory, fourier_of, trajectory_of
from convexrecon.errors import InputError
from convexrecon.physics.masks import MaskSettings
from convexrecon.physics.noncartesian_sense import NonCartesianSense
from convexrecon.physics.shot_sampling import kept_shots
from convexrecon.seeding import derive_seed

ShotLayout = Literal["noncartesian", "noncartesian-volume"]
SHOT_LAYOUTS: tuple[str, ...] = get_args(ShotLayout)
_ARRAYS = ("samples", "coordinates", "maps", "target")


def checked_shapes(file: h5py.File, path: Path) -> tuple[tuple[int, ...], list[str]]:
    """(B, C, *N) of an open file, and the digests of its trajectories, one or one a slice.

    Raises:
        InputError: arrays that are missing or do not fit together.
    """
    missing = [name for name in _ARRAYS if not isinstance(file.get(name), h5py.Dataset)]
    if missing or "trajectory" not in file.attrs:
        raise InputError(f"{path}: no {[*missing, 'trajectory'][0]!r}, found {sorted(file)}; prepare it again")
    samples, coordinates, maps, target = (tuple(int(n) for n in file[name].shape) for name in _ARRAYS)
    dimensions = 2 if file.attrs["layout"] == "noncartesian" else 3
    digests = [str(name) for name in file.attrs["trajectory"]]
    fits = (
        len(samples) == 4
        and len(maps) == 2 + dimensions
        and samples[:2] == maps[:2]
        and target == (maps[0], *maps[2:])
        and coordinates == (len(digests), *samples[2:], dimensions)
        and len(digests) in (1, samples[0])
    )
    if not fits:
        raise InputError(
            f"{path}: samples {samples}, coordinates {coordinates}, maps {maps}, target {target}; expected "
            f"(B, C, shots, S), (B or 1, shots, S, {dimensions}), (B, C, *N) and (B, *N); prepare it again"
        )
    return maps, digests


def field_of_view(paths: Collection[Path]) -> float | None:
    """What the field of view of prepared files was multiplied by; None where they differ."""
    found = set()
    for path in paths:
        with h5py.File(path, "r") as file:
            found.add(float(file.attrs.get("field_of_view", 1.0)))
    return found.pop() if len(found) == 1 else None


def load_shots(path: Path, index: int, digest: str, settings: MaskSettings, seed: int) -> Batch:
    """Read and undersample one slice, or the volume: a batch of one.

    Args:
        path: the file.
        index: of the slice.
        digest: of its trajectory, as in the file.
        settings: how to undersample.
        seed: of the run; all slices of a scan keep the same shots.

    Raises:
        InputError: the file has changed or holds NaN, Inf or maps that are all zero; settings of another kind.
    """
    try:
        with h5py.File(path, "r") as file:
            samples, maps, target = (torch.from_numpy(file[name][index]) for name in ("samples", "maps", "target"))
            recon_size = tuple(int(n) for n in file.attrs["recon_size"])
    except (KeyError, IndexError, ValueError, OSError) as error:
        raise InputError(f"{path}: slice {index}: cannot be read ({error}); prepare the scan again") from error
    for name, array in (("samples", samples), ("maps", maps), ("target", target)):
        if not bool(torch.isfinite(torch.view_as_real(array)).all()):
            raise InputError(f"{path}: slice {index}: {name} holds NaN or Inf; expected finite numbers")
    if not bool(maps.any()):
        raise InputError(f"{path}: slice {index}: the sensitivity maps are zero everywhere; expected an object")
    whole = _trajectory(path, index, digest, tuple(target.shape))
    kept = torch.tensor(shots_kept(path, index, digest, tuple(target.shape), settings, seed))
    return undersample_shots(
        samples, whole, maps, kept, target=target, volume=path.stem, slice_index=index,
        recon_size=recon_size,
    )  # fmt: skip


# Asked for whenever batches are planned.
@lru_cache(maxsize=4096)
def shots_kept(
    path: Path, index: int, digest: str, shape: tuple[int, ...], settings: MaskSettings, seed: int
) -> tuple[int, ...]:
    """The shots that undersampling leaves a scan, the same for all of its slices; arguments as of `load_shots`."""
    rng = torch.Generator().manual_seed(derive_seed(seed, "mask", path.stem))
    try:
        return tuple(kept_shots(_trajectory(path, index, digest, shape).coordinates, settings, rng).tolist())
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def undersample_shots(
    samples: Tensor,
    trajectory: Trajectory,
    maps: Tensor,
    kept: Tensor,
    *,
    target: Tensor | None = None,
    volume: str = "",
    slice_index: int = 0,
    recon_size: tuple[int, ...] | None = None,
) -> Batch:
    """Keep some of the shots of one sample, weigh and scale them.

    Args:
        samples: (C, shots, S) complex64, the image origin at index 0 (`nufft.uncentre_samples`).
        trajectory: of all shots.
        maps: (C, *N) complex64.
        kept: (n,) int64, the shots to keep.
        target: *N complex64; zeros if None.
        volume: name of the scan.
        slice_index: index in it.
        recon_size: (y, x), or (z, y, x), of the scanner's images; that of the maps if None.

    Raises:
        InputError: what is kept is zero, or does not match the trajectory.
    """
    shots = len(trajectory.coordinates)
    if tuple(samples.shape[1:]) != tuple(trajectory.coordinates.shape[:2]):
        raise InputError(
            f"volume {volume!r}: samples (C, shots, S) = {tuple(samples.shape)}, coordinates of "
            f"{tuple(trajectory.coordinates.shape[:2])}; expected the same shots and S"
        )
    fourier = fourier_of(trajectory.kept(kept)).to(maps.device)
    sense = NonCartesianSense(maps.unsqueeze(0), fourier)
    measured = sense.weigh(samples[:, kept.to(samples.device)].flatten(1).unsqueeze(0))
    divisor = bright(sense.adjoint(measured).abs().flatten())
    if not divisor > 0:
        raise InputError(f"volume {volume!r}, slice {slice_index}: the sampled k-space is zero")
    image = torch.zeros_like(maps[0]) if target is None else target
    size = recon_size or tuple(maps.shape[1:])
    return Batch(
        measured / divisor,
        sense,
        image.unsqueeze(0) / divisor,
        divisor.view(1),
        (volume,),
        (slice_index,),
        size,
        Shots(len(kept), shots),
    )


# The slices of a scan have one, and scans of a protocol too.
@lru_cache(maxsize=4)
def _trajectory(path: Path, index: int, digest: str, shape: tuple[int, ...]) -> Trajectory:
    with h5py.File(path, "r") as file:
        stored = file["coordinates"]
        found = trajectory_of(torch.from_numpy(stored[index if len(stored) > 1 else 0]), shape)
    if found.digest != digest:
        raise InputError(f"{path}: its trajectory has changed since it was opened; prepare the scan again")
    return found
