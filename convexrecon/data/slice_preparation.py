"""One fully sampled slice: its readout cropped, its coil sensitivities, its SENSE target."""

import json
from dataclasses import asdict, dataclass
from typing import Literal, get_args

from torch import Tensor

from convexrecon.data.field_of_view import check_field_of_view
from convexrecon.errors import InputError
from convexrecon.physics.fourier import centred_fft, centred_ifft, crop_centre
from convexrecon.physics.sensitivity_maps import calibration_region, espirit, walsh

# Fewer fully sampled lines than this in the centre say too little about the coils.
LEAST_CALIBRATION = 4

MapsKind = Literal["espirit", "walsh"]


@dataclass(frozen=True)
class PreparationSettings:
    """How sensitivities are estimated, and how far images reach.

    Attributes:
        maps: "espirit", or "walsh", which has no null space and is less exact.
        calibration: side of the fully sampled central square they are estimated from, in samples.
        espirit_kernel: side of ESPIRiT's patches, in samples; at most half the calibration region is used.
        espirit_threshold: its singular values kept, relative to the largest.
        espirit_crop: eigenvalue below which a pixel is outside the object.
        field_of_view: of scans along trajectories, by how much images are larger than planned while targets are
            computed and networks run; at least 1. For objects that reach beyond, see `field_of_view`.

    Raises:
        InputError: a value out of range.
    """

    maps: MapsKind = "espirit"
    calibration: int = 16
    espirit_kernel: int = 6
    espirit_threshold: float = 0.02
    espirit_crop: float = 0.9
    field_of_view: float = 1.0

    def __post_init__(self) -> None:
        if self.maps not in get_args(MapsKind):
            raise InputError(f"maps: found {self.maps!r}; expected one of {', '.join(get_args(MapsKind))}")
        if self.calibration < LEAST_CALIBRATION:
            raise InputError(f"calibration: found {self.calibration}; expected at least {LEAST_CALIBRATION} samples")
        if self.espirit_kernel < 1:
            raise InputError(f"espirit_kernel: found {self.espirit_kernel}; expected at least 1 sample")
        for name in ("espirit_threshold", "espirit_crop"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name}: found {getattr(self, name)}; expected a number from 0 to 1")
        check_field_of_view(self.field_of_view)

    def stamp(self) -> str:
        """As the prepared files record them: those that were made before there was a field of view are of 1."""
        stated = asdict(self)
        if self.field_of_view == 1:
            del stated["field_of_view"]
        return json.dumps(stated)


class EmptySliceError(InputError):
    """No pixel of a slice has a coil sensitivity."""


def prepare_slice(
    kspace: Tensor,
    recon_size: tuple[int, int],
    settings: PreparationSettings,
    *,
    calibration: tuple[int, int] | None = None,
    crop_readout: bool = True,
    virtual: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Crop the readout, estimate maps, combine coils: the core that needs no file.

    Args:
        kspace: (C, y, x) complex64, centred; zero where not sampled.
        recon_size: (y, x) of the scanner's images.
        settings: how sensitivities are estimated.
        calibration: (y, x) extent of the fully sampled centre to use; the settings' square if None.
        crop_readout: whether y is fully sampled, so that it can be cropped in image space.
        virtual: (C,) the coil combination that fixes the maps' phase; see `sensitivity_maps.virtual_coil`.

    Returns:
        k-space (C, y', x), maps (C, y', x) and SENSE-combined image (y', x).

    Raises:
        InputError: the calibration region does not fit, is too small, zero or not finite, or no pixel has a
            sensitivity (`EmptySliceError`).
    """
    if crop_readout:
        kspace = crop_oversampling(kspace, recon_size[0])
    shape = (int(kspace.shape[-2]), int(kspace.shape[-1]))
    extent = (settings.calibration, settings.calibration)
    if calibration is not None:
        # The crop has shortened y: what was a fully sampled extent of the longer axis is one of the shorter.
        extent = (min(calibration[0], shape[0]), calibration[1])
    if min(extent) < LEAST_CALIBRATION:
        raise InputError(
            f"calibration: the fully sampled centre is {extent[0]} x {extent[1]} (y, x) samples; expected at least "
            f"{LEAST_CALIBRATION} x {LEAST_CALIBRATION} to estimate coil sensitivities"
        )
    region = calibration_region(kspace, extent).unsqueeze(0)
    if settings.maps == "espirit":
        maps = espirit(
            region,
            shape,
            # Brain scans with 3 to 12 central lines: a kernel of more than half of them leaves eigenvalues below
            # 0.9 in most of the object, which is then lost; one of half of them loses no pixel with signal.
            kernel=min(settings.espirit_kernel, min(extent) // 2),
            threshold=settings.espirit_threshold,
            crop=settings.espirit_crop,
            virtual=virtual,
        )[0]
    else:
        maps = walsh(region, shape, virtual=virtual)[0]
    if not bool(maps.any()):
        raise EmptySliceError(
            "no pixel has a coil sensitivity (is the slice empty, or noise alone?); expected an object. Leave the "
            f"slice out, or lower espirit_crop, now {settings.espirit_crop:g}"
        )
    return kspace, maps, combined(kspace, maps)


def combined(kspace: Tensor, maps: Tensor) -> Tensor:
    """The coil images of centred k-space (C, y, x), combined by their maps (C, y, x): (y, x)."""
    return (maps.conj() * centred_ifft(kspace, 2)).sum(0)


def crop_oversampling(kspace: Tensor, rows: int) -> Tensor:
    """Crop the field of view along the readout to `rows` pixels: centred (..., y, x) -> (..., rows, x).

    Cropped in image space, with orthonormal transforms, so that image intensities stay as they are.
    """
    if kspace.shape[-2] <= rows:
        return kspace
    # The transform along y alone: x may be undersampled.
    hybrid = centred_ifft(kspace.transpose(-1, -2), 1)
    return centred_fft(crop_centre(hybrid, (rows,)), 1).transpose(-1, -2).contiguous()
