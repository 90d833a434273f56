"""What a trainer that descends a loss gives the loop, and the update that they all make."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from convexrecon.data.dataset import Batch
from convexrecon.training.descent_settings import DescentSettings
from convexrecon.training.ranks import Ranks
from convexrecon.training.step_clock import StepClock


@dataclass(frozen=True)
class Portion:
    """What one rank does of one step.

    Attributes:
        batch: this rank's slices.
        weight: their share of all slices of the step: the weights of all ranks sum to 1. A rank without a slice
            of its own gets another's with weight 0, so that all ranks do the same.
    """

    batch: Batch
    weight: float = 1.0


@dataclass(frozen=True)
class Descent:
    """One way to descend: what the loop calls for every batch.

    Attributes:
        optimizers: whose learning rates the loop sets, and whose states it saves.
        step: an update on a portion of a batch; returns the portion's part of the loss of the final image.
        splits_batches: whether the ranks share the slices of a batch, or all see the whole batch.
        gather: called on every rank before the model is validated or saved: makes it the same everywhere.
        report: called on every rank at the end of an epoch: figures of the steps since the last call, over all ranks,
            for the epoch's row of the metrics. A resumed run's first row has those of the steps since.
    """

    optimizers: Sequence[torch.optim.Optimizer]
    step: Callable[[Portion, StepClock], float]
    splits_batches: bool = True
    gather: Callable[[], None] = lambda: None
    report: Callable[[], dict[str, float]] = dict


def adam(parameters: Iterable[nn.Parameter], options: DescentSettings) -> torch.optim.Adam:
    """Adam over the parameters that are learned."""
    learned = [parameter for parameter in parameters if parameter.requires_grad]
    return torch.optim.Adam(learned, lr=options.learning_rate, weight_decay=options.weight_decay)


def parameters_of(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    """All parameters that an optimizer updates."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def update(
    optimizer: torch.optim.Optimizer,
    loss: Tensor,
    options: DescentSettings,
    clock: StepClock,
    *,
    ranks: Ranks | None = None,
) -> None:
    """Backward pass, gradients summed over the ranks if any, clipped, and one step.

    Args:
        optimizer: of the parameters that the loss is descended in.
        loss: scalar with a graph; of several ranks, this one's part of it.
        options: the clip.
        clock: gets the seconds.
        ranks: whose gradients are summed, or None.
    """
    with clock.backward():
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        finish_update(optimizer, options, ranks)


def finish_update(optimizer: torch.optim.Optimizer, options: DescentSettings, ranks: Ranks | None) -> None:
    """Sum gradients that are there over the ranks if any, clip them, and step."""
    parameters = parameters_of(optimizer)
    if ranks is not None:
        ranks.sum_gradients(parameters)
    torch.nn.utils.clip_grad_norm_(parameters, options.clip)
    optimizer.step()
