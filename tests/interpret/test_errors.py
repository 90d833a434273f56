"""Errors attributed: parts that add up, causes that are known, the same over clusters and gates."""

import pytest
import torch
from cascades import cascade, measurement, rng
from denoisers import channels_of, denoiser

from convexrecon.cascade import Cascade
from convexrecon.errors import InputError
from convexrecon.interpret.block_errors import band_edges, block_errors
from convexrecon.interpret.pattern_errors import errors_by_cluster, errors_by_gate
from convexrecon.interpret.patterns import pattern_map
from convexrecon.interpret.two_layers import open_gates
from convexrecon.physics.sense import Sense


def target() -> torch.Tensor:
    return torch.randn(1, 16, 14, dtype=torch.complex128, generator=rng(2))


def test_bands_and_samples_share_out_the_whole_error() -> None:
    sense, kspace = measurement()
    stages = block_errors(cascade(("gated", "modl")), sense, kspace, target(), bands=5)
    assert [stage.name for stage in stages] == [
        "initial image", "denoiser 1", "consistency 1", "denoiser 2", "consistency 2",
    ]  # fmt: skip
    whole = target().norm() ** 2
    for stage in stages:
        assert float(stage.energy.sum()) == pytest.approx(float(stage.error.norm() ** 2 / whole))
        assert float(stage.measured.sum()) == pytest.approx(float(sense.forward(stage.error).norm() ** 2 / whole))
        assert torch.allclose(stage.unmeasured + stage.measured, stage.energy)
    images = list(cascade(("gated", "modl")).images(sense, kspace))
    for stage, image in zip(stages[::2], images, strict=True):
        assert torch.allclose(stage.error, (image - target()).detach())


def test_of_one_coil_the_parts_are_those_of_k_space() -> None:
    mask = (torch.rand(1, 1, 16, 16, generator=rng(1)) > 0.5).double()
    sense = Sense(torch.ones(1, 1, 16, 16, dtype=torch.complex128), mask)
    image = torch.randn(1, 16, 16, dtype=torch.complex128, generator=rng(2))
    (stage,) = block_errors(Cascade(), sense, sense.forward(image), image, bands=3)
    missing = torch.fft.fft2(image, norm="ortho").abs().square() * (1 - mask[0])
    assert torch.allclose(stage.measured, torch.zeros(3, dtype=torch.float64), atol=1e-12)
    frequencies = torch.fft.fftfreq(16, dtype=torch.float64)
    radius = (frequencies[:, None] ** 2 + frequencies**2).sqrt()
    edges = band_edges(3, 2)
    for band in range(3):
        upper = edges[band + 1] if band < 2 else 1.0
        inside = (radius >= edges[band]) & (radius < upper)
        assert float(stage.energy[band]) == pytest.approx(float(missing[0][inside].sum() / image.norm() ** 2))


def test_noise_and_undersampling_are_told_apart() -> None:
    sense, kspace = measurement()
    clean = block_errors(cascade(("gated",)), sense, kspace, target())
    assert all(stage.noise == pytest.approx(0, abs=1e-20) for stage in clean)
    assert clean[0].undersampling == pytest.approx(float(clean[0].energy.sum()))
    noise = 0.1 * sense.forward(torch.randn(1, 16, 14, dtype=torch.complex128, generator=rng(7)))
    noisy = block_errors(cascade(("gated",)), sense, kspace + noise, target())
    assert noisy[0].noise == pytest.approx(float(sense.adjoint(noise).norm() ** 2 / target().norm() ** 2))
    assert [stage.undersampling for stage in noisy] == [stage.undersampling for stage in clean]


def test_consistency_leaves_little_of_what_was_measured() -> None:
    sense, kspace = measurement()
    stages = block_errors(cascade(("gated",)), sense, kspace, target())
    assert float(stages[2].measured.sum()) < 0.2 * float(stages[1].measured.sum())


def test_what_does_not_fit_is_refused() -> None:
    sense, kspace = measurement()
    for settings, message in (({"bands": 0}, "bands: expected at least 1"), ({"axes": 3}, "axes: expected 1 to 2")):
        with pytest.raises(InputError, match=message):
            block_errors(cascade(("gated",)), sense, kspace, target(), **settings)
    with pytest.raises(InputError, match="target: expected an image"):
        block_errors(cascade(("gated",)), sense, kspace, target()[:, 1:])


def test_clusters_and_gates_share_out_the_error() -> None:
    network, image = denoiser("gated"), channels_of((20, 18))
    found = pattern_map(network, image, rng(), k=5)
    error = torch.where(found.labels == 2, 3.0, 1.0)
    shares = errors_by_cluster(found, {"after": error, "none": torch.zeros_like(error)})
    assert shares.rms["after"].tolist() == pytest.approx([1, 1, 3, 1, 1])
    assert float(shares.energy["after"].sum()) == pytest.approx(1)
    assert float(shares.pixels.sum()) == pytest.approx(1)
    assert float(shares.energy["none"].sum()) == 0
    with pytest.raises(InputError, match="errors: after has shape"):
        errors_by_cluster(found, {"after": error[:, 1:]})
    opened = open_gates(network, image)[:, 3]
    gates = errors_by_gate(network, image, torch.where(opened, 2.0, 0.5))
    assert float(gates.rms_open[3]) == pytest.approx(2)
    assert float(gates.rms_closed[3]) == pytest.approx(0.5)
    assert float(gates.open[3]) == pytest.approx(float(opened.double().mean()))
    with pytest.raises(InputError, match="error: expected"):
        errors_by_gate(network, image, error[:, 1:])
