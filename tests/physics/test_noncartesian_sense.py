"""Non-Cartesian SENSE against matrices, and in the places of Cartesian SENSE."""

import math

import pytest
import torch
from torch import Tensor

from convexrecon.cascade import Block, Cascade
from convexrecon.convex.arrangements import Gates
from convexrecon.denoisers.gated import GatedDenoiser
from convexrecon.errors import InputError
from convexrecon.physics import noncartesian_sense
from convexrecon.physics.conjugate_gradient import proximal_solve
from convexrecon.physics.consistency_path import consistency_path
from convexrecon.physics.data_consistency import ProximalDataConsistency
from convexrecon.physics.fourier import fft
from convexrecon.physics.noncartesian_fourier import NonCartesianFourier
from convexrecon.physics.noncartesian_sense import NonCartesianSense
from convexrecon.physics.sense import Sense
from convexrecon.physics.trajectories import kooshball, radial, spiral

CASES = [(1, 1, (6, 7)), (2, 3, (7, 12)), (3, 4, (8, 5)), (2, 2, (4, 5, 6)), (1, 5, (3, 7, 4))]
SAMPLES = 40


def random_complex(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(seed))


def random_maps(batch: int, coils: int, shape: tuple[int, ...]) -> Tensor:
    maps = random_complex(batch, coils, *shape, seed=3)
    return maps / torch.linalg.vector_norm(maps, dim=1, keepdim=True)


def random_case(batch: int, coils: int, shape: tuple[int, ...], own: bool = False) -> NonCartesianSense:
    rng = torch.Generator().manual_seed(7)
    leading = (batch,) if own else ()
    coordinates = torch.rand(*leading, SAMPLES, len(shape), generator=rng, dtype=torch.float64) - 0.5
    weights = torch.rand(*leading, SAMPLES, generator=rng, dtype=torch.float64)
    maps = random_maps(batch, coils, shape)
    return NonCartesianSense.along(coordinates * torch.tensor(shape), maps, weights, eps=1e-12)


def dense(sense: NonCartesianSense, sample: int = 0) -> Tensor:
    """S W^(1/2) F of one sample without the scale, (C * samples, prod N), written out."""
    shape = sense.fourier.shape
    coordinates, weights = sense.fourier.coordinates, sense.fourier.weights
    assert weights is not None
    if coordinates.ndim == 3:
        coordinates, weights = coordinates[sample], weights[sample]
    pixels = torch.cartesian_prod(*[torch.arange(size).double() / size for size in shape])
    kernel = torch.exp(-2j * torch.pi * (coordinates @ pixels.T)) / math.sqrt(math.prod(shape))
    return torch.cat([weights.sqrt()[:, None] * kernel * m.flatten() for m in sense.maps[sample]])


@pytest.mark.parametrize(("batch", "coils", "shape"), CASES)
@pytest.mark.parametrize("own", [False, True])
def test_adjoint_and_toeplitz_normal(batch: int, coils: int, shape: tuple[int, ...], own: bool) -> None:
    sense = random_case(batch, coils, shape, own)
    x, y = random_complex(batch, *shape, seed=1), random_complex(batch, coils, SAMPLES, seed=2)
    left = torch.vdot(y.flatten(), sense.forward(x).flatten())
    right = torch.vdot(sense.adjoint(y).flatten(), x.flatten())
    assert abs(left - right) <= 1e-10 * abs(left)
    torch.testing.assert_close(sense.normal(x), sense.adjoint(sense.forward(x)), atol=1e-10, rtol=1e-10)
    assert sense.ndim == len(shape)


@pytest.mark.parametrize(("batch", "coils", "shape"), CASES)
@pytest.mark.parametrize("own", [False, True])
def test_forward_is_its_matrix_times_one_scale(batch: int, coils: int, shape: tuple[int, ...], own: bool) -> None:
    sense = random_case(batch, coils, shape, own)
    image = random_complex(batch, *shape, seed=1)
    found = sense.forward(image).flatten(1)
    for b in range(batch):
        exact = dense(sense, b) @ image[b].flatten()
        ratio = torch.vdot(exact, found[b]) / torch.vdot(exact, exact)
        torch.testing.assert_close(found[b], ratio * exact, atol=1e-10, rtol=0)
        assert abs(ratio.imag) < 1e-10


@pytest.mark.parametrize("shape", [(16, 18), (6, 7, 9)])
@pytest.mark.parametrize("eps", [1e-2, 1e-4])
def test_the_normal_operator_keeps_the_accuracy_asked_in_single_precision(shape: tuple[int, ...], eps: float) -> None:
    plane = len(shape) == 2
    trajectory = radial((16, 18), 20) if plane else kooshball((6, 7, 9), 60)
    maps = random_maps(2, 3, shape).to(torch.complex64)
    sense = NonCartesianSense.along(trajectory.flatten(0, 1), maps, eps=eps)
    image = random_complex(2, *shape).to(torch.complex64)
    found, exact = sense.normal(image), sense.adjoint(sense.forward(image))
    assert float(torch.linalg.vector_norm(found - exact) / torch.linalg.vector_norm(exact)) < 3 * eps


@pytest.mark.parametrize("weighted", [False, True])
def test_the_norm_without_coils_is_one_and_with_them_no_more(weighted: bool) -> None:
    trajectory = torch.stack([radial((16, 18), 20).flatten(0, 1), radial((16, 18), 20, first=9).flatten(0, 1)])
    weights = torch.linalg.vector_norm(trajectory, dim=-1) * 1e-11 if weighted else None
    fourier = NonCartesianFourier(trajectory, (16, 18), weights)
    for maps, least in ((torch.ones(2, 1, 16, 18, dtype=torch.complex64), 0.99), (random_maps(2, 4, (16, 18)), 0.1)):
        sense = NonCartesianSense(maps.to(torch.complex64), fourier)
        identity = torch.eye(16 * 18, dtype=torch.complex64).reshape(-1, 1, 16, 18).expand(-1, 2, -1, -1)
        matrix = torch.stack([sense.normal(column) for column in identity], -1).flatten(1, 2)
        norms = torch.linalg.eigvalsh(matrix)[:, -1]
        assert least < float(norms.min()) <= float(norms.max()) < 1.01


def test_a_cartesian_trajectory_is_cartesian_sense() -> None:
    shape = (6, 9)
    grid = torch.cartesian_prod(torch.arange(6.0) - 3, torch.arange(9.0) - 4)
    maps = random_maps(2, 3, shape)
    mask = torch.rand(1, 1, *shape, generator=torch.Generator().manual_seed(0)).round().double()
    kept = torch.fft.fftshift(mask[0, 0]).flatten() > 0
    sense = NonCartesianSense.along(grid[kept], maps, eps=1e-12)
    image = random_complex(2, *shape)
    # The scale is found in single precision, and is one.
    samples = torch.fft.fftshift(fft(maps * image.unsqueeze(1), 2), dim=(-2, -1)).flatten(2)[..., kept]
    torch.testing.assert_close(sense.forward(image), samples, atol=1e-5, rtol=0)
    torch.testing.assert_close(sense.normal(image), Sense(maps, mask).normal(image), atol=1e-5, rtol=0)


@pytest.mark.parametrize("own", [False, True])
def test_neither_batch_nor_coil_chunks_nor_the_scale_of_weights_matter(
    own: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    sense = random_case(3, 4, (7, 6), own)
    x, y = random_complex(3, 7, 6, seed=1), random_complex(3, 4, SAMPLES, seed=2)
    normal, forward, adjoint = sense.normal(x), sense.forward(x), sense.adjoint(y)
    coordinates, weights = sense.fourier.coordinates, sense.fourier.weights
    assert weights is not None
    for b in range(3):
        one = slice(b, b + 1)
        mine = (coordinates[one], 1e-12 * weights[one]) if own else (coordinates, 1e-12 * weights)
        alone = NonCartesianSense.along(mine[0], sense.maps[one], mine[1], eps=1e-12)
        torch.testing.assert_close(alone.normal(x[one]), normal[one], atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(alone.forward(x[one]), forward[one], atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(alone.adjoint(y[one]), adjoint[one], atol=1e-6, rtol=1e-6)
    monkeypatch.setitem(noncartesian_sense._ELEMENTS_AT_ONCE, "cpu", 1)
    torch.testing.assert_close(sense.normal(x), normal, atol=1e-12, rtol=1e-12)


def test_derivatives_of_first_and_second_order() -> None:
    sense = random_case(2, 2, (3, 4))
    image = random_complex(2, 3, 4).requires_grad_(True)
    samples = random_complex(2, 2, SAMPLES).requires_grad_(True)
    for map_, argument in ((sense.forward, image), (sense.normal, image), (sense.adjoint, samples)):
        assert torch.autograd.gradcheck(map_, argument)
    assert torch.autograd.gradgradcheck(lambda x: (sense.forward(x) - samples.detach()).abs().square().sum(), image)


def test_the_proximal_step_and_its_path_are_those_of_the_matrix() -> None:
    sense = random_case(2, 3, (5, 6))
    image, target = random_complex(2, 5, 6, seed=1), random_complex(2, 5, 6, seed=2)
    adjoint = sense.adjoint(sense.forward(target))
    found = proximal_solve(
        sense, adjoint, image, torch.tensor(0.1, dtype=torch.float64), tolerance=1e-12, max_iterations=200
    )
    for b in range(2):
        matrix = dense(sense, b)
        assert sense.fourier.weights is not None
        squared = float(sense.fourier.scale) ** 2 / float(sense.fourier.weights.max())
        normal = squared * matrix.mH @ matrix
        rhs = normal @ target[b].flatten() + 0.1 * image[b].flatten()
        exact = torch.linalg.solve(normal + 0.1 * torch.eye(30, dtype=torch.float64), rhs)
        torch.testing.assert_close(found[b].flatten(), exact, atol=1e-8, rtol=0)
    path = consistency_path(sense, adjoint, image, target, steps=30)
    error = (found - target).abs().square().flatten(1).sum(1)
    torch.testing.assert_close(path.squared_error(0.1), error, atol=1e-8, rtol=1e-6)


def test_a_cascade_takes_it_for_its_forward_model() -> None:
    rng = torch.Generator().manual_seed(1)
    shape = (24, 20)
    maps = random_maps(2, 4, shape).to(torch.complex64)
    maps[:, :, :3] = 0
    sense = NonCartesianSense.along(spiral(shape, 6).flatten(0, 1), maps)
    gates = Gates(torch.randn(5, 2, 3, 3, generator=rng), torch.randn(5, generator=rng))
    denoiser = GatedDenoiser(gates, torch.randn(5, 19, 2, generator=rng) / 40, constant=True)
    cascade = Cascade([Block(denoiser, ProximalDataConsistency(0.5, learn=True))])
    kspace = sense.forward(random_complex(2, *shape).to(torch.complex64))
    image = cascade(sense, kspace)
    assert not image[:, :3].any()
    alone = cascade(NonCartesianSense(maps[1:], sense.fourier), kspace[1:])
    torch.testing.assert_close(alone, image[1:], atol=1e-4, rtol=1e-4)
    image.abs().square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in cascade.parameters() if p.requires_grad)


def test_keeps_what_it_computed_on_the_device_where_it_is() -> None:
    sense = random_case(1, 2, (5, 6))
    assert sense.to("cpu").fourier is sense.fourier


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("shape", [(7, 12), (4, 5, 6)])
def test_a_cuda_device_agrees(shape: tuple[int, ...], own: bool) -> None:
    pytest.importorskip("cufinufft")
    sense = random_case(2, 3, shape, own)
    moved = sense.to("cuda")
    x, y = random_complex(2, *shape, seed=1), random_complex(2, 3, SAMPLES, seed=2)
    torch.testing.assert_close(moved.forward(x.cuda()).cpu(), sense.forward(x), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(moved.adjoint(y.cuda()).cpu(), sense.adjoint(y), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(moved.normal(x.cuda()).cpu(), sense.normal(x), atol=1e-5, rtol=1e-5)
    left = torch.vdot(y.flatten().cuda(), moved.forward(x.cuda()).flatten())
    right = torch.vdot(moved.adjoint(y.cuda()).flatten(), x.flatten().cuda())
    assert abs(left - right) <= 1e-10 * abs(left)


@pytest.mark.parametrize(
    ("coordinates", "weights", "message"),
    [
        (torch.zeros(60, 10, 2), None, r"60 trajectories for 2.*flatten\(0, 1\)"),
        (torch.rand(10, 3), None, r"\(y, x\)"),
        (torch.rand(10, 2), torch.ones(9), r"weights: expected real \(10,\)"),
        (torch.rand(10, 2), torch.ones(10) * 1j, "weights: expected real"),
        (torch.rand(10, 2), -torch.ones(10), "negative"),
        (torch.rand(10, 2), torch.full((10,), torch.nan), "NaN"),
        (torch.rand(10, 2), torch.zeros(10), "positive weight"),
        (torch.rand(2, 10, 2), torch.stack([torch.zeros(10), torch.ones(10)]), "positive weight"),
    ],
)
def test_refuses_what_does_not_fit(coordinates: Tensor, weights: Tensor | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        NonCartesianSense.along(coordinates, random_maps(2, 3, (8, 9)), weights)


def test_refuses_other_maps_units_and_samples() -> None:
    sense = random_case(2, 3, (8, 9))
    with pytest.raises(InputError, match="complex"):
        NonCartesianSense(torch.ones(2, 3, 8, 9), sense.fourier)
    with pytest.raises(InputError, match=r"\(9, 8\) pixels"):
        NonCartesianSense(random_maps(2, 3, (9, 8)), sense.fourier)
    with pytest.raises(InputError, match="meta"):
        NonCartesianSense(sense.maps.to("meta"), sense.fourier)
    with pytest.raises(InputError, match=r"\(2, 3, 40\), shots flattened; found \(2, 3, 4, 10\)"):
        sense.adjoint(random_complex(2, 3, 4, 10))
    with pytest.raises(InputError, match=r"found \(2, 1, 40\)"):
        sense.adjoint(random_complex(2, 1, SAMPLES))
    with pytest.raises(InputError, match="cycles per pixel"):
        NonCartesianSense.along(torch.rand(10, 2) / 2, random_maps(1, 1, (32, 32)))
