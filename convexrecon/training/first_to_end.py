"""Which process of a run ends first, so that it alone tells the user why."""

import os
from datetime import timedelta

import torch.distributed as dist

# Longest wait for the run's store: it answers at once, or the process that held it is gone.
PATIENCE = timedelta(seconds=5)


def first_to_end(part: str = "program") -> str:
    """Say that this process ends; returns the name of the first of the run that said so, `<rank>/<part>`.

    The name is this one's own if nobody was before, if the process is alone, or if nobody can be asked. A rank
    that fails says so before it closes its connections: what the others notice then comes second, and is no news.

    Args:
        part: of the process, if it has several that may end it.

    >>> first_to_end()
    '0/program'
    """
    rank, count = os.environ.get("RANK", "0"), int(os.environ.get("WORLD_SIZE", "1"))
    name = f"{rank}/{part}"
    if count == 1:
        return name
    # A run that torchrun starts again after a failure asks anew.
    key = f"convexrecon/first_to_end/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    try:
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = dist.TCPStore(address, port, is_master=False, timeout=PATIENCE, wait_for_workers=False)  # type: ignore[attr-defined]
        return bytes(store.compare_set(key, "", name)).decode()
    except (KeyError, ValueError, RuntimeError):
        return name
