"""The programs that `solver_comparison.py` solves: as streams of slices, and as the arrays that packages take."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from convexrecon.convex.arrangements import Gates, draw_gates
from convexrecon.convex.patches import BlockBatch, Stream, pixel_chunks
from convexrecon.convex.program import ProgramSettings

Array = npt.NDArray[np.floating]

# Standard deviation of the noise over that of the clean image.
NOISE = 0.1


@dataclass(frozen=True)
class Case:
    """``min_W 1/(2n) ||sum_g D_g X W_g - t||^2 + beta sum_g ||W_g||``: its size.

    Attributes:
        name: what the tables call it.
        slices: number of images; X has a row for each of their pixels.
        size: pixels along y and x.
        kernel: k, patches are k x k of two channels, d = 2 k^2.
        gates: P.
        public: whether the packages that take arrays are run on it.
    """

    name: str
    slices: int
    size: tuple[int, int]
    kernel: int
    gates: int
    public: bool = True

    @property
    def rows(self) -> int:
        """n, the number of pixels."""
        return self.slices * self.size[0] * self.size[1]

    @property
    def features(self) -> int:
        """d, the number of features of a gate."""
        return 2 * self.kernel**2

    @property
    def unknowns(self) -> int:
        """P d."""
        return self.gates * self.features

    def stream(self) -> Iterator[BlockBatch]:
        """The slices, one at a time, made anew at each call."""
        for index in range(self.slices):
            yield noisy_slice(index, self.size)

    def held(self) -> Stream:
        """The slices in memory, as a stream that costs nothing."""
        slices = list(self.stream())
        return lambda: slices

    def draw(self) -> Gates:
        """The gates: Gaussian, with Gaussian offsets."""
        samples = [noisy_slice(0, self.size).features]
        return draw_gates(samples, self.gates, (self.kernel, self.kernel), torch.Generator().manual_seed(1))


CASES = {
    case.name: case
    for case in (
        Case("tiny", slices=1, size=(48, 48), kernel=3, gates=8),
        Case("little", slices=1, size=(96, 96), kernel=5, gates=16),
        Case("small", slices=1, size=(128, 128), kernel=5, gates=32),
        Case("medium", slices=4, size=(200, 250), kernel=5, gates=32),
        # The design matrix has 12,544 columns: 7.5 GB in float64, in which the packages work as they come.
        Case("wide", slices=1, size=(300, 250), kernel=7, gates=128),
        Case("wide, all pixels", slices=4, size=(200, 250), kernel=7, gates=128, public=False),
    )
}


def noisy_slice(index: int, size: tuple[int, int]) -> BlockBatch:
    """A smooth complex random image with noise, and what takes the noise off its real part (one output, m = 1)."""
    rng = torch.Generator().manual_seed(index)
    clean = F.avg_pool2d(torch.randn(1, 2, *size, generator=rng), 7, 1, 3)
    clean = clean / clean.std()
    noisy = clean + NOISE * torch.randn(clean.shape, generator=rng)
    return BlockBatch(noisy, (clean - noisy)[:, :1])


def settings(beta_ratio: float, tolerance: float) -> ProgramSettings:
    """Group lasso without constant terms, which is what every package solves."""
    return ProgramSettings(beta_ratio=beta_ratio, constant=False, tolerance=tolerance)


@dataclass(frozen=True)
class Arrays:
    """A case as the packages take it.

    Attributes:
        patches: X, (n, d) float32.
        open: D, (n, P) float32 zeros and ones.
        target: t, (n,) float32.
    """

    patches: Array
    open: Array
    target: Array

    @classmethod
    def of(cls, case: Case, gates: Gates) -> "Arrays":
        """All slices of a case; the same patches and patterns that the program's own pass sees."""
        chunks = [
            chunk for batch in case.stream() for chunk in pixel_chunks(batch, gates, False, torch.float32, batch.pixels)
        ]
        return cls(
            np.concatenate([chunk.patches.T.numpy() for chunk in chunks]),
            np.concatenate([chunk.open.T.numpy() for chunk in chunks]),
            np.concatenate([chunk.target[0].numpy() for chunk in chunks]),
        )

    def design(self, precision: npt.DTypeLike) -> Array:
        """[D_1 X ... D_P X], (n, P d), columns contiguous as coordinate descent wants them."""
        rows, features = self.patches.shape
        gates = self.open.shape[1]
        matrix: Array = np.empty((rows, gates * features), dtype=precision, order="F")
        for gate in range(gates):
            part = matrix[:, gate * features : (gate + 1) * features]
            np.multiply(self.patches, self.open[:, gate : gate + 1], out=part)
        return matrix
