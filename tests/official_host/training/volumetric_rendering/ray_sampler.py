"""Stand-in for the official module of this name, written for a test."""

import torch


class RaySampler(torch.nn.Module):
    def forward(self, cam2world_matrix, intrinsics, resolution):
        """Through every pixel's centre, rows first: unproject with the inverse of K, turn, move."""
        at = (torch.arange(resolution) + 0.5) / resolution
        pixels = torch.stack([at.repeat(resolution), at.repeat_interleave(resolution), torch.ones(resolution**2)])
        directions = cam2world_matrix[:, :3, :3] @ torch.linalg.inv(intrinsics) @ pixels  # [N, 3, M]
        directions = (directions / directions.norm(dim=1, keepdim=True)).transpose(1, 2)
        return cam2world_matrix[:, None, :3, 3].repeat(1, resolution**2, 1), directions
