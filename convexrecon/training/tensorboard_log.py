"""TensorBoard events of a run, where the extra `tensorboard` is installed; nothing otherwise."""

import importlib.util
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

FOLDER = "tensorboard"


class EventLog:
    """Writes scalars and images of a run; one without a writer does nothing.

    Args:
        writer: a `torch.utils.tensorboard.SummaryWriter`, or None.
    """

    def __init__(self, writer: Any = None) -> None:
        self.writer = writer

    @property
    def writes(self) -> bool:
        """Whether what is given goes anywhere."""
        return self.writer is not None

    def scalars(self, values: Mapping[str, Any], step: int) -> None:
        """Every number of `values` under its name; what is not a number is left out."""
        if self.writer is None:
            return
        for name, value in values.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def picture(self, name: str, image: Tensor, target: Tensor, step: int) -> None:
        """Magnitudes of target and image, and of five times their difference, side by side.

        Args:
            name: of the picture.
            image: (y, x) complex.
            target: (y, x) complex; its maximum is white.
            step: epoch, or block.
        """
        if self.writer is None:
            return
        row = torch.cat([target.abs(), image.abs(), 5 * (image - target).abs()], 1)
        white = target.abs().max().clamp_min(1e-12)
        self.writer.add_image(name, (row / white).clamp(0, 1).unsqueeze(0).cpu(), step)
        self.writer.flush()


@contextmanager
def event_log(run: Path, stage: Mapping[str, int], *, done: int, active: bool = True) -> Iterator[EventLog]:
    """The log of a run, or of a stage of it, in the folder `tensorboard` of the run's.

    A resumed run goes on from `done`: TensorBoard drops what a killed one had written for later steps.

    Args:
        run: the run folder.
        stage: what is trained, where not all at once: each has a folder, which TensorBoard shows as a curve.
        done: steps (epochs or blocks) that are finished.
        active: False for a log that writes nothing, as on all ranks but the first.
    """
    if not active or importlib.util.find_spec("tensorboard") is None:
        yield EventLog()
        return
    # Imported here: it takes a second, and only those who have installed it should wait.
    from torch.utils.tensorboard import SummaryWriter

    folder = run / FOLDER / "_".join(f"{key}_{value}" for key, value in stage.items())
    writer = SummaryWriter(str(folder), purge_step=done + 1)
    try:
        yield EventLog(writer)
    finally:
        writer.close()
