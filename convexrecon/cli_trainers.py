"""Commands that set trainers side by side; a thin layer: they parse, call, print."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, get_args

import typer

from convexrecon.cli_options import AsJson, Device, Quiet, device_named, one_of
from convexrecon.errors import InputError


def compare(
    data: Annotated[Path, typer.Option(help="Folder of prepared volumes to train on.")],
    out: Annotated[Path, typer.Option(help="Folder for the runs, table and report; an unfinished one is continued.")],
    configs: Annotated[
        list[Path] | None, typer.Argument(help="TOML files, a run each; or one, with --methods.", show_default=False)
    ] = None,
    methods: Annotated[
        str | None, typer.Option(help="Instead: one configuration by each of these, e.g. convex,end_to_end,gleam.")
    ] = None,
    validation: Annotated[Path | None, typer.Option(help="Prepared volumes to validate on.")] = None,
    test: Annotated[Path | None, typer.Option(help="Prepared volumes to score all of them on.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Budget: of every method that descends a loss.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Budget: of training each.")] = None,
    memory_mb: Annotated[float | None, typer.Option(help="Budget: of a step's tensors; as many blocks as fit.")] = None,
    vary: Annotated[str, typer.Option(help="What --memory-mb makes fit: blocks or batch.")] = "blocks",
    device: Device = "auto",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Train several configurations or methods under one budget: a table, a plot of quality over cost, a report."""
    from convexrecon.evaluate.training_cost import cost_text
    from convexrecon.report.trainer_comparison import compare_trainers
    from convexrecon.training.budget import Budget
    from convexrecon.training.train_several import configurations

    quiet = quiet or as_json
    costs, notes = compare_trainers(
        configurations(configs or [], methods.split(",") if methods is not None else []),
        data,
        out,
        Budget(epochs, seconds, memory_mb, one_of("vary", vary, ("blocks", "batch"))),
        validation=validation,
        test=test,
        device=device_named(device),
        progress=not quiet,
        say=(lambda line: None) if quiet else typer.echo,
    )
    if as_json:
        typer.echo(json.dumps({"runs": [asdict(cost) for cost in costs], "report": str(out / "report.html")}))
    else:
        typer.echo(cost_text(costs, notes))
        typer.echo(f"report: {out / 'report.html'}")


def fit_memory(
    gigabytes: Annotated[float, typer.Option(help="Memory allowed, in units of 1e9 bytes.")],
    config: Annotated[Path | None, typer.Argument(help="TOML file; the defaults without.", show_default=False)] = None,
    data: Annotated[Path | None, typer.Option(help="Prepared volumes; their largest slice counts.")] = None,
    size: Annotated[
        tuple[int, int] | None, typer.Option(help="Instead of data: image size y x.", show_default=False)
    ] = None,
    coils: Annotated[int, typer.Option(help="Coils, with --size.")] = 8,
    method: Annotated[str | None, typer.Option(help="Trainer, or all; the configuration's by default.")] = None,
    vary: Annotated[str, typer.Option(help="batch or blocks.")] = "batch",
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """The largest batch, or the most blocks, that a trainer fits into so many gigabytes; and what takes them."""
    from convexrecon.training.config import METHODS, Method, RunSettings, load_settings
    from convexrecon.training.fit_memory import fit_methods, text_of
    from convexrecon.training.measured_step import MEASURED

    settings = load_settings(config) if config is not None else RunSettings()
    methods: list[Method] = [settings.method]
    if method is not None:
        chosen = one_of("method", method, (*METHODS, "all"))
        methods = [name for name in get_args(Method) if chosen == name or (chosen == "all" and name in MEASURED)]
    if (data is None) == (size is None):
        raise InputError("fit-memory: expected either --data FOLDER or --size Y X")
    fits = fit_methods(
        [replace(settings, method=name) for name in methods],
        gigabytes,
        data=data,
        size=size,
        coils=coils,
        vary=one_of("vary", vary, ("batch", "blocks")),
        device=device_named(device),
    )
    if as_json:
        typer.echo(json.dumps({"gigabytes": gigabytes, "methods": [asdict(fit) for fit in fits]}))
    else:
        typer.echo(text_of(fits, gigabytes))
