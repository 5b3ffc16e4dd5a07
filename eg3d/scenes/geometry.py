"""Where cameras look, and moving them so that this is the world's origin.

Poses are camera-to-world matrices [N, 4, 4] (float64) in OpenCV's axes: right, down, forward. See docs/conventions.md.
"""

from __future__ import annotations

import numpy as np

PARALLEL = 1e-6  # mean squared sine between view directions, below which no point is nearest to all of them
LEVEL_WEIGHT = 1e-3  # of the cameras' own up beside their right axes being level
AROUND = 1e-3  # share of the cameras' distance; a mean position nearer to the vertical axis shows no front

# Blender's world (z up, the front view looks along +y) -> ours (y up, the frontal camera looks along -z)
BLENDER_AXES = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])


def nearest_point(poses: np.ndarray) -> np.ndarray:
    """The point [3] nearest to all optical axes, by least squares; of several the one nearest to the world's origin.

    The distance of p from the axis o + t d is |(I - d d^T)(p - o)|; the sum of its squares is least where
    sum (I - d d^T) p = sum (I - d d^T) o.
    """
    across = _across(poses)
    goal = (across @ poses[:, :3, 3:])[:, :, 0].mean(axis=0)
    return np.linalg.lstsq(across.mean(axis=0), goal, rcond=PARALLEL)[0]


def _across(poses: np.ndarray) -> np.ndarray:
    """[N, 3, 3]: what takes a vector's part across each optical axis."""
    forward = poses[:, :3, 2]
    return np.eye(3) - forward[:, :, None] * forward[:, None, :]


def depths(poses: np.ndarray, point: np.ndarray) -> np.ndarray:
    """How far [N] before the cameras a point [3] lies, along their optical axes."""
    return ((point - poses[:, :3, 3]) * poses[:, :3, 2]).sum(axis=1)


def upright_axes(poses: np.ndarray) -> np.ndarray:
    """World axes [3, 3], as rows, for poses in a world of unknown direction: y is up, +z the side where the cameras stand.

    Up is as level as the cameras' right axes x say, and near the mean m of their own up: the u that minimizes
    mean (u . x)^2 + LEVEL_WEIGHT |u - m|^2. So cameras that look down do not tilt the world.
    """
    right, up = poses[:, :3, 0], -poses[:, :3, 1].mean(axis=0)
    level = np.einsum("ni,nj->ij", right, right) / len(poses)
    up = np.linalg.solve(level + LEVEL_WEIGHT * np.eye(3), LEVEL_WEIGHT * up)
    if np.linalg.norm(up) < PARALLEL:
        raise ValueError("the cameras' up directions cancel each other, so the world has no up")
    up /= np.linalg.norm(up)
    offsets = poses[:, :3, 3] - nearest_point(poses)
    level_offsets = offsets - (offsets @ up)[:, None] * up
    front = level_offsets.mean(axis=0)
    if np.linalg.norm(front) < AROUND * np.linalg.norm(offsets, axis=1).mean():  # all around: any side may be the front
        front = level_offsets[np.argmax(np.linalg.norm(level_offsets, axis=1))]
    z = front / np.linalg.norm(front)
    return np.stack([np.cross(up, z), up, z])


def placed(poses: np.ndarray, axes: np.ndarray, radius: float) -> np.ndarray:
    """The poses in a world of these axes [3, 3] (rows), around the point they look at, at a mean distance `radius` from it.

    Raises ValueError where they look at no common point.
    """
    if np.linalg.eigvalsh(_across(poses).mean(axis=0))[0] < PARALLEL:
        raise ValueError("the cameras look in one direction, so the point that they look at is unknown")
    centre = nearest_point(poses)
    if depths(poses, centre).mean() <= 0:
        raise ValueError("the cameras look away from each other, not at a common point")
    offsets = poses[:, :3, 3] - centre
    moved = np.tile(np.eye(4), (len(poses), 1, 1))
    moved[:, :3, :3] = axes @ poses[:, :3, :3]
    moved[:, :3, 3] = offsets @ axes.T * (radius / np.linalg.norm(offsets, axis=1).mean())
    return moved
