"""Posed views of one scene, to fit and to judge by: rendered heads, NeRF's or COLMAP's data, or a data set of one scene.

Notation: V views of R x R pixels.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
from typing import List, Optional

import numpy as np
import torch
from torch import Tensor

from eg3d import cameras
from eg3d.scenes import sources, suggestion
from eg3d.scenes.pictures import Form, decoded, made
from training import labels
from training.config import PRESETS

HELD_OUT = 8  # every eighth view is not fitted
LEAST = 2 * HELD_OUT
HEADS = re.compile(r"heads:(\d{1,9})")
HEAD_YAW, HEAD_PITCH = 1.2, 0.5  # radians to both sides, that views of a head are spread over
NARROWEST = 20.0  # degrees that a film shows
FULL_TURN = 300  # degrees of the cameras from which a film goes all the way round


@dataclasses.dataclass
class Scene:
    """Views, and where what they show lies."""

    name: str
    pictures: Tensor  # float32 [V, R, R, 3] in [0, 1]
    labels: Tensor  # float32 [V, 25]
    ray_start: float
    ray_end: float
    box: float  # side of the box around the world's origin that holds the scene
    radius: float  # distance of the cameras from the origin
    pivot: tuple
    focal: float
    depths: Optional[Tensor] = None  # [V, R, R] where it is known; NaN beside the scene

    def held_out(self) -> Tensor:
        """Numbers of the views that are not fitted."""
        return torch.arange(HELD_OUT // 2, len(self.pictures), HELD_OUT)

    def fitted(self) -> Tensor:
        """Numbers of the others."""
        held = set(self.held_out().tolist())
        return torch.tensor([index for index in range(len(self.pictures)) if index not in held])

    def backdrop(self) -> Tensor:
        """The colour [3] of the corners of views that are fitted."""
        return self.pictures[self.fitted()][:, [0, 0], [0, -1]].reshape(-1, 3).median(dim=0).values

    def path(self, frames: int) -> Tensor:
        """Labels [frames, 25] of a film, as high as the middle view: to and fro over the views' width, or around."""
        places = self.labels[:, [3, 7, 11]]
        width = 2 * float(torch.rad2deg(torch.atan2(places[:, 0], places[:, 2])).abs().quantile(0.9))
        upward = (places[:, 1] / places.norm(dim=1)).median()
        pitch = math.pi / 2 * (1 - float(upward)) - cameras.FRONTAL  # cameras' heights are cos(phi) = 1 - 2 pitch / pi
        kwargs = dict(avg_camera_radius=self.radius, avg_camera_pivot=self.pivot)
        degrees = 360 if width > FULL_TURN else max(width, NARROWEST)
        return cameras.orbit(kwargs, frames, degrees, pitch, self.focal)


def opened(scene: str, count: int, resolution: int) -> Scene:
    """heads:SEED (`count` views are rendered), a folder or zip of posed pictures, or a transforms.json.

    count: at most so many views. resolution: pixels along a side. Raises ValueError with one line, and OSError.
    """
    match = HEADS.fullmatch(scene)
    if match is not None:
        return _head(int(match[1]), count, resolution)
    if scene.startswith("heads:"):
        raise ValueError(f"--scene={scene}: write it like heads:0, with a whole number below a thousand million")
    path = os.path.expanduser(scene)
    if os.path.basename(path) == "transforms.json":
        if not os.path.isfile(path):
            raise ValueError(f"{path}: is not there")
        path = os.path.dirname(path) or "."
    return _posed(path, count, resolution)


def _head(seed: int, count: int, resolution: int) -> Scene:
    """A rendered head, seen from all over the front: a lattice whose points are spread evenly."""
    from eg3d.scenes.heads import collection, studio

    head = studio.Studio().head(seed)
    index = np.arange(count)
    golden = (math.sqrt(5) - 1) / 2
    yaws, pitches = HEAD_YAW * (2 * ((index + 0.5) / count) - 1), HEAD_PITCH * (2 * ((index * golden + 0.5) % 1) - 1)
    found = [collection.label(float(yaw), float(pitch)) for yaw, pitch in zip(yaws, pitches)]
    views = [head.view(label, resolution) for label in found]
    preset = PRESETS["ffhq"]
    return Scene(
        name=f"head {seed}", pictures=torch.from_numpy(np.stack([view.image for view in views])).float() / 255,
        labels=torch.from_numpy(np.stack(found)), depths=torch.from_numpy(np.stack([view.depth for view in views])),
        ray_start=preset.ray_start, ray_end=preset.ray_end, box=preset.box_warp, radius=preset.radius, pivot=preset.pivot,
        focal=preset.focal)


def _posed(path: str, count: int, resolution: int) -> Scene:
    source = sources.opened(path, None, radius=2.7, crops=None, limit=None)
    posed = [picture for picture in source.pictures if picture.label is not None]
    if len(posed) < LEAST:
        raise ValueError(f"{path}: {len(posed)} of {len(source.pictures)} pictures have a camera, and a scene takes {LEAST} or "
                         "more")
    posed = [posed[index] for index in np.linspace(0, len(posed) - 1, min(count, len(posed))).astype(int)]
    pictures: List[np.ndarray] = []
    found: List[list] = []
    form = Form("center-crop", (resolution, resolution), background="white")
    for picture in posed:
        wrong = labels.problem(picture.label)
        if wrong:
            raise ValueError(f"{source.where(picture.name)}: its label {wrong}")
        where = source.where(picture.name)
        done = made(source.read(picture.name), where, picture.label, picture.crop, form)
        pictures.append(np.asarray(decoded(done.files[0], where)))
        found.append(done.label)
    try:
        about = suggestion.suggest(np.array(found))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return Scene(
        name=os.path.basename(os.path.abspath(path)), pictures=torch.from_numpy(np.stack(pictures)).float() / 255,
        labels=torch.tensor(found, dtype=torch.float32), ray_start=about["ray_start"], ray_end=about["ray_end"],
        box=about["box_warp"], radius=about["radius"], pivot=tuple(about["pivot"]), focal=about["focal"])
