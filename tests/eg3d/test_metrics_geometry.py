"""Metrics of geometry, on a sphere before a wall whose rays, depths and colours are computed by hand."""

import math

import numpy as np
import pytest
import torch

from eg3d import cameras
from eg3d.metrics import geometry
from training.labels import pack, unpack

CAMERAS = dict(avg_camera_radius=2.7, avg_camera_pivot=[0, 0, 0.1], focal_length=3.0)
SIZE = 32
CENTRE, RADIUS = np.array([0.05, 0.02, 0.15]), 0.2
WALL = np.array([0.2, 0.1, 1.0]), -0.25  # normal and offset: points with normal . x = offset


def view(yaw):
    """A camera, with a skew and a principal point off the middle."""
    pose, K = unpack(cameras.view(CAMERAS, yaw))
    K[:, 0, 1], K[:, 0, 2], K[:, 1, 2] = 0.1, 0.47, 0.52
    return pack(pose, K)


def rays(label):
    """Origin and a list of unit directions, pixel by pixel."""
    pose, K = (part[0].double().numpy() for part in unpack(label))
    found = []
    for i in range(SIZE):
        for j in range(SIZE):
            way = pose[:3, :3] @ np.linalg.solve(K, [(j + 0.5) / SIZE, (i + 0.5) / SIZE, 1])
            found.append(way / np.linalg.norm(way))
    return pose[:3, 3], found


def distance(origin, way, sphere=True):
    """To the first surface along a ray."""
    to_wall = (WALL[1] - WALL[0] @ origin) / (WALL[0] @ way)
    b, c = way @ (origin - CENTRE), (origin - CENTRE) @ (origin - CENTRE) - RADIUS**2
    return -b - math.sqrt(b * b - c) if sphere and b * b > c else to_wall


def colour(point):
    return np.array([math.sin(5 * point[0]), math.cos(4 * point[1]), math.sin(3 * point[2] + 1)]) * 0.8


def seen(label, sphere=True):
    """Picture [1, 3, R, R] and depth [1, 1, R, R]."""
    origin, ways = rays(label)
    depth = np.array([distance(origin, way, sphere) for way in ways])
    pixels = np.array([colour(origin + t * way) for t, way in zip(depth, ways)])
    shape = (1, SIZE, SIZE, -1)
    return [torch.from_numpy(some.reshape(shape)).permute(0, 3, 1, 2).float() for some in (pixels, depth)]


def test_points():
    label = view(0.3)
    _, depth = seen(label)
    origin, ways = rays(label)
    expected = [origin + t * way for t, way in zip(depth.flatten().tolist(), ways)]
    np.testing.assert_allclose(geometry.points(depth, label)[0], expected, atol=2e-6)  # float32 of numbers below 4


def test_points_are_seen_where_they_were():
    """Every point projects into its own pixel's centre, at its own depth; one behind the camera does not."""
    label = view(-0.4)
    _, depth = seen(label)
    where, far, before = geometry.seen_by(geometry.points(depth, label), label)
    centres = (np.arange(SIZE) + 0.5) / SIZE
    expected = np.stack(np.meshgrid(centres, centres), axis=-1).reshape(1, -1, 2)
    np.testing.assert_allclose(where, expected, atol=1e-5)
    np.testing.assert_allclose(far, depth.flatten(1), rtol=1e-5)
    assert before.all()
    pose, _ = unpack(label)
    behind = pose[:, None, :3, 3] - pose[:, None, :3, 2]
    assert not geometry.seen_by(behind, label)[2].any()


@pytest.mark.parametrize("sphere", [False, True])
def test_reprojection(sphere):
    """What is covered is what a ray from the other camera reaches first; there the colours agree."""
    label, other = view(0.25), view(0.0)
    picture, depth = seen(label, sphere)
    other_picture, other_depth = seen(other, sphere)
    error, covered = geometry.reprojection(picture, depth, label, other_picture, other_depth, other, tolerance=0.02)
    origin, ways = rays(label)
    pose, K = (part[0].double().numpy() for part in unpack(other))
    expected = []
    for t, way in zip(depth.flatten().double().tolist(), ways):
        point = origin + t * way
        at = K @ pose[:3, :3].T @ (point - pose[:3, 3])
        far = np.linalg.norm(point - pose[:3, 3])
        inside = np.abs(at[:2] / at[2] - 0.5).max() <= 0.5 - 0.5 / SIZE  # between pixel centres
        expected.append(inside and distance(pose[:3, 3], (point - pose[:3, 3]) / far, sphere) > far - 0.02)
    expected = np.array(expected)
    agree = (covered[0].numpy() == expected).mean()
    # Depth between two pixels is interpolated, which is wrong across the sphere's outline: about 40 pixels of 1024.
    assert agree == 1 if not sphere else agree > 0.96
    assert 0.5 < expected.mean() < 0.99  # some leave the picture
    # Between pixels 1/32/3 * 2.7 apart a sine of frequency 5 bends by h^2 / 8 * 25 * 0.8 = 0.002 in [-1, 1].
    typical = error[covered].quantile(0.8 if sphere else 1.0)
    assert typical < 0.002
    # Wrong depth is told by wrong colours.
    wrong, covered = geometry.reprojection(picture, depth - 0.1, label, other_picture, other_depth - 0.1, other, tolerance=0.02)
    assert wrong[covered].median() > 5 * error.median()


def test_hidden_points_are_not_covered():
    """What lies behind the sphere for the other camera is no error of the geometry."""
    label, other = view(0.5), view(-0.5)
    args = [seen(label), seen(other)]
    covered = geometry.reprojection(*args[0], label, *args[1], other, tolerance=0.02)[1]
    everything = geometry.reprojection(*args[0], label, *args[1], other, tolerance=10.0)[1]
    assert covered.sum() < 0.95 * everything.sum()


def test_flatness():
    frontal = cameras.view(CAMERAS)
    tilted = cameras.view(CAMERAS, yaw=0.4, pitch=0.2)
    origins, ways = zip(*[rays(label) for label in (frontal, tilted)])
    # The wall z = -0.1, from in front and from the side.
    depth = torch.tensor([[(-0.1 - origin[2]) / way[2] for way in some] for origin, some in zip(origins, ways)])
    depth = depth.reshape(2, 1, SIZE, SIZE).float()
    labels = torch.cat([frontal, tilted])
    labels[:, 16:] = cameras.intrinsics(3.0).reshape(1, 9)
    along, off_plane = geometry.flatness(depth, labels)
    assert along[0] < 1e-6 and (off_plane < 1e-6).all()  # float32
    assert along[1] > 0.05


def test_flatness_of_a_solid():
    """Against NumPy on points that are found ray by ray."""
    label = view(0.2)
    _, depth = seen(label)
    origin, ways = rays(label)
    places = np.array([origin + t * way for t, way in zip(depth.flatten().tolist(), ways)])
    forward = unpack(label)[0][0, :3, 2].numpy()
    smallest = np.linalg.svd(places - places.mean(0))[1][-1] / math.sqrt(len(places))
    found = geometry.flatness(depth, label)
    np.testing.assert_allclose([part.item() for part in found], [np.std(places @ forward), smallest], rtol=1e-4)
    assert smallest > 0.02


def test_raw_error():
    raw = torch.linspace(-0.8, 0.8, 16).reshape(1, 1, 1, 16).expand(1, 3, 16, 16)
    large = raw.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
    # Shrinking four times, antialiased, takes a triangle of eight pixels: on a straight ramp, its middle.
    inner = geometry.shrunk(large, 16)[..., 2:-2] - raw[..., 2:-2]
    assert inner.abs().max() < 1e-6
    assert geometry.shrunk(raw, 16) is raw
    assert geometry.signal_to_noise(geometry.raw_error(raw + 0.1, raw).item()) == pytest.approx(
        10 * math.log10(4 / 0.01), rel=1e-5)
    assert geometry.signal_to_noise(0.0) == pytest.approx(106, abs=0.1)
