"""Programs solved without H of all the data: the same optimum, certified on all of it."""

from dataclasses import replace

import pytest
import torch
from denoising_data import gates_for, smooth_batches

from convexrecon.convex.arrangements import Gates
from convexrecon.convex.matrix_free import kronecker_model, streamed_quadratic
from convexrecon.convex.patches import BlockBatch, image_patches, patch_bands
from convexrecon.convex.program import ProgramSettings, certify_program, program_path, solve_program
from convexrecon.convex.program_settings import Method, choose_method
from convexrecon.convex.streamed_program import thinned
from convexrecon.errors import InputError


@pytest.mark.parametrize("penalty", ["group_lasso", "nuclear"])
@pytest.mark.parametrize("method", ["subsampled", "matrix_free"])
def test_every_method_finds_the_same_certified_optimum(penalty: str, method: str) -> None:
    data = smooth_batches(3, (40, 37))
    gates = gates_for(data, 6)
    common = ProgramSettings(penalty=penalty, beta_ratio=0.01, tolerance=1e-6)
    whole = solve_program(lambda: data, gates, replace(common, method="statistics"))
    other = solve_program(lambda: data, gates, replace(common, method=method))  # type: ignore[arg-type]
    assert other.method.name == method
    assert other.pixels == whole.pixels
    assert ("of the pixels, the certificate measured on all" in other.method.reason) == (method == "subsampled")
    assert other.solution.certificate.relative_gap <= 1e-6
    assert other.solution.certificate.objective == pytest.approx(whole.solution.certificate.objective, rel=1e-5)
    again = certify_program(lambda: data, gates, other.solution.weights, other.solution.beta, common)
    assert again.relative_gap == pytest.approx(other.solution.certificate.relative_gap, rel=1e-3, abs=1e-12)


def test_statistics_of_coarse_products_do_not_spoil_the_certificate() -> None:
    """As with tensor-core products: H from patches rounded to ten bits, the certificate from the data."""
    data = smooth_batches(3, (40, 37))
    gates = gates_for(data, 6)
    settings = ProgramSettings(beta_ratio=0.003, tolerance=1e-9)
    best = solve_program(lambda: data, gates, settings).solution.certificate.objective
    coarse = [BlockBatch(b.features.bfloat16().float(), b.target.bfloat16().float(), b.rows) for b in data]
    found = solve_program(lambda: coarse, gates, settings).solution
    measured = certify_program(lambda: data, gates, found.weights, found.beta, settings)
    first = certify_program(lambda: data, gates, torch.zeros_like(found.weights), found.beta, settings)
    at_beta = solve_program(lambda: data, gates, ProgramSettings(beta=found.beta, tolerance=1e-9)).solution
    suboptimality = (measured.objective - at_beta.certificate.objective) / first.objective
    assert suboptimality > 1e-9
    assert measured.relative_gap >= suboptimality
    assert best > 0


def _chosen(gates: Gates, settings: ProgramSettings) -> Method:
    return choose_method(gates, settings, lambda: settings.beta_ratio)


def test_the_method_is_chosen_by_memory_and_work_and_says_why() -> None:
    few = Gates(torch.randn(16, 2, 5, 5), torch.zeros(16))
    many = Gates(torch.randn(512, 2, 7, 7), torch.zeros(512))
    assert _chosen(few, ProgramSettings()).name == "statistics"
    too_large = _chosen(many, ProgramSettings())
    assert too_large.name == "matrix_free"
    assert "41 GB" in too_large.reason
    much_work = _chosen(many, ProgramSettings(memory_gb=100))
    assert much_work.name == "matrix_free"
    assert "times less work" in much_work.reason
    wide = Gates(torch.randn(128, 2, 7, 7), torch.zeros(128))
    assert _chosen(wide, ProgramSettings(beta_ratio=0.1)).name == "matrix_free"
    assert _chosen(wide, ProgramSettings(beta_ratio=1e-4)).name == "statistics"
    for method in ("statistics", "subsampled"):
        with pytest.raises(InputError, match=r"take 41 GB; expected at most memory_gb = 8"):
            _chosen(many, ProgramSettings(method=method))
    with pytest.raises(InputError, match="method: expected auto"):
        ProgramSettings(method="sketch")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="subsample: expected a positive"):
        ProgramSettings(subsample=0)


@pytest.mark.parametrize("method", ["statistics", "subsampled", "matrix_free"])
def test_no_data_are_refused_by_every_method(method: str) -> None:
    gates = gates_for(smooth_batches(1), 3)
    with pytest.raises(InputError, match="no data"):
        solve_program(list, gates, ProgramSettings(method=method))  # type: ignore[arg-type]


def test_the_model_of_h_does_not_depend_on_the_order_of_images() -> None:
    data = smooth_batches(4, (20, 17))
    gates = gates_for(data, 3)
    models = []
    for order in (data, data[::-1]):
        quadratic = streamed_quadratic(lambda order=order: order, gates, True, 0)  # type: ignore[misc]
        models.append(kronecker_model(lambda order=order: order, gates, True, quadratic))  # type: ignore[misc]
    probe = torch.randn(models[0].linear.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(models[1].multiply(probe), models[0].multiply(probe), rtol=1e-4, atol=1e-6)
    curvature = float((probe * models[0].multiply(probe)).sum() / (probe * quadratic.multiply(probe)).sum())
    assert 0.3 < curvature < 3


@pytest.mark.parametrize("method", ["statistics", "matrix_free"])
def test_an_image_without_a_pixel_that_counts_changes_nothing(method: str) -> None:
    data = smooth_batches(2, (20, 17))
    gates = gates_for(data, 3)
    nothing = BlockBatch(data[0].features, data[0].target, torch.zeros_like(data[0].features[:, :1], dtype=torch.bool))
    settings = ProgramSettings(beta_ratio=0.05, method=method)  # type: ignore[arg-type]
    found = [solve_program(lambda d=d: d, gates, settings) for d in (data, [nothing, *data])]  # type: ignore[misc]
    assert found[0].pixels == found[1].pixels
    torch.testing.assert_close(found[1].solution.weights, found[0].solution.weights, rtol=1e-4, atol=1e-7)


def test_an_absolute_beta_is_set_against_beta_max(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("convexrecon.convex.program_settings.LARGE_SIDE", 10)
    data = smooth_batches(1, (11, 12))
    gates = gates_for(data, 3)
    largest = solve_program(lambda: data, gates, ProgramSettings()).beta_max
    strong = solve_program(lambda: data, gates, ProgramSettings(beta=0.1 * largest))
    weak = solve_program(lambda: data, gates, ProgramSettings(beta=1e-4 * largest))
    assert (strong.method.name, weak.method.name) == ("matrix_free", "statistics")
    assert strong.solution.converged


def test_a_path_without_memory_for_h_goes_by_passes() -> None:
    data = smooth_batches(1, (11, 12))
    gates = gates_for(data, 3)
    betas = [0.02, 0.01]
    free = list(program_path(lambda: data, gates, ProgramSettings(memory_gb=0.0), betas))
    held = list(program_path(lambda: data, gates, ProgramSettings(), betas))
    for one, other in zip(free, held, strict=True):
        assert one.certificate.objective == pytest.approx(other.certificate.objective, rel=1e-4)


@pytest.mark.parametrize("size", [(9,), (11, 6), (5, 4, 7)])
def test_bands_of_an_image_hold_its_patches(size: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    image = torch.randn(1, 2, *size, generator=torch.Generator().manual_seed(0))
    kernel = (3, 5, 1)[: len(size)]
    whole = image_patches(image, kernel, constant=True)
    for entries in (1, 500, 10_000):
        monkeypatch.setattr("convexrecon.convex.patches.BAND_ENTRIES", entries)
        bands = list(patch_bands(image, kernel, constant=True))
        assert bool((torch.cat(bands, 1) == whole).all())
    assert len(bands) == 1


def test_thinning_keeps_a_share_of_the_pixels_that_count() -> None:
    data = smooth_batches(3, (40, 37))
    counted = sum(b.pixels for b in data)
    kept = list(thinned(data, 0.25))
    assert sum(b.pixels for b in kept) == pytest.approx(0.25 * counted, rel=0.05)
    for batch, thin in zip(data, kept, strict=True):
        assert thin.rows is not None
        assert batch.rows is not None
        assert not bool((thin.rows & ~batch.rows).any())
    assert sum(b.pixels for b in thinned(data, 1.0)) == counted
    with pytest.raises(InputError, match="no pixel left"):
        list(thinned([BlockBatch(data[0].features, data[0].target, torch.zeros_like(data[0].rows))], 0.5))  # type: ignore[arg-type]
