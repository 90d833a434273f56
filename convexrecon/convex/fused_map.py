"""The gated map of a whole image on a GPU, without patches or responses in memory; where that is possible."""

import contextlib
import importlib.util
import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from convexrecon.convex.arrangements import Gates, around
from convexrecon.convex.fused_tiles import Precision, Tile, adjoint_shares, adjoint_tile, forward_tile, segments
from convexrecon.convex.patches import BlockBatch
from convexrecon.errors import InputError
from convexrecon.solvers.quadratics import Part

# Oldest devices that the kernels are made for: NVIDIA Ampere.
OLDEST_CAPABILITY = (8, 0)
# Pixels and numbers of an image are counted in 32 bits up to here.
COUNTED = 2**31 - 1


def can_fuse(features: Tensor) -> bool:
    """Whether the fused kernels run where `features` are: an NVIDIA device of 2020 or later, and Triton there."""
    if features.device.type != "cuda" or torch.version.cuda is None or importlib.util.find_spec("triton") is None:
        return False
    return torch.cuda.is_available() and torch.cuda.get_device_capability(features.device) >= OLDEST_CAPABILITY


@dataclass(frozen=True)
class FusedMap:
    """``A: (P, d, m) -> (m, n)`` on n pixels of one image; satisfies `solvers.linear_maps.LinearMap`.

    The same map as `patches.PatchMap`, to rounding, by `fused_kernels`: patches are read from the padded image where
    they are, gates act in registers. Sums are taken in the same order every time.

    Attributes:
        image: padded, every channel and one of ones where filters have a constant term, flat float32.
        corners: where in it the patch of a pixel begins, (n,).
        taps: how far from there each feature is, (d,), of the dtype of `corners`.
        packed: D as bits, (ceil(P / 8), n) uint8.
        gates: P.
        target: t, (m, n) float32.
        precision: of the products.
    """

    image: Tensor
    corners: Tensor
    taps: Tensor
    packed: Tensor
    gates: int
    target: Tensor
    precision: Precision = "ieee"

    def forward(self, weights: Tensor) -> Tensor:
        """A W: (P, d, m) -> (m, n) float32."""
        gates, features, outputs = weights.shape
        pixels = len(self.corners)
        out = self.image.new_empty(outputs, pixels)
        if pixels == 0:
            return out
        tile = forward_tile(gates, outputs, features)
        padded_gates, padded_features = tile.padded(gates, features)
        rows = self.image.new_zeros(padded_gates, tile.outputs, padded_features)
        rows[:gates, :outputs, :features] = weights.transpose(1, 2)
        operands = (self.image, self.corners, self._taps(padded_features), rows, self.packed, out)
        constants = launch(tile, gates, features, self.precision)
        grid = (-(-pixels // tile.pixels),)
        with _on(self.image.device):
            _kernels().forward_kernel[grid](*operands, pixels, gates, outputs, **constants)
        return out

    def adjoint(self, data: Tensor) -> Tensor:
        """A^T R: (m, n) -> (P, d, m) float64."""
        (outputs, pixels), gates, features = data.shape, self.gates, len(self.taps)
        tile = adjoint_tile(gates, outputs, features, self.precision)
        padded_gates, padded_features = tile.padded(gates, features)
        share, shares = adjoint_shares(pixels, tile, gates, features)
        sums = data.new_zeros(shares, padded_gates, tile.outputs, padded_features, dtype=torch.float64)
        if pixels:
            residual = data.to(self.image).contiguous()
            operands = (self.image, self.corners, self._taps(padded_features), residual, self.packed, sums)
            constants = {**launch(tile, gates, features, self.precision), **segments(share)}
            grid = (padded_gates // tile.gates, padded_features // tile.features, shares)
            with _on(self.image.device):
                _kernels().adjoint_kernel[grid](*operands, pixels, gates, outputs, **constants)
        return sums.sum(0)[:gates, :outputs, :features].transpose(1, 2)

    def _taps(self, padded: int) -> Tensor:
        return F.pad(self.taps, (0, padded - len(self.taps)))


def launch(tile: Tile, gates: int, features: int, precision: Precision) -> dict[str, Any]:
    """What a kernel is compiled for, the adjoint's segments aside."""
    padded_gates, padded_features = tile.padded(gates, features)
    return {
        "GATES": padded_gates,
        "FEATURES": padded_features,
        "OUT": tile.outputs,
        "BLOCK_GATES": tile.gates,
        "BLOCK_PIXELS": tile.pixels,
        "BLOCK_FEATURES": tile.features,
        "PRECISION": precision,
        "num_warps": tile.warps,
        "num_stages": tile.stages,
    }


def fused_part(batch: BlockBatch, packed: Tensor, gates: Gates, constant: bool, precision: Precision) -> Part:
    """The pixels of one image that count, as a map and a target in float32.

    Args:
        batch: of one image.
        packed: its gates' patterns as bits, (ceil(P / 8), all pixels).
        gates: the arrangement, P gates.
        constant: whether the last feature is the constant 1.
        precision: of the products.

    Raises:
        InputError: several images at once, or one of more than 2^31 - 1 pixels.
    """
    count, pixels = batch.features.shape[0], math.prod(batch.features.shape[2:])
    if count != 1 or pixels > COUNTED:
        raise InputError(f"fused map: expected one image of at most {COUNTED} pixels, found {count} of {pixels}")
    padded = padded_channels(batch.features.float(), gates.kernel, constant, periodic=gates.periodic)
    corners, taps = addresses(batch.features.shape, gates.kernel, constant, padded)
    target = batch.target[0].flatten(1).float()
    if batch.rows is not None:
        chosen = batch.rows.flatten().nonzero().squeeze(1)
        corners, packed, target = corners[chosen], packed[:, chosen], target[:, chosen]
    layer = FusedMap(padded.flatten(), corners, taps, packed.contiguous(), len(gates), target.contiguous(), precision)
    return Part(layer, layer.target, len(corners))


def padded_channels(features: Tensor, kernel: tuple[int, ...], constant: bool, *, periodic: bool = False) -> Tensor:
    """(1, C, *N) -> (C, *padded), with half a kernel of zeros around, and a last channel of ones if `constant`.

    Where the first axis is `periodic` it goes round instead.
    """
    halves = [extent // 2 for extent in kernel]
    if periodic:
        features, halves[0] = around(features, slice(0, features.shape[2]), halves[0]), 0
    padded = F.pad(features[0], [half for half in reversed(halves) for _ in range(2)])
    return torch.cat([padded, torch.ones_like(padded[:1])]) if constant else padded


def addresses(shape: torch.Size, kernel: tuple[int, ...], constant: bool, padded: Tensor) -> tuple[Tensor, Tensor]:
    """Where in the padded image patches begin, (n,), and where from there their features are, (d,).

    The order of features is that of `patches.image_patches`. Any place in the channel of ones does for the constant.
    """
    dtype = torch.int32 if padded.numel() <= COUNTED else torch.int64

    def grid(sizes: tuple[int, ...], strides: tuple[int, ...]) -> Tensor:
        total = torch.zeros((), dtype=dtype, device=padded.device)
        for size, stride in zip(sizes, strides, strict=True):
            total = total.unsqueeze(-1) + stride * torch.arange(size, dtype=dtype, device=padded.device)
        return total.flatten()

    strides = padded.stride()
    taps = grid((shape[1], *kernel), strides)
    if constant:
        taps = torch.cat([taps, taps.new_full((1,), shape[1] * strides[0])])
    return grid(tuple(shape[2:]), strides[1:]), taps


def _kernels() -> Any:
    """Triton is imported where it is used and nowhere else."""
    from convexrecon.convex import fused_kernels

    return fused_kernels


def _on(device: torch.device) -> Any:
    """Triton launches on the current device."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()
