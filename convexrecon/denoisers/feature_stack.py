"""Feature stacking: each layer trained on the frozen hidden channels of the one before (ISMRM 2021 #1953)."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from convexrecon.denoisers.gated_network import GatedNetwork


class FeatureStack(nn.Module):
    """``f(u) = x_L`` with ``x_0 = h_0 = u`` and ``h_l`` the hidden channels of two-layer network F_l on h_{l-1}.

    Residual: ``x_l = x_{l-1} + F_l(h_{l-1})``, so that a layer is at least as good as none in its place.
    Else, as published: ``x_l = u + F_l(h_{l-1})``. Only the last network's 1x1 convolution is used then, the others'
    served to train their hidden channels, and nothing holds a layer to what the one before it reached.

    Args:
        networks: F_1 .. F_L; F_{l+1} takes as many channels as F_l has neurons.
        residual: whether layers add to those before them.
    """

    kind = "features"

    def __init__(self, networks: Iterable[GatedNetwork], *, residual: bool = False) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.residual = residual

    def layer(self, index: int) -> GatedNetwork:
        """F_index, counted from 0."""
        network = self.networks[index]
        assert isinstance(network, GatedNetwork)
        return network

    def features(self, image: Tensor, layers: int) -> Tensor:
        """The input of layer `layers` (counted from 0): image (B, C, *N) -> (B, R, *N)."""
        return self.seen(image, layers)[0]

    def seen(self, image: Tensor, layers: int) -> tuple[Tensor, Tensor]:
        """What layer `layers` (counted from 0) sees, (B, R, *N), and the image (B, C, *N) that its output is added to.

        Args:
            image: u, (B, C, *N) real.
            layers: how many to go through.
        """
        hidden = estimate = image
        for index in range(layers):
            network = self.layer(index)
            hidden = network.hidden(hidden)
            if self.residual:
                estimate = estimate + network.combined(hidden)
        return hidden, estimate

    def forward(self, image: Tensor) -> Tensor:
        """u (B, 2, *N) real -> f(u)."""
        last = len(self.networks) - 1
        hidden, estimate = self.seen(image, last)
        return estimate + torch.as_tensor(self.layer(last)(hidden))
