"""From a prepared folder and settings to a trained run folder, whatever the method."""

from pathlib import Path

import torch

from convexrecon.cascade import Cascade
from convexrecon.data.dataset import PreparedSlices, split_volumes
from convexrecon.data.prepared_shots import field_of_view
from convexrecon.errors import InputError
from convexrecon.training.block_data import BlockData
from convexrecon.training.block_program import certify_block
from convexrecon.training.config import RunSettings, kernel_of
from convexrecon.training.image_store import slice_keys
from convexrecon.training.layerwise import train_layerwise
from convexrecon.training.ranks import joined_ranks
from convexrecon.training.run_folder import RunFolder, open_run
from convexrecon.training.train_descent import train_descent
from convexrecon.weights import load_cascade


def train(
    settings: RunSettings,
    data: Path | str,
    out: Path | str,
    *,
    validation: Path | str | None = None,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> Cascade:
    """Train, or continue, a run; on all the processes that torchrun started, if it did.

    Args:
        settings: method, network, masks, seed.
        data: folder of prepared volumes.
        out: the run folder; made, or continued when it holds a run of the same settings and data.
        validation: folder of prepared volumes to validate on; None holds out
            `settings.validation_fraction` of the volumes of `data` (none of them when it is 0).
        device: where to compute.
        progress: whether to show bars and lines.

    Raises:
        InputError: no data, a run folder from other settings or data, or training that cannot go on.
        RankLostError: one of several processes is gone.
    """
    train_slices, held_out = training_sets(settings, Path(data), None if validation is None else Path(validation))
    used = {"train": slice_keys(train_slices), "validation": slice_keys(held_out) if held_out is not None else []}
    trainer = train_layerwise if settings.method == "convex" else train_descent
    with joined_ranks(torch.device(device)) as (ranks, here):
        run = RunFolder(Path(out))
        if ranks.is_lead:
            run = open_run(Path(out), settings)
            run.bind_data(used)
            run.update_summary(data_folder=str(Path(data).resolve()), ranks=ranks.count)
            if train_slices.off_grid:
                run.update_summary(field_of_view=field_of_view({key.path for key in train_slices.slices}))
        ranks.wait()
        return trainer(settings, train_slices, held_out, run, device=here, ranks=ranks, progress=progress)


def training_sets(
    settings: RunSettings, data: Path, validation: Path | None
) -> tuple[PreparedSlices, PreparedSlices | None]:
    """The training and validation slices of a run: two folders, or one split by volume.

    Raises:
        InputError: a folder that holds no prepared volumes, or a single volume to be split.
    """
    slices = PreparedSlices(data, settings.mask, seed=settings.seed, slab=settings.slab)
    _check_kernel(settings, slices)
    if validation is not None:
        others = PreparedSlices(validation, settings.mask, seed=settings.seed, slab=settings.slab)
        if others.layout != slices.layout:
            raise InputError(f"{validation}: expected layout {slices.layout!r} as {data}, found {others.layout!r}")
        return slices, others
    if settings.validation_fraction == 0:
        return slices, None
    names = slices.volume_names
    if len(names) < 2:
        raise InputError(
            f"{data}: holds one volume, which cannot be split; expected at least two, a --validation folder, "
            "or validation_fraction = 0"
        )
    kept, held_out = split_volumes(names, settings.validation_fraction, settings.seed)
    return slices.subset(kept), slices.subset(held_out)


def _check_kernel(settings: RunSettings, slices: PreparedSlices) -> None:
    """Refuse a kernel that is larger than the samples along an axis, and one for another number of axes."""
    kernel = kernel_of(settings, slices.dimensions)
    if settings.model.periodic and slices.dimensions < 3:
        raise InputError(f"model.periodic: expected images of three axes, (t, y, x), found {slices.layout!r}")
    if settings.model.initial in ("time_average", "kt_focuss") and slices.layout != "cine":
        raise InputError(
            f"model.initial: {settings.model.initial!r} expects data of layout 'cine', found {slices.layout!r}"
        )
    for key in slices.slices:
        if slices.dimensions > 2 and any(size > have for size, have in zip(kernel, key.shape[1:], strict=True)):
            what = "slab" if key.is_slab else slices.layout
            raise InputError(
                f"model.kernel: {kernel} is larger than the {what} of {key.path.name}, {key.shape[1:]}; "
                "expected at most its size along every axis"
            )


def certify_run(
    run: RunFolder, data: Path | str, *, device: torch.device | str = "cpu", progress: bool = True
) -> list[dict[str, float | int]]:
    """Re-measure the gap of every block of a convex run from its training data, in float64.

    Args:
        run: the run folder.
        data: folder of prepared volumes that holds the run's training volumes.
        device: where to compute.
        progress: whether to show bars.

    Returns:
        For each block its number, objective, bound and relative gap as measured, and as recorded, and the tolerance
        that was asked for.

    Raises:
        InputError: not a convex run, or `data` lacks volumes that the run was trained on.
    """
    settings = run.settings()
    cascade, notes = load_cascade(run.weights)
    records = notes.get("records")
    if records is None:
        raise InputError(f"{run.path}: trained by {settings.method}; only convex runs have certificates")
    slices = _trained_on(run, Path(data), settings)
    target = torch.device(device)
    held_out = settings.convex.samples_held_out
    part = BlockData("certify", slices, settings, run.path / "certify", target, progress, held_out)
    cascade.to(target)
    rows: list[dict[str, float | int]] = []
    try:
        for index, record in enumerate(records):
            certificate = certify_block(part, cascade, index, record["beta"])
            rows.append(
                {
                    "block": index + 1,
                    "objective": certificate.objective,
                    "bound": certificate.bound,
                    "relative_gap": certificate.relative_gap,
                    "tolerance": settings.convex.program.tolerance,
                    "recorded_objective": record["objective"],
                    "recorded_relative_gap": record["relative_gap"],
                }
            )
            if index > 0:
                part.drop_images(index - 1)
    finally:
        for store in part.state.glob("*"):
            store.unlink()
        if part.state.exists():
            part.state.rmdir()
    return rows


def _trained_on(run: RunFolder, data: Path, settings: RunSettings) -> PreparedSlices:
    """Exactly the slices the run was trained on, in their order."""
    wanted: list[str] = run.read_summary()["data"]["train"]
    slices = PreparedSlices(data, settings.mask, seed=settings.seed, slab=settings.slab)
    volumes = sorted({key.rpartition("/")[0] for key in wanted})
    missing = sorted(set(volumes) - set(slices.volume_names))
    if missing:
        raise InputError(
            f"{data}: lacks the volume {missing[0]!r} that {run.path} was trained on "
            f"({len(missing)} of {len(volumes)} missing); expected the run's training data"
        )
    chosen = slices.subset(volumes)
    if slice_keys(chosen) != wanted:
        raise InputError(f"{data}: the volumes of {run.path} have other slices than when it was trained")
    return chosen
