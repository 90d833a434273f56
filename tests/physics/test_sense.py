"""The SENSE operator against its definition."""

import numpy as np
import pytest
import torch
from torch import Tensor

from convexrecon.errors import InputError
from convexrecon.physics.sense import Sense

CASES = [(1, 1, (6, 7)), (2, 3, (7, 12)), (3, 4, (8, 5)), (2, 2, (4, 5, 6)), (1, 5, (3, 7, 4))]


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
