"""Held-out samples: a partition of those acquired, denser towards the centre, the same each time."""

import pytest
import torch

from convexrecon.errors import InputError
from convexrecon.physics.masks import MaskSettings, sampling_mask
from convexrecon.physics.sample_split import split_samples
from convexrecon.seeding import generator

MASKS = [
    MaskSettings("poisson", 4, calibration=12),
    MaskSettings("random", 4, center_fraction=0.08),
    MaskSettings("equispaced", 4, center_fraction=0.08),
    MaskSettings("full"),
]


@pytest.mark.parametrize("settings", MASKS, ids=lambda s: s.kind)
@pytest.mark.parametrize("share", [0.1, 0.4, 0.75])
@pytest.mark.parametrize("shape", [(60, 48), (45, 64)])
def test_the_two_parts_are_all_that_was_acquired(settings: MaskSettings, share: float, shape: tuple[int, int]) -> None:
    mask = sampling_mask(shape, settings, generator(0, "mask"))
    kept, held_out = split_samples(mask, share, generator(0, "split"))
    assert torch.equal(kept + held_out, mask)
    assert not bool((kept * held_out).any())
    assert set(kept.unique().tolist()) | set(held_out.unique().tolist()) == {0.0, 1.0}
    assert int(held_out.sum()) == round(share * int(mask.sum()))
    rows, columns = (slice(n // 2 - 2, n // 2 + 2) for n in shape)
    assert torch.equal(kept[rows, columns], mask[rows, columns])
    assert kept[shape[0] // 2, shape[1] // 2] == 1


def test_the_same_generator_draws_the_same_samples() -> None:
    mask = sampling_mask((60, 48), MASKS[0], generator(0, "mask"))
    first, again, other = (split_samples(mask, 0.4, generator(0, name))[1] for name in ("a", "a", "b"))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_held_out_samples_are_as_dense_as_a_gaussian() -> None:
    shape = (90, 120)
    drawn = torch.stack([split_samples(torch.ones(shape), 0.02, generator(seed))[1] for seed in range(100)]).mean(0)
    y, x = drawn.nonzero(as_tuple=True)
    weight = drawn[y, x] / drawn.sum()
    for position, size in ((y, shape[0]), (x, shape[1])):
        offset = (position - size // 2).double() / size
        # A Gaussian of standard deviation 1/4 cut off at +- 1/2 has standard deviation 0.220.
        assert float((weight * offset).sum()) == pytest.approx(0, abs=0.01)
        assert float((weight * offset.square()).sum().sqrt()) == pytest.approx(0.220, abs=0.01)


def test_shares_that_leave_nothing_are_refused() -> None:
    mask = torch.zeros(20, 20)
    mask[8:12, 8:12] = 1
    mask[0, :8] = 1
    assert int(split_samples(mask, 8 / 24, generator(0))[1].sum()) == 8
    with pytest.raises(InputError, match=r"a share of 0\.5 of 24 samples is 12; .* at most the 8 outside"):
        split_samples(mask, 0.5, generator(0))
    with pytest.raises(InputError, match=r"a share of 0\.01 of 24 samples is 0; expected at least 1"):
        split_samples(mask, 0.01, generator(0))
    for share in (0.0, 1.0, float("nan")):
        with pytest.raises(InputError, match=r"expected a share of the samples in \(0, 1\)"):
            split_samples(mask, share, generator(0))
