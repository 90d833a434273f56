"""What the gated program of ICLR 2021 learned: clusters of pixels by arrangement code, and its filters' responses."""

from collections.abc import Sequence

import numpy as np
import torch
from claims import Claim, Rule
from denoising_pairs import Pairs
from matplotlib.figure import Figure
from primal_and_dual import Row
from torch import Tensor

from convexrecon.convex.arrangements import Gates
from convexrecon.interpret.clusters import k_means
from convexrecon.interpret.filters import frequency_response
from convexrecon.report.html import Picture
from convexrecon.seeding import generator

# As the paper: clusters, and frequencies along each axis.
CLUSTERS = 12
FREQUENCIES = 28
# Filters of less than this share of the largest norm are null.
NULL = 1e-6
IMAGES = 6
FILTERS = 16


def filters_of(row: Row, kernel: int) -> tuple[Gates, Tensor]:
    """The gates of a trained gated program, and the filters (P, k, k) that they switch on."""
    filters = torch.tensor(row["filters"]).view(-1, 1, kernel, kernel)
    taps = torch.tensor(row["weights"], dtype=torch.float64).view(-1, kernel, kernel)
    return Gates(filters, torch.zeros(len(filters))), taps


def live(taps: Tensor) -> Tensor:
    """Filters that are not null, (P,) bool."""
    norms = taps.flatten(1).norm(dim=1)
    return norms > NULL * norms.max()


def null_claim(rows: Sequence[Row], kernel: int, title: str, setting: str) -> Claim:
    """The share of null filters, a value a seed."""
    shares = tuple(float(1 - live(filters_of(row, kernel)[1]).double().mean()) for row in rows)
    return Claim(
        f"the share of filters of the convex program that are null, {title}",
        "many of them, in a figure",
        "the text and figures of the paper",
        shares,
        "",
        ".3f",
        setting,
        Rule("at least", 0.1, "fewer than a tenth are not many"),
    )


def cluster_figure(row: Row, pairs: Pairs, kernel: int, title: str) -> Picture:
    """Clean test images, and the clusters of their pixels, the darker the less bright."""
    gates, taps = filters_of(row, kernel)
    images = pairs.clean_test[:IMAGES]
    open_ = gates.patterns(images)[:, live(taps)]
    codes = open_.movedim(1, -1).flatten(0, -2).double()
    found = k_means(codes, CLUSTERS, generator(0, "clusters"))
    means = [float(images.flatten()[found.labels == label].mean()) for label in range(len(found.sizes))]
    rank = torch.tensor(np.argsort(np.argsort(means)))
    labels = rank[found.labels].view(len(images), *images.shape[2:])
    figure = Figure(figsize=(1.45 * len(images) + 0.9, 3.3), layout="constrained")
    axes = figure.subplots(2, len(images), squeeze=False)
    for column, (image, label) in enumerate(zip(images[:, 0], labels, strict=True)):
        axes[0, column].imshow(image, cmap="gray")
        drawn = axes[1, column].imshow(label, cmap="viridis", vmin=-0.5, vmax=len(means) - 0.5, interpolation="nearest")
    for ax in axes.flat:
        ax.set_xticks([])
        ax.set_yticks([])
    axes[0, 0].set_ylabel("clean")
    axes[1, 0].set_ylabel("cluster")
    figure.colorbar(drawn, ax=axes[1].tolist(), ticks=[0, len(means) - 1], pad=0.01).set_ticklabels(["dark", "bright"])
    distinct = len(torch.unique(codes, dim=0))
    return Picture(
        figure,
        f"{title}: pixels of clean test images in {len(means)} clusters by their code, the pattern of gates with live "
        f"filters ({distinct} different codes among {len(codes)} pixels); clusters in order of their mean brightness.",
    )


def response_figure(row: Row, kernel: int, title: str) -> Picture:
    """Frequency responses of the strongest filters, one colour scale each being its own largest."""
    _, taps = filters_of(row, kernel)
    alive = live(taps)
    strongest = taps.flatten(1).norm(dim=1).argsort(descending=True)[: min(FILTERS, int(alive.sum()))]
    responses = frequency_response(taps[strongest], (FREQUENCIES, FREQUENCIES)).abs()
    columns = 8
    rows = -(-len(strongest) // columns)
    figure = Figure(figsize=(1.25 * columns + 0.9, 1.3 * rows + 0.5), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()
    for ax, response in zip(axes.flat, responses, strict=False):
        drawn = ax.imshow(
            response / response.max(), cmap="viridis", vmin=0, vmax=1, extent=(-0.5, 0.5, -0.5, 0.5), origin="lower"
        )
    figure.colorbar(drawn, ax=axes.ravel().tolist(), label="|H|, of its largest", pad=0.01, ticks=[0, 1])
    return Picture(
        figure,
        f"{title}: frequency responses of the {len(strongest)} filters of largest norm, zero frequency in the middle, "
        f"half a cycle a pixel at the edges; {int((~alive).sum())} of {len(taps)} filters are null.",
    )
