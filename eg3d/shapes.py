"""Shapes: the density field on a grid, the surface where it crosses a level, and files of both.

World coordinates throughout: the box of side box_warp around the origin, y up, a face looking along +z. Surfaces carry the
decoder's colours and the direction in which its density falls as normals.

Notation: R grid points along a side, V vertices.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Union

import mrcfile
import numpy as np
import scipy.sparse
import skimage.measure
import torch
import trimesh
from trimesh.exchange.gltf import export_glb
from trimesh.exchange.obj import export_obj
from trimesh.exchange.ply import export_ply

from dnnlib.util import written_beside
from eg3d.session import Session
from torch_utils import images

LEVEL = 10.0  # density at the surface
BORDER = 30 / 256  # share of the grid that is cut at each side: the planes' margins hold floaters
EMPTY = -1000.0  # density of what is cut
POINTS_AT_ONCE = 1 << 20  # of a grid
LABEL = "density field, x reversed"
FORMATS = (".mrc", ".ply", ".obj", ".glb")  # a volume, and three of surfaces
PARTS = ("all", "largest")  # components of a surface to keep
GLTF_FLOAT = 5126  # component type of an accessor


class NoSurface(ValueError):
    """The density nowhere crosses the level."""


def _cut(resolution: int) -> int:
    """As the original, but at least one point, so that surfaces are closed."""
    return max(1, int(BORDER * resolution))


def density_grid(session: Session, resolution: int = 512) -> np.ndarray:
    """Densities float32 [R, R, R], indexed (x, y, z); its corners are the box's corners. Borders are emptied.

    Raises ValueError for fewer than 3 points along a side.
    """
    half = session.box / 2
    axis = torch.linspace(-half, half, resolution)
    grid = np.full((resolution,) * 3, EMPTY, dtype=np.float32)
    cut = _cut(resolution)
    inner = axis[cut : resolution - cut]
    if len(inner) == 0:
        raise ValueError(f"a grid of {resolution} points along a side is all border: at least 3 are needed")
    uncut = grid[cut : resolution - cut, cut : resolution - cut, cut : resolution - cut]
    slabs = max(1, POINTS_AT_ONCE // len(inner) ** 2)
    for start in range(0, len(inner), slabs):
        points = torch.cartesian_prod(inner[start : start + slabs], inner, inner)
        uncut[start : start + slabs] = session.density(points).reshape(-1, len(inner), len(inner)).cpu().numpy()
    return grid


def surface(session: Session, grid: np.ndarray, level: float = LEVEL, part: str = "all") -> trimesh.Trimesh:
    """The surface of a session's `density_grid` at a level, with vertex normals and colours.

    `part` is 'all' or 'largest', the component of the largest area. Raises NoSurface when the density does not cross the
    level.
    """
    _check_part(part)
    uncut = slice(_cut(len(grid)), len(grid) - _cut(len(grid)))
    inside = grid[uncut, uncut, uncut]
    if not inside.min() < level < inside.max():
        raise NoSurface(f"no surface, the density never crosses {level:g} (it goes from {inside.min():.3g} to "
                        f"{inside.max():.3g}): choose another level (--shape-level)")
    spacing = session.box / (len(grid) - 1)
    vertices, faces, _, _ = skimage.measure.marching_cubes(grid, level, spacing=(spacing,) * 3, gradient_direction="ascent")
    mesh = trimesh.Trimesh(vertices - session.box / 2, faces, process=False)
    if part == "largest":
        mesh = _largest_component(mesh)
    points = torch.from_numpy(np.asarray(mesh.vertices, dtype=np.float32))
    mesh.visual.vertex_colors = images.to_uint8(session.colors(points)).cpu().numpy()
    mesh.vertex_normals = _normals(session, mesh, points, spacing, len(grid))
    return mesh


def _check_part(part: str) -> None:
    if part not in PARTS:
        raise ValueError(f"part {part!r} of a surface: choose {' or '.join(PARTS)}")


def _largest_component(mesh: trimesh.Trimesh) -> trimesh.Trimesh:
    count = len(mesh.vertices)
    edges = scipy.sparse.coo_matrix(
        (np.ones(2 * len(mesh.faces), dtype=bool), (mesh.faces[:, :2].ravel(), mesh.faces[:, 1:].ravel())), (count, count))
    _, component = scipy.sparse.csgraph.connected_components(edges, directed=False)
    areas = np.bincount(component[mesh.faces[:, 0]], weights=mesh.area_faces)
    kept = component == areas.argmax()
    renumbered = np.cumsum(kept) - 1
    return trimesh.Trimesh(mesh.vertices[kept], renumbered[mesh.faces[kept[mesh.faces[:, 0]]]], process=False)


def _normals(session: Session, mesh: trimesh.Trimesh, points: torch.Tensor, spacing: float, resolution: int) -> np.ndarray:
    """Unit vectors [V, 3] against the density's gradient, by central differences over two voxels.

    Where the surface closes because the grid is cut, and where the density is flat, those of the faces.
    """
    steps = torch.eye(3) * spacing
    slope = torch.stack([session.density(points + step) - session.density(points - step) for step in steps], dim=1)
    slope = slope.cpu().double().numpy()
    length = np.linalg.norm(slope, axis=1, keepdims=True)
    limit = session.box / 2 - (_cut(resolution) + 0.5) * spacing
    from_density = (np.abs(points.numpy()).max(axis=1, keepdims=True) < limit) & (length > 0)
    return np.where(from_density, -slope / np.where(length > 0, length, 1), mesh.vertex_normals)


# ------------------------------------------------------------------------------------------------ files

def save(session: Session, path: Union[str, os.PathLike], resolution: int = 512, level: float = LEVEL,
         part: str = "all") -> None:
    """Writes a session's shape in the format that the suffix names; arguments as `density_grid`'s and `surface`'s."""
    suffix = Path(path).suffix
    if suffix not in FORMATS:
        raise ValueError(f"{path}: shapes are written as {', '.join(FORMATS[:-1])} or {FORMATS[-1]}")
    _check_part(part)
    grid = density_grid(session, resolution)
    if suffix == ".mrc":
        save_volume(grid, session.box, path)
    else:
        try:
            mesh = surface(session, grid, level, part)
        except NoSurface as error:
            raise NoSurface(f"{path}: {error}") from None
        save_surface(mesh, path)


def save_volume(grid: np.ndarray, box: float, path: Union[str, os.PathLike]) -> None:
    """Writes a grid as .mrc in the official order, x reversed: array axes (-x, y, z).

    The header holds the voxels' size and the origin in the file's own axes, which name the array's last axis first: what an
    MRC viewer calls (x, y, z) is our (z, y, -x), a quarter turn about y.
    """
    spacing = box / (len(grid) - 1)
    with written_beside(path) as temporary, mrcfile.new(temporary, overwrite=True) as volume:
        volume.set_data(np.ascontiguousarray(grid[::-1]))
        volume.voxel_size = spacing
        volume.header.origin = (-box / 2,) * 3
        volume.header.label[0] = LABEL  # mrcfile's own holds the date: the same shape makes the same file


def save_surface(mesh: trimesh.Trimesh, path: Union[str, os.PathLike]) -> None:
    """Writes a coloured surface as .ply (binary), .obj or .glb, in world units."""
    suffix = Path(path).suffix
    if suffix == ".ply":
        data = export_ply(mesh, vertex_normal=True)
    elif suffix == ".obj":
        data = export_obj(mesh, include_normals=True, include_color=True, header="eg3d").encode()
    else:
        data = export_glb(mesh, include_normals=True, buffer_postprocessor=_finish_gltf)
    with written_beside(path) as temporary:
        temporary.write_bytes(data)


def _finish_gltf(buffers: dict, tree: dict) -> None:
    """Linear colours, as glTF wants them (float32: eight bits would leave few levels in the dark), and a matt material.

    Without one, glTF's default is metal, which is black where nothing is mirrored.
    """
    [primitive] = tree["meshes"][0]["primitives"]
    tree["materials"] = [{"pbrMetallicRoughness": {"metallicFactor": 0, "roughnessFactor": 1}}]
    primitive["material"] = 0
    accessor = list(tree["accessors"].values())[primitive["attributes"]["COLOR_0"]]
    key = list(buffers)[accessor["bufferView"]]
    rgba = np.frombuffer(buffers[key], dtype=np.uint8)[: 4 * accessor["count"]].reshape(-1, 4) / 255
    rgba[:, :3] = _srgb_to_linear(rgba[:, :3])
    buffers[key] = rgba.astype("<f4").tobytes()
    accessor.update(componentType=GLTF_FLOAT)
    for bound in ("normalized", "min", "max"):
        accessor.pop(bound, None)


def _srgb_to_linear(values: np.ndarray) -> np.ndarray:
    """IEC 61966-2-1."""
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
