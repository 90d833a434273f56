"""Losses are what they are called; the structural one is that of scikit-image."""

from typing import Any

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity as reference

from convexrecon.training.losses import image_loss, image_losses, structural_similarity


def test_squared_and_absolute_losses_are_of_the_complex_error() -> None:
    image = torch.tensor([[3 + 4j, 0j]])
    assert float(image_loss(image, 0 * image, "l2")) == pytest.approx(12.5)
    assert float(image_loss(image, 0 * image, "l1")) == pytest.approx(2.5, rel=1e-5)


@pytest.mark.parametrize("shape", [(23, 17), (9, 12, 8)])
def test_structural_similarity_is_that_of_scikit_image(shape: tuple[int, ...]) -> None:
    rng = torch.Generator().manual_seed(3)
    image, target = torch.randn(2, 2, *shape, 2, generator=rng, dtype=torch.float64).unbind(0)
    x, y = torch.view_as_complex(image), torch.view_as_complex(target)
    largest = y.abs().flatten(1).amax(1)
    found = structural_similarity(x, y, largest)
    for index in range(2):
        expected = reference(
            x[index].abs().numpy(), y[index].abs().numpy(), win_size=7, data_range=float(largest[index])
        )
        assert float(found[index]) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("kind", ["l2", "l1", "ssim"])
def test_losses_are_least_at_the_target_and_do_not_depend_on_the_batch(kind: Any) -> None:
    rng = np.random.default_rng(0)
    target = torch.from_numpy(rng.normal(size=(3, 12, 10)) + 1j * rng.normal(size=(3, 12, 10)))
    target[:, :4] = 0  # outside the object, where gradients of a modulus are delicate
    image = (target + 0.3 * torch.randn(target.shape, dtype=target.dtype)).requires_grad_()
    losses = image_losses(image, target, kind)
    apart = torch.cat([image_losses(image[k : k + 1], target[k : k + 1], kind) for k in range(3)])
    assert torch.allclose(losses, apart)
    assert bool((image_losses(target, target, kind) < 1e-5).all())
    # A turn of the phase is an error too.
    assert bool((image_losses(1j * target, target, kind) > 0.02).all())
    losses.sum().backward()
    assert image.grad is not None
    assert bool(torch.isfinite(torch.view_as_real(image.grad)).all())
    exact = target.clone().requires_grad_()
    image_loss(exact, target, kind).backward()
    assert exact.grad is not None
    assert bool(torch.isfinite(torch.view_as_real(exact.grad)).all())
