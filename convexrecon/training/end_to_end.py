"""End-to-end training: backpropagation through all blocks."""

from collections.abc import Callable

from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from convexrecon.cascade import Cascade
from convexrecon.physics.forward_model import ForwardModel
from convexrecon.training.descent import Descent, Portion, adam, update
from convexrecon.training.descent_settings import DescentSettings
from convexrecon.training.losses import image_loss
from convexrecon.training.ranks import Ranks
from convexrecon.training.step_clock import StepClock

Network = Callable[[ForwardModel, Tensor], Tensor]


def end_to_end(model: Cascade, options: DescentSettings, ranks: Ranks) -> Descent:
    """Adam on the loss of the reconstruction; several ranks take a share of every batch (data-parallel)."""
    network = DistributedDataParallel(model) if ranks.count > 1 else model
    optimizer = adam(model.parameters(), options)

    def step(portion: Portion, clock: StepClock) -> float:
        batch = portion.batch
        with clock.forward():
            loss = portion.weight * image_loss(network(batch.sense, batch.kspace), batch.target, options.loss)
        # Gradients are averaged over the ranks, and their portions are to be summed.
        update(optimizer, ranks.count * loss, options, clock)
        return float(loss.detach())

    return Descent([optimizer], step)
