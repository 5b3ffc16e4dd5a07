"""Regularizers of the density field and of the discriminator (EG3D, section 4; R1: Mescheder et al. 2018).

Each returns a scalar (or one value a sample) to add to a loss. `sigma_at` maps points [N, M, 3] in world units to densities
[N, M, 1]; `batch` is N.
"""

from __future__ import annotations

from typing import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

SMOOTHNESS_POINTS = 1000  # a sample
MONOTONIC_POINTS = 2000
MONOTONIC_WEIGHT = 10
VOXELS = 256  # a step of box_warp / 256 is what "behind" and "beside" mean in the monotonic variants

Field = Callable[[Tensor], Tensor]


def random_points(batch: int, count: int, extent: float, device) -> Tensor:
    """Uniform in the cube [-extent, extent]^3, [batch, count, 3]."""
    return (torch.rand((batch, count, 3), device=device) * 2 - 1) * extent


def _pair(sigma_at: Field, points: Tensor, moved: Tensor) -> Sequence[Tensor]:
    return sigma_at(torch.cat([points, moved], dim=1)).split(points.shape[1], dim=1)


def smoothness(sigma_at: Field, batch: int, distance: float, extent: float, device) -> Tensor:
    """Mean absolute difference of density between random points and their normally distributed neighbours."""
    points = random_points(batch, SMOOTHNESS_POINTS, extent, device)
    here, beside = _pair(sigma_at, points, points + torch.randn_like(points) * distance)
    return F.l1_loss(here, beside)


def monotonicity(sigma_at: Field, batch: int, step: float, extent: float, device, detach: bool) -> Tensor:
    """Penalty where density falls from a point to the one behind it (-z); `detach` lets only the latter learn."""
    points = random_points(batch, MONOTONIC_POINTS, extent, device)
    behind = points + torch.tensor([0.0, 0.0, -step], device=device)
    front_density, behind_density = _pair(sigma_at, points, behind)
    if detach:
        front_density = front_density.detach()
    return F.relu(front_density - behind_density).mean() * MONOTONIC_WEIGHT


def r1_penalty(logits: Tensor, pictures: Sequence[Tensor]) -> Tensor:
    """Squared norm of d logits / d pictures, one value a sample, with a graph for its own gradient."""
    gradients = torch.autograd.grad(outputs=[logits.sum()], inputs=list(pictures), create_graph=True)
    return sum(gradient.square().sum(dim=(1, 2, 3)) for gradient in gradients)
