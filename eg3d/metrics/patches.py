"""Sliced Wasserstein distance between patches of real and generated pictures: a metric that needs no trained detector.

After Karras et al. 2018, section 5: patches of 7x7 pixels at random places in every level of a Laplacian pyramid, and the
distance of their distributions along random directions. Official: each side is normalized by its own mean and deviation,
which hides wrong colours and contrast; here both are by those of the real side.

Notation: N pictures, C channels, P patches of a picture, D = C * 49 numbers of a patch.
"""

from __future__ import annotations

from typing import Dict, List

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

SIDE = 7  # pixels of a patch
PATCHES = 128  # of a picture, in each level
DIRECTIONS, AT_ONCE = 512, 32
COARSEST = 16  # pixels along a side of the pyramid's last level; it has two levels at least
SMALLEST = 16  # pixels along a side of a picture
TAPS = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)  # Burt and Adelson 1983


def levels(resolution: int) -> List[int]:
    """Sides of a pyramid's levels in pixels, from the finest. Raises ValueError for pictures that are too small."""
    if resolution < SMALLEST:
        raise ValueError(f"pictures of {resolution} pixels a side are too small for swd, which takes {SMALLEST} or more")
    sides = [resolution, resolution // 2]
    while sides[-1] // 2 >= COARSEST:
        sides.append(sides[-1] // 2)
    return sides


def pyramid(pictures: Tensor) -> List[Tensor]:
    """Laplacian pyramid of [N, C, R, R] (an even R): what each halving loses, and what is left at last."""
    found = []
    for _ in levels(pictures.shape[-1])[1:]:
        small = _blurred(pictures)[:, :, ::2, ::2]
        spread = torch.zeros_like(pictures)
        spread[:, :, ::2, ::2] = small * 4
        found.append(pictures - _blurred(spread))
        pictures = small
    return [*found, pictures]


def _blurred(x: Tensor) -> Tensor:
    taps = torch.tensor(TAPS, dtype=x.dtype, device=x.device)
    channels = x.shape[1]
    x = F.pad(x, (2, 2, 2, 2), mode="reflect")
    x = F.conv2d(x, taps.reshape(1, 1, 1, 5).expand(channels, 1, 1, 5), groups=channels)
    return F.conv2d(x, taps.reshape(1, 1, 5, 1).expand(channels, 1, 5, 1), groups=channels)


def descriptors(pictures: Tensor, seed: int) -> Tensor:
    """float32 [N, levels, P, C, 7, 7] of uint8 [N, C, R, R]: patches of every level, at places that follow from the seed."""
    random = np.random.RandomState(seed)
    found = []
    for level in pyramid(pictures.float() / 127.5 - 1):
        count, channels, side = level.shape[:3]
        places = random.randint(0, side - SIDE + 1, [count, PATCHES, 2])
        y, x = [torch.from_numpy(axis).to(level.device)[..., None] + torch.arange(SIDE, device=level.device)
                for axis in (places[..., 0], places[..., 1])]  # [N, P, 7]
        flat = (y[..., :, None] * side + x[..., None, :]).reshape(count, 1, -1).expand(-1, channels, -1)
        patches = level.reshape(count, channels, -1).gather(2, flat)
        found.append(patches.reshape(count, channels, PATCHES, SIDE, SIDE).transpose(1, 2))
    return torch.stack(found, dim=1)


def sliced_wasserstein(a: Tensor, b: Tensor, seed: int = 0) -> float:
    """Mean over random directions of the Wasserstein-1 distance of two sets of descriptors [M, D], projected on each.

    Raises ValueError where one has more than the other.
    """
    if a.shape != b.shape:
        raise ValueError(f"sliced Wasserstein distance of {list(a.shape)} and {list(b.shape)}: give equally many descriptors")
    random = np.random.RandomState(seed)
    total = 0.0
    for _ in range(DIRECTIONS // AT_ONCE):
        directions = random.randn(a.shape[1], AT_ONCE).astype(np.float32)
        directions /= np.linalg.norm(directions, axis=0)
        one, other = [(side @ torch.from_numpy(directions).to(side)).sort(dim=0).values for side in (a, b)]
        total += float((one - other).abs().mean(dtype=torch.float64)) * AT_ONCE
    return total / DIRECTIONS


def distances(real: Tensor, fake: Tensor, sides: List[int], seed: int = 0) -> Dict[str, float]:
    """Of descriptors [N, levels, P, C, 7, 7]: one per level ("level64": 64 pixels along a side), and their "mean"."""
    found = {}
    for index, side in enumerate(sides):
        pair = [some[:, index].flatten(0, 1) for some in (real, fake)]  # [N * P, C, 7, 7]
        deviation, mean = torch.std_mean(pair[0], dim=(0, 2, 3), keepdim=True, correction=0)
        scaled = [((some - mean) / deviation.clamp(min=1e-8)).flatten(1) for some in pair]
        found[f"level{side}"] = sliced_wasserstein(*scaled, seed)
    return dict(mean=float(np.mean(list(found.values()))), **found)


def picture_distance(real: Tensor, fake: Tensor, seed: int = 0) -> Dict[str, float]:
    """`distances` of pictures, uint8 [N, C, R, R] each, R a power of two of 16 or more. Lower is better.

    Raises ValueError for pictures that are smaller, or more on one side.
    """
    return distances(descriptors(real, seed), descriptors(fake, seed), levels(real.shape[-1]), seed)
