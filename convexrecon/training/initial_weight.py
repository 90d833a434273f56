"""The weight of an initial image that has one: the best on a few training samples, chosen when a run starts."""

from dataclasses import replace
from math import log10

import torch
from torch import Tensor
from tqdm.auto import tqdm

from convexrecon.data.dataset import PreparedSlices
from convexrecon.evaluate.baselines import Tuning, highest
from convexrecon.evaluate.metrics import psnr
from convexrecon.physics.initial_image import WEIGHTED_IMAGES
from convexrecon.training.block_data import BlockData
from convexrecon.training.config import RunSettings
from convexrecon.training.ranks import Ranks
from convexrecon.training.run_folder import RunFolder

# Training samples that a weight is chosen on. Four of 2-D slices can be off by a factor of two, and 0.3 dB.
SAMPLES = 8
# The grid of weights, extended where its end is best, and how often it is refined.
LOW, HIGH, POINTS, REFINEMENTS = 1e-3, 3e-2, 4, 2


def with_initial_weight(
    settings: RunSettings,
    train: PreparedSlices,
    run: RunFolder,
    *,
    device: torch.device,
    ranks: Ranks,
    progress: bool = True,
) -> RunSettings:
    """The settings with the weight of their initial image: as it is there, in the run's summary, or chosen now.

    Args:
        settings: of the run.
        train: all training samples.
        run: whose summary gets `initial_weight` and what it came to, `initial_quality`, dB.
        device: where to compute.
        ranks: that share the work; all get the same.
        progress: whether to tell.
    """
    model = settings.model
    if model.initial not in WEIGHTED_IMAGES or model.initial_weight is not None:
        return settings
    weight = run.read_summary().get("initial_weight")
    ranks.wait()  # none reads what is written below
    if weight is None:
        chosen = choose_initial_weight(settings, train, run, device=device, ranks=ranks)
        weight = chosen.lam
        if ranks.is_lead:
            run.update_summary(initial_weight=weight, initial_quality=chosen.psnr)
        if progress:
            tqdm.write(f"initial image: {model.initial}, weight {weight:.3g}, {chosen.psnr:.2f} dB on training samples")
    return replace(settings, model=replace(model, initial_weight=weight))


def choose_initial_weight(
    settings: RunSettings, train: PreparedSlices, run: RunFolder, *, device: torch.device, ranks: Ranks
) -> Tuning:
    """The weight with the highest mean PSNR of the initial images of a few samples, spread evenly.

    Where the loss is self-supervised no target is looked at: the initial images are made from the samples of k-space
    that blocks see, and scored by ``-10 log10 ||A_h x - y_h||^2 / ||y_h||^2`` of those held out.

    Args:
        settings: of the run, its weight left out.
        train: all training samples.
        run: the run folder; nothing is written.
        device: where to compute.
        ranks: that share the work; all get the same.
    """
    start = WEIGHTED_IMAGES[settings.model.initial]
    held_out = settings.convex.samples_held_out if settings.method == "convex" else 0.0
    mine = train.only(ranks.share(range(len(train))))
    data = BlockData("train", mine, settings, run.state, device, False, held_out, ranks, len(train))

    @torch.no_grad()
    def quality_of(position: int, weight: float) -> float:
        if held_out > 0:
            batch, others = data.load_split(position)
            image = start(batch.sense, batch.sense.adjoint(batch.kspace), weight)
            error = others.sense.forward(image) - others.kspace
            return -20 * log10(float(error.norm()) / float(others.kspace.norm()))
        batch = data.load(position)
        image = start(batch.sense, batch.sense.adjoint(batch.kspace), weight)
        return psnr(image[0], batch.target[0])

    def quality(weight: float) -> float:
        def scored(position: int) -> list[Tensor]:
            return [torch.tensor(quality_of(position, weight), device=device)]

        found = [float(score) for (score,) in data.of_spread_slices(SAMPLES, scored)]
        return sum(found) / len(found)

    return highest(quality, low=LOW, high=HIGH, points=POINTS, refinements=REFINEMENTS)


def with_any_weight(settings: RunSettings) -> RunSettings:
    """The settings with some weight where one is still to be chosen: for what does not depend on it, as memory."""
    model = settings.model
    if model.initial not in WEIGHTED_IMAGES or model.initial_weight is not None:
        return settings
    return replace(settings, model=replace(model, initial_weight=HIGH))
