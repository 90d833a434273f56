"""The exact search along a line against looking at every step on a fine grid."""

import pytest
import torch

from convexrecon.convex.arrangements import Gates
from convexrecon.convex.gate_lines import best_on_lines


@pytest.mark.parametrize("moving", ["all", "offset"])
def test_no_step_of_a_fine_grid_is_better(moving: str) -> None:
    rng = torch.Generator().manual_seed(0)
    patches, terms = torch.randn(3, 40, generator=rng), torch.randn(40, 5, generator=rng).double()
    gates = Gates(torch.randn(6, 3, 1, 1, generator=rng), torch.randn(6, generator=rng))
    filters, offsets = torch.randn(6, 3, 1, 1, generator=rng), torch.randn(6, generator=rng)
    if moving == "offset":
        filters, offsets = torch.zeros_like(filters), torch.ones_like(offsets)

    def value(g: Gates) -> torch.Tensor:
        return ((g.filters.flatten(1) @ patches >= g.offsets.unsqueeze(1)).double() @ terms).norm(dim=1)

    found = best_on_lines(gates, filters, offsets, patches, terms)
    on_the_line = (found.filters - gates.filters).flatten(1) * offsets.unsqueeze(1)
    torch.testing.assert_close(on_the_line, filters.flatten(1) * (found.offsets - gates.offsets).unsqueeze(1))
    grid = [torch.tan(angle) for angle in torch.linspace(-1.5705, 1.5705, 301)]
    steps = torch.stack([value(Gates(gates.filters + s * filters, gates.offsets + s * offsets)) for s in grid])
    assert bool((value(found) >= steps.amax(0) - 1e-9).all())
    assert bool((value(found) > value(gates)).any())


def test_pixels_whose_gate_never_changes_count_as_they_are() -> None:
    patches = torch.tensor([[1.0, 2.0, 3.0], [1.0, 0.0, 0.0]])
    gates = Gates(torch.tensor([[0.0, 1.0]]).view(1, 2, 1, 1), torch.tensor([0.5]))  # open at the first pixel only
    terms = torch.tensor([[1.0], [-3.0], [2.0]]).double()
    along = Gates(torch.tensor([[0.0, 0.0]]).view(1, 2, 1, 1), torch.tensor([0.0]))
    still = best_on_lines(gates, along.filters, along.offsets, patches, terms)
    assert torch.equal(still.filters, gates.filters)
    shifted = torch.tensor([[1.0, 0.0]]).view(1, 2, 1, 1)
    # Slopes 0, 1 and 2 from levels 0.5, -0.5 and -0.5: the third pixel opens before the second does.
    found = best_on_lines(gates, shifted, torch.tensor([1.0]), patches, terms)
    assert (found.filters.flatten(1) @ patches >= found.offsets).tolist() == [[True, False, True]]
