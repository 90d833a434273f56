"""The command line: parses, calls, prints. Everything it does is a function of the library."""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from convexrecon.cli_data import prepare, reconstruct, simulate
from convexrecon.cli_explain import explain
from convexrecon.cli_options import AsJson, Device, Quiet, Seed, device_named, one_of
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

app.command()(simulate)
app.command()(prepare)


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
    baselines: Annotated[
        bool, typer.Option(help="Compare classical methods too, low-rank ones where the data are series.")
    ] = True,
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


app.command()(reconstruct)


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
    typer.echo("block   objective      certified gap   recorded gap   asked for")
    for row in rows:
        typer.echo(
            f"{row['block']:5d}   {row['objective']:.6e}   {row['relative_gap']:.2e}"
            f"        {row['recorded_relative_gap']:.2e}       {row['tolerance']:.0e}"
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
