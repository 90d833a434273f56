"""A trained cascade in one safetensors file: tensors, and what to build from them. Nothing is unpickled."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from convexrecon.atomic_write import atomic_path
from convexrecon.cascade import Block, Cascade
from convexrecon.convex.arrangements import Gates
from convexrecon.denoisers.feature_stack import FeatureStack
from convexrecon.denoisers.gated import GatedDenoiser
from convexrecon.denoisers.gated_network import GatedNetwork
from convexrecon.denoisers.relu import ReluDenoiser
from convexrecon.errors import InputError
from convexrecon.physics.data_consistency import (
    DataConsistency,
    GradientDataConsistency,
    NoDataConsistency,
    ProximalDataConsistency,
)

FORMAT = "convexrecon-cascade-1"


def save_cascade(path: Path, cascade: Cascade, notes: dict[str, Any] | None = None) -> None:
    """Write a cascade, atomically.

    Args:
        path: a .safetensors file.
        cascade: the model.
        notes: JSON-able facts kept beside it, e.g. how far training has come.
    """
    description = {
        "format": FORMAT,
        "initial": cascade.initial,
        "blocks": [_describe(block) for block in cascade],
        "notes": notes or {},
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in cascade.state_dict().items()}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"cascade": json.dumps(description)})


def load_cascade(path: Path) -> tuple[Cascade, dict[str, Any]]:
    """Read a cascade and its notes.

    Raises:
        InputError: the file is missing, damaged, or not a cascade of this library.
    """
    try:
        with safe_open(path, framework="pt") as file:
            description = json.loads((file.metadata() or {}).get("cascade", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: expected the weights of a trained cascade ({error})") from None
    if description.get("format") != FORMAT:
        raise InputError(f"{path}: expected format {FORMAT!r}, found {description.get('format')!r}")
    blocks = [
        _build(index, entry, {k: v for k, v in tensors.items() if k.startswith(f"blocks.{index}.")})
        for index, entry in enumerate(description["blocks"])
    ]
    cascade = Cascade(blocks, initial=description["initial"])
    cascade.load_state_dict(tensors)
    return cascade, description["notes"]


def _describe(block: Block) -> dict[str, Any]:
    consistency: dict[str, Any] = {"kind": block.consistency.kind}
    if isinstance(block.consistency, ProximalDataConsistency):
        consistency["iterations"] = block.consistency.iterations
        consistency["tolerance"] = block.consistency.tolerance
    denoiser = block.denoiser
    entry: dict[str, Any] = {"kind": denoiser.kind, "inputs": block.inputs, "consistency": consistency}
    if isinstance(denoiser, GatedDenoiser):
        entry["constant"] = denoiser.constant
    return entry


def _build(index: int, entry: dict[str, Any], tensors: dict[str, Tensor]) -> Block:
    prefix = f"blocks.{index}.denoiser."
    own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return Block(
        _build_denoiser(entry, own), _build_consistency(entry["consistency"]), inputs=entry.get("inputs", ["image"])
    )


def _build_denoiser(entry: dict[str, Any], own: dict[str, Tensor]) -> nn.Module:
    kind = entry["kind"]
    if kind == GatedDenoiser.kind:
        gates = Gates(own["gate_filters"], own["gate_offsets"])
        return GatedDenoiser(gates, own["weights"], constant=entry["constant"])
    if kind == ReluDenoiser.kind:
        first = own["network.0.weight"]
        return ReluDenoiser(
            first.shape[0],
            first.shape[2],
            channels=first.shape[1],
            outputs=own["network.2.weight"].shape[0],
            dimensions=first.ndim - 2,
            bias="network.0.bias" in own,
            generator=torch.Generator(),
        )
    if kind == FeatureStack.kind:
        count = 1 + max(int(name.split(".")[1]) for name in own if name.startswith("networks."))
        return FeatureStack(_build_network(own, f"networks.{layer}.") for layer in range(count))
    raise InputError(f"weights: expected a denoiser of this library, found {kind!r}")


def _build_network(own: dict[str, Tensor], prefix: str) -> GatedNetwork:
    part = {name.removeprefix(prefix): t for name, t in own.items() if name.startswith(prefix)}
    gates = Gates(part["gate_filters"], part["gate_offsets"])
    return GatedNetwork(gates, part["filters"], part.get("constants"), part["gate_of"], part["outputs"])


def _build_consistency(entry: dict[str, Any]) -> DataConsistency:
    if entry["kind"] == ProximalDataConsistency.kind:
        return ProximalDataConsistency(iterations=entry["iterations"], tolerance=entry["tolerance"])
    if entry["kind"] == GradientDataConsistency.kind:
        return GradientDataConsistency()
    return NoDataConsistency()
