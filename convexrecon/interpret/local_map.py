"""The exact local linear map of a cascade: its Jacobian with gates and ReLUs held, through data consistency.

Around a measurement a cascade of piecewise linear denoisers is affine, ``F(v) = J v + c``, as long as no gate or ReLU
switches. J is real-linear in complex images: its adjoint is that of ``Re <v, w>``. Products with J and J^T cost about
as much as a few reconstructions; no matrix is formed.

The patterns held are those that the cascade's own forward pass has. Proximal data consistency is linearized as the
exact solve, which trained conjugate gradients stop short of by their tolerance; the steps of an initial image by
conjugate gradients, which are few, are differentiated as they are. So are those of one by k-t FOCUSS or compressed
sensing, which is no piecewise linear function of the k-space: there J is the derivative.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from convexrecon.cascade import Block, Cascade, input_channels, support, to_channels, to_complex
from convexrecon.denoisers.patchwise import receptive_field
from convexrecon.errors import InputError
from convexrecon.interpret.block_states import block_states
from convexrecon.interpret.pixel import check_pixel
from convexrecon.physics.conjugate_gradient import regularized_solve
from convexrecon.physics.data_consistency import GradientDataConsistency, ProximalDataConsistency
from convexrecon.physics.forward_model import ForwardModel

Of = Literal["image", "kspace"]
TOLERANCES = {torch.complex64: 1e-6, torch.complex128: 1e-13}
MAX_ITERATIONS = 500


@dataclass(frozen=True, eq=False)
class LocalMap:
    """J at a point; satisfies `solvers.linear_maps.LinearMap`.

    Attributes:
        forward: J v, of the shape of `point` -> (B, *N) complex.
        adjoint: J^T w, (B, *N) complex -> the shape of `point`; ``Re <J v, w> = Re <v, J^T w>``.
        point: what J is the derivative in: the initial image (B, *N), or the k-space.
        output: the cascade's image at this point, (B, *N).
    """

    forward: Callable[[Tensor], Tensor]
    adjoint: Callable[[Tensor], Tensor]
    point: Tensor
    output: Tensor

    def constant(self) -> Tensor:
        """c = F(point) - J point, (B, *N): of the image map, what the data add; else what constants of filters do."""
        return self.output - self.forward(self.point)

    def row(self, pixel: Sequence[int], *, direction: complex = 1, sample: int = 0) -> Tensor:
        """How an output pixel depends on every input: r with ``Re(conj(direction) out_p) = Re <r, v> + const``.

        With direction 1 the derivative of the real part, with 1j of the imaginary part, and with ``out_p / |out_p|``
        that of the magnitude. Of the shape of `point`.

        Raises:
            InputError: a pixel outside the image.
        """
        where = check_pixel(pixel, self.output.shape[1:])
        return self.adjoint(_unit(self.output, (sample, *where), direction))

    def column(self, pixel: Sequence[int], *, direction: complex = 1, sample: int = 0) -> Tensor:
        """What a unit at one place of the input adds to the output: J e, (B, *N).

        Of a map of images the place is a pixel; of k-space, coil and sample (C, *N).

        Raises:
            InputError: a place outside the input.
        """
        where = check_pixel(pixel, self.point.shape[1:])
        return self.forward(_unit(self.point, (sample, *where), direction))


def local_map(
    cascade: Cascade,
    sense: ForwardModel,
    kspace: Tensor,
    *,
    of: Of = "image",
    blocks: int | None = None,
    tolerance: float | None = None,
) -> LocalMap:
    """The local linear map of a cascade at a measurement.

    Args:
        cascade: of any denoisers; of the k-space's precision (``copy.deepcopy(cascade).double()`` for complex128).
        sense: A.
        kspace: y, (B, C, *N) or (B, C, samples), scaled and uncentred.
        of: "image": of the image before the first block, the measurement as it is seen by data consistency and by
            inputs "zero_filled" held; "kspace": of the measurement, with all that depends on it.
        blocks: how many of the blocks, from the first; all if None.
        tolerance: relative residual of the solves behind proximal data consistency; 1e-6 in single, 1e-13 in double
            precision if None.

    Raises:
        InputError: an unknown `of`, more blocks than there are, patches whose halo is smaller than the receptive field.
    """
    if of not in get_args(Of):
        raise InputError(f"of: expected one of {', '.join(get_args(Of))}, found {of!r}")
    count = len(cascade) if blocks is None else blocks
    if not 0 <= count <= len(cascade):
        raise InputError(f"blocks: expected 0 to {len(cascade)}, those of the cascade, found {blocks}")
    used = list(cascade)[:count]
    for block in used:
        _check_whole(block)
    shortened = cascade.with_blocks(used)
    states = list(block_states(shortened, sense, kspace))
    adjoint_kspace = sense.adjoint(kspace)
    with torch.no_grad():
        initial = cascade.start(sense, adjoint_kspace)
    output = states[-1].after if states else initial
    limit = TOLERANCES[kspace.dtype] if tolerance is None else tolerance
    chain = _Chain([_HeldBlock(b, s.channels, sense, limit) for b, s in zip(used, states, strict=True)])
    if of == "image":
        return LocalMap(lambda v: chain.forward(v, torch.zeros_like(v)), lambda w: chain.adjoint(w)[0], initial, output)
    start = _Start(cascade, sense, adjoint_kspace)

    @torch.no_grad()
    def forward(measured: Tensor) -> Tensor:
        back = sense.adjoint(measured)
        return chain.forward(start.forward(back), back)

    @torch.no_grad()
    def adjoint(image: Tensor) -> Tensor:
        of_start, of_data = chain.adjoint(image)
        return sense.forward(start.adjoint(of_start) + of_data)

    return LocalMap(forward, adjoint, kspace, output)


def _unit(like: Tensor, place: tuple[int, ...], value: complex) -> Tensor:
    """Zeros but for one place."""
    unit = torch.zeros_like(like)
    unit[place] = torch.tensor(value, dtype=like.dtype)
    return unit


def pulled(function: Callable[[Tensor], Tensor], point: Tensor, cotangent: Tensor) -> Tensor:
    """J^T w of any differentiable function at a point, of the shape of the point."""
    with torch.enable_grad():
        held = point.detach().requires_grad_()
        return torch.autograd.grad(function(held), held, cotangent)[0]


def pushed(function: Callable[[Tensor], Tensor], point: Tensor, tangent: Tensor) -> Tensor:
    """J v of any twice differentiable function at a point, of the shape of its value.

    As the derivative of J^T w in w: forward-mode differentiation takes seconds to be loaded.
    """
    with torch.enable_grad():
        held = point.detach().requires_grad_()
        value = function(held)
        cotangent = torch.zeros_like(value, requires_grad=True)
        (gradient,) = torch.autograd.grad(value, held, cotangent, create_graph=True)
        return torch.autograd.grad(gradient, cotangent, tangent)[0]


def _check_whole(block: Block) -> None:
    """Refuse patches that change what the denoiser does: the map is that of the denoiser on whole images."""
    if block.patches is None:
        return
    reach = receptive_field(block.denoiser)
    if any(halo < needed for halo, needed in zip(block.patches.halo, reach, strict=True)):
        raise InputError(
            f"cascade: patches see {block.patches.halo} pixels beyond them, the denoiser {reach}; expected a halo of "
            "the receptive field, or whole images (Block.use_patches(None))"
        )


@dataclass(frozen=True, eq=False)
class _HeldBlock:
    """One block with its patterns held, linear in the images that it sees and in A^H y."""

    block: Block
    point: Tensor
    sense: ForwardModel
    tolerance: float

    def forward(self, image: Tensor, back: Tensor, initial: Tensor) -> Tensor:
        images = {"image": image, "zero_filled": back, "initial": initial}
        channels = input_channels(images, self.block.inputs)
        moved = pushed(self.block.denoiser, self.point, channels)
        return self._consistent(to_complex(moved) * support(self.sense), back)

    def adjoint(self, image: Tensor) -> dict[str, Tensor]:
        """The images that the block sees, by name, and "data" for what data consistency takes of A^H y."""
        denoised, data = self._consistent_adjoint(image)
        channels = pulled(self.block.denoiser, self.point, to_channels(denoised * support(self.sense)))
        parts = channels.unflatten(1, (-1, 2)).unbind(1)
        return {name: to_complex(part) for name, part in zip(self.block.inputs, parts, strict=True)} | {"data": data}

    def _consistent(self, denoised: Tensor, back: Tensor) -> Tensor:
        consistency = self.block.consistency
        if isinstance(consistency, ProximalDataConsistency):
            return self._solve(back + consistency.lam * denoised, consistency.lam)
        if isinstance(consistency, GradientDataConsistency):
            return denoised - float(consistency.step.detach()) * (self.sense.normal(denoised) - back)
        return denoised

    def _consistent_adjoint(self, image: Tensor) -> tuple[Tensor, Tensor]:
        consistency = self.block.consistency
        if isinstance(consistency, ProximalDataConsistency):
            solved = self._solve(image, consistency.lam)
            return consistency.lam * solved, solved
        if isinstance(consistency, GradientDataConsistency):
            step = float(consistency.step.detach())
            return image - step * self.sense.normal(image), step * image
        return image, torch.zeros_like(image)

    def _solve(self, rhs: Tensor, lam: float) -> Tensor:
        solved = regularized_solve(self.sense, rhs, lam, tolerance=self.tolerance, max_iterations=MAX_ITERATIONS)
        return solved.solution


@dataclass(frozen=True, eq=False)
class _Chain:
    """Held blocks in sequence, linear in the initial image and A^H y together."""

    blocks: list[_HeldBlock]

    @torch.no_grad()
    def forward(self, initial: Tensor, back: Tensor) -> Tensor:
        image = initial
        for held in self.blocks:
            image = held.forward(image, back, initial)
        return image

    @torch.no_grad()
    def adjoint(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """J^T w with respect to the initial image and to A^H y."""
        initial, back = torch.zeros_like(image), torch.zeros_like(image)
        for held in reversed(self.blocks):
            parts = held.adjoint(image)
            image = parts["image"]
            initial = initial + parts.get("initial", 0)
            back = back + parts["data"] + parts.get("zero_filled", 0)
        return image + initial, back


@dataclass(frozen=True, eq=False)
class _Start:
    """The derivative of the initial image in A^H y."""

    cascade: Cascade
    sense: ForwardModel
    point: Tensor

    def forward(self, back: Tensor) -> Tensor:
        if self.cascade.initial == "zero_filled":
            return back
        return pushed(self._start, self.point, back)

    def adjoint(self, image: Tensor) -> Tensor:
        if self.cascade.initial == "zero_filled":
            return image
        return pulled(self._start, self.point, image)

    def _start(self, back: Tensor) -> Tensor:
        return self.cascade.start(self.sense, back)
