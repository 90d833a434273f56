"""Prepared volumes and series as three-dimensional samples: whole, in slabs, with masks that suit them; refusals."""

from pathlib import Path

import h5py
import pytest
import torch

from convexrecon.data.dataset import PreparedSlices, batches, stack, undersample
from convexrecon.data.prepared_files import PREPARED_FORMAT, slab_starts
from convexrecon.errors import InputError
from convexrecon.physics.fourier import centred_fft, centred_ifft, uncentre
from convexrecon.physics.masks import MaskSettings
from convexrecon.physics.sense import Sense

POISSON = MaskSettings("poisson", 3.0, 6)
COLUMNS = MaskSettings("variable", 3.0, center_fraction=0.1)
FRAMES, COILS, PLANE = 7, 3, (24, 21)


def write_prepared(path: Path, layout: str, seed: int = 0, occupied: tuple[int, int] | None = None) -> Path:
    """A prepared file of noise whose arrays fit together; slices outside `occupied` hold no object."""
    rng = torch.Generator().manual_seed(seed)
    maps = torch.randn(FRAMES, COILS, *PLANE, dtype=torch.complex64, generator=rng)
    maps = maps / torch.linalg.vector_norm(maps, dim=1, keepdim=True)
    if layout == "cine":
        maps = maps[:1].expand(FRAMES, -1, -1, -1).clone()
    first, stop = occupied or (0, FRAMES)
    maps[:first], maps[stop:] = 0, 0
    target = 50 * torch.randn(FRAMES, *PLANE, dtype=torch.complex64, generator=rng) * (maps != 0).any(1)
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["kspace"] = centred_fft(maps * target[:, None], 2).numpy()
        file["maps"] = (maps[0] if layout == "cine" else maps).numpy()
        file["target"] = target.numpy()
        file.attrs.update({"format": PREPARED_FORMAT, "layout": layout, "recon_size": PLANE})
        file.attrs["occupied"] = (first, stop)
    return path


@pytest.mark.parametrize(("layout", "mask"), [("volume", POISSON), ("cine", COLUMNS)])
def test_a_sample_is_the_whole_undersampled_volume(tmp_path: Path, layout: str, mask: MaskSettings) -> None:
    path = write_prepared(tmp_path / "a.h5", layout)
    data = PreparedSlices(tmp_path, mask)
    assert (data.layout, data.dimensions, len(data)) == (layout, 3, 1)
    assert data.slices[0].shape == (COILS, FRAMES, *PLANE)
    batch = data.load(0)
    with h5py.File(path) as file:
        kspace, target = (torch.from_numpy(file[name][()]) for name in ("kspace", "target"))
    assert batch.kspace.shape == (1, COILS, FRAMES, *PLANE)
    assert batch.maps.shape == (1, COILS, 1 if layout == "cine" else FRAMES, *PLANE)
    # The sampling is of y and x: what is measured are the frames' own k-space, uncentred.
    expected = uncentre(kspace, 2).transpose(0, 1) * batch.mask[0]
    torch.testing.assert_close(batch.kspace[0] * batch.scale, expected, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(batch.sense.forward(batch.target), batch.kspace, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(batch.target[0] * batch.scale, target, atol=1e-3, rtol=1e-4)
    same = [torch.equal(batch.mask[0, 0, 0], frame) for frame in batch.mask[0, 0, 1:]]
    assert all(same) if layout == "volume" else not any(same)
    for frame in batch.mask[0, 0]:
        assert frame.numel() / float(frame.sum()) == pytest.approx(3, rel=0.05)


def test_a_volume_in_the_image_space_of_its_readout_is_the_three_dimensional_scan() -> None:
    rng = torch.Generator().manual_seed(3)
    maps, image = (torch.randn(1, *n, 5, 8, 6, dtype=torch.complex128, generator=rng) for n in ([2], []))
    plane = (torch.rand(8, 6, generator=rng) < 0.5).double()
    mask = plane.expand(1, 1, 5, 8, 6)
    whole, hybrid = Sense(maps, mask), Sense(maps, mask, axes=2)
    torch.testing.assert_close(whole.normal(image), hybrid.normal(image))
    transformed = torch.fft.ifft(whole.forward(image), dim=2, norm="ortho")
    torch.testing.assert_close(transformed, hybrid.forward(image))
    with pytest.raises(InputError, match=r"axes: expected 1 to 3.*found 4"):
        Sense(maps, mask, axes=4)


def test_slabs_are_parts_of_the_volume_in_its_units(tmp_path: Path) -> None:
    write_prepared(tmp_path / "a.h5", "volume", occupied=(1, 6))
    whole = PreparedSlices(tmp_path, POISSON).load(0)
    slabs = PreparedSlices(tmp_path, POISSON, slab=3)
    assert [key.slice_index for key in slabs.slices] == [1, 3]
    assert [key.slice_index for key in slabs.subset(["a"]).slices] == [1, 3]
    for batch in batches(slabs, 1):
        start = batch.slice_index[0]
        assert torch.equal(batch.scale, whole.scale)
        for name in ("kspace", "mask", "maps"):
            assert torch.equal(getattr(batch, name), getattr(whole, name)[:, :, start : start + 3])
        assert torch.equal(batch.target, whole.target[:, start : start + 3])
    assert len(PreparedSlices(tmp_path, POISSON, slab=FRAMES + 1)) == 1


@pytest.mark.parametrize("interpolated", [True, False])
def test_the_scale_of_a_large_volume_in_slabs_is_that_of_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interpolated: bool
) -> None:
    write_prepared(tmp_path / "large.h5", "volume")
    monkeypatch.setattr("convexrecon.data.dataset._HELD_MAGNITUDES", 10)
    if not interpolated:
        monkeypatch.setattr("convexrecon.data.sample_batch.QUANTILE_ENTRIES", 10)
    whole = PreparedSlices(tmp_path, POISSON).load(0)
    for batch in batches(PreparedSlices(tmp_path, POISSON, slab=2), 1):
        assert torch.equal(batch.scale, whole.scale)


@pytest.mark.parametrize(("first", "stop", "slab"), [(0, 7, 3), (2, 9, 7), (0, 50, 16), (4, 6, 5), (0, 10, 1)])
def test_slabs_cover_every_slice_and_stay_inside(first: int, stop: int, slab: int) -> None:
    starts = slab_starts(first, stop, slab)
    assert sorted(set(starts)) == starts
    covered = {position for start in starts for position in range(start, start + slab)}
    assert covered >= set(range(first, stop))
    assert max(starts) + slab <= max(stop, first + slab)


def test_volumes_batch_with_their_like(tmp_path: Path) -> None:
    for index in range(2):
        write_prepared(tmp_path / f"{index}.h5", "cine", seed=index)
    data = PreparedSlices(tmp_path, COLUMNS)
    (batch,) = batches(data, 2)
    assert batch.kspace.shape == (2, COILS, FRAMES, *PLANE)
    assert torch.equal(stack([data.load(0), data.load(1)]).mask, batch.mask)
    assert not torch.equal(batch.mask[0], batch.mask[1])
    torch.testing.assert_close(batch.sense.forward(batch.target), batch.kspace, atol=1e-5, rtol=1e-4)


def test_the_percentile_of_a_large_volume_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = torch.Generator().manual_seed(0)
    maps = torch.ones(1, 9, *PLANE, dtype=torch.complex64)
    kspace = centred_fft(torch.randn(maps.shape, dtype=torch.complex64, generator=rng), 2)
    exact = undersample(kspace, maps, torch.ones(PLANE))
    monkeypatch.setattr("convexrecon.data.sample_batch.QUANTILE_ENTRIES", 100)
    assert float(undersample(kspace, maps, torch.ones(PLANE)).scale) == pytest.approx(float(exact.scale), rel=1e-2)
    assert float(exact.scale) == pytest.approx(float(torch.quantile(centred_ifft(kspace, 2).abs(), 0.95)), rel=1e-4)


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    write_prepared(tmp_path / "cine" / "a.h5", "cine")
    with pytest.raises(InputError, match="slab = 3 asked for of layout 'cine'; expected it for 'volume' alone"):
        PreparedSlices(tmp_path / "cine", COLUMNS, slab=3)
    write_prepared(tmp_path / "cine" / "b.h5", "volume")
    with pytest.raises(InputError, match=r"holds cine \(a.h5\) and volume \(b.h5\); expected volumes of one layout"):
        PreparedSlices(tmp_path / "cine", COLUMNS)
    write_prepared(tmp_path / "odd" / "a.h5", "spiral")
    with pytest.raises(InputError, match=r"a.h5: attribute layout: expected one of slices, .*found 'spiral'"):
        PreparedSlices(tmp_path / "odd", COLUMNS)
    write_prepared(tmp_path / "volume" / "a.h5", "volume")
    with pytest.raises(InputError, match="slab: found 0; expected at least 1"):
        PreparedSlices(tmp_path / "volume", POISSON, slab=0)
    kspace = torch.ones(2, 5, 8, 6, dtype=torch.complex64)
    with pytest.raises(InputError, match=r"mask: expected \(8, 6\) or \(5, 8, 6\) as the k-space, found \(6, 8\)"):
        undersample(kspace, kspace, torch.ones(6, 8))
