"""Cameras of a COLMAP text model: cameras.txt and images.txt (Schoenberger and Frahm 2016; COLMAP's documentation).

images.txt holds world-to-camera rotations as quaternions (w, x, y, z) and translations, in OpenCV's axes; the world is in no
known direction and of no known size. Lengths are in pixels, counted from the corner of the picture.
"""

from __future__ import annotations

import os
from typing import Callable, Collection, Dict, List, Optional, Tuple

import numpy as np

from eg3d.scenes import geometry
from eg3d.scenes.pictures import Picture

MODEL_FOLDERS = ("", "sparse/0/", "sparse/")
IMAGE_FOLDERS = ("images/", "")
MODELS = {"SIMPLE_PINHOLE": (0, 0, 1, 2), "PINHOLE": (0, 1, 2, 3)}  # where fx, fy, cx, cy are among the parameters


def model_folder(names: Collection[str]) -> Optional[str]:
    """Where the model lies, if there is one."""
    return next((folder for folder in MODEL_FOLDERS
                 if folder + "cameras.txt" in names and folder + "images.txt" in names), None)


def has_binary_model(names: Collection[str]) -> bool:
    """Whether a model lies there that has to be made a text model first."""
    return any(folder + "cameras.bin" in names for folder in MODEL_FOLDERS)


def cameras(path: str, names: Collection[str], read: Callable[[str], bytes], radius: float) -> List[Picture]:
    """Pictures with labels: around what the cameras look at, at a mean distance `radius`, y up. Raises ValueError."""
    folder = model_folder(names)
    if folder is None:
        raise ValueError(f"{path}: holds no cameras.txt and images.txt: make them of a binary model by "
                         "`colmap model_converter --output_type TXT`")
    where = {name: os.path.join(path, folder + name) for name in ("cameras.txt", "images.txt")}
    K = _intrinsics(_lines(read(folder + "cameras.txt")), where["cameras.txt"])
    files, cameras_of, poses = _poses(_lines(read(folder + "images.txt")), where["images.txt"])
    unknown = [camera for camera in cameras_of if camera not in K]
    if unknown:
        raise ValueError(f"{where['images.txt']}: names camera {unknown[0]}, which {where['cameras.txt']} does not have")
    try:
        poses = geometry.placed(poses, geometry.upright_axes(poses), radius)
    except ValueError as error:
        raise ValueError(f"{where['images.txt']}: {error}") from error
    return [Picture(_picture_name(file, names), [*pose.ravel().tolist(), *K[camera]])
            for file, camera, pose in zip(files, cameras_of, poses)]


def _picture_name(file: str, names: Collection[str]) -> str:
    return next((folder + file for folder in IMAGE_FOLDERS if folder + file in names), file)


def _lines(data: bytes) -> List[str]:
    """Lines without comments; empty ones stay, since an image that saw no points is followed by one."""
    return [line for line in data.decode("utf-8", errors="replace").splitlines() if not line.startswith("#")]


def _intrinsics(lines: List[str], where: str) -> Dict[str, List[float]]:
    """Camera -> the 9 numbers, divided by the picture's size."""
    found = {}
    for line in filter(str.strip, lines):
        camera, model, *numbers = line.split()
        if numbers and model not in MODELS:
            raise ValueError(f"{where}: camera {camera} is {model}: expected PINHOLE or SIMPLE_PINHOLE: undistort the pictures "
                             "by `colmap image_undistorter`")
        try:
            width, height, *parameters = [float(number) for number in numbers]
            fx, fy, cx, cy = [parameters[place] for place in MODELS[model]]
            found[camera] = [fx / width, 0.0, cx / width, 0.0, fy / height, cy / height, 0.0, 0.0, 1.0]
        except (ValueError, IndexError, KeyError, ZeroDivisionError) as error:
            raise ValueError(f"{where}: {line[:60]!r} is no camera: CAMERA_ID MODEL WIDTH HEIGHT PARAMS") from error
    return found


def _poses(lines: List[str], where: str) -> Tuple[List[str], List[str], np.ndarray]:
    """Names, cameras and camera-to-world poses [N, 4, 4] of the images; every second line holds points."""
    names, cameras_of, poses = [], [], []
    lines = iter(lines)
    for line in lines:
        if not line.strip():
            continue
        fields = line.split(maxsplit=9)
        next(lines, "")
        try:
            w, x, y, z, *shift = [float(number) for number in fields[1:8]]
            rotation = _rotation(np.array([w, x, y, z]))
            camera, name = fields[8:]
        except (ValueError, IndexError) as error:
            raise ValueError(f"{where}: {line[:60]!r} is no image: IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME, before a line "
                             "of its points") from error
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = rotation.T, -rotation.T @ np.array(shift)
        names.append(name.strip().replace("\\", "/"))
        cameras_of.append(camera)
        poses.append(pose)
    if not poses:
        raise ValueError(f"{where}: holds no images")
    return names, cameras_of, np.stack(poses)


def _rotation(quaternion: np.ndarray) -> np.ndarray:
    """[3, 3] of (w, x, y, z), of any length but zero."""
    length = np.linalg.norm(quaternion)
    if not 0 < length < np.inf:
        raise ValueError("no rotation")
    w, x, y, z = quaternion / length
    return np.array([[1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
                     [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
                     [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)]])
