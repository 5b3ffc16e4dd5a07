"""Whether a network's pictures are of one solid: three metrics that need neither detector nor real pictures.

Depth is the distance along the unit ray through a pixel's centre; labels and frames are those of docs/conventions.md.
Colours are in [-1, 1]. Notation: N pictures of R x R pixels.
"""

from __future__ import annotations

import math
from typing import Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from training.labels import unpack
from training.volumetric_rendering.ray_sampler import RaySampler

OCCLUDED = 0.02  # box sides: a point that lies farther behind what the other camera sees is hidden from it
SMALLEST_ERROR = 1e-10  # mean squared, so that equal pictures have a finite ratio


def points(depth: Tensor, c: Tensor) -> Tensor:
    """Where in the world the pixels lie: [N, R * R, 3], row by row, of depth [N, 1, R, R] seen by labels c [N, 25]."""
    origins, directions = RaySampler()(*unpack(c), depth.shape[-1])
    return origins + depth.flatten(1)[..., None] * directions


def seen_by(places: Tensor, c: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
    """How cameras c [N, 25] see world points [N, M, 3].

    Returns where in the picture ([N, M, 2], x and y from 0 to 1), how far from the camera's centre [N, M], and whether the
    point is before the camera [N, M].
    """
    pose, K = unpack(c)
    in_camera = (places - pose[:, None, :3, 3]) @ pose[:, :3, :3]  # the rotation's transpose, on rows
    before = in_camera[..., 2] > 1e-6
    plane = in_camera / torch.where(before, in_camera[..., 2], 1.0)[..., None]
    where = (plane @ K.transpose(1, 2))[..., :2]
    return where, in_camera.norm(dim=-1), before


def reprojection(picture: Tensor, depth: Tensor, c: Tensor, other: Tensor, other_depth: Tensor, other_c: Tensor,
                 tolerance: float) -> Tuple[Tensor, Tensor]:
    """Another view's colours, carried along the depth into this one, against this one's.

    Pictures are [N, 3, R, R], depths [N, 1, R, R], labels [N, 25]. A pixel is covered if its point lies among the
    other picture's pixel centres, and the surface there is not nearer to that camera by more than `tolerance` (world units).
    Returns the absolute error of each pixel, mean over channels, in shares of the range of colours, and what is covered, both
    [N, R * R].
    """
    where, distance, before = seen_by(points(depth, c), other_c)
    among = ((where - 0.5).abs() <= 0.5 - 0.5 / other.shape[-1]).all(-1)
    grid = (where * 2 - 1)[:, None]  # [N, 1, M, 2]
    options = dict(mode="bilinear", align_corners=False)
    carried = F.grid_sample(other, grid, **options)[:, :, 0]
    surface = F.grid_sample(other_depth, grid, **options)[:, 0, 0]
    error = (carried - picture.flatten(2)).abs().mean(1) / 2
    return error, before & among & (distance - surface <= tolerance)


def flatness(depth: Tensor, c: Tensor) -> Tuple[Tensor, Tensor]:
    """How deep the surfaces that depth [N, 1, R, R] shows to cameras c [N, 25] are, in world units, [N] each.

    First the deviation of their points' distance from the camera's plane, which is 0 for a picture on a wall; then their root
    mean square distance from the plane that fits them best, which is 0 for a tilted wall, too.
    """
    places = points(depth, c).double()
    pose, _ = unpack(c.double())
    along = (places @ pose[:, :3, 2, None])[..., 0]
    centred = places - places.mean(1, keepdim=True)
    smallest = torch.linalg.eigvalsh(centred.transpose(1, 2) @ centred / centred.shape[1])[:, 0]
    return along.std(1, correction=0), smallest.clamp(min=0).sqrt()


def raw_error(image: Tensor, image_raw: Tensor) -> Tensor:
    """Mean squared difference, [N], of pictures [N, 3, H, W], shrunk to the size of [N, 3, R, R], from those."""
    return (shrunk(image, image_raw.shape[-1]).clamp(-1, 1) - image_raw.clamp(-1, 1)).square().mean((1, 2, 3))


def signal_to_noise(error: float) -> float:
    """PSNR in decibels of a mean squared error of colours in [-1, 1]; at most 106."""
    return 10 * math.log10(2**2 / max(error, SMALLEST_ERROR))


def shrunk(pictures: Tensor, resolution: int) -> Tensor:
    """[N, C, H, W] -> [N, C, resolution, resolution], antialiased."""
    if pictures.shape[-1] == resolution:
        return pictures
    return F.interpolate(pictures, (resolution, resolution), mode="bilinear", align_corners=False, antialias=True)
