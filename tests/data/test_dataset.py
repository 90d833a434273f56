"""Prepared slices: what a batch holds, masks by volume, batches, splits, refusals, memory."""

import tracemalloc
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor

from convexrecon.data import dataset
from convexrecon.data.dataset import PreparedSlices, batches, split_volumes, stack, undersample
from convexrecon.data.fastmri_writing import write_scan
from convexrecon.data.preparation import PREPARED_FORMAT
from convexrecon.errors import InputError
from convexrecon.physics import masks
from convexrecon.physics.fourier import centred_fft, fft
from convexrecon.physics.masks import MaskSettings

MASK = MaskSettings("poisson", 3.0, 6)


def write_prepared(
    path: Path, slices: int = 2, coils: int = 3, shape: tuple[int, int] = (24, 21), seed: int = 0
) -> Path:
    """A prepared volume of noise: k-space, maps of unit norm in a disc, target as it must be."""
    rng = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in shape), indexing="ij")
    maps = torch.randn(slices, coils, *shape, dtype=torch.complex64, generator=rng)
    maps = maps / torch.linalg.vector_norm(maps, dim=1, keepdim=True) * (y**2 + x**2 < 0.8)
    image = 50 * torch.randn(slices, *shape, dtype=torch.complex64, generator=rng)
    target = image * (maps != 0).any(1)
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, array in (("kspace", centred_fft(maps * target[:, None], 2)), ("maps", maps), ("target", target)):
            file.create_dataset(name, data=array.numpy(), chunks=(1, *array.shape[1:]))
        file.attrs.update({"format": PREPARED_FORMAT, "settings": "{}", "recon_size": [20, 18]})
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_prepared(tmp_path / "a.h5", slices=3, seed=1)
    write_prepared(tmp_path / "b.h5", slices=2, coils=4, shape=(20, 26), seed=2)
    write_prepared(tmp_path / "c.h5", slices=2, seed=3)
    (tmp_path / ".d.99.partial.h5").write_bytes(b"being written")
    return tmp_path


def test_lists_slices_of_every_shape(folder: Path) -> None:
    data = PreparedSlices(folder, MASK)
    assert [(key.volume, key.slice_index) for key in data.slices] == [
        ("a", 0), ("a", 1), ("a", 2), ("b", 0), ("b", 1), ("c", 0), ("c", 1),
    ]  # fmt: skip
    assert len(data) == 7
    assert data.slices[3].shape == (4, 20, 26)
    assert data.volume_names == ["a", "b", "c"]
    assert [key.volume for key in data.subset(["c", "a"]).slices] == ["a", "a", "a", "c", "c"]
    some = data.only([4, 1])
    assert some.slices == (data.slices[4], data.slices[1])
    assert torch.equal(some.load(1).kspace, data.load(1).kspace)
    assert len(data.only([])) == 0


@pytest.mark.parametrize("index", [1, 4])
def test_a_batch_is_the_undersampled_scan(folder: Path, index: int) -> None:
    data = PreparedSlices(folder, MASK)
    key = data.slices[index]
    batch = data.load(index)
    with h5py.File(key.path) as file:
        maps, target = (torch.from_numpy(file[name][key.slice_index]) for name in ("maps", "target"))
    rows, columns = key.shape[1:]
    assert batch.mask.shape == (1, 1, rows, columns)
    assert batch.mask.dtype == torch.float32
    assert rows * columns / float(batch.mask.sum()) == pytest.approx(3, rel=0.02)
    assert batch.mask[0, 0, 0, 0] == 1  # uncentred: DC first
    torch.testing.assert_close(torch.fft.fftshift(batch.mask[0, 0]), data.mask_of(key))
    scale = float(batch.scale)
    measured = batch.mask[0] * fft(maps * target, 2)
    torch.testing.assert_close(batch.kspace[0] * scale, measured, atol=1e-3, rtol=1e-4)
    assert bool((batch.kspace[0][:, batch.mask[0, 0] == 0] == 0).all())
    torch.testing.assert_close(batch.target[0] * scale, target, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(batch.sense.forward(batch.target), batch.kspace, atol=1e-5, rtol=1e-4)
    zero_filled = np.abs((maps.conj() * torch.fft.ifftn(measured, dim=(-2, -1), norm="ortho")).sum(0).numpy())
    assert scale == pytest.approx(np.percentile(zero_filled, 95), rel=1e-4)
    assert (batch.volume, batch.slice_index, batch.recon_size) == ((key.volume,), (key.slice_index,), (20, 18))


def test_masks_belong_to_volume_and_seed_alone(folder: Path) -> None:
    data = PreparedSlices(folder, MASK, seed=4)
    first, second, other = (data.load(index).mask for index in (0, 2, 5))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(PreparedSlices(folder, MASK, seed=4, volumes=["c"]).load(0).mask, other)
    assert not torch.equal(PreparedSlices(folder, MASK, seed=5).load(0).mask, first)
    full = PreparedSlices(folder, MaskSettings("full")).load(0)
    assert bool((full.mask == 1).all())


def test_masks_are_drawn_once_a_volume_however_many_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset._volume_mask.cache_clear()
    drawn: list[tuple[int, int]] = []

    def counted(shape: tuple[int, int], *rest: Any) -> Tensor:
        drawn.append(shape)
        return masks.sampling_mask(shape, *rest)

    monkeypatch.setattr(dataset, "sampling_mask", counted)
    for index in range(80):
        write_prepared(tmp_path / f"{index}.h5", slices=1, coils=1, seed=index)
    data = PreparedSlices(tmp_path, MASK)
    for _ in range(2):
        for batch in batches(data, 4):
            assert batch.mask.shape[0] == 4
    assert len(drawn) == 80


@pytest.mark.parametrize("batch_size", [1, 2, 4, 100])
@pytest.mark.parametrize("shuffled", [False, True])
def test_batches_hold_every_slice_once_and_one_shape(folder: Path, batch_size: int, shuffled: bool) -> None:
    data = PreparedSlices(folder, MASK)

    def order() -> list[list[tuple[str, int]]]:
        rng = torch.Generator().manual_seed(3) if shuffled else None
        result = list(batches(data, batch_size, generator=rng))
        for batch in result:
            assert len(batch.volume) == len(batch.kspace) == len(batch.mask) == len(batch.scale) <= batch_size
        return [list(zip(b.volume, b.slice_index, strict=True)) for b in result]

    first = order()
    assert first == order()
    assert sorted(chain.from_iterable(first)) == [(key.volume, key.slice_index) for key in data.slices]
    assert len(first) == -(-5 // batch_size) + -(-2 // batch_size)


def test_batches_equal_their_slices_and_follow_indices(folder: Path) -> None:
    data = PreparedSlices(folder, MASK)
    (batch,) = batches(data, 8, indices=[5, 0, 2])
    assert batch.volume == ("c", "a", "a")
    for row, index in enumerate([5, 0, 2]):
        one = data.load(index)
        for name in ("kspace", "mask", "maps", "target", "scale"):
            assert torch.equal(getattr(batch, name)[row], getattr(one, name)[0])
    assert torch.equal(stack([data.load(0)]).kspace, data.load(0).kspace)
    orders = {
        tuple(b.slice_index for b in batches(data, 2, generator=torch.Generator().manual_seed(s))) for s in range(6)
    }
    assert len(orders) > 1
    with pytest.raises(InputError, match="batch_size"):
        next(batches(data, 0))


def test_undersample_scales_a_small_object_too() -> None:
    maps = torch.zeros(1, 30, 30, dtype=torch.complex64)
    maps[:, 14:18, 14:18] = 1  # less than 5 % of the pixels: the percentile is zero
    batch = undersample(centred_fft(maps * 7, 2), maps, torch.ones(30, 30))
    assert float(batch.scale) == pytest.approx(7, rel=1e-4)
    with pytest.raises(InputError, match="slice 3: the sampled k-space is zero"):
        undersample(torch.zeros_like(maps), maps, torch.ones(30, 30), slice_index=3)
    with pytest.raises(InputError, match="samples nothing"):
        undersample(maps, maps, torch.zeros(30, 30))


def test_split_is_by_volume_and_independent_of_order() -> None:
    names = [f"v{index}" for index in range(10)]
    train, held_out = split_volumes(names, 0.25, 1)
    assert sorted(train + held_out) == sorted(names)
    assert len(held_out) == 2
    assert split_volumes(names[::-1] + names[:3], 0.25, 1) == (train, held_out)
    assert len({tuple(split_volumes(names, 0.2, seed)[1]) for seed in range(10)}) > 3
    for fraction in (0.0, 0.01, 0.99, 1.0):
        assert all(split_volumes(names[:2], fraction, 0))
    with pytest.raises(InputError, match="at least two"):
        split_volumes(["only"], 0.5, 0)


def _nan(file: h5py.File) -> None:
    file["kspace"][1, 0, 2, 3] = np.nan


def _infinite(file: h5py.File) -> None:
    file["maps"][1, 0, 2, 3] = np.inf


def _zero_maps(file: h5py.File) -> None:
    file["maps"][1] = 0


def _no_size(file: h5py.File) -> None:
    del file.attrs["recon_size"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_nan, "kspace holds NaN or Inf"),
        (_infinite, "maps holds NaN or Inf"),
        (_zero_maps, "sensitivity maps are zero everywhere"),
        (_no_size, "recon_size.*prepare the volume again"),
    ],
)
def test_damaged_slices_are_named(tmp_path: Path, damage: Callable[[h5py.File], None], message: str) -> None:
    with h5py.File(write_prepared(tmp_path / "v.h5"), "r+") as file:
        damage(file)
    with pytest.raises(InputError, match=f"v.h5: slice 1: .*{message}"):
        PreparedSlices(tmp_path, MASK).load(1)


def test_a_volume_replaced_behind_our_back_is_noticed(tmp_path: Path) -> None:
    write_prepared(tmp_path / "v.h5")
    data = PreparedSlices(tmp_path, MASK)
    write_prepared(tmp_path / "v.h5", shape=(22, 21))
    with pytest.raises(InputError, match=r"v.h5: slice 0: the file has changed"):
        data.load(0)
    write_prepared(tmp_path / "v.h5", slices=1)
    with pytest.raises(InputError, match=r"v.h5: slice 1: cannot be read"):
        data.load(1)
    (tmp_path / "v.h5").unlink()
    with pytest.raises(InputError, match=r"v.h5"):
        data.load(0)


def test_masks_that_cannot_be_drawn_name_the_volume(folder: Path) -> None:
    with pytest.raises(InputError, match=r"b.h5: calibration: 21 x 21 samples asked for"):
        PreparedSlices(folder, MaskSettings("poisson", 1.2, 21)).load(3)


def test_folders_that_are_not_prepared_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere: no such folder; expected one made by `convexrecon prepare`"):
        PreparedSlices(tmp_path / "nowhere", MASK)
    with pytest.raises(InputError, match=r"no prepared volume.*run `convexrecon prepare"):
        PreparedSlices(tmp_path, MASK)
    kspace = torch.randn(1, 2, 8, 9, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    write_scan(tmp_path / "raw" / "s.h5", kspace.numpy())
    with pytest.raises(InputError, match=r"s.h5: .*found a scan; run `convexrecon prepare` first"):
        PreparedSlices(tmp_path / "raw", MASK)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["image"] = [1, 2]
    with pytest.raises(InputError, match=r"x.h5: .*the keys \['image'\]"):
        PreparedSlices(tmp_path, MASK)
    (tmp_path / "x.h5").write_bytes(b"not HDF5")
    with pytest.raises(InputError, match=r"x.h5: not a readable HDF5 file"):
        PreparedSlices(tmp_path, MASK)


def test_missing_and_misshapen_arrays_are_named(tmp_path: Path) -> None:
    with h5py.File(write_prepared(tmp_path / "v.h5"), "r+") as file:
        maps = file["maps"][()]
        del file["maps"]
    with pytest.raises(InputError, match=r"v.h5: no dataset 'maps'"):
        PreparedSlices(tmp_path, MASK)
    with h5py.File(tmp_path / "v.h5", "r+") as file:
        file["maps"] = maps[:, :2]
    with pytest.raises(InputError, match=r"v.h5: kspace .* maps \(2, 2, 24, 21\)"):
        PreparedSlices(tmp_path, MASK)


def test_unknown_volumes_are_named(folder: Path) -> None:
    with pytest.raises(InputError, match="no volume 'z'; found a, b, c"):
        PreparedSlices(folder, MASK, volumes=["a", "z"])


def test_memory_does_not_grow_with_the_data(tmp_path: Path) -> None:
    write_prepared(tmp_path / "v.h5", slices=40, coils=4, shape=(48, 40))
    data = PreparedSlices(tmp_path, MASK)
    data.load(0)
    tracemalloc.start()
    data.load(1)
    one = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    for index in range(40):
        data.load(index)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < one + 4 * 48 * 40 * 8  # torch's own memory aside, less than one slice more than for one
    (tmp_path / "v.h5").rename(tmp_path / "w.h5")  # no handle is kept: possible anywhere
