"""Masks of series: every frame its own, each exact; and the columns whose density falls outwards."""

import pytest
import torch

from convexrecon.errors import InputError
from convexrecon.physics.masks import MaskKind, MaskSettings, sampling_mask
from convexrecon.seeding import generator


@pytest.mark.parametrize("kind", ["poisson", "random", "equispaced", "variable"])
def test_every_frame_has_its_own_exact_mask(kind: MaskKind) -> None:
    settings = MaskSettings(kind, 4.0, 4, center_fraction=0.05)
    masks = sampling_mask((6, 32, 40), settings, generator(0, "test"))
    assert masks.shape == (6, 32, 40)
    assert masks.flatten(1).sum(1).tolist() == [320.0] * 6
    assert bool((masks[:, 16, 20] == 1).all())
    # An equispaced grid has few places to start at; of the others all differ.
    assert len({frame.numpy().tobytes() for frame in masks}) >= (3 if kind == "equispaced" else 6)
    assert torch.equal(masks, sampling_mask((6, 32, 40), settings, generator(0, "test")))


def test_variable_columns_are_whole_and_denser_in_the_middle() -> None:
    settings = MaskSettings("variable", 4.0, center_fraction=0.02)
    masks = sampling_mask((200, 8, 60), settings, generator(1, "test"))
    assert bool((masks == masks[:, :1]).all())
    density = masks[:, 0].mean(0)
    near, far = torch.cat([density[20:29], density[32:41]]).mean(), torch.cat([density[:10], density[50:]]).mean()
    assert near > 3 * far > 0
    full = sampling_mask((8, 10), MaskSettings("variable", 1.0), generator(1, "test"))
    assert bool((full == 1).all())


@pytest.mark.parametrize("shape", [(10,), (0, 8, 8), (2, 2, 8, 8)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"mask: expected a shape \(y, x\) or \(t, y, x\)"):
        sampling_mask(shape, MaskSettings("random", 2.0), generator(0, "test"))
