"""The data sets of a script: simulated and prepared, or a folder of real scans split as the paper split its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from command_line import Given

from convexrecon.data.fastmri_writing import write_scan
from convexrecon.data.ismrmrd import read_cartesian, readout_slices
from convexrecon.data.preparation import PreparationSettings, prepare
from convexrecon.data.prepared_files import Layout
from convexrecon.data.scans import find_scans
from convexrecon.data.simulation import simulate_dataset
from convexrecon.errors import InputError

PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class Scans:
    """Synthetic scans, and the split of real ones.

    Attributes:
        volumes: simulated for training, validation and test.
        slices: of each.
        size: (y, x).
        coils: of each.
        split: real volumes for training, validation and test, sorted by name.
        calibration: side of the calibration region, in samples.
        layout: what the slices of a volume are.
    """

    volumes: tuple[int, int, int]
    slices: int
    size: tuple[int, int]
    coils: int
    split: tuple[int, int, int]
    calibration: int = 16
    layout: Layout = "slices"


@dataclass(frozen=True)
class DataSets:
    """Folders of prepared volumes, and in words what they hold."""

    train: Path
    validation: Path
    test: Path
    words: str


def data_sets(given: Given, scans: Scans, folder: Path) -> DataSets:
    """Simulate, or take the real scans; prepare. What is there already is not made again.

    Args:
        given: which data.
        scans: their sizes.
        folder: where scans and prepared volumes go.

    Raises:
        InputError: too few real scans for the split, or scans that cannot be prepared.
    """
    settings = PreparationSettings(calibration=scans.calibration)
    if given.path is None:
        for seed, (part, volumes) in enumerate(zip(PARTS, scans.volumes, strict=True)):
            simulate_dataset(
                folder / "scans" / part,
                volumes=volumes,
                slices=scans.slices,
                size=scans.size,
                coils=scans.coils,
                layout=scans.layout,
                anatomy="head",
                seed=seed,
                progress=False,
            )
            prepare(folder / "scans" / part, folder / "prepared" / part, settings, device=given.device, progress=False)
    else:
        files = find_scans(given.path)
        if given.data == "mridata":
            files = [_converted(file, folder / "scans", scans.layout) for file in files]
        for part, chosen in zip(PARTS, _split(files, scans.split, given.path), strict=True):
            for file in chosen:
                prepare(file, folder / "prepared" / part, settings, layout=scans.layout, device=given.device)
    train, validation, test = (folder / "prepared" / part for part in PARTS)
    return DataSets(train, validation, test, _words(given, scans))


def _split(files: Sequence[Path], counts: tuple[int, int, int], folder: Path) -> list[list[Path]]:
    if len(files) < sum(counts):
        wanted = ", ".join(f"{count} for {part}" for count, part in zip(counts, PARTS, strict=True))
        raise InputError(f"{folder}: {len(files)} scans; expected at least {sum(counts)} ({wanted})")
    starts = (0, counts[0], counts[0] + counts[1])
    return [list(files[start : start + count]) for start, count in zip(starts, counts, strict=True)]


def _converted(file: Path, folder: Path, layout: Layout) -> Path:
    """An ISMRMRD scan in the fastMRI layout, its readout transformed to slices as volumes of mridata.org are used."""
    scan, converted = read_cartesian(file), folder / file.name
    if not converted.exists():
        kspace = readout_slices(scan.kspace) if scan.kspace.ndim == 5 else scan.kspace
        write_scan(converted, kspace, header=scan.header, attributes={"layout": layout})
    return converted


def _words(given: Given, scans: Scans) -> str:
    if given.path is not None:
        return f"{given.data}, {scans.split[0]} scans to train on, {scans.split[2]} to test on"
    what = {"slices": "slices", "volume": "slices in a volume", "cine": "frames"}[scans.layout]
    return (
        f"simulated {scans.size[0]} x {scans.size[1]}, {scans.coils} coils, {scans.volumes[0]} x {scans.slices} {what} "
        f"to train on, {scans.volumes[2]} x {scans.slices} to test on"
    )
