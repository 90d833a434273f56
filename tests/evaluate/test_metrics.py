from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import uniform_filter
from skimage.metrics import peak_signal_noise_ratio

from convexrecon.errors import InputError
from convexrecon.evaluate.metrics import DEFINITIONS, nmse, psnr, psnr_magnitude, score_volume, ssim


def _pair(shape: tuple[int, ...] = (23, 17), seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    reference = rng.standard_normal(shape) + 1j * rng.standard_normal(shape)
    return reference + 0.1 * (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)), reference


def _wang_ssim(x: Any, y: Any, data_range: Any) -> Any:
    """Wang et al. (2004), eq. 13, written out: uniform 7x7, sample covariance, border of 3 left out."""
    mean = lambda a: uniform_filter(a, 7)  # noqa: E731
    unbias = 49 / 48
    mx, my = mean(x), mean(y)
    vx, vy = unbias * (mean(x * x) - mx**2), unbias * (mean(y * y) - my**2)
    vxy = unbias * (mean(x * y) - mx * my)
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    values = (2 * mx * my + c1) * (2 * vxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    return values[3:-3, 3:-3].mean()


def test_psnr_of_a_known_error() -> None:
    reference = np.zeros((4, 5), complex)
    reference[1, 2] = 3j
    # Every pixel off by 0.3 in modulus: rms 0.3 against a maximum of 3 is 20 dB.
    assert psnr(reference + 0.3 * np.exp(0.7j), reference) == pytest.approx(20.0, abs=1e-12)


def test_psnr_magnitude_equals_scikit_image() -> None:
    x, reference = _pair()
    expected = peak_signal_noise_ratio(np.abs(reference), np.abs(x), data_range=np.abs(reference).max())
    assert psnr_magnitude(x, reference) == pytest.approx(expected, rel=1e-12)


def test_a_global_phase_costs_psnr_but_not_its_magnitude_form() -> None:
    _, reference = _pair()
    turned = reference * np.exp(0.2j)
    assert psnr(turned, reference) < 40
    assert psnr_magnitude(turned, reference) > 200
    assert nmse(turned, reference) == pytest.approx(abs(np.exp(0.2j) - 1) ** 2, rel=1e-12)


def test_equal_images_have_infinite_psnr_and_no_error() -> None:
    _, reference = _pair()
    assert psnr(reference, reference) == float("inf")
    assert nmse(reference, reference) == 0.0
    assert ssim(reference, reference, 1.0) == pytest.approx(1.0, abs=1e-12)


def test_ssim_equals_the_written_out_formula() -> None:
    x, reference = _pair((31, 26), seed=3)
    for data_range in (np.abs(reference).max(), 5.0):
        expected = _wang_ssim(np.abs(x), np.abs(reference), data_range)
        assert ssim(x, reference, data_range) == pytest.approx(expected, rel=1e-9)


def test_torch_and_numpy_agree_and_give_floats() -> None:
    x, reference = _pair()
    for metric in (psnr, psnr_magnitude, nmse):
        value = metric(torch.from_numpy(x), torch.from_numpy(reference).requires_grad_())
        assert type(value) is float
        assert value == metric(x, reference)


def test_single_precision_input_is_summed_in_double() -> None:
    x, reference = _pair((256, 256))
    assert nmse(x.astype(np.complex64), reference.astype(np.complex64)) == pytest.approx(nmse(x, reference), rel=1e-6)


@pytest.mark.parametrize("metric", [psnr, psnr_magnitude, nmse])
def test_bad_input_is_refused(metric: Any) -> None:
    x, reference = _pair()
    with pytest.raises(InputError, match=r"\(17, 23\).*\(23, 17\)"):
        metric(x.T, reference)
    bad = x.copy()
    bad[3, 4] = np.nan
    with pytest.raises(InputError, match="reconstruction: holds NaN"):
        metric(bad, reference)
    with pytest.raises(InputError, match="zero everywhere"):
        metric(x, np.zeros_like(reference))


def test_ssim_refuses_small_slices_and_empty_ranges() -> None:
    x, reference = _pair((6, 20))
    with pytest.raises(InputError, match="7x7"):
        ssim(x, reference, 1.0)
    x, reference = _pair()
    for data_range in (0.0, float("nan"), -1.0):
        with pytest.raises(InputError, match="data_range"):
            ssim(x, reference, data_range)


def test_score_volume_uses_the_maximum_of_the_volume() -> None:
    x, reference = _pair((3, 20, 18))
    reference[2] *= 4
    scores = score_volume("method", "scan", x, reference, [5, 6, 9], seconds=[0.1, 0.2, 0.3])
    assert [score.slice_index for score in scores] == [5, 6, 9]
    assert [score.seconds for score in scores] == [0.1, 0.2, 0.3]
    peak = np.abs(reference).max()
    for score, image, truth in zip(scores, x, reference, strict=True):
        assert (score.method, score.volume) == ("method", "scan")
        assert score.ssim == ssim(image, truth, peak)
        assert score.psnr == psnr(image, truth)
    assert scores[0].ssim != ssim(x[0], reference[0], np.abs(reference[0]).max())
    part = score_volume("method", "scan", x[:1], reference[:1], [5], 0.1, volume_maximum=peak)
    assert part == scores[:1]


def test_score_volume_names_what_is_wrong() -> None:
    x, reference = _pair((2, 20, 18))
    with pytest.raises(InputError, match="volume scan"):
        score_volume("method", "scan", x, reference, [1], 0.1)
    with pytest.raises(InputError, match="2 times"):
        score_volume("method", "scan", x, reference, [1, 2], [0.1])
    x[1, 0, 0] = np.inf
    with pytest.raises(InputError, match="method, volume scan, slice 7"):
        score_volume("method", "scan", x, reference, [3, 7], 0.1)


def test_every_measure_has_a_definition() -> None:
    assert set(DEFINITIONS) == {"psnr", "psnr_magnitude", "ssim", "nmse", "seconds"}
