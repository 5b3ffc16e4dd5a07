"""Cameras of NeRF's transforms.json (Mildenhall et al. 2020, with the keys of Instant NGP and Nerfstudio).

Its poses are camera-to-world in OpenGL's axes (x right, y up, z backward), its world is Blender's, z up; lengths are in pixels,
counted from the corner of the picture.
"""

from __future__ import annotations

import io
import json
import math
import os
import posixpath
from typing import Any, Callable, Collection, Dict, List, Optional

import numpy as np
import PIL.Image

from eg3d.scenes import geometry
from eg3d.scenes.pictures import Picture

MODEL_FILES = ("transforms.json", "transforms_train.json")
SUFFIXES = ("", ".png", ".jpg", ".jpeg", ".JPG", ".PNG")  # which file_path may leave out
OPENGL_TO_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])
DISTORTION = ("k1", "k2", "k3", "k4", "p1", "p2")
PERSPECTIVE = (None, "PINHOLE", "SIMPLE_PINHOLE", "OPENCV", "PERSPECTIVE")  # undistorted, since DISTORTION must be zero
ROTATION_TOLERANCE = 1e-3


def model_file(names: Collection[str]) -> Optional[str]:
    """The file that holds the cameras, if there is one."""
    return next((name for name in MODEL_FILES if name in names), None)


def cameras(path: str, names: Collection[str], read: Callable[[str], bytes], radius: float) -> List[Picture]:
    """Pictures with labels: around what the cameras look at, at a mean distance `radius`, y up. Raises ValueError."""
    name = model_file(names)
    if name is None:
        raise ValueError(f"{path}: holds no {MODEL_FILES[0]}")
    where = os.path.join(path, name)
    try:
        content = json.loads(read(name))
        frames = content["frames"]
        files = [frame["file_path"] for frame in frames]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f'{where}: is no {{"frames": [{{"file_path": ..., "transform_matrix": ...}}, ...]}} '
                         f"({error!r})") from error
    if not frames:
        raise ValueError(f"{where}: holds no frames")
    found = [_picture_name(str(file), names) for file in files]
    poses = np.stack([_pose(frame, f"{where}: the frame {file}") for frame, file in zip(frames, files)])
    try:
        poses = geometry.placed(poses @ OPENGL_TO_OPENCV, geometry.BLENDER_AXES, radius)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    pictures = []
    for frame, file, pose in zip(frames, found, poses):
        about = f"{where}: the frame {frame['file_path']}"
        size = _size(read(file), os.path.join(path, file)) if file in names else None
        K = _intrinsics({**content, **frame}, size, about)
        pictures.append(Picture(file, [*pose.ravel().tolist(), *K]))
    return pictures


def _picture_name(file: str, names: Collection[str]) -> str:
    file = posixpath.normpath(file.replace("\\", "/"))
    return next((file + suffix for suffix in SUFFIXES if file + suffix in names), file)


def _pose(frame: Dict[str, Any], about: str) -> np.ndarray:
    try:
        pose = np.array(frame["transform_matrix"], dtype=np.float64)
    except (KeyError, TypeError, ValueError):
        pose = np.empty(0)
    if pose.shape != (4, 4) or not np.isfinite(pose).all():
        raise ValueError(f"{about} has no transform_matrix of 4 x 4 numbers")
    pose[:3, :3] /= np.cbrt(abs(np.linalg.det(pose[:3, :3]))) or 1.0  # some exporters leave the scene's scale in
    if np.abs(pose[:3, :3] @ pose[:3, :3].T - np.eye(3)).max() > ROTATION_TOLERANCE or np.linalg.det(pose[:3, :3]) < 0:
        raise ValueError(f"{about} has a transform_matrix whose upper left 3x3 is no rotation")
    return pose


def _size(data: bytes, where: str):
    try:
        with PIL.Image.open(io.BytesIO(data)) as image:
            return image.size
    except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError) as error:
        raise ValueError(f"{where}: cannot be read as an image ({error})") from error


def _intrinsics(camera: Dict[str, Any], size, about: str) -> List[float]:
    """The 9 numbers, divided by the picture's size, from the file's keys and the frame's own."""
    if camera.get("camera_model") not in PERSPECTIVE or any(camera.get(key, 0) for key in DISTORTION):
        raise ValueError(f"{about} has lens distortion: undistort the pictures, e.g. by `colmap image_undistorter`")
    angle = camera.get("camera_angle_x", 1)
    if isinstance(angle, (int, float)) and not 0 < angle < math.pi:
        raise ValueError(f"{about} has camera_angle_x {angle:g}, which is no field of view: it is in radians")
    try:
        width, height = [float(camera.get(key, other)) for key, other in zip("wh", size or (1, 1))]
        if "fl_x" in camera:
            fx = float(camera["fl_x"])
        else:
            fx = width / 2 / math.tan(float(camera["camera_angle_x"]) / 2)
        if "fl_y" in camera or "camera_angle_y" not in camera:
            fy = float(camera.get("fl_y", fx))
        else:
            fy = height / 2 / math.tan(float(camera["camera_angle_y"]) / 2)
        cx, cy = float(camera.get("cx", width / 2)), float(camera.get("cy", height / 2))
        values = [fx / width, 0.0, cx / width, 0.0, fy / height, cy / height, 0.0, 0.0, 1.0]
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise ValueError(f"{about} has no focal length: give fl_x, or camera_angle_x ({error!r})") from error
    if size is not None and abs(width * size[1] - height * size[0]) > max(width, height):  # a row is lost when halving
        raise ValueError(f"{about} is {size[0]} x {size[1]}, but its camera is for {width:g} x {height:g}")
    return values
