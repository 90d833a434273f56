"""The gated convolution against an explicit patch matrix, its adjoint, and its sufficient statistics."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.multiprocessing.spawn import spawn

from convexrecon.convex.arrangements import Gates, draw_gates
from convexrecon.convex.gated_convolution import GatedConvolution, feature_count
from convexrecon.convex.patches import BlockBatch
from convexrecon.convex.sufficient_statistics import SufficientStatistics, accumulate
from convexrecon.errors import InputError
from convexrecon.solvers.quadratics import Part, StreamedQuadratic
from convexrecon.training.rank_exchange import processes_of
from convexrecon.training.ranks import Ranks


def random_gates(count: int, channels: int, kernel: tuple[int, ...], seed: int = 0) -> Gates:
    rng = torch.Generator().manual_seed(seed)
    return Gates(
        torch.randn(count, channels, *kernel, generator=rng, dtype=torch.float64),
        torch.randn(count, generator=rng, dtype=torch.float64),
    )


def patch_matrix(features: torch.Tensor, kernel: tuple[int, ...], constant: bool) -> torch.Tensor:
    """Every patch as a row, by indexing alone: (B prod(N), d)."""
    padded = F.pad(features, [k // 2 for k in reversed(kernel) for _ in range(2)])
    grids = torch.meshgrid(*[torch.arange(n) for n in features.shape[2:]], indexing="ij")
    rows = []
    for sample in padded:
        for position in zip(*[g.flatten().tolist() for g in grids], strict=True):
            cut = tuple(slice(p, p + k) for p, k in zip(position, kernel, strict=True))
            row = sample[(slice(None), *cut)].flatten()
            rows.append(torch.cat([row, torch.ones(1, dtype=row.dtype)]) if constant else row)
    return torch.stack(rows)


CASES = [
    ((5, 3), (6, 7), 2, True),
    ((3, 3), (4, 9), 3, False),
    ((3, 1, 5), (4, 3, 6), 2, True),
    ((5,), (11,), 1, True),
]


@pytest.mark.parametrize(("kernel", "shape", "channels", "constant"), CASES)
def test_the_map_is_that_of_the_patch_matrix(
    kernel: tuple[int, ...], shape: tuple[int, ...], channels: int, constant: bool
) -> None:
    rng = torch.Generator().manual_seed(1)
    features = torch.randn(2, channels, *shape, generator=rng, dtype=torch.float64)
    gates = random_gates(4, channels, kernel)
    patches = patch_matrix(features, kernel, constant)
    assert patches.shape[1] == feature_count(channels, kernel, constant)
    responses = patches[:, : gates.filters[0].numel()] @ gates.filters.flatten(1).T
    blocks = (responses >= gates.offsets).T.unsqueeze(2) * patches
    weights = torch.randn(4, patches.shape[1], 3, generator=rng, dtype=torch.float64)
    exact = torch.einsum("gnd,gdm->nm", blocks, weights)
    found = GatedConvolution(gates, features, constant).forward(weights)
    torch.testing.assert_close(found.movedim(1, -1).reshape(-1, 3), exact, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("kernel", "shape", "channels", "constant"), CASES)
@pytest.mark.parametrize("gates_count", [1, 3, 70])  # 70 takes several chunks
def test_the_adjoint_is_exact(
    kernel: tuple[int, ...], shape: tuple[int, ...], channels: int, constant: bool, gates_count: int
) -> None:
    rng = torch.Generator().manual_seed(2)
    features = torch.randn(2, channels, *shape, generator=rng, dtype=torch.float64)
    rows = torch.rand(2, 1, *shape, generator=rng) < 0.6
    layer = GatedConvolution(random_gates(gates_count, channels, kernel), features, constant, rows)
    size = feature_count(channels, kernel, constant)
    weights = torch.randn(gates_count, size, 2, generator=rng, dtype=torch.float64)
    data = torch.randn(2, 2, *shape, generator=rng, dtype=torch.float64)
    left = float((layer.forward(weights) * data).sum())
    assert left == pytest.approx(float((weights * layer.adjoint(data)).sum()), rel=1e-10)


@given(
    chunk=st.integers(5, 200),
    count=st.integers(1, 6),
    constant=st.booleans(),
    masked=st.booleans(),
    seed=st.integers(0, 1000),
)
@settings(max_examples=25, deadline=None)
def test_statistics_are_the_products_of_the_map_whatever_the_chunk(
    chunk: int, count: int, constant: bool, masked: bool, seed: int
) -> None:
    rng = torch.Generator().manual_seed(seed)
    features = torch.randn(2, 2, 7, 9, generator=rng, dtype=torch.float64)
    target = torch.randn(2, 2, 7, 9, generator=rng, dtype=torch.float64)
    rows = torch.rand(2, 1, 7, 9, generator=rng) < 0.7 if masked else None
    gates = random_gates(count, 2, (3, 5), seed)
    batch = BlockBatch(features, target, rows)
    dense = accumulate([batch], gates, constant=constant, precision=torch.float64, collected=chunk).quadratic()
    kept = target if rows is None else target * rows
    layer = GatedConvolution(gates, features, constant, rows)
    streamed = StreamedQuadratic(lambda: [Part(layer, kept, batch.pixels)])
    torch.testing.assert_close(dense.linear, streamed.linear, rtol=1e-10, atol=1e-12)
    assert dense.tau == pytest.approx(streamed.tau, rel=1e-12)
    weights = torch.randn(dense.linear.shape, generator=rng, dtype=torch.float64)
    torch.testing.assert_close(dense.multiply(weights), streamed.multiply(weights), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(dense.matrix, dense.matrix.T)


def test_statistics_of_parts_merge_to_those_of_the_whole() -> None:
    rng = torch.Generator().manual_seed(3)
    batches = [BlockBatch(*torch.randn(2, 1, 2, 12, 10, generator=rng)) for _ in range(3)]
    gates = draw_gates([batches[0].features], 5, (3, 3), rng)
    whole = accumulate(batches, gates)
    first, second = accumulate(batches[:1], gates), accumulate(batches[1:], gates)
    first.merge(second)
    torch.testing.assert_close(first.quadratic().matrix, whole.quadratic().matrix)
    assert first.pixels == whole.pixels == 360


def test_float32_products_lose_nothing_that_matters() -> None:
    rng = torch.Generator().manual_seed(4)
    batch = BlockBatch(*torch.randn(2, 2, 2, 80, 70, generator=rng))
    gates = draw_gates([batch.features], 6, (5, 5), rng)
    single = accumulate([batch], gates).quadratic().matrix
    double = accumulate([batch], gates, precision=torch.float64).quadratic().matrix
    assert float((single - double).abs().max() / double.abs().max()) < 2e-6


def test_no_data_and_not_a_number_are_refused() -> None:
    gates = random_gates(2, 2, (3, 3))
    with pytest.raises(InputError, match="no data"):
        accumulate([], gates)
    bad = torch.zeros(1, 2, 6, 6)
    bad[0, 0, 2, 2] = float("nan")
    with pytest.raises(InputError, match="NaN"):
        accumulate([BlockBatch(bad, torch.zeros(1, 2, 6, 6))], gates)
    empty = SufficientStatistics(gates, 2)
    with pytest.raises(InputError, match="no pixel"):
        empty.quadratic()


def _sums_of_a_share(rank: int, ranks: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=ranks)
    processes = processes_of(Ranks(rank, ranks))
    statistics = accumulate(_shares()[rank::ranks], random_gates(5, 2, (3, 3), 1), processes=processes)
    quadratic = statistics.quadratic()
    torch.save([quadratic.matrix, quadratic.linear, torch.tensor(quadratic.tau)], f"{folder}/{rank}")
    torch.distributed.destroy_process_group()


def _shares() -> list[BlockBatch]:
    rng = torch.Generator().manual_seed(8)
    return [BlockBatch(*torch.randn(2, 1, 2, 12, 10, generator=rng)) for _ in range(3)]


def test_statistics_summed_over_ranks_are_those_of_one_process(tmp_path: Path) -> None:
    spawn(_sums_of_a_share, (2, str(tmp_path)), nprocs=2)
    quadratic = accumulate(_shares(), random_gates(5, 2, (3, 3), 1)).quadratic()
    for rank in range(2):
        matrix, linear, tau = torch.load(tmp_path / str(rank), weights_only=True)
        torch.testing.assert_close(matrix, quadratic.matrix)
        torch.testing.assert_close(linear, quadratic.linear)
        assert float(tau) == pytest.approx(quadratic.tau)
