"""The non-uniform transform against its definition, in double precision."""

import math
import sys

import pytest
import torch
from torch import Tensor

from convexrecon.errors import InputError
from convexrecon.physics.fourier import fft, recentre, uncentre
from convexrecon.physics.nufft import Nufft, check_coordinates, check_trajectory, uncentre_samples

SHAPES = [(7, 12), (8, 5), (9, 9), (4, 5, 6), (3, 8, 5)]
SAMPLES = 31


def random_complex(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(seed))


def random_coordinates(shape: tuple[int, ...], *leading: int, seed: int = 7) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    fractions = torch.rand(*leading, SAMPLES, len(shape), generator=rng, dtype=torch.float64) - 0.5
    return fractions * torch.tensor(shape)


def exact_matrix(coordinates: Tensor, shape: tuple[int, ...]) -> Tensor:
    """(samples, prod N): exp(-2 pi i k n / N) / sqrt(prod N), written out."""
    pixels = torch.cartesian_prod(*[torch.arange(size).double() / size for size in shape])
    return torch.exp(-2j * torch.pi * (coordinates @ pixels.T)) / math.sqrt(math.prod(shape))


def grid(shape: tuple[int, ...]) -> Tensor:
    """Every whole frequency, DC in the middle, (prod N, d)."""
    return torch.cartesian_prod(*[torch.arange(size).double() - size // 2 for size in shape])


def error(found: Tensor, exact: Tensor) -> float:
    return float(torch.linalg.vector_norm(found - exact) / torch.linalg.vector_norm(exact))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("dtype", "eps", "allowed"),
    [
        (torch.complex128, 1e-12, 1e-11),
        (torch.complex128, 1e-6, 1e-5),
        (torch.complex64, 1e-9, 1e-5),
        (torch.complex64, 1e-3, 1e-2),
    ],
)
def test_forward_and_adjoint_are_the_exact_sums(
    shape: tuple[int, ...], dtype: torch.dtype, eps: float, allowed: float
) -> None:
    coordinates = random_coordinates(shape)
    nufft, matrix = Nufft(coordinates, shape, eps), exact_matrix(coordinates, shape)
    image, samples = random_complex(2, 3, *shape), random_complex(2, 3, SAMPLES, seed=1)
    forward, adjoint = nufft.forward(image.to(dtype)), nufft.adjoint(samples.to(dtype))
    assert forward.dtype == adjoint.dtype == dtype
    assert error(forward, image.flatten(2) @ matrix.T) < allowed
    assert error(adjoint.flatten(2), samples @ matrix.conj()) < allowed


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("eps", [1e-12, 1e-3])
def test_adjointness_does_not_depend_on_the_accuracy(shape: tuple[int, ...], eps: float) -> None:
    nufft = Nufft(random_coordinates(shape), shape, eps)
    x, y = random_complex(2, *shape), random_complex(2, SAMPLES, seed=1)
    left = torch.vdot(y.flatten(), nufft.forward(x).flatten())
    right = torch.vdot(nufft.adjoint(y).flatten(), x.flatten())
    assert abs(left - right) <= 1e-10 * abs(left)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_cartesian_trajectory_is_the_fft(shape: tuple[int, ...]) -> None:
    image = random_complex(3, *shape)
    found = Nufft(grid(shape), shape, 1e-12).forward(image).reshape(image.shape)
    exact = torch.fft.fftshift(fft(image, len(shape)), dim=tuple(range(1, image.ndim)))
    torch.testing.assert_close(found, exact, atol=1e-11, rtol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_samples_are_uncentred_as_cartesian_kspace_is(shape: tuple[int, ...]) -> None:
    centred = random_complex(2, *shape)
    found = uncentre_samples(centred.flatten(1), grid(shape), shape).reshape(centred.shape)
    exact = torch.fft.fftshift(uncentre(centred, len(shape)), dim=tuple(range(1, centred.ndim)))
    torch.testing.assert_close(found, exact, atol=1e-11, rtol=0)
    torch.testing.assert_close(recentre(uncentre(centred, len(shape)), len(shape)), centred)


def test_uncentring_moves_the_origin_of_every_trajectory() -> None:
    shape, coordinates = (6, 9), random_coordinates((6, 9), 2)
    image = random_complex(2, 3, *shape)
    pixels = torch.cartesian_prod((torch.arange(6.0) - 3) / 6, (torch.arange(9.0) - 4) / 9).double()
    kernel = torch.exp(-2j * torch.pi * (coordinates @ pixels.T)) / math.sqrt(54)
    centred = torch.einsum("bsn,bcn->bcs", kernel, image.flatten(2))
    # Pixels in single precision above are good to 1e-7.
    assert error(uncentre_samples(centred, coordinates, shape), Nufft(coordinates, shape, 1e-12).forward(image)) < 1e-6


@pytest.mark.parametrize("leading", [(), (2,)])
def test_first_and_second_derivatives(leading: tuple[int, ...]) -> None:
    shape = (4, 5)
    nufft = Nufft(random_coordinates(shape, *leading)[..., :6, :].contiguous(), shape, 1e-12)
    image = random_complex(2, *shape).requires_grad_(True)
    samples = random_complex(2, 6).requires_grad_(True)
    for map_, argument in ((nufft.forward, image), (nufft.adjoint, samples)):
        assert torch.autograd.gradcheck(map_, argument)
        assert torch.autograd.gradgradcheck(map_, argument)
        # The map is linear: only behind a square is there a second derivative to get wrong.
        assert torch.autograd.gradgradcheck(lambda x, f=map_: f(x).abs().square().sum(), argument)


@pytest.mark.parametrize("shape", [(7, 12), (4, 5, 6)])
def test_each_trajectory_and_each_image_stands_alone(shape: tuple[int, ...]) -> None:
    coordinates = random_coordinates(shape, 3)
    image, samples = random_complex(3, 2, *shape), random_complex(3, 2, SAMPLES, seed=1)
    together, shared = Nufft(coordinates, shape, 1e-6), Nufft(coordinates[0], shape, 1e-6)
    for b in range(3):
        alone = Nufft(coordinates[b], shape, 1e-6)
        torch.testing.assert_close(together.forward(image)[b], alone.forward(image[b]), atol=1e-12, rtol=1e-12)
        torch.testing.assert_close(together.adjoint(samples)[b], alone.adjoint(samples[b]), atol=1e-12, rtol=1e-12)
        # The same object for other numbers of transforms, and back.
        torch.testing.assert_close(shared.forward(image)[b], shared.forward(image[b]), atol=1e-12, rtol=1e-12)
        torch.testing.assert_close(shared.forward(image)[b, 1], shared.forward(image[b, 1]), atol=1e-12, rtol=1e-12)


def test_takes_conjugate_views_strides_and_no_images_at_all() -> None:
    shape = (6, 9)
    nufft = Nufft(random_coordinates(shape), shape, 1e-9)
    image = random_complex(2, *shape)
    torch.testing.assert_close(nufft.forward(image.conj()), nufft.forward(image.conj().resolve_conj()))
    strided = random_complex(*reversed(shape), 2).permute(2, 1, 0)
    torch.testing.assert_close(nufft.forward(strided), nufft.forward(strided.contiguous()))
    assert nufft.forward(image[:0]).shape == (0, SAMPLES)
    assert nufft.adjoint(image.new_zeros(2, 0, SAMPLES)).shape == (2, 0, *shape)


@pytest.mark.parametrize(
    ("coordinates", "shape", "message"),
    [
        (torch.zeros(5, 3), (8, 8), r"\(y, x\).*found.*\(5, 3\)"),
        (torch.zeros(5, 2), (8, 8, 8), r"\(z, y, x\)"),
        (torch.zeros(5, 1), (8,), "shape"),
        (torch.zeros(5), (8, 8), "coordinates"),
        (torch.zeros(0, 2), (8, 8), "coordinates"),
        (torch.zeros(5, 2, dtype=torch.int64), (8, 8), "int64"),
        (torch.full((5, 2), torch.nan), (8, 8), "NaN"),
        (torch.full((5, 2), torch.inf), (8, 8), "NaN or Inf"),
        (torch.tensor([[0.0, 4.1]]), (8, 8), r"at most N/2 = \(4, 4\)"),
        (torch.zeros(5, 2, requires_grad=True), (8, 8), "gradient"),
    ],
)
def test_refuses_what_cannot_be_coordinates(coordinates: Tensor, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_coordinates(coordinates, shape)
    with pytest.raises(InputError, match=message):
        Nufft(coordinates, shape)


def test_refuses_trajectories_in_other_units() -> None:
    trajectory = (random_coordinates((256, 200)) / torch.tensor([256, 200])).float()
    trajectory[0] = -0.5
    with pytest.raises(InputError, match=r"cycles per pixel.*N/2 = \(128, 100\): multiply by N$"):
        check_trajectory(trajectory, (256, 200))
    with pytest.raises(InputError, match=r"radians per pixel.*multiply by N / \(2 pi\)"):
        check_trajectory(trajectory * 2 * torch.pi, (256, 200))
    check_trajectory(trajectory * torch.tensor([256, 200]), (256, 200))
    with pytest.raises(InputError, match="radians"):
        uncentre_samples(torch.zeros(1, SAMPLES), trajectory * 2 * torch.pi, (256, 200))


def test_refuses_data_that_do_not_fit() -> None:
    nufft = Nufft(random_coordinates((6, 9)), (6, 9))
    pair = Nufft(random_coordinates((6, 9), 2), (6, 9))
    with pytest.raises(InputError, match=r"image: expected \(\.\.\., 6, 9\).*found \(9, 6\)"):
        nufft.forward(random_complex(9, 6))
    with pytest.raises(InputError, match="shots flattened"):
        nufft.adjoint(random_complex(2, SAMPLES + 1))
    with pytest.raises(InputError, match=r"complex64 or complex128, found torch\.float32"):
        nufft.forward(torch.zeros(6, 9))
    with pytest.raises(InputError, match="2 along the first axis"):
        pair.forward(random_complex(3, 6, 9))
    with pytest.raises(InputError, match="2 along the first axis"):
        pair.adjoint(random_complex(SAMPLES))
    with pytest.raises(InputError, match="meta"):
        nufft.forward(random_complex(6, 9).to("meta"))
    with pytest.raises(InputError, match="eps"):
        Nufft(random_coordinates((6, 9)), (6, 9), 0.0)
    with pytest.raises(InputError, match="31 along the last axis"):
        uncentre_samples(random_complex(2, 30), random_coordinates((6, 9)), (6, 9))


def test_names_the_extra_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "finufft", None)
    with pytest.raises(InputError, match=r"pip install 'convexrecon\[noncartesian\]'"):
        Nufft(random_coordinates((6, 9)), (6, 9)).forward(random_complex(6, 9))
