"""The local map: the derivative inside a cell, adjoint to rounding, its rows and columns entries of one matrix."""

from collections.abc import Sequence

import pytest
import torch
from cascades import cascade, measurement, rng
from torch import Tensor

from convexrecon.cascade import Cascade, support
from convexrecon.errors import InputError
from convexrecon.interpret.local_map import LocalMap, local_map
from convexrecon.interpret.operator_norm import operator_norm
from convexrecon.interpret.sensitivity import influence, noise_sensitivity
from convexrecon.physics.forward_model import ForwardModel
from convexrecon.physics.noncartesian_sense import NonCartesianSense
from convexrecon.physics.sense import Sense
from convexrecon.physics.trajectories import radial

KINDS: list[Sequence[str]] = [("gated", "gated"), ("relu", "resnet"), ("modl", "gated")]
SETTINGS = [
    {"step": "proximal", "inputs": ("image",)},
    {"step": "gradient", "inputs": ("image", "zero_filled", "initial")},
    {"step": "none", "inputs": ("image", "initial")},
    {"step": "proximal", "inputs": ("image", "zero_filled"), "initial": "cg_sense"},
    {"step": "proximal", "inputs": ("image", "initial"), "initial": "l1_wavelet"},
]


def inner(a: Tensor, b: Tensor) -> float:
    return float((a.conj() * b).real.sum())


def from_initial(network: Cascade, sense: ForwardModel, kspace: Tensor, initial: Tensor) -> Tensor:
    """The cascade from another initial image, the measurement held."""
    image, back = initial, sense.adjoint(kspace)
    for block in network:
        image = block(image, sense, back, initial)
    return image


def check_adjoint(local: LocalMap) -> None:
    v, w = (torch.randn(x.shape, dtype=x.dtype, generator=rng(5)) for x in (local.point, local.output))
    forward, backward = inner(local.forward(v), w), inner(v, local.adjoint(w))
    assert abs(forward - backward) < 1e-10 * max(abs(forward), 1)


@pytest.mark.parametrize("kinds", KINDS)
@pytest.mark.parametrize("settings", SETTINGS)
def test_it_is_the_derivative_inside_the_cell(kinds: Sequence[str], settings: dict[str, str]) -> None:
    network = cascade(kinds, **settings)  # type: ignore[arg-type]
    sense, kspace = measurement()
    for of in ("image", "kspace"):
        local = local_map(network, sense, kspace, of=of)
        step = torch.randn(local.point.shape, dtype=local.point.dtype, generator=rng(3)) * 1e-8
        if of == "image":
            step = step * support(sense)  # outside the object the image is zero, on the edge of every ReLU's cell
        with torch.no_grad():
            if of == "image":
                ends = [from_initial(network, sense, kspace, local.point + sign * step) for sign in (1, -1)]
            else:
                ends = [network(sense, kspace + sign * step) for sign in (1, -1)]
        difference, expected = (ends[0] - ends[1]) / 2, local.forward(step)
        assert float((difference - expected).norm() / expected.norm()) < 1e-6
        check_adjoint(local)


def test_rows_and_columns_are_entries_of_one_matrix() -> None:
    network, (sense, kspace) = cascade(("gated", "relu")), measurement()
    local = local_map(network, sense, kspace)
    row, column = local.row((4, 5), direction=1j), local.column((9, 3), direction=1j)
    assert float(row[0, 9, 3].imag) == pytest.approx(float(column[0, 4, 5].imag), abs=1e-12)
    total = inner(row, local.point) + float(local.constant()[0, 4, 5].imag)
    assert total == pytest.approx(float(local.output[0, 4, 5].imag), abs=1e-10)
    assert torch.allclose(local.output, network(sense, kspace).detach())
    samples = local_map(network, sense, kspace, of="kspace")
    assert bool((samples.row((4, 5))[sense.mask.expand_as(kspace) == 0] == 0).all())
    with pytest.raises(InputError, match="pixel: expected an index"):
        local.row((16, 0))
    with pytest.raises(InputError, match="pixel: expected an index"):
        samples.column((0, 0))


def test_magnitude_is_differentiated_along_its_phase() -> None:
    network, (sense, kspace) = cascade(("relu",)), measurement()
    local = local_map(network, sense, kspace)
    out = complex(local.output[0, 7, 7])
    row = local.row((7, 7), direction=out / abs(out))
    step = 1e-7 * torch.randn(local.point.shape, dtype=torch.complex128, generator=rng()) * support(sense)
    moved = from_initial(network, sense, kspace, local.point + step)[0, 7, 7].detach()
    assert float(moved.abs()) - abs(out) == pytest.approx(inner(row, step), rel=1e-4)


def test_fewer_blocks_and_none() -> None:
    network, (sense, kspace) = cascade(("gated", "relu")), measurement()
    images = list(network.images(sense, kspace))
    for blocks, image in enumerate(images):
        assert torch.allclose(local_map(network, sense, kspace, blocks=blocks).output, image)
    identity = local_map(network, sense, kspace, blocks=0)
    assert torch.equal(identity.forward(images[2]), images[2])
    with pytest.raises(InputError, match="blocks: expected 0 to 2"):
        local_map(network, sense, kspace, blocks=3)
    with pytest.raises(InputError, match="of: expected one of image, kspace"):
        local_map(network, sense, kspace, of="mask")  # type: ignore[arg-type]


def test_volumes_series_and_samples_off_the_grid() -> None:
    volume, measured = measurement((5, 8, 6))
    cine = Sense(volume.maps[:, :, :1], volume.mask, 2)
    maps = measurement()[0].maps
    spokes = NonCartesianSense.along(radial((16, 14), shots=9).flatten(0, 1), maps, eps=1e-12)
    image = torch.randn(1, 16, 14, dtype=torch.complex128, generator=rng())
    for sense, kspace, kernel in (
        (volume, measured, (3, 3, 3)),
        (cine, cine.forward(torch.randn(1, 5, 8, 6, dtype=torch.complex128, generator=rng())), (3, 3, 3)),
        (spokes, spokes.forward(image), (3, 3)),
    ):
        network = cascade(("gated", "relu"), kernel=kernel)
        for of in ("image", "kspace"):
            check_adjoint(local_map(network, sense, kspace, of=of))


def test_patches_that_see_too_little_are_refused() -> None:
    network, (sense, kspace) = cascade(("gated",)), measurement()
    whole = local_map(network, sense, kspace).forward(kspace[:, 0])
    for block in network:
        block.use_patches(8)
    assert torch.equal(local_map(network, sense, kspace).forward(kspace[:, 0]), whole)
    (block,) = network
    with pytest.warns(UserWarning, match="halo"):
        block.use_patches(8, 0)
    with pytest.raises(InputError, match="expected a halo of the receptive field"):
        local_map(network, sense, kspace)


def as_matrix(local: LocalMap) -> Tensor:
    """J as a real matrix, column by column."""
    columns = []
    for index in torch.cartesian_prod(*[torch.arange(size) for size in local.point.shape[1:]]).tolist():
        for direction in (1, 1j):
            column = torch.view_as_real(local.column(index, direction=direction))
            columns.append(column.flatten())
    return torch.stack(columns, 1)


def test_norm_and_sensitivity_are_those_of_the_matrix() -> None:
    network, (sense, kspace) = cascade(("gated", "gated"), step="gradient"), measurement((6, 5))
    local = local_map(network, sense, kspace)
    matrix = as_matrix(local)
    found = operator_norm(local, rng(), tolerance=1e-9, max_iterations=2000)
    assert found.converged
    assert found.value == pytest.approx(float(torch.linalg.matrix_norm(matrix, 2)), rel=1e-5)
    assert float(found.direction.norm()) == pytest.approx(1)
    assert not operator_norm(local, rng(), tolerance=1e-9, max_iterations=1).converged
    rows = matrix.view(30, 2, -1).square().sum((1, 2)).div(2).sqrt()
    sampled = noise_sensitivity(local, 200, rng()).flatten()
    assert torch.allclose(sampled, rows, rtol=0.35, atol=1e-3)
    columns = matrix.view(-1, 30, 2).square().sum((0, 2)).div(2).sqrt()
    assert torch.allclose(influence(local, 200, rng()).flatten(), columns, rtol=0.35, atol=1e-3)
    with pytest.raises(InputError, match="draws: expected at least 1"):
        noise_sensitivity(local, 0, rng())
