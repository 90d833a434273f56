"""The SENSE operator against its definition."""

import numpy as np
import pytest
import torch
from torch import Tensor

from convexrecon.cascade import Block, Cascade, support
from convexrecon.errors import InputError
from convexrecon.physics.data_consistency import ProximalDataConsistency
from convexrecon.physics.sense import Sense

CASES = [(1, 1, (6, 7)), (2, 3, (7, 12)), (3, 4, (8, 5)), (2, 2, (4, 5, 6)), (1, 5, (3, 7, 4))]
SERIES = [(1, 1, 3, (6, 7)), (2, 3, 4, (7, 12)), (3, 4, 1, (8, 5)), (2, 2, 5, (3, 4, 6))]


def random_complex(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(seed))


def random_sense(batch: int, coils: int, shape: tuple[int, ...], masks: int) -> Sense:
    rng = torch.Generator().manual_seed(7)
    mask = (torch.rand((masks, 1, *shape), generator=rng) < 0.4).double()
    mask[:, :, 0] = 1
    return Sense(random_complex(batch, coils, *shape), mask)


@pytest.mark.parametrize(("batch", "coils", "shape"), CASES)
@pytest.mark.parametrize("shared_mask", [True, False])
def test_adjoint_and_normal(batch: int, coils: int, shape: tuple[int, ...], shared_mask: bool) -> None:
    sense = random_sense(batch, coils, shape, 1 if shared_mask else batch)
    x, y = random_complex(batch, *shape, seed=1), random_complex(batch, coils, *shape, seed=2)
    left = torch.vdot(y.flatten(), sense.forward(x).flatten())
    right = torch.vdot(sense.adjoint(y).flatten(), x.flatten())
    assert abs(left - right) <= 1e-10 * abs(left)
    torch.testing.assert_close(sense.normal(x), sense.adjoint(sense.forward(x)), atol=1e-12, rtol=1e-12)
    assert sense.ndim == len(shape)


@pytest.mark.parametrize(("batch", "coils", "shape"), CASES)
def test_forward_is_mask_fourier_maps(batch: int, coils: int, shape: tuple[int, ...]) -> None:
    sense = random_sense(batch, coils, shape, batch)
    image = random_complex(batch, *shape, seed=3)
    for b in range(batch):
        for c in range(coils):
            full = np.fft.fftn((sense.maps[b, c] * image[b]).numpy()) / np.sqrt(np.prod(shape))
            np.testing.assert_allclose(sense.forward(image)[b, c], sense.mask[b, 0].numpy() * full, atol=1e-12)


def test_norm_is_at_most_one_with_normalized_maps() -> None:
    maps = random_complex(1, 4, 9, 10)
    maps = maps / torch.linalg.vector_norm(maps, dim=1, keepdim=True)
    sense = Sense(maps, random_sense(1, 1, (9, 10), 1).mask)
    image = random_complex(1, 9, 10, seed=4)
    for _ in range(50):
        image = sense.normal(image / torch.linalg.vector_norm(image))
    assert 0.5 < float(torch.linalg.vector_norm(image)) <= 1 + 1e-12


@pytest.mark.parametrize(
    ("maps", "mask", "message"),
    [
        (torch.ones(1, 2, 4, 5), torch.ones(1, 1, 4, 5), "complex"),
        (random_complex(4, 5), torch.ones(4, 5), "maps"),
        (random_complex(1, 2, 4, 5), torch.ones(4, 5), "mask"),
        (random_complex(1, 2, 4, 5), torch.ones(1, 1, 5, 4), "mask"),
        (random_complex(1, 2, 4, 5), torch.ones(3, 1, 4, 5), "mask"),
        (random_complex(1, 2, 4, 5), torch.ones(1, 2, 4, 5), "mask"),
        (random_complex(1, 2, 4, 5), torch.zeros(1, 1, 4, 5), "samples nothing"),
    ],
)
def test_refuses_what_does_not_fit(maps: Tensor, mask: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Sense(maps, mask)


def random_series(batch: int, coils: int, frames: int, shape: tuple[int, ...], own: bool = False) -> Sense:
    """Maps once for all frames, a mask for each; of each sample its `own`."""
    rng = torch.Generator().manual_seed(7)
    maps = random_complex(batch, coils, 1, *shape, seed=3)
    mask = (torch.rand(batch if own else 1, 1, frames, *shape, generator=rng) < 0.5).double()
    return Sense(maps / torch.linalg.vector_norm(maps, dim=1, keepdim=True), mask, len(shape))


@pytest.mark.parametrize(("batch", "coils", "frames", "shape"), SERIES)
@pytest.mark.parametrize("own", [False, True])
def test_adjoint_normal_and_norm_of_a_series(
    batch: int, coils: int, frames: int, shape: tuple[int, ...], own: bool
) -> None:
    cine = random_series(batch, coils, frames, shape, own)
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
    cine = random_series(2, 3, 4, (7, 12), own)
    series, kspace = random_complex(2, 4, 7, 12, seed=1), random_complex(2, 3, 4, 7, 12, seed=2)
    for t in range(4):
        frame = Sense(cine.maps[:, :, 0], cine.mask[:, :, t])
        torch.testing.assert_close(cine.forward(series)[:, :, t], frame.forward(series[:, t]))
        torch.testing.assert_close(cine.adjoint(kspace)[:, t], frame.adjoint(kspace[:, :, t]))


def test_derivatives_of_a_series() -> None:
    cine = random_series(2, 2, 2, (3, 4))
    image = random_complex(2, 2, 3, 4).requires_grad_(True)
    assert torch.autograd.gradcheck(cine.forward, image)
    assert torch.autograd.gradcheck(cine.normal, image)


def test_a_cascade_takes_a_series() -> None:
    cine = random_series(3, 2, 4, (6, 7))
    maps = cine.maps.clone()
    maps[1, :, 0, :2] = 0
    cine = Sense(maps, cine.mask, 2)
    seen = support(cine)
    assert seen.shape == (3, 4, 6, 7)
    assert not seen[1, :, :2].any()
    assert seen[0].all()
    assert seen[1, :, 2:].all()
    denoiser = torch.nn.Conv3d(2, 2, 3, padding=1, bias=False).double()
    cascade = Cascade([Block(denoiser, ProximalDataConsistency(0.5))])
    kspace = cine.forward(random_complex(3, 4, 6, 7))
    image = cascade(cine, kspace)
    assert image.shape == (3, 4, 6, 7)
    assert not image[1, :, :2].any()
    alone = cascade(Sense(maps[1:2], cine.mask, 2), kspace[1:2])
    torch.testing.assert_close(alone, image[1:2])


@pytest.mark.parametrize("at_once", [1, 100, 10**9])
def test_the_normal_operator_is_the_same_some_coils_at_a_time(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("convexrecon.physics.sense._AT_ONCE", at_once)
    for sense in (random_sense(2, 5, (4, 6), 1), random_series(2, 5, 3, (4, 5), own=True)):
        x = random_complex(*sense.image_shape, seed=1)
        torch.testing.assert_close(sense.normal(x), sense.adjoint(sense.forward(x)), atol=1e-12, rtol=1e-12)


def test_refuses_series_that_do_not_fit() -> None:
    cine = random_series(2, 3, 4, (7, 12))
    with pytest.raises(InputError, match=r"mask: expected .* found \(1, 1, 7, 12\)"):
        Sense(cine.maps, cine.mask[:, :, 0], 2)
    with pytest.raises(InputError, match="mask: expected"):
        Sense(cine.maps[..., :1], cine.mask, 2)
    with pytest.raises(InputError, match="mask: expected"):
        Sense(cine.maps, cine.mask)  # time would be transformed
    with pytest.raises(InputError, match=r"\(2, 3, 4, 7, 12\), found \(2, 1, 4, 7, 12\)"):
        cine.adjoint(random_complex(2, 1, 4, 7, 12))
