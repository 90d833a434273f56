"""The program behind a linear map of the output: against cvxpy, adjointness, refusals."""

from dataclasses import dataclass, replace

import pytest
import torch
from denoising_data import gates_for, smooth_batches

from convexrecon.cascade import to_channels, to_complex
from convexrecon.convex import arrangements, consistent_map, patches
from convexrecon.convex.arrangements import Gates
from convexrecon.convex.consistent_map import consistent_part
from convexrecon.convex.consistent_program import solve_consistent_program
from convexrecon.convex.gated_convolution import GatedConvolution
from convexrecon.convex.patches import BlockBatch
from convexrecon.convex.program import ProgramSettings, certify_program, solve_program
from convexrecon.errors import InputError
from convexrecon.solvers.reference import reference_gated
from convexrecon.training.live_memory import LiveMemory


@dataclass(frozen=True)
class Filtered:
    """A map of complex images that couples their channels: a filter in k-space, and some of the image itself."""

    filter: torch.Tensor
    share: float

    def forward(self, output: torch.Tensor) -> torch.Tensor:
        image = to_complex(output)
        filtered = torch.fft.fft2(self.filter.to(image.dtype) * torch.fft.fft2(image))
        return torch.view_as_real(torch.cat([filtered, self.share * image]))

    def adjoint(self, data: torch.Tensor) -> torch.Tensor:
        first, second = torch.view_as_complex(data.contiguous()).split(1)
        pulled = torch.fft.ifft2(self.filter.to(first.dtype).conj() * torch.fft.ifft2(first)) * first.numel() ** 2
        return to_channels(pulled + self.share * second)


@dataclass(frozen=True)
class Unchanged:
    """The identity."""

    def forward(self, output: torch.Tensor) -> torch.Tensor:
        return output

    def adjoint(self, data: torch.Tensor) -> torch.Tensor:
        return data


def behind_each(data: list[BlockBatch]) -> list[BlockBatch]:
    """Each image behind a complex filter of its own."""
    made = []
    for index, batch in enumerate(data):
        rng = torch.Generator().manual_seed(100 + index)
        size = batch.target.shape[2:]
        phase = torch.randn(size, generator=rng)
        behind = Filtered((1 - 0.8 * torch.rand(size, generator=rng)) * torch.exp(1j * phase) / size.numel(), 0.1)
        made.append(replace(batch, target=behind.forward(batch.target), behind=behind))
    return made


@pytest.mark.parametrize("seed", [0, 1])
def test_the_objective_is_that_of_cvxpy(seed: int) -> None:
    plain = smooth_batches(1, (9, 12), seed)
    data = behind_each(plain)
    gates = gates_for(data, 3)
    settings = ProgramSettings(beta_ratio=0.02, tolerance=1e-8)
    solved = solve_consistent_program(lambda: data, lambda: plain, gates, settings)
    assert solved.solution.converged
    part = consistent_part(data[0], gates, True, torch.float64)
    identity = torch.eye(3 * 19 * 2, dtype=torch.float64).view(-1, 3, 19, 2)
    columns = torch.stack([part.map.forward(basis).flatten() for basis in identity], 1)
    blocks = columns.view(-1, 3, 38).permute(1, 0, 2)
    # n counts the pixels that matter, cvxpy's the rows it is given.
    ratio = len(columns) / part.rows
    reference = reference_gated(blocks.numpy(), part.target.reshape(-1, 1).numpy(), solved.solution.beta / ratio)
    assert solved.solution.certificate.objective == pytest.approx(ratio * reference.objective, rel=1e-6)


@pytest.mark.parametrize("penalty", ["group_lasso", "nuclear"])
def test_an_independent_pass_confirms_the_certificate(penalty: str) -> None:
    plain = smooth_batches(3)
    data = behind_each(plain)
    gates = gates_for(data)
    settings = ProgramSettings(penalty=penalty, beta_ratio=1e-3)
    solved = solve_consistent_program(lambda: data, lambda: plain, gates, settings)
    assert solved.solution.converged
    assert solved.solution.iterations < 60
    measured = certify_program(lambda: data, gates, solved.solution.weights, solved.solution.beta, settings)
    assert measured.relative_gap == pytest.approx(solved.solution.certificate.relative_gap, abs=1e-9)
    moved = certify_program(lambda: data, gates, 1.1 * solved.solution.weights, solved.solution.beta, settings)
    assert moved.relative_gap > 1e-3


@pytest.mark.parametrize("tolerance", [1e-1, 1e-3])
@pytest.mark.parametrize("count", [1, 3])
def test_few_gates_and_a_loose_tolerance_take_few_passes(count: int, tolerance: float) -> None:
    plain = smooth_batches(2)
    data = behind_each(plain)
    settings = ProgramSettings(beta_ratio=1e-5, tolerance=tolerance)
    solved = solve_consistent_program(lambda: data, lambda: plain, gates_for(data, count), settings)
    assert solved.solution.converged
    assert solved.solution.iterations < 40


def test_behind_the_identity_it_is_the_image_program() -> None:
    data = smooth_batches(2)
    gates = gates_for(data)
    settings = ProgramSettings(beta_ratio=1e-3, tolerance=1e-8)
    inside = [replace(b, target=b.target * b.rows, behind=Unchanged()) for b in data if b.rows is not None]
    plain = solve_program(lambda: data, gates, settings).solution.certificate
    behind = solve_consistent_program(lambda: inside, lambda: data, gates, settings).solution.certificate
    assert behind.objective == pytest.approx(plain.objective, rel=1e-7)


def test_the_model_needs_only_some_of_the_pixels() -> None:
    plain = smooth_batches(2, (40, 37))
    data = behind_each(plain)
    gates = gates_for(data)
    rng = torch.Generator().manual_seed(1)
    some = [replace(b, rows=torch.rand(b.target[:, :1].shape, generator=rng) < 0.3) for b in plain]
    settings = ProgramSettings(beta_ratio=1e-2, tolerance=1e-7)
    all_pixels = solve_consistent_program(lambda: data, lambda: plain, gates, settings).solution
    some_pixels = solve_consistent_program(lambda: data, lambda: some, gates, settings).solution
    assert some_pixels.certificate.objective == pytest.approx(all_pixels.certificate.objective, rel=1e-6)


def test_the_map_has_its_exact_adjoint() -> None:
    data = behind_each(smooth_batches(1, (14, 11)))
    gates = gates_for(data, 4)
    part = consistent_part(data[0], gates, True, torch.float64)
    rng = torch.Generator().manual_seed(3)
    weights = torch.randn(4, 19, 2, generator=rng, dtype=torch.float64)
    residual = torch.randn(part.target.shape, generator=rng, dtype=torch.float64)
    left = float((part.map.forward(weights) * residual).sum())
    assert left == pytest.approx(float((weights * part.map.adjoint(residual)).sum()), rel=1e-12)


@pytest.mark.parametrize("held", [0, 2**24])
def test_chunks_do_not_change_the_map(monkeypatch: pytest.MonkeyPatch, held: int) -> None:
    monkeypatch.setattr(consistent_map, "HELD_ENTRIES", held)
    (batch,) = behind_each(smooth_batches(1, (14, 11)))
    gates = gates_for([batch], 4)
    rng = torch.Generator().manual_seed(3)
    weights = torch.randn(4, 19, 2, generator=rng, dtype=torch.float64)
    assert batch.rows is not None
    assert batch.behind is not None
    response = GatedConvolution(gates, batch.features.double(), True, batch.rows).forward(weights)
    whole = consistent_part(batch, gates, True, torch.float64)
    monkeypatch.setattr(patches, "PIXELS_PER_CHUNK", 17)
    monkeypatch.setattr(patches, "BAND_ENTRIES", 500)
    part = consistent_part(batch, gates, True, torch.float64)
    torch.testing.assert_close(part.map.forward(weights), batch.behind.forward(response), rtol=1e-10, atol=1e-12)
    data = torch.randn(part.target.shape, generator=rng, dtype=torch.float64)
    torch.testing.assert_close(part.map.adjoint(data), whole.map.adjoint(data), rtol=1e-10, atol=1e-12)


def test_memory_of_the_map_does_not_follow_the_volume(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, entries in (("BAND_ENTRIES", 2**14), ("PIXELS_PER_CHUNK", 64)):
        monkeypatch.setattr(patches, name, entries)
    monkeypatch.setattr(arrangements, "PIXELS_DECIDED", 2**8)
    monkeypatch.setattr(consistent_map, "HELD_ENTRIES", 2**10)

    def taken(depth: int) -> float:
        rng = torch.Generator().manual_seed(0)
        features = torch.randn(1, 2, depth, 8, 8, generator=rng)
        batch = BlockBatch(features, features.double(), behind=Unchanged())
        gates = Gates(torch.randn(8, 2, 3, 3, 3, generator=rng), torch.zeros(8))
        weights = torch.randn(8, 55, 2, generator=rng, dtype=torch.float64)
        with LiveMemory(torch.device("cpu")) as memory:
            part = consistent_part(batch, gates, True, torch.float64)
            part.map.adjoint(part.map.forward(weights))
        return 1e6 * memory.peak_mb

    # Patches alone would take 55 x 8 bytes a pixel more; images of two channels and bits of gates take some tens.
    assert (taken(64) - taken(32)) / (32 * 64) < 120


def test_what_cannot_be_solved_is_refused() -> None:
    plain = smooth_batches(1)
    data = behind_each(plain)
    gates = gates_for(data)
    with pytest.raises(InputError, match=r"needs 0\.0 GB for 5 gates of 19 features; expected at most"):
        solve_consistent_program(lambda: data, lambda: plain, gates, ProgramSettings(memory_gb=1e-9))
    zero = [replace(data[0], target=torch.zeros_like(data[0].target))]
    with pytest.raises(InputError, match="target is zero everywhere"):
        solve_consistent_program(lambda: zero, lambda: plain, gates, ProgramSettings())
    broken = [replace(data[0], target=data[0].target / 0)]
    with pytest.raises(InputError, match="NaN or Inf in the data"):
        solve_consistent_program(lambda: broken, lambda: plain, gates, ProgramSettings())
    with pytest.raises(InputError, match="expected one image and the map behind it"):
        solve_consistent_program(lambda: plain, lambda: plain, gates, ProgramSettings())
