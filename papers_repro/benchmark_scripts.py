"""Puts `benchmarks/` on the import path: what both measure is measured by the same code.

Import this before a module of `benchmarks/`; scripts are run by their path, so that only their own folder is there.
"""

import sys
from pathlib import Path

FOLDER = str(Path(__file__).resolve().parent.parent / "benchmarks")
if FOLDER not in sys.path:
    sys.path.append(FOLDER)
