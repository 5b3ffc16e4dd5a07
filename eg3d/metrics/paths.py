"""Perceptual path length: how far pictures move, for LPIPS, when their style moves (Karras et al. 2019, section 4.1)."""

from __future__ import annotations

from typing import Callable

import torch.nn.functional as F
from torch import Tensor

from eg3d.metrics.detectors import Detector
from eg3d.metrics.fakes import Work, in_colour

EPSILON = 1e-4  # of the way from one style to another
LARGEST = 256  # pixels along a side of what VGG sees


def path_distances(work: Work, detector: Detector, count: int) -> Callable[[int, int], Tensor]:
    """A `make` of items' distances [n, 1], LPIPS / EPSILON^2, at the beginning of the way from item i to item count + i.

    Both ends have item i's label. Official: other labels at both ends, which crashes on EG3D. Noise and the jitter of depths
    are the same for the two pictures, and no layer rounds to float16, or that would be what is measured.
    """
    def seen(ws: Tensor, c: Tensor, first: int) -> Tensor:
        work.seeded(first)
        picture = work.G.synthesis(ws, c, noise_mode="random", force_fp32=True)["image"]
        if picture.shape[-1] > LARGEST:
            picture = F.avg_pool2d(picture, picture.shape[-1] // LARGEST)
        return detector.perceptual((in_colour(picture) + 1) * 127.5)

    def make(first: int, end: int) -> Tensor:
        z, c = work.latents(first, end)
        other, _ = work.latents(first + count, end + count)
        w, other_w = [work.G.mapping(some, c) for some in (z, other)]
        moved = seen(w.lerp(other_w, EPSILON), c, first) - seen(w, c, first)
        return moved.square().sum(1, keepdim=True) / EPSILON**2

    return make


def mean_over(distances: Tensor, low: float = 0.01, high: float = 0.99) -> float:
    """Mean of those distances [N] that lie between two quantiles, both included."""
    least, most = distances.quantile(low, interpolation="lower"), distances.quantile(high, interpolation="higher")
    return float(distances[(distances >= least) & (distances <= most)].mean())
