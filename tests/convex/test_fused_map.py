"""The fused kernels against matrix products: on a GPU where there is one, else interpreted on the CPU.

Triton decides at import whether it interprets, so that without a GPU the tests of the map run in a child process.
"""

import os
import subprocess
import sys
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import count
from pathlib import Path

import pytest
import torch
from denoising_data import gates_for, smooth_batches
from torch import Tensor

from convexrecon.convex import fused_map
from convexrecon.convex.arrangements import Gates
from convexrecon.convex.fused_map import FusedMap, can_fuse, fused_part
from convexrecon.convex.fused_tiles import Precision, Tile, adjoint_shares, adjoint_tile, forward_tile, segments
from convexrecon.convex.packed_patterns import RememberedPatterns
from convexrecon.convex.patches import BlockBatch, PatchMap, pixel_chunks
from convexrecon.convex.program import ProgramSettings, solve_program
from convexrecon.errors import InputError

ON_GPU = torch.cuda.is_available() and can_fuse(torch.empty(0, device="cuda"))
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")


@pytest.fixture
def device() -> torch.device:
    if not (ON_GPU or INTERPRETED):
        pytest.skip("neither a GPU nor the interpreter of Triton")
    return torch.device("cuda" if ON_GPU else "cpu")


@needs_triton
@pytest.mark.skipif(INTERPRETED or ON_GPU, reason="runs in this process already")
def test_the_map_in_the_interpreter() -> None:
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", __file__]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr


@dataclass(frozen=True)
class Case:
    size: tuple[int, ...]
    kernel: tuple[int, ...]
    channels: int
    gates: int
    outputs: int
    constant: bool
    rows: bool
    periodic: bool = False


CASES = [
    Case((9, 13), (3, 5), 2, 5, 2, True, False),
    Case((9, 13), (1, 3), 1, 1, 1, False, True),
    Case((11, 17), (5, 3), 3, 71, 2, True, True),
    Case((5, 7, 6), (3, 1, 5), 2, 9, 1, True, False),
    Case((4, 5, 11), (3, 5, 3), 2, 16, 3, False, True),
    Case((37,), (7,), 9, 8, 2, True, False),
    Case((3, 7, 6), (5, 3, 1), 2, 9, 2, True, True, periodic=True),
    Case((29, 23), (7, 7), 2, 13, 2, True, False),
]


def _problem(case: Case, device: torch.device, precision: Precision = "ieee") -> tuple[FusedMap, PatchMap]:
    """The fused map, and the same in float64."""
    rng = torch.Generator().manual_seed(case.gates)
    features = torch.randn(1, case.channels, *case.size, generator=rng).to(device)
    target = torch.randn(1, case.outputs, *case.size, generator=rng).to(device)
    rows = (torch.rand(1, 1, *case.size, generator=rng) < 0.7).to(device) if case.rows else None
    filters = torch.randn(case.gates, case.channels, *case.kernel, generator=rng)
    gates = Gates(filters, torch.randn(case.gates, generator=rng), case.periodic).to(device)
    batch = BlockBatch(features, target, rows)
    packed = RememberedPatterns(gates, 0).packed(0, features)
    part = fused_part(batch, packed, gates, case.constant, precision)
    [exact] = pixel_chunks(batch, gates, case.constant, torch.float64, chunk=10**9)
    assert isinstance(part.map, FusedMap)
    assert part.rows == exact.target.shape[1]
    return part.map, exact


def _gates(count: int, channels: int) -> Gates:
    return Gates(torch.zeros(count, channels, 3, 3), torch.zeros(count))


def _weights(fused: FusedMap, seed: int = 0) -> Tensor:
    shape = (fused.gates, len(fused.taps), fused.target.shape[0])
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(fused.image.device)


def _difference(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize("case", CASES, ids=str)
def test_both_products_are_those_of_the_patches(case: Case, device: torch.device) -> None:
    fused, exact = _problem(case, device)
    weights = _weights(fused)
    assert bool((fused.target.double() == exact.target).all())
    assert _difference(fused.forward(weights), exact.forward(weights.double())) < 1e-6
    pulled = fused.adjoint(fused.target)
    assert pulled.shape == weights.shape
    assert _difference(pulled, exact.adjoint(exact.target)) < 1e-6
    left = float((fused.forward(weights).double() * fused.target.double()).sum())
    right = float((weights.double() * pulled).sum())
    assert left == pytest.approx(right, abs=1e-6 * float(weights.norm() * pulled.norm()))


def test_tiles_and_shares_change_rounding_alone(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    fused, _ = _problem(CASES[0], device)
    weights = _weights(fused)
    forward, adjoint = fused.forward(weights), fused.adjoint(fused.target)
    assert bool((fused.forward(weights) == forward).all())
    assert bool((fused.adjoint(fused.target) == adjoint).all())
    monkeypatch.setattr("convexrecon.convex.fused_tiles.SMALLEST_SHARE", 64)
    monkeypatch.setattr("convexrecon.convex.fused_tiles.SEGMENT", 32)
    for tile in (Tile(8, 2, 16, 16, 4, 1), Tile(32, 2, 32, 32, 4, 2)):
        monkeypatch.setattr(fused_map, "forward_tile", lambda *_, tile=tile: tile)
        monkeypatch.setattr(fused_map, "adjoint_tile", lambda *_, tile=tile: tile)
        assert _difference(fused.forward(weights), forward.double()) < 1e-6
        assert _difference(fused.adjoint(fused.target), adjoint) < 1e-6


def test_addresses_of_large_images_have_64_bits(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    fused, exact = _problem(CASES[0], device)
    monkeypatch.setattr(fused_map, "COUNTED", 9 * 13)
    wide, _ = _problem(CASES[0], device)
    assert (fused.corners.dtype, wide.corners.dtype, wide.taps.dtype) == (torch.int32, torch.int64, torch.int64)
    weights = _weights(wide)
    assert bool((wide.forward(weights) == fused.forward(weights)).all())
    assert _difference(wide.adjoint(wide.target), exact.adjoint(exact.target)) < 1e-6
    monkeypatch.setattr(fused_map, "COUNTED", 9 * 13 - 1)
    with pytest.raises(InputError, match="one image of at most 116 pixels, found 1 of 117"):
        _problem(CASES[0], device)


def test_an_image_of_which_no_pixel_counts_adds_nothing(device: torch.device) -> None:
    features, target = torch.randn(1, 2, 5, 6).to(device), torch.randn(1, 2, 5, 6).to(device)
    none = torch.zeros(1, 1, 5, 6, dtype=torch.bool, device=device)
    packed = torch.zeros(1, 30, dtype=torch.uint8, device=device)
    part = fused_part(BlockBatch(features, target, none), packed, _gates(3, 2), True, "ieee")
    assert part.rows == 0
    assert part.map.forward(torch.randn(3, 19, 2).to(device)).shape == (2, 0)
    assert bool((part.map.adjoint(part.target) == torch.zeros(3, 19, 2).to(device)).all())


def test_nan_behind_closed_gates_shows_and_elsewhere_does_not(device: torch.device) -> None:
    features, target = torch.ones(1, 1, 4, 40).to(device), torch.ones(1, 1, 4, 40).to(device)
    features[0, 0, 0, 0] = float("nan")
    closed = torch.zeros(1, 160, dtype=torch.uint8, device=device)
    part = fused_part(BlockBatch(features, target), closed, _gates(2, 1), False, "ieee")
    assert bool(part.map.adjoint(part.target).isnan().any(1).all())
    away = torch.ones(1, 1, 4, 40, dtype=torch.bool, device=device)
    away[..., :2] = False
    part = fused_part(BlockBatch(features, target, away), closed, _gates(2, 1), False, "ieee")
    assert not bool(part.map.adjoint(part.target).isnan().any())
    assert not bool(part.map.forward(torch.ones(2, 9, 1).to(device)).isnan().any())


def test_programs_have_the_same_optimum(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    data = smooth_batches(2, (9, 19))
    gates = gates_for(data, 4)
    settings = ProgramSettings(beta_ratio=0.1, method="matrix_free")
    plain = replace(settings, products="torch")
    expected = solve_program(lambda: data, gates, plain).solution
    calls = count()

    def counted(*arguments: object) -> object:
        next(calls)
        return fused_part(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("convexrecon.convex.matrix_free.can_fuse", lambda _: True)
    monkeypatch.setattr("convexrecon.convex.matrix_free.fused_part", counted)
    moved = [BlockBatch(b.features.to(device), b.target.to(device), b.rows.to(device)) for b in data]  # type: ignore[union-attr]
    found = solve_program(lambda: moved, gates.to(device), settings).solution
    assert next(calls) >= 2 * found.iterations
    assert found.certificate.relative_gap <= 1e-5
    assert found.certificate.objective == pytest.approx(expected.certificate.objective, rel=1e-4)


def test_several_images_at_once_are_refused() -> None:
    two = BlockBatch(torch.zeros(2, 1, 4, 5), torch.zeros(2, 1, 4, 5))
    with pytest.raises(InputError, match=r"expected one image of at most .* pixels, found 2 of 20"):
        fused_part(two, torch.zeros(1, 20, dtype=torch.uint8), _gates(1, 1), True, "ieee")


def test_a_cpu_is_left_to_matrix_products() -> None:
    assert not can_fuse(torch.empty(1, 2, 3, 3))


@pytest.mark.parametrize("gates", [1, 3, 64, 257])
@pytest.mark.parametrize("features", [9, 99, 12_545])
def test_shares_of_the_pixels_cover_them_and_their_sums_fit(gates: int, features: int) -> None:
    for pixels in (0, 1, 513, 65_536, 1_000_003, 2**27):
        for outputs in (1, 2, 3):
            tile = adjoint_tile(gates, outputs, features, "ieee")
            share, shares = adjoint_shares(pixels, tile, gates, features)
            padded_gates, padded_features = tile.padded(gates, features)
            assert (shares - 1) * share < max(pixels, 1) <= shares * share
            parts = segments(share)
            assert parts["SEGMENT"] * parts["SEGMENTS"] == share
            assert parts["SEGMENT"] % tile.pixels == 0
            assert shares == 1 or 8 * shares * padded_gates * tile.outputs * padded_features <= 2**28


POINTERS = {"image": "*fp32", "corners": "*i32", "taps": "*i32", "packed": "*u8"}
COUNTS = {"pixels": "i32", "gates": "i32", "outputs": "i32"}


@needs_triton
@pytest.mark.skipif(INTERPRETED, reason="the interpreter has no compiler")
@pytest.mark.parametrize("precision", ["ieee", "tf32x3", "tf32"])
def test_kernels_compile_into_the_memory_of_a_multiprocessor(
    precision: Precision, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """For Ampere and Hopper, without a GPU; the compiler finds what the interpreter lets pass."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    from triton import compile as compiled
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from convexrecon.convex import fused_kernels

    gates, outputs, features = 256, 2, 12_545 if precision == "ieee" else 99
    tile = adjoint_tile(gates, outputs, features, precision)
    share, _ = adjoint_shares(10**6, tile, gates, features)
    wide, more = forward_tile(gates, outputs, features), {"residual": "*fp32", "sums": "*fp64"}
    jobs = [
        (fused_kernels.forward_kernel, {"weights": "*fp32", "out": "*fp32"}, wide, {}),
        (fused_kernels.adjoint_kernel, more, tile, segments(share)),
    ]
    for kernel, more, tile, constants in jobs:
        constants = fused_map.launch(tile, gates, features, precision) | constants
        options = {name: constants.pop(name) for name in ("num_warps", "num_stages")}
        types = POINTERS | COUNTS | more | dict.fromkeys(constants, "constexpr")
        signature = {name: types[name] for name in kernel.arg_names}
        for capability in (80, 90):
            source = ASTSource(kernel, signature, constants)
            binary = compiled(source, target=GPUTarget("cuda", capability, 32), options=options)
            assert 0 < binary.metadata.shared <= 100_000
            assert "cubin" in binary.asm


@pytest.mark.gpu
@pytest.mark.skipif(not ON_GPU, reason="needs a GPU that the fused kernels are made for")
@pytest.mark.parametrize("products", ["ieee", "tf32x3", "tf32"])
def test_a_gpu_finds_the_optimum_of_the_cpu(products: Precision) -> None:
    data = smooth_batches(3, (140, 137))
    gates = gates_for(data, 40, 5)
    settings = ProgramSettings(beta_ratio=0.02, method="matrix_free", products=products)
    expected = solve_program(lambda: data, gates, settings).solution.certificate
    moved = [BlockBatch(b.features.cuda(), b.target.cuda(), b.rows.cuda()) for b in data]  # type: ignore[union-attr]
    found, again = (solve_program(lambda: moved, gates.to("cuda"), settings).solution for _ in range(2))
    assert found.certificate.relative_gap <= settings.tolerance
    assert found.certificate.objective == pytest.approx(expected.objective, rel=1e-4)
    assert bool((found.weights == again.weights).all())
