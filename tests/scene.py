"""Pictures of a simple head with exact cameras: what tests of training learn from.

The head is a union of ellipsoids around the world's origin, inside the box of side 1, and looks along +z; world, cameras and
labels are those of docs/conventions.md. Depth is the distance along the unit ray, as the renderer's. Cameras are spread as
FFHQ's. The same seed gives the same pictures.
"""

import io
import json
import zipfile
from dataclasses import dataclass

import numpy as np
import PIL.Image
import torch

from eg3d.cameras import FFHQ_FOCAL, FRONTAL, LookAtPoseSampler, intrinsics
from training.labels import pack

YAW_STD, PITCH_STD = 0.35, 0.15  # radians
RADIUS, PIVOT = 2.7, (0.0, 0.0, 0.2)

# centre, radii, and whose colour it has
PARTS = (
    ((0.0, -0.01, 0.09), (0.20, 0.27, 0.225), "skin"),
    ((0.0, -0.035, 0.315), (0.036, 0.06, 0.06), "skin"),  # nose
    ((0.205, -0.01, 0.09), (0.027, 0.06, 0.043), "skin"),  # ears
    ((-0.205, -0.01, 0.09), (0.027, 0.06, 0.043), "skin"),
    ((0.0, 0.092, 0.047), (0.22, 0.2, 0.225), "cap"),
)
HEAD = 0  # its place in PARTS
# what is painted on the front of the head: centre (x, y), radii, colour
PAINT = (
    ((0.081, 0.027), (0.039, 0.027), (0.97, 0.96, 0.94)),
    ((-0.081, 0.027), (0.039, 0.027), (0.97, 0.96, 0.94)),
    ((0.081, 0.027), (0.021, 0.024), (0.10, 0.10, 0.14)),
    ((-0.081, 0.027), (0.021, 0.024), (0.10, 0.10, 0.14)),
    ((0.0, -0.146), (0.065, 0.018), (0.62, 0.20, 0.22)),
)
BACKGROUND = (0.90, 0.92, 0.94)
LIGHT = np.array([0.45, 0.6, 0.66]) / np.linalg.norm([0.45, 0.6, 0.66])  # towards it, in the world
AMBIENT = 0.5


@dataclass(frozen=True)
class Look:
    """What differs from picture to picture."""

    size: float = 1.0  # of the whole head, about the origin
    skin: tuple = (0.90, 0.70, 0.58)
    cap: tuple = (0.30, 0.42, 0.72)


def looks(count, seed=0):
    """A list of `count` looks around the usual one."""
    random = np.random.RandomState(seed)
    return [Look(random.uniform(0.94, 1.06), tuple(Look.skin + random.uniform(-0.08, 0.08, 3)),
                 tuple(Look.cap + random.uniform(-0.2, 0.2, 3))) for _ in range(count)]


def labels(count, seed=0):
    """float32 [count, 25]: cameras around the face. Torch's global random numbers stay as they are."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        poses = LookAtPoseSampler.sample(FRONTAL, FRONTAL, PIVOT, YAW_STD, PITCH_STD, RADIUS, batch_size=count)
    return pack(poses, intrinsics(FFHQ_FOCAL)).numpy()


def _rays(label, resolution, dtype):
    """Origin [3] and unit directions [3, resolution^2] through the pixels' centres, row by row."""
    pose, K = (np.asarray(part, dtype=np.float64) for part in (label[:16].reshape(4, 4), label[16:].reshape(3, 3)))
    centres = (np.arange(resolution) + 0.5) / resolution
    v, u = (grid.ravel() for grid in np.meshgrid(centres, centres, indexing="ij"))
    ways = (pose[:3, :3] @ np.linalg.inv(K)).astype(dtype) @ np.stack([u, v, np.ones_like(u)]).astype(dtype)
    return pose[:3, 3], ways / np.sqrt((ways * ways).sum(axis=0))


def _first_hit(origin, directions):
    """Distance to the first surface (inf: none) and the number of its part, each [M]."""
    nearest = np.full(directions.shape[1], np.inf, dtype=directions.dtype)
    which = np.zeros(directions.shape[1], dtype=np.uint8)
    for number, (centre, radii, _) in enumerate(PARTS):
        start = (origin - centre) / radii  # in these units the part is the unit sphere: |start + t * way| = 1
        # a = way . way, b = start . way, c = start . start - 1 of a t^2 + 2 b t + c = 0
        a = (1 / np.square(radii)).astype(directions.dtype) @ (directions * directions)
        b = (start / radii).astype(directions.dtype) @ directions
        inside = b * b - a * directions.dtype.type(start @ start - 1)
        meets = np.flatnonzero(inside > 0)
        distance = (-b[meets] - np.sqrt(inside[meets])) / a[meets]
        closer = distance < nearest[meets]
        which[meets[closer]] = number
        nearest[meets[closer]] = distance[closer]
    return nearest, which


def _colours(points, which, look):
    """[3, M] of points [3, M] on parts `which`: paint and Lambert's shading."""
    centres, radii = (np.array([part[k] for part in PARTS], dtype=points.dtype).T for k in (0, 1))  # [3, parts]
    normals = (points - centres.take(which, axis=1)) * (radii**-2).take(which, axis=1)
    paint = np.array([getattr(look, part[2]) for part in PARTS], dtype=points.dtype).T.take(which, axis=1)
    front = np.flatnonzero((which == HEAD) & (points[2] > centres[2, HEAD]))
    for centre, size, colour in PAINT:
        x, y = ((points[k, front] - centre[k]) / size[k] for k in (0, 1))
        paint[:, front[x * x + y * y < 1]] = np.array(colour)[:, None]
    cosine = LIGHT.astype(points.dtype) @ normals / np.sqrt((normals * normals).sum(axis=0))
    return np.minimum(paint * (AMBIENT + (1 - AMBIENT) * np.maximum(cosine, 0)), 1)


def render(label, look, resolution):
    """What the camera of `label` [25] sees: uint8 [H, W, 3], antialiased, and depth float32 [H, W], NaN beside the head."""
    origin, directions = _rays(label, 2 * resolution, np.float32)
    distance, which = _first_hit(origin / look.size, directions)
    hit = np.flatnonzero(distance < np.inf)
    points = (origin[:, None] / look.size).astype(np.float32) + distance[hit] * directions.take(hit, axis=1)
    pixels = np.repeat(np.array(BACKGROUND, dtype=np.float32)[:, None], len(distance), axis=1)
    pixels[:, hit] = _colours(points, which[hit], look)
    pixels = pixels.reshape(3, resolution, 2, resolution, 2).mean(axis=(2, 4)).transpose(1, 2, 0)
    origin, directions = _rays(label, resolution, np.float64)
    depth = _first_hit(origin / look.size, directions)[0] * look.size
    depth[np.isinf(depth)] = np.nan
    return (pixels * 255 + 0.5).astype(np.uint8), depth.astype(np.float32).reshape(resolution, resolution)


def pictures(count, resolution=64, seed=0):
    """uint8 [N, H, W, 3], labels float32 [N, 25], depth float32 [N, H, W] (NaN beside the head), bool [N, H, W]: the head."""
    cameras = labels(count, seed)
    rendered = [render(camera, look, resolution) for camera, look in zip(cameras, looks(count, seed))]
    images, depths = (np.stack(column) for column in zip(*rendered))
    return images, cameras, depths, ~np.isnan(depths)


def write_zip(path, count, resolution=64, seed=0):
    """Writes them as a data set in the official format: stored PNGs and dataset.json. The same arguments, the same bytes."""
    images, cameras, _, _ = pictures(count, resolution, seed)
    names = [f"{index // 1000:05d}/img{index:08d}.png" for index in range(count)]
    with zipfile.ZipFile(path, "w") as archive:
        for name, image in zip(names, images):
            file = io.BytesIO()
            PIL.Image.fromarray(image).save(file, format="PNG", compress_level=0)
            archive.writestr(zipfile.ZipInfo(name), file.getvalue())
        content = dict(labels=[[name, camera.tolist()] for name, camera in zip(names, cameras)])
        archive.writestr(zipfile.ZipInfo("dataset.json"), json.dumps(content))
