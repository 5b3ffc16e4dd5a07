"""Labels: packing, mirroring, and what is wrong with them."""

import numpy as np
import pytest
import scene
import torch

from training import labels


def project(label, points):
    """Pixels (in picture widths) [M, 2] of world points [M, 3], by the pinhole formula."""
    pose, K = label[:16].reshape(4, 4).astype(np.float64), label[16:].reshape(3, 3).astype(np.float64)
    seen = (points - pose[:3, 3]) @ pose[:3, :3]
    return (seen @ K.T)[:, :2] / seen[:, 2:]


def skewed(label):
    """With a principal point off the middle, and skew."""
    label = label.copy()
    label[[17, 18, 21]] = 0.1, 0.4, 0.55
    return label


def test_pack_and_unpack():
    c = torch.from_numpy(scene.labels(5))
    poses, K = labels.unpack(c)
    assert torch.equal(labels.pack(poses, K), c)
    assert torch.equal(labels.pack(poses, K[0]), c)  # all the same


@pytest.mark.parametrize("kind", ["tensor", "array"])
def test_mirrored(kind):
    """The mirrored camera sees the mirrored point where the flipped picture shows it, and is a camera; twice is nothing."""
    points = np.random.RandomState(0).uniform(-0.4, 0.4, (20, 3))
    for label in map(skewed, scene.labels(8)):
        turned = labels.mirrored(torch.from_numpy(label)).numpy() if kind == "tensor" else labels.mirrored(label)
        found = project(turned, points * [-1, 1, 1])
        expected = project(label, points) * [-1, 1] + [1, 0]
        np.testing.assert_allclose(found, expected, atol=1e-6)  # labels are float32
        assert labels.problem(turned.tolist()) is None
        np.testing.assert_allclose(labels.mirrored(turned), label, atol=1e-6)


def test_mirrored_pictures():
    """Flipping a picture of a head that is the same left and right is the picture from the mirrored camera."""
    label = scene.labels(3)[2]
    picture, depth = scene.render(label, scene.Look(), 32)
    other, other_depth = scene.render(labels.mirrored(label), scene.Look(), 32)
    np.testing.assert_allclose(depth[:, ::-1], other_depth, atol=1e-5)
    assert np.isfinite(depth).any()


GOOD = scene.labels(1)[0].tolist()


def changed(**places):
    label = list(GOOD)
    for place, value in places.items():
        label[int(place[1:])] = value
    return label


@pytest.mark.parametrize("numbers, words", [
    (GOOD[:24], "24 numbers"), ("text", "is a str"), (None, "is a NoneType"), (changed(_0=float("nan")), "no number"),
    (changed(_3=1e9), "far too large"), (changed(_0=True), "no number"),
    ([2 * x for x in GOOD[:16]] + GOOD[16:], "no rotation"), ([-x for x in GOOD[:3]] + GOOD[3:], "no rotation"),
    (changed(_15=2), "last row is not 0, 0, 0, 1"),
    (changed(_16=-4.0), "focal length"), (changed(_24=0), "last row is not 0, 0, 1"),
    (changed(_16=2985.0, _20=2985.0, _18=256, _21=256), "in pixels"),
])
def test_problems(numbers, words):
    assert labels.problem(GOOD) is None
    assert words in labels.problem(numbers)
