"""Every denoiser is built again from its description, and descriptions of anything else are refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from convexrecon.cascade import Block, Cascade
from convexrecon.denoisers.building import build_denoiser, describe_denoiser
from convexrecon.denoisers.modl_cnn import ModlDenoiser
from convexrecon.denoisers.relu import ReluDenoiser
from convexrecon.denoisers.residual import ResidualDenoiser
from convexrecon.denoisers.resnet import ResNetDenoiser
from convexrecon.errors import InputError
from convexrecon.physics.data_consistency import NoDataConsistency, ProximalDataConsistency
from convexrecon.weights import load_cascade, save_cascade


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


DENOISERS = [
    ReluDenoiser(5, (5, 3), channels=4, bias=False, spectral=0.4, generator=seeded()),
    ResNetDenoiser(5, dimensions=3, blocks=3, periodic=True, generator=seeded()),
    ResNetDenoiser(4, 5, channels=4, padding="circular", spectral=0.9, generator=seeded()),
    ModlDenoiser(5, dimensions=1, layers=3, generator=seeded()),
    ModlDenoiser(5, spectral=0.8, generator=seeded()),
]


@pytest.mark.parametrize("denoiser", DENOISERS)
def test_a_denoiser_survives_the_file(tmp_path: Path, denoiser: ResidualDenoiser) -> None:
    path = tmp_path / "weights.safetensors"
    inputs = ("image", "zero_filled")[: denoiser.channels // 2]
    save_cascade(path, Cascade([Block(denoiser, NoDataConsistency(), inputs=inputs)]))
    (block,) = load_cascade(path)[0]
    assert type(block.denoiser) is type(denoiser)
    assert describe_denoiser(block.denoiser) == describe_denoiser(denoiser)
    image = torch.randn(2, denoiser.channels, *[9] * len(denoiser.kernel), generator=seeded(1))
    assert torch.equal(block.denoiser(image), denoiser(image))


@pytest.mark.parametrize("bias", [True, False])
def test_a_relu_denoiser_of_a_file_without_settings_is_still_read(tmp_path: Path, bias: bool) -> None:
    path = tmp_path / "weights.safetensors"
    denoiser = ReluDenoiser(4, 5, bias=bias, generator=seeded())
    save_cascade(path, Cascade([Block(denoiser, ProximalDataConsistency())]))
    with safe_open(path, framework="pt") as file:
        description = json.loads(file.metadata()["cascade"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    del description["blocks"][0]["settings"]
    save_file(tensors, path, metadata={"cascade": json.dumps(description)})
    (block,) = load_cascade(path)[0]
    image = torch.randn(1, 2, 9, 8, generator=seeded(1))
    assert torch.equal(block.denoiser(image), denoiser(image))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"kind": "unet"}, "expected a denoiser of this library, found 'unet'"),
        ({"kind": "modl"}, "expected the settings of a 'modl' denoiser"),
        ({"kind": "resnet", "settings": {"depth": 3}}, "expected the settings of a 'resnet' denoiser.*depth"),
        ({"kind": "resnet", "settings": {"width": -3}}, "width: expected at least 1"),
    ],
)
def test_foreign_descriptions_are_refused(entry: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_denoiser(entry, {})
