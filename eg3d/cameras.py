"""Cameras: look-at poses, fields of view, and the paths that films follow.

A pose is a 4x4 camera-to-world matrix in OpenCV's convention (x right, y down, z into the scene); the world is y-up. Yaw
and pitch are angles from the world's axes: yaw pi/2, pitch pi/2 looks a face in the eye. See docs/conventions.md.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Optional, Sequence, Union

import numpy as np
import scipy.interpolate
import torch
from scipy.spatial.transform import Rotation, Slerp
from torch import Tensor

from dnnlib.util import written_beside
from training.labels import pack, problem

PITCH_MARGIN = 1e-5  # keeps look-at cameras off the poles, where "up" has no meaning
FFHQ_FOCAL = 4.2647  # in image widths: 2985.29 / 700
SHAPENET_FOCAL = 1.7074
SHAPENET_RADIUS = 1.7  # released ShapeNet networks are told by their camera's distance
FRONTAL = math.pi / 2  # yaw and pitch that look along -z
PATH_ABOUT = ("camera path: for each frame the 4x4 camera-to-world matrix (OpenCV axes, world y up) and the 3x3 intrinsics "
              "(divided by the picture's size), row by row")

Vector = Union[Sequence[float], Tensor]


def look_at(forward: Tensor, origin: Tensor) -> Tensor:
    """Poses [N, 4, 4] of cameras at `origin` that look along `forward` ([N, 3] each), upright: no roll."""
    z = torch.nn.functional.normalize(forward, dim=-1)
    up = z.new_tensor([0.0, 1.0, 0.0]).expand_as(z)
    x = torch.nn.functional.normalize(torch.linalg.cross(z, up), dim=-1)
    y = torch.linalg.cross(z, x)
    pose = torch.eye(4, device=origin.device, dtype=origin.dtype).repeat(len(origin), 1, 1)
    pose[:, :3, :3] = torch.stack([x, y, z], dim=-1)
    pose[:, :3, 3] = origin
    return pose


def _pose(yaw: Tensor, pitch: Tensor, pivot: Vector, radius: float, device) -> Tensor:
    """Cameras on a sphere around the WORLD's origin that look at `pivot`; yaw, pitch [N, 1]."""
    v = pitch.clamp(PITCH_MARGIN, math.pi - PITCH_MARGIN) / math.pi
    phi, theta = torch.arccos(1 - 2 * v), math.pi - yaw
    direction = torch.cat([phi.sin() * theta.cos(), phi.cos(), phi.sin() * theta.sin()], dim=1)
    origin = radius * direction
    return look_at(torch.as_tensor(pivot, dtype=torch.float32, device=device) - origin, origin)


class _Sampler:
    """Draws yaw, then pitch, around their means; the spread's shape is the subclass's."""

    @staticmethod
    def _spread(batch_size: int, device) -> Tensor:
        return torch.randn(batch_size, 1, device=device)

    @classmethod
    def _sample(cls, means, stddevs, pivot, radius, batch_size, device) -> Tensor:
        yaw, pitch = [cls._spread(batch_size, device) * s + m for m, s in zip(means, stddevs)]
        return _pose(yaw, pitch, pivot, radius, device)


class LookAtPoseSampler(_Sampler):
    """Cameras on a sphere around the origin that look at a point."""

    @classmethod
    def sample(cls, horizontal_mean, vertical_mean, lookat_position, horizontal_stddev=0, vertical_stddev=0, radius=1,
               batch_size=1, device="cpu") -> Tensor:
        """Returns [batch_size, 4, 4]: normally distributed yaw and pitch (radians), looking at `lookat_position` [3]."""
        return cls._sample((horizontal_mean, vertical_mean), (horizontal_stddev, vertical_stddev), lookat_position, radius,
                           batch_size, device)


class GaussianCameraPoseSampler(_Sampler):
    """Cameras on a sphere that look at the origin, normally distributed."""

    @classmethod
    def sample(cls, horizontal_mean, vertical_mean, horizontal_stddev=0, vertical_stddev=0, radius=1, batch_size=1,
               device="cpu") -> Tensor:
        """Returns [batch_size, 4, 4]; angles in radians."""
        return cls._sample((horizontal_mean, vertical_mean), (horizontal_stddev, vertical_stddev), (0.0, 0.0, 0.0), radius,
                           batch_size, device)


class UniformCameraPoseSampler(GaussianCameraPoseSampler):
    """Cameras on a sphere that look at the origin, uniform within +- the deviations given."""

    @staticmethod
    def _spread(batch_size: int, device) -> Tensor:
        return torch.rand(batch_size, 1, device=device) * 2 - 1


# ------------------------------------------------------------------------------------------------ intrinsics

def intrinsics(focal: float, device="cpu") -> Tensor:
    """[3, 3] of a square picture with its principal point in the middle; `focal` in image widths."""
    return torch.tensor([[focal, 0.0, 0.5], [0.0, focal, 0.5], [0.0, 0.0, 1.0]], device=device)


def FOV_to_intrinsics(fov_degrees: float, device="cpu") -> Tensor:
    """[3, 3] from the DIAGONAL field of view of a square picture, in degrees: 18.837 is FFHQ's.

    Raises ValueError outside (0, 180).
    """
    if not 0 < fov_degrees < 180:
        raise ValueError(f"a field of view of {fov_degrees} degrees does not exist: choose one between 0 and 180")
    # Official: rounds pi and sqrt(2), 0.02 % away.
    return intrinsics(1 / (math.tan(math.radians(fov_degrees) / 2) * math.sqrt(2)), device)


def focal_length(rendering_kwargs: dict) -> float:
    """The focal length, in image widths, of the data that a network with these rendering_kwargs was trained on.

    rendering_kwargs may say it as 'focal_length'; otherwise the camera's distance tells whether the data are ShapeNet's.
    """
    if "focal_length" in rendering_kwargs:
        return float(rendering_kwargs["focal_length"])
    return SHAPENET_FOCAL if rendering_kwargs.get("avg_camera_radius") == SHAPENET_RADIUS else FFHQ_FOCAL


# ------------------------------------------------------------------------------------------------ labels

def view(rendering_kwargs: dict, yaw: float = 0.0, pitch: float = 0.0, focal: Optional[float] = None, device="cpu") -> Tensor:
    """Label [1, 25] of a camera turned by yaw and pitch (radians) from the frontal one.

    It circles the world's origin at the network's own radius and looks at the network's pivot.
    """
    pose = LookAtPoseSampler.sample(
        FRONTAL + yaw, FRONTAL + pitch, rendering_kwargs.get("avg_camera_pivot", [0, 0, 0]),
        radius=rendering_kwargs.get("avg_camera_radius", 2.7), device=device)
    return pack(pose, intrinsics(focal_length(rendering_kwargs) if focal is None else focal, device))


# ------------------------------------------------------------------------------------------------ paths

def film_path(rendering_kwargs: dict, frames: int, yaw_range: float = 0.35, pitch_range: float = 0.25,
              pitch_mean: float = -0.05, focal: Optional[float] = None, device="cpu") -> Tensor:
    """Labels [frames, 25] of the official films' closed path: yaw a sine, pitch a cosine (radians)."""
    turns = [2 * math.pi * index / frames for index in range(frames)]
    return torch.cat([
        view(rendering_kwargs, yaw_range * math.sin(t), pitch_mean + pitch_range * math.cos(t), focal, device) for t in turns])


def orbit(rendering_kwargs: dict, frames: int, degrees: float = 360, pitch: float = 0.0, focal: Optional[float] = None,
          device="cpu") -> Tensor:
    """Labels [frames, 25] of a closed path at one height (`pitch`, radians): all the way round, or to and fro over less.

    Raises ValueError unless 0 < degrees <= 360.
    """
    if not 0 < degrees <= 360:
        raise ValueError(f"an orbit of {degrees:g} degrees: choose more than 0, at most 360")
    turns = [2 * math.pi * index / frames for index in range(frames)]
    yaws = turns if degrees == 360 else [math.radians(degrees) / 2 * math.sin(t) for t in turns]
    return torch.cat([view(rendering_kwargs, yaw, pitch, focal, device) for yaw in yaws])


def resample(labels: Tensor, frames: int) -> Tensor:
    """A path [F, 25] at another number of frames, from its first camera to its last.

    Between two cameras it turns evenly, and the world's origin moves straight through what the camera sees: cameras that
    look at the origin stay at their distance. Intrinsics change evenly.
    """
    if len(labels) == 1:
        return labels.repeat(frames, 1)
    have, wanted = np.arange(len(labels)), np.linspace(0, len(labels) - 1, frames)
    numbers = labels.double().cpu().numpy()
    poses = numbers[:, :16].reshape(-1, 4, 4)
    turns = Rotation.from_matrix(poses[:, :3, :3])
    seen = turns.inv().apply(poses[:, :3, 3])  # camera position in the camera's own axes
    path = scipy.interpolate.interp1d(have, np.concatenate([seen, numbers[:, 16:]], axis=1), axis=0)(wanted)
    turned = Slerp(have, turns)(wanted)
    pose = np.tile(np.eye(4), (frames, 1, 1))
    pose[:, :3, :3], pose[:, :3, 3] = turned.as_matrix(), turned.apply(path[:, :3])
    return torch.from_numpy(np.concatenate([pose.reshape(-1, 16), path[:, 3:]], axis=1)).to(labels)


def save_path(labels: Tensor, path: Union[str, os.PathLike]) -> None:
    """Writes labels [F, 25] as JSON that `load_path` reads."""
    content = dict(about=PATH_ABOUT, cameras=labels.tolist())
    with written_beside(path) as temporary:
        temporary.write_text(json.dumps(content).replace("], [", "],\n["))


def load_path(path: Union[str, os.PathLike]) -> Tensor:
    """Reads labels [F, 25] from JSON: {"cameras": [[25 numbers], ...]}. Raises ValueError with one line, and OSError."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: no JSON ({error})") from error
    cameras = content.get("cameras") if isinstance(content, dict) else None
    if not isinstance(cameras, list) or not cameras:
        raise ValueError(f'{path}: holds no camera path, which is {{"cameras": [[25 numbers], ...]}}')
    _check(cameras, f"{path}: ")
    return torch.tensor(cameras, dtype=torch.float32)


def check(labels: Tensor) -> None:
    """Raises ValueError for the first of labels [N, 25] that is no camera, in the words of `load_path`."""
    _check(labels.tolist(), "")


def _check(cameras: list, where: str) -> None:
    for index, numbers in enumerate(cameras):
        wrong = problem(numbers)
        if wrong:
            raise ValueError(f"{where}camera {index} {wrong}")
