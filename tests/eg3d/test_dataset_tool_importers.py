"""Importers: known points, projected by the source's own convention in naive code, and through the 25 numbers.

Both are in shares of the picture; they agree to rounding in float64, of poses written with 12 digits: 1e-9.
"""

import json
import math

import numpy as np
import PIL.Image
import pytest

from eg3d.scenes import geometry, sources
from training.labels import problem

EXACT = 1e-9
CENTRE = np.array([3.0, -2.0, 1.5])  # what the cameras look at, in the source's world
RADIUS = 2.7
SIZE = (60, 40)


def directions(count, seed=0, spread=1.0):
    """Unit vectors from the centre to cameras, z up: around -y (Blender's front), some above, some below."""
    random = np.random.RandomState(seed)
    turns, heights = random.uniform(-spread, spread, count), random.uniform(-0.2, 0.8, count)
    return np.stack([np.sin(turns) * np.cos(heights), -np.cos(turns) * np.cos(heights), np.sin(heights)], axis=1)


def frame_of(direction):
    """Right, up and backward axes of an upright camera that looks against `direction`; z is up."""
    right = np.cross([0, 0, 1.0], direction)
    right /= np.linalg.norm(right)
    return right, np.cross(direction, right), direction


def projected(numbers, point):
    """Where a label sees a point, in shares of the picture."""
    pose, K = np.array(numbers[:16]).reshape(4, 4), np.array(numbers[16:]).reshape(3, 3)
    x, y, z = K @ pose[:3, :3].T @ (point - pose[:3, 3])
    assert z > 0
    return x / z, y / z


def points(seed=1):
    return CENTRE + np.random.RandomState(seed).uniform(-0.3, 0.3, (5, 3))


def write_images(folder, names, size=SIZE):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.new("RGB", size).save(folder / name)


def opened(folder, **kwargs):
    return sources.opened(str(folder), kwargs.pop("kind", None), kwargs.pop("radius", RADIUS), None, None)


# ------------------------------------------------------------------------------------------------ NeRF

def nerf(folder, cameras, frames=({},) * 6, suffix=".png"):
    """A transforms.json of six cameras at different distances; returns their (position, axes)."""
    placed, listed = [], []
    for index, (direction, more) in enumerate(zip(directions(6), frames)):
        axes, position = frame_of(direction), CENTRE + direction * (4 + index)
        matrix = np.eye(4)
        matrix[:3, :3], matrix[:3, 3] = np.stack(axes, axis=1), position
        listed.append(dict(file_path=f"./train/r_{index}{suffix}", transform_matrix=matrix.tolist(), **more))
        placed.append((position, axes))
    write_images(folder, [f"train/r_{index}.png" for index in range(6)])
    (folder / "transforms.json").write_text(json.dumps(dict(cameras, frames=listed)))
    return placed


def to_ours(point):
    """From the NeRF world: Blender's z is our y, its -y our z; the mean distance 6.5 becomes RADIUS."""
    x, y, z = (point - CENTRE) * RADIUS / 6.5
    return np.array([x, z, -y])


PIXELS = dict(fl_x=70.0, fl_y=72.0, cx=31.0, cy=18.0, w=60, h=40)


@pytest.mark.parametrize("cameras, fx, fy, cx, cy", [
    (PIXELS, 70, 72, 31, 18),
    (dict(PIXELS, w=120, h=80), 35, 36, 15.5, 9),  # the pictures were halved since
    (dict(camera_angle_x=0.7), 30 / math.tan(0.35), 30 / math.tan(0.35), 30, 20),
    (dict(camera_angle_x=0.7, camera_angle_y=0.5), 30 / math.tan(0.35), 20 / math.tan(0.25), 30, 20),
])
@pytest.mark.parametrize("suffix", [".png", ""])
def test_nerf(tmp_path, cameras, fx, fy, cx, cy, suffix):
    """OpenGL: a camera looks along its -z, y is up; pixels count downwards."""
    placed = nerf(tmp_path, cameras, suffix=suffix)
    source = opened(tmp_path)
    assert [picture.name for picture in source.pictures] == [f"train/r_{index}.png" for index in range(6)]
    for picture, (position, (right, up, back)) in zip(source.pictures, placed):
        assert problem(picture.label) is None
        for point in points():
            x, y, z = [float(np.dot(axis, point - position)) for axis in (right, up, back)]
            expected = (cx + fx * x / -z) / 60, (cy - fy * y / -z) / 40
            np.testing.assert_allclose(projected(picture.label, to_ours(point)), expected, atol=EXACT)


def test_nerf_frames_have_their_own_cameras(tmp_path):
    """A frame's keys go before the file's."""
    nerf(tmp_path, PIXELS, frames=[dict(fl_x=50.0 + index) for index in range(6)])
    focal = [picture.label[16] for picture in opened(tmp_path).pictures]
    np.testing.assert_allclose(focal, (50 + np.arange(6)) / 60, atol=EXACT)


@pytest.mark.parametrize("cameras, expected", [
    (dict(PIXELS, k1=0.01), "has lens distortion: undistort"),
    (dict(PIXELS, camera_model="OPENCV_FISHEYE"), "has lens distortion: undistort"),
    (dict(cx=30), "has no focal length: give fl_x, or camera_angle_x"),
    (dict(PIXELS, w=40, h=60), "is 60 x 40, but its camera is for 40 x 60"),
])
def test_nerf_cameras_that_do_not_fit(tmp_path, cameras, expected):
    nerf(tmp_path, cameras)
    with pytest.raises(ValueError, match=expected):
        opened(tmp_path)


@pytest.mark.parametrize("frame, expected", [
    (dict(transform_matrix=[[1, 0], [0, 1]]), "has no transform_matrix of 4 x 4"),
    (dict(transform_matrix=np.diag([1.0, 1, -1, 1]).tolist()), "is no rotation"),
    (dict(), "file_path"),
])
def test_nerf_frames_that_are_none(tmp_path, frame, expected):
    write_images(tmp_path, ["a.png"])
    frame = dict(frame, file_path="a.png") if frame else {}
    (tmp_path / "transforms.json").write_text(json.dumps(dict(PIXELS, frames=[frame])))
    with pytest.raises(ValueError, match=expected):
        opened(tmp_path)


def test_nerf_missing_picture(tmp_path):
    """It is named, and the others are there."""
    nerf(tmp_path, PIXELS)
    (tmp_path / "train" / "r_2.png").unlink()
    source = opened(tmp_path)
    assert len(source.pictures) == 5 and source.absent == ["train/r_2.png"]


def test_parallel_cameras_are_refused(tmp_path):
    """Cameras that look in one direction do not say where the scene is."""
    write_images(tmp_path, ["a.png", "b.png"])
    frames = []
    for index, name in enumerate("ab"):
        matrix = np.eye(4)
        matrix[0, 3] = index
        frames.append(dict(file_path=f"{name}.png", transform_matrix=matrix.tolist()))
    (tmp_path / "transforms.json").write_text(json.dumps(dict(PIXELS, frames=frames)))
    with pytest.raises(ValueError, match="transforms.json: the cameras look in one direction"):
        opened(tmp_path)


# ------------------------------------------------------------------------------------------------ COLMAP

def quaternion(R):
    """(w, x, y, z) of a rotation: the eigenvector of eigenvalue 1 of Bar-Itzhack's matrix."""
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = R
    K = np.array([[xx - yy - zz, 0, 0, 0], [yx + xy, yy - xx - zz, 0, 0], [zx + xz, zy + yz, zz - xx - yy, 0],
                  [zy - yz, xz - zx, yx - xy, xx + yy + zz]]) / 3
    vector = np.linalg.eigh(K)[1][:, -1]
    return np.array([vector[3], *vector[:3]])


def colmap(folder, model="PINHOLE", parameters="70 72 31 18", spread=1.0, where="sparse/0", images="images"):
    """A text model in a tilted, shifted world; returns cameras as (world-to-camera R, t), the tilt and the
    shift, and our axes."""
    tilt = np.linalg.qr(np.random.RandomState(3).randn(3, 3))[0]
    tilt *= np.linalg.det(tilt)
    shift = np.array([10.0, 20.0, 30.0])
    heads, lines, cameras = directions(6, spread=spread), [], []
    positions = CENTRE + heads * (4 + np.arange(6))[:, None]
    for index, (position, head) in enumerate(zip(positions, heads)):
        right, up, back = [tilt @ axis for axis in frame_of(head)]
        R = np.stack([right, -up, -back])
        t = -R @ (tilt @ position + shift)
        numbers = [format(x, ".17g") for x in [*quaternion(R), *t]]
        lines += [f"{index + 1} {' '.join(numbers)} 7 view {index}.png", "1.5 2.5 -1 3.5 4.5 9" if index % 2 else ""]
        cameras.append((R, t))
    (folder / where).mkdir(parents=True, exist_ok=True)
    (folder / where / "cameras.txt").write_text(f"# Camera list\n7 {model} 60 40 {parameters}\n")
    (folder / where / "images.txt").write_text("# Image list\n" + "\n".join(lines) + "\n")
    write_images(folder, [f"{images}/view {index}.png" for index in range(6)])
    front = (positions - CENTRE).mean(axis=0) * [1, 1, 0]  # where the cameras stand, level
    front /= np.linalg.norm(front)
    axes = np.stack([np.cross([0, 0, 1], front), [0, 0, 1], front])
    return cameras, tilt, shift, axes


@pytest.mark.parametrize("model, parameters, K", [
    ("PINHOLE", "70 72 31 18", (70, 72, 31, 18)), ("SIMPLE_PINHOLE", "65 29 21", (65, 65, 29, 21))])
@pytest.mark.parametrize("where, images", [("sparse/0", "images"), ("sparse", "images"), ("", ".")])
def test_colmap(tmp_path, model, parameters, K, where, images):
    """A world of any direction and size: cameras see the same points at the same places, and ours is upright.

    Upright within a degree, since the cameras' own up, which is tilted, counts a little (LEVEL_WEIGHT); the points are placed
    by the axes that came out.
    """
    cameras, tilt, shift, expected_axes = colmap(tmp_path, model, parameters, where=where, images=images)
    source = opened(tmp_path)
    prefix = "" if images == "." else "images/"
    assert [picture.name for picture in source.pictures] == [f"{prefix}view {index}.png" for index in range(6)]
    fx, fy, cx, cy = K
    axes = np.array(source.pictures[0].label[:16]).reshape(4, 4)[:3, :3] @ cameras[0][0] @ tilt
    assert np.degrees(np.arccos((np.trace(axes @ expected_axes.T) - 1) / 2)) < 1
    for picture, (R, t) in zip(source.pictures, cameras):
        assert problem(picture.label) is None
        for point in points():
            x, y, z = R @ (tilt @ point + shift) + t
            expected = (cx + fx * x / z) / 60, (cy + fy * y / z) / 40
            ours = axes @ (point - CENTRE) * RADIUS / 6.5
            np.testing.assert_allclose(projected(picture.label, ours), expected, atol=EXACT)


def test_colmap_is_a_similarity(tmp_path):
    """The cameras stand and look to each other as they did, at another scale."""
    cameras = colmap(tmp_path)[0]
    poses = np.array([picture.label[:16] for picture in opened(tmp_path).pictures]).reshape(-1, 4, 4)
    ours, theirs = poses[:, :3, 3], np.stack([-R.T @ t for R, t in cameras])
    scale = RADIUS / 6.5
    np.testing.assert_allclose(np.linalg.norm(ours, axis=1).mean(), RADIUS, rtol=EXACT)
    for first in range(6):
        for second in range(6):
            relative = cameras[first][0] @ cameras[second][0].T
            np.testing.assert_allclose(poses[first, :3, :3].T @ poses[second, :3, :3], relative, atol=EXACT)
            np.testing.assert_allclose(poses[first, :3, :3].T @ (ours[second] - ours[first]),
                                       scale * cameras[first][0] @ (theirs[second] - theirs[first]), atol=1e-8)


def test_up_is_level_though_all_cameras_look_down():
    """The mean of their own up directions is 30 degrees off; the world's up is within one."""
    poses = np.tile(np.eye(4), (20, 1, 1))
    for pose, turn in zip(poses, np.linspace(-0.5, 0.5, 20)):
        head = np.array([np.sin(turn) * np.cos(0.5), -np.cos(turn) * np.cos(0.5), np.sin(0.5)])
        right, up, back = frame_of(head)
        pose[:3, :3], pose[:3, 3] = np.stack([right, -up, -back], axis=1), 3 * head
    mean = -poses[:, :3, 1].mean(axis=0)
    assert np.degrees(np.arccos(mean[2] / np.linalg.norm(mean))) > 25
    assert np.degrees(np.arccos(geometry.upright_axes(poses)[1, 2])) < 1


def test_cameras_all_around_have_some_front():
    """No side is the front: axes are a rotation with y up all the same."""
    poses = np.tile(np.eye(4), (8, 1, 1))
    for pose, turn in zip(poses, np.arange(8) * math.pi / 4):
        right, up, back = frame_of(np.array([np.sin(turn), -np.cos(turn), 0]))
        pose[:3, :3], pose[:3, 3] = np.stack([right, -up, -back], axis=1), 3 * back
    axes = geometry.upright_axes(poses)
    np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=EXACT)
    np.testing.assert_allclose(axes[1], [0, 0, 1], atol=EXACT)


@pytest.mark.parametrize("model, parameters, expected", [
    ("SIMPLE_RADIAL", "70 31 18 0.1", "camera 7 is SIMPLE_RADIAL.*undistort"), ("OPENCV", "70 72 31 18 0 0 0 0", "undistort"),
    ("PINHOLE", "70 72 31", "is no camera"), ("PINHOLE", "a b c d", "is no camera")])
def test_colmap_cameras_that_do_not_fit(tmp_path, model, parameters, expected):
    colmap(tmp_path, model, parameters)
    with pytest.raises(ValueError, match=expected):
        opened(tmp_path)


@pytest.mark.parametrize("text, expected", [
    ("1 1 0 0 0 0 0 0 7\n\n", "is no image"), ("1 0 0 0 0 0 0 0 7 a.png\n\n", "is no image"), ("# none\n", "holds no images"),
    ("1 1 0 0 0 0 0 0 8 a.png\n\n", "names camera 8, which")])
def test_colmap_images_that_are_none(tmp_path, text, expected):
    colmap(tmp_path)
    (tmp_path / "sparse" / "0" / "images.txt").write_text(text)
    with pytest.raises(ValueError, match=expected):
        opened(tmp_path)
