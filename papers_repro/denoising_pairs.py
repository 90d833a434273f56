"""Pairs of noisy and clean images of one real channel: digits with noise, zero-filled scans and their targets."""

import gzip
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scans import DataSets
from torch import Tensor

from convexrecon.data.dataset import PreparedSlices
from convexrecon.errors import InputError
from convexrecon.physics.fourier import crop_centre
from convexrecon.physics.masks import MaskSettings
from convexrecon.seeding import generator

# MNIST's own file names, with or without .gz.
IDX_FILES = ("train-images-idx3-ubyte", "t10k-images-idx3-ubyte")
_IDX_IMAGES = 2051


@dataclass(frozen=True)
class Pairs:
    """Training and test images, (N, 1, y, x) float32, noisy and clean; and in words what they are."""

    noisy: Tensor
    clean: Tensor
    noisy_test: Tensor
    clean_test: Tensor
    words: str


def digit_pairs(folder: Path | None, sigma: float, train: int, test: int) -> Pairs:
    """Digits standardized by mean and deviation of the training images, with Gaussian noise.

    Args:
        folder: of MNIST's idx files; None for the 8 x 8 digits bundled with scikit-learn.
        sigma: standard deviation of the noise, that of the standardized images being 1.
        train, test: images at most.

    Raises:
        InputError: a missing or damaged file, or scikit-learn is missing.
    """
    images, others = (_bundled(train) if folder is None else _idx(folder))[:2]
    clean, clean_test = images[:train], others[:test]
    mean, deviation = clean.mean(), clean.std()
    clean, clean_test = (clean - mean) / deviation, (clean_test - mean) / deviation
    noise = generator(0, "digits", f"{sigma:g}")
    noisy, noisy_test = (part + sigma * torch.randn(part.shape, generator=noise) for part in (clean, clean_test))
    kind = "digits bundled with scikit-learn" if folder is None else "MNIST"
    size = f"{clean.shape[2]} x {clean.shape[3]}"
    return Pairs(
        noisy, clean, noisy_test, clean_test, f"{kind}, {size}, {len(clean)} to train on, {len(clean_test)} to test"
    )


def scan_pairs(data: DataSets, acceleration: float, calibration: int, size: int, seed: int = 0) -> Pairs:
    """Zero-filled SENSE images and targets, cropped; real and imaginary parts are images of their own."""
    mask = MaskSettings(kind="poisson", acceleration=acceleration, calibration=calibration)
    noisy, clean = _parts(PreparedSlices(data.train, mask, seed=seed), size)
    noisy_test, clean_test = _parts(PreparedSlices(data.test, mask, seed=seed), size)
    return Pairs(noisy, clean, noisy_test, clean_test, data.words)


def _parts(slices: PreparedSlices, size: int) -> tuple[Tensor, Tensor]:
    noisy: list[Tensor] = []
    clean: list[Tensor] = []
    for index in range(len(slices)):
        batch = slices.load(index)
        for image, into in ((batch.sense.adjoint(batch.kspace)[0], noisy), (batch.target[0], clean)):
            shape = (min(size, image.shape[0]), min(size, image.shape[1]))
            cropped = crop_centre(image, shape)
            into += [cropped.real, cropped.imag]
    return torch.stack(noisy)[:, None].contiguous(), torch.stack(clean)[:, None].contiguous()


def _bundled(train: int) -> tuple[Tensor, Tensor]:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise InputError(
            "digits: those bundled with scikit-learn are the default; expected `pip install convexrecon[repro]`, or "
            "--digits with a folder of MNIST's idx files"
        ) from None
    images = torch.from_numpy(np.asarray(load_digits().images, dtype=np.float32))[:, None]
    order = torch.randperm(len(images), generator=generator(0, "digits", "order"))
    return images[order[:train]], images[order[train:]]


def _idx(folder: Path) -> tuple[Tensor, Tensor]:
    return read_idx(_named(folder, IDX_FILES[0])), read_idx(_named(folder, IDX_FILES[1]))


def _named(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise InputError(f"--digits {folder}: expected {name} or {name}.gz in it, found neither")


def read_idx(path: Path) -> Tensor:
    """Images of an idx3 file, as MNIST's: (N, 1, y, x) float32.

    Raises:
        InputError: not an idx file of images of bytes, or a truncated one.
    """
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
    header = [int.from_bytes(data[start : start + 4], "big") for start in range(0, 16, 4)]
    if len(data) < 16 or header[0] != _IDX_IMAGES:
        raise InputError(f"{path}: expected an idx3 file of images of bytes (number 2051), found {header[0]}")
    count, height, width = header[1:]
    if len(data) != 16 + count * height * width:
        raise InputError(f"{path}: {len(data)} bytes; expected {16 + count * height * width} for {count} images")
    images = np.frombuffer(data, np.uint8, offset=16).reshape(count, 1, height, width)
    return torch.from_numpy(images.astype(np.float32))
