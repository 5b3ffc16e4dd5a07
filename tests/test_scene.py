"""The posed pictures that tests of training learn from: the cameras in the labels are those that took them.

Oracles: the pinhole camera of docs/conventions.md and the equation of an ellipsoid, in float64. Depths are float32 of numbers
below 3, so they are right within 2e-7; divided by the smallest radius, 0.027, and doubled by the square, 2e-5.
"""

import io
import json
import math
import zipfile

import numpy as np
import PIL.Image
import pytest
import scene
import torch

from training.labels import problem

ON_SURFACE = 1e-4


def camera(yaw, pitch):
    """A label written out: looking at the pivot from `yaw`, `pitch` beside the frontal view."""
    phi, theta = math.acos(1 - 2 * (math.pi / 2 + pitch) / math.pi), math.pi / 2 - yaw
    origin = scene.RADIUS * np.array([math.sin(phi) * math.cos(theta), math.cos(phi), math.sin(phi) * math.sin(theta)])
    forward = np.array(scene.PIVOT) - origin
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, [0, 1, 0])
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3] = np.stack([right, np.cross(forward, right), forward, origin], axis=1)
    return np.concatenate([pose.ravel(), [4.2647, 0, 0.5, 0, 4.2647, 0.5, 0, 0, 1]])


def pixel(label, point, resolution):
    """Column and row of the pixel that shows a world point, and the point's distance from the camera."""
    inside = np.linalg.inv(label[:16].reshape(4, 4)) @ [*point, 1]
    u, v, w = label[16:].reshape(3, 3) @ inside[:3]
    return int(u / w * resolution), int(v / w * resolution), np.linalg.norm(inside[:3])


def surfaces(points, size):
    """[parts, M]: 0 on a part's surface, negative within; points [M, 3]."""
    return np.stack([(((points / size - centre) / radii) ** 2).sum(axis=1) - 1 for centre, radii, _ in scene.PARTS])


def test_depth_lies_on_the_head():
    """Every depth, put back along its pixel's ray by the label, is on the surface, and nothing is in front of it."""
    _, labels, depths, masks = scene.pictures(6, resolution=32, seed=3)
    for label, depth, mask, look in zip(labels.astype(np.float64), depths, masks, scene.looks(6, seed=3)):
        assert np.array_equal(mask, np.isfinite(depth)) and 0.3 < mask.mean() < 0.8
        rows, columns = np.nonzero(mask)
        inside = np.stack([(columns + 0.5) / 32 - 0.5, (rows + 0.5) / 32 - 0.5, np.full(len(rows), label[16])], axis=1)
        rays = inside / np.linalg.norm(inside, axis=1, keepdims=True) @ label[:16].reshape(4, 4)[:3, :3].T
        origin = label[[3, 7, 11]]
        points = origin + rays * depth[mask].astype(np.float64)[:, None]
        assert np.abs(points).max() < 0.5  # in the box
        assert np.abs(surfaces(points, look.size).min(axis=0)).max() < ON_SURFACE
        for part_of_way in np.linspace(0.8, 0.999, 40):
            assert surfaces(origin + (points - origin) * part_of_way, look.size).min() > 0


@pytest.mark.parametrize("yaw, pitch", [(0, 0), (0.4, -0.2), (-0.35, 0.15)])
def test_known_points_are_where_the_camera_sees_them(yaw, pitch):
    """The nose's tip by its depth; pupils and cap by their colours. At 256 pixels one is 0.0024 wide at the head."""
    label, look = camera(yaw, pitch), scene.Look(size=1.05)
    picture, depth = scene.render(label, look, 256)
    centre, radii, _ = scene.PARTS[1]
    column, row, distance = pixel(label, np.array([*centre[:2], centre[2] + radii[2]]) * look.size, 256)
    assert depth[row, column] == pytest.approx(distance, abs=0.0024)
    centre, radii, _ = scene.PARTS[scene.HEAD]
    for eye in (-0.081, 0.081):
        for aside, least, most in ((0, 0, 40), (-0.028, 90, 255), (0.028, 90, 255)):  # the pupil, and the white beside it
            x, y = eye + aside, 0.027
            z = centre[2] + radii[2] * math.sqrt(1 - ((x - centre[0]) / radii[0]) ** 2 - ((y - centre[1]) / radii[1]) ** 2)
            column, row, _ = pixel(label, np.array([x, y, z]) * look.size, 256)
            assert least <= picture[row, column].min() and picture[row, column].max() <= most
    centre, radii, _ = scene.PARTS[4]
    forehead = np.array([0, centre[1] + radii[1] * math.sin(0.9), centre[2] + radii[2] * math.cos(0.9)])
    column, row, _ = pixel(label, forehead * look.size, 256)
    shade = picture[row, column] / 255 / np.array(look.cap)
    assert scene.AMBIENT < shade.mean() < 1 and np.ptp(shade) < 2 / 255 / min(look.cap)  # one factor for all colours


@pytest.mark.parametrize("part, colour", [(1, "skin"), (4, "cap")])
def test_shading(part, colour):
    """Lambert's law, where an ellipsoid's normal is the gradient of its equation. Half a pixel of 512 is 0.0006 wide; across it
    the nose's normal turns by at most 0.0006 * sqrt(2) * 0.06 / 0.036^2 = 0.04, and the shade changes by half of that."""
    label, look = camera(0, 0), scene.Look()
    picture, _ = scene.render(label, look, 512)
    centre, radii, _ = (np.array(value) for value in scene.PARTS[part])
    for x, y in ((0.6, 0.6), (-0.6, 0.6), (0.1, 0.8)):
        on_sphere = np.array([x, y, math.sqrt(1 - x * x - y * y)])
        column, row, _ = pixel(label, centre + radii * on_sphere, 512)
        normal = on_sphere / radii / np.linalg.norm(on_sphere / radii)
        shade = scene.AMBIENT + (1 - scene.AMBIENT) * max(normal @ scene.LIGHT, 0)
        assert picture[row, column] / 255 == pytest.approx(np.array(getattr(look, colour)) * shade, abs=0.02 + 1 / 255)


def test_edges_are_smooth():
    """2 x 2 rays a pixel: against the plain background the outline has pixels in between."""
    picture, depth = scene.render(camera(0, 0), scene.Look(skin=(0.5,) * 3, cap=(0.5,) * 3), 64)
    red = picture[..., 0].astype(int)
    background = int(scene.BACKGROUND[0] * 255 + 0.5)
    assert red[0, 0] == background
    outside = red[np.isnan(depth)]
    assert ((outside < background) & (outside > 128)).sum() > 20


def test_seeds():
    """The same seed, the same pictures, and nobody's random numbers move; another seed, others."""
    before = torch.random.get_rng_state()
    first, again, other = (scene.pictures(3, resolution=16, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(np.array_equal(a, b, equal_nan=a.dtype == np.float32) for a, b in zip(first, again))
    assert not np.array_equal(first[0], other[0]) and not np.array_equal(first[1], other[1])
    assert [part.dtype for part in first] == [np.uint8, np.float32, np.float32, bool]
    assert [part.shape for part in first] == [(3, 16, 16, 3), (3, 25), (3, 16, 16), (3, 16, 16)]


def test_cameras_are_spread_as_said():
    """Yaw and pitch of 4000 cameras: deviations of a normal sample are right within 4 / sqrt(2 * 4000) = 4.5 %."""
    labels = scene.labels(4000)
    x, y, z = labels[:, [3, 7, 11]].T.astype(np.float64)
    assert np.hypot(np.hypot(x, y), z) == pytest.approx(scene.RADIUS, rel=1e-5)
    yaw, pitch = np.arctan2(x, z), math.pi / 2 * (1 - y / scene.RADIUS) - math.pi / 2
    assert yaw.std() == pytest.approx(0.35, rel=0.045) and pitch.std() == pytest.approx(0.15, rel=0.045)
    assert not any(problem(label.tolist()) for label in labels[:20])


def test_zip(tmp_path):
    """Stored PNGs and their labels, the pictures themselves; the same bytes again."""
    for name in ("one.zip", "two.zip"):
        scene.write_zip(tmp_path / name, 4, resolution=16, seed=5)
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    images, labels, _, _ = scene.pictures(4, resolution=16, seed=5)
    with zipfile.ZipFile(tmp_path / "one.zip") as archive:
        assert {member.compress_type for member in archive.infolist()} == {zipfile.ZIP_STORED}
        known = dict(json.loads(archive.read("dataset.json"))["labels"])
        assert sorted(known) == [f"00000/img{index:08d}.png" for index in range(4)]
        for name, image, label in zip(sorted(known), images, labels):
            assert np.array_equal(np.float32(known[name]), label)
            assert np.array_equal(np.array(PIL.Image.open(io.BytesIO(archive.read(name)))), image)
