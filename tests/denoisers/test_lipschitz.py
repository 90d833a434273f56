"""The bounds of what convolutions and residual branches amplify, against what they do amplify."""

import pytest
import torch
from torch import Tensor, nn

from convexrecon.denoisers.building import DenoiserKind, new_denoiser
from convexrecon.denoisers.convolution import PADDINGS, Padding, convolution
from convexrecon.denoisers.lipschitz import convolution_bound, padding_norm, smallest_size
from convexrecon.denoisers.modl_cnn import ModlDenoiser
from convexrecon.denoisers.residual import ResidualDenoiser
from convexrecon.denoisers.resnet import ResNetDenoiser

KERNELS = [(3,), (5,), (3, 3), (1, 5), (3, 1, 3)]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def operator_norm(layer: nn.Module, inputs: int, shape: tuple[int, ...]) -> float:
    """The exact norm of a layer without bias, from its matrix."""
    size = inputs * torch.Size(shape).numel()
    basis = torch.eye(size, dtype=torch.float64).view(size, inputs, *shape)
    return float(torch.linalg.matrix_norm(layer(basis).flatten(1), ord=2))


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_convolution_amplifies_no_more_than_its_bound(padding: Padding, kernel: tuple[int, ...]) -> None:
    for seed in range(3):
        layer = convolution(2, 3, kernel, seeded(seed), padding=padding).double().requires_grad_(False)
        bound = float(convolution_bound(layer.get_parameter("weight"), padding))
        for extra in (0, 3):
            shape = tuple(smallest_size(padding, size, bounded=True) + extra for size in kernel)
            assert operator_norm(layer, 2, shape) <= bound


@pytest.mark.parametrize("padding", PADDINGS)
def test_the_padding_norm_is_attained(padding: Padding) -> None:
    # A kernel that only shifts, to the corner where the most copies of a pixel meet.
    for kernel in [(3,), (5,), (3, 3)]:
        shape = tuple(smallest_size(padding, size, bounded=True) + 2 for size in kernel)
        layer = (
            convolution(1, torch.Size(kernel).numel(), kernel, seeded(), padding=padding).double().requires_grad_(False)
        )
        taps = torch.eye(layer.get_parameter("weight")[0].numel(), dtype=torch.float64)
        layer.load_state_dict({"weight": taps.view(-1, 1, *kernel)})
        largest = max(operator_norm(nn.Sequential(layer, _Channel(k)), 1, shape) for k in range(len(taps)))
        assert largest == pytest.approx(padding_norm(padding, kernel), rel=1e-6)


class _Channel(nn.Module):
    def __init__(self, index: int) -> None:
        super().__init__()
        self.index = index

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden[:, self.index : self.index + 1]


def test_the_bound_is_tight_for_zeros_beyond_the_border() -> None:
    layer = convolution(2, 3, (3, 3), seeded()).double().requires_grad_(False)
    exact = operator_norm(layer, 2, (20, 20))
    bound = float(convolution_bound(layer.get_parameter("weight")))
    assert exact <= bound <= 1.12 * exact
    # A peak between the frequencies of the grid: a wave of 0.123 cycles a pixel.
    taps = torch.cos(2 * torch.pi * 0.123 * torch.arange(-3, 4, dtype=torch.float64))
    angles = torch.linspace(0, torch.pi, 5001, dtype=torch.float64)
    waves = torch.polar(torch.ones(5001, 7).double(), angles[:, None] * torch.arange(-3, 4))
    exact = float((waves @ taps.to(waves.dtype)).abs().max())
    assert exact <= float(convolution_bound(taps.view(1, 1, 7))) <= 1.05 * exact


def test_the_gradient_goes_through_the_bound() -> None:
    weight = torch.randn(3, 2, 3, 3, generator=seeded(), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(convolution_bound, (weight,))
    nothing = torch.zeros(3, 2, 3, 3, requires_grad=True)
    bound = convolution_bound(nothing)
    bound.backward()
    assert bound.item() < 1e-15
    assert nothing.grad is not None
    assert bool(nothing.grad.isfinite().all())


def test_single_precision_does_not_spoil_the_bound() -> None:
    for scale in (1e-12, 1.0, 1e12):
        weight = scale * torch.randn(40, 30, 3, 3, generator=seeded())
        double = float(convolution_bound(weight.double()))
        assert float(convolution_bound(weight)) == pytest.approx(double, rel=1e-5)


def lipschitz_constant(denoiser: ResidualDenoiser, shape: tuple[int, ...]) -> float:
    """The largest norm of the Jacobian of F at some inputs: a lower bound of the constant."""
    factor, largest = denoiser.factor(), 0.0
    for seed in range(2):
        image = torch.randn(1, denoiser.channels, *shape, generator=seeded(seed), dtype=torch.float64)
        image = image + 2 * seed  # away from the origin other units are open
        jacobian = torch.autograd.functional.jacobian(lambda x: denoiser.residual(x, factor), image, vectorize=True)
        matrix = jacobian.reshape(-1, image.numel())
        largest = max(largest, float(torch.linalg.matrix_norm(matrix, ord=2)))
    return largest


def loud(denoiser: ResidualDenoiser) -> ResidualDenoiser:
    """With weights twice as large, so that the bound is at work."""
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.mul_(2)
    return denoiser.double().requires_grad_(False)


@pytest.mark.parametrize("kind", ["relu", "resnet", "modl"])
@pytest.mark.parametrize("shape", [(13,), (7, 9), (4, 5, 6)])
def test_a_bounded_branch_is_a_contraction(kind: DenoiserKind, shape: tuple[int, ...]) -> None:
    denoiser = loud(new_denoiser(kind, width=5, dimensions=len(shape), spectral=0.7, generator=seeded()))
    assert denoiser.factor().item() < 1
    assert 0 < lipschitz_constant(denoiser, shape) <= 0.7
    image = torch.randn(2, 2, *shape, generator=seeded(1), dtype=torch.float64)
    noised, factor = denoiser(image), denoiser.factor()
    found = noised
    for _ in range(12):
        found = noised - denoiser.residual(found, factor)
    assert float((found - image).norm()) <= 0.7**12 * float((noised - image).norm()) + 1e-12


@pytest.mark.parametrize("padding", PADDINGS)
def test_the_bound_holds_for_every_padding(padding: Padding) -> None:
    for denoiser in (
        ModlDenoiser(5, layers=3, padding=padding, spectral=0.5, generator=seeded()),
        ResNetDenoiser(5, padding=padding, spectral=0.5, generator=seeded()),
        ModlDenoiser(5, layers=3, padding=padding, periodic=True, spectral=0.5, generator=seeded()),
    ):
        assert 0 < lipschitz_constant(loud(denoiser), (6, 5)) <= 0.5


def test_a_branch_below_its_bound_is_left_alone() -> None:
    free, bounded = (new_denoiser("modl", width=5, spectral=s, generator=seeded()) for s in (None, 0.9))
    with torch.no_grad():
        for parameter in [*free.parameters(), *bounded.parameters()]:
            parameter.mul_(0.1)
    image = torch.randn(1, 2, 9, 8, generator=seeded(1))
    assert bounded.factor().item() == free.factor().item() == 1
    # Inside, the two differ in what they pad with.
    torch.testing.assert_close(free(image)[..., 5:-5, 5:-5], bounded(image)[..., 5:-5, 5:-5])
    same = ModlDenoiser(5, padding="reflect", spectral=0.9, generator=seeded())
    same.load_state_dict(free.state_dict())
    assert torch.equal(same(image), free(image))


def test_training_stays_below_the_bound() -> None:
    denoiser = new_denoiser("modl", width=4, spectral=0.6, generator=seeded())
    optimizer = torch.optim.Adam(denoiser.parameters(), lr=0.02)
    image = torch.randn(2, 2, 10, 9, generator=seeded(1))
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = (denoiser(image) - 0.3 * image).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    assert denoiser.factor().item() < 1
    assert lipschitz_constant(denoiser.double().requires_grad_(False), (7, 6)) <= 0.6
