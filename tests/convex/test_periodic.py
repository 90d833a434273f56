"""Programs whose first axis goes round, against the same ones on images that were continued by hand."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from convexrecon.cascade import Block, Cascade
from convexrecon.convex import arrangements, patches
from convexrecon.convex.arrangements import Gates, convolve, draw_gates
from convexrecon.convex.consistent_map import consistent_part
from convexrecon.convex.gated_convolution import GatedConvolution
from convexrecon.convex.patches import BlockBatch, pixel_chunks
from convexrecon.convex.program import certify_program, program_path, solve_program
from convexrecon.convex.program_settings import ProgramSettings
from convexrecon.convex.recovery import cone_network, gated_network, relu_network
from convexrecon.convex.sufficient_statistics import accumulate
from convexrecon.denoisers.building import build_denoiser, describe_denoiser
from convexrecon.denoisers.feature_stack import FeatureStack
from convexrecon.denoisers.gated import GatedDenoiser
from convexrecon.errors import InputError
from convexrecon.interpret.pixel import pixel_filter
from convexrecon.physics.data_consistency import NoDataConsistency
from convexrecon.weights import load_cascade, save_cascade

FRAMES, KERNEL = 4, (5, 3, 1)
MARGIN = KERNEL[0] // 2


def by_hand(series: Tensor) -> Tensor:
    """Two frames more on both sides, those that follow and go before."""
    return torch.cat([series[:, :, -MARGIN:], series, series[:, :, :MARGIN]], 2)


def eighths(*shape: int, seed: int) -> Tensor:
    """Numbers whose sums have no rounding, so that gates on their borders decide alike."""
    return (8 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))).round() / 8


@pytest.fixture
def gates() -> Gates:
    return Gates(eighths(5, 2, *KERNEL, seed=1), eighths(5, seed=2), periodic=True)


@pytest.fixture
def batch() -> BlockBatch:
    series = eighths(2, 2, FRAMES, 7, 6, seed=0)
    rows = torch.rand(2, 1, FRAMES, 7, 6, generator=torch.Generator().manual_seed(3)) < 0.7
    return BlockBatch(series, eighths(2, 2, FRAMES, 7, 6, seed=4), rows)


def continued(batch: BlockBatch, gates: Gates) -> tuple[BlockBatch, Gates]:
    """The same program without going round: what was added does not count."""
    assert batch.rows is not None
    rows = by_hand(batch.rows)
    rows[:, :, :MARGIN] = rows[:, :, -MARGIN:] = False
    return BlockBatch(by_hand(batch.features), by_hand(batch.target), rows), Gates(gates.filters, gates.offsets)


@pytest.fixture(params=[None, 6 * 7])
def banded(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole series, and frame by frame."""
    if request.param is not None:
        monkeypatch.setattr(arrangements, "PIXELS_DECIDED", request.param)
        monkeypatch.setattr(patches, "BAND_ENTRIES", request.param)


@pytest.mark.usefixtures("banded")
def test_the_map_is_that_of_a_series_continued_by_hand(batch: BlockBatch, gates: Gates) -> None:
    longer, plain = continued(batch, gates)
    inside = slice(MARGIN, MARGIN + FRAMES)
    assert torch.equal(gates.patterns(batch.features), plain.patterns(longer.features)[:, :, inside])
    found = GatedConvolution(gates, batch.features.double(), True, batch.rows)
    expected = GatedConvolution(plain, longer.features.double(), True, longer.rows)
    weights = torch.randn(5, 31, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(found.forward(weights), expected.forward(weights)[:, :, inside])
    torch.testing.assert_close(found.adjoint(batch.target.double()), expected.adjoint(longer.target.double()))
    for name in ("patches", "open", "target"):
        columns = [
            torch.cat([getattr(part, name) for part in pixel_chunks(data, which, True, torch.float64)], 1)
            for data, which in ((batch, gates), (longer, plain))
        ]
        assert torch.equal(*columns)


@pytest.mark.usefixtures("banded")
def test_statistics_optimum_and_certificate_too(batch: BlockBatch, gates: Gates) -> None:
    longer, plain = continued(batch, gates)
    found, expected = accumulate([batch], gates), accumulate([longer], plain)
    torch.testing.assert_close(found.gram, expected.gram)
    torch.testing.assert_close(found.cross, expected.cross)
    assert found.pixels == expected.pixels
    for method in ("statistics", "matrix_free"):
        settings = ProgramSettings(beta_ratio=0.05, method=method)
        solved = solve_program(lambda: [batch], gates, settings)
        other = solve_program(lambda: [longer], plain, settings)
        objective = other.solution.certificate.objective
        assert solved.solution.certificate.objective == pytest.approx(objective, rel=2e-5)
        assert solved.solution.certificate.relative_gap <= 1e-5
        weights, beta = solved.solution.weights, solved.solution.beta
        again = certify_program(lambda: [longer], plain, weights, beta, settings)
        assert again.relative_gap == pytest.approx(solved.solution.certificate.relative_gap, rel=1e-3, abs=1e-9)
    assert len(list(program_path(lambda: [batch], gates, settings, [solved.beta_max / 10]))) == 1


def test_behind_a_map_too(batch: BlockBatch, gates: Gates) -> None:
    class Doubled:
        def forward(self, output: Tensor) -> Tensor:
            return 2 * output

        adjoint = forward

    one = BlockBatch(batch.features[:1], batch.target[:1], batch.rows[:1], Doubled())  # type: ignore[index]
    part = consistent_part(one, gates, True, torch.float64)
    weights = torch.randn(5, 31, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    expected = 2 * GatedConvolution(gates, one.features.double(), True, one.rows).forward(weights)
    torch.testing.assert_close(part.map.forward(weights), expected)


def test_drawn_gates_have_unit_response_around(batch: BlockBatch) -> None:
    drawn = draw_gates([batch.features], 6, KERNEL, torch.Generator().manual_seed(0), whitened=0.5, periodic=True)
    response = convolve(by_hand(batch.features), drawn.filters)[:, :, MARGIN : MARGIN + FRAMES]
    torch.testing.assert_close(response.square().mean((0, 2, 3, 4)), torch.ones(6), rtol=1e-4, atol=1e-4)
    assert drawn.periodic
    assert drawn.select(slice(2)).to("cpu").periodic


def test_denoisers_do_not_know_when_the_first_frame_was(batch: BlockBatch, gates: Gates, tmp_path: Path) -> None:
    weights = torch.randn(5, 31, 2, generator=torch.Generator().manual_seed(7))
    network = gated_network(gates, weights, constant=True)
    networks = FeatureStack([network])
    for denoiser in (GatedDenoiser(gates, weights, constant=True), networks):
        whole = Block(denoiser, NoDataConsistency())
        save_cascade(tmp_path / "weights.safetensors", Cascade([whole]), {})
        (loaded,), _ = load_cascade(tmp_path / "weights.safetensors")
        cut = Block(denoiser, NoDataConsistency(), patch=(5, 3, 4))
        output = denoiser(batch.features)
        for block in (whole, loaded, cut):
            made = denoiser if block is whole else block.denoiser
            torch.testing.assert_close(made(batch.features.roll(3, 2)).roll(-3, 2), output)
        assert cut.patches is not None
        torch.testing.assert_close(cut.patches.apply(denoiser, batch.features), output)


def test_a_pixel_of_the_first_frame_is_explained_by_the_last_ones(batch: BlockBatch, gates: Gates) -> None:
    weights = torch.randn(5, 31, 2, generator=torch.Generator().manual_seed(8))
    denoiser = GatedDenoiser(gates, weights, constant=True)
    read = pixel_filter(denoiser, batch.features, (0, 3, 2))
    total = read.contributions.flatten(1).sum(1) + read.constant + read.skip
    torch.testing.assert_close(total, denoiser(batch.features)[0, :, 0, 3, 2], rtol=1e-4, atol=1e-4)
    assert bool(read.taps[:, :, :MARGIN].any())


def test_files_from_before_pad_with_zeros(gates: Gates) -> None:
    denoiser = GatedDenoiser(gates, torch.zeros(5, 31, 2), constant=True)
    entry = describe_denoiser(denoiser)
    built = build_denoiser(entry, denoiser.state_dict())
    del entry["periodic"]
    old = build_denoiser(entry, denoiser.state_dict())
    assert [d.gates.periodic for d in (built, old)] == [True, False]  # type: ignore[union-attr]


def test_relu_networks_are_refused(batch: BlockBatch, gates: Gates) -> None:
    with pytest.raises(InputError, match="expected gates with periodic = False"):
        relu_network(gates, torch.zeros(5, 31, 2), [batch.features], constant=True)
    with pytest.raises(InputError, match="expected gates with periodic = False"):
        cone_network(gates, torch.zeros(5, 31), torch.zeros(5, 31), constant=True)
