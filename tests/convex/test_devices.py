"""Programs on a GPU, pretended: nothing mixes tensors of two devices, and the optimum stays where the data are."""

import pytest
import torch
from denoising_data import gates_for, smooth_batches
from pretended_gpu import GPU, PretendedGpu, to_gpu

from convexrecon.convex.arrangements import Gates, draw_gates
from convexrecon.convex.gate_sampling import FILTER_DRAWS
from convexrecon.convex.patches import BlockBatch
from convexrecon.convex.program import ProgramSettings, certify_program, program_path, solve_program
from convexrecon.convex.recovery import gated_network, network_penalty, relu_network


def _moved(data: list[BlockBatch]) -> list[BlockBatch]:
    assert all(batch.rows is not None for batch in data)
    return [BlockBatch(to_gpu(b.features), to_gpu(b.target), to_gpu(b.rows)) for b in data]  # type: ignore[arg-type]


def test_the_pretence_refuses_what_a_gpu_does() -> None:
    with PretendedGpu() as gpu:
        numbers = to_gpu(torch.arange(3.0))
        with pytest.raises(RuntimeError, match="two devices"):
            numbers + torch.ones(3)
        with pytest.raises(RuntimeError, match="two devices"):
            torch.stack([numbers, torch.ones(3)])
        with pytest.raises(RuntimeError, match="generator of the CPU"):
            torch.randn(3, generator=torch.Generator(), device=GPU)
        with pytest.raises((RuntimeError, TypeError)):
            numbers.numpy()
        numbers[torch.tensor([0, 2])] += 1
        assert (numbers * torch.tensor(2.0)).cpu().tolist() == [2, 2, 6]
        assert torch.zeros(2, device=GPU).device == GPU
        assert (gpu.read, float(numbers.sum()), gpu.read) == (0, 5.0, 1)


@pytest.mark.parametrize("penalty", ["group_lasso", "nuclear"])
@pytest.mark.parametrize("method", ["statistics", "subsampled", "matrix_free"])
def test_a_program_is_solved_where_its_data_are(method: str, penalty: str) -> None:
    data = smooth_batches(2, (11, 12))
    gates = gates_for(data, 4)
    settings = ProgramSettings(method=method, penalty=penalty, beta_ratio=0.3)  # type: ignore[arg-type]
    expected = solve_program(lambda: data, gates, settings).solution
    with PretendedGpu() as gpu:
        moved, there = _moved(data), gates.to(GPU)
        found = solve_program(lambda: moved, there, settings).solution
        assert found.weights.device == GPU
        assert gpu.read < 200 * (found.iterations + 1)
        certificate = certify_program(lambda: moved, there, found.weights, found.beta, settings)
        assert bool((found.weights.cpu() == expected.weights).all())
    assert certificate.relative_gap <= settings.tolerance


@pytest.mark.parametrize("memory_gb", [0.0, 8.0])
def test_a_path_is_followed_where_its_data_are(memory_gb: float) -> None:
    data = smooth_batches(1, (11, 12))
    gates = gates_for(data, 3)
    with PretendedGpu():
        moved = _moved(data)
        found = list(program_path(lambda: moved, gates.to(GPU), ProgramSettings(memory_gb=memory_gb), [0.02, 0.01]))
    assert all(solution.converged for solution in found)


@pytest.mark.parametrize("name", FILTER_DRAWS)
def test_gates_drawn_from_samples_elsewhere_are_the_same(name: str) -> None:
    samples = [batch.features for batch in smooth_batches(2)]

    def drawn(on: list[torch.Tensor]) -> Gates:
        rng = torch.Generator().manual_seed(3)
        return draw_gates(on, 5, (3, 3), rng, draw=FILTER_DRAWS[name], offset_scale=1.0, whitened=0.5)

    expected = drawn(samples)
    with PretendedGpu():
        found = drawn([to_gpu(sample) for sample in samples])
    assert bool((found.filters == expected.filters).all())
    assert bool((found.offsets == expected.offsets).all())


@pytest.mark.parametrize("constant", [True, False])
def test_networks_are_recovered_where_the_optimum_is(constant: bool) -> None:
    data = smooth_batches(2, (11, 12))
    gates = gates_for(data, 4)
    solved = solve_program(lambda: data, gates, ProgramSettings(penalty="nuclear", beta_ratio=1e-2, constant=constant))
    weights = solved.solution.weights.float()
    inputs = [batch.features for batch in data]
    here = relu_network(gates, weights, inputs, constant=constant)
    with PretendedGpu():
        far = Gates(to_gpu(gates.filters), to_gpu(gates.offsets))
        explicit = gated_network(far, to_gpu(weights), constant=constant)
        assert explicit.filters.device == GPU
        norm = network_penalty(explicit, "group_lasso")
        recovered = relu_network(far, to_gpu(weights), [to_gpu(u) for u in inputs], constant=constant)
        layers = recovered.network.state_dict()
        assert all(tensor.device == GPU for tensor in layers.values())
        assert recovered.relative_difference == pytest.approx(here.relative_difference, rel=1e-3)
    assert norm == pytest.approx(network_penalty(gated_network(gates, weights, constant=constant), "group_lasso"))
