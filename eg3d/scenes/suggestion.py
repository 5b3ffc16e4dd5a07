"""What `train.py --cfg=custom` should be told, from the cameras of the data."""

from __future__ import annotations

import itertools
import math
from typing import Any, Dict

import numpy as np

from eg3d.scenes.geometry import depths, nearest_point

PICTURE_POINTS = np.array([[u, v, 1.0] for u, v in itertools.product((0.0, 0.5, 1.0), repeat=2)]).T  # corners to middle


def suggest(labels: np.ndarray) -> Dict[str, Any]:
    """ray_start, ray_end, box_warp, radius, pivot and focal for labels [N, 25], in world units, not rounded.

    pivot: the point nearest to the optical axes. radius: mean distance of the cameras from the WORLD's origin, about which the
    camera sampler turns. focal: the median. box_warp: the smallest cube about the origin that holds what is seen, a sphere
    about the pivot that reaches the corners of the average picture: its radius is sqrt(2) / 2 * depth of the pivot / focal.
    ray_start, ray_end: so that rays of every camera cover that sphere, and those of the average camera the cube where it
    sees it.
    The released networks have box 1, rays 2.25 to 3.3 (faces) and 1.6, 0.1 to 2.6 (cars). Cameras spread like theirs give
    1.23, 1.99 to 3.47 (FFHQ), 1.03, 2.10 to 3.34 (AFHQ) and 1.41, 0.80 to 2.55 (cars).
    Raises ValueError where the cameras look at no common point.
    """
    labels = np.asarray(labels, dtype=np.float64)
    poses, K = labels[:, :16].reshape(-1, 4, 4), labels[:, 16:].reshape(-1, 3, 3)
    pivot = nearest_point(poses)
    depth = depths(poses, pivot)
    if depth.mean() <= 0:
        raise ValueError("the cameras look away from each other, not at a common point")
    focal = float(np.median((K[:, 0, 0] + K[:, 1, 1]) / 2))
    seen = depth.mean() / focal * math.sqrt(0.5)
    half = np.abs(pivot).max() + seen
    near, far = _range(poses, K, half)
    radius = _distance(poses[:, :3, 3]).mean()
    return dict(ray_start=float(max(min(near, depth.min() - seen), 0)), ray_end=float(max(far, depth.max() + seen)),
                box_warp=float(2 * half), radius=float(radius), pivot=pivot.tolist(), focal=focal)


def _distance(vectors: np.ndarray) -> np.ndarray:
    return np.linalg.norm(vectors, axis=-1)


def _range(poses: np.ndarray, K: np.ndarray, half: float):
    """Mean distance from the cameras of a box of half side `half`, and at which the last of their rays leaves it."""
    origins = poses[:, :3, 3]
    nearest = _distance(origins - origins.clip(-half, half)).mean()
    rays = (poses[:, :3, :3] @ np.linalg.inv(K) @ PICTURE_POINTS).transpose(0, 2, 1)  # [N, 9, 3]
    rays /= _distance(rays)[..., None]
    rays[rays == 0] = np.finfo(rays.dtype).tiny
    sides = (np.array([[[-half]], [[half]]])[..., None] - origins[:, None]) / rays  # [2, N, 9, 3]: where rays cross the planes
    enter, leave = sides.min(axis=0).max(axis=-1), sides.max(axis=0).min(axis=-1)
    last = np.where(enter < leave, leave, 0).max(axis=1)
    return nearest, last[last > 0].mean()
