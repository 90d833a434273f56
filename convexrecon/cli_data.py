"""The commands that take files in and give files out: simulate, prepare, reconstruct."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal, get_args

import typer

from convexrecon.cli_options import AsJson, Device, Quiet, Seed, counters_named, device_named, one_of, patch_size
from convexrecon.errors import InputError

Layouts = Annotated[
    str | None,
    typer.Option(
        help="slices, volume or cine; what the files say by default, slices of a 3-D scan.", show_default=False
    ),
]
Readout = Annotated[
    str | None,
    typer.Option(
        help="Of 3-D k-space: the fully sampled axis, z, y or x, in the order of the file. ISMRMRD headers say it, "
        "BART's is z by default; of a fastMRI-style file this says that all three axes are in k-space.",
        show_default=False,
    ),
]
Units = Annotated[
    str | None,
    typer.Option(
        help="Of ISMRMRD trajectories that do not tell: cycles/fov, cycles/recon_fov, cycles/pixel, rad/pixel or 1/m.",
        show_default=False,
    ),
]
Select = Annotated[
    list[str] | None,
    typer.Option(
        help="Of ISMRMRD files: the value of a counter to take, contrast=0 or slice=2; several times for several.",
        show_default=False,
    ),
]
FieldOfView = Annotated[
    float | None,
    typer.Option(
        help="Of trajectories: how much larger images are computed than planned, where objects reach beyond; "
        "1.5, say. 1 by default, of reconstruct that of the training data.",
        show_default=False,
    ),
]


def simulate(
    out: Annotated[Path, typer.Argument(help="Folder for the files, made if missing.")],
    volumes: Annotated[
        int | None, typer.Option(help="Number of files; 8, or as many as your images fill.", show_default=False)
    ] = None,
    slices: Annotated[
        int | None,
        typer.Option(help="Slices in each; 4, of a volume 32, of a cine 12 frames.", show_default=False),
    ] = None,
    size: Annotated[
        tuple[int, int] | None,
        typer.Option(help="Image size y x; 160 144, or that of your images.", show_default=False),
    ] = None,
    vary_size: Annotated[bool, typer.Option(help="Sizes and coil counts that differ between files.")] = False,
    coils: Annotated[int, typer.Option(help="Receive coils.")] = 8,
    layout: Annotated[str, typer.Option(help="slices, volume (z, y, x) or cine (t, y, x).")] = "slices",
    anatomy: Annotated[str, typer.Option(help="head, knee, mixed (of both) or phantom.")] = "mixed",
    noise: Annotated[float, typer.Option(help="Noise deviation, as a share of the image's 95th percentile.")] = 0.01,
    images: Annotated[Path | None, typer.Option(help="Your own images (.npy, .npz, .h5) instead.")] = None,
    trajectory: Annotated[
        str | None,
        typer.Option(
            help="Off the grid: radial, spiral, kooshball, stack_of_stars or cones, as ISMRMRD files.",
            show_default=False,
        ),
    ] = None,
    shots: Annotated[
        int | None,
        typer.Option(help="Readouts of a trajectory; as many as sample it fully.", show_default=False),
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace files made with other settings.")] = False,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Make a multi-coil data set in the fastMRI layout, from random anatomies or your own images."""
    from convexrecon.data.noncartesian_simulation import TrajectoryKind, simulate_trajectories
    from convexrecon.data.prepared_files import Layout
    from convexrecon.data.simulation import simulate_dataset

    known = one_of("anatomy", anatomy, ("head", "knee", "mixed", "phantom"))
    if shots is not None and trajectory is None:
        raise InputError(f"shots: {shots} without a trajectory; expected --trajectory with it")
    if trajectory is not None:
        if layout != "slices" or vary_size:
            raise InputError(f"trajectory {trajectory!r}: decides what is scanned; expected no --layout, --vary-size")
        kind = one_of("trajectory", trajectory, get_args(TrajectoryKind))
        paths = simulate_trajectories(
            out, kind, shots=shots, volumes=volumes, slices=slices, size=size, coils=coils, anatomy=known, noise=noise,
            images=images, overwrite=overwrite, seed=seed, progress=not quiet,
        )  # fmt: skip
        typer.echo(f"{len(paths)} files in {out}")
        return
    paths = simulate_dataset(
        out,
        volumes=volumes,
        slices=slices,
        size=size,
        coils=coils,
        layout=one_of("layout", layout, get_args(Layout)),
        anatomy=known,
        noise=noise,
        images=images,
        vary_size=vary_size,
        overwrite=overwrite,
        seed=seed,
        progress=not quiet,
    )
    typer.echo(f"{len(paths)} files in {out}")


def prepare(
    source: Annotated[
        Path,
        typer.Argument(help="Fully sampled scan or folder of them: fastMRI, ISMRMRD (.h5, .mrd), BART."),
    ],
    out: Annotated[Path, typer.Argument(help="Folder for the prepared volumes.")],
    maps: Annotated[
        str, typer.Option(help="Sensitivity maps: espirit, or walsh (less exact; not faster here).")
    ] = "espirit",
    calibration: Annotated[int, typer.Option(help="Side of the calibration square in k-space.")] = 16,
    layout: Layouts = None,
    readout: Readout = None,
    units: Units = None,
    field_of_view: FieldOfView = None,
    select: Select = None,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Estimate coil sensitivities once, form the targets, and cache both; a second run does what is missing."""
    from convexrecon.data.ismrmrd_samples import Units as KnownUnits
    from convexrecon.data.preparation import PreparationSettings
    from convexrecon.data.preparation import prepare as run_preparation
    from convexrecon.data.prepared_files import Layout
    from convexrecon.data.scan import Axis

    settings = PreparationSettings(
        maps=one_of("maps", maps, ("espirit", "walsh")),
        calibration=calibration,
        field_of_view=1.0 if field_of_view is None else field_of_view,
    )
    report = run_preparation(
        source,
        out,
        settings,
        layout=None if layout is None else one_of("layout", layout, get_args(Layout)),
        readout=None if readout is None else one_of("readout", readout, get_args(Axis)),
        units=None if units is None else one_of("units", units, get_args(KnownUnits)),
        select=counters_named(select),
        device=device_named(device),
        progress=not quiet,
    )
    renewed = f" ({len(report.renewed)} of them anew)" if report.renewed else ""
    typer.echo(f"{len(report.prepared)} volumes prepared{renewed}, {len(report.skipped)} already there, in {out}")


def reconstruct(
    run: Annotated[Path, typer.Argument(help="Run folder of a trained model.")],
    file: Annotated[Path, typer.Argument(help="Scan, fully sampled or undersampled: fastMRI, ISMRMRD or BART file.")],
    out: Annotated[Path, typer.Option(help="File for the images: .h5, .nii, .nii.gz, .cfl (BART) or .mrd (ISMRMRD).")],
    patch: Annotated[
        str | None,
        typer.Option(help="Pixels denoised at a time: 64, or 64,48, or whole; as in training by default."),
    ] = None,
    layout: Layouts = None,
    readout: Readout = None,
    undersample: Annotated[
        bool | None,
        typer.Option(
            "--undersample/--as-acquired",
            help="Whether shots of a trajectory are left out as in training; where they cover k-space by default.",
            show_default=False,
        ),
    ] = None,
    units: Units = None,
    field_of_view: FieldOfView = None,
    select: Select = None,
    keep_complex: Annotated[bool, typer.Option("--complex", help="Complex images in NIfTI, not magnitudes.")] = False,
    device: Device = "auto",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Reconstruct a scan; a fully sampled one is undersampled as in training, and the result scored."""
    from convexrecon.data.ismrmrd_samples import Units as KnownUnits
    from convexrecon.data.prepared_files import Layout
    from convexrecon.data.scan import Axis
    from convexrecon.reconstruct import reconstruct_file

    chosen: tuple[int, ...] | int | Literal["as trained"] | None = "as trained"
    if patch is not None:
        chosen = patch_size(patch)
    result = reconstruct_file(
        run,
        file,
        out,
        patch=chosen,
        layout=None if layout is None else one_of("layout", layout, get_args(Layout)),
        readout=None if readout is None else one_of("readout", readout, get_args(Axis)),
        units=None if units is None else one_of("units", units, get_args(KnownUnits)),
        undersample_it=undersample,
        field_of_view=field_of_view,
        select=counters_named(select),
        keep_complex=keep_complex,
        device=device_named(device),
        progress=not (quiet or as_json),
    )
    if as_json:
        typer.echo(json.dumps(asdict(result), default=str))
    else:
        typer.echo(result.describe())
