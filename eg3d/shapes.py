"""Shapes: the density field on a grid, and the surface where it crosses a level.

World coordinates: the box of side box_warp around the origin, y up.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Union

import mrcfile
import numpy as np
import skimage.measure
import torch
import trimesh

from dnnlib.util import written_beside
from eg3d.session import Session

LEVEL = 10.0  # density at the surface
BORDER = 30 / 256  # share of the grid that is cut at each side: the planes' margins hold floaters
EMPTY = -1000.0  # density of what is cut
LABEL = "density field, x reversed"
FORMATS = (".mrc", ".ply")


class NoSurface(ValueError):
    """The density nowhere crosses the level."""


def density_grid(session: Session, resolution: int = 512) -> np.ndarray:
    """Densities float32 [resolution] * 3, indexed (x, y, z); its corners are the box's corners. Borders are emptied."""
    half = session.G.rendering_kwargs["box_warp"] / 2
    axis = torch.linspace(-half, half, resolution)
    grid = np.full((resolution,) * 3, EMPTY, dtype=np.float32)
    cut = int(BORDER * resolution)
    inner = axis[cut : resolution - cut]
    plane = torch.cartesian_prod(inner, inner)
    for index, x in enumerate(inner.tolist(), start=cut):
        points = torch.cat([torch.full((len(plane), 1), x), plane], dim=1)
        values = session.density(points).reshape(len(inner), len(inner)).cpu().numpy()
        grid[index, cut : resolution - cut, cut : resolution - cut] = values
    return grid


def save(grid: np.ndarray, box: float, path: Union[str, os.PathLike], level: float = LEVEL) -> None:
    """Writes a grid as volume (.mrc, the official order: x reversed) or its surface (.ply, world units).

    Raises NoSurface when no surface crosses the level, ValueError for an unknown suffix.
    """
    suffix = Path(path).suffix
    spacing = box / (len(grid) - 1)
    if suffix == ".mrc":
        with written_beside(path) as temporary, mrcfile.new(temporary, overwrite=True) as volume:
            volume.set_data(np.ascontiguousarray(grid[::-1]))
            volume.voxel_size = spacing
            volume.header.label[0] = LABEL  # mrcfile's own holds the date: the same shape makes the same file
        return
    if suffix != ".ply":
        raise ValueError(f"{path}: shapes are written as {' or '.join(FORMATS)}")
    if not grid.min() < level < grid.max():
        raise NoSurface(f"{path}: no surface, the density never crosses {level:g} (it reaches {grid.max():.3g})")
    vertices, faces, _, _ = skimage.measure.marching_cubes(grid, level, spacing=(spacing,) * 3, gradient_direction="ascent")
    with written_beside(path) as temporary:
        trimesh.Trimesh(vertices - box / 2, faces, process=False).export(temporary)
