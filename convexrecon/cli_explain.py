"""The command that explains a pixel; a thin layer: it parses, calls, prints."""

import json
from pathlib import Path
from typing import Annotated, get_args

import typer

from convexrecon.cli_data import Select, Units
from convexrecon.cli_options import AsJson, Device, Quiet, counters_named, device_named, one_of
from convexrecon.errors import InputError


def explain(
    run: Annotated[Path, typer.Argument(help="Run folder of a trained model.")],
    file: Annotated[Path, typer.Argument(help="Scan of any format, or a prepared volume.")],
    slice_: Annotated[int, typer.Option("--slice", help="Slice, frame or plane, from 0.")],
    pixel: Annotated[str, typer.Option(help="Y,X in the reconstructed image, from 0: 40,52.")],
    out: Annotated[Path, typer.Option(help="HTML page.")] = Path("pixel.html"),
    grid: Annotated[int, typer.Option(help="Other pixels that can be clicked, at most.")] = 100,
    layout: Annotated[
        str | None, typer.Option(help="slices, volume or cine; what the file says by default.", show_default=False)
    ] = None,
    units: Units = None,
    select: Select = None,
    device: Device = "auto",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """What a network does at one pixel: gates, filters, contributions, what it depends on; a page to click on."""
    from convexrecon.data.ismrmrd_samples import Units as KnownUnits
    from convexrecon.data.prepared_files import Layout
    from convexrecon.report.pixel_page import explain_pixel

    known = None if layout is None else one_of("layout", layout, get_args(Layout))

    found = explain_pixel(
        run,
        file,
        out,
        slice_index=slice_,
        pixel=pixel_named(pixel),
        grid=grid,
        layout=known,
        units=None if units is None else one_of("units", units, get_args(KnownUnits)),
        select=counters_named(select),
        device=device_named(device),
        progress=not (quiet or as_json),
    )
    if as_json:
        values = [[value.real, value.imag] for value in found.explanation.values]
        gates = [None if read.gates is None else read.gates.tolist() for read in found.explanation.blocks]
        answer = {"pixel": found.pixel, "slice": slice_, "values": values, "gates": gates, "error_percent": found.error}
        typer.echo(json.dumps(answer | {"pixels": found.pixels, "out": str(found.out)}))
    else:
        typer.echo(found.describe())


def pixel_named(text: str) -> tuple[int, int]:
    """The pixel of `--pixel`, "y,x".

    Raises:
        InputError: not two whole numbers.
    """
    try:
        y, x = (int(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--pixel: expected y,x as in 40,52, found {text!r}") from None
    return y, x
