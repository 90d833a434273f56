"""The command line that the scripts of all papers share."""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch

from convexrecon.errors import InputError

DataKind = Literal["synthetic", "fastmri", "mridata"]
Size = Literal["tiny", "synthetic", "full"]


@dataclass(frozen=True)
class Given:
    """What was asked for.

    Attributes:
        out: folder for everything.
        data: what is scanned.
        path: folder of real scans, None for synthetic ones.
        size: "full" (the paper's settings) with real data, else "synthetic", or "tiny" for checks.
        seeds: how many training seeds.
        device: where to compute.
        rest: arguments of one script alone.
    """

    out: Path
    data: DataKind
    path: Path | None
    size: Size
    seeds: int
    device: torch.device
    rest: argparse.Namespace


def script_parser(description: str | None) -> argparse.ArgumentParser:
    """The arguments that all scripts have; a script adds its own."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for data, runs, table and figures")
    parser.add_argument(
        "--data",
        nargs="+",
        default=["synthetic"],
        metavar=("KIND", "PATH"),
        help="synthetic; or fastmri PATH, mridata PATH: a folder of scans, at the paper's settings",
    )
    parser.add_argument("--tiny", action="store_true", help="check that everything runs, in seconds; of no meaning")
    parser.add_argument("--seeds", type=int, default=None, help="training seeds; 3, or 1 with --tiny")
    parser.add_argument("--threads", type=int, default=None, help="of torch")
    parser.add_argument("--device", default="cpu")
    return parser


def parsed(parser: argparse.ArgumentParser, arguments: Sequence[str] | None = None) -> Given:
    """Read the command line.

    Raises:
        InputError: an unknown kind of data, a path that is missing, superfluous or no folder, or --tiny with real data.
    """
    rest = parser.parse_args(arguments)
    kind, *places = rest.data
    if kind not in get_args(DataKind):
        raise InputError(f"--data: expected one of {', '.join(get_args(DataKind))}, found {kind!r}")
    real = kind != "synthetic"
    if len(places) != int(real):
        raise InputError(f"--data {kind}: expected {'one folder' if real else 'no path'}, found {places}")
    if real and not Path(places[0]).is_dir():
        raise InputError(f"--data {kind}: {places[0]} is not a folder; expected one of scans (*.h5)")
    if real and rest.tiny:
        raise InputError("--tiny: expected with --data synthetic alone; real data run at the paper's settings")
    seeds = rest.seeds if rest.seeds is not None else 1 if rest.tiny else 3
    if seeds < 1:
        raise InputError(f"--seeds: expected at least 1, found {seeds}")
    if rest.threads is not None:
        torch.set_num_threads(rest.threads)
    size: Size = "full" if real else "tiny" if rest.tiny else "synthetic"
    path = Path(places[0]) if real else None
    return Given(rest.out, kind, path, size, seeds, torch.device(rest.device), rest)


def run_script(main: Callable[[], None]) -> None:
    """Run a script's main; what is wrong with its input is told in a line, without a traceback."""
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
