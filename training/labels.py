"""Labels: the 25 numbers that say where a camera stands and how it sees.

A label c holds the 4x4 camera-to-world matrix, then the 3x3 intrinsics, row by row. The camera is OpenCV's (x right, y down,
z into the scene), the world is y-up, intrinsics are divided by the picture's width and height. See docs/conventions.md.
"""

from __future__ import annotations

from typing import Any, Optional, Tuple, TypeVar, Union

import numpy as np
import torch
from torch import Tensor

SIZE = 25
ROTATION_TOLERANCE = 1e-3  # of a label's rotation from an orthonormal one: files round to some digits
LARGEST = 1e6  # of a label's numbers
SMALLEST_FOCAL = 1e-3
LARGEST_FOCAL = 1e3  # in picture widths; labels in pixels are beyond
FARTHEST_CENTRE = 2.0  # of the principal point from the picture's middle, in picture widths

Labels = TypeVar("Labels", bound=Union[Tensor, np.ndarray])


def pack(pose: Tensor, K: Tensor) -> Tensor:
    """[N, 25] from poses [N, 4, 4] and one [3, 3] (or [N, 3, 3]) of intrinsics."""
    flat = K.expand(len(pose), 3, 3).reshape(-1, 9)
    return torch.cat([pose.reshape(-1, 16), flat], dim=1)


def unpack(c: Tensor) -> Tuple[Tensor, Tensor]:
    """Poses [N, 4, 4] and intrinsics [N, 3, 3] of labels [N, 25]."""
    return c[:, :16].reshape(-1, 4, 4), c[:, 16:25].reshape(-1, 3, 3)


def mirrored(c: Labels) -> Labels:
    """Labels [..., 25] of the pictures flipped left to right: the scene is mirrored at the plane x = 0."""
    signs = np.ones(SIZE, dtype=np.float32)
    signs[[1, 2, 3, 4, 8, 17]] = -1  # pose[0, 1], [0, 2], [0, 3], [1, 0], [2, 0] and the skew
    offset = np.zeros(SIZE, dtype=np.float32)
    signs[18], offset[18] = -1, 1  # the principal point: 1 - cx
    if isinstance(c, Tensor):
        return c * torch.from_numpy(signs).to(c) + torch.from_numpy(offset).to(c)
    return c * signs.astype(c.dtype) + offset.astype(c.dtype)


def problem(numbers: Any) -> Optional[str]:
    """What is wrong with a list that should be a label, in words that follow its name; None if nothing is."""
    if not isinstance(numbers, list) or len(numbers) != SIZE:
        found = f"has {len(numbers)} numbers" if isinstance(numbers, list) else f"is a {type(numbers).__name__}"
        return f"{found}, expected {SIZE}: a 4x4 camera-to-world matrix and 3x3 intrinsics, row by row"
    if not all(isinstance(x, (int, float)) and not isinstance(x, bool) and abs(x) < LARGEST for x in numbers):
        return "holds what is no number, or far too large a one"
    pose = np.array(numbers[:16], dtype=np.float64).reshape(4, 4)
    rotation = pose[:3, :3]
    if np.abs(rotation @ rotation.T - np.eye(3)).max() > ROTATION_TOLERANCE or np.linalg.det(rotation) < 0:
        return "has a matrix whose upper left 3x3 is no rotation"
    if np.abs(pose[3] - [0, 0, 0, 1]).max() > ROTATION_TOLERANCE:
        return "has a matrix whose last row is not 0, 0, 0, 1"
    if min(numbers[16], numbers[20]) < SMALLEST_FOCAL:
        return "has a focal length that is not positive"
    if np.abs(np.array(numbers[22:]) - [0, 0, 1]).max() > ROTATION_TOLERANCE:
        return "has intrinsics whose last row is not 0, 0, 1"
    if max(numbers[16], numbers[20]) > LARGEST_FOCAL or max(abs(numbers[18] - 0.5), abs(numbers[21] - 0.5)) > FARTHEST_CENTRE:
        return "has intrinsics in pixels: divide them by the picture's width and height"
    return None
