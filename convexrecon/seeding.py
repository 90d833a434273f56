"""Random generators derived by name from one seed, so that order and parallelism change nothing."""

import hashlib

import torch


def derive_seed(seed: int, *names: str | int) -> int:
    """Return a 63-bit seed that depends on `seed` and every name, and on nothing else.

    The names say what the randomness is for, e.g. ``derive_seed(0, "gates", block)``.

    >>> derive_seed(0, "mask", "file_001") == derive_seed(0, "mask", "file_001")
    True
    >>> derive_seed(0, "mask", "file_001") == derive_seed(0, "mask", "file_002")
    False
    """
    text = "/".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def generator(seed: int, *names: str | int) -> torch.Generator:
    """Return a CPU `torch.Generator` seeded by `derive_seed(seed, *names)`.

    Draws are made on the CPU and moved, so that every device sees the same numbers.
    """
    return torch.Generator().manual_seed(derive_seed(seed, *names))
