"""Gradient checkpointing: every block's inside is computed again in the backward pass, its input alone is kept."""

from torch.utils.checkpoint import checkpoint

from convexrecon.cascade import Cascade
from convexrecon.training.descent import Descent, Portion, adam, update
from convexrecon.training.descent_settings import DescentSettings
from convexrecon.training.losses import image_loss
from convexrecon.training.ranks import Ranks
from convexrecon.training.step_clock import StepClock


def checkpointing(model: Cascade, options: DescentSettings, ranks: Ranks) -> Descent:
    """As `end_to_end`, with the same gradients to rounding, for one more forward pass of every block.

    Memory: one image a block, and the activations of a single block. Chen, Xu, Zhang, Guestrin,
    arXiv 1604.06174 (2016).
    """
    optimizer = adam(model.parameters(), options)

    def step(portion: Portion, clock: StepClock) -> float:
        batch, sense = portion.batch, portion.batch.sense
        with clock.forward():
            adjoint = sense.adjoint(batch.kspace)
            initial = image = model.start(sense, adjoint)
            for block in model:
                image = checkpoint(block, image, sense, adjoint, initial, use_reentrant=False, preserve_rng_state=False)
            loss = portion.weight * image_loss(image, batch.target, options.loss)
        update(optimizer, loss, options, clock, ranks=ranks)
        return float(loss.detach())

    return Descent([optimizer], step)
