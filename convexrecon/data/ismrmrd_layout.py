"""How an ISMRMRD file is laid out: the compound type of an acquisition, its flags, and what its XML header says.

Inati et al., Magn Reson Med 77:411 (2017); ismrmrd.readthedocs.io. In HDF5: group `dataset` with `xml`, one string,
and `data`, one record per acquisition (readout) of `head`, `traj` and `data`, the last two of variable length:
coordinates with their axis fastest, and real and imaginary parts, sample after sample, coil after coil.
"""

from dataclasses import dataclass
from xml.etree import ElementTree

import h5py
import numpy as np
from numpy.typing import NDArray

from convexrecon.errors import InputError

NAMESPACE = "http://www.ismrm.org/ISMRMRD"

# Bits of `flags`: n of the standard is bit n - 1.
NOISE, CALIBRATION, REVERSE = 19, 20, 22
# Navigator, phase correction, feedback (HP, RT), dummy scan, surface coil correction, phase stabilization: no image.
NOT_IMAGING = (NOISE, CALIBRATION, 23, 24, 26, 27, 28, 29, 30, 31)

COUNTERS = (
    "kspace_encode_step_1",
    "kspace_encode_step_2",
    "average",
    "slice",
    "contrast",
    "phase",
    "repetition",
    "set",
)

_IDX = np.dtype([*((name, "<u2") for name in (*COUNTERS, "segment")), ("user", "<u2", (8,))])

HEAD = np.dtype(
    [
        ("version", "<u2"),
        ("flags", "<u8"),
        ("measurement_uid", "<u4"),
        ("scan_counter", "<u4"),
        ("acquisition_time_stamp", "<u4"),
        ("physiology_time_stamp", "<u4", (3,)),
        ("number_of_samples", "<u2"),
        ("available_channels", "<u2"),
        ("active_channels", "<u2"),
        ("channel_mask", "<u8", (16,)),
        ("discard_pre", "<u2"),
        ("discard_post", "<u2"),
        ("center_sample", "<u2"),
        ("encoding_space_ref", "<u2"),
        ("trajectory_dimensions", "<u2"),
        ("sample_time_us", "<f4"),
        *((name, "<f4", (3,)) for name in ("position", "read_dir", "phase_dir", "slice_dir", "patient_table_position")),
        ("idx", _IDX),
        ("user_int", "<i4", (8,)),
        ("user_float", "<f4", (8,)),
    ]
)
"""The header of an acquisition; members are found by name, so that their order in a file does not matter."""

ACQUISITION = np.dtype(
    [("head", HEAD), ("traj", h5py.vlen_dtype(np.dtype("<f4"))), ("data", h5py.vlen_dtype(np.dtype("<f4")))]
)


@dataclass(frozen=True)
class Encoding:
    """What the XML header says of one encoding space; axes are the header's (x, y, z): readout, phase 1, phase 2.

    Attributes:
        trajectory: "cartesian", "radial", "spiral", ... , in lower case.
        encoded: matrix size of k-space, in samples.
        encoded_mm: its field of view, mm; None where the header does not say.
        recon: matrix size of images, in pixels.
        recon_mm: their field of view, mm; None where the header does not say.
        centers: where DC is among the counters of kspace_encoding_step_1 and _2; None where the header does not say.
    """

    trajectory: str
    encoded: tuple[int, int, int]
    encoded_mm: tuple[float, float, float] | None
    recon: tuple[int, int, int]
    recon_mm: tuple[float, float, float] | None
    centers: tuple[int | None, int | None]

    @property
    def kept_readout(self) -> int:
        """Samples of a readout whose oversampling is removed: those of the field of view of the images."""
        if self.encoded_mm is None or self.recon_mm is None:
            return self.encoded[0]
        return min(self.encoded[0], max(1, round(self.encoded[0] * self.recon_mm[0] / self.encoded_mm[0])))


def parse_header(xml: bytes, where: str, space: int = 0) -> Encoding:
    """The encoding space of number `space` of an ISMRMRD header.

    Raises:
        InputError: XML that does not parse, no such encoding, or matrix sizes that are missing or not positive.
    """
    try:
        root = ElementTree.fromstring(xml)
    except (ElementTree.ParseError, ValueError) as error:
        raise InputError(f"{where}: the XML header does not parse ({error}); expected an ISMRMRD header") from error
    # Some writers leave the namespace out, so it is matched as "any".
    encodings = root.findall("{*}encoding")
    if not 0 <= space < len(encodings):
        raise InputError(
            f"{where}: encoding space {space} asked for, the XML header <{root.tag}> has {len(encodings)}; expected an "
            "ISMRMRD header with <encoding>"
        )
    encoding = encodings[space]
    encoded = _three(encoding, "encodedSpace/{*}matrixSize")
    recon = _three(encoding, "reconSpace/{*}matrixSize") or encoded
    if encoded is None or recon is None:
        raise InputError(f"{where}: the XML header has no encodedSpace/matrixSize with positive x, y and z")
    return Encoding(
        trajectory=(encoding.findtext("{*}trajectory") or "cartesian").strip().lower(),
        encoded=(int(encoded[0]), int(encoded[1]), int(encoded[2])),
        encoded_mm=_three(encoding, "encodedSpace/{*}fieldOfView_mm"),
        recon=(int(recon[0]), int(recon[1]), int(recon[2])),
        recon_mm=_three(encoding, "reconSpace/{*}fieldOfView_mm"),
        centers=(_center(encoding, 1), _center(encoding, 2)),
    )


def flagged(flags: NDArray[np.uint64], numbers: tuple[int, ...]) -> NDArray[np.bool_]:
    """Which acquisitions have any of these flags, numbered as in the standard, from 1."""
    bits = sum(1 << (number - 1) for number in numbers)
    return (flags & np.uint64(bits)) != 0


def _three(encoding: ElementTree.Element, path: str) -> tuple[float, float, float] | None:
    node = encoding.find("{*}" + path)
    if node is None:
        return None
    try:
        x, y, z = (float(node.findtext("{*}" + axis, "")) for axis in "xyz")
    except ValueError:
        return None
    return (x, y, z) if min(x, y, z) > 0 else None


def _center(encoding: ElementTree.Element, step: int) -> int | None:
    # Both spellings are in use: that of the standard's XML, and that of the counter's name.
    for name in (f"kspace_encoding_step_{step}", f"kspace_encode_step_{step}"):
        text = encoding.findtext(f"{{*}}encodingLimits/{{*}}{name}/{{*}}center")
        if text is not None and text.strip().isdigit():
            return int(text)
    return None
