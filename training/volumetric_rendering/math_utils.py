"""Where rays meet the box that the tri-planes span."""

from typing import Tuple

import torch
from torch import Tensor

MISS_NEAR, MISS_FAR = -1.0, -2.0  # limits of a ray that misses the box: far before near


def get_ray_limits_box(
    rays_o: Tensor,  # [N, M, 3]
    rays_d: Tensor,  # [N, M, 3]
    box_side_length: float,
) -> Tuple[Tensor, Tensor]:
    """Distances at which rays enter and leave the axis-aligned cube of this side around the origin.

    Returns near and far, [N, M, 1] each; -1 and -2 for a ray that misses. The slab method: Kay and Kajiya 1986.
    """
    half = box_side_length / 2
    inverse = 1 / rays_d  # an axis-parallel ray gives +-inf, which the minima and maxima below handle
    first, second = (-half - rays_o) * inverse, (half - rays_o) * inverse
    near = torch.minimum(first, second).amax(dim=-1, keepdim=True)
    far = torch.maximum(first, second).amin(dim=-1, keepdim=True)
    hit = near <= far
    return near.where(hit, near.new_tensor(MISS_NEAR)), far.where(hit, far.new_tensor(MISS_FAR))
