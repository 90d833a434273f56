"""What a report shows of samples off the grid: the shots themselves."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from convexrecon.data.sample_batch import Batch
from convexrecon.physics.noncartesian_sense import NonCartesianSense


@dataclass(frozen=True, eq=False)
class PicturedShots:
    """The shots that a reconstruction was made from, as a picture of (y, x) can show them.

    Attributes:
        coordinates: (shots, S, 2) float32, (y, x) in cycles per field of view; of shots in 3-D, seen along z.
        shape: (y, x), in pixels; k-space ends at half of them.
        acceleration: shots acquired over shots kept.
    """

    coordinates: NDArray[np.float32]
    shape: tuple[int, int]
    acceleration: float


def pictured_shots(batch: Batch) -> PicturedShots:
    """The shots of a batch's first sample, which has to be off the grid."""
    assert isinstance(batch.sense, NonCartesianSense)
    assert batch.shots is not None
    coordinates = batch.sense.fourier.coordinates
    first = coordinates if coordinates.ndim == 2 else coordinates[0]
    lines = first.unflatten(0, (batch.shots.kept, -1))[..., -2:].float().cpu().numpy()
    shape = batch.target.shape[-2:]
    return PicturedShots(lines, (int(shape[0]), int(shape[1])), batch.shots.acceleration)
