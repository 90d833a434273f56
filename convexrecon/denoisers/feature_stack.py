"""Feature stacking: each layer trained on the frozen hidden channels of the one before (ISMRM 2021 #1953)."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from convexrecon.denoisers.gated_network import GatedNetwork


class FeatureStack(nn.Module):
    """``f(u) = u + F_L(h_{L-1}(.. h_1(u)))`` with h_l the hidden channels of two-layer network F_l.

    Only the last network's 1x1 convolution is used; the others' served to train their hidden channels.
    The skip is from the input image at every step, since hidden channels have no image to add to.

    Args:
        networks: F_1 .. F_L; F_{l+1} takes as many channels as F_l has neurons.
    """

    kind = "features"

    def __init__(self, networks: Iterable[GatedNetwork]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def layer(self, index: int) -> GatedNetwork:
        """F_index, counted from 0."""
        network = self.networks[index]
        assert isinstance(network, GatedNetwork)
        return network

    def features(self, image: Tensor, layers: int) -> Tensor:
        """The input of layer `layers` (counted from 0): image (B, C, *N) -> (B, R, *N)."""
        hidden = image
        for index in range(layers):
            hidden = self.layer(index).hidden(hidden)
        return hidden

    def forward(self, image: Tensor) -> Tensor:
        """u (B, 2, *N) real -> f(u)."""
        last = len(self.networks) - 1
        correction = self.layer(last)(self.features(image, last))
        return image + torch.as_tensor(correction)
