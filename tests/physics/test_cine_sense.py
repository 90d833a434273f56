import pytest
import torch
from torch import Tensor

from convexrecon.cascade import Block, Cascade, support
from convexrecon.errors import InputError
from convexrecon.physics.cine_sense import CineSense
from convexrecon.physics.data_consistency import ProximalDataConsistency
from convexrecon.physics.sense import Sense

CASES = [(1, 1, 3, (6, 7)), (2, 3, 4, (7, 12)), (3, 4, 1, (8, 5)), (2, 2, 5, (3, 4, 6))]


def random_complex(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(seed))


def random_case(batch: int, coils: int, frames: int, shape: tuple[int, ...], own: bool = False) -> CineSense:
    rng = torch.Generator().manual_seed(7)
    maps = random_complex(batch, coils, *shape, seed=3)
    mask = (torch.rand(batch if own else 1, 1, frames, *shape, generator=rng) < 0.5).double()
    return CineSense(maps / torch.linalg.vector_norm(maps, dim=1, keepdim=True), mask)


@pytest.mark.parametrize(("batch", "coils", "frames", "shape"), CASES)
@pytest.mark.parametrize("own", [False, True])
def test_adjoint_normal_and_norm(batch: int, coils: int, frames: int, shape: tuple[int, ...], own: bool) -> None:
    cine = random_case(batch, coils, frames, shape, own)
    x = random_complex(batch, frames, *shape, seed=1)
    y = random_complex(batch, coils, frames, *shape, seed=2)
    left = torch.vdot(y.flatten(), cine.forward(x).flatten())
    right = torch.vdot(cine.adjoint(y).flatten(), x.flatten())
    assert abs(left - right) <= 1e-10 * abs(left)
    torch.testing.assert_close(cine.normal(x), cine.adjoint(cine.forward(x)), atol=1e-12, rtol=1e-10)
    assert torch.linalg.vector_norm(cine.forward(x)) <= torch.linalg.vector_norm(x)
    assert cine.ndim == x.ndim - 1


@pytest.mark.parametrize("own", [False, True])
def test_every_frame_is_a_sense_of_its_own(own: bool) -> None:
    cine = random_case(2, 3, 4, (7, 12), own)
    series, kspace = random_complex(2, 4, 7, 12, seed=1), random_complex(2, 3, 4, 7, 12, seed=2)
    for t in range(4):
        frame = Sense(cine.coil_maps, cine.mask[:, :, t])
        torch.testing.assert_close(cine.forward(series)[:, :, t], frame.forward(series[:, t]))
        torch.testing.assert_close(cine.adjoint(kspace)[:, t], frame.adjoint(kspace[:, :, t]))


def test_derivatives() -> None:
    cine = random_case(2, 2, 2, (3, 4))
    image = random_complex(2, 2, 3, 4).requires_grad_(True)
    assert torch.autograd.gradcheck(cine.forward, image)
    assert torch.autograd.gradcheck(cine.normal, image)


def test_a_cascade_takes_it_for_its_forward_model() -> None:
    cine = random_case(3, 2, 4, (6, 7))
    maps = cine.coil_maps.clone()
    maps[1, :, :2] = 0
    cine = CineSense(maps, cine.mask)
    seen = support(cine).expand(3, 4, 6, 7)
    assert not seen[1, :, :2].any()
    assert seen[0].all()
    assert seen[1, :, 2:].all()
    denoiser = torch.nn.Conv3d(2, 2, 3, padding=1, bias=False).double()
    cascade = Cascade([Block(denoiser, ProximalDataConsistency(0.5))])
    kspace = cine.forward(random_complex(3, 4, 6, 7))
    image = cascade(cine, kspace)
    assert image.shape == (3, 4, 6, 7)
    assert not image[1, :, :2].any()
    alone = cascade(CineSense(maps[1:2], cine.mask), kspace[1:2])
    torch.testing.assert_close(alone, image[1:2])


def test_refuses_what_does_not_fit() -> None:
    cine = random_case(2, 3, 4, (7, 12))
    with pytest.raises(InputError, match=r"mask: expected .* found \(1, 1, 7, 12\)"):
        CineSense(cine.coil_maps, cine.mask[:, :, 0])
    with pytest.raises(InputError, match="mask: expected"):
        CineSense(cine.coil_maps[..., :6], cine.mask)
    with pytest.raises(InputError, match="samples nothing"):
        CineSense(cine.coil_maps, 0 * cine.mask)
    with pytest.raises(InputError, match="complex"):
        CineSense(cine.coil_maps.abs(), cine.mask)
    with pytest.raises(InputError, match=r"\(2, 3, 4, 7, 12\), found \(2, 1, 4, 7, 12\)"):
        cine.adjoint(random_complex(2, 1, 4, 7, 12))
