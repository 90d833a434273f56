"""Gates: their patterns, the removal of duplicate and trivial ones, and their dependence on nothing else."""

import pytest
import torch

from convexrecon.convex.arrangements import Gates, draw_gates
from convexrecon.convex.patches import BlockBatch, pixel_chunks
from convexrecon.convex.sufficient_statistics import accumulate
from convexrecon.errors import InputError
from convexrecon.training.live_memory import LiveMemory


def samples(seed: int = 0, count: int = 3) -> list[torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return [torch.randn(1, 2, 20, 17, generator=rng) * (1 + index) for index in range(count)]


def test_gates_are_distinct_never_shut_and_of_unit_response() -> None:
    data = samples()
    gates = draw_gates(data, 40, (5, 3), torch.Generator().manual_seed(1))
    patterns = torch.cat([gates.patterns(d).transpose(0, 1).flatten(1) for d in data], 1)
    assert len(gates) == 40
    assert len(torch.unique(patterns, dim=0)) == 40
    assert bool(patterns.any(1).all())
    closed = Gates(gates.filters, torch.zeros(40))
    response = torch.cat(
        [torch.nn.functional.conv2d(d, closed.filters, padding=(2, 1)).transpose(0, 1).flatten(1) for d in data],
        1,
    )
    torch.testing.assert_close(response.square().mean(1), torch.ones(40), rtol=1e-4, atol=1e-4)


def test_offsets_have_the_scale_asked_for_and_zero_means_through_the_origin() -> None:
    rng = torch.Generator().manual_seed(2)
    wide = draw_gates(samples(), 400, (3, 3), rng, offset_scale=0.5)
    assert float(wide.offsets.std()) == pytest.approx(0.5, rel=0.15)
    through = draw_gates(samples(), 10, (3, 3), rng, offset_scale=0.0)
    assert not through.offsets.any()
    features = samples()[0]
    interior = (slice(None), slice(None), slice(2, -2), slice(2, -2))
    # Through the origin patterns do not see the scale of the input; with offsets they do.
    assert torch.equal(through.patterns(features)[interior], through.patterns(7 * features)[interior])
    assert not torch.equal(wide.patterns(features), wide.patterns(7 * features))


def test_whitened_gates_respond_to_all_that_patches_do_alike() -> None:
    rng = torch.Generator().manual_seed(4)
    smooth = torch.nn.functional.avg_pool2d(torch.randn(2, 2, 60, 50, generator=rng), 5, 1, 2)
    plain = draw_gates([smooth], 300, (3, 3), torch.Generator().manual_seed(1))
    white = draw_gates([smooth], 300, (3, 3), torch.Generator().manual_seed(1), whitened=1.0)
    half = draw_gates([smooth], 300, (3, 3), torch.Generator().manual_seed(1), whitened=0.5)
    patches = torch.nn.functional.unfold(smooth, 3, padding=1).movedim(1, 0).flatten(1).double()
    covariance = patches @ patches.T / patches.shape[1]
    # Responses of N(0, C^-1) gates: their Gram matrix C^1/2 G^T G C^1/2 is that of white noise.
    values, vectors = torch.linalg.eigh(covariance)
    root = (vectors * values.sqrt()) @ vectors.T

    def spread(filters: torch.Tensor) -> float:
        powers = torch.linalg.eigvalsh(root @ filters.flatten(1).double().T @ filters.flatten(1).double() @ root)
        return float(powers[-1] / powers[0])

    assert spread(white.filters) < 4
    assert spread(plain.filters) > 30
    assert spread(half.filters) < spread(plain.filters)
    with pytest.raises(InputError, match="whitened share from 0 to 1, found 2"):
        draw_gates([smooth], 3, (3, 3), torch.Generator(), whitened=2.0)


def test_few_patterns_give_few_gates_and_zero_data_are_refused() -> None:
    spike = torch.zeros(1, 1, 5, 5)
    spike[0, 0, 2, 2] = 1.0
    # A 1x1 filter through the origin can only be open everywhere or off the spike: two patterns.
    gates = draw_gates([spike], 16, (1, 1), torch.Generator().manual_seed(3), offset_scale=0.0)
    assert len(gates) == 2
    shut = Gates(torch.ones(1, 1, 1, 1), torch.full((1,), 2.0))
    assert not shut.patterns(spike).any()


def test_the_draw_depends_on_the_generator_alone() -> None:
    first = draw_gates(samples(), 12, (3, 3), torch.Generator().manual_seed(5))
    again = draw_gates(samples(), 12, (3, 3), torch.Generator().manual_seed(5))
    other = draw_gates(samples(), 12, (3, 3), torch.Generator().manual_seed(6))
    assert torch.equal(first.filters, again.filters)
    assert torch.equal(first.offsets, again.offsets)
    assert not torch.equal(first.filters, other.filters)


@pytest.mark.parametrize(("count", "kernel", "scale"), [(0, (3, 3), 1.0), (4, (4, 3), 1.0), (4, (3, 3), -1.0)])
def test_sizes_out_of_range_are_refused(count: int, kernel: tuple[int, int], scale: float) -> None:
    with pytest.raises(InputError, match="expected count >= 1, odd kernel"):
        draw_gates(samples(), count, kernel, torch.Generator(), offset_scale=scale)


@pytest.mark.parametrize("shape", [(23,), (11, 9), (7, 5, 6)])
def test_patterns_and_patches_of_bands_are_those_of_the_image(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = torch.Generator().manual_seed(5)
    kernel = (5, 3, 3)[: len(shape)]
    # Multiples of 1/4: sums without rounding, so that gates on their borders decide alike.
    filters, offsets = ((4 * torch.randn(size, generator=rng)).round() / 4 for size in ((6, 2, *kernel), (6,)))
    gates = Gates(filters, offsets)
    image = (4 * torch.randn(2, 2, *shape, generator=rng)).round() / 4
    rows = torch.rand(2, 1, *shape, generator=rng) < 0.7
    batch = BlockBatch(image, image, rows)

    def columns() -> list[torch.Tensor]:
        chunks = list(pixel_chunks(batch, gates, True, torch.float64))
        return [torch.cat([getattr(chunk, name) for chunk in chunks], 1) for name in ("patches", "open", "target")]

    patterns, whole = gates.patterns(image), columns()
    drawn = draw_gates([image], 5, kernel, torch.Generator().manual_seed(0), whitened=0.5)
    monkeypatch.setattr("convexrecon.convex.arrangements.PIXELS_DECIDED", 2 * image[0, 0, 0].numel())
    assert len(list(gates.bands(image))) == -(-shape[0] // 2)
    assert torch.equal(gates.patterns(image), patterns)
    assert all(torch.equal(found, expected) for found, expected in zip(columns(), whole, strict=True))
    again = draw_gates([image], 5, kernel, torch.Generator().manual_seed(0), whitened=0.5)
    torch.testing.assert_close(again.filters, drawn.filters)


def test_memory_of_gates_and_statistics_does_not_follow_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("convexrecon.convex.arrangements.PIXELS_DECIDED", 1024)
    rng, taken = torch.Generator().manual_seed(6), []
    for depth in (8, 24):
        image = torch.randn(1, 2, depth, 16, 16, generator=rng)
        with LiveMemory(torch.device("cpu")) as drawing:
            gates = draw_gates([image], 24, (3, 3, 3), torch.Generator().manual_seed(0))
        with LiveMemory(torch.device("cpu")) as summing:
            accumulate([BlockBatch(image, image)], gates, collected=2048)
        taken.append((drawing.peak_mb, summing.peak_mb))
    image_mb = 16 * 16 * 16 * 2 * 4 / 1e6
    # Responses of 24 gates to an image take twelve times its bytes, patches of it 27.5 times.
    assert taken[1][0] - taken[0][0] < image_mb
    assert taken[1][1] - taken[0][1] < 2 * image_mb
