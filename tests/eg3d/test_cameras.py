"""Cameras: geometry that follows from the definitions. Poses are float32 of numbers up to 3, so 1e-5 holds their rounding.

Conventions: camera-to-world in OpenCV's axes (x right, y down, z into the scene), world y-up, angles in radians, the frontal
camera on the positive z axis; a label is pose and intrinsics, row by row.
"""

import inspect
import json
import math
import os

import numpy as np
import pytest
import torch

from eg3d import cameras
from eg3d.cameras import GaussianCameraPoseSampler, LookAtPoseSampler, UniformCameraPoseSampler
from training.labels import pack
from training.volumetric_rendering.ray_sampler import RaySampler

SINGLE = 1e-5
FRONT = math.pi / 2
FFHQ = dict(avg_camera_radius=2.7, avg_camera_pivot=[0, 0, 0.2])
SHAPENET = dict(avg_camera_radius=1.7, avg_camera_pivot=[0, 0, 0])
VIEWS = [(FRONT, FRONT, (0, 0, 0.2), 2.7), (FRONT + 0.4, FRONT - 0.2, (0, 0, 0.2), 2.7), (0.3, 1.1, (0.1, -0.2, 0), 1.7),
         (4.0, 2.6, (0, 0, 0), 1.0), (-1.0, 0.4, (0.3, 0.1, -0.2), 5.0)]


def close(result, expected, tolerance=SINGLE):
    np.testing.assert_allclose(np.asarray(result), np.asarray(expected), rtol=0, atol=tolerance)


def project(point, pose, K):
    """Where a camera sees a world point: (u, v) in image widths from the top left, and the depth along its axis."""
    inside = np.linalg.inv(np.asarray(pose, dtype=np.float64)) @ [*point, 1]
    u, v, w = np.asarray(K, dtype=np.float64) @ inside[:3]
    return u / w, v / w, inside[2]


# ------------------------------------------------------------------------------------------------ look-at poses

@pytest.mark.parametrize("yaw, pitch, pivot, radius", VIEWS)
def test_look_at(yaw, pitch, pivot, radius):
    """A proper rotation, upright, on the sphere around the world's origin; the pivot is in the picture's centre."""
    pose = LookAtPoseSampler.sample(yaw, pitch, torch.tensor(pivot, dtype=torch.float32), radius=radius)[0].double().numpy()
    right, down, forward, origin = pose[:3].T
    close(pose[:3, :3].T @ pose[:3, :3], np.eye(3))
    assert np.linalg.det(pose[:3, :3]) == pytest.approx(1, abs=SINGLE)
    close(pose[3], [0, 0, 0, 1], 0)
    assert np.linalg.norm(origin) == pytest.approx(radius, rel=SINGLE)
    u, v, depth = project(pivot, pose, cameras.intrinsics(4.2647))
    close([u, v, depth], [0.5, 0.5, np.linalg.norm(origin - pivot)])
    assert right[1] == pytest.approx(0, abs=SINGLE) and down[1] < 0  # no roll, and the picture's "down" is the world's
    above = project(np.add(pivot, [0, 0.05, 0]), pose, cameras.intrinsics(4.2647))
    assert above[0] == pytest.approx(0.5, abs=SINGLE) and above[1] < 0.5


def test_axes_of_the_frontal_camera():
    """On the positive z axis, looking back along it: the world's x is on the right, its y up."""
    pose = LookAtPoseSampler.sample(FRONT, FRONT, torch.zeros(3), radius=2.7)[0]
    close(pose, [[1, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, 2.7], [0, 0, 0, 1]])


def test_directions_of_the_angles():
    """With yaw the camera moves towards the world's x, with pitch downwards."""
    moved = LookAtPoseSampler.sample(FRONT + 0.1, FRONT, [0, 0, 0])[0, :3, 3]
    close(moved, [math.sin(0.1), 0, math.cos(0.1)])
    assert LookAtPoseSampler.sample(FRONT, FRONT + 0.1, [0, 0, 0])[0, 1, 3] < -0.05


@pytest.mark.parametrize("yaw, pitch, pivot, radius", VIEWS)
def test_look_at_formula(yaw, pitch, pivot, radius):
    """The origin, from the definition: cos phi = 1 - 2 pitch / pi, theta = pi - yaw; the pivot is not added to it."""
    pose = LookAtPoseSampler.sample(yaw, pitch, pivot, radius=radius)[0]
    phi, theta = math.acos(1 - 2 * pitch / math.pi), math.pi - yaw
    direction = [math.sin(phi) * math.cos(theta), math.cos(phi), math.sin(phi) * math.sin(theta)]
    close(pose[:3, 3], np.multiply(radius, direction), SINGLE * radius)
    forward = np.subtract(pivot, np.multiply(radius, direction))
    close(pose[:3, 2], forward / np.linalg.norm(forward))


@pytest.mark.parametrize("pitch", [0.0, math.pi, -1.0, 4.0])
def test_poles(pitch):
    """Straight above and below, and beyond, poses are finite rotations; the pitch is held off the poles."""
    pose = LookAtPoseSampler.sample(FRONT, pitch, [0, 0, 0])[0].double().numpy()
    close(pose[:3, :3].T @ pose[:3, :3], np.eye(3), 1e-3)  # directions there are differences of float32 numbers near 1
    assert pose[1, 3] == pytest.approx(1 if pitch < 1 else -1, abs=1e-4)


def test_look_at_directions():
    """The function underneath takes forward vectors of any length."""
    forward, origin = torch.tensor([[0.0, 0.0, -7.0], [0.3, -0.2, 0.1]]), torch.tensor([[0.0, 0.0, 2.0], [1.0, 2.0, 3.0]])
    poses = cameras.look_at(forward, origin)
    close(poses[0], [[1, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, 2], [0, 0, 0, 1]])
    close(poses[1, :3, 2], forward[1] / forward[1].norm())
    close(poses[:, :3, 3], origin, 0)


# ------------------------------------------------------------------------------------------------ samplers

@pytest.mark.parametrize("sampler, middle", [
    (LookAtPoseSampler, ["lookat_position"]), (GaussianCameraPoseSampler, []), (UniformCameraPoseSampler, [])])
def test_official_arguments(sampler, middle):
    """Order and defaults that notebooks rely on."""
    parameters = inspect.signature(sampler.sample).parameters
    assert list(parameters) == ["horizontal_mean", "vertical_mean", *middle, "horizontal_stddev", "vertical_stddev", "radius",
                                "batch_size", "device"]
    defaults = {name: p.default for name, p in parameters.items() if p.default is not inspect.Parameter.empty}
    assert defaults == dict(horizontal_stddev=0, vertical_stddev=0, radius=1, batch_size=1, device="cpu")


@pytest.mark.parametrize("name, draw", [
    ("LookAtPoseSampler", torch.randn), ("GaussianCameraPoseSampler", torch.randn),
    ("UniformCameraPoseSampler", lambda *size: torch.rand(*size) * 2 - 1)])
def test_samplers_draw_yaw_then_pitch(name, draw):
    """One number a sample and angle, also where the deviation is 0, so that seeds mean what they meant."""
    pivot = [[0, 0, 0]] if name == "LookAtPoseSampler" else []
    sample = getattr(cameras, name).sample
    for spread in ((0.3, 0.155), (0.0, 0.155), (0, 0)):
        torch.manual_seed(7)
        poses = sample(FRONT, FRONT - 0.1, *pivot, *spread, radius=2.7, batch_size=4)
        after = torch.rand(1)
        torch.manual_seed(7)
        yaw, pitch = [draw(4, 1) * deviation + mean for deviation, mean in zip(spread, (FRONT, FRONT - 0.1))]
        assert torch.equal(torch.rand(1), after)
        assert poses.shape == (4, 4, 4) and poses.dtype == torch.float32
        for n in range(4):
            close(poses[n], LookAtPoseSampler.sample(float(yaw[n]), float(pitch[n]), [0, 0, 0], radius=2.7)[0])
    assert torch.equal(sample(1.0, 1.2, *pivot), sample(1.0, 1.2, *pivot))


def test_uniform_stays_within_its_deviation():
    """Unlike the normal one, which has a third of its samples beyond."""
    def yaws(sampler):
        torch.manual_seed(0)
        origins = sampler.sample(FRONT, FRONT, 0.5, 0, batch_size=2000)[:, :3, 3]
        return torch.atan2(origins[:, 0], origins[:, 2])

    uniform, normal = yaws(UniformCameraPoseSampler), yaws(GaussianCameraPoseSampler)
    assert uniform.abs().max() <= 0.5 + SINGLE and uniform.std() == pytest.approx(0.5 / math.sqrt(3), rel=0.05)
    assert normal.std() == pytest.approx(0.5, rel=0.05)
    assert (normal.abs() > 0.5).float().mean() == pytest.approx(0.317, abs=0.04)


def test_pivots_of_any_kind():
    """A list, a tuple, an integer tensor: all the same."""
    expected = LookAtPoseSampler.sample(1.3, 1.4, torch.tensor([0.0, 0.0, 1.0]))
    for pivot in ([0, 0, 1], (0.0, 0.0, 1.0), torch.tensor([0, 0, 1]), np.array([0, 0, 1])):
        assert torch.equal(LookAtPoseSampler.sample(1.3, 1.4, pivot), expected)


# ------------------------------------------------------------------------------------------------ intrinsics

def test_field_of_view():
    """Diagonal degrees: rays through opposite corners enclose the angle. 18.837 is FFHQ's focal length, to the digits given."""
    assert cameras.FOV_to_intrinsics(18.837)[0, 0] == pytest.approx(cameras.FFHQ_FOCAL, abs=2e-3)
    assert abs(cameras.FFHQ_FOCAL - 2985.29 / 700) < 5e-5
    for degrees in (5, 18.837, 90, 170):
        K = cameras.FOV_to_intrinsics(degrees)
        close(K, [[K[0, 0], 0, 0.5], [0, K[0, 0], 0.5], [0, 0, 1]], 0)
        corners = np.linalg.inv(K.double().numpy()) @ np.array([[0, 1], [0, 1], [1, 1]])
        corners /= np.linalg.norm(corners, axis=0)
        assert math.degrees(math.acos(corners[:, 0] @ corners[:, 1])) == pytest.approx(degrees, rel=SINGLE)


@pytest.mark.parametrize("degrees", [0, 180, -5, 360, math.nan])
def test_impossible_fields_of_view(degrees):
    with pytest.raises(ValueError, match="field of view of .* degrees does not exist: choose one between 0 and 180"):
        cameras.FOV_to_intrinsics(degrees)


def test_focal_length():
    """What the network says itself; else ShapeNet's are told by their camera's distance, and everything else is FFHQ's."""
    assert cameras.focal_length(dict(SHAPENET, focal_length=2)) == 2.0
    assert isinstance(cameras.focal_length(dict(focal_length=2)), float)
    assert cameras.view(dict(FFHQ, focal_length=3.5))[0, [16, 20]].tolist() == [3.5, 3.5]
    assert cameras.view(dict(FFHQ, focal_length=3.5), focal=2)[0, 16] == 2
    assert cameras.focal_length(SHAPENET) == cameras.SHAPENET_FOCAL == 1.7074
    assert cameras.focal_length(FFHQ) == cameras.focal_length({}) == cameras.FFHQ_FOCAL


# ------------------------------------------------------------------------------------------------ labels

def test_label():
    """Pose, then intrinsics, row by row; one K for all or one each."""
    poses, K = torch.arange(32.0).reshape(2, 4, 4), torch.arange(9.0).reshape(3, 3)
    c = pack(poses, K)
    assert c.shape == (2, 25) and c[1].tolist() == [*range(16, 32), *range(9)]
    assert torch.equal(pack(poses, torch.stack([K, K])), c)


def test_frontal_view():
    """view() without angles is the frontal camera of the network's own distance and focal length."""
    for options, focal in ((FFHQ, cameras.FFHQ_FOCAL), (SHAPENET, cameras.SHAPENET_FOCAL)):
        c = cameras.view(options)
        radius = options["avg_camera_radius"]
        close(c, [[1, 0, 0, 0, 0, -1, 0, 0, 0, 0, -1, radius, 0, 0, 0, 1, focal, 0, 0.5, 0, focal, 0.5, 0, 0, 1]])
    assert cameras.view(FFHQ, focal=2)[0, 16] == 2


@pytest.mark.parametrize("yaw, pitch", [(0, 0), (0.4, -0.2), (-1.2, 0.5)])
def test_views_show_the_pivot(yaw, pitch):
    """The middle ray of every view passes through the network's pivot. An odd picture has a middle pixel."""
    c = cameras.view(FFHQ, yaw, pitch)
    origins, directions = RaySampler()(c[:, :16].reshape(1, 4, 4), c[:, 16:].reshape(1, 3, 3), 5)
    way = torch.tensor(FFHQ["avg_camera_pivot"]) - origins[0, 12]
    close(directions[0, 12], way / way.norm())


# ------------------------------------------------------------------------------------------------ paths

def places(labels):
    """Where cameras are, float64 [F, 3]."""
    return labels.double().numpy()[:, :16].reshape(-1, 4, 4)[:, :3, 3]


def rotations(labels):
    """Their rotations, float64 [F, 3, 3]."""
    return labels.double().numpy()[:, :16].reshape(-1, 4, 4)[:, :3, :3]


def angle(first, second):
    """Radians between two rotations; the arc sine of the axis part is exact for small ones."""
    turn = first.T @ second
    axis = np.array([turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]])
    return math.atan2(np.linalg.norm(axis) / 2, (np.trace(turn) - 1) / 2)


def test_film_path():
    """Closed, evenly timed, within its ranges: yaw a sine from 0, pitch a cosine from its maximum, around -0.05."""
    frames = cameras.film_path(FFHQ, 8)
    assert frames.shape == (8, 25)
    for index in range(8):
        t = 2 * math.pi * index / 8
        close(frames[index : index + 1], cameras.view(FFHQ, 0.35 * math.sin(t), -0.05 + 0.25 * math.cos(t)))
    close(cameras.film_path(FFHQ, 16)[::2], frames)

    origins = torch.from_numpy(places(cameras.film_path(FFHQ, 240)))
    steps = (origins - origins.roll(1, 0)).norm(dim=1)
    assert abs(steps[0] / steps[1] - 1) < 0.01  # from the last frame to the first as from the first to the second
    still = cameras.film_path(FFHQ, 3, yaw_range=0, pitch_range=0, pitch_mean=0)
    assert torch.equal(still, cameras.view(FFHQ).repeat(3, 1))
    assert cameras.film_path(FFHQ, 2, focal=3)[:, 16].tolist() == [3, 3]


@pytest.mark.parametrize("pitch", [0.0, -0.3])
@pytest.mark.parametrize("frames", [1, 7, 8])
def test_orbit_all_round(pitch, frames):
    """Evenly spaced around the vertical axis, the first in front, at one height; every camera looks at the pivot."""
    labels = cameras.orbit(FFHQ, frames, pitch=pitch)
    assert labels.shape == (frames, 25)
    where = places(labels)
    # Equal steps, towards the world's x as yaw goes.
    expected = [2 * math.pi * index / frames for index in range(frames)]
    turned = np.unwrap(np.arctan2(where[:, 0], where[:, 2]))
    close(turned, expected)
    close(where[:, 1], np.full(frames, where[0, 1]))
    close(np.linalg.norm(where, axis=1), np.full(frames, 2.7))
    assert (where[0, 1] > 0.1) == (pitch < 0)
    close(labels[:1], cameras.view(FFHQ, pitch=pitch), 0)
    for c in labels:
        u, v, depth = project(FFHQ["avg_camera_pivot"], c[:16].reshape(4, 4), c[16:].reshape(3, 3))
        close([u, v], [0.5, 0.5], 3 * SINGLE)  # focal lengths of 4 make more of the rounding
        assert depth > 2
    close(rotations(labels)[:, 1, 0], np.zeros(frames))  # no roll


@pytest.mark.parametrize("degrees", [1, 60, 180, 359.9])
def test_orbit_to_and_fro(degrees):
    """Half of it to either side and back, slow at the ends, closed: in front at the beginning and half-way."""
    count = 48
    labels = cameras.orbit(FFHQ, count, degrees)
    where = places(labels)
    yaw = np.unwrap(np.arctan2(where[:, 0], where[:, 2]))
    half = math.radians(degrees) / 2
    assert yaw.max() == pytest.approx(half, abs=SINGLE) and yaw.min() == pytest.approx(-half, abs=SINGLE)
    assert np.argmax(yaw) == count // 4 and np.argmin(yaw) == 3 * count // 4
    close(yaw[[0, count // 2]], [0, 0])
    close(yaw[1:], -yaw[1:][::-1])  # back the way it came
    steps = np.diff(np.append(yaw, yaw[0]))
    assert steps[0] == pytest.approx(steps[-1], abs=2 * SINGLE)  # goes on where it closes
    assert abs(steps[count // 4]) < steps[0] / 4
    close(where[:, 1], np.full(count, where[0, 1]))


def test_options_of_an_orbit():
    """Focal length: the network's, or the one given; the radius is the network's."""
    assert cameras.orbit(SHAPENET, 2)[:, 16].tolist() == [pytest.approx(1.7074)] * 2
    assert cameras.orbit(FFHQ, 2, 90, focal=3)[:, 16].tolist() == [3, 3]
    close(np.linalg.norm(places(cameras.orbit(SHAPENET, 5)), axis=1), [1.7] * 5)


@pytest.mark.parametrize("degrees", [0, -1, 360.5, 720, math.nan, math.inf, -math.inf])
def test_impossible_orbits(degrees):
    with pytest.raises(ValueError, match=f"an orbit of {degrees:g} degrees: choose more than 0, at most 360"):
        cameras.orbit(FFHQ, 4, degrees)


# ------------------------------------------------------------------------------------------------ another number of frames

def axis_rotation(axis, radians):
    """Rodrigues' formula."""
    x, y, z = np.asarray(axis) / np.linalg.norm(axis)
    K = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + math.sin(radians) * K + (1 - math.cos(radians)) * K @ K


def test_resampling_keeps_the_ends():
    """First and last camera stay; what lies between are rotations."""
    labels = cameras.film_path(FFHQ, 7)
    for frames in (2, 3, 7, 30):
        path = cameras.resample(labels, frames)
        assert path.shape == (frames, 25) and path.dtype == torch.float32
        close(path[[0, -1]], labels[[0, -1]], 1e-6)  # a rounding or two of float32
        for rotation in rotations(path):
            close(rotation @ rotation.T, np.eye(3), 1e-6)
            assert np.linalg.det(rotation) == pytest.approx(1, abs=1e-6)
        close(path[:, 12:16], [[0, 0, 0, 1]] * frames, 0)


def test_resampling_to_the_same_number():
    labels = torch.cat([cameras.film_path(FFHQ, 5), cameras.orbit(SHAPENET, 4, pitch=0.3)])
    close(cameras.resample(labels, 9), labels, 1e-6)
    close(cameras.resample(labels, 17)[::2], labels, 1e-6)


def test_resampling_turns_evenly():
    """Between two cameras: equal angles about one axis; focal lengths change evenly, and the world's origin goes straight
    and evenly through the cameras' own frames."""
    start, axis, turn = axis_rotation([1, 2, -1], 0.7), [0.3, -1, 0.5], 2.2
    labels = torch.zeros(2, 25)
    for index, rotation in enumerate((start, start @ axis_rotation(axis, turn))):
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = rotation, ([0, 1, 2], [3, -1, 2.5])[index]
        labels[index] = pack(torch.tensor(pose[None]).float(), cameras.intrinsics((2.0, 4.0)[index]))[0]
    path = cameras.resample(labels, 9)
    for index, c in enumerate(path):
        share = index / 8
        close(rotations(path)[index], start @ axis_rotation(axis, turn * share), 1e-6)  # float32's rounding of numbers up to 1
        seen = [-(rotation.T @ place) for rotation, place in zip(rotations(path), places(path))]
        close(seen[index], (1 - share) * seen[0] + share * seen[8], 1e-6)
        close(c[16:], [2 + 2 * share, 0, 0.5, 0, 2 + 2 * share, 0.5, 0, 0, 1], 1e-6)


def test_resampling_an_orbit():
    """Steps of one size go on as steps of one size, a pose of the circle between poses of the circle."""
    path = cameras.resample(cameras.orbit(dict(FFHQ, avg_camera_pivot=[0, 0, 0]), 12), 45)  # 11 steps to 44
    steps = [angle(first, second) for first, second in zip(rotations(path), rotations(path)[1:])]
    close(steps, np.full(44, 2 * math.pi / 12 / 4))


@pytest.mark.parametrize("cameras_of_it", [3, 4, 7])
def test_resampling_stays_at_its_distance(cameras_of_it):
    """Few cameras around the origin become many at the same distance that look at the same point."""
    for rendering, pitch in ((dict(FFHQ, avg_camera_pivot=[0, 0, 0]), 0.0), (SHAPENET, -0.5)):
        few = cameras.orbit(rendering, cameras_of_it, pitch=pitch)
        path = cameras.resample(few, 50)
        close(np.linalg.norm(places(path), axis=1), [rendering["avg_camera_radius"]] * 50, 1e-6)
        close([-(rotation.T @ place) for rotation, place in zip(rotations(path), places(path))],
              [[0, 0, rendering["avg_camera_radius"]]] * 50, 1e-6)


def test_resampling_goes_straight():
    """Cameras that do not turn move on a line."""
    labels = cameras.view(FFHQ, 0.4, -0.1).repeat(2, 1)
    labels[1, [3, 7, 11]] += torch.tensor([0.5, -0.25, 1.0])
    share = np.linspace(0, 1, 6)[:, None]
    close(places(cameras.resample(labels, 6)), (1 - share) * places(labels)[0] + share * places(labels)[1], 1e-6)


def test_resampling_one_camera():
    """It stays where it is."""
    c = cameras.view(FFHQ, 0.3)
    assert torch.equal(cameras.resample(c, 5), c.repeat(5, 1)) and torch.equal(cameras.resample(c, 1), c)
    path = cameras.film_path(FFHQ, 4)
    close(cameras.resample(path, 1), path[:1], 1e-6)


# ------------------------------------------------------------------------------------------------ paths in files

def test_saved_paths(tmp_path):
    """Every number comes back as it was; a folder that is missing is made, and nothing else is there."""
    path = tmp_path / "new" / "path.json"
    labels = torch.cat([cameras.film_path(FFHQ, 5), cameras.orbit(SHAPENET, 3), cameras.view(FFHQ, 0.1, focal=1 / 3)])
    for some in (labels, labels[:1]):
        cameras.save_path(some, path)
        assert torch.equal(cameras.load_path(path), some) and torch.equal(cameras.load_path(str(path)), some)
        assert os.listdir(path.parent) == ["path.json"]


def test_format_of_a_saved_path(tmp_path):
    """JSON, a line a camera, that says what its numbers are."""
    labels = cameras.film_path(FFHQ, 4)
    cameras.save_path(labels, tmp_path / "path.json")
    text = (tmp_path / "path.json").read_text()
    content = json.loads(text)
    assert np.array_equal(np.array(content["cameras"], dtype=np.float32), labels.numpy())
    assert "4x4 camera-to-world" in content["about"] and len(text.splitlines()) == 4


def written(tmp_path, content):
    path = tmp_path / "path.json"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def frontal():
    return [1, 0, 0, 0, 0, -1, 0, 0, 0, 0, -1, 2.7, 0, 0, 0, 1, 4.2647, 0, 0.5, 0, 4.2647, 0.5, 0, 0, 1]


def changed(**numbers):
    """The frontal label with other numbers: n3=0.5 sets the fourth."""
    label = frontal()
    for name, number in numbers.items():
        label[int(name[1:])] = number
    return label


def turned(matrix):
    """The frontal label with another upper left 3x3."""
    label = frontal()
    for row in range(3):
        label[4 * row : 4 * row + 3] = [float(x) for x in matrix[row]]
    return label


def test_paths_of_others(tmp_path):
    """Integers, other keys, numbers that were rounded to four digits."""
    about = dict(cameras=[frontal(), [round(x, 4) for x in cameras.view(FFHQ, 0.4, 0.1)[0].tolist()]], made_by="hand")
    labels = cameras.load_path(written(tmp_path, about))
    assert labels.dtype == torch.float32
    close(labels, torch.cat([cameras.view(FFHQ), cameras.view(FFHQ, 0.4, 0.1)]), 1e-4)


def test_label_that_the_others_change():
    """What the tests of bad labels begin with is a good one."""
    close([frontal()], cameras.view(FFHQ))
    close([turned(np.diag([1, -1, -1]))], cameras.view(FFHQ))


BAD_LABELS = {
    "too short": (frontal()[:24], "has 24 numbers, expected 25"),
    "too long": (frontal() + [1], "has 26 numbers, expected 25"),
    "empty": ([], "has 0 numbers, expected 25"),
    "rows": ([frontal()[:16], frontal()[16:]], "has 2 numbers, expected 25"),
    "nested": ([[x] for x in frontal()], "holds what is no number"),
    "no list": ("1, 0, 0", "is a str, expected 25"),
    "null": (None, "is a NoneType, expected 25"),
    "a number": (7, "is a int, expected 25"),
    "a mapping": (dict(pose=frontal()), "is a dict, expected 25"),
    "text": (changed(n3="0.5"), "holds what is no number"),
    "null inside": (changed(n3=None), "holds what is no number"),
    "true": (changed(n0=True), "holds what is no number"),
    "NaN": (changed(n3=math.nan), "holds what is no number"),
    "infinity": (changed(n3=math.inf), "holds what is no number"),
    "minus infinity": (changed(n11=-math.inf), "holds what is no number"),
    "large": (changed(n3=1e30), "far too large"),
    "huge integer": (changed(n3=10**400), "far too large"),
    "huge negative integer": (changed(n18=-(10**400)), "far too large"),
    "stretched": (turned(np.diag([1.01, -1, -1])), "3x3 is no rotation"),
    "sheared": (turned([[1, 0.1, 0], [0, -1, 0], [0, 0, -1]]), "3x3 is no rotation"),
    "zero": (turned(np.zeros((3, 3))), "3x3 is no rotation"),
    "mirrored": (turned(np.diag([1, 1, -1])), "3x3 is no rotation"),
    "mirrored and turned": (turned(-axis_rotation([1, 2, 3], 0.5)), "3x3 is no rotation"),
    "last row": (changed(n12=0.5), "last row is not 0, 0, 0, 1"),
    "scale": (changed(n15=2), "last row is not 0, 0, 0, 1"),
    "transposed": (changed(n11=0, n14=2.7), "last row is not 0, 0, 0, 1"),
    "no focal length": (changed(n16=0), "focal length that is not positive"),
    "negative focal length": (changed(n20=-4.2), "focal length that is not positive"),
    "tiny focal length": (changed(n16=1e-30), "focal length that is not positive"),
    "intrinsics' last row": (changed(n22=0.5), "intrinsics whose last row is not 0, 0, 1"),
    "intrinsics' scale": (changed(n24=512), "intrinsics whose last row is not 0, 0, 1"),
}


@pytest.mark.parametrize("place", [0, 2])
@pytest.mark.parametrize("name", BAD_LABELS)
def test_bad_labels(tmp_path, name, place):
    """One line with the file, the camera's number and what is wrong, wherever it is in the path."""
    label, problem = BAD_LABELS[name]
    content = [frontal(), frontal(), frontal()]
    content[place] = label
    path = written(tmp_path, dict(cameras=content))
    with pytest.raises(ValueError, match=problem) as caught:
        cameras.load_path(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: camera {place} ") and "\n" not in message and len(message) < len(str(path)) + 200


BAD_FILES = {
    "empty": "",
    "text": "cameras: [1, 2]",
    "half": '{"cameras": [[1, 0, 0',
    "garbage": bytes(range(256)) * 4,
    "zeros": bytes(100),
    "picture": b"\x89PNG\r\n\x1a\n\x00\x00",
    "UTF-16": '{"cameras": []}'.encode("utf-16"),
    "deep": "[" * 100_000,
    "deep and closed": "[" * 100_000 + "]" * 100_000,
    "deep cameras": '{"cameras": ' + "[" * 100_000 + "]" * 100_000 + "}",
    "deep mappings": '{"a":' * 100_000 + "1" + "}" * 100_000,
    "integer of many digits": '{"cameras": [[' + "9" * 10_000 + "]]}",
    "a list": [frontal()],
    "a number": "7",
    "null": "null",
    "a text": '"cameras"',
    "another key": dict(camera=[frontal()]),
    "no cameras": dict(cameras=[]),
    "cameras null": dict(cameras=None),
    "cameras a mapping": dict(cameras={"0": frontal()}),
    "cameras a text": dict(cameras="abc"),
    "two lines": "{}\n\n{\n",
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files(tmp_path, name):
    """One line with the file: no JSON, or none that holds a camera path."""
    path = written(tmp_path, BAD_FILES[name])
    with pytest.raises(ValueError, match=r"no JSON|holds no camera path, which is \{\"cameras\"") as caught:
        cameras.load_path(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message and len(message) < len(str(path)) + 250


@pytest.mark.parametrize("token", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
def test_numbers_that_python_reads(tmp_path, token):
    """Python's json takes these for numbers."""
    text = json.dumps(dict(cameras=[frontal(), changed(n7="here")])).replace('"here"', token)
    assert token in text
    with pytest.raises(ValueError, match="path.json: camera 1 holds what is no number"):
        cameras.load_path(written(tmp_path, text))


def test_missing_file(tmp_path):
    """An OSError that names the file, a folder in its place too."""
    for path in (tmp_path / "missing.json", tmp_path):
        with pytest.raises(OSError, match=str(path)) as caught:
            cameras.load_path(path)
        assert "\n" not in str(caught.value)
