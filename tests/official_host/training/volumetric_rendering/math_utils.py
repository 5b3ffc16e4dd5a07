"""Stand-in for the official module of this name, written for a test."""

import torch


def get_ray_limits_box(rays_o, rays_d, box_side_length):
    """Near and far, [N, M, 1] each; -1 and -2 for rays that miss."""
    low, high = (-box_side_length / 2 - rays_o) / rays_d, (box_side_length / 2 - rays_o) / rays_d
    near = torch.minimum(low, high).max(dim=-1, keepdim=True).values
    far = torch.maximum(low, high).min(dim=-1, keepdim=True).values
    miss = near > far
    return near.masked_fill(miss, -1), far.masked_fill(miss, -2)
