"""The largest batch or number of blocks for so many gigabytes: it fits, one more does not, and refusals."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from convexrecon.data.dataset import PreparedSlices
from convexrecon.errors import InputError
from convexrecon.training.config import RunSettings
from convexrecon.training.fit_memory import fit_memory, fit_methods, largest_that, text_of
from convexrecon.training.memory_model import memory_model


def test_what_fits_is_the_sum_of_its_parts(prepared: Path, small_run: RunSettings) -> None:
    slices = PreparedSlices(prepared, small_run.mask)
    settings = replace(small_run, method="end_to_end")
    step = memory_model(settings, slices, "batch", torch.device("cpu")).at(9)
    allowed = 100 + 1.001 * (step.activations_mb + step.weights_mb + step.optimizer_mb)
    fit = fit_memory(settings, slices, allowed / 1e3, process_mb=100.0)
    assert fit.largest == 9
    assert fit.total_mb == pytest.approx(
        fit.process_mb + fit.weights_mb + fit.optimizer_mb + fit.fixed_mb + 9 * fit.each_mb, rel=1e-6
    )
    assert fit.measured_mb == pytest.approx(fit.activations_mb, rel=0.1)
    assert "9 " in text_of([fit], allowed / 1e3)


def test_what_does_not_grow_has_no_bound(prepared: Path, small_run: RunSettings) -> None:
    slices = PreparedSlices(prepared, small_run.mask)
    convex = fit_memory(small_run, slices, 4.0, process_mb=0.0)
    assert convex.largest is None
    assert convex.gram_mb is not None
    assert 0 < convex.gram_mb < convex.activations_mb
    greedy = fit_memory(replace(small_run, method="gleam"), slices, 4.0, vary="blocks", process_mb=0.0)
    assert greedy.largest is None
    assert "any" in text_of([convex, greedy], 4.0)


def test_without_data_a_slice_is_simulated(small_run: RunSettings) -> None:
    (fit,) = fit_methods([replace(small_run, method="gleam")], 2.0, size=(40, 36), coils=3)
    # k-space of three coils is among what a step on a slice makes, in complex64.
    assert fit.each_mb > 3 * 40 * 36 * 8e-6
    assert fit.largest is None or fit.largest > 10


def test_too_little_memory_is_refused_with_what_one_takes(prepared: Path, small_run: RunSettings) -> None:
    with pytest.raises(InputError, match=r"gigabytes = 0.001: one slice by gleam takes .* GB .* expected more"):
        fit_methods([replace(small_run, method="gleam")], 0.001, data=prepared)
    with pytest.raises(InputError, match="gigabytes: expected a positive number, found -1"):
        fit_methods([small_run], -1, data=prepared)
    with pytest.raises(InputError, match="expected a folder of data or a size"):
        fit_methods([small_run], 1.0)


@pytest.mark.parametrize("largest", [0, 1, 2, 3, 7, 8, 63, 64])
def test_bisection_finds_the_largest(largest: int) -> None:
    assert largest_that(lambda value: value <= largest, 64) == largest
    tried: list[int] = []
    assert largest_that(lambda value: not tried.append(value) and value <= largest, 5) == min(largest, 5)  # type: ignore[func-returns-value]
    assert max(tried) <= 5
