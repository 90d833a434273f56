"""A trained cascade in one safetensors file: tensors, and what to build from them. Nothing is unpickled."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from convexrecon.atomic_write import atomic_path
from convexrecon.cascade import Block, Cascade
from convexrecon.denoisers.building import build_denoiser, describe_denoiser
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
    description: dict[str, Any] = {
        "format": FORMAT,
        "initial": cascade.initial,
        "blocks": [_describe(block) for block in cascade],
        "notes": notes or {},
    }
    if cascade.initial_weight is not None:
        description["initial_weight"] = cascade.initial_weight
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
    cascade = Cascade(blocks, initial=description["initial"], initial_weight=description.get("initial_weight"))
    cascade.load_state_dict(tensors)
    return cascade, description["notes"]


def _describe(block: Block) -> dict[str, Any]:
    consistency: dict[str, Any] = {"kind": block.consistency.kind}
    if isinstance(block.consistency, ProximalDataConsistency):
        consistency["iterations"] = block.consistency.iterations
        consistency["tolerance"] = block.consistency.tolerance
    entry = {**describe_denoiser(block.denoiser), "inputs": block.inputs, "consistency": consistency}
    if block.precision != "float32":
        entry["precision"] = block.precision
    patches = block.patches
    return entry if patches is None else entry | {"patch": patches.patch, "halo": patches.halo}


def _build(index: int, entry: dict[str, Any], tensors: dict[str, Tensor]) -> Block:
    prefix = f"blocks.{index}.denoiser."
    own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return Block(
        build_denoiser(entry, own),
        _build_consistency(entry["consistency"]),
        inputs=entry.get("inputs", ["image"]),
        precision=entry.get("precision", "float32"),
        patch=entry.get("patch"),
        halo=entry.get("halo"),
    )


def _build_consistency(entry: dict[str, Any]) -> DataConsistency:
    if entry["kind"] == ProximalDataConsistency.kind:
        return ProximalDataConsistency(iterations=entry["iterations"], tolerance=entry["tolerance"])
    if entry["kind"] == GradientDataConsistency.kind:
        return GradientDataConsistency()
    return NoDataConsistency()
