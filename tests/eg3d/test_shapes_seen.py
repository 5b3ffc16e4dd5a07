"""A surface seen by an independent ray caster from a camera is what the network shows from the same camera.

The network is the one of formulas of test_shapes.py. Its density rises so steeply that volume rendering stops at the surface:
depth and colour of a pixel are then those of the first point that its ray meets.
"""

import math

import numpy as np
import pytest
import scipy.ndimage
import torch
import trimesh
from test_shapes import RING_CENTRE, TUBE_RADIUS, formula_session, ring

from eg3d import cameras, shapes
from torch_utils import images

RESOLUTION = 64  # of the grid
HALF_VOXEL = 0.5 / (RESOLUTION - 1)
SIZE = 32  # pixels along a side
SAMPLES = 192  # of each of the two passes
SLOPE = 1e7  # an absorption of SLOPE * t at the depth t: half of the light is gone at sqrt(2 ln 2 / SLOPE) = 0.0004
NEAR, FAR = 2.25, 3.3  # of the network's rays
# A jittered sample is at most two steps from the next one, and a ray stops at the first midpoint of two samples within.
SPACING = 2 * (FAR - NEAR) / (SAMPLES - 1)
# Most rays do better: the second pass puts its samples into the three steps around the surface.
TYPICAL = 3 * (FAR - NEAR) / (SAMPLES - 1) / SAMPLES + math.sqrt(2 * math.log(2) / SLOPE)
PIXEL = 2.7 / cameras.FFHQ_FOCAL / SIZE  # width on the surface
VIEWS = [(0.0, 0.0), (0.6, -0.3), (-0.5, 0.4), (1.5, 0.2), (math.pi, -0.2)]  # yaw and pitch; the last from behind
COLOUR_SLOPE = 1.2  # a unit of length


def rainbow(points):
    return 0.5 + COLOUR_SLOPE * points


@pytest.fixture(scope="module")
def session(tiny_path):
    return formula_session(tiny_path, ring, rainbow, slope=SLOPE, depth_resolution=SAMPLES,
                           depth_resolution_importance=SAMPLES)


@pytest.fixture(scope="module")
def labels(session):
    return [cameras.view(session.G.rendering_kwargs, yaw, pitch) for yaw, pitch in VIEWS]


@pytest.fixture(scope="module")
def shown(session, labels):
    """What the network shows from each camera."""
    assert (session.G.rendering_kwargs["ray_start"], session.G.rendering_kwargs["ray_end"]) == (NEAR, FAR)
    return [session.render(label, SIZE) for label in labels]


def rays(label):
    """Centre [3] and unit directions [SIZE^2, 3] of a camera's pixels, in rows from the top left, by docs/conventions.md."""
    numbers = label[0].double().numpy()
    pose, K = numbers[:16].reshape(4, 4), numbers[16:].reshape(3, 3)
    directions = []
    for row in range(SIZE):
        for column in range(SIZE):
            in_camera = np.linalg.solve(K, [(column + 0.5) / SIZE, (row + 0.5) / SIZE, 1.0])
            direction = pose[:3, :3] @ in_camera
            directions.append(direction / np.linalg.norm(direction))
    return pose[:3, 3], np.array(directions)


def cast(mesh, label):
    """Distance of the first hit of each pixel's ray, inf without one, and RGB there from the corners: [SIZE, SIZE(, 3)]."""
    pytest.importorskip("embreex")
    from trimesh.ray.ray_pyembree import RayMeshIntersector

    centre, directions = rays(label)
    places, which, faces = RayMeshIntersector(mesh).intersects_location(
        np.tile(centre, (len(directions), 1)), directions, multiple_hits=False)
    depth, colors = np.full(SIZE**2, np.inf), np.zeros((SIZE**2, 3))
    depth[which] = np.linalg.norm(places - centre, axis=1)
    shares = trimesh.triangles.points_to_barycentric(mesh.triangles[faces], places)
    corners = mesh.visual.vertex_colors[mesh.faces[faces]][..., :3] / 255
    colors[which] = (shares[..., None] * corners).sum(axis=1)
    return depth.reshape(SIZE, SIZE), colors.reshape(SIZE, SIZE, 3)


def network_depth(pictures):
    """[SIZE, SIZE], inf where the ray met nothing: such depths are the furthest of all samples."""
    depth = pictures["image_depth"][0, 0].double().numpy()
    return np.where(depth < FAR - 0.1, depth, np.inf)


def compare(mesh, labels, shown):
    """Share of pixels in only one of two silhouettes, and errors of depth and colour where the surface is not steep."""
    strays, depths, colors = [], [], []
    for label, pictures in zip(labels, shown):
        expected = network_depth(pictures)
        found, rgb = cast(mesh, label)
        strays.append((np.isfinite(found) != np.isfinite(expected)).mean())
        # Neighbours no further apart than three pixels: neither an outline nor a slope where small offsets grow.
        largest, smallest = scipy.ndimage.maximum_filter(found, 3), scipy.ndimage.minimum_filter(found, 3)
        plain = np.isfinite(expected) & (largest < smallest + 3 * PIXEL)
        depths.append(expected[plain] - found[plain])
        colors.append(pictures["image_raw"][0].permute(1, 2, 0).double().numpy()[plain] / 2 + 0.5 - rgb[plain])
    return np.array(strays), np.concatenate(depths), np.concatenate(colors)


def moved(mesh, matrix, shift):
    """The mesh with its corners at matrix @ corner + shift, still facing outward."""
    faces = mesh.faces if np.linalg.det(matrix) > 0 else mesh.faces[:, ::-1]
    corners = mesh.vertices @ np.transpose(matrix) + shift
    return trimesh.Trimesh(corners, faces, vertex_colors=mesh.visual.vertex_colors, process=False)


@pytest.fixture(scope="module")
def files(session, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ring")
    for suffix in (".ply", ".obj", ".glb"):
        shapes.save(session, folder / f"ring{suffix}", RESOLUTION)
    return folder


@pytest.mark.parametrize("suffix", [".ply", ".obj", ".glb"])
def test_mesh_looks_like_the_network(files, labels, shown, suffix):
    """From every side: the outline, depth to the spacing of samples, and colours to a byte's rounding and that depth."""
    mesh = trimesh.load_mesh(files / f"ring{suffix}", process=False, **dict(skip_materials=True) if suffix == ".glb" else {})
    strays, depths, colors = compare(mesh, labels, shown)
    assert all(np.isfinite(network_depth(pictures)).mean() > 0.1 for pictures in shown)
    # Outlines of some 100 pixels in 1024, of which few have the outline within SPACING / 10 of their centre, of 0.02 wide.
    assert strays.max() < 0.01
    assert len(depths) > 300
    assert np.abs(depths).max() < SPACING
    assert np.median(np.abs(depths)) < TYPICAL
    if suffix != ".glb":  # linear there
        assert np.abs(colors).max() < COLOUR_SLOPE * SPACING + 0.6 / 255


@pytest.mark.parametrize("matrix, shift", [
    (np.diag([-1, 1, 1]), 0), (np.diag([1, -1, 1]), 0), (np.diag([1, 1, -1]), 0),  # mirrored
    (np.eye(3)[[1, 0, 2]], 0), (np.eye(3)[[2, 1, 0]], 0), (np.eye(3)[[1, 2, 0]], 0),  # axes in another order
    (np.diag([-1, 1, -1]), 0), (np.eye(3) * RESOLUTION / (RESOLUTION - 1), 0),  # turned; one grid point too large
    *[(np.eye(3), shift) for shift in HALF_VOXEL * np.eye(3)],
], ids=["-x", "-y", "-z", "yxz", "zyx", "yzx", "half turn", "larger", "half voxel x", "half voxel y", "half voxel z"])
def test_another_mesh_does_not(files, labels, shown, matrix, shift):
    """The comparison above tells these apart, well beyond its tolerances."""
    mesh = moved(trimesh.load_mesh(files / "ring.ply", process=False), matrix, shift)
    strays, depths, _ = compare(mesh, labels, shown)
    assert strays.max() > 0.05 or np.median(np.abs(depths)) > 3 * TYPICAL


def test_constant_colour(tiny_path):
    """An opaque surface of one colour is shown in the colour that `colors` tells, to the same byte."""
    rgb = torch.tensor([40, 128, 230]) / 255
    session = formula_session(tiny_path, ring, lambda points: rgb.expand_as(points), slope=SLOPE,
                              depth_resolution=SAMPLES, depth_resolution_importance=SAMPLES)
    pictures = session.render(cameras.view(session.G.rendering_kwargs, 0.3, -0.2), SIZE)
    hit = scipy.ndimage.binary_erosion(np.isfinite(network_depth(pictures)))
    assert hit.sum() > 50
    colors = session.colors(torch.tensor([RING_CENTRE]) + TUBE_RADIUS * torch.eye(3))
    torch.testing.assert_close(colors, (2 * rgb - 1).expand(3, 3), rtol=0, atol=1e-6)
    pixels = pictures["image_raw"][0].permute(1, 2, 0)[torch.from_numpy(hit)]
    torch.testing.assert_close(pixels, colors[:1].expand_as(pixels), rtol=0, atol=1e-5)  # float32 sums of 384 weights
    assert (images.to_uint8(pixels) == images.to_uint8(colors[:1])).all()
    assert images.to_uint8(colors[0]).tolist() == [40, 128, 230]
