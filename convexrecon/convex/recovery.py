"""From the optimum back to ordinary networks: explicit gated neurons, and ReLU networks, near it or equal to it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from convexrecon.convex.arrangements import Gates
from convexrecon.convex.gated_convolution import GatedConvolution, split_weights
from convexrecon.denoisers.convolution import CONVOLUTION_LAYERS
from convexrecon.denoisers.gated_network import GatedNetwork
from convexrecon.errors import InputError

SHARPNESS = (1e1, 3e1, 1e2, 3e2, 1e3, 3e3, 1e4, 3e4, 1e5)


def gated_network(gates: Gates, weights: Tensor, *, constant: bool) -> GatedNetwork:
    """The two-layer gated network of an optimum: same outputs, same objective.

    With the singular value decomposition ``W_i = sum_r s_r u_r v_r^T``, each r is a neuron of gate i with
    filter ``sqrt(s_r) u_r`` and output weights ``sqrt(s_r) v_r`` (balanced, so that weight decay equals
    the nuclear norm). At most m neurons a gate; none for gates whose weights are zero.
    Sahiner et al., ICLR 2021 (arXiv 2012.13329), section 3.

    Args:
        gates: the arrangement.
        weights: W, (P, d, m).
        constant: whether the last feature is the constant 1.
    """
    left, singular, right = torch.linalg.svd(weights.double(), full_matrices=False)
    cutoff = 1e-7 * float(singular.max()) if singular.numel() else 0.0
    gate_of, rank = (singular > cutoff).nonzero(as_tuple=True)
    root = singular[gate_of, rank].sqrt().unsqueeze(1)
    rows = (left[gate_of, :, rank] * root).unsqueeze(2)
    filters, bias = split_weights(rows, gates.filters.shape[1], gates.kernel, constant)
    constants = None if bias is None else bias.squeeze(1).float()
    return GatedNetwork(gates, filters.squeeze(1).float(), constants, gate_of, (right[gate_of, rank] * root).float())


def weights_of(network: GatedNetwork) -> Tensor:
    """The convex program's variable that a gated network stands for, (P, d, m) float64.

    ``W_i = sum_{r of i} (u_r, c_r) v_r^T``. The inverse of `gated_network`, whatever the scaling of the
    hidden channels.
    """
    taps = network.filters.double().flatten(1)
    if network.constants is not None:
        taps = torch.cat([taps, network.constants.double().unsqueeze(1)], 1)
    rows = taps.unsqueeze(2) * network.outputs.double().unsqueeze(1)
    weights = torch.zeros(len(network.gates), *rows.shape[1:], dtype=torch.float64, device=rows.device)
    return weights.index_add_(0, network.gate_of, rows)


def network_penalty(network: GatedNetwork, penalty: str) -> float:
    """R as the explicit network's weights have it.

    nuclear: ``1/2 sum_r ||u_r||^2 + ||v_r||^2`` (weight decay). group_lasso: ``sum_i sqrt(sum_{r of i}
    (||u_r|| ||v_r||)^2)``, the path norms of each gate's neurons together.
    """
    taps = network.filters.double().flatten(1).square().sum(1)
    if network.constants is not None:
        taps = taps + network.constants.double().square()
    outputs = network.outputs.double().square().sum(1)
    if penalty == "nuclear":
        return float((taps + outputs).sum() / 2)
    squares = torch.zeros(len(network.gates), dtype=torch.float64, device=taps.device)
    squares.index_add_(0, network.gate_of, taps * outputs)
    return float(squares.sqrt().sum())


@dataclass(frozen=True)
class ReluRecovery:
    """An ordinary ReLU network near a gated one, and how near, measured.

    Attributes:
        network: ``nn.Sequential(Conv, ReLU, 1x1 Conv)``, without skip.
        sharpness: the a of the limit form that did best.
        relative_difference: ``||relu - gated|| / ||gated||`` on the samples (0 for an empty network).
    """

    network: nn.Sequential
    sharpness: float
    relative_difference: float


def relu_network(
    gates: Gates,
    weights: Tensor,
    samples: Sequence[Tensor],
    *,
    constant: bool,
    sharpness: Sequence[float] = SHARPNESS,
) -> ReluRecovery:
    """A ReLU network with nearly the outputs of the gated optimum, and the difference on `samples`.

    ``relu((h + a g) * u - a b) - relu(a (g * u - b))`` tends to ``D . (h * u)`` as a grows: exact wherever
    ``|g * u - b| > |h * u| / a``. Large a loses digits in the difference of large numbers, so several are
    tried and the best on the samples is kept. A gate needs one neuron for each of its filters and one
    more; an empty optimum gives one neuron with zero weights.

    Args:
        gates: the arrangement.
        weights: W, (P, d, m).
        samples: inputs (B, C, *N) to measure on.
        constant: whether the last feature is the constant 1.
        sharpness: values of a to try.

    Raises:
        InputError: no a, or one that is not positive; or gates that go round.
    """
    _check_border(gates)
    if len(sharpness) == 0 or not all(0 < tried < float("inf") for tried in sharpness):
        raise InputError(f"sharpness: expected positive numbers, found {tuple(sharpness)}")
    neurons = gated_network(gates, weights, constant=constant)
    layer_weights = weights.float()
    wanted = [GatedConvolution(gates, sample, constant).forward(layer_weights) for sample in samples]
    energy = sum(float(out.double().square().sum()) for out in wanted)
    best: ReluRecovery | None = None
    for tried in sharpness:
        network = _limit_form(neurons, tried)
        error = sum(
            float((network(sample) - out).double().square().sum()) for sample, out in zip(samples, wanted, strict=True)
        )
        difference = (error / energy) ** 0.5 if energy > 0 else 0.0
        if best is None or difference < best.relative_difference:
            best = ReluRecovery(network, tried, difference)
    assert best is not None
    return best


def cone_network(
    gates: Gates, w: Tensor, z: Tensor, *, constant: bool, dtype: torch.dtype = torch.float32
) -> nn.Sequential:
    """The ReLU network of weights inside their gates' cones: exactly ``A (w - z)`` on the data of the cones.

    Each non-zero column of w is a neuron that adds to its output, each of z one that subtracts. Where w and z are
    much longer than w - z, float32 loses the digits that they share: measure, or ask for float64.

    Args:
        gates: the arrangement, P gates.
        w: (P, d) or, for m outputs, (P, d, m).
        z: as w.
        constant: whether the last feature is the constant 1, the neurons' bias.
        dtype: of the network.

    Returns:
        ``nn.Sequential(Conv, ReLU, 1x1 Conv)``, without skip; one neuron with zero weights if all are zero.

    Raises:
        InputError: w and z that do not fit, or gates that go round.
    """
    _check_border(gates)
    features = gates.filters[0].numel() + int(constant)
    if w.shape != z.shape or w.ndim not in (2, 3) or tuple(w.shape[:2]) != (len(gates), features):
        raise InputError(
            f"w and z: expected two ({len(gates)}, {features}) or ({len(gates)}, {features}, m), "
            f"found {tuple(w.shape)} and {tuple(z.shape)}"
        )
    columns = torch.stack([part.unsqueeze(2) if part.ndim == 2 else part for part in (w, z)])
    used = (columns != 0).any(2)
    used[0, 0, 0] |= not bool(used.any())
    side, _, output = used.nonzero(as_tuple=True)
    rows = columns.transpose(2, 3)[used].to(dtype)
    signs = torch.zeros(len(rows), columns.shape[3], dtype=dtype, device=rows.device)
    signs.scatter_(1, output[:, None], (1 - 2 * side[:, None]).to(dtype))
    filters, bias = split_weights(rows.unsqueeze(2), gates.filters.shape[1], gates.kernel, constant)
    biases = torch.zeros(len(rows)).to(rows) if bias is None else bias.squeeze(1)
    return _two_layers(filters.squeeze(1), biases, signs)


def _limit_form(neurons: GatedNetwork, sharpness: float) -> nn.Sequential:
    """The neurons ``relu((h + a g) * u - a b)`` and, per gate in use, ``relu(a (g * u - b))``."""
    gates, gate_of = neurons.gates, neurons.gate_of
    norms = neurons.filters.flatten(1).norm(dim=1)
    used = gate_of.unique()
    outputs = neurons.outputs.shape[1]
    if len(used) == 0:
        nothing = torch.zeros_like(gates.filters[:1])
        return _two_layers(nothing, nothing.new_zeros(1), nothing.new_zeros(1, outputs))
    # a is relative to the filters of the gate, so that one sharpness suits all of them.
    largest = norms.new_zeros(len(gates)).scatter_reduce(0, gate_of, norms, "amax").clamp_min(1e-12)
    scale = sharpness * largest / gates.filters.flatten(1).norm(dim=1)
    spread = (-1, *[1] * (gates.filters.ndim - 1))
    pushed = scale.view(spread) * gates.filters
    filters = torch.cat([neurons.filters + pushed[gate_of], pushed[used]])
    constants = norms.new_zeros(len(gate_of)) if neurons.constants is None else neurons.constants
    shifts = scale * gates.offsets
    biases = torch.cat([constants - shifts[gate_of], -shifts[used]])
    shared = norms.new_zeros(len(gates), outputs).index_add_(0, gate_of, neurons.outputs)
    return _two_layers(filters, biases, torch.cat([neurons.outputs, -shared[used]]))


def _check_border(gates: Gates) -> None:
    if gates.periodic:
        raise InputError("relu network: its convolution pads with zeros; expected gates with periodic = False")


def _two_layers(filters: Tensor, biases: Tensor, outputs: Tensor) -> nn.Sequential:
    layer = CONVOLUTION_LAYERS[filters.ndim - 2]
    kernel = tuple(filters.shape[2:])
    first = layer(filters.shape[1], filters.shape[0], kernel, padding=tuple(k // 2 for k in kernel))  # type: ignore[arg-type]
    second = layer(filters.shape[0], outputs.shape[1], 1, bias=False)
    first, second = first.to(filters), second.to(filters)
    ones = (1,) * len(kernel)
    with torch.no_grad():
        first.weight.copy_(filters)
        assert first.bias is not None
        first.bias.copy_(biases)
        second.weight.copy_(outputs.T.reshape(*outputs.T.shape, *ones))
    return nn.Sequential(first, nn.ReLU(), second).requires_grad_(False)
