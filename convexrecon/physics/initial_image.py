"""The image that a reconstruction starts from: of a few least-squares problems, or of compressed sensing."""

import math
from collections.abc import Callable

from torch import Tensor

from convexrecon.errors import InputError
from convexrecon.physics.conjugate_gradient import conjugate_gradient
from convexrecon.physics.forward_model import ForwardModel
from convexrecon.physics.kt_focuss import kt_focuss
from convexrecon.physics.l1_wavelet import l1_wavelet_of_adjoint

# Weights of the penalties, relative to ||A||^2 <= 1: of the image, of an image with its noise, of the average over
# time, and of what differs from it, which is smaller than an image and less well sampled.
CG_WEIGHT, SHARP_WEIGHT, AVERAGE_WEIGHT, DIFFERENCE_WEIGHT = 0.01, 0.001, 0.001, 0.1
# Of compressed sensing; off the grid 40 are within 0.1 dB of what it converges to, and it stops by itself soon after.
WAVELET_ITERATIONS = 60


def zero_filled(sense: ForwardModel, adjoint_kspace: Tensor) -> Tensor:
    """A^H y: (B, *N) -> (B, *N)."""
    del sense
    return adjoint_kspace


def cg_sense(sense: ForwardModel, adjoint_kspace: Tensor) -> Tensor:
    """Ten CG steps on ``(A^H A + 0.01) x = A^H y``: (B, *N) -> (B, *N)."""
    return _solved(sense.normal, adjoint_kspace, CG_WEIGHT)


def cg_sense_sharp(sense: ForwardModel, adjoint_kspace: Tensor) -> Tensor:
    """Ten CG steps on ``(A^H A + 0.001) x = A^H y``: (B, *N) -> (B, *N), sharper than `cg_sense` and noisier.

    Noise a denoiser behind it removes, blur it does not. Off the grid, where ||A||^2 is that of the outermost samples
    and the centre of k-space has eigenvalues far below, a penalty of 0.01 blurs and dims.
    """
    return _solved(sense.normal, adjoint_kspace, SHARP_WEIGHT)


def around_average(sense: ForwardModel, adjoint_kspace: Tensor) -> Tensor:
    """Ten CG steps each on ``min_m ||A m - y||^2 + 0.001 ||m||^2`` and ``min_x ||A x - y||^2 + 0.1 ||x - m||^2``.

    m does not change in time, so that all frames' samples, each frame's being others, determine it together. Of
    cardiac cine at R = 6 it is 9 dB nearer to the truth than CG-SENSE frame by frame.
    Jung et al., Magn Reson Med 61:103 (2009), who solve for what differs from the average too.

    Args:
        sense: A, of a series whose first axis is time.
        adjoint_kspace: A^H y, (B, t, *N).

    Returns:
        (B, t, *N).

    Raises:
        InputError: not a series.
    """
    if sense.ndim < 3:
        raise InputError(f"initial: 'time_average' expects series (t, y, x), found images of {sense.ndim} axes")
    frames = adjoint_kspace.shape[1]
    spread = [-1] * adjoint_kspace.ndim
    spread[1] = frames

    def of_average(image: Tensor) -> Tensor:
        return sense.normal(image.expand(spread)).mean(1, keepdim=True)

    average = _solved(of_average, adjoint_kspace.mean(1, keepdim=True), AVERAGE_WEIGHT).expand(spread)
    return average + _solved(sense.normal, adjoint_kspace - sense.normal(average), DIFFERENCE_WEIGHT)


def l1_wavelet_start(sense: ForwardModel, adjoint_kspace: Tensor, weight: float) -> Tensor:
    """Compressed sensing, ``min_x 1/2 ||A x - y||^2 + weight ||W x||_1`` by FISTA: (B, *N) -> (B, *N).

    In volumes and off the grid it is 2 to 3 dB nearer to the truth than CG-SENSE, at its best weight, in units of the
    image. That depends on the noise and on the sampling: 0.001 to 0.03 of images as training scales them.
    See `physics.l1_wavelet`.
    """
    return l1_wavelet_of_adjoint(sense, adjoint_kspace, weight, iterations=WAVELET_ITERATIONS).image


def _solved(normal: Callable[[Tensor], Tensor], right: Tensor, weight: float) -> Tensor:
    return conjugate_gradient(lambda x: normal(x) + weight * x, right, tolerance=1e-4, max_iterations=10).solution


INITIAL_IMAGES: dict[str, Callable[[ForwardModel, Tensor], Tensor]] = {
    "zero_filled": zero_filled,
    "cg_sense": cg_sense,
    "cg_sense_sharp": cg_sense_sharp,
    "time_average": around_average,
    "kt_focuss": kt_focuss,
}
# Those with a weight of their own, which has to be chosen.
WEIGHTED_IMAGES: dict[str, Callable[[ForwardModel, Tensor, float], Tensor]] = {"l1_wavelet": l1_wavelet_start}


def initial_image(name: str, weight: float | None = None) -> Callable[[ForwardModel, Tensor], Tensor]:
    """How an initial image is made, by its name: (A, A^H y) -> (B, *N).

    Args:
        name: of `INITIAL_IMAGES`, or of `WEIGHTED_IMAGES`.
        weight: of one of the latter, positive, in units of the image.

    Raises:
        InputError: an unknown name, a weight that is missing, not positive, or of an image that has none.
    """
    known = (*INITIAL_IMAGES, *WEIGHTED_IMAGES)
    if name not in known:
        raise InputError(f"initial: expected one of {', '.join(known)}, found {name!r}")
    check_weight(name, weight)
    if name in INITIAL_IMAGES:
        return INITIAL_IMAGES[name]
    if weight is None:
        raise InputError(f"initial_weight: {name!r} expects a positive number, found none")
    make = WEIGHTED_IMAGES[name]
    return lambda sense, adjoint_kspace: make(sense, adjoint_kspace, weight)


def check_weight(name: str, weight: float | None) -> None:
    """Refuse a weight that is not a positive number, or of an image that has none; None is for one to be chosen.

    Raises:
        InputError: as said.
    """
    if weight is None:
        return
    if name not in WEIGHTED_IMAGES:
        raise InputError(
            f"initial_weight: {name!r} has none; expected it of {', '.join(WEIGHTED_IMAGES)}, found {weight}"
        )
    if not (weight > 0 and math.isfinite(weight)):
        raise InputError(f"initial_weight: expected a positive number, found {weight}")
