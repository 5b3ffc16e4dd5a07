"""dataset_tool --check: what it finds, what it suggests, what it draws."""

import json
import math

import numpy as np
import PIL.Image
import pytest
import torch
from test_dataset_tool import label, noise, posed, run, write_folder  # noqa: F401 (run is a fixture)

from eg3d.cameras import FRONTAL, LookAtPoseSampler, intrinsics
from eg3d.cli.train import train
from eg3d.scenes import checking, cloud
from eg3d.scenes.suggestion import suggest
from training.labels import pack


def around(pivot, radius, focal, yaw=0.3, pitch=0.15, count=200):
    """Labels of cameras like a data set's."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        poses = LookAtPoseSampler.sample(FRONTAL, FRONTAL, pivot, yaw, pitch, radius, count)
    return pack(poses, intrinsics(focal)).numpy()


# ------------------------------------------------------------------------------------------------ suggestions

@pytest.mark.parametrize("pivot, radius, focal, official", [
    ((0, 0, 0.2), 2.7, 4.2647, dict(ray_start=2.25, ray_end=3.3, box_warp=1)),
    ((0, 0, -0.06), 2.7, 4.2647, dict(ray_start=2.25, ray_end=3.3, box_warp=1)),
])
def test_suggestion_of_the_official_cameras(pivot, radius, focal, official):
    """Pivot, radius and focal length are found (float32 labels: 1e-4); box and rays come within a quarter of the official."""
    found = suggest(around(pivot, radius, focal))
    np.testing.assert_allclose(found["pivot"], pivot, atol=1e-4)
    np.testing.assert_allclose([found["radius"], found["focal"]], [radius, focal], rtol=1e-4)
    for name, value in official.items():
        assert abs(found[name] / value - 1) < 0.25, name


@pytest.mark.parametrize("spread", [0.0, 0.9])
def test_suggestion_covers_what_is_seen(spread):
    """Points of the sphere that reaches the corners of the average picture lie in the box, and on rays of every camera.

    Cameras that come nearer and go farther, each along its axis, are held to it too.
    """
    labels = around((0.1, -0.2, 0.2), 2.0, 1.5, yaw=1.0, pitch=0.3)
    labels[:, [3, 7, 11]] += labels[:, [2, 6, 10]] * np.random.RandomState(1).uniform(-spread, spread, (200, 1))
    found = suggest(labels)
    poses = labels[:, :16].reshape(-1, 4, 4)
    pivot = np.array(found["pivot"])
    radius = np.linalg.norm(poses[:, :3, 3] - pivot, axis=1).mean() * 0.5 * math.sqrt(2) / 1.5
    points = np.random.RandomState(0).randn(500, 3)
    points = pivot + radius * points / np.linalg.norm(points, axis=1, keepdims=True)
    assert np.abs(points).max() <= found["box_warp"] / 2 + 1e-4 and np.abs(points).max() > 0.45 * found["box_warp"]
    distances = np.linalg.norm(poses[:, None, :3, 3] - points, axis=2)
    assert found["ray_start"] <= distances.min() + 1e-4 and distances.max() - 1e-4 <= found["ray_end"]
    assert found["ray_end"] < 1.3 * distances.max()


def test_pivot_is_the_nearest_point():
    """Axes that do not meet: no small step from the pivot brings it nearer to them, in squares."""
    labels = around((0, 0, 0.2), 2.7, 4.2647, count=30)
    labels[:, [3, 7, 11]] += np.random.RandomState(0).randn(30, 3).astype(np.float32) * 0.1
    origins, ways = labels[:, [3, 7, 11]].astype(np.float64), labels[:, [2, 6, 10]].astype(np.float64)

    def miss(point):
        return sum(np.linalg.norm(np.cross(point - origin, way)) ** 2 for origin, way in zip(origins, ways))

    pivot = np.array(suggest(labels)["pivot"])
    for axis in range(3):
        for step in (-1e-3, 1e-3):
            assert miss(pivot + np.eye(3)[axis] * step) > miss(pivot)


def test_cameras_that_look_outwards():
    labels = around((0, 0, 0), 2.7, 4.2647)
    labels[:, [0, 2, 4, 6, 8, 10]] *= -1  # turned about y: the other way
    with pytest.raises(ValueError, match="look away from each other"):
        suggest(labels)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 300.0])
def test_suggested_command_is_understood(scale, tmp_path):
    """train.py takes the options as they are printed; rounding keeps them within a hundredth, in a world of any size."""
    labels = around((0, 0, 0.2), 2.7, 4.2647)
    labels[:, [3, 7, 11]] *= scale
    found = suggest(labels)
    arguments = checking.command(found).split()
    given = dict(argument.lstrip("-").split("=") for argument in arguments)
    for name in ("ray_start", "ray_end", "box_warp", "radius", "focal"):
        assert abs(float(given[name]) / found[name] - 1) < 0.01, name
    assert abs(float(given["pivot"].split(",")[2]) - 0.2 * scale) < 0.01 * 2.7 * scale
    with train.make_context("train", [*arguments, f"--outdir={tmp_path}", "--data=x.zip", "--batch=4", "--gamma=1"]) as context:
        assert context.params["cfg"] == "custom" and context.params["focal"] == float(given["focal"])


# ------------------------------------------------------------------------------------------------ the report

def test_all_is_well(run, tmp_path):  # noqa: F811
    """Exit code 0, facts, the command, and a picture beside the source."""
    source = posed(tmp_path / "in", 5)
    code, out, err = run(f"--source={source}", "--check")
    assert (code, err) == (0, [])
    lines = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert lines["pictures"] == "5, 5 of them 32 x 32 RGB" and "cameras       5\n" in out
    assert lines["distance"] == "2.7 from the world's origin"
    assert lines["yaw"].startswith("0 to 0.4 radians")
    assert lines["suggested"].startswith("train.py --cfg=custom --ray_start=")
    assert PIL.Image.open(tmp_path / "in-cameras.png").size[0] > 1000
    assert run(f"--source={source}", "--check", f"--dest={tmp_path / 'here.png'}")[0] == 0
    assert (tmp_path / "here.png").read_bytes() == (tmp_path / "in-cameras.png").read_bytes()


def test_every_problem_has_a_line(run, tmp_path):  # noqa: F811
    source = posed(tmp_path / "in", 8)
    content = json.loads((source / "dataset.json").read_text())
    del content["labels"][3]
    content["labels"][0][1][16] = 1200
    content["labels"].append(["gone.png", label()])
    (source / "dataset.json").write_text(json.dumps(content))
    noise((64, 64)).save(source / "sub" / "4.png")
    noise((32, 32), mode="L").save(source / "sub" / "5.png")
    (source / "sub" / "6.png").write_bytes((source / "sub" / "7.png").read_bytes()[:-500])
    code, out, err = run(f"--source={source}", "--check")
    assert code == 2 and err == [f"Error: {source}: 6 problems"]
    where = f"{source}/sub"
    for line in (f"{where}/4.png: is 64 x 64 RGB, most pictures are 32 x 32 RGB",
                 f"{where}/5.png: is 32 x 32 L, most pictures are 32 x 32 RGB",
                 f"{where}/6.png: cannot be read as an image", f"{where}/3.png: its label is missing",
                 f"{where}/0.png: its label has intrinsics in pixels", f"{source}/gone.png: has a label, but is not there"):
        assert sum(found.startswith(line) for found in out.splitlines()) == 1, line
    assert (tmp_path / "in-cameras.png").exists()  # of the labels that are good


def test_many_problems_are_counted(run, tmp_path):  # noqa: F811
    source = posed(tmp_path / "in", 30)
    content = json.loads((source / "dataset.json").read_text())
    for pair in content["labels"][1:]:
        pair[1] = pair[1][:24]
    (source / "dataset.json").write_text(json.dumps(content))
    code, out, [line] = run(f"--source={source}", "--check")
    assert code == 2 and line.endswith("29 problems")
    assert out.count("has 24 numbers, expected 25") == 20 and "... and 9 more\n" in out


def test_no_labels(run, tmp_path):  # noqa: F811
    source = write_folder(tmp_path / "in", {"a.png": noise((48, 32))})
    code, out, err = run(f"--source={source}", "--check")
    assert code == 2 and "has no labels" in out
    assert any("must be converted for training" in line for line in err)
    assert not (tmp_path / "in-cameras.png").exists()


def test_mismatch_is_a_problem(run, tmp_path):  # noqa: F811
    ffhq = label(K=((4.2647, 0, 0.5), (0, 4.2647, 0.5), (0, 0, 1)))
    source = write_folder(tmp_path / "in", {"a.png": PIL.Image.new("RGB", (1024, 1024))}, [["a.png", ffhq]])
    code, out, _ = run(f"--source={source}", "--check")
    assert code == 2 and "published labels" in out
    assert run(f"--source={source}", "--check", "--accept-labels")[0] == 0


def test_cameras_far_from_the_origin_are_noted(run, tmp_path):  # noqa: F811
    """They look at a point beside the box's middle: most of the box would be empty."""
    far = [label(yaw) for yaw in (-0.3, 0, 0.3)]
    for numbers in far:
        numbers[3] += 5
    source = write_folder(tmp_path / "in", {f"{index}.png": noise((32, 32)) for index in range(3)},
                          [[f"{index}.png", numbers] for index, numbers in enumerate(far)])
    code, _, err = run(f"--source={source}", "--check")
    assert code == 0 and any("far from the world's origin" in line for line in err)


# ------------------------------------------------------------------------------------------------ the picture

def centre_of(pixels, color):
    """Mean (x, y) of the pixels of about a colour in the left half; None if there are none."""
    near = np.abs(pixels[:, :pixels.shape[1] // 2].astype(int) - color).max(axis=2) < 12
    return np.argwhere(near).mean(axis=0)[::-1] if near.any() else None


def test_cloud(tmp_path):
    """From above: the camera of least yaw, violet, on the left; that of most, green, on the right; the box between, behind."""
    labels = around((0, 0, 0), 2.7, 4.2647, count=2)
    for row, yaw in zip(labels, (-0.8, 0.8)):
        row[:16] = LookAtPoseSampler.sample(FRONTAL + yaw, FRONTAL, (0, 0, 0), radius=2.7).numpy().ravel()
    cloud.draw(labels, suggest(labels), "two", tmp_path / "a.png")
    pixels = np.asarray(PIL.Image.open(tmp_path / "a.png"))[:cloud.HEAD + cloud.PANEL]
    least, most, box = [centre_of(pixels, color) for color in ((68, 1, 84), (181, 222, 43), (194, 65, 12))]
    assert least[0] < box[0] - 50 and box[0] + 50 < most[0]
    assert abs(least[1] - most[1]) < 10 and box[1] < least[1] - 50
    cloud.draw(labels, None, "two", tmp_path / "b.png")
    assert centre_of(np.asarray(PIL.Image.open(tmp_path / "b.png")), (194, 65, 12)) is None


def test_cloud_of_one_and_of_many(tmp_path):
    """One camera, and more than are drawn."""
    many = around((0, 0, 0.2), 2.7, 4.2647, count=cloud.MOST + 100)
    for labels in (many[:1], many):
        cloud.draw(labels, suggest(labels), "x", tmp_path / "a.png")
        assert len(np.unique(np.asarray(PIL.Image.open(tmp_path / "a.png")).reshape(-1, 3), axis=0)) > 50
