"""ISMRMRD scans along trajectories to prepared files: maps from the centre, targets from all shots, all cached."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import torch
from torch import Tensor

from convexrecon.data.atomic_hdf5 import atomic_hdf5
from convexrecon.data.field_of_view import border_share, check_field_of_view, on_whole_cycles, warn_of_border, widened
from convexrecon.data.ismrmrd_acquisitions import encoding_of, open_acquisitions
from convexrecon.data.ismrmrd_samples import NonCartesianScan, Units, read_samples
from convexrecon.data.ismrmrd_scan import selection
from convexrecon.data.prepared_shots import ShotLayout
from convexrecon.data.shared_trajectories import Trajectory, fourier_of, trajectory_of
from convexrecon.data.slice_preparation import LEAST_CALIBRATION, PreparationSettings
from convexrecon.errors import InputError
from convexrecon.physics.conjugate_gradient import conjugate_gradient
from convexrecon.physics.fourier import fft, ifft
from convexrecon.physics.noncartesian_maps import noncartesian_maps
from convexrecon.physics.noncartesian_sense import NonCartesianSense
from convexrecon.physics.nufft import uncentre_samples
from convexrecon.physics.shot_sampling import covered_region, covered_share, dense_extent

# Of the targets, which converge to a few digits more than noise leaves them.
TARGET_LAM = 1e-4
TARGET_ITERATIONS = 60
# Of a smaller centre, in cycles, no patches are taken.
LEAST_FOR_PATCHES = 8


@dataclass(frozen=True, eq=False)
class ShotScan:
    """A scan along a trajectory, the image origin of its samples at index 0.

    Attributes:
        samples: (B, C, shots, S) complex64.
        trajectories: one, or one a slice.
        shape: (y, x) or (z, y, x), in pixels, of the field of view asked for.
        recon_size: (y, x) or (z, y, x) of the scanner's images.
        planned: (shots, S, d) float32, the first slice's coordinates in cycles per field of view of the scan.
    """

    samples: Tensor
    trajectories: tuple[Trajectory, ...]
    shape: tuple[int, ...]
    recon_size: tuple[int, ...]
    planned: Tensor

    @property
    def layout(self) -> ShotLayout:
        """Of a prepared file of it."""
        return "noncartesian" if len(self.shape) == 2 else "noncartesian-volume"

    @property
    def share(self) -> float:
        """Of k-space as it was planned that shots cover; larger fields of view have finer cells."""
        return covered_share(self.planned)

    @property
    def open_axes(self) -> tuple[int, ...]:
        """The two axes of the image that objects should end along: signal from beyond leaves streaks there.

        Not a stack's third, where it folds; nor of three others the first, z, along which bodies go on.
        """
        return tuple(axis for axis, whole in enumerate(on_whole_cycles(self.planned)) if not whole)[-2:]

    def trajectory(self, index: int) -> Trajectory:
        """That of a slice."""
        return self.trajectories[index if len(self.trajectories) > 1 else 0]


def has_trajectory(path: Path) -> bool:
    """Whether a file is an ISMRMRD one whose k-space is sampled along trajectories.

    Raises:
        InputError: an ISMRMRD file that cannot be read.
    """
    try:
        with h5py.File(path, "r") as file:
            group = file.get("dataset")
            if not isinstance(group, h5py.Group) or not {"xml", "data"} <= set(group):
                return False
    except OSError:
        return False
    with open_acquisitions(path) as raw:
        cartesian = encoding_of(raw).trajectory == "cartesian"
        return not cartesian or int(raw.heads["trajectory_dimensions"].max()) >= 2


def read_shots(
    path: Path, units: Units | None = None, field_of_view: float = 1.0, select: Mapping[str, int] | None = None
) -> ShotScan:
    """Read a scan and take the origin of its images to index 0: the border where that happens.

    Args:
        path: the ISMRMRD file.
        units: of its coordinates; None where they can be told.
        field_of_view: of the images, in fields of view of the scan; see `field_of_view.widened`.
        select: which value of counters to take, as of `ismrmrd.read_cartesian`.

    Raises:
        InputError: what `ismrmrd_samples.read_samples` refuses; a field of view below 1.
    """
    check_field_of_view(field_of_view)
    scan = read_samples(path, units=units, select=select)
    planned, recon_size = _sizes(scan)
    coordinates, shape = widened(torch.from_numpy(scan.coordinates), planned, field_of_view)
    each = coordinates if coordinates.ndim == 4 else coordinates.unsqueeze(0)
    samples = torch.from_numpy(scan.samples)
    moved = torch.empty_like(samples)
    try:
        for index in range(len(samples)):
            flat = each[index if len(each) > 1 else 0].flatten(0, 1)
            moved[index] = uncentre_samples(samples[index].flatten(1), flat, shape).view_as(samples[index])
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    first = torch.from_numpy(scan.coordinates[0] if scan.coordinates.ndim == 4 else scan.coordinates)
    return ShotScan(moved, tuple(trajectory_of(one, shape) for one in each), shape, recon_size, first)


def prepare_shots(
    path: Path,
    out: Path,
    stamp: dict[str, Any],
    settings: PreparationSettings,
    *,
    units: Units | None = None,
    select: Mapping[str, int] | None = None,
    device: torch.device,
    done: Callable[[], object] = lambda: None,
) -> None:
    """Prepare one scan; `prepared_shots` says what is in the file.

    The target is that of density-compensated least squares from all shots, see `all_shots_image`.

    Args:
        path: the ISMRMRD file.
        out: file to write.
        stamp: attributes of the file, see `shots_stamp`.
        settings: how sensitivities are estimated, and how far images reach.
        units: of the file's coordinates; None where they can be told.
        select: which value of counters to take.
        device: where to compute.
        done: called after every slice.

    Raises:
        InputError: a scan that cannot be read, NaN, coordinates in other units, or a slice without signal.
    """
    scan = read_shots(path, units, settings.field_of_view, select)
    count, coils, shots, length = scan.samples.shape
    sizes: dict[str, tuple[int, ...]] = {
        "samples": (count, coils, shots, length),
        "maps": (count, coils, *scan.shape),
        "target": (count, *scan.shape),
    }
    share = 0.0
    with atomic_hdf5(out) as file:
        stores = {name: file.create_dataset(name, size, "c8", chunks=(1, *size[1:])) for name, size in sizes.items()}
        file["coordinates"] = torch.stack([one.coordinates for one in scan.trajectories]).numpy()
        for index in range(count):
            samples = scan.samples[index].to(device)
            try:
                maps = shot_maps(samples, scan.trajectory(index), settings)
                target = all_shots_image(samples, scan.trajectory(index), maps)
            except InputError as error:
                raise InputError(f"{path}: slice {index}: {error}") from None
            for name, part in (("samples", samples), ("maps", maps), ("target", target)):
                stores[name][index] = part.cpu().numpy()
            share = max(share, border_share(target, scan.open_axes))
            done()
        file.attrs.update(stamp)
        file.attrs["recon_size"] = scan.recon_size
        file.attrs["layout"] = scan.layout
        file.attrs["field_of_view"] = settings.field_of_view
        file.attrs["trajectory"] = [one.digest for one in scan.trajectories]
    warn_of_border(share, settings.field_of_view, str(path))


def shot_maps(samples: Tensor, trajectory: Trajectory, settings: PreparationSettings) -> Tensor:
    """Sensitivity maps (C, *N) of samples (C, shots, S), from the densely sampled centre, at most the settings' square.

    By the settings' method in 2-D; in 3-D, and from a centre of fewer than eight cycles, by root-sum-of-squares.

    Raises:
        InputError: the centre is not sampled densely anywhere, or no pixel has a sensitivity.
    """
    # As much of k-space in a larger field of view, whose cycles are finer.
    wanted = round(settings.calibration * settings.field_of_view)
    extent = dense_extent(trajectory.coordinates, min(wanted, *trajectory.shape))
    if extent < LEAST_CALIBRATION:
        raise InputError(
            "calibration: the centre of k-space is not sampled densely; expected a sample in nearly every cell of one "
            f"cycle of the central {LEAST_CALIBRATION} x {LEAST_CALIBRATION} to estimate coil sensitivities"
        )
    # So that there are as many patches as what they span has dimensions: a patch's cycles and those of a sensitivity.
    kernel = min(settings.espirit_kernel, extent // 2 - 1)
    planar = len(trajectory.shape) == 2 and extent >= LEAST_FOR_PATCHES
    found = noncartesian_maps(
        samples.flatten(1).unsqueeze(0),
        trajectory.coordinates.flatten(0, 1).to(samples.device),
        trajectory.shape,
        method=settings.maps if planar else "root-sum-of-squares",
        calibration=extent,
        kernel=kernel,
    )[0]
    if not bool(found.any()):
        raise InputError("no pixel has a coil sensitivity (is the slice empty, or noise alone?); expected an object")
    return found


def all_shots_image(samples: Tensor, trajectory: Trajectory, maps: Tensor) -> Tensor:
    """The image (*N) of all samples (C, shots, S), by density-compensated CG-SENSE with maps (C, *N).

    Without the corners of k-space that no shot reaches: there converged iterations amplify noise, in a radial scan of
    eight coils to six times the noise of all the rest.
    """
    sense = NonCartesianSense(maps.unsqueeze(0), fourier_of(trajectory).to(maps.device))
    adjoint = sense.adjoint(sense.weigh(samples.flatten(1).unsqueeze(0)))
    image = conjugate_gradient(
        lambda x: sense.normal(x) + TARGET_LAM * x, adjoint, tolerance=1e-5, max_iterations=TARGET_ITERATIONS
    ).solution[0]
    region = covered_region(trajectory.coordinates, trajectory.shape).to(image.device)
    axes = len(trajectory.shape)
    return (maps.abs().amax(0) > 0) * ifft(region * fft(image, axes), axes)


def shots_stamp(
    path: Path,
    form: str,
    settings: PreparationSettings,
    units: Units | None,
    select: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """What tells whether a prepared file is of this file and these settings."""
    status = path.stat()
    return {
        "format": form,
        "settings": settings.stamp(),
        "units": units or "found",
        "select": selection(select),
        "source": path.name,
        "source_size": status.st_size,
        "source_time": status.st_mtime_ns,
    }


def _sizes(scan: NonCartesianScan) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The pixels of the image, and of the scanner's, no larger."""
    dimensions = scan.coordinates.shape[-1]
    shape = scan.encoding.encoded[:dimensions]
    recon = scan.encoding.recon[:dimensions]
    return shape, tuple(map(min, recon, shape))
