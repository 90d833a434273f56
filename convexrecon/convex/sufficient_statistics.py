"""One streaming pass over the data: H = A^T A / n, c = A^T T / n, tau = ||T||^2 / n of a gated program.

H is symmetric in the gates (i, j) and, within each block ``H_ij = X^T D_i D_j X``, in the features
(a, b). Collecting the gate products D_i D_j, i <= j, as rows of one matrix of zeros and ones, and the
patch products x_a x_b, a <= b, as rows of another, their matrix product is every entry of H once: a
quarter of the arithmetic of A^T A, in one large product a chunk.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from convexrecon.convex.arrangements import Gates
from convexrecon.convex.gated_convolution import feature_count
from convexrecon.convex.patches import PIXELS_PER_CHUNK, BlockBatch, PatchMap, pixel_chunks
from convexrecon.errors import InputError
from convexrecon.solvers.quadratics import DenseQuadratic


@dataclass
class SufficientStatistics:
    """Sums over pixels that determine the program, in packed symmetric form and float64.

    Attributes:
        gates: the arrangement, P gates.
        channels: C.
        outputs: m.
        constant: whether the filters have a constant term.
        precision: dtype of the products within a chunk; sums over chunks are float64 always.
        gram: (P (P + 1) / 2, d (d + 1) / 2), every entry of A^T A once.
        cross: A^T T, (P, d, m).
        energy: ||T||^2.
        pixels: n.
    """

    gates: Gates
    channels: int
    outputs: int = 2
    constant: bool = True
    precision: torch.dtype = torch.float32
    chunk: int = PIXELS_PER_CHUNK
    gram: Tensor = field(init=False, repr=False)
    cross: Tensor = field(init=False, repr=False)
    energy: float = field(init=False, default=0.0)
    pixels: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        gates, features = len(self.gates), self.features
        device = self.gates.filters.device
        pairs = (gates * (gates + 1) // 2, features * (features + 1) // 2)
        self.gram = torch.zeros(pairs, dtype=torch.float64, device=device)
        self.cross = torch.zeros(gates, features, self.outputs, dtype=torch.float64, device=device)
        self._gate_products = torch.empty(pairs[0], self.chunk, dtype=self.precision, device=device)
        self._patch_products = torch.empty(pairs[1], self.chunk, dtype=self.precision, device=device)

    @property
    def features(self) -> int:
        """d, the number of features of a gate."""
        return feature_count(self.channels, self.gates.kernel, self.constant)

    def add(self, batch: BlockBatch) -> None:
        """Add a batch, a chunk of pixels at a time."""
        for pixels in pixel_chunks(batch, self.gates, self.constant, self.precision, self.chunk):
            self._add_pixels(pixels)

    def _add_pixels(self, pixels: PatchMap) -> None:
        patches, open_, target = pixels.patches, pixels.open, pixels.target
        count = patches.shape[1]
        gate_products = _pairwise_products(open_, self._gate_products[:, :count])
        patch_products = _pairwise_products(patches, self._patch_products[:, :count])
        self.gram += gate_products @ patch_products.T
        self.cross += pixels.adjoint(target)
        self.energy += float(target.double().square().sum())
        self.pixels += count

    def merge(self, other: "SufficientStatistics") -> None:
        """Add the sums of another part of the data, e.g. of another process."""
        self.gram += other.gram
        self.cross += other.cross
        self.energy += other.energy
        self.pixels += other.pixels

    def quadratic(self) -> DenseQuadratic:
        """H, c and tau as the solvers take them.

        Raises:
            InputError: no pixel was added.
        """
        if self.pixels == 0:
            raise InputError("statistics: no pixel in the data")
        gates, features = len(self.gates), self.features
        gate_pair = _pair_index(gates).to(self.gram.device)
        feature_pair = _pair_index(features).to(self.gram.device)
        matrix = torch.empty(gates, features, gates, features, dtype=torch.float64, device=self.gram.device)
        for gate in range(gates):
            matrix[gate] = self.gram[gate_pair[gate]][:, feature_pair].permute(1, 0, 2)
        side = gates * features
        return DenseQuadratic(
            matrix.view(side, side).div_(self.pixels), self.cross / self.pixels, self.energy / self.pixels
        )


def accumulate(
    batches: Iterable[BlockBatch],
    gates: Gates,
    *,
    constant: bool = True,
    precision: torch.dtype = torch.float32,
    chunk: int = PIXELS_PER_CHUNK,
) -> SufficientStatistics:
    """Sufficient statistics of all batches, in one pass.

    Raises:
        InputError: no data, or NaN or Inf among them.
    """
    statistics: SufficientStatistics | None = None
    for batch in batches:
        if statistics is None:
            channels, outputs = batch.features.shape[1], batch.target.shape[1]
            statistics = SufficientStatistics(gates, channels, outputs, constant, precision, chunk)
        statistics.add(batch)
    if statistics is None:
        raise InputError("statistics: no data")
    if not (torch.isfinite(statistics.cross).all() and torch.isfinite(statistics.gram).all()):
        raise InputError("statistics: NaN or Inf in the data or overflow of their products")
    return statistics


def gram_bytes(gates: int, features: int) -> int:
    """Bytes the solver needs for this many gates and features: H, a factor of it, the packed sums."""
    side = gates * features
    return 8 * (2 * side * side + side * side // 4)


def _pairwise_products(rows: Tensor, out: Tensor) -> Tensor:
    """Products of rows a <= b of (r, n), in the order (0,0) (0,1) .. (1,1) (1,2) ..: (r (r + 1) / 2, n)."""
    start = 0
    for index in range(rows.shape[0]):
        stop = start + rows.shape[0] - index
        torch.mul(rows[index:], rows[index], out=out[start:stop])
        start = stop
    return out


def _pair_index(size: int) -> Tensor:
    """(size, size) position of the pair (a, b) or (b, a) in the order of `_pairwise_products`."""
    index = torch.zeros(size, size, dtype=torch.int64)
    upper = torch.triu_indices(size, size)
    index[upper[0], upper[1]] = torch.arange(upper.shape[1])
    return torch.triu(index) + torch.triu(index, 1).T
