"""Fitting a field to the views of a scene, and looking at it.

Rays of random pixels are rendered by the GAN's renderer; Adam takes the squared error of their colours down. Behind the box
lies one colour, which is fitted too: plain backgrounds need no fog at the box's walls.

Notation: M rays, V views of R x R pixels.
"""

from __future__ import annotations

import dataclasses
import errno
import functools
import math
import os
import time
from typing import Callable, Dict, List, Optional, Tuple, Union

import numpy as np
import skimage.metrics
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from dnnlib.util import written_beside
from eg3d.fitting.fields import KINDS, FieldRenderer
from eg3d.fitting.views import Scene
from training.labels import unpack
from training.volumetric_rendering.ray_sampler import RaySampler

SAMPLES, VIEW_SAMPLES = 16, 32  # of each pass: of rays that are fitted, and of pictures
RAYS = 256  # of a step: many small steps come further than few large ones
LOOKS = 12  # times that the error on held-out views is measured on the way
LOOKED_AT = 2048  # of their pixels, to be quick
WARM_UP, LAST_RATE = 0.02, 0.05  # of the schedule: its first share, and the learning rate's at the end
RAYS_AT_ONCE = 8192  # when a picture is rendered
POINTS_AT_ONCE = 1 << 16
BACKGROUND_RATE = 1e-2


@dataclasses.dataclass
class Moment:
    """How good the fit was after so much work."""

    seconds: float  # of fitting; looking does not count
    steps: int
    psnr: float  # decibels, over some pixels of the held-out views


class Fitted(torch.nn.Module):
    """A field with what is behind it: renders pictures, and is a session for eg3d.shapes (box, density, colors)."""

    def __init__(self, kind: str, box: float, ray_start: float, ray_end: float, background: Optional[Tensor] = None):
        """A new field of a `kind`; `background` is a colour [3] between 0 and 1, else grey."""
        super().__init__()
        self.kind, self.box = kind, box
        self.field = KINDS[kind](box)
        self.background = torch.nn.Parameter(torch.zeros(3) if background is None else torch.logit(background))
        self.renderer = FieldRenderer()
        self.options = dict(ray_start=ray_start, ray_end=ray_end, box_warp=box, clamp_mode="softplus",
                            disparity_space_sampling=False)

    def save(self, path: os.PathLike) -> None:
        """Writes what `load` reads: parameters, and what the field is in the file's metadata."""
        about = dict(representation=self.kind, box=self.box,
                     ray_start=self.options["ray_start"], ray_end=self.options["ray_end"])
        with written_beside(path) as temporary:
            save_file({key: tensor.cpu().contiguous() for key, tensor in self.state_dict().items()}, temporary,
                      metadata={key: str(value) for key, value in about.items()})

    def rays(self, origins: Tensor, directions: Tensor, samples: int,
             generator: Optional[torch.Generator] = None) -> Dict[str, Tensor]:
        """Colours [M, 3] in [0, 1], depth [M] and coverage [M] of rays [M, 3]; so many samples in each of two passes."""
        options = dict(self.options, depth_resolution=samples, depth_resolution_importance=samples, generator=generator)
        rgb, depth, weight = self.renderer(self.background, self.field, origins[None], directions[None], options)
        colour = (rgb[0] + 1) / 2 + (1 - weight[0]) * torch.sigmoid(self.background)
        return dict(colour=colour, depth=depth[0, :, 0], weight=weight[0, :, 0])

    @torch.inference_mode()
    def view(self, label: Tensor, resolution: int) -> Dict[str, Tensor]:
        """A picture [R, R, 3], depth [R, R] and coverage [R, R] from a label [25]."""
        origins, directions = (part[0] for part in RaySampler()(*unpack(label[None]), resolution))
        random = torch.Generator().manual_seed(0)
        chunks = zip(origins.split(RAYS_AT_ONCE), directions.split(RAYS_AT_ONCE))
        parts = [self.rays(*chunk, VIEW_SAMPLES, random) for chunk in chunks]
        joined = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
        return {key: value.reshape(resolution, resolution, *value.shape[1:]) for key, value in joined.items()}

    @torch.inference_mode()
    def density(self, points: Tensor) -> Tensor:
        """Densities [M] at world points [M, 3], before the marcher's softplus."""
        return self._at(points, lambda out: out["sigma"][0, :, 0])

    @torch.inference_mode()
    def colors(self, points: Tensor) -> Tensor:
        """Colours [M, 3] in [-1, 1]."""
        return self._at(points, lambda out: out["rgb"][0] * 2 - 1)

    def _at(self, points: Tensor, chosen: Callable[[Dict[str, Tensor]], Tensor]) -> Tensor:
        device = self.background.device
        return torch.cat([chosen(self.field(some[None].to(device))) for some in points.split(POINTS_AT_ONCE)])


def load(path: Union[str, os.PathLike], device: str = "cpu") -> Fitted:
    """A field that was saved. Raises OSError where there is no file, ValueError where it is no such file."""
    if not os.path.isfile(path):
        raise FileNotFoundError(errno.ENOENT, "no such file", os.fspath(path))
    try:
        with safe_open(path, "pt") as file:
            about = file.metadata()
        state = load_file(path)
        fitted = Fitted(about.pop("representation"), **{key: float(value) for key, value in about.items()})
        fitted.load_state_dict(state)
    except (SafetensorError, AttributeError, KeyError, TypeError, RuntimeError, ValueError) as error:
        raise ValueError(f"{os.fspath(path)}: no field that eg3d fit-scene wrote") from error
    return fitted.to(device)


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
    fitted = Fitted(kind, scene.box, scene.ray_start, scene.ray_end, scene.backdrop().clamp(0.02, 0.98)).to(device)
    fitted.field.grow(0.0)
    optimizer, base = _optimizer(fitted)
    origins, directions, colours = _all_rays(scene, scene.fitted(), device)
    held_out = _all_rays(scene, scene.held_out(), device)
    watched = torch.randperm(len(held_out[0]), generator=random)[:LOOKED_AT].to(device)
    look = functools.partial(_look, fitted, *(part[watched] for part in held_out))
    spent, step, curve, share = 0.0, 0, [], 0.0
    curve.append(look(0.0, 0))
    while share < 1:
        began = time.perf_counter()
        if fitted.field.grow(share):
            optimizer, base = _optimizer(fitted)
        for group, rate in zip(optimizer.param_groups, base):
            group["lr"] = rate * _pace(share)
        chosen = torch.randint(len(colours), (RAYS,), generator=random).to(device)
        found = fitted.rays(origins[chosen], directions[chosen], SAMPLES)
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
            curve.append(look(spent, step))
        told(min(share, 1), curve[-1])
    fitted.field.grow(1.0)  # if there were too few steps to come to it
    result = Fit(kind, fitted, spent, step, curve)
    judge(result, scene)
    return result


def _optimizer(fitted: Fitted) -> Tuple[torch.optim.Adam, List[float]]:
    """For the parameters as they are now, with their full learning rates."""
    groups = [*fitted.field.groups(), dict(params=[fitted.background], lr=BACKGROUND_RATE)]
    return torch.optim.Adam(groups, betas=(0.9, 0.99), eps=1e-12), [group["lr"] for group in groups]


def _pace(share: float) -> float:
    """Share of the learning rate: rises at once, falls as a cosine."""
    return min(share / WARM_UP + 0.05, 1) * (LAST_RATE + (1 - LAST_RATE) * (1 + math.cos(math.pi * share)) / 2)


def _all_rays(scene: Scene, views: Tensor, device: torch.device) -> Tuple[Tensor, ...]:
    """Origins, directions and colours of every pixel of some views, [M, 3] each."""
    origins, directions = RaySampler()(*unpack(scene.labels[views]), scene.pictures.shape[1])
    return tuple(part.reshape(-1, 3).to(device) for part in (origins, directions, scene.pictures[views]))


@torch.inference_mode()
def _look(fitted: Fitted, origins: Tensor, directions: Tensor, colours: Tensor, seconds: float, steps: int) -> Moment:
    found = fitted.rays(origins, directions, VIEW_SAMPLES, torch.Generator().manual_seed(0))["colour"].clamp(0, 1)
    return Moment(seconds, steps, psnr(found.cpu().numpy(), colours.cpu().numpy()))


def _seen(fitted: Fitted, scene: Scene, index: int) -> Dict[str, Tensor]:
    """What a fit shows from a view's camera: as `Fitted.view`, on the CPU, colours in [0, 1]."""
    view = fitted.view(scene.labels[index].to(fitted.background.device), scene.pictures.shape[1])
    return {"colour": view["colour"].clamp(0, 1).cpu(), "depth": view["depth"].cpu()}


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    """Decibels of two pictures in [0, 1]."""
    return -10 * math.log10(max(float(np.square(one - other).mean()), 1e-10))


def judge(result: Fit, scene: Scene) -> None:
    """Measures a fit on every held-out view."""
    seen = [(index, _seen(result.fitted, scene, index)) for index in scene.held_out().tolist()]
    pairs = [(view["colour"].numpy(), scene.pictures[index].numpy()) for index, view in seen]
    result.psnr = float(np.mean([psnr(*pair) for pair in pairs]))
    result.ssim = float(np.mean([skimage.metrics.structural_similarity(*pair, channel_axis=2, data_range=1)
                                 for pair in pairs]))
    if scene.depths is not None:
        result.depth_correlation = float(np.mean([_correlation(view["depth"], scene.depths[index]) for index, view in seen]))


def _correlation(depth: Tensor, truth: Tensor) -> float:
    """Of two depth maps [R, R], where the truth is known."""
    there = torch.isfinite(truth)
    return float(torch.corrcoef(torch.stack([depth[there], truth[there]]))[0, 1])
