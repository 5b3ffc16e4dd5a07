"""Bilinear look-up under the name that official sources call.

The augmentation pipeline is its caller. R1 is taken after augmentation, so PyTorch's own operator, which has a first
derivative, is all that training needs.
"""

import torch.nn.functional as F
from torch import Tensor


def grid_sample(
    input: Tensor,  # [N, C, H, W]
    grid: Tensor,  # [N, h, w, 2], (x, y) in [-1, 1]
) -> Tensor:
    """Returns [N, C, h, w]: bilinear, zeros outside, pixel centres at (i + 0.5) / size."""
    return F.grid_sample(input, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
