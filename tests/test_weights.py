"""Every kind of cascade survives the file; a damaged or foreign file is refused."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from convexrecon.cascade import Block, Cascade
from convexrecon.convex.arrangements import Gates
from convexrecon.convex.recovery import gated_network
from convexrecon.denoisers.feature_stack import FeatureStack
from convexrecon.denoisers.gated import GatedDenoiser
from convexrecon.denoisers.relu import ReluDenoiser
from convexrecon.errors import InputError
from convexrecon.physics.data_consistency import (
    GradientDataConsistency,
    NoDataConsistency,
    ProximalDataConsistency,
)
from convexrecon.physics.sense import Sense
from convexrecon.weights import load_cascade, save_cascade

rng = torch.Generator().manual_seed(0)


def random_gates(count: int, channels: int) -> Gates:
    return Gates(torch.randn(count, channels, 3, 3, generator=rng), torch.randn(count, generator=rng))


def cascades() -> list[Cascade]:
    weights = torch.randn(4, 19, 2, generator=rng) / 50
    weights[1] = 0
    gated = GatedDenoiser(random_gates(4, 2), weights, constant=True)
    plain = GatedDenoiser(random_gates(3, 2), torch.randn(3, 18, 2, generator=rng) / 50, constant=False)
    relu = ReluDenoiser(6, 5, generator=rng)
    first = gated_network(random_gates(4, 2), weights, constant=True)
    hidden = first.filters.shape[0]
    second = gated_network(random_gates(3, hidden), torch.randn(3, 9 * hidden, 2, generator=rng) / 90, constant=False)
    return [
        Cascade(),
        Cascade([Block(gated, ProximalDataConsistency(0.3)), Block(plain, GradientDataConsistency(0.7))]),
        Cascade([Block(relu, ProximalDataConsistency(0.2, iterations=7))], initial="cg_sense"),
        Cascade([Block(FeatureStack([first, second]), NoDataConsistency())]),
        Cascade([Block(relu, NoDataConsistency())], initial="l1_wavelet", initial_weight=0.07),
    ]


@pytest.mark.parametrize("index", range(5))
def test_a_cascade_survives_the_file(tmp_path: Path, index: int) -> None:
    cascade = cascades()[index]
    maps = torch.randn(1, 3, 12, 10, generator=rng, dtype=torch.complex64) / 3
    sense = Sense(maps, (torch.rand(1, 1, 12, 10, generator=rng) < 0.5).float())
    kspace = sense.forward(torch.randn(1, 12, 10, generator=rng, dtype=torch.complex64))
    save_cascade(tmp_path / "w.safetensors", cascade, {"records": [1, 2]})
    loaded, notes = load_cascade(tmp_path / "w.safetensors")
    assert notes == {"records": [1, 2]}
    with torch.no_grad():
        assert torch.equal(loaded(sense, kspace), cascade(sense, kspace))


def test_a_file_without_a_weight_of_the_initial_image_is_read(tmp_path: Path) -> None:
    save_cascade(tmp_path / "w.safetensors", Cascade(initial="cg_sense"))
    with safe_open(tmp_path / "w.safetensors", framework="pt") as file:
        assert "initial_weight" not in file.metadata()["cascade"]
    assert load_cascade(tmp_path / "w.safetensors")[0].initial_weight is None


def test_damaged_foreign_and_missing_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    with pytest.raises(InputError, match="expected the weights of a trained cascade"):
        load_cascade(path)
    save_cascade(path, cascades()[1])
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"w\.safetensors"):
        load_cascade(path)
    save_file({"x": torch.zeros(2)}, path)
    with pytest.raises(InputError, match="expected format"):
        load_cascade(path)
