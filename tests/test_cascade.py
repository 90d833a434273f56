"""The cascade as a function: what its blocks compute, and that the output does not depend on the batch."""

import pytest
import torch

from convexrecon.cascade import Block, Cascade, support, to_channels, to_complex
from convexrecon.convex.arrangements import Gates
from convexrecon.denoisers.gated import GatedDenoiser
from convexrecon.errors import InputError
from convexrecon.physics.data_consistency import NoDataConsistency, ProximalDataConsistency
from convexrecon.physics.sense import Sense


def random_case(batch: int = 2, shape: tuple[int, ...] = (13, 10), seed: int = 0) -> tuple[Sense, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    maps = torch.randn(batch, 3, *shape, generator=rng, dtype=torch.complex64)
    maps = maps / maps.abs().square().sum(1, keepdim=True).sqrt()
    maps[:, :, :3] = 0
    sense = Sense(maps, (torch.rand(1, 1, *shape, generator=rng) < 0.5).float())
    image = torch.randn(batch, *shape, generator=rng, dtype=torch.complex64)
    return sense, sense.forward(image)


def random_denoiser(seed: int = 1, dimensions: int = 2) -> GatedDenoiser:
    rng = torch.Generator().manual_seed(seed)
    kernel = (3,) * dimensions
    gates = Gates(torch.randn(5, 2, *kernel, generator=rng), torch.randn(5, generator=rng))
    weights = torch.randn(5, 2 * 3**dimensions + 1, 2, generator=rng) / 40
    return GatedDenoiser(gates, weights, constant=True)


def test_channels_and_back() -> None:
    image = torch.randn(2, 4, 5, dtype=torch.complex64)
    channels = to_channels(image)
    assert channels.shape == (2, 2, 4, 5)
    assert torch.equal(channels[:, 1], image.imag)
    assert torch.equal(to_complex(channels), image)


@pytest.mark.parametrize("shape", [(13, 10), (5, 6, 7)])
def test_a_cascade_is_its_blocks_in_turn(shape: tuple[int, ...]) -> None:
    sense, kspace = random_case(shape=shape)
    blocks = [Block(random_denoiser(k, len(shape)), ProximalDataConsistency(0.5)) for k in range(2)]
    adjoint = sense.adjoint(kspace)
    image = adjoint
    for block in blocks:
        correction = block.denoiser.correction(to_channels(image))  # type: ignore[operator]
        denoised = (image + to_complex(correction)) * support(sense)
        image = block.consistency(denoised, sense, adjoint)
    torch.testing.assert_close(Cascade(blocks)(sense, kspace), image)


def test_nothing_appears_where_no_coil_sees() -> None:
    sense, kspace = random_case()
    image = Cascade([Block(random_denoiser(), ProximalDataConsistency(0.5))])(sense, kspace)
    assert not image[:, :3].any()
    assert image[:, 3:].any()


def test_the_output_does_not_depend_on_the_batch() -> None:
    sense, kspace = random_case(batch=3)
    cascade = Cascade([Block(random_denoiser(), ProximalDataConsistency(0.2))], initial="cg_sense")
    together = cascade(sense, kspace)
    for sample in range(3):
        one = slice(sample, sample + 1)
        alone = cascade(Sense(sense.maps[one], sense.mask), kspace[one])
        torch.testing.assert_close(alone[0], together[sample], rtol=1e-4, atol=1e-5)


def test_empty_weights_leave_the_image_alone() -> None:
    denoiser = random_denoiser()
    denoiser.weights.data.zero_()
    assert denoiser.active_gates == 0
    channels = torch.randn(1, 2, 9, 8)
    assert torch.equal(denoiser(channels), channels)
    sense, kspace = random_case()
    empty = Cascade([Block(denoiser, NoDataConsistency())])
    torch.testing.assert_close(empty(sense, kspace), sense.adjoint(kspace))


def test_an_unknown_initial_image_is_refused() -> None:
    names = "zero_filled, cg_sense, cg_sense_sharp, time_average, kt_focuss, l1_wavelet"
    with pytest.raises(InputError, match=f"{names}, found 'noise'"):
        Cascade(initial="noise")


def test_a_weight_goes_with_an_initial_image_that_has_one() -> None:
    for weight in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="initial_weight: expected a positive number, found"):
            Cascade(initial="l1_wavelet", initial_weight=weight)
    with pytest.raises(InputError, match="initial_weight: 'l1_wavelet' expects a positive number, found none"):
        Cascade(initial="l1_wavelet")
    with pytest.raises(InputError, match=r"initial_weight: 'cg_sense' has none; .* of l1_wavelet, found 0.1"):
        Cascade(initial="cg_sense", initial_weight=0.1)


def test_other_blocks_start_from_the_same_image() -> None:
    cascade = Cascade(initial="l1_wavelet", initial_weight=0.02)
    longer = cascade.with_blocks([Block(random_denoiser(), NoDataConsistency())])
    assert (len(longer), longer.initial, longer.initial_weight) == (1, "l1_wavelet", 0.02)
