"""Layer-wise descent: train a block on its own loss, freeze it, go on to the next; the non-convex greedy way."""

import time
from dataclasses import replace

from torch import Tensor

from convexrecon.cascade import Block, Cascade
from convexrecon.data.dataset import Batch, PreparedSlices
from convexrecon.training.block_data import BlockData
from convexrecon.training.config import RunSettings
from convexrecon.training.descent import Descent, Portion, adam, update
from convexrecon.training.image_store import keys_of, read_store
from convexrecon.training.loop import Loop, checkpoint_of, run_epochs
from convexrecon.training.loop_checkpoint import finished_weights
from convexrecon.training.losses import image_loss
from convexrecon.training.step_clock import StepClock


def train_layerwise_descent(model: Cascade, settings: RunSettings, loop: Loop) -> None:
    """Train the blocks of a cascade one after the other, in place, each for `epochs` epochs.

    The images before a block are computed once, when the blocks before it are frozen, and kept on disk; memory
    is that of one block. The weights of each block are those of its best validation PSNR.
    Ozturkler et al., ISMRM 2021 #1953, with data consistency, by descent.

    Args:
        model: the untrained cascade; of a killed run too, whose checkpoints are in the run folder.
        settings: of the run.
        loop: of the whole run; each block's is made from it.
    """
    for index in range(len(model)):
        stage = _Stage(model, settings, loop, index)
        best = finished_weights(checkpoint_of(stage.loop()), loop.settings.epochs)
        if best is None:
            seconds = stage.prepare()
            _, best = run_epochs(stage.block_alone, stage.descent(), stage.loop(seconds))
        stage.block_alone.load_state_dict(best)


class _Stage:
    """One block on the images that the frozen ones put out."""

    def __init__(self, model: Cascade, settings: RunSettings, loop: Loop, index: int) -> None:
        self.model, self.whole, self.index = model, loop, index
        self.block: Block = list(model)[index]
        # A cascade of its own, so that checkpoint and best weights are this block's alone.
        self.block_alone = model.with_blocks([self.block])
        named: dict[str, PreparedSlices] = {"train": loop.train}
        if loop.validation is not None:
            named["validation"] = loop.validation
        self.data = {
            name: BlockData(name, slices, settings, loop.run.state, loop.device, loop.progress)
            for name, slices in named.items()
        }

    def prepare(self) -> float:
        """Write the images that the block sees, from those of the block before, which are dropped; seconds taken."""
        started = time.perf_counter()
        if self.whole.ranks.is_lead:
            for data in self.data.values():
                data.write_images(self.model, self.index)
                if self.index > 0:
                    data.drop_images(self.index - 1)
        self.whole.ranks.wait()
        return time.perf_counter() - started

    def output(self, batch: Batch, name: str) -> Tensor:
        """What the block puts out for slices of the data set `name`."""
        image = read_store(self.data[name].images(self.index), keys_of(batch)).to(self.whole.device)
        if batch.turn is not None:
            # Gates of the frozen blocks were not asked about the turned images: their outputs are turned instead.
            image = image * batch.turn.view(-1, *[1] * (image.ndim - 1))
        adjoint = batch.sense.adjoint(batch.kspace)
        # Not from disk: the loop may have turned the batch's phase.
        initial = self.model.start(batch.sense, adjoint) if "initial" in self.block.inputs else adjoint
        result: Tensor = self.block(image, batch.sense, adjoint, initial)
        return result

    def descent(self) -> Descent:
        """The block's update."""
        options, ranks = self.whole.settings, self.whole.ranks
        optimizer = adam(self.block.parameters(), options)

        def step(portion: Portion, clock: StepClock) -> float:
            with clock.forward():
                output = self.output(portion.batch, "train")
                loss = portion.weight * image_loss(output, portion.batch.target, options.loss)
            update(optimizer, loss, options, clock, ranks=ranks)
            return float(loss.detach())

        return Descent([optimizer], step)

    def loop(self, seconds: float = 0.0) -> Loop:
        """The loop of the block, `seconds` after its start."""
        return replace(
            self.whole,
            stage={"block": self.index + 1},
            seconds_before=seconds,
            reconstruct=lambda batch: self.output(batch, "validation"),
        )
