"""Scans by their files: fastMRI and ISMRMRD HDF5, and BART's pairs. The one place that knows all formats."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import h5py

from convexrecon.data.bart_scan import open_bart_scan
from convexrecon.data.fastmri import PathLike, read_scan_info
from convexrecon.data.fastmri_volume import as_volume
from convexrecon.data.ismrmrd_scan import open_ismrmrd_scan, selection
from convexrecon.data.scan import Axis, Scan
from convexrecon.errors import InputError

Format = Literal["fastmri", "ismrmrd", "bart"]

HDF5_SUFFIXES = (".h5", ".hdf5", ".mrd")
BART_SUFFIXES = (".cfl", ".hdr")

_EXPECTED = "expected scans: fastMRI or ISMRMRD files (.h5, .hdf5, .mrd) or BART pairs (NAME.cfl with NAME.hdr)"


def find_scans(folder_or_file: PathLike) -> list[Path]:
    """The scan files named by a path: the file itself, or all of the folder, of any format, sorted by name.

    Of a BART pair it is the .cfl. Files of other suffixes are passed over.

    Raises:
        InputError: nothing is there, or no scan; half of a BART pair; several scans of one name.
    """
    path = Path(folder_or_file)
    if path.suffix in BART_SUFFIXES:
        return [_pair(path)]
    if path.is_file():
        return [path]
    if not path.is_dir():
        if path.with_name(path.name + ".cfl").is_file():
            return [_pair(path.with_name(path.name + ".cfl"))]
        raise InputError(f"{path}: no such file or folder; {_EXPECTED}")
    # A leading dot marks a file that is still being written.
    files = sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith("."))
    found = {p for p in files if p.suffix in HDF5_SUFFIXES} | {_pair(p) for p in files if p.suffix in BART_SUFFIXES}
    if not found:
        names = sorted(p.name for p in path.iterdir())
        other = f"found {len(names)} other entries ({', '.join(names[:5])})" if names else "the folder is empty"
        raise InputError(f"{path}: {_EXPECTED}; {other}")
    scans = sorted(found)
    stems: dict[str, Path] = {}
    for scan in scans:
        twin = stems.setdefault(scan.stem, scan)
        if twin != scan:
            raise InputError(f"{path}: {twin.name} and {scan.name}; expected one scan of a name, {scan.stem!r}")
    return scans


def one_scan(path: PathLike) -> Path:
    """The one scan file named by a path, as of `find_scans`.

    Raises:
        InputError: as `find_scans`; a folder.
    """
    scans = find_scans(path)
    if Path(path).is_dir():
        raise InputError(f"{path}: is a folder; expected one scan, such as {scans[0].name} in it")
    return scans[0]


def scan_format(path: PathLike) -> Format:
    """The format of a file, by its suffix and, of HDF5, by what is in it.

    Raises:
        InputError: no such file, or one that is not HDF5 where its suffix says so.
    """
    path = Path(path)
    if path.suffix in BART_SUFFIXES:
        return "bart"
    if not path.is_file():
        raise InputError(f"{path}: no such file; {_EXPECTED}")
    try:
        with h5py.File(path, "r") as file:
            return "ismrmrd" if "kspace" not in file and isinstance(file.get("dataset"), h5py.Group) else "fastmri"
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read as HDF5, truncated, damaged or another format ({error}); {_EXPECTED}"
        ) from error


def open_scan(path: PathLike, readout: Axis | None = None, select: Mapping[str, int] | None = None) -> Scan:
    """All of a scan but its k-space, which is read when it is asked for.

    Args:
        path: one of `find_scans`.
        readout: the axis, z, y or x, along which three-dimensional k-space is fully sampled, where the file says
            nothing of it; of a fastMRI-style file that k-space is three-dimensional at all.
        select: of an ISMRMRD file, which value of its counters to take, ``{"contrast": 0}``.

    Raises:
        InputError: a file that is damaged, incomplete or not Cartesian; a readout that does not suit it;
            counters of a file that has none, or that hold no such value.
    """
    form = scan_format(path)
    if select and form != "ismrmrd":
        raise InputError(f"{path}: select {selection(select)} asked for; expected none: only ISMRMRD files count")
    match form:
        case "ismrmrd":
            return open_ismrmrd_scan(path, readout, select)
        case "bart":
            return open_bart_scan(path, readout)
        case "fastmri":
            return as_volume(read_scan_info(path), readout)


def _pair(path: Path) -> Path:
    """The .cfl of a BART pair, of which both files are there."""
    stem = path.name.removesuffix(path.suffix)
    for suffix in BART_SUFFIXES:
        missing = path.with_name(stem + suffix)
        if not missing.is_file():
            raise InputError(f"{missing}: no such file; expected it beside {path.name}: BART arrays are pairs of files")
    return path.with_name(stem + ".cfl")
