"""Losses of an image against its target, differentiable; each a mean over the images of a batch."""

import torch
import torch.nn.functional as F
from torch import Tensor

from convexrecon.training.descent_settings import Loss

SSIM_WINDOW = 7
# Of the structural part; the rest is the complex l1 loss, without which the phase would be free.
# Zhao, Gallo, Frosio, Kautz, IEEE TCI 3:47 (2017).
SSIM_SHARE = 0.84


def image_losses(image: Tensor, target: Tensor, kind: Loss) -> Tensor:
    """The loss of each image: (B, *N), (B, *N) complex -> (B,).

    Args:
        image: x.
        target: x*.
        kind: "l2": mean |x - x*|^2 over the pixels; "l1": mean |x - x*|; "ssim":
            0.84 (1 - SSIM(|x|, |x*|)) + 0.16 mean |x - x*| / max|x*|.
    """
    error = torch.view_as_real(image - target).square().sum(-1).flatten(1)
    if kind == "l2":
        return error.mean(1)
    # The small constant keeps the gradient finite where the error is exactly zero, outside the object.
    absolute = (error + 1e-12).sqrt().mean(1)
    if kind == "l1":
        return absolute
    largest = target.abs().flatten(1).amax(1).clamp_min(1e-12)
    similar = structural_similarity(image, target, largest)
    return SSIM_SHARE * (1 - similar) + (1 - SSIM_SHARE) * absolute / largest


def image_loss(image: Tensor, target: Tensor, kind: Loss) -> Tensor:
    """Mean of `image_losses` over the batch, a scalar."""
    return image_losses(image, target, kind).mean()


def structural_similarity(image: Tensor, target: Tensor, largest: Tensor) -> Tensor:
    """SSIM of magnitudes with a uniform window of 7 pixels along every axis, the mean over all windows.

    As fastMRI defines it (K1 = 0.01, K2 = 0.03, unbiased covariances) but for the data range.
    Wang, Bovik, Sheikh, Simoncelli, IEEE TIP 13:600 (2004).

    Args:
        image: (B, *N) complex, at least 7 pixels along every axis.
        target: (B, *N) complex.
        largest: (B,) data range.
    """
    x, y = (torch.view_as_real(item).square().sum(-1).add(1e-12).sqrt().unsqueeze(1) for item in (image, target))
    dims = x.ndim - 2
    pool = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}[dims]
    size = SSIM_WINDOW**dims

    def mean(item: Tensor) -> Tensor:
        return pool(item, SSIM_WINDOW, stride=1)

    mean_x, mean_y = mean(x), mean(y)
    unbiased = size / (size - 1)
    var_x = unbiased * (mean(x * x) - mean_x.square())
    var_y = unbiased * (mean(y * y) - mean_y.square())
    covariance = unbiased * (mean(x * y) - mean_x * mean_y)
    first, second = ((k * largest).square().view(-1, 1, *[1] * dims) for k in (0.01, 0.03))
    numerator = (2 * mean_x * mean_y + first) * (2 * covariance + second)
    denominator = (mean_x.square() + mean_y.square() + first) * (var_x + var_y + second)
    return (numerator / denominator).flatten(1).mean(1)
