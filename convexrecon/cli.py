"""The command line: parses, calls, prints. Everything it does is a function of the library."""

import json
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import typer

from convexrecon.cli_explain import explain
from convexrecon.cli_options import AsJson, Device, Quiet, Seed, device_named, one_of, patch_size
from convexrecon.cli_trainers import compare, fit_memory
from convexrecon.errors import InputError, RankLostError
from convexrecon.interruption import deliver_swallowed_interrupts
from convexrecon.termination import end_on_termination
from convexrecon.training.first_to_end import first_to_end

# Exit status of a program that Ctrl-C ended.
INTERRUPTED = 130

app = typer.Typer(
    help="MRI reconstruction networks trained one convex problem at a time, each to a certified optimum.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
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
    anatomy: Annotated[str, typer.Option(help="head, knee or mixed.")] = "mixed",
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

    known = one_of("anatomy", anatomy, ("head", "knee", "mixed"))
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


@app.command()
def prepare(
    source: Annotated[
        Path, typer.Argument(help="A fully sampled fastMRI-style file, ISMRMRD with trajectories, or a folder.")
    ],
    out: Annotated[Path, typer.Argument(help="Folder for the prepared volumes.")],
    maps: Annotated[
        str, typer.Option(help="Sensitivity maps: espirit, or walsh (less exact; not faster here).")
    ] = "espirit",
    calibration: Annotated[int, typer.Option(help="Side of the calibration square in k-space.")] = 16,
    layout: Annotated[
        str | None,
        typer.Option(help="slices, volume or cine; what the files say by default.", show_default=False),
    ] = None,
    units: Annotated[
        str | None,
        typer.Option(
            help="Of ISMRMRD trajectories that do not tell: cycles/fov, cycles/pixel, rad/pixel or 1/m.",
            show_default=False,
        ),
    ] = None,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Estimate coil sensitivities once, form the targets, and cache both; a second run does what is missing."""
    from convexrecon.data.ismrmrd_samples import Units
    from convexrecon.data.preparation import PreparationSettings
    from convexrecon.data.preparation import prepare as run_preparation
    from convexrecon.data.prepared_files import Layout

    settings = PreparationSettings(maps=one_of("maps", maps, ("espirit", "walsh")), calibration=calibration)
    known = None if layout is None else one_of("layout", layout, get_args(Layout))
    stated = None if units is None else one_of("units", units, get_args(Units))
    report = run_preparation(
        source, out, settings, layout=known, units=stated, device=device_named(device), progress=not quiet
    )
    renewed = f" ({len(report.renewed)} of them anew)" if report.renewed else ""
    typer.echo(f"{len(report.prepared)} volumes prepared{renewed}, {len(report.skipped)} already there, in {out}")


@app.command()
def train(
    data: Annotated[Path, typer.Argument(help="Folder of prepared volumes.")],
    out: Annotated[Path, typer.Option(help="Run folder; an unfinished run in it is continued.")],
    config: Annotated[Path | None, typer.Option(help="TOML file; see the README for every key.")] = None,
    validation: Annotated[Path | None, typer.Option(help="Prepared volumes to validate on.")] = None,
    method: Annotated[
        str | None, typer.Option(help="convex, end_to_end, checkpointing, gleam, reversible or layerwise.")
    ] = None,
    blocks: Annotated[int | None, typer.Option(help="Blocks; more than a trained run has continues it.")] = None,
    units: Annotated[int | None, typer.Option(help="Gates, or hidden units, of a block.")] = None,
    mask: Annotated[str | None, typer.Option(help="poisson, random, equispaced, variable, shots or full.")] = None,
    acceleration: Annotated[float | None, typer.Option(help="Of the masks.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Of the methods that descend a loss.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of all randomness.")] = None,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Train a reconstruction; killed or interrupted, the same command continues it to the same result."""
    from convexrecon.training.config import RunSettings, load_settings
    from convexrecon.training.train import train as run_training

    settings = load_settings(config) if config is not None else RunSettings()
    settings = _override(
        settings, method=method, blocks=blocks, units=units, mask=mask, acceleration=acceleration,
        epochs=epochs, seed=seed,
    )  # fmt: skip
    run_training(settings, data, out, validation=validation, device=device_named(device), progress=not quiet)
    if os.environ.get("RANK", "0") == "0":
        typer.echo(f"trained: {out}")


@app.command()
def evaluate(
    runs: Annotated[list[Path], typer.Argument(help="Run folders to compare.")],
    data: Annotated[Path, typer.Option(help="Prepared volumes to evaluate on.")],
    tune_on: Annotated[
        Path | None,
        typer.Option(help="Prepared training volumes for the baselines; the runs' own by default."),
    ] = None,
    baselines: Annotated[bool, typer.Option(help="Compare zero-filled, CG-SENSE and L1-wavelet too.")] = True,
    out: Annotated[Path | None, typer.Option(help="Folder for table and report; the first run by default.")] = None,
    device: Device = "auto",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Score runs and classical baselines on held-out slices: a table, a CSV, a report with pictures."""
    from convexrecon.evaluate.tables import text_table
    from convexrecon.report.evaluation import evaluate_and_report

    evaluation, report = evaluate_and_report(
        runs,
        data,
        out=out,
        tune_on=tune_on,
        baselines=baselines,
        device=device_named(device),
        progress=not (quiet or as_json),
    )
    if as_json:
        typer.echo(json.dumps({"evaluation": evaluation.summary, "report": str(report)}))
    else:
        typer.echo(text_table(evaluation.summary))
        typer.echo(f"report: {report}")


@app.command()
def reconstruct(
    run: Annotated[Path, typer.Argument(help="Run folder of a trained model.")],
    file: Annotated[
        Path, typer.Argument(help="fastMRI-style file, or ISMRMRD with trajectories; fully sampled or undersampled.")
    ],
    out: Annotated[Path, typer.Option(help="HDF5 file for the images.")],
    patch: Annotated[
        str | None,
        typer.Option(help="Pixels denoised at a time: 64, or 64,48, or whole; as in training by default."),
    ] = None,
    layout: Annotated[
        str | None,
        typer.Option(help="slices, volume or cine; what the file says by default.", show_default=False),
    ] = None,
    undersample: Annotated[
        bool | None,
        typer.Option(
            "--undersample/--as-acquired",
            help="Whether shots of a trajectory are left out as in training; where they cover k-space by default.",
            show_default=False,
        ),
    ] = None,
    units: Annotated[
        str | None, typer.Option(help="Of ISMRMRD trajectories that do not tell; see prepare.", show_default=False)
    ] = None,
    device: Device = "auto",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Reconstruct a scan; a fully sampled one is undersampled as in training, and the result scored."""
    from convexrecon.data.ismrmrd_samples import Units
    from convexrecon.data.prepared_files import Layout
    from convexrecon.reconstruct import reconstruct_file

    chosen: tuple[int, ...] | int | Literal["as trained"] | None = "as trained"
    if patch is not None:
        chosen = patch_size(patch)
    known = None if layout is None else one_of("layout", layout, get_args(Layout))
    stated = None if units is None else one_of("units", units, get_args(Units))
    result = reconstruct_file(
        run, file, out, patch=chosen, layout=known, undersample_it=undersample, units=stated,
        device=device_named(device), progress=not (quiet or as_json),
    )  # fmt: skip
    if as_json:
        typer.echo(json.dumps(asdict(result), default=str))
    else:
        typer.echo(result.describe())


@app.command()
def certify(
    run: Annotated[Path, typer.Argument(help="Run folder of a convex run.")],
    data: Annotated[Path, typer.Option(help="The prepared volumes it was trained on.")],
    device: Device = "auto",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Re-measure every block's duality gap from the data, in an independent float64 pass."""
    from convexrecon.training.run_folder import RunFolder
    from convexrecon.training.train import certify_run

    rows = certify_run(RunFolder(run), data, device=device_named(device), progress=not (quiet or as_json))
    if as_json:
        typer.echo(json.dumps({"blocks": rows}))
        return
    typer.echo("block   objective      certified gap   recorded gap")
    for row in rows:
        typer.echo(
            f"{row['block']:5d}   {row['objective']:.6e}   {row['relative_gap']:.2e}"
            f"        {row['recorded_relative_gap']:.2e}"
        )


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for data, runs and report.")] = Path("demo"),
    tiny: Annotated[bool, typer.Option(help="Much smaller: seconds instead of minutes.")] = False,
    device: Device = "auto",
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Simulate, prepare, train convex and end to end, evaluate on held-out slices, write a report."""
    from convexrecon.demo import run_demo

    run_demo(out, tiny=tiny, device=device_named(device), seed=seed, progress=not quiet, say=typer.echo)


app.command()(compare)
app.command()(explain)
app.command("fit-memory")(fit_memory)


def main() -> None:
    """Entry point: errors a person can mend are printed as one line, without a traceback, by one process of a run."""
    deliver_swallowed_interrupts()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        end_on_termination(
            "error: stopped by torchrun, which lost another process or was stopped itself; "
            "the same command continues from the last checkpoint"
        )
    try:
        status = app(standalone_mode=False)
        if status == INTERRUPTED:  # typer returns it, or raises what is caught below: each of its releases has its way
            raise KeyboardInterrupt
        _end(status or 0)
    except typer.Exit as stop:
        sys.exit(stop.exit_code)
    except (InputError, OSError) as error:
        _fail(str(error), 2)
    except RankLostError as error:
        _fail(f"error: {error}", 1)
    except (KeyboardInterrupt, typer.Abort):
        _fail("interrupted; the same command continues where it stopped", INTERRUPTED)
    except Exception as error:
        usage = getattr(error, "format_message", None)
        if usage is None:
            first_to_end()
            raise
        _fail(usage(), 2)


def _fail(message: str, status: int) -> None:
    if first_to_end() == f"{os.environ.get('RANK', '0')}/program":
        typer.echo(f"error: {message}" if status == 2 else message, err=True)
    _end(status)


def _end(status: int) -> None:
    """Exit; one of several processes at once: threads of their connections can abort the interpreter's way out."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def _override(
    settings: Any,
    *,
    method: str | None,
    blocks: int | None,
    units: int | None,
    mask: str | None,
    acceleration: float | None,
    epochs: int | None,
    seed: int | None,
) -> Any:
    """Options given on the command line replace those of the configuration."""
    from convexrecon.physics.masks import MaskKind
    from convexrecon.training.config import METHODS

    if method is not None:
        settings = replace(settings, method=one_of("method", method, METHODS))
    if seed is not None:
        settings = replace(settings, seed=seed)
    model: dict[str, int] = {k: v for k, v in {"blocks": blocks, "units": units}.items() if v is not None}
    kind: MaskKind | None = None if mask is None else one_of("mask", mask, get_args(MaskKind))
    sampling: dict[str, Any] = {"kind": kind, "acceleration": acceleration}
    sampling = {name: value for name, value in sampling.items() if value is not None}
    settings = replace(settings, model=replace(settings.model, **model), mask=replace(settings.mask, **sampling))
    if epochs is not None:
        settings = replace(settings, descent=replace(settings.descent, epochs=epochs))
    return settings


if __name__ == "__main__":
    main()
