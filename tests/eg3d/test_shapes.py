"""Shapes: grids of the density field with exact corners, and surfaces of them in world units."""

import os
import time
import types

import mrcfile
import numpy as np
import pytest
import torch
import trimesh

from eg3d import generator, sampling, shapes
from eg3d.session import Session

CENTRE, RADIUS = (0.1, -0.05, 0.15), 0.2


class Field:
    """Stands for a session: any density, in a box of any size."""

    def __init__(self, density, box):
        self.density = density
        self.G = types.SimpleNamespace(rendering_kwargs=dict(box_warp=box))


def ball(points):
    """Density 10, the surface's, at a distance RADIUS from CENTRE; denser inside."""
    return shapes.LEVEL + 100 * (RADIUS - (points - torch.tensor(CENTRE)).norm(dim=-1))


@pytest.fixture(scope="module")
def session(tiny_path):
    G = generator.load(tiny_path, device="cpu")
    return Session(G, sampling.styles(G, 0))


# ------------------------------------------------------------------------------------------------ the grid

@pytest.mark.parametrize("resolution, cut", [(8, 0), (17, 1), (64, 7)])
def test_grid_of_a_linear_field(resolution, cut):
    """Indexed (x, y, z), the first and last index at the box's faces; the border of 30/256 at each side is empty."""
    grid = shapes.density_grid(Field(lambda p: p @ torch.tensor([100.0, 10.0, 1.0]), box=1.6), resolution)
    axis = np.linspace(-0.8, 0.8, resolution)
    x, y, z = np.meshgrid(axis, axis, axis, indexing="ij")
    inner = (slice(cut, resolution - cut),) * 3
    assert grid.shape == (resolution,) * 3 and grid.dtype == np.float32
    np.testing.assert_allclose(grid[inner], (100 * x + 10 * y + z)[inner], atol=1e-4)
    outside = np.ones(grid.shape, dtype=bool)
    outside[inner] = False
    assert (grid[outside] == shapes.EMPTY).all()


def test_grid_of_a_network(session):
    """Some points of the grid against the density asked for directly."""
    grid = shapes.density_grid(session, 20)
    axis = torch.linspace(-0.5, 0.5, 20)
    for index in ((2, 2, 2), (2, 9, 17), (17, 2, 9), (10, 11, 12)):
        direct = session.density(axis[list(index)][None]).item()
        assert grid[index] == pytest.approx(direct, abs=1e-5)


# ------------------------------------------------------------------------------------------------ volumes

def test_volume(tmp_path):
    """An .mrc file that is valid, holds the grid in the official order (x reversed) and knows its voxels' size."""
    grid = np.random.RandomState(0).randn(9, 9, 9).astype(np.float32)
    shapes.save(grid, 1.6, tmp_path / "shape.mrc")
    with mrcfile.open(tmp_path / "shape.mrc") as file:
        assert np.array_equal(file.data, grid[::-1])
        assert file.voxel_size.tolist() == pytest.approx((0.2, 0.2, 0.2))
    assert mrcfile.validate(tmp_path / "shape.mrc")
    assert os.listdir(tmp_path) == ["shape.mrc"]


@pytest.mark.parametrize("suffix", shapes.FORMATS)
def test_same_shape_same_bytes(tmp_path, suffix):
    """Written a second apart: no date gets into a file."""
    grid = shapes.density_grid(Field(ball, box=1), 16)
    shapes.save(grid, 1, tmp_path / f"a{suffix}")
    time.sleep(1.1)
    shapes.save(grid, 1, tmp_path / f"b{suffix}")
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


# ------------------------------------------------------------------------------------------------ surfaces

@pytest.mark.parametrize("box", [1.0, 1.6])
def test_surface_of_a_ball(tmp_path, box):
    """Closed, with outward normals, in world units: the ball's centre, radius and volume to a fraction of a voxel."""
    resolution = 48
    shapes.save(shapes.density_grid(Field(ball, box), resolution), box, tmp_path / "ball.ply")
    surface = trimesh.load(tmp_path / "ball.ply")
    assert surface.is_watertight and surface.is_winding_consistent and surface.body_count == 1
    distances = np.linalg.norm(surface.vertices - CENTRE, axis=1)
    voxel = box / (resolution - 1)
    np.testing.assert_allclose(distances, RADIUS, atol=voxel / 10)
    np.testing.assert_allclose(surface.center_mass, CENTRE, atol=voxel / 20)
    assert surface.volume == pytest.approx(4 / 3 * np.pi * RADIUS**3, rel=0.02)  # and positive: faces look outward
    assert os.listdir(tmp_path) == ["ball.ply"]


def test_surface_at_another_level(tmp_path):
    """A higher level lies further in: 100 of density a unit of length."""
    grid = shapes.density_grid(Field(ball, 1.0), 48)
    shapes.save(grid, 1.0, tmp_path / "ball.ply", level=shapes.LEVEL + 5)
    distances = np.linalg.norm(trimesh.load(tmp_path / "ball.ply").vertices - CENTRE, axis=1)
    np.testing.assert_allclose(distances, RADIUS - 0.05, atol=0.005)


def test_surface_is_closed_at_the_border(tmp_path):
    """What is dense everywhere ends where the grid is cut."""
    shapes.save(shapes.density_grid(Field(lambda p: torch.full([len(p)], 20.0), 1.0), 32), 1.0, tmp_path / "full.ply")
    surface = trimesh.load(tmp_path / "full.ply")
    assert surface.is_watertight and surface.volume > 0
    inner = 0.5 - 3 / 31  # the last index that is not cut
    assert np.abs(surface.bounds).min() >= inner and np.abs(surface.bounds).max() <= inner + 1 / 31


@pytest.mark.parametrize("density", [-5.0, 10.0])
def test_no_surface(tmp_path, density):
    """A density that never crosses the level is the user's mistake, and leaves no file."""
    grid = shapes.density_grid(Field(lambda p: torch.full([len(p)], density), 1.0), 16)
    with pytest.raises(ValueError, match=rf"shape.ply: no surface.*crosses 10 \(it reaches {density:.3g}\)"):
        shapes.save(grid, 1.0, tmp_path / "shape.ply")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["shape.obj", "shape", "shape.ply.gz"])
def test_unknown_format(tmp_path, name):
    with pytest.raises(ValueError, match=f"{name}: shapes are written as .mrc or .ply"):
        shapes.save(np.zeros((4, 4, 4), dtype=np.float32), 1.0, tmp_path / name)
    assert os.listdir(tmp_path) == []
