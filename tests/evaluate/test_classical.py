"""Which classical methods runs are compared with, and what tuning them finds on a series that hardly moves."""

from pathlib import Path

import h5py
import torch

from convexrecon.data.dataset import PreparedSlices
from convexrecon.data.kspace_simulation import simulate_slice
from convexrecon.data.prepared_files import PREPARED_FORMAT
from convexrecon.evaluate.classical import classical_methods, tune_methods
from convexrecon.physics.fourier import centred_fft
from convexrecon.physics.masks import MaskSettings

SIZE, FRAMES = (32, 32), 5


def test_low_rank_methods_are_for_series() -> None:
    names = {layout: [m.name for m in classical_methods(layout)] for layout in ("slices", "volume", "cine")}
    assert names["slices"] == names["volume"] == ["CG-SENSE", "L1-wavelet"]
    assert names["cine"] == [*names["slices"], "locally low rank", "L+S"]


def test_each_is_tuned_and_those_that_know_of_time_win(tmp_path: Path) -> None:
    scan = simulate_slice(SIZE, coils=3)
    image = torch.stack([scan.image * (1 + 0.05 * torch.sin(torch.tensor(float(t)))) for t in range(FRAMES)])
    with h5py.File(tmp_path / "series.h5", "w") as file:
        file["kspace"] = centred_fft(scan.maps * image[:, None], 2).numpy()
        file["maps"], file["target"] = scan.maps.numpy(), image.numpy()
        file.attrs.update({"format": PREPARED_FORMAT, "layout": "cine", "recon_size": SIZE})
    slices = PreparedSlices(tmp_path, MaskSettings("variable", 3.2, center_fraction=0.12))
    tuned = tune_methods(classical_methods("cine"), slices, progress=False)
    assert all(0 < tuning.lam < 1 and len(tuning.curve) >= 5 for tuning in tuned.values())
    scores = {name: tuning.psnr for name, tuning in tuned.items()}
    assert min(scores["locally low rank"], scores["L+S"], scores["L1-wavelet"]) > scores["CG-SENSE"] + 2
