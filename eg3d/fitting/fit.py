"""Fitting a field to the views of a scene, and looking at it.

Rays of random pixels are rendered by the GAN's renderer; Adam takes the squared error of their colours down. Behind the box lies
one colour, which is fitted too: plain backgrounds need no fog at the box's walls.

Notation: M rays, V views of R x R pixels.
"""

from __future__ import annotations

import dataclasses
import math
import time
from typing import Callable, Dict, List, Optional

import numpy as np
import skimage.metrics
import torch
from torch import Tensor

from eg3d.fitting.fields import KINDS, Field, FieldRenderer
from eg3d.fitting.views import Scene
from training.labels import unpack
from training.volumetric_rendering.ray_sampler import RaySampler

SAMPLES = 32  # of each pass
RAYS = 1024  # of a step
LOOKS = 12  # times that the error on held-out views is measured on the way
LOOKED_AT = 3  # of them, to be quick
WARM_UP, LAST_RATE = 0.02, 0.05  # of the schedule: its first share, and the learning rate's at the end
RAYS_AT_ONCE = 8192  # when a picture is rendered
BACKGROUND_RATE = 1e-2


@dataclasses.dataclass
class Moment:
    """How good the fit was after so much work."""

    seconds: float  # of fitting; looking does not count
    steps: int
    psnr: float  # decibels, over a few held-out views


class Fitted(torch.nn.Module):
    """A field with what is behind it: renders pictures, and is a session for eg3d.shapes (box, density, colors)."""

    def __init__(self, field: Field, scene: Scene):
        super().__init__()
        self.field = field
        corners = scene.pictures[:, [0, 0], [0, -1]].reshape(-1, 3)
        self.background = torch.nn.Parameter(torch.logit(corners.median(dim=0).values.clamp(0.02, 0.98)))
        self.box = scene.box
        self.renderer = FieldRenderer()
        self.options = dict(ray_start=scene.ray_start, ray_end=scene.ray_end, box_warp=scene.box, clamp_mode="softplus",
                            disparity_space_sampling=False, depth_resolution=SAMPLES, depth_resolution_importance=SAMPLES)

    def rays(self, origins: Tensor, directions: Tensor, generator: Optional[torch.Generator] = None) -> Dict[str, Tensor]:
        """Colours [M, 3] in [0, 1], depth [M] and coverage [M] of rays [M, 3]."""
        rgb, depth, weight = self.renderer(self.background, self.field, origins[None], directions[None],
                                           dict(self.options, generator=generator))
        colour = (rgb[0] + 1) / 2 + (1 - weight[0]) * torch.sigmoid(self.background)
        return dict(colour=colour, depth=depth[0, :, 0], weight=weight[0, :, 0])

    @torch.inference_mode()
    def view(self, label: Tensor, resolution: int) -> Dict[str, Tensor]:
        """A picture [R, R, 3], depth [R, R] and coverage [R, R] from a label [25]."""
        origins, directions = (part[0] for part in RaySampler()(*unpack(label[None]), resolution))
        random = torch.Generator().manual_seed(0)
        parts = [self.rays(*some, random) for some in zip(origins.split(RAYS_AT_ONCE), directions.split(RAYS_AT_ONCE))]
        joined = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
        return {key: value.reshape(resolution, resolution, *value.shape[1:]) for key, value in joined.items()}

    @torch.inference_mode()
    def density(self, points: Tensor) -> Tensor:
        """Densities [M] at world points [M, 3], before the marcher's softplus."""
        return torch.cat([self.field(some[None])["sigma"][0, :, 0] for some in points.split(1 << 16)])

    @torch.inference_mode()
    def colors(self, points: Tensor) -> Tensor:
        """Colours [M, 3] in [-1, 1]."""
        return torch.cat([self.field(some[None])["rgb"][0] * 2 - 1 for some in points.split(1 << 16)])


@dataclasses.dataclass
class Fit:
    """What a fit came to."""

    kind: str
    fitted: Fitted
    seconds: float
    steps: int
    curve: List[Moment]
    psnr: float = math.nan  # over all held-out views
    ssim: float = math.nan
    depth_correlation: Optional[float] = None  # with the truth, over what the scene covers

    def numbers(self) -> dict:
        """What tables hold."""
        return dict(representation=self.kind, seconds=self.seconds, steps=self.steps, psnr=self.psnr, ssim=self.ssim,
                    depth_correlation=self.depth_correlation, megabytes=self.fitted.field.size() / 1e6,
                    curve=[dataclasses.asdict(moment) for moment in self.curve])


def fit(scene: Scene, kind: str, seconds: float, steps: Optional[int], seed: int, device: torch.device,
        told: Callable[[float, Moment], None] = lambda share, moment: None) -> Fit:
    """Fits a field of a `kind` for so many seconds, or `steps` steps if that is less.

    `told(share of the work, newest moment)` is called after every step. The same steps give the same field on one machine, if
    time does not end them.
    """
    torch.manual_seed(seed)
    random = torch.Generator().manual_seed(seed)
    fitted = Fitted(KINDS[kind](scene.box), scene).to(device)
    optimizer = torch.optim.Adam([*fitted.field.groups(), dict(params=[fitted.background], lr=BACKGROUND_RATE)],
                                 betas=(0.9, 0.99), eps=1e-12)
    base = [group["lr"] for group in optimizer.param_groups]
    origins, directions, colours = _all_rays(scene, device)
    spent, step, curve, share = 0.0, 0, [], 0.0
    curve.append(_look(fitted, scene, 0.0, 0))
    while share < 1:
        began = time.perf_counter()
        for group, rate in zip(optimizer.param_groups, base):
            group["lr"] = rate * _pace(share)
        chosen = torch.randint(len(colours), (RAYS,), generator=random).to(device)
        found = fitted.rays(origins[chosen], directions[chosen])
        loss = (found["colour"] - colours[chosen]).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        step += 1
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        spent += time.perf_counter() - began
        share = max(spent / seconds, step / steps if steps else 0.0)
        if share >= len(curve) / LOOKS or share >= 1:
            curve.append(_look(fitted, scene, spent, step))
        told(min(share, 1), curve[-1])
    result = Fit(kind, fitted, spent, step, curve)
    judge(result, scene)
    return result


def _pace(share: float) -> float:
    """Share of the learning rate: rises at once, falls as a cosine."""
    return min(share / WARM_UP + 0.05, 1) * (LAST_RATE + (1 - LAST_RATE) * (1 + math.cos(math.pi * share)) / 2)


def _all_rays(scene: Scene, device: torch.device):
    """Origins, directions and colours of every pixel of the fitted views, [M, 3] each."""
    views = scene.fitted()
    origins, directions = RaySampler()(*unpack(scene.labels[views]), scene.pictures.shape[1])
    return tuple(part.reshape(-1, 3).to(device) for part in (origins, directions, scene.pictures[views]))


def _look(fitted: Fitted, scene: Scene, seconds: float, steps: int) -> Moment:
    held = scene.held_out()
    some = held[:: max(len(held) // LOOKED_AT, 1)][:LOOKED_AT]
    return Moment(seconds, steps, float(np.mean([psnr(*_pair(fitted, scene, int(index))) for index in some])))


def _pair(fitted: Fitted, scene: Scene, index: int):
    """What is rendered and what is true of a view, [R, R, 3]."""
    device = fitted.background.device
    rendered = fitted.view(scene.labels[index].to(device), scene.pictures.shape[1])["colour"].clamp(0, 1).cpu()
    return rendered.numpy(), scene.pictures[index].numpy()


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    """Decibels of two pictures in [0, 1]."""
    return -10 * math.log10(max(float(np.square(one - other).mean()), 1e-10))


def judge(result: Fit, scene: Scene) -> None:
    """Measures a fit on every held-out view."""
    found = [_pair(result.fitted, scene, int(index)) for index in scene.held_out()]
    result.psnr = float(np.mean([psnr(*pair) for pair in found]))
    result.ssim = float(np.mean([skimage.metrics.structural_similarity(*pair, channel_axis=2, data_range=1)
                                 for pair in found]))
    if scene.depths is not None:
        result.depth_correlation = float(np.mean([_depth_correlation(result.fitted, scene, int(index))
                                                  for index in scene.held_out()]))


def _depth_correlation(fitted: Fitted, scene: Scene, index: int) -> float:
    truth = scene.depths[index]
    there = torch.isfinite(truth)
    label = scene.labels[index].to(fitted.background.device)
    depth = fitted.view(label, truth.shape[-1])["depth"].cpu()
    return float(torch.corrcoef(torch.stack([depth[there], truth[there]]))[0, 1])
