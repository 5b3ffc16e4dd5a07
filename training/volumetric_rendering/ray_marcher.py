"""Volume rendering by quadrature with midpoints (Max 1995; Mip-NeRF's variant, Barron et al. 2021).

Notation: N batch, M rays, S samples along a ray, C channels. Depth is distance along the ray.
"""

from typing import Mapping, NamedTuple, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

DENSITY_SHIFT = 1.0  # softplus(density - 1): Mip-NeRF's bias, so that space starts out nearly empty
TRANSMITTANCE_EPS = 1e-10  # keeps the running product above zero


class Composite(NamedTuple):
    """What rays show; depth is not yet limited to the depths of the whole call."""

    rgb: Tensor  # [N, M, C] in [-1, 1]
    depth: Tensor  # [N, M, 1], inf where nothing was met
    weights: Tensor  # [N, M, S - 1, 1]


def check_clamp_mode(options: Mapping) -> None:
    """Raises ValueError for what makes densities positive, unless it is softplus."""
    if options["clamp_mode"] != "softplus":
        raise ValueError(f"clamp_mode={options['clamp_mode']!r}: only softplus exists")


def composite(colors: Tensor, densities: Tensor, depths: Tensor, options: Mapping) -> Composite:
    """Blends samples in order of depth; arguments as MipRayMarcher2's.

    Each interval takes the mean of its two ends, absorbs alpha = 1 - exp(-sigma * delta), and is seen through
    the product of 1 - alpha of those before it.
    """
    check_clamp_mode(options)
    color, density, depth = [(x[:, :, 1:] + x[:, :, :-1]) / 2 for x in (colors, densities, depths)]
    alpha = 1 - torch.exp(-F.softplus(density - DENSITY_SHIFT) * (depths[:, :, 1:] - depths[:, :, :-1]))
    through = torch.cumprod(1 - alpha + TRANSMITTANCE_EPS, dim=2)
    through = torch.cat([torch.ones_like(through[:, :, :1]), through[:, :, :-1]], dim=2)
    weights = alpha * through
    total = weights.sum(dim=2)
    rgb = (weights * color).sum(dim=2)
    if options.get("white_back", False):
        rgb = rgb + 1 - total
    distance = torch.nan_to_num((weights * depth).sum(dim=2) / total, nan=torch.inf)
    return Composite(rgb * 2 - 1, distance, weights)


class MipRayMarcher2(torch.nn.Module):
    """The compositing step as a module; checkpoints store this class by name."""

    def forward(
        self,
        colors: Tensor,  # [N, M, S, C] in [0, 1]
        densities: Tensor,  # [N, M, S, 1], before softplus
        depths: Tensor,  # [N, M, S, 1], ascending along S
        rendering_options: Mapping,  # clamp_mode, white_back
    ) -> Tuple[Tensor, Tensor, Tensor]:
        """Returns colours [N, M, C] in [-1, 1], depth [N, M, 1] within the call's depths, weights [N, M, S - 1, 1]."""
        rgb, depth, weights = composite(colors, densities, depths, rendering_options)
        return rgb, depth.clamp(depths.min(), depths.max()), weights
