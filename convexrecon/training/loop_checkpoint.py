"""Everything a killed run of descent continues from, in one file, written to a temporary name and renamed."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from convexrecon.atomic_write import atomic_path
from convexrecon.errors import InputError


@dataclass
class Progress:
    """How far a run has come: what a checkpoint holds beside tensors.

    There is no state of random generators: every draw is seeded by what it is for (the order of the slices by
    seed and epoch), and schedules are functions of `step` alone.

    Attributes:
        epoch: complete epochs.
        position: batches done of the next one.
        step: batches done in all.
        losses: sums over the batches done of the next epoch: of their losses, and their number.
        parts: seconds spent on them, by part.
        seconds: of training so far.
        peak_memory_mb: of the epoch so far.
        activations_mb: tensors that one step makes and holds at most.
        best_psnr: highest validation PSNR so far, dB.
        best_epoch: when.
    """

    epoch: int = 0
    position: int = 0
    step: int = 0
    losses: float = 0.0
    parts: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    peak_memory_mb: float = 0.0
    activations_mb: float | None = None
    best_psnr: float = -math.inf
    best_epoch: int = 0


def save_checkpoint(
    path: Path,
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    state: Progress,
    best: dict[str, Tensor],
) -> None:
    """Write model, moments, position and best weights, atomically."""
    tensors = {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"best/{name}": tensor for name, tensor in best.items()}
    for number, optimizer in enumerate(optimizers):
        for index, entry in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{number}/{index}/{name}": torch.as_tensor(value) for name, value in entry.items()}
    # Copies: safetensors refuses tensors that share memory, and best may be the model's own.
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"progress": json.dumps(asdict(state))})


def finished_weights(path: Path, epochs: int) -> dict[str, Tensor] | None:
    """The best weights of a stage all of whose epochs are done, else None."""
    if not path.exists():
        return None
    state, parts = _read(path)
    return parts["best"] if state.epoch >= epochs else None


def load_checkpoint(
    path: Path, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]
) -> tuple[Progress, dict[str, Tensor]]:
    """Put a checkpoint's tensors into model and optimizers; returns where it was and the best weights so far.

    Raises:
        InputError: the file is damaged, or of another network.
    """
    if not path.exists():
        return Progress(), {}
    state, parts = _read(path)
    try:
        model.load_state_dict(parts["model"])
    except RuntimeError as error:
        raise _refusal(path, error) from None
    moments: list[dict[int, dict[str, Any]]] = [{} for _ in optimizers]
    for name, tensor in parts["optimizer"].items():
        number, index, key = name.split("/")
        moments[int(number)].setdefault(int(index), {})[key] = tensor
    for optimizer, entries in zip(optimizers, moments, strict=True):
        optimizer.load_state_dict({**optimizer.state_dict(), "state": entries})
    return state, parts["best"]


def _read(path: Path) -> tuple[Progress, dict[str, dict[str, Tensor]]]:
    """Where the run was, and the tensors of "model", "best" and "optimizer"."""
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "best": {}, "optimizer": {}}
    try:
        with safe_open(path, framework="pt") as file:
            state = Progress(**json.loads(file.metadata()["progress"]))
            for name in file.keys():  # noqa: SIM118
                part, _, rest = name.partition("/")
                parts[part][rest] = file.get_tensor(name)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise _refusal(path, error) from None
    return state, parts


def _refusal(path: Path, error: Exception) -> InputError:
    return InputError(f"{path}: not a checkpoint of this run ({error}); delete it to begin the run anew")
