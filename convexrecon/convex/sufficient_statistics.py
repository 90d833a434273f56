"""One streaming pass over the data: H = A^T A / n, c = A^T T / n, tau = ||T||^2 / n of a gated program.

H has a block ``H_ij = X^T D_i D_j X`` for every pair of gates. Pixels are collected a few hundred thousand at a
time; the gates are covered by small sets that hold every pair (`pair_cover`), and the blocks of a set come from
the moments of the classes into which it cuts the pixels (`pattern_sums`): a tenth of the arithmetic of a symmetric
product for 64 gates.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from convexrecon.convex.arrangements import Gates
from convexrecon.convex.gated_convolution import feature_count
from convexrecon.convex.pair_cover import pair_cover
from convexrecon.convex.patches import BlockBatch, PatchMap, pixel_chunks
from convexrecon.convex.pattern_sums import Workspace, pair_moments, pattern_bits
from convexrecon.errors import InputError
from convexrecon.solvers.processes import ALONE, Processes
from convexrecon.solvers.quadratics import DenseQuadratic

# Pixels collected before their moments are taken: more make larger sets of gates worth while.
PIXELS_COLLECTED = 2**18
# Most numbers that hold the patches of the pixels collected.
PATCH_ENTRIES = 2**25


@dataclass
class SufficientStatistics:
    """Sums over pixels that determine the program, in float64.

    Attributes:
        gates: the arrangement, P gates.
        channels: C.
        outputs: m.
        constant: whether the filters have a constant term.
        precision: dtype of the products of the pixels collected; their sums are float64 always.
        collected: pixels whose products are summed in `precision`; None for as many as is fast.
        gram: A^T A, (P, d, P, d).
        cross: A^T T, (P, d, m).
        energy: ||T||^2.
        pixels: n.
    """

    gates: Gates
    channels: int
    outputs: int = 2
    constant: bool = True
    precision: torch.dtype = torch.float32
    collected: int | None = None
    gram: Tensor = field(init=False, repr=False)
    cross: Tensor = field(init=False, repr=False)
    energy: float = field(init=False, default=0.0)
    pixels: int = field(init=False, default=0)
    _waiting: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        gates, features = len(self.gates), self.features
        device = self.gates.filters.device
        self.gram = torch.zeros(gates, features, gates, features, dtype=torch.float64, device=device)
        self.cross = torch.zeros(gates, features, self.outputs, dtype=torch.float64, device=device)
        most = max(2**10, PATCH_ENTRIES // features)
        room = min(PIXELS_COLLECTED, most) if self.collected is None else self.collected
        # A width that is a multiple of four makes the small products a fifth faster.
        # The row of zeros at the end fills up the segments.
        self._rows = torch.zeros(room + 1, -(-features // 4) * 4, dtype=self.precision, device=device)
        self._workspace = Workspace.like(self._rows, pattern_bits(room, self._rows.shape[1]))
        self._open = torch.zeros(gates, room, dtype=torch.bool, device=device)

    @property
    def features(self) -> int:
        """d, the number of features of a gate."""
        return feature_count(self.channels, self.gates.kernel, self.constant)

    def add(self, batch: BlockBatch) -> None:
        """Add a batch; the result does not depend on how the pixels come in batches."""
        for pixels in pixel_chunks(batch, self.gates, self.constant, self.precision):
            self.cross += pixels.adjoint(pixels.target)
            self.energy += float(pixels.target.double().square().sum())
            self.pixels += pixels.patches.shape[1]
            self._collect(pixels)

    def _collect(self, pixels: PatchMap) -> None:
        count, room = pixels.patches.shape[1], self._open.shape[1]
        start = 0
        while start < count:
            take = min(count - start, room - self._waiting)
            place = slice(self._waiting, self._waiting + take)
            self._rows[place, : self.features] = pixels.patches[:, start : start + take].T
            self._open[:, place] = pixels.open[:, start : start + take] > 0
            self._waiting += take
            start += take
            if self._waiting == room:
                self._flush()

    def _flush(self) -> None:
        """Add the moments of the pixels collected, if any, to the blocks of H."""
        features, waiting = self.features, self._waiting
        if waiting == 0:
            return
        if waiting < self._open.shape[1]:
            self._rows[waiting] = 0
        rows = self._rows[: waiting + 1]
        done = torch.zeros(len(self.gates), len(self.gates), dtype=torch.bool)
        for chosen in pair_cover(len(self.gates), pattern_bits(waiting, rows.shape[1])):
            moments = pair_moments(rows, self._open[list(chosen), :waiting], self._workspace)
            moments = moments[..., :features, :features]
            for a, first in enumerate(chosen):
                for b, second in enumerate(chosen[a:], a):
                    if done[first, second]:
                        continue
                    done[first, second] = True
                    self.gram[first, :, second] += moments[a, b]
                    if first != second:
                        self.gram[second, :, first] += moments[a, b]
        self._waiting = 0

    def merge(self, other: "SufficientStatistics") -> None:
        """Add the sums of another part of the data."""
        self._flush()
        other._flush()
        self.gram += other.gram
        self.cross += other.cross
        self.energy += other.energy
        self.pixels += other.pixels

    def sum_over(self, processes: Processes) -> None:
        """Replace the sums of each process by those of all; all of them call it. Two messages: H, and the rest."""
        self._flush()
        self.gram = processes.total(self.gram)
        self.cross, (self.energy, pixels) = processes.sums(self.cross, self.energy, self.pixels)
        self.pixels = int(pixels)

    def check_finite(self) -> None:
        """Refuse NaN and Inf: products with a closed gate keep them, so that they all show in A^T T."""
        if not torch.isfinite(self.cross).all():
            raise InputError("statistics: NaN or Inf in the data or overflow of their products")

    def quadratic(self) -> DenseQuadratic:
        """H, c and tau as the solvers take them.

        Raises:
            InputError: no pixel was added, or NaN or Inf came with the pixels.
        """
        self.check_finite()
        self._flush()
        if self.pixels == 0:
            raise InputError("statistics: no pixel in the data")
        side = len(self.gates) * self.features
        matrix = self.gram.view(side, side) / self.pixels
        if not torch.isfinite(matrix.sum()):
            raise InputError("statistics: overflow of the products")
        return DenseQuadratic(matrix, self.cross / self.pixels, self.energy / self.pixels)


def accumulate(
    batches: Iterable[BlockBatch],
    gates: Gates,
    *,
    constant: bool = True,
    precision: torch.dtype = torch.float32,
    collected: int | None = None,
    processes: Processes = ALONE,
) -> SufficientStatistics:
    """Sufficient statistics of all batches, in one pass; of several processes each has a share of the batches.

    Raises:
        InputError: no data, or NaN or Inf among them.
    """
    statistics: SufficientStatistics | None = None
    for batch in batches:
        if statistics is None:
            channels, outputs = batch.features.shape[1], batch.target.shape[1]
            statistics = SufficientStatistics(gates, channels, outputs, constant, precision, collected)
        statistics.add(batch)
    if statistics is None:
        raise InputError("statistics: no data")
    statistics.sum_over(processes)
    statistics.check_finite()
    return statistics


def gram_bytes(gates: int, features: int) -> int:
    """Bytes the solver needs for this many gates and features: H and a factor of it."""
    side = gates * features
    return 8 * 2 * side * side
