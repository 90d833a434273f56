"""Options that several commands of the command line share, and what their values mean."""

from typing import Annotated, Any

import torch
import typer

from convexrecon.errors import InputError

Device = Annotated[str, typer.Option(help="Where to compute: auto, cpu, cuda, cuda:1, mps.")]
Seed = Annotated[int, typer.Option(help="Of all randomness; the same seed gives the same result.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else.")]


def device_named(name: str) -> torch.device:
    """The device of `--device`; "auto" is CUDA where there is any.

    Raises:
        InputError: a device that this machine does not have.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--device {name}: not available here ({reason}); expected auto or cpu") from None
    return device


def patch_size(text: str) -> tuple[int, ...] | int | None:
    """Pixels of a patch: "64" along every axis, "64,48" along each, "whole" for None.

    Raises:
        InputError: anything else.
    """
    if text == "whole":
        return None
    try:
        sizes = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--patch: expected pixels as in 64 or 64,48, or whole, found {text!r}") from None
    return sizes[0] if len(sizes) == 1 else sizes


def counters_named(texts: list[str] | None) -> dict[str, int]:
    """The counters of `--select`, each "contrast=0".

    Raises:
        InputError: anything else, or a counter twice.
    """
    found: dict[str, int] = {}
    for text in texts or []:
        name, _, value = text.partition("=")
        if not value.isdigit() or name in found:
            raise InputError(f"--select: expected a counter and its value, once each, as in contrast=0, found {text!r}")
        found[name] = int(value)
    return found


def one_of(name: str, value: str, choices: tuple[str, ...]) -> Any:
    """The value of an option `--name` if it is one of the choices.

    Raises:
        InputError: it is not.
    """
    if value not in choices:
        raise InputError(f"--{name}: expected one of {', '.join(choices)}, found {value!r}")
    return value
