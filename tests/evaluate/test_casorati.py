import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from convexrecon.evaluate.casorati import shrink_singular_values


def _series(*shape: int, seed: int = 0, dtype: Any = torch.complex128) -> Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def _by_hand(series: Tensor, threshold: float, block: tuple[int, ...], offset: tuple[int, ...]) -> Tensor:
    """Block after block with a full singular value decomposition."""
    out = torch.full_like(series, torch.nan)
    tiles = []
    for size, start, count in zip(block, offset, series.shape[2:], strict=True):
        edges = [max(a, 0) for a in range(-start, count, size)] + [count]
        tiles.append([slice(a, b) for a, b in itertools.pairwise(edges) if b > a])
    for b in range(len(series)):
        for slices in itertools.product(*tiles):
            where: Any = (b, slice(None), *slices)
            part = series[where]
            left, values, right = torch.linalg.svd(part.flatten(1), full_matrices=False)
            out[where] = ((left * (values - threshold).clamp_min(0)) @ right).reshape(part.shape)
    return out


CASES = [
    ((5, 8, 9), (4, 4), (0, 0)),
    ((5, 8, 9), (4, 3), (1, 2)),
    ((9, 6, 5), (2, 2), (1, 0)),
    ((3, 4, 5, 6), (2, 3, 4), (1, 2, 3)),
    ((4, 11), (3,), (2,)),
]


@pytest.mark.parametrize(("shape", "block", "offset"), CASES)
def test_every_block_has_its_singular_values_shrunk(
    shape: tuple[int, ...], block: tuple[int, ...], offset: tuple[int, ...]
) -> None:
    series = _series(2, *shape)
    found = shrink_singular_values(series, torch.full((2,), 1.3, dtype=torch.float64), block, offset)
    torch.testing.assert_close(found, _by_hand(series, 1.3, block, offset), atol=1e-10, rtol=0)


def test_thresholds_are_those_of_each_series() -> None:
    series = _series(2, 4, 6, 6)
    found = shrink_singular_values(series, torch.tensor([0.0, 1e3], dtype=torch.float64), (3, 3))
    torch.testing.assert_close(found[0], series[0], atol=1e-10, rtol=0)
    assert not found[1].any()


def test_small_singular_values_survive_single_precision() -> None:
    left, right = torch.linalg.qr(_series(64, 4, seed=1))[0], torch.linalg.qr(_series(10, 4, seed=2))[0]
    values = torch.tensor([1.0, 1e-2, 1e-4, 3e-5])
    series = ((left * values) @ right.mH).T.reshape(1, 10, 8, 8).to(torch.complex64)
    found = shrink_singular_values(series, torch.tensor([1e-5])).reshape(10, 64)
    after = torch.linalg.svdvals(found.to(torch.complex128))[:4]
    torch.testing.assert_close(after, (values - 1e-5).double(), atol=3e-7, rtol=0)


def test_zeros_stay_zero() -> None:
    assert not shrink_singular_values(torch.zeros(1, 3, 5, 5, dtype=torch.complex64), torch.ones(1), (2, 2)).any()
