"""Figures of interpretation: on axes that are given, of three axes by planes, one scale for what is compared."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from cascades import cascade, measurement, rng
from matplotlib.figure import Figure

from convexrecon.cascade import Cascade
from convexrecon.errors import InputError
from convexrecon.interpret.block_errors import block_errors
from convexrecon.interpret.block_states import BlockState, block_states
from convexrecon.interpret.filters import PathPoint, filter_summary, frequency_response
from convexrecon.interpret.pattern_errors import errors_by_cluster
from convexrecon.interpret.patterns import pattern_maps
from convexrecon.interpret.pixel import pixel_filter
from convexrecon.interpret.stability import compare_stability
from convexrecon.report import error_figures, filter_figures, pattern_figures, pixel_figures, stability_figures
from convexrecon.report.planes import plane_of, scale_bar, tiled

FLAT, VOLUME = ((16, 14), (3, 3)), ((5, 9, 8), (3, 3, 3))


def at_work(shape: tuple[int, ...], kernel: tuple[int, ...]) -> tuple[Cascade, list[BlockState]]:
    network = cascade(("gated", "relu"), kernel=kernel, step="gradient")
    return network, list(block_states(network, *measurement(shape)))


def images_in(figure: Figure) -> Iterator[np.ndarray]:
    for ax in figure.axes:
        for drawn in ax.images:
            yield np.asarray(drawn.get_array())


def limits(figure: Figure, cmap: str) -> set[tuple[float, float]]:
    return {image.get_clim() for ax in figure.axes for image in ax.images if image.get_cmap().name == cmap}


@pytest.mark.parametrize(("shape", "kernel"), [FLAT, VOLUME])
def test_a_pixel_is_read_out_in_one_figure(shape: tuple[int, ...], kernel: tuple[int, ...]) -> None:
    network, states = at_work(shape, kernel)
    pixel = tuple(size - 1 for size in shape)
    for block, state in zip(network, states, strict=True):
        read = pixel_filter(block.denoiser, state.channels, pixel)
        norms = filter_summary(block.denoiser).norms.tolist()
        figure = pixel_figures.pixel_reading(read, state.before[0].numpy(), norms=norms, spacing=(1.0, 1.0))
        figure.canvas.draw()
        assert len(limits(figure, "RdBu_r")) == 2  # taps have one scale, contributions another
    deep = cascade(("modl",), kernel=kernel)
    (state,) = block_states(deep, *measurement(shape))
    read = pixel_filter(next(iter(deep)).denoiser, state.channels, pixel)
    pixel_figures.pixel_reading(read, state.before[0].numpy()).canvas.draw()
    figure = pixel_figures.row_of_map(state.before[0].numpy(), pixel)
    (shown,) = images_in(figure)
    assert shown.shape == shape[-2:]
    assert shown.min() >= -60


@pytest.mark.parametrize(("shape", "kernel"), [FLAT, VOLUME])
def test_patterns_keep_their_colours_and_the_outside_is_blank(shape: tuple[int, ...], kernel: tuple[int, ...]) -> None:
    network, states = at_work(shape, kernel)
    maps = pattern_maps(network, *measurement(shape), rng(), k=4)
    images = [state.before.numpy() for state in states]
    figure = pattern_figures.pattern_blocks(maps, images)
    figure.canvas.draw()
    order = pattern_figures.brightness_order(maps[0], images[0])
    means = [np.abs(images[0])[maps[0].labels.numpy() == label].mean() for label in order]
    assert means == sorted(means)
    drawn = pattern_figures.label_map(maps[0], order).axes[0].images[0].get_array()
    assert isinstance(drawn, np.ma.MaskedArray)
    outside = plane_of(maps[0].labels[0].numpy() < 0)
    assert np.array_equal(np.ma.getmaskarray(drawn), outside)
    pattern_figures.cluster_filters(maps[0], order).canvas.draw()
    with pytest.raises(InputError, match="expected an image for each"):
        pattern_figures.pattern_blocks(maps, images[:1])


@pytest.mark.parametrize(("shape", "kernel"), [FLAT, VOLUME])
def test_filters_share_their_scales(shape: tuple[int, ...], kernel: tuple[int, ...]) -> None:
    network, _ = at_work(shape, kernel)
    summaries = {f"block {n}": filter_summary(block.denoiser) for n, block in enumerate(network)}
    figure = filter_figures.filter_gallery(summaries["block 0"], count=3)
    figure.canvas.draw()
    assert len(limits(figure, "RdBu_r")) == len(limits(figure, "magma")) == 1
    filter_figures.norm_ranking(summaries).canvas.draw()
    gain = frequency_response(summaries["block 0"].filters.taps[0, 0, 0], [16] * len(kernel)).abs().numpy()
    (shown,) = images_in(filter_figures.response(gain))
    assert shown.shape == (16, 16)
    points = [PathPoint(0.1**k, 0.1**k, 2 * k, 2, 0, float(k), 1.0) for k in range(4)]
    filter_figures.life_along_path(points).canvas.draw()


@pytest.mark.parametrize(("shape", "kernel"), [FLAT, VOLUME])
def test_errors_and_stability_are_drawn(shape: tuple[int, ...], kernel: tuple[int, ...]) -> None:
    network, _ = at_work(shape, kernel)
    sense, kspace = measurement(shape)
    target = torch.randn(1, *shape, dtype=torch.complex128, generator=rng(2))
    stages = block_errors(network, sense, kspace, target)
    figure = error_figures.error_maps(stages, 1.0, spacing=(1.0, 1.0))
    figure.canvas.draw()
    assert len(limits(figure, "inferno")) == 1
    found = pattern_maps(network, sense, kspace, rng(), k=3)[0]
    shares = errors_by_cluster(found, {"before": stages[0].error, "after": stages[2].error})
    page = Figure(layout="constrained")
    axes = page.subplots(2, 2).ravel()
    assert error_figures.error_causes(stages, ax=axes[0]) is page
    error_figures.error_bands(stages, axes=len(shape), ax=axes[1])
    error_figures.cluster_errors(shares, range(3), ax=axes[2])
    networks = compare_stability({"a": network}, sense, kspace, steps=2)
    stability_figures.amplification(networks, ax=axes[3])
    page.canvas.draw()
    assert [len(ax.lines) > 0 or len(ax.patches) > 0 for ax in axes] == [True] * 4
    change = networks["a"].worst.change[0].numpy()
    figure = stability_figures.worst_perturbations({"a": (change, change, change), "b": (change, change, 2 * change)})
    figure.canvas.draw()
    assert len(limits(figure, "gray")) == 1
    maps = {"a": np.abs(change), "b": 2 * np.abs(change)}
    assert len(limits(stability_figures.sensitivity_maps(maps), "viridis")) == 1


def test_planes_and_scale_bars() -> None:
    volume = np.arange(60).reshape(3, 4, 5)
    assert np.array_equal(plane_of(volume), volume[1])
    assert np.array_equal(plane_of(volume, 2), volume[2])
    with pytest.raises(InputError, match="plane: expected an index"):
        plane_of(volume, 3)
    with pytest.raises(InputError, match="at least two axes"):
        plane_of(np.zeros(3))
    assert tiled(volume).shape == (4, 17)
    ax = Figure().subplots()
    scale_bar(ax, (100, 200), 0.5)
    (bar,) = ax.lines
    assert np.ptp(np.asarray(bar.get_xdata())) == pytest.approx(40)  # 2 cm of 0.5 mm pixels
    assert ax.texts[0].get_text() == "2 cm"
    scale_bar(ax, (4, 4), 0.1)
    assert len(ax.lines) == 1
    for draw in (stability_figures.sensitivity_maps, stability_figures.worst_perturbations):
        with pytest.raises(InputError, match="found none"):
            draw({})
