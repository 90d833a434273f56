"""Trajectories: extent, spacing, coverage, and refusal of nonsense."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from convexrecon.errors import InputError
from convexrecon.physics.nufft import check_trajectory
from convexrecon.physics.trajectories import GOLDEN_ANGLE, cones, kooshball, radial, spiral, stack_of_stars

PLANE, VOLUME = (48, 40), (20, 24, 18)


def radius(trajectory: Tensor, shape: tuple[int, ...]) -> Tensor:
    """|k| as a fraction of the extent of k-space, (shots, samples)."""
    return torch.linalg.vector_norm(trajectory / (torch.tensor(shape) / 2), dim=-1)


@pytest.mark.parametrize(
    ("make", "shape", "count"),
    [
        (lambda: radial(PLANE, 7), PLANE, (7, 96)),
        (lambda: radial(PLANE, 7, oversampling=1, angles="uniform"), PLANE, (7, 48)),
        (lambda: spiral(PLANE, 5, samples=200), PLANE, (5, 200)),
        (lambda: spiral(PLANE, 5, samples=200, density=2.0, angles="golden"), PLANE, (5, 200)),
        (lambda: kooshball(VOLUME, 9), VOLUME, (9, 48)),
        (lambda: stack_of_stars(VOLUME, 4), VOLUME, (80, 48)),
        (lambda: cones(VOLUME, 6, samples=70), VOLUME, (6, 70)),
    ],
)
def test_shapes_extent_and_centre(make: Callable[[], Tensor], shape: tuple[int, ...], count: tuple[int, int]) -> None:
    trajectory = make()
    assert trajectory.dtype == torch.float32
    assert trajectory.shape == (*count, len(shape))
    check_trajectory(trajectory.flatten(0, 1), shape)
    inplane = trajectory if len(trajectory) != 80 else trajectory[..., 1:]
    assert 0.97 < float(radius(inplane, shape[-inplane.shape[-1] :]).max()) <= 1 + 1e-6
    # Every shot goes through the centre.
    assert float(torch.linalg.vector_norm(inplane, dim=-1).amin(1).max()) == 0
    assert torch.equal(trajectory, make())


def test_spokes_are_straight_sampled_evenly_and_turn_by_the_golden_angle() -> None:
    spokes = radial((64, 64), 30, oversampling=2).double()
    steps = spokes.diff(dim=1)
    torch.testing.assert_close(steps, steps[:, :1].expand_as(steps), atol=1e-5, rtol=0)
    assert float(torch.linalg.vector_norm(steps, dim=-1).max()) == pytest.approx(0.5, abs=1e-5)
    angle = torch.atan2(steps[:, 0, 0], steps[:, 0, 1]).diff().remainder(2 * math.pi)
    torch.testing.assert_close(angle, torch.full_like(angle, GOLDEN_ANGLE), atol=1e-4, rtol=0)
    assert math.degrees(GOLDEN_ANGLE) == pytest.approx(111.246, abs=1e-3)
    torch.testing.assert_close(radial((64, 64), 10, first=20).double(), spokes[20:])


def test_uniform_spokes_divide_half_a_turn() -> None:
    ends = radial((64, 64), 8, angles="uniform")[:, 0].double()
    angles = torch.atan2(-ends[:, 0], -ends[:, 1])
    torch.testing.assert_close(angles, torch.arange(8).double() * math.pi / 8, atol=1e-5, rtol=0)


@pytest.mark.parametrize("density", [1.0, 2.0])
def test_default_spirals_meet_nyquist_along_and_across_the_arms(density: float) -> None:
    arms = spiral((64, 64), 6, density=density).double()
    along = torch.linalg.vector_norm(arms.diff(dim=1), dim=-1)
    # The first steps, where arms crowd, are a little longer.
    assert float(along[:, 3:].max()) < 1.1
    assert float(along.max()) < 1.5
    # At the edge the next arm is one cycle further in, at 1 / 6 of a turn.
    outer = torch.linalg.vector_norm(arms, dim=-1)[0]
    turn = torch.arange(len(outer) - 1).double() / (len(outer) - 1)
    turns = density * 64 / 12 * turn ** (1 / (density + 1))
    inner_edge = outer[torch.argmin((turns - (turns[-1] - 1 / 6)).abs())]
    assert float(outer[-2] - inner_edge) == pytest.approx(1, abs=0.15)


def test_fewer_turns_undersample() -> None:
    full = spiral((64, 64), 4)
    assert spiral((64, 64), 4, turns=4).shape[1] == pytest.approx(full.shape[1] / 2, rel=0.02)


@pytest.mark.parametrize("make", [lambda n: kooshball((32, 32, 32), n), lambda n: cones((32, 32, 32), n)])
def test_directions_cover_the_sphere_evenly(make: Callable[[int], Tensor]) -> None:
    ends = make(500)[:, -1].double()
    ends = ends / torch.linalg.vector_norm(ends, dim=1, keepdim=True)
    moment = ends.T @ ends / 500
    torch.testing.assert_close(moment, torch.eye(3).double() / 3, atol=0.01, rtol=0)


def test_cones_stay_on_their_cones_and_turn() -> None:
    arms = cones((32, 32, 32), 12, turns=3.0).double()[:, 1:]
    height = arms[..., 0] / torch.linalg.vector_norm(arms, dim=-1)
    torch.testing.assert_close(height, height[:, :1].expand_as(height), atol=1e-5, rtol=0)
    # The first arm starts its series at the pole.
    angle = torch.atan2(arms[1:, :, 1], arms[1:, :, 2])
    travelled = angle.diff(dim=1).remainder(2 * math.pi).sum(1) / (2 * math.pi)
    assert 2.4 < float(travelled.min()) <= float(travelled.max()) < 3
    assert float(torch.linalg.vector_norm(arms.diff(dim=1), dim=-1).max()) < 1.2


def test_stars_stand_at_whole_heights() -> None:
    same, rotated = stack_of_stars(VOLUME, 4), stack_of_stars(VOLUME, 4, rotate=True)
    heights = same[..., 0].reshape(20, -1)
    assert torch.equal(heights, (torch.arange(20.0) - 10)[:, None].expand_as(heights))
    assert torch.equal(same[:4, :, 1:], same[4:8, :, 1:])
    assert not torch.equal(rotated[:4, :, 1:], rotated[4:8, :, 1:])
    torch.testing.assert_close(rotated[..., 1:], radial((24, 18), 80))


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (radial, {"shape": (64, 64), "shots": 0}, "shots"),
        (radial, {"shape": (64, 64), "shots": 2.5}, "shots"),
        (radial, {"shape": (64, 64, 64), "shots": 3}, r"\(y, x\)"),
        (radial, {"shape": (64, 1), "shots": 3}, "shape"),
        (radial, {"shape": (64, 64), "shots": 3, "oversampling": 0.5}, "oversampling"),
        (radial, {"shape": (64, 64), "shots": 3, "oversampling": math.nan}, "oversampling"),
        (radial, {"shape": (64, 64), "shots": 3, "angles": "silver"}, "silver"),
        (spiral, {"shape": (64, 64), "shots": 3, "density": 0.5}, "density"),
        (spiral, {"shape": (64, 64), "shots": 3, "turns": 0}, "turns"),
        (spiral, {"shape": (64, 64), "shots": 3, "samples": 1}, "samples"),
        (spiral, {"shape": (64, 64), "shots": 3, "angles": "silver"}, "silver"),
        (kooshball, {"shape": (64, 64), "shots": 3}, r"\(z, y, x\)"),
        (stack_of_stars, {"shape": (8, 8, 8), "shots": 3, "angles": "uniform", "rotate": True}, "rotate"),
        (cones, {"shape": (8, 8, 8), "shots": 3, "turns": -1}, "turns"),
        (cones, {"shape": (8, 8, 8), "shots": 3, "samples": 10.5}, "samples"),
    ],
)
def test_refuses_nonsense(make: Callable[..., Tensor], arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make(**arguments)
