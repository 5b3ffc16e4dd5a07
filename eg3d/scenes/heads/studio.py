"""Pictures of heads: rays from the camera, soft light and shadow, traced by Embree on the CPU.

Cameras, labels and depth are those of docs/conventions.md; depth is the distance along the unit ray through a pixel's centre.
"""

from __future__ import annotations

from typing import NamedTuple, Optional

import numpy as np

from eg3d.scenes.heads import hair as hairs
from eg3d.scenes.heads.anatomy import Anatomy
from eg3d.scenes.heads.looks import Look, drawn
from eg3d.scenes.heads.paint import Paint, Surface, painted

OFFSET = 2e-3  # units that shadow rays start above the surface
REACH = 0.6  # units within which something keeps the sky's light away
TERMINATOR = np.array([0.30, 0.16, 0.11])  # light reaches round the edge of skin, red the farthest
FAR = 1e3


class View(NamedTuple):
    """A picture of a head, and its truth."""

    image: np.ndarray  # uint8 [R, R, 3]
    depth: np.ndarray  # float32 [R, R]: units along the unit ray through the pixel's centre; NaN beside the head
    mask: np.ndarray  # float32 [R, R]: the share of the pixel that the head covers


class Studio:
    """Makes heads of an anatomy, by default the Anny body model's: loading that takes two seconds, on a new machine a minute.

    Raises ValueError where a package is missing, or the model cannot be kept.
    """

    def __init__(self, anatomy: Optional[Anatomy] = None):
        self.anatomy = anatomy or Anatomy()

    def head(self, seed: int) -> Head:
        """The head of a seed, always the same."""
        return self.head_of(drawn(np.random.RandomState(seed)))

    def head_of(self, look: Look) -> Head:
        """The head of a look."""
        return Head(self.anatomy, look)


class Head:
    """A head's meshes. vertices [V, 3]; triangles [F, 3], the skin's first."""

    def __init__(self, anatomy: Anatomy, look: Look):
        from embreex.mesh_construction import TriangleMesh
        from embreex.rtcore_scene import EmbreeScene

        self.anatomy, self.look = anatomy, look
        skin = anatomy.shaped(look.phenotypes, look.changes, look.actions)
        self.eyeballs = np.stack([skin[ball].mean(axis=0) for ball in anatomy.eyeballs])
        shell = hairs.shell(look.hair, self._skull(skin))
        self.vertices, self.triangles = skin, anatomy.triangles
        self._strands = self._shade = None
        if shell is not None:
            self.vertices = np.concatenate([skin, shell.vertices])
            self.triangles = np.concatenate([anatomy.triangles, shell.triangles + len(skin)])
            self._strands, self._shade = shell.strands, shell.shade
        self._first_hair = len(skin)
        self._normals = _vertex_normals(self.vertices, self.triangles)
        self._scene = EmbreeScene()
        TriangleMesh(self._scene, self.vertices[self.triangles])

    @property
    def background(self) -> np.ndarray:
        """The plain colour behind the head as the pictures have it: sRGB in 0..1, [3]."""
        return _encoded(np.array(self.look.background))

    def view(self, label, resolution: int, supersampling: int = 3) -> View:
        """A picture from the camera of a label [25]; supersampling^2 rays a pixel, an odd number of rows."""
        if supersampling % 2 == 0:
            raise ValueError(f"supersampling is {supersampling}, expected an odd number: depth is that of the pixel's centre")
        side = resolution * supersampling
        origin, directions = _rays(np.asarray(label, dtype=np.float64), side)
        found = self._scene.run(np.broadcast_to(origin, directions.shape).astype(np.float32), directions, output=1)
        hit = found["primID"] >= 0
        colour = np.broadcast_to(np.array(self.look.background, dtype=np.float32), directions.shape).copy()
        sample = _sample_numbers(resolution, supersampling)[hit]
        colour[hit] = self._lit(found["primID"][hit], found["u"][hit], found["v"][hit], directions[hit], sample,
                                supersampling**2)
        parts = colour.reshape(resolution, supersampling, resolution, supersampling, 3).mean(axis=(1, 3))
        middle = supersampling // 2
        depth = np.where(hit, found["tfar"], np.nan).reshape(side, side)[middle::supersampling, middle::supersampling]
        mask = hit.reshape(resolution, supersampling, resolution, supersampling).mean(axis=(1, 3))
        return View((_encoded(parts) * 255 + 0.5).astype(np.uint8), depth.astype(np.float32), mask.astype(np.float32))

    # -------------------------------------------------------------------------------------------- geometry

    def _skull(self, skin: np.ndarray) -> np.ndarray:
        """Distances of the skin from the skull's centre, seen from outside, without the ears."""
        from embreex.mesh_construction import TriangleMesh
        from embreex.rtcore_scene import EmbreeScene

        from eg3d.scenes.heads.anatomy import sampled

        ears = sampled(self.anatomy.masks["ears"], self.anatomy.uv.mean(axis=1)) > 0.3
        scene = EmbreeScene()
        TriangleMesh(scene, skin[self.anatomy.triangles[~ears]])
        ways = hairs.directions()[2].reshape(-1, 3).astype(np.float32)
        distance = 1.0
        found = scene.run((hairs.CENTRE + distance * ways).astype(np.float32), -ways, output=1)
        radius = distance - found["tfar"]
        radius[(found["primID"] < 0) | (radius < 0.05)] = np.nan
        return hairs.skull_radius(radius.reshape(hairs.ROWS, hairs.COLUMNS))

    # -------------------------------------------------------------------------------------------- light

    def _lit(self, triangle, u, v, ray, sample, samples: int) -> np.ndarray:
        """Colours [M, 3] of hits: triangle [M], barycentric u, v, directions ray [M, 3], number of the sample [M]."""
        weights = np.stack([1 - u - v, u, v], axis=1)[..., None]
        corners = self.triangles[triangle]
        points = (self.vertices[corners] * weights).sum(axis=1)
        normal = _unit((self._normals[corners] * weights).sum(axis=1))
        normal = np.where((normal * ray).sum(axis=1, keepdims=True) > 0, -normal, normal)
        is_hair = triangle >= len(self.anatomy.triangles)
        key, sky = self._shadows(points, normal, sample, samples)
        colour = np.empty(points.shape, dtype=np.float32)
        for chosen, shade in ((~is_hair, self._skin), (is_hair, self._hair)):
            if chosen.any():
                colour[chosen] = shade(triangle[chosen], weights[chosen], points[chosen], normal[chosen], ray[chosen],
                                       key[chosen], sky[chosen])
        return colour

    def _shadows(self, points, normal, sample, samples: int):
        """The share of the key light, and of the sky, that reaches the points. A pixel's samples try different directions, the
        same in every pixel: soft, and without grain."""
        light = self.look.light
        ball = _sphere(samples)[sample]
        start = (points + OFFSET * normal).astype(np.float32)
        towards = _unit(np.array(light.direction) + light.softness * ball).astype(np.float32)
        around = _unit(normal + 0.98 * ball).astype(np.float32)  # cosine-weighted (Lambert's law)
        free = [self._scene.run(start, way, dists=np.full(len(start), reach, dtype=np.float32), query="DISTANCE") >= reach
                for way, reach in ((towards, FAR), (around, REACH))]
        return free[0].astype(np.float32), free[1].astype(np.float32)

    def _skin(self, triangle, weights, points, normal, ray, key, sky) -> np.ndarray:
        anatomy = self.anatomy
        template = (anatomy.template[anatomy.triangles[triangle]] * weights).sum(axis=1)
        uv = (anatomy.uv[triangle] * weights).sum(axis=1)
        paint: Paint = painted(anatomy, self.look, self.eyeballs, Surface(anatomy.part[triangle], uv, template, points))
        light = self.look.light
        way = np.array(light.direction)
        facing = (normal @ way)[:, None]
        direct = np.clip((facing + TERMINATOR) / (1 + TERMINATOR), 0, None) * key[:, None]
        return paint.albedo * (direct * light.key + self._ambient(normal, sky)) + self._highlight(
            normal, ray, way, paint.gloss, paint.sharpness) * (key * (facing[:, 0] > 0))[:, None] * light.key

    @staticmethod
    def _highlight(normal, ray, way, gloss, sharpness) -> np.ndarray:
        """Blinn's (1977)."""
        half = _unit(way - ray)
        return (gloss * np.clip((normal * half).sum(axis=1), 0, 1) ** sharpness)[:, None]

    def _hair(self, triangle, weights, points, normal, ray, key, sky) -> np.ndarray:
        """Diffuse by the shell's normal, highlights along strands (Kajiya and Kay 1989)."""
        corners = self.triangles[triangle] - self._first_hair
        strand = _unit((self._strands[corners] * weights).sum(axis=1))
        albedo = np.array(self.look.hair.colour) * (self._shade[corners] * weights[..., 0]).sum(axis=1)[:, None]
        light = self.look.light
        way = np.array(light.direction)
        facing = np.clip((normal @ way + 0.25) / 1.25, 0, None)
        along_light, along_ray = strand @ way, (strand * ray).sum(axis=1)
        across = np.sqrt(np.clip(1 - along_light**2, 0, 1)) * np.sqrt(np.clip(1 - along_ray**2, 0, 1))
        shine = np.clip(across + along_light * along_ray, 0, 1) ** 24 * (1 - 0.8 * self.look.hair.curl)
        tint = 0.5 * albedo + 0.02
        return albedo * ((facing * key)[:, None] * light.key + self._ambient(normal, sky)) + tint * (
            shine * key * (facing > 0.2))[:, None] * light.key

    def _ambient(self, normal, sky) -> np.ndarray:
        light = self.look.light
        upward = (0.5 + 0.5 * normal[:, 1:2])
        return (upward * np.array(light.sky) + (1 - upward) * np.array(light.ground)) * (0.15 + 0.85 * sky[:, None])


# ------------------------------------------------------------------------------------------------ small things

def _rays(label: np.ndarray, side: int):
    """Origin [3] and unit directions float32 [side^2, 3] through the pixels' centres, row by row."""
    pose, K = label[:16].reshape(4, 4), label[16:].reshape(3, 3)
    centres = (np.arange(side) + 0.5) / side
    v, u = (grid.ravel() for grid in np.meshgrid(centres, centres, indexing="ij"))
    ways = (pose[:3, :3] @ np.linalg.inv(K) @ np.stack([u, v, np.ones_like(u)])).T
    return pose[:3, 3], _unit(ways).astype(np.float32)


def _sample_numbers(resolution: int, supersampling: int) -> np.ndarray:
    """Which of its pixel's samples each ray is, row by row."""
    tile = np.arange(supersampling**2).reshape(supersampling, supersampling)
    return np.tile(tile, (resolution, resolution)).ravel()


def _sphere(count: int) -> np.ndarray:
    """Unit vectors [count, 3] spread evenly (Fibonacci's lattice)."""
    index = np.arange(count) + 0.5
    height, turn = 1 - 2 * index / count, np.pi * (1 + 5**0.5) * index
    wide = np.sqrt(1 - height**2)
    return np.stack([wide * np.cos(turn), height, wide * np.sin(turn)], axis=1)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def _vertex_normals(vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    a, b, c = (vertices[corner] for corner in triangles.T)
    face = np.cross(b - a, c - a)  # as long as twice the triangle's area, which weights it
    total = [np.bincount(triangles.ravel(), np.repeat(face[:, axis], 3), minlength=len(vertices)) for axis in range(3)]
    return _unit(np.stack(total, axis=1)).astype(np.float32)


def _encoded(linear: np.ndarray) -> np.ndarray:
    """Linear light -> sRGB in 0..1 (IEC 61966-2-1)."""
    value = np.clip(linear, 0, 1)
    return np.where(value <= 0.0031308, 12.92 * value, 1.055 * value ** (1 / 2.4) - 0.055)
