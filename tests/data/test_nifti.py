import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from convexrecon.data.nifti import write_nifti
from convexrecon.errors import InputError


def random(*shape: int) -> Any:
    rng = np.random.default_rng(0)
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)


@pytest.mark.parametrize(
    ("axes", "shape", "stored"),
    [
        ("yx", (6, 5), (5, 6, 1)),
        ("zyx", (4, 6, 5), (5, 6, 4)),
        ("tyx", (7, 6, 5), (5, 6, 1, 7)),
        ("tzyx", (7, 4, 6, 5), (5, 6, 4, 7)),
    ],
)
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_axes_sizes_and_values(tmp_path: Path, axes: Any, shape: Any, stored: Any, ending: str) -> None:
    nibabel = pytest.importorskip("nibabel")
    image = random(*shape)
    path = tmp_path / f"a.b{ending}"
    write_nifti(path, torch.from_numpy(image), axes, voxel_mm=(3.0, 2.0, 1.5), frame_seconds=0.04)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    file = nibabel.load(path)
    assert file.shape == stored
    np.testing.assert_array_equal(np.asarray(file.dataobj).squeeze(), np.abs(image).T)
    zooms = file.header.get_zooms()
    np.testing.assert_allclose(zooms, (1.5, 2.0, 3.0, 0.04)[: len(zooms)])
    assert file.header.get_xyzt_units() == ("mm", "sec")
    assert int(file.header["sform_code"]) == int(file.header["qform_code"]) == 0
    np.testing.assert_allclose(file.header.get_sform() @ [*(n // 2 for n in stored[:3]), 1], [0, 0, 0, 1])


def test_an_affine_and_complex_values_are_kept(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    affine = np.array([[0, 0, 2.0, -7], [-1.5, 0, 0, 5], [0, 3.0, 0, 1], [0, 0, 0, 1]])
    image = random(4, 6, 5)
    write_nifti(tmp_path / "a.nii", image, "zyx", affine=affine, keep_complex=True)
    file = nibabel.load(tmp_path / "a.nii")
    np.testing.assert_allclose(file.affine, affine, atol=1e-6)
    assert int(file.header["sform_code"]) == 1
    np.testing.assert_array_equal(np.asarray(file.dataobj), image.T)


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("nibabel")
    image = random(4, 6, 5)
    cases: list[tuple[str, Any, Any, dict[str, Any], str]] = [
        ("a.img", image, "zyx", {}, r"ends in \.nii"),
        ("a.nii", image, "yx", {}, "axes 'yx'"),
        ("a.nii", image * np.nan, "zyx", {}, "NaN"),
        ("a.nii", image, "zyx", {"voxel_mm": (1.0, 0.0, 1.0)}, "three positive sizes"),
        ("a.nii", image, "zyx", {"affine": np.zeros((4, 4))}, "can be inverted"),
    ]
    for name, values, axes, more, message in cases:
        with pytest.raises(InputError, match=message):
            write_nifti(tmp_path / name, values, axes, **more)
    assert not list(tmp_path.iterdir())


def test_the_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"convexrecon\[nifti\]"):
        write_nifti(tmp_path / "a.nii", random(4, 6, 5), "zyx")
