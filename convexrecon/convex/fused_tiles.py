"""How the products of the fused kernels are cut into tiles, and the adjoint's sum over pixels into shares.

The tiles are the largest tried whose sums the compiler keeps in registers on sm_80 and sm_90.
"""

from dataclasses import dataclass
from typing import Literal

# How the fused kernels multiply: in float32; as three TF32 products, nearly as exact; or as one, of 10 bits.
Precision = Literal["ieee", "tf32x3", "tf32"]
# Those, or matrix products of torch, chunk by chunk.
Products = Literal["ieee", "tf32x3", "tf32", "torch"]

# Most pixels whose products are summed in float32.
SEGMENT = 2048
# Programs that an adjoint is split into if every one still has some hundred pixels to sum over.
PROGRAMS = 1024
SMALLEST_SHARE = 512
# Most memory for an adjoint's partial sums.
SUM_BYTES = 2**28


@dataclass(frozen=True)
class Tile:
    """What one program of a kernel holds at a time; all sizes but `outputs` are powers of two by themselves.

    Attributes:
        gates: of a tile of rows, of which each gate has `outputs`.
        outputs: m rounded up to a power of two.
        pixels: columns of the forward product, summed over in the adjoint.
        features: summed over in the forward product, columns of the adjoint.
        warps: of 32 threads.
        stages: of loads in flight.
    """

    gates: int
    outputs: int
    pixels: int
    features: int
    warps: int
    stages: int

    def padded(self, gates: int, features: int) -> tuple[int, int]:
        """P and d rounded up to whole tiles."""
        return -(-gates // self.gates) * self.gates, -(-features // self.features) * self.features


def forward_tile(gates: int, outputs: int, features: int) -> Tile:
    """For a product of (P m, d) filters with (d, n) patches."""
    wide = _power_of_two(outputs)
    rows = max(_block(gates * wide, 128), wide)
    # The smaller tile where the larger one would be mostly padding.
    summed = 16 if 0 < features % 32 <= 16 and features < 512 else 32
    return Tile(rows // wide, wide, 64, summed, 8 if rows > 32 else 4, 3)


def adjoint_tile(gates: int, outputs: int, features: int, precision: Precision) -> Tile:
    """For a product of (P m, n) gated residuals with (n, d) patches."""
    wide = _power_of_two(outputs)
    rows = max(_block(gates * wide, 128 if precision == "tf32" else 64), wide)
    return Tile(rows // wide, wide, 32, _block(features, 64), 4 if precision == "ieee" else 8, 3)


def adjoint_shares(pixels: int, tile: Tile, gates: int, features: int) -> tuple[int, int]:
    """Pixels that a program sums over, a power of two that is no less than a tile's, and the number of such shares.

    It depends on the shapes alone, so that sums are taken in the same order on every device.
    """
    padded_gates, padded_features = tile.padded(gates, features)
    tiles = (padded_gates // tile.gates) * (padded_features // tile.features)
    room = SUM_BYTES // (8 * padded_gates * tile.outputs * padded_features)
    most = max(1, min(PROGRAMS // tiles, room))
    share = max(SMALLEST_SHARE, _power_of_two(-(-pixels // most)))
    return share, max(1, -(-pixels // share))


def segments(share: int) -> dict[str, int]:
    """A share as segments: products of a segment's pixels are summed in float32, segments in float64."""
    segment = min(share, SEGMENT)
    return {"SEGMENT": segment, "SEGMENTS": share // segment}


def _block(size: int, largest: int) -> int:
    """A power of two from 16, the least that a tensor core takes, to `largest`."""
    return max(16, min(largest, _power_of_two(size)))


def _power_of_two(size: int) -> int:
    return 1 << max(size - 1, 0).bit_length()
