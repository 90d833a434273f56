"""Data consistency undone: against its true input, with its amplification."""

import math

import pytest
import torch
from torch import Tensor

from convexrecon.physics.consistency_inverse import inverse_amplification, invert_consistency
from convexrecon.physics.data_consistency import (
    DataConsistency,
    GradientDataConsistency,
    NoDataConsistency,
    ProximalDataConsistency,
)
from convexrecon.physics.sense import Sense

SHAPE = (9, 14)


def scan(seed: int = 0, share: float = 0.4) -> tuple[Sense, Tensor, Tensor]:
    """A SENSE operator whose maps are zero in a corner, A^H y, and an image; float64."""
    rng = torch.Generator().manual_seed(seed)
    maps = torch.randn(2, 3, *SHAPE, dtype=torch.complex128, generator=rng)
    maps = maps / maps.abs().square().sum(1, keepdim=True).sqrt()
    maps[..., :3, :4] = 0
    mask = (torch.rand(2, 1, *SHAPE, generator=rng) < share).double()
    sense = Sense(maps, mask)
    truth, image = (torch.randn(2, *SHAPE, dtype=torch.complex128, generator=rng) for _ in range(2))
    return sense, sense.adjoint(sense.forward(truth)), image


def exact(consistency: DataConsistency) -> DataConsistency:
    if isinstance(consistency, ProximalDataConsistency):
        consistency.tolerance, consistency.iterations = 1e-13, 300
    return consistency.double()


@pytest.mark.parametrize(
    "consistency",
    [
        ProximalDataConsistency(0.5),
        ProximalDataConsistency(0.02),
        GradientDataConsistency(0.4),
        GradientDataConsistency(0.9),
        NoDataConsistency(),
    ],
)
def test_the_inverse_gives_the_input_back(consistency: DataConsistency) -> None:
    consistency = exact(consistency)
    sense, adjoint, image = scan()
    with torch.no_grad():
        output = consistency(image, sense, adjoint)
        found = invert_consistency(consistency, output, sense, adjoint)
    # Gradient steps are undone to the accuracy of conjugate gradients meant for float32.
    tolerance = 2e-6 if isinstance(consistency, GradientDataConsistency) else 1e-10
    assert float((found - image).norm()) < tolerance * float(image.norm())


def test_what_conjugate_gradients_leave_comes_back_over_lam() -> None:
    sense, adjoint, image = scan()
    for lam in (0.5, 0.02):
        consistency = exact(ProximalDataConsistency(lam))
        consistency.iterations = 4
        with torch.no_grad():
            output = consistency(image, sense, adjoint)
            residual = sense.normal(output) + lam * output - adjoint - lam * image
            found = invert_consistency(consistency, output, sense, adjoint)
        assert float(residual.norm()) > 1e-4
        assert float((found - image - residual / lam).norm()) < 1e-6 * float(residual.norm()) / lam


@pytest.mark.parametrize("consistency", [ProximalDataConsistency(0.25), GradientDataConsistency(0.75)])
def test_no_error_is_amplified_more_than_said_and_some_nearly_as_much(consistency: DataConsistency) -> None:
    consistency = exact(consistency)
    sense, adjoint, image = scan(share=1.1)  # fully sampled: the eigenvalue 1 is there
    error = torch.randn(2, *SHAPE, dtype=torch.complex128, generator=torch.Generator().manual_seed(1))
    error = sense.normal(error)
    first = invert_consistency(consistency, image, sense, adjoint)
    second = invert_consistency(consistency, image + error, sense, adjoint)
    amplified = float((second - first).norm() / error.norm())
    assert amplified == pytest.approx(inverse_amplification(consistency), rel=1e-5)


def test_a_full_gradient_step_on_all_samples_forgets_its_input() -> None:
    assert inverse_amplification(GradientDataConsistency(1.0)) == math.inf
    assert inverse_amplification(GradientDataConsistency(1.5)) == math.inf
    sense, adjoint, image = scan(share=1.1)
    inside = sense.normal(image)
    step = exact(GradientDataConsistency(1.0))
    assert torch.allclose(step(inside, sense, adjoint), step(2 * inside, sense, adjoint), atol=1e-12)
