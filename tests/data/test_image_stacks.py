"""Image stacks of every accepted layout, against the arrays they were written from."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from convexrecon.data.image_stacks import load_image_stack
from convexrecon.errors import InputError

DRAWS = np.random.default_rng(5)
COMPLEX = (DRAWS.standard_normal((4, 9, 11)) + 1j * DRAWS.standard_normal((4, 9, 11))).astype(np.complex64)
MAGNITUDE = np.abs(COMPLEX)
COUNTS = DRAWS.integers(0, 255, (4, 9, 11), dtype=np.uint8)


def save(folder: Path, suffix: str, **arrays: NDArray[Any]) -> Path:
    path = folder / f"stack{suffix}"
    if suffix == ".npy":
        (array,) = arrays.values()
        np.save(path, array)
    elif suffix == ".npz":
        np.savez_compressed(path, **arrays)  # type: ignore[arg-type]
    else:
        with h5py.File(path, "w") as file:
            for name, array in arrays.items():
                file[name] = array
    return path


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".h5", ".hdf5"])
@pytest.mark.parametrize(
    ("stored", "images", "is_complex"),
    [
        (COMPLEX, COMPLEX, True),
        (COMPLEX.astype(np.complex128), COMPLEX, True),
        (COMPLEX[1], COMPLEX[1:2], True),
        (MAGNITUDE, MAGNITUDE, False),
        (MAGNITUDE[0].astype(np.float64), MAGNITUDE[:1], False),
        (COUNTS, COUNTS, False),
        (COUNTS.astype(np.int16), COUNTS, False),
        (np.stack([COMPLEX.real, COMPLEX.imag], axis=1), COMPLEX, True),
        (COUNTS.reshape(2, 2, 9, 11), COUNTS, False),
        (MAGNITUDE.reshape(4, 1, 9, 11), MAGNITUDE, False),
        (np.asfortranarray(COUNTS.reshape(2, 1, 2, 9, 11)[:, :, ::-1]), COUNTS[[1, 0, 3, 2]], False),
    ],
)
def test_layouts(tmp_path: Path, suffix: str, stored: NDArray[Any], images: NDArray[Any], is_complex: bool) -> None:
    stack = load_image_stack(save(tmp_path, suffix, image=stored))
    assert stack.shape == images.shape
    assert len(stack) == len(images)
    assert stack.is_complex == is_complex
    read = list(stack)
    assert all(image.dtype == np.complex64 for image in read)
    np.testing.assert_allclose(np.stack(read), images, rtol=1e-6)


def test_pairs_of_signed_magnitudes_are_real_and_imaginary_parts(tmp_path: Path) -> None:
    parts = (100 * np.stack([COMPLEX.real, COMPLEX.imag], axis=1)).astype(np.int16)
    stack = load_image_stack(save(tmp_path, ".h5", ri=parts, subject=np.arange(4)))
    assert stack.key == "ri"
    np.testing.assert_array_equal(stack[2], parts[2, 0] + 1j * parts[2, 1])


def test_compound_values_of_two_numbers_are_complex(tmp_path: Path) -> None:
    pairs = np.zeros((4, 9, 11), dtype=[("real", np.float32), ("imag", np.float32)])
    pairs["real"], pairs["imag"] = COMPLEX.real, COMPLEX.imag
    for suffix in (".h5", ".npy"):
        stack = load_image_stack(save(tmp_path, suffix, data=pairs))
        assert stack.is_complex
        np.testing.assert_array_equal(stack[3], COMPLEX[3])


@pytest.mark.parametrize("suffix", [".npz", ".h5"])
def test_the_array_is_chosen_by_shape_then_name_then_key(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path, suffix, whatever=MAGNITUDE, meta=np.arange(5), coord=np.ones((60, 2)))
    assert load_image_stack(path).key == "whatever"
    path = save(tmp_path, suffix, weights=MAGNITUDE, vol=COUNTS, kspace=COMPLEX)
    assert load_image_stack(path).key == "vol"
    assert load_image_stack(path, "weights").shape == MAGNITUDE.shape
    for arrays in (
        {"a": MAGNITUDE, "b": COUNTS},
        {"image": MAGNITUDE, "vol": COUNTS},
        {"kspace": COMPLEX},
        {"x": np.arange(9)},
    ):
        path = save(tmp_path, suffix, **arrays)
        with pytest.raises(InputError) as caught:
            load_image_stack(path)
        assert all(name in str(caught.value) for name in (*arrays, str(path)))
    with pytest.raises(InputError, match="no array 'y', found"):
        load_image_stack(path, "y")


def test_arrays_in_groups_are_found(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["scan/one/image"] = COUNTS
        file["scan/one/weights"] = MAGNITUDE
    stack = load_image_stack(tmp_path / "a.h5")
    assert stack.key == "scan/one/image"
    np.testing.assert_array_equal(stack[1], COUNTS[1])


def test_npy_is_read_lazily(tmp_path: Path) -> None:
    """A sparse file of 64 GB: only a reader that maps it can open it here."""
    shape = (1 << 16, 512, 512)
    path = tmp_path / "big.npy"
    np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)[7, 3, 5] = 2.0
    stack = load_image_stack(path)
    assert stack.shape == shape
    assert stack[7][3, 5] == 2
    assert np.abs(stack[7]).sum() == 2


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".h5"])
def test_damaged_files_are_refused(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path, suffix, image=MAGNITUDE)
    content = path.read_bytes()
    for kept in (0, 40, len(content) // 2):
        path.write_bytes(content[:kept])
        with pytest.raises(InputError, match="cannot be read") as caught:
            load_image_stack(path)
        assert str(path) in str(caught.value)


def test_foreign_missing_and_pickled_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        load_image_stack(tmp_path / "none.npy")
    (tmp_path / "a.nii").write_bytes(b"abc")
    with pytest.raises(InputError, match=r"'\.nii'; expected"):
        load_image_stack(tmp_path / "a.nii")
    np.save(tmp_path / "b.npy", np.array([[{}] * 9] * 9, dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match=r"b\.npy"):
        load_image_stack(tmp_path / "b.npy")


@pytest.mark.parametrize("array", [np.ones(40), np.ones((9, 3)), np.ones((0, 9, 9)), np.full((9, 9), "a")])
def test_arrays_that_are_no_images_are_refused(tmp_path: Path, array: NDArray[Any]) -> None:
    with pytest.raises(InputError, match="expected complex or magnitude"):
        load_image_stack(save(tmp_path, ".npy", image=array))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_inf_are_refused_when_read(tmp_path: Path, bad: float) -> None:
    images = MAGNITUDE.copy()
    images[2, 4, 4] = bad
    stack = load_image_stack(save(tmp_path, ".h5", image=images))
    np.testing.assert_array_equal(stack[1], images[1])
    with pytest.raises(InputError, match=r"stack\.h5: image: NaN or Inf in image 2"):
        stack[2]


@pytest.mark.parametrize("index", [-1, 4])
def test_index_out_of_range(tmp_path: Path, index: int) -> None:
    with pytest.raises(IndexError, match="expected 0 to 3"):
        load_image_stack(save(tmp_path, ".npy", image=MAGNITUDE))[index]
