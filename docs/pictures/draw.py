"""Draws formula.png: a head given by a formula in the planes' place, through this project's renderer and shapes.

The shipped network has random weights and shows clouds; here the three planes hold plain coordinates and the decoder is a
formula, and everything after the planes is what a trained network goes through: rays, depth, surface. Needs embreex.

    python docs/pictures/draw.py
"""

import sys
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

from eg3d import cameras, generator, sampling, shapes
from eg3d.session import Session
from torch_utils import images

SIZE = 256  # of a cell of the picture
STEEPNESS = 2000  # density a unit of length, so that surfaces are sharp
LIGHT = torch.nn.functional.normalize(torch.tensor([0.45, 0.6, 0.75]), dim=0)
VIEWS = ((-0.5, 0.05), (0.0, 0.0), (0.5, -0.25))  # yaw, pitch
SKIN, HAIR, LIPS, WHITE, IRIS, SHIRT = [torch.tensor(rgb) / 255 for rgb in (
    (232, 190, 165), (92, 62, 44), (190, 92, 92), (245, 243, 240), (52, 92, 110), (70, 110, 150))]


def ellipsoid(p, centre, radii):
    """Signed distance, nearly."""
    q = p - torch.tensor(centre)
    k = (q / torch.tensor(radii)).norm(dim=-1)
    return k * (k - 1) / ((q / torch.tensor(radii).square()).norm(dim=-1) + 1e-9)


def smooth_min(a, b, width):
    h = (width - (a - b).abs()).clamp(min=0) / width
    return torch.minimum(a, b) - h * h * width / 4


def mirrored(p):
    return torch.cat([p[..., :1].abs(), p[..., 1:]], dim=-1)


def parts(p):
    """Signed distances of skin, hair, lips, eyes, shirt."""
    m = mirrored(p)
    skin = ellipsoid(p, (0.0, 0.045, 0.01), (0.158, 0.2, 0.18))
    skin = smooth_min(skin, ellipsoid(p, (0.0, -0.075, 0.06), (0.105, 0.115, 0.115)), 0.1)
    skin = smooth_min(skin, ellipsoid(p, (0.0, 0.02, 0.185), (0.015, 0.045, 0.028)), 0.03)
    skin = smooth_min(skin, ellipsoid(p, (0.0, -0.018, 0.196), (0.02, 0.015, 0.024)), 0.025)
    skin = smooth_min(skin, ellipsoid(m, (0.158, 0.015, -0.005), (0.02, 0.05, 0.032)), 0.02)
    skin = smooth_min(skin, ellipsoid(p, (0.0, -0.26, -0.02), (0.078, 0.2, 0.08)), 0.05)
    skin = -smooth_min(-skin, ellipsoid(m, (0.062, 0.047, 0.2), (0.035, 0.024, 0.03)), 0.03)
    hair = ellipsoid(p, (0.0, 0.075, -0.025), (0.186, 0.205, 0.196))
    wave = 0.012 * torch.sin(40 * p[..., 0]) * torch.sin(25 * p[..., 1])
    hair = torch.maximum(hair + 0.3 * wave, p[..., 2] - 0.02 - 0.75 * (p[..., 1] - 0.1).clamp(min=0) + wave)
    hair = torch.maximum(hair, 0.5 * (-0.06 - p[..., 1]))
    lips = torch.minimum(ellipsoid(m, (0.014, -0.073, 0.186), (0.024, 0.008, 0.012)),
                         ellipsoid(p, (0.0, -0.085, 0.185), (0.027, 0.01, 0.012)))
    brow = ellipsoid(m, (0.062, 0.092, 0.168), (0.033, 0.0075, 0.012))
    hair = torch.minimum(hair, brow)
    eyes = ellipsoid(m, (0.062, 0.045, 0.152), (0.028, 0.024, 0.024))
    shirt = smooth_min(ellipsoid(p, (0.0, -0.5, -0.03), (0.33, 0.19, 0.15)),
                       ellipsoid(p, (0.0, -0.33, -0.02), (0.1, 0.05, 0.1)), 0.1)
    return torch.stack([skin, hair, lips, eyes, shirt], dim=-1)


class Formula(torch.nn.Module):
    """A decoder of planes that hold coordinates."""

    def forward(self, features, directions):
        mean = features.mean(dim=1)
        p = mean[..., :3] * 1.5  # a third of the planes hold each; half a unit at their edge
        inside = mean[..., 3:4] > 0.99
        distances = parts(p)
        nearest, which = distances.min(dim=-1)
        steps = 1e-3 * torch.eye(3)
        normal = torch.nn.functional.normalize(
            torch.stack([parts(p + step).amin(-1) - parts(p - step).amin(-1) for step in steps], dim=-1), dim=-1)
        colors = torch.stack([SKIN, HAIR, LIPS, WHITE, SHIRT])[which]
        iris = (mirrored(p) - torch.tensor([0.062, 0.045, 0.168]))[..., :2].norm(dim=-1)
        eye = (which == 3)[..., None]
        colors = torch.where(eye & (iris < 0.0125)[..., None], IRIS, colors)
        colors = torch.where(eye & (iris < 0.006)[..., None], torch.zeros(3), colors)
        cheek = (-((mirrored(p) - torch.tensor([0.085, -0.03, 0.13])).square().sum(-1)) / 0.0015).exp()[..., None]
        colors = torch.where((which == 0)[..., None], colors - cheek * torch.tensor([0.02, 0.12, 0.1]), colors)
        shade = 0.42 + 0.58 * (normal @ LIGHT).clamp(min=0)[..., None]
        rgb = (colors * shade).clamp(0, 1)
        return {"rgb": torch.cat([rgb, torch.zeros(*rgb.shape[:-1], 29)], dim=-1),
                "sigma": (shapes.LEVEL - STEEPNESS * nearest)[..., None].clamp(-60, 200).where(inside, torch.tensor(-60.0))}


def coordinates(size=256):
    """Planes [1, 3, 32, size, size] whose features are x and y (first plane), z (second), and 1."""
    axis = (2 * torch.arange(size) + 1) / size - 1
    planes = torch.zeros(1, 3, 32, size, size)
    planes[0, 0, 0], planes[0, 0, 1], planes[0, 1, 2] = axis, axis[:, None], axis[:, None]
    planes[:, :, 3] = 1  # zero outside
    return planes


def traced(mesh, label):
    """The surface as a mesh viewer shows it: vertex normals, one light, no colours."""
    rays = torch.nn.functional.normalize(torch.cat([((torch.cartesian_prod(
        torch.arange(SIZE), torch.arange(SIZE)).flip(1) + 0.5) / SIZE - 0.5) / label[0, 16], torch.ones(SIZE**2, 1)], 1), dim=1)
    pose = label[0, :16].reshape(4, 4)
    directions = (rays @ pose[:3, :3].T).numpy()
    _, ray, triangle = mesh.ray.intersects_location(np.tile(pose[:3, 3], (SIZE**2, 1)), directions, multiple_hits=False)
    normals = mesh.vertex_normals[mesh.faces[triangle]].mean(axis=1)
    pixels = np.full((SIZE**2, 3), 255.0)
    pixels[ray] = (60 + 170 * np.clip(normals @ LIGHT.numpy(), 0, 1))[:, None]
    return pixels.reshape(SIZE, SIZE, 3).astype(np.uint8)


@torch.inference_mode()
def main():
    """Three views: picture, depth, surface."""
    G = generator.load("tiny-random", device="cpu")
    G.decoder = Formula()
    options = dict(depth_resolution=64, depth_resolution_importance=64, white_back=True)
    session = Session(G, sampling.styles(G, 0), 0, options)
    session.planes = coordinates()
    mesh = shapes.surface(session, shapes.density_grid(session, 256))
    rows = []
    for yaw, pitch in VIEWS:
        label = cameras.view(G.rendering_kwargs, yaw, pitch)
        seen = session.render(label, SIZE)
        far = seen["image_depth"] > 3.25  # background
        depth = seen["image_depth"].where(~far, seen["image_depth"][~far].max())
        depth = images.viridis(images.depth_image(depth)).where(~far, torch.ones(1))
        rows.append(np.concatenate([images.grid(seen["image_raw"], 1), images.grid(depth, 1), traced(mesh, label)]))
    images.save_png(np.concatenate(rows, axis=1), HERE / "formula.png")


if __name__ == "__main__":
    main()
