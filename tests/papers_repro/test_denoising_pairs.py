"""MNIST's idx files: read with and without compression, refused when damaged; pairs standardized."""

import gzip
from pathlib import Path

import pytest
import torch
from denoising_pairs import IDX_FILES, digit_pairs, read_idx

from convexrecon.errors import InputError


def idx(images: torch.Tensor) -> bytes:
    """(N, y, x) of bytes as an idx3 file."""
    header = b"".join(int(number).to_bytes(4, "big") for number in (2051, *images.shape))
    return header + images.numpy().tobytes()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Training images, and compressed test images."""
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (30, 6, 5), generator=rng, dtype=torch.uint8)
    (tmp_path / IDX_FILES[0]).write_bytes(idx(images))
    (tmp_path / f"{IDX_FILES[1]}.gz").write_bytes(gzip.compress(idx(images[:10])))
    return tmp_path


def test_idx_files_become_standardized_pairs(folder: Path) -> None:
    pairs = digit_pairs(folder, 0.5, 20, 8)
    assert pairs.clean.shape == (20, 1, 6, 5)
    assert pairs.noisy_test.shape == (8, 1, 6, 5)
    torch.testing.assert_close(pairs.clean.mean(), torch.tensor(0.0), atol=1e-5, rtol=0)
    torch.testing.assert_close(pairs.clean.std(), torch.tensor(1.0))
    assert 0.4 < float((pairs.noisy - pairs.clean).std()) < 0.6
    assert torch.equal(pairs.clean_test, pairs.clean[:8])


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="found neither"):
        digit_pairs(tmp_path, 0.5, 20, 8)
    whole = idx(torch.zeros(2, 3, 3, dtype=torch.uint8))
    (tmp_path / "a").write_bytes(whole[:-1])
    with pytest.raises(InputError, match="33 bytes; expected 34 for 2 images"):
        read_idx(tmp_path / "a")
    (tmp_path / "b").write_bytes(bytes(20))
    with pytest.raises(InputError, match="number 2051"):
        read_idx(tmp_path / "b")
    (tmp_path / "c.gz").write_bytes(whole)
    with pytest.raises(InputError, match="cannot be read"):
        read_idx(tmp_path / "c.gz")
