"""The program of a block against cvxpy on explicit patches, and its invariance to how the data come."""

import pytest
import torch
from denoising_data import gates_for, smooth_batches

from convexrecon.convex.gated_convolution import GatedConvolution
from convexrecon.convex.patches import BlockBatch
from convexrecon.convex.program import ProgramSettings, certify_program, program_path, solve_program
from convexrecon.convex.recovery import gated_network, network_penalty, relu_network, weights_of
from convexrecon.errors import InputError
from convexrecon.solvers.reference import reference_gated

PENALTIES = ["group_lasso", "nuclear"]


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("memory_gb", [1.0, 0.0])
def test_the_objective_is_that_of_cvxpy(penalty: str, memory_gb: float) -> None:
    data = smooth_batches(1, (11, 12))
    gates = gates_for(data, 4)
    settings = ProgramSettings(penalty=penalty, beta_ratio=0.03, tolerance=1e-8, memory_gb=memory_gb)
    solved = solve_program(lambda: data, gates, settings)
    assert solved.matrix_free == (memory_gb == 0.0)
    rows = data[0].rows
    assert rows is not None
    keep = rows.flatten()
    identity = torch.eye(4 * 19, dtype=torch.float64).view(-1, 4, 19, 1)
    layer = GatedConvolution(gates, data[0].features.double(), constant=True)
    columns = torch.stack([layer.forward(basis).flatten()[keep] for basis in identity], 1)
    blocks = columns.view(-1, 4, 19).permute(1, 0, 2)
    target = data[0].target.double().flatten(2)[0][:, keep].T
    reference = reference_gated(blocks.numpy(), target.numpy(), solved.solution.beta, penalty)
    assert solved.solution.certificate.objective == pytest.approx(reference.objective, rel=1e-6)


@pytest.mark.parametrize("penalty", PENALTIES)
def test_an_independent_pass_confirms_the_certificate(penalty: str) -> None:
    data = smooth_batches()
    gates = gates_for(data)
    settings = ProgramSettings(penalty=penalty, beta_ratio=1e-3)
    solved = solve_program(lambda: data, gates, settings)
    measured = certify_program(lambda: data, gates, solved.solution.weights, solved.solution.beta, settings)
    assert solved.solution.certificate.relative_gap <= 1e-5
    assert measured.relative_gap <= 2e-5
    assert measured.objective == pytest.approx(solved.solution.certificate.objective, rel=1e-5)
    worse = certify_program(lambda: data, gates, 1.1 * solved.solution.weights, solved.solution.beta, settings)
    assert worse.relative_gap > 1e-4


def test_batching_of_the_data_does_not_change_the_optimum() -> None:
    data = smooth_batches(4)
    gates = gates_for(data)
    settings = ProgramSettings(beta_ratio=1e-3, tolerance=1e-7)
    rows = [b.rows for b in data if b.rows is not None]
    together = BlockBatch(torch.cat([b.features for b in data]), torch.cat([b.target for b in data]), torch.cat(rows))
    apart = solve_program(lambda: data, gates, settings).solution.certificate.objective
    joined = solve_program(lambda: [together], gates, settings).solution.certificate.objective
    turned = solve_program(lambda: data[::-1], gates, settings).solution.certificate.objective
    assert joined == pytest.approx(apart, rel=1e-6)
    assert turned == pytest.approx(apart, rel=1e-6)


@pytest.mark.parametrize("penalty", PENALTIES)
def test_the_explicit_network_has_the_same_outputs_and_objective(penalty: str) -> None:
    data = smooth_batches()
    gates = gates_for(data)
    weights = solve_program(lambda: data, gates, ProgramSettings(penalty=penalty)).solution.weights
    network = gated_network(gates, weights, constant=True)
    for batch in data:
        exact = GatedConvolution(gates, batch.features.double(), constant=True).forward(weights)
        torch.testing.assert_close(network(batch.features), exact.float(), rtol=1e-4, atol=1e-5)
    singular = torch.linalg.svdvals(weights)
    value = singular.sum() if penalty == "nuclear" else weights.flatten(1).norm(dim=1).sum()
    assert network_penalty(network, penalty) == pytest.approx(float(value), rel=1e-5)
    torch.testing.assert_close(weights_of(network), weights, rtol=1e-4, atol=1e-6)
    scales = torch.rand(network.filters.shape[0], generator=torch.Generator().manual_seed(0)) + 0.5
    torch.testing.assert_close(weights_of(network.normalized(scales)), weights, rtol=1e-4, atol=1e-6)


def test_the_relu_network_is_ordinary_and_its_difference_is_measured() -> None:
    data = smooth_batches()
    gates = gates_for(data)
    weights = solve_program(lambda: data, gates, ProgramSettings()).solution.weights
    samples = [b.features for b in data]
    recovery = relu_network(gates, weights, samples, constant=True)
    assert [type(layer).__name__ for layer in recovery.network] == ["Conv2d", "ReLU", "Conv2d"]
    exact = torch.cat([GatedConvolution(gates, s, True).forward(weights.float()) for s in samples])
    found = torch.cat([recovery.network(s) for s in samples])
    difference = float((found - exact).norm() / exact.norm())
    assert recovery.relative_difference == pytest.approx(difference, rel=1e-3)
    assert difference < 0.02


def test_a_large_beta_gives_the_empty_network() -> None:
    data = smooth_batches()
    gates = gates_for(data)
    solution = solve_program(lambda: data, gates, ProgramSettings(beta_ratio=1.0)).solution
    assert solution.active_groups == 0
    network = gated_network(gates, solution.weights, constant=True)
    assert network.filters.shape[0] == 0
    assert not network(data[0].features).any()
    recovery = relu_network(gates, solution.weights, [data[0].features], constant=True)
    assert not recovery.network(data[0].features).any()
    assert recovery.relative_difference == 0


def test_the_whole_path_comes_from_one_pass() -> None:
    data = smooth_batches()
    passes = 0

    def stream() -> list[BlockBatch]:
        nonlocal passes
        passes += 1
        return data

    path = list(program_path(stream, gates_for(data), ProgramSettings()))
    assert passes == 1
    assert path[0].active_groups == 0
    objectives = [s.certificate.objective for s in path]
    assert objectives == sorted(objectives, reverse=True)
    assert all(s.certificate.relative_gap <= 1e-5 for s in path)


def test_bad_settings_and_a_target_of_zeros_are_refused() -> None:
    for bad in ({"beta": -1.0}, {"beta_ratio": 0.0}, {"tolerance": 0.0}, {"penalty": "ridge"}):
        with pytest.raises(InputError, match="expected"):
            ProgramSettings(**bad)
    data = smooth_batches(1)
    nothing = BlockBatch(data[0].features, torch.zeros_like(data[0].target))
    with pytest.raises(InputError, match="nothing to learn"):
        solve_program(lambda: [nothing], gates_for(data), ProgramSettings())


def test_the_number_of_threads_does_not_change_the_objective() -> None:
    data = smooth_batches(2, (48, 40))
    gates = gates_for(data, 8, 5)
    objectives = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        objectives.append(solve_program(lambda: data, gates, ProgramSettings()).solution.certificate.objective)
    assert objectives[1:] == pytest.approx(objectives[:1] * 2, rel=1e-5)
