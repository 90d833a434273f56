"""MRI reconstruction networks trained one convex problem at a time, each to a certified optimum.

The pieces a program or notebook needs first are here; the rest is in the subpackages.
"""

from convexrecon.cascade import Block, Cascade
from convexrecon.convex.program import ProgramSettings, certify_program, program_path, solve_program
from convexrecon.data.dataset import PreparedSlices
from convexrecon.data.preparation import PreparationSettings, prepare
from convexrecon.data.simulation import simulate_dataset
from convexrecon.errors import InputError
from convexrecon.physics.masks import MaskSettings
from convexrecon.physics.sense import Sense
from convexrecon.reconstruct import reconstruct_file
from convexrecon.training.config import RunSettings, load_settings
from convexrecon.training.convex_settings import ConvexSettings
from convexrecon.training.descent_settings import DescentSettings
from convexrecon.training.model_settings import ModelSettings
from convexrecon.training.run_folder import RunFolder
from convexrecon.training.train import certify_run, train
from convexrecon.weights import load_cascade, save_cascade

__version__ = "0.1.0"

__all__ = [
    "Block",
    "Cascade",
    "ConvexSettings",
    "DescentSettings",
    "InputError",
    "MaskSettings",
    "ModelSettings",
    "PreparationSettings",
    "PreparedSlices",
    "ProgramSettings",
    "RunFolder",
    "RunSettings",
    "Sense",
    "certify_program",
    "certify_run",
    "load_cascade",
    "load_settings",
    "prepare",
    "program_path",
    "reconstruct_file",
    "save_cascade",
    "simulate_dataset",
    "solve_program",
    "train",
]
