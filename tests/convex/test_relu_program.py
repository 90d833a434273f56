"""The ReLU program on images against explicit matrices and cvxpy, and the network it gives."""

from dataclasses import replace

import pytest
import torch
from denoising_data import gates_for, smooth_batches

from convexrecon.convex.arrangements import Gates
from convexrecon.convex.cone_decomposition import decompose_weights
from convexrecon.convex.gated_convolution import GatedConvolution
from convexrecon.convex.patches import BlockBatch, pixel_chunks
from convexrecon.convex.pattern_cones import PatternCones, gate_directions
from convexrecon.convex.program import ProgramSettings, solve_program
from convexrecon.convex.recovery import cone_network
from convexrecon.convex.relu_program import ReluSettings, certify_relu_program, solve_relu_program
from convexrecon.errors import InputError
from convexrecon.solvers.cone_rows import DenseRows
from convexrecon.solvers.reference import reference_cone


def real_part(data: list[BlockBatch]) -> list[BlockBatch]:
    return [replace(batch, target=batch.target[:, :1]) for batch in data]


def matrices(data: list[BlockBatch], gates: Gates) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """blocks and cones (P, n, d), target (n,), float64."""
    parts = [part for batch in data for part in pixel_chunks(batch, gates, True, torch.float64)]
    patches = torch.cat([part.patches for part in parts], 1).T
    opens = torch.cat([part.open for part in parts], 1)[:, :, None]
    return opens * patches, (2 * opens - 1) * patches, torch.cat([part.target[0] for part in parts])


@pytest.mark.parametrize("ratio", [0.1, 1e-3])
def test_the_optimum_is_that_of_cvxpy(ratio: float) -> None:
    data = real_part(smooth_batches(1, (11, 12)))
    gates = gates_for(data, 4)
    solved = solve_relu_program(lambda: data, gates, ReluSettings(beta_ratio=ratio, tolerance=1e-6))
    blocks, cones, target = matrices(data, gates)
    reference = reference_cone(blocks.numpy(), cones.numpy(), target.numpy(), solved.beta)
    at_zero = float(target.square().mean()) / 2
    certificate = solved.certificate
    assert solved.converged
    assert certificate.relative_gap <= 1e-6
    assert certificate.bound <= reference.objective + 1e-9 * at_zero
    assert -1e-9 * at_zero <= certificate.objective - reference.objective <= certificate.relative_gap * at_zero
    for part in (solved.w, solved.z):
        assert float((cones @ part[:, :, None]).min()) >= 0
    assert certificate.lowest >= 0


def test_the_certificate_measures_any_point() -> None:
    data = real_part(smooth_batches())
    solved = solve_relu_program(lambda: data, gates_for(data), ReluSettings(tolerance=1e-6))
    longer = certify_relu_program(lambda: data, replace(solved, w=1.3 * solved.w))
    assert longer.bound == solved.certificate.bound
    assert longer.relative_gap > 1e-4
    assert longer.lowest >= 0
    outside = certify_relu_program(lambda: data, replace(solved, w=-solved.w - solved.z))
    assert outside.lowest < -1e-3


def test_how_the_data_come_does_not_change_the_optimum() -> None:
    data = real_part(smooth_batches(4))
    gates = gates_for(data)
    settings = ReluSettings(beta_ratio=1e-2, tolerance=1e-7)
    rows = torch.cat([batch.rows for batch in data if batch.rows is not None])
    joined = BlockBatch(torch.cat([b.features for b in data]), torch.cat([b.target for b in data]), rows)
    apart, together = (solve_relu_program(lambda x=x: x, gates, settings) for x in (data[::-1], [joined]))  # type: ignore[misc]
    assert together.certificate.objective == pytest.approx(apart.certificate.objective, rel=1e-6)
    small, large = (PatternCones(lambda: data, gates, True, chunk) for chunk in (37, 4096))
    points = torch.randn(5, 2, 19, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for reference in (None, gate_directions(gates, True)):
        wanted = DenseRows(matrices(data, gates)[1]).lowest(points, reference, 9)
        for cones in (small, large):
            found = cones.lowest(points, reference, 9)
            torch.testing.assert_close(found.values, wanted.values)
            torch.testing.assert_close(found.rows, wanted.rows)


def test_the_network_has_the_programs_outputs_and_penalty() -> None:
    data = real_part(smooth_batches())
    gates = gates_for(data)
    solved = solve_relu_program(lambda: data, gates, ReluSettings(beta_ratio=1e-2))
    exact = cone_network(gates, solved.w, solved.z, constant=True, dtype=torch.float64)
    single = cone_network(gates, solved.w, solved.z, constant=True)
    for batch in data:
        inside = batch.rows
        assert inside is not None
        layer = GatedConvolution(gates, batch.features.double(), constant=True)
        wanted = layer.forward((solved.w - solved.z).unsqueeze(2))[inside]
        size = float(wanted.abs().max())
        assert size > 0
        torch.testing.assert_close(exact(batch.features.double())[inside], wanted, rtol=0, atol=1e-11 * size)
        torch.testing.assert_close(single(batch.features)[inside].double(), wanted, rtol=0, atol=1e-3 * size)
    neurons = int((torch.cat([solved.w, solved.z]) != 0).any(1).sum())
    first, second = exact.get_submodule("0"), exact.get_submodule("2")
    assert isinstance(first, torch.nn.Conv2d)
    assert isinstance(second, torch.nn.Conv2d)
    assert first.bias is not None
    assert first.out_channels == neurons
    bias_and_taps = torch.cat([first.weight.flatten(1), first.bias.unsqueeze(1)], 1)
    penalty = float((torch.cat([solved.w, solved.z])).norm(dim=1).sum())
    assert float(bias_and_taps.norm(dim=1).sum()) == pytest.approx(penalty)
    assert set(second.weight.flatten().tolist()) <= {-1.0, 1.0}


def test_cone_decomposition_gives_the_gated_networks_outputs() -> None:
    data = smooth_batches()
    gates = gates_for(data)
    weights = solve_program(lambda: data, gates, ProgramSettings(beta_ratio=1e-2)).solution.weights
    parts = decompose_weights(lambda: data, gates, weights, constant=True)
    assert parts.converged
    assert parts.blow_up > 1
    assert parts.norms == pytest.approx(float((parts.w.norm(dim=1) + parts.z.norm(dim=1)).sum()))
    torch.testing.assert_close(parts.w - parts.z, weights, rtol=0, atol=1e-13 * parts.norms)
    network = cone_network(gates, parts.w, parts.z, constant=True, dtype=torch.float64)
    for batch in data:
        assert batch.rows is not None
        inside = batch.rows.expand(-1, 2, -1, -1)
        wanted = GatedConvolution(gates, batch.features.double(), constant=True).forward(weights)
        found = network(batch.features.double())
        torch.testing.assert_close(found[inside], wanted[inside], rtol=0, atol=1e-10 * float(wanted.abs().max()))


def test_an_empty_optimum_is_a_network_of_one_silent_neuron() -> None:
    data = real_part(smooth_batches())
    gates = gates_for(data)
    solved = solve_relu_program(lambda: data, gates, ReluSettings(beta_ratio=2.0))
    assert solved.converged
    assert not solved.w.any()
    network = cone_network(gates, solved.w, solved.z, constant=True)
    assert sum(parameter.numel() for parameter in network.parameters()) == 18 + 1 + 1
    assert not network(data[0].features).any()


def test_pixels_on_a_gates_boundary_are_no_obstacle() -> None:
    data = real_part(smooth_batches())
    for batch in data:
        batch.features[..., :8] = 0  # an empty background: there gates without offset are at zero, and open
    gates = gates_for(data)
    level = Gates(gates.filters, torch.zeros(len(gates)))
    cones = PatternCones(lambda: data, level, True)
    on_the_wall = cones.lowest(gate_directions(level, True)[:, None], None, 1).values
    assert float(on_the_wall.max()) <= 0
    assert float(cones.lowest(cones.interior()[:, None], None, 1).values.min()) > 1e-6
    solved = solve_relu_program(lambda: data, level, ReluSettings(beta_ratio=1e-2, tolerance=1e-6))
    assert solved.converged
    assert solved.w.any() or solved.z.any()
    assert solved.certificate.lowest >= 0


def test_refuses_what_cannot_be() -> None:
    data = real_part(smooth_batches())
    gates = gates_for(data)
    settings = ReluSettings()
    with pytest.raises(InputError, match="one channel, found 2"):
        solve_relu_program(smooth_batches, gates, settings)
    with pytest.raises(InputError, match="no data"):
        solve_relu_program(list, gates, settings)
    with pytest.raises(InputError, match="zero everywhere"):
        solve_relu_program(lambda: [replace(b, target=0 * b.target) for b in data], gates, settings)
    with pytest.raises(InputError, match="NaN or Inf"):
        solve_relu_program(lambda: [replace(b, target=b.target / 0) for b in data], gates, settings)
    with pytest.raises(InputError, match="set constant=True"):
        solve_relu_program(lambda: data, gates, ReluSettings(constant=False))
    with pytest.raises(InputError, match="at most memory_gb"):
        solve_relu_program(lambda: data, gates, ReluSettings(memory_gb=1e-6))
    with pytest.raises(InputError, match="beta_ratio"):
        ReluSettings(beta_ratio=0.0)
    with pytest.raises(InputError, match="no gate is open"):
        solve_relu_program(lambda: data, Gates(gates.filters, torch.full((5,), 1e9)), settings)
    # A gate that sees the first channel alone is open at both of these opposite pixels: no filter but those.
    level = Gates(torch.tensor([1.0, 0.0]).view(1, 2, 1, 1), torch.zeros(1))
    opposite = BlockBatch(torch.tensor([[0.0, 0.0], [1.0, -1.0]]).view(1, 2, 1, 2), torch.tensor([[[[1.0, 2.0]]]]))
    with pytest.raises(InputError, match=r"gates \[0\]: no filter"):
        solve_relu_program(lambda: [opposite], level, ReluSettings(beta=0.1, constant=False))
    with pytest.raises(InputError, match=r"weights: expected \(5, 19, m\)"):
        decompose_weights(lambda: data, gates, torch.zeros(5, 18, 2), constant=True)
    with pytest.raises(InputError, match="w and z: expected"):
        cone_network(gates, torch.zeros(5, 19), torch.zeros(5, 18), constant=True)
