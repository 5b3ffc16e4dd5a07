"""Rays through pixel centres. Frames and units: docs/conventions.md."""

from typing import Tuple

import torch
from torch import Tensor


class RaySampler(torch.nn.Module):
    """One ray a pixel, in rows from the top left.

    Checkpoints store this class by name with five attributes that are always None.
    """

    def __init__(self):
        super().__init__()
        self.ray_origins_h = self.ray_directions = self.depths = self.image_coords = self.rendering_options = None

    def forward(
        self,
        cam2world_matrix: Tensor,  # [N, 4, 4]
        intrinsics: Tensor,  # [N, 3, 3], divided by the image size
        resolution: int,
    ) -> Tuple[Tensor, Tensor]:
        """Returns origins and unit directions in world space, [N, resolution^2, 3] each."""
        centres = (torch.arange(resolution, dtype=torch.float32, device=cam2world_matrix.device) + 0.5) / resolution
        v, u = [axis.reshape(1, -1) for axis in torch.meshgrid(centres, centres, indexing="ij")]
        fx, fy, cx, cy, skew = [
            intrinsics[:, row, column, None] for row, column in ((0, 0), (1, 1), (0, 2), (1, 2), (0, 1))]
        # The inverse of K = [[fx, skew, cx], [0, fy, cy], [0, 0, 1]] on (u, v, 1): the point at depth 1.
        y = (v - cy) / fy
        x = (u - cx - skew * y) / fx
        in_camera = torch.stack([x, y, torch.ones_like(x)], dim=-1)
        directions = torch.nn.functional.normalize(in_camera @ cam2world_matrix[:, :3, :3].transpose(1, 2), dim=-1)
        origins = cam2world_matrix[:, None, :3, 3].expand_as(directions)
        return origins, directions
