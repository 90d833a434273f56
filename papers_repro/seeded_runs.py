"""One training run of a script for every seed, scored."""

from collections.abc import Callable

import benchmark_scripts as benchmark_scripts
from command_line import Given
from scans import DataSets
from scored_runs import Row, scored_run

from convexrecon.training.config import RunSettings


def seeded_runs(given: Given, data: DataSets, name: str, settings: Callable[[int], RunSettings]) -> list[Row]:
    """A row a seed, of the runs in `OUT/runs/NAME/seed_0` and so on; what is trained is not trained again.

    Args:
        given: what was asked for.
        data: to train, validate and test on.
        name: of the runs.
        settings: of the run with a seed.

    Raises:
        InputError: as `scored_run`.
    """
    return [
        scored_run(settings(seed), data.train.parent, given.out / "runs" / name / f"seed_{seed}", device=given.device)
        for seed in range(given.seeds)
    ]
