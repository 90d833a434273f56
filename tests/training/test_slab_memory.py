"""Training on slabs of a volume holds as much for any number of slabs."""

from pathlib import Path

import h5py
import torch

from convexrecon.data.kspace_simulation import simulate_slice
from convexrecon.data.prepared_files import PREPARED_FORMAT
from convexrecon.physics.fourier import centred_fft
from convexrecon.physics.masks import MaskSettings
from convexrecon.training.config import RunSettings
from convexrecon.training.convex_settings import ConvexSettings
from convexrecon.training.live_memory import LiveMemory
from convexrecon.training.model_settings import ModelSettings
from convexrecon.training.train import train

SLAB, SIZE, COILS = 3, (32, 32), 2
SETTINGS = RunSettings(
    mask=MaskSettings("equispaced", 2.0),
    model=ModelSettings(blocks=1, kernel=(3, 3, 3), units=2, cg_iterations=3),
    convex=ConvexSettings(pixel_fraction=0.2, lam=0.1),
    slab=SLAB,
    validation_fraction=0,
)
# Of one slab.
IMAGE_MB = 8e-6 * SLAB * SIZE[0] * SIZE[1]


def write_volume(folder: Path, slabs: int) -> Path:
    """Slices of one head, again and again."""
    folder.mkdir()
    slices = [simulate_slice(SIZE, coils=COILS, seed=0, position=0.4 + 0.02 * z) for z in range(SLAB)]
    image, maps = (torch.stack([getattr(one, name) for one in slices] * slabs) for name in ("image", "maps"))
    with h5py.File(folder / "head.h5", "w") as file:
        file["kspace"] = centred_fft(maps * image[:, None], 2).numpy()
        file["maps"], file["target"] = maps.numpy(), image.numpy()
        file.attrs.update({"format": PREPARED_FORMAT, "layout": "volume", "recon_size": SIZE})
    return folder


def held_mb(data: Path, out: Path) -> float:
    """The most that tensors take at a time while a run is trained, in units of 1e6 bytes."""
    with LiveMemory(torch.device("cpu")) as tensors:
        train(SETTINGS, data, out, progress=False)
    return tensors.peak_mb


def test_twenty_four_slabs_take_as_much_as_four(tmp_path: Path) -> None:
    few, many = (write_volume(tmp_path / f"slabs_{count}", count) for count in (4, 24))
    growth = held_mb(many, tmp_path / "many") - held_mb(few, tmp_path / "few")
    # One image kept of each of the 20 more would be twice that; what is sorted of the pixels collected, until their
    # buffer is full, is a fifth of it.
    assert growth < 10 * IMAGE_MB
