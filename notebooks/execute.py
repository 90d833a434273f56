"""Run the notebooks: `python notebooks/execute.py [--small] [--keep] [NAME ...]`, a line each.

Every notebook is run from top to bottom in an empty folder, so that what it writes lands there. `--small` runs it at
the size that checks it (the environment variable `CONVEXRECON_SMALL`), `--keep` puts its outputs into the file.
"""

import argparse
import os
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

FOLDER = Path(__file__).resolve().parent
LIMIT_SECONDS = 900


def execute(path: Path, *, small: bool) -> Any:
    """The notebook with the outputs of a run.

    Args:
        path: of the notebook.
        small: whether at the size that checks it.

    Raises:
        CellExecutionError: a cell failed.
    """
    notebook = nbformat.read(path, as_version=4)
    environment = {**os.environ, "CONVEXRECON_SMALL": "1" if small else ""}
    if small:
        # So little is done in every step that threads would wait for each other.
        environment.setdefault("OMP_NUM_THREADS", "1")
    # A library that is not installed but lies beside the notebooks is found from the empty folder, too.
    environment["PYTHONPATH"] = os.pathsep.join([str(FOLDER.parent), os.environ.get("PYTHONPATH", "")])
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(notebook, timeout=LIMIT_SECONDS, resources={"metadata": {"path": folder}})
        client.execute(env=environment)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times of the run, which differ from run to run
        cell.outputs = _without_colours(cell.outputs) if cell.cell_type == "code" else None
        if cell.outputs is None:
            del cell["outputs"]
    notebook.metadata.language_info = {"name": "python"}
    return notebook


def _without_colours(outputs: list[Any]) -> list[Any]:
    """Outputs without what was drawn over: progress that ended, colours of terminals."""
    for output in outputs:
        if output.output_type == "stream":
            output.text = re.sub(r"\x1b\[[0-9;]*m", "", output.text)
    return [output for output in outputs if output.get("name") != "stderr"]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="beginnings of names, such as 01; all if left out")
    parser.add_argument("--small", action="store_true", help="at the size that checks them")
    parser.add_argument("--keep", action="store_true", help="put the outputs into the files")
    given = parser.parse_args(arguments)
    if given.small and given.keep:
        parser.error("--keep is for outputs of full size; expected it without --small")
    paths = [path for path in sorted(FOLDER.glob("*.ipynb")) if path.name.startswith(tuple(given.names) or "")]
    if not paths:
        parser.error(f"no notebook in {FOLDER} has a name that begins with {' or '.join(given.names) or 'anything'}")
    failed = 0
    for path in paths:
        started = time.perf_counter()
        try:
            notebook = execute(path, small=given.small)
        except CellExecutionError as error:
            print(f"{path.name}: failed\n{error}", file=sys.stderr, flush=True)
            failed += 1
            continue
        if given.keep:
            nbformat.write(notebook, path)
        print(f"{path.name}: {time.perf_counter() - started:.0f} s", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
