"""Filters as filters: responses that waves confirm, ranks and null filters that are known, life along the path."""

import math

import pytest
import torch
from denoisers import denoiser

from convexrecon.convex.arrangements import convolve, draw_gates
from convexrecon.convex.patches import BlockBatch
from convexrecon.convex.program import ProgramSettings, program_path
from convexrecon.errors import InputError
from convexrecon.interpret.filters import (
    complex_parts,
    effective_rank,
    filter_summary,
    frequency_response,
    path_life,
)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("kernel", [(3, 5), (5, 3), (3, 3, 5)])
def test_a_wave_comes_out_multiplied_by_the_response(kernel: tuple[int, ...]) -> None:
    taps = torch.randn(kernel, generator=rng(), dtype=torch.float64)
    size = (12, 16, 8)[: len(kernel)]
    response = frequency_response(taps, size)
    index = tuple(count // 2 - 1 for count in size)
    axes = torch.meshgrid(*[torch.arange(count, dtype=torch.float64) for count in size], indexing="ij")
    phase = sum(-2 * math.pi * axis / count for axis, count in zip(axes, size, strict=True))
    assert isinstance(phase, torch.Tensor)
    out = [convolve(part[None, None], taps[None, None])[0, 0] for part in (phase.cos(), phase.sin())]
    middle = tuple(count // 2 for count in size)
    ratio = torch.complex(out[0], out[1])[middle] / torch.polar(torch.ones(()).double(), phase[middle])
    assert torch.allclose(ratio, response[index], atol=1e-12)
    with pytest.raises(InputError, match="size: expected at least the kernel"):
        frequency_response(taps, tuple(1 for _ in kernel))


def test_complex_parts_act_as_the_real_filter_does() -> None:
    taps = torch.randn(2, 4, 3, 3, generator=rng(), dtype=torch.float64)
    a, b = complex_parts(taps)
    assert a.shape == (2, 3, 3)
    patch = torch.randn(4, 3, 3, generator=rng(1), dtype=torch.float64)
    images = torch.complex(patch[::2], patch[1::2])
    out = (taps * patch).flatten(1).sum(1)
    found = (a * images + b * images.conj()).sum()
    assert torch.allclose(torch.complex(out[0], out[1]), found)
    rotation = torch.zeros(2, 2, 1, 1)
    rotation[0, 1], rotation[1, 0] = -1, 1
    assert complex_parts(rotation)[0].item() == 1j
    assert complex_parts(rotation)[1].item() == 0
    with pytest.raises(InputError, match="taps: expected"):
        complex_parts(torch.zeros(3, 3))


def test_filters_are_ranked_and_null_ones_known() -> None:
    summary = filter_summary(denoiser("gated", width=8))
    assert summary.null.tolist() == [False, True, *[False] * 6]
    assert bool((summary.norms[summary.order].diff() <= 0).all())
    assert int(summary.order[-1]) == 1
    assert float(summary.gate_ranks[1]) == 0
    assert 6 < summary.effective_rank <= 7
    relu = filter_summary(denoiser("relu", width=5))
    assert torch.allclose(relu.gate_ranks, torch.ones(5), atol=1e-3)  # a hidden unit's filter has rank one
    assert int(filter_summary(denoiser("gated"), tolerance=1.0).null.sum()) == 6


def test_effective_rank_is_known_for_even_and_single_spectra() -> None:
    assert effective_rank(torch.ones(7)) == pytest.approx(7)
    assert effective_rank(torch.tensor([3.0, 0, 0])) == pytest.approx(1)
    assert effective_rank(torch.zeros(4)) == 0


def test_gates_are_born_along_the_path() -> None:
    clean = torch.nn.functional.avg_pool2d(torch.randn(2, 2, 24, 24, generator=rng()), 5, 1, 2)
    noisy = clean + 0.1 * torch.randn(2, 2, 24, 24, generator=rng(1))
    data = [BlockBatch(noisy, clean - noisy)]
    gates = draw_gates([noisy], 6, (3, 3), rng(2))
    solutions = list(program_path(lambda: data, gates, ProgramSettings()))
    life = path_life(solutions)
    assert [point.active for point in life] == [solution.active_groups for solution in solutions]
    assert life[0].active == 0
    assert life[0].share == 1
    assert life[-1].active > 2
    alive = 0
    for point in life:
        alive += point.born - point.died
        assert alive == point.active
    assert life[-1].norm > life[1].norm
