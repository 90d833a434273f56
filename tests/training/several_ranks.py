"""Runs of training on several ranks: spawned, or started by torchrun with one that fails; and what they came to."""

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch.multiprocessing.spawn import start_processes

from convexrecon.errors import InputError
from convexrecon.training import layerwise, loop
from convexrecon.training.config import RunSettings, dump_settings
from convexrecon.training.run_folder import RunFolder
from convexrecon.training.train import train
from convexrecon.weights import load_cascade

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
Case = tuple[RunSettings, Path, Path]


def train_on_ranks(count: int, cases: Sequence[Case]) -> None:
    """`train` on settings, data and run folder of each case in turn, on `count` spawned ranks."""
    # Forked from a process that has loaded everything once, and has done nothing else.
    multiprocessing.set_forkserver_preload(["convexrecon.training.train", "torch._dynamo"])
    arguments = (count, [_free_port() for _ in cases], cases)
    start_processes(_rank, args=arguments, nprocs=count, start_method="forkserver")


def _rank(rank: int, count: int, ports: Sequence[int], cases: Sequence[Case]) -> None:
    torch.set_num_threads(1)
    for port, (settings, data, out) in zip(ports, cases, strict=True):
        names = {"RANK": rank, "WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ |= {name: str(value) for name, value in names.items()}
        train(settings, data, out, progress=False)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def torchrun(
    count: int, case: Case, *, fails: str = "not", rank: int = 0, at: int = 0
) -> subprocess.CompletedProcess[str]:
    """The command line's `train` on `count` ranks, of which `rank` fails at its step number `at`.

    Args:
        count: of ranks.
        case: settings, data, run folder.
        fails: "killed", "refuses" (bad input), "interrupted" (Ctrl-C, to torchrun), or "not".
        rank: the one that does.
        at: its step, from 1; of a convex run, the block.
    """
    settings, data, out = case
    config = out.with_suffix(".toml")
    config.write_text(dump_settings(settings))
    words = [*TORCHRUN, "--nproc-per-node", str(count), __file__, fails, str(rank), str(at)]
    words += ["train", str(data), "--out", str(out), "--config", str(config), "--device", "cpu", "--quiet"]
    return subprocess.run(
        words, capture_output=True, text=True, timeout=120, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )


def said(child: subprocess.CompletedProcess[str]) -> list[str]:
    """The lines on standard error that are neither torchrun's log nor its report."""
    lines = child.stderr.splitlines()
    report = [number for number, line in enumerate(lines) if line.startswith(("Traceback", "WARNING"))]
    own = lines[: report[0]] if report else lines
    return [line for line in own if line.strip() and "torch/distributed" not in line]


def difference(first: Path, second: Path) -> float:
    """Largest relative difference of weights and of losses between two finished runs."""
    states = [load_cascade(folder / "weights.safetensors")[0].state_dict() for folder in (first, second)]
    losses = [[row["loss"] for row in RunFolder(folder).read_metrics()] for folder in (first, second)]
    pairs = [(state, states[1][name]) for name, state in states[0].items()]
    pairs.append((torch.tensor(losses[0]), torch.tensor(losses[1])))
    return max(float((a - b).norm() / b.norm().clamp_min(1e-12)) for a, b in pairs)


def _failing_program() -> None:
    """What torchrun starts: the command line, with a step that fails."""
    from convexrecon.cli import main

    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a process started in the background
    fails, rank, at = sys.argv[1], sys.argv[2], int(sys.argv[3])
    del sys.argv[1:4]
    calls = 0

    def failing(original: Callable[..., object], *args: object) -> object:
        nonlocal calls
        calls += 1
        if calls == at and os.environ["RANK"] == rank:
            if fails == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            elif fails == "refuses":
                raise InputError("slice 3: cannot be read")
            elif fails == "interrupted":
                os.kill(os.getppid(), signal.SIGINT)
                time.sleep(60)
        return original(*args)

    for module, step in ((loop, "learning_rate"), (layerwise, "solve_block")):
        setattr(module, step, partial(failing, getattr(module, step)))
    main()


if __name__ == "__main__":
    _failing_program()
