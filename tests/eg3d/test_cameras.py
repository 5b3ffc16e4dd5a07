"""Cameras: geometry that follows from the definitions. Poses are float32 of numbers up to 3, so 1e-5 holds their rounding.

Conventions: camera-to-world in OpenCV's axes (x right, y down, z into the scene), world y-up, angles in radians, the frontal
camera on the positive z axis; a label is pose and intrinsics, row by row.
"""

import inspect
import math

import numpy as np
import pytest
import torch

from eg3d import cameras
from eg3d.cameras import GaussianCameraPoseSampler, LookAtPoseSampler, UniformCameraPoseSampler
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
    """ShapeNet's networks are told by their camera's distance; everything else is FFHQ's."""
    assert cameras.focal_length(SHAPENET) == cameras.SHAPENET_FOCAL == 1.7074
    assert cameras.focal_length(FFHQ) == cameras.focal_length({}) == cameras.FFHQ_FOCAL


# ------------------------------------------------------------------------------------------------ labels

def test_label():
    """Pose, then intrinsics, row by row; one K for all or one each."""
    poses, K = torch.arange(32.0).reshape(2, 4, 4), torch.arange(9.0).reshape(3, 3)
    c = cameras.label(poses, K)
    assert c.shape == (2, 25) and c[1].tolist() == [*range(16, 32), *range(9)]
    assert torch.equal(cameras.label(poses, torch.stack([K, K])), c)


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


def test_orbit():
    """Closed, evenly timed, within its ranges: yaw a sine from 0, pitch a cosine from its maximum, around -0.05."""
    frames = cameras.orbit(FFHQ, 8)
    assert frames.shape == (8, 25)
    for index in range(8):
        t = 2 * math.pi * index / 8
        close(frames[index : index + 1], cameras.view(FFHQ, 0.35 * math.sin(t), -0.05 + 0.25 * math.cos(t)))
    close(cameras.orbit(FFHQ, 16)[::2], frames)

    origins = cameras.orbit(FFHQ, 240)[:, :16].reshape(-1, 4, 4)[:, :3, 3]
    steps = (origins - origins.roll(1, 0)).norm(dim=1)
    assert abs(steps[0] / steps[1] - 1) < 0.01  # from the last frame to the first as from the first to the second
    assert torch.equal(cameras.orbit(FFHQ, 3, yaw_range=0, pitch_range=0, pitch_mean=0), cameras.view(FFHQ).repeat(3, 1))
    assert cameras.orbit(FFHQ, 2, focal=3)[:, 16].tolist() == [3, 3]
