"""Denoisers made by kind: new ones to train, and those that a file of weights describes."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from convexrecon.convex.arrangements import Gates
from convexrecon.denoisers.feature_stack import FeatureStack
from convexrecon.denoisers.gated import GatedDenoiser
from convexrecon.denoisers.gated_network import GatedNetwork
from convexrecon.denoisers.modl_cnn import ModlDenoiser
from convexrecon.denoisers.relu import ReluDenoiser
from convexrecon.denoisers.residual import ResidualDenoiser
from convexrecon.denoisers.resnet import ResNetDenoiser
from convexrecon.errors import InputError

DenoiserKind = Literal["relu", "resnet", "modl"]
DEFAULT_WIDTHS: dict[DenoiserKind, int] = {"relu": 32, "resnet": 100, "modl": 70}


def new_denoiser(
    kind: DenoiserKind,
    *,
    width: int | None = None,
    kernel: int | Sequence[int] = 3,
    channels: int = 2,
    dimensions: int = 2,
    periodic: bool = False,
    spectral: float | None = None,
    generator: torch.Generator,
) -> ResidualDenoiser:
    """An untrained denoiser, near the identity.

    Args:
        kind: "relu", "resnet" or "modl".
        width: channels inside, for "relu" its hidden units; None for the kind's own: 32, 100, 70.
        kernel: odd kernel size, of all axes or one for each.
        channels: input channels, 2 for each complex image that it sees.
        dimensions: 1, 2 or 3.
        periodic: whether the first axis goes round, as the time of a heartbeat does.
        spectral: bound of the Lipschitz constant of f - identity, below 1; None for none.
        generator: of the initial weights.

    Raises:
        InputError: an unknown kind or a setting out of range.

    >>> denoiser = new_denoiser("modl", generator=torch.Generator().manual_seed(0))
    >>> sum(p.numel() for p in denoiser.parameters())
    134820
    """
    if kind not in get_args(DenoiserKind):
        raise InputError(f"kind: expected one of {', '.join(get_args(DenoiserKind))}, found {kind!r}")
    width = DEFAULT_WIDTHS[kind] if width is None else width
    networks: dict[str, type[ReluDenoiser] | type[ResNetDenoiser] | type[ModlDenoiser]]
    networks = {"relu": ReluDenoiser, "resnet": ResNetDenoiser, "modl": ModlDenoiser}
    return networks[kind](
        width,
        kernel,
        channels=channels,
        dimensions=dimensions,
        periodic=periodic,
        spectral=spectral,
        generator=generator,
    )


def describe_denoiser(denoiser: nn.Module) -> dict[str, Any]:
    """What, beside its tensors, `build_denoiser` needs: JSON-able, with its "kind"."""
    if isinstance(denoiser, ResidualDenoiser):
        return {"kind": denoiser.kind, "settings": denoiser.settings()}
    if isinstance(denoiser, GatedDenoiser):
        return {"kind": denoiser.kind, "constant": denoiser.constant, "periodic": denoiser.periodic}
    if isinstance(denoiser, FeatureStack):
        return {"kind": denoiser.kind, "periodic": denoiser.layer(0).periodic, "residual": denoiser.residual}
    return {"kind": denoiser.kind}


def build_denoiser(entry: dict[str, Any], tensors: dict[str, Tensor]) -> nn.Module:
    """The denoiser that `describe_denoiser` described; its weights are still to be loaded.

    Args:
        entry: the description.
        tensors: the denoiser's, by their names in its state.

    Raises:
        InputError: a kind or settings that this library does not have.
    """
    # Files written before gates could go round do not say.
    kind, periodic = entry["kind"], bool(entry.get("periodic", False))
    if kind == GatedDenoiser.kind:
        gates = Gates(tensors["gate_filters"], tensors["gate_offsets"], periodic)
        return GatedDenoiser(gates, tensors["weights"], constant=entry["constant"])
    if kind == FeatureStack.kind:
        count = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("networks."))
        networks = [_build_network(tensors, f"networks.{layer}.", periodic) for layer in range(count)]
        # Files written before layers could add to those before them do not say.
        return FeatureStack(networks, residual=bool(entry.get("residual", False)))
    if kind == ReluDenoiser.kind and "settings" not in entry:
        entry = {"settings": _relu_settings(tensors)}
    for made in (ReluDenoiser, ResNetDenoiser, ModlDenoiser):
        if kind == made.kind:
            try:
                return made(**entry["settings"], generator=torch.Generator())
            except (TypeError, KeyError) as error:
                raise InputError(f"weights: expected the settings of a {kind!r} denoiser ({error})") from None
    raise InputError(f"weights: expected a denoiser of this library, found {kind!r}")


def _relu_settings(tensors: dict[str, Tensor]) -> dict[str, Any]:
    """The settings of a ReLU denoiser written before files had them, from its tensors."""
    first = tensors["network.0.weight"]
    return {
        "width": first.shape[0],
        "kernel": list(first.shape[2:]),
        "channels": first.shape[1],
        "outputs": tensors["network.2.weight"].shape[0],
        "dimensions": first.ndim - 2,
        "bias": "network.0.bias" in tensors,
    }


def _build_network(tensors: dict[str, Tensor], prefix: str, periodic: bool) -> GatedNetwork:
    part = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
    gates = Gates(part["gate_filters"], part["gate_offsets"], periodic)
    return GatedNetwork(gates, part["filters"], part.get("constants"), part["gate_of"], part["outputs"])
