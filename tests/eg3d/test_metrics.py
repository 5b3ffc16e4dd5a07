"""Metrics after the detector: numbers from features, against naive loops and other formulas."""

import json
import math

import numpy as np
import pytest
import scene
import scipy.linalg
import scipy.special
import scipy.stats
import torch

from eg3d import metrics
from eg3d.metrics import arithmetic, patches, paths


def features(count, width, seed, shift=0.0):
    """Correlated features, float64."""
    random = np.random.RandomState(seed)
    return torch.from_numpy(random.randn(count, width) @ random.randn(width, width) + shift)


# ------------------------------------------------------------------------------------------------ FID

def test_moments_of_pieces():
    x = features(50, 6, 0, shift=3)
    moments = arithmetic.Moments()
    for piece in x.split([7, 1, 42]):
        moments.add(piece.float())
    x = x.float().double()
    assert moments.count == 50
    np.testing.assert_allclose(moments.mean(), x.numpy().mean(0), rtol=1e-12)
    # Differences of squares of about 10 lose two of float64's digits.
    np.testing.assert_allclose(moments.covariance(), np.cov(x.numpy().T, ddof=0), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("count", [500, 20])  # 20 features of 20 pictures: the covariance is singular
def test_frechet_distance_is_that_of_the_matrix_root(count):
    sides = [features(count, 20, seed, shift=seed * 0.3).numpy() for seed in (1, 2)]
    means, covariances = [x.mean(0) for x in sides], [np.cov(x.T, ddof=0) for x in sides]
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1])
    expected = np.square(means[0] - means[1]).sum() + np.trace(covariances[0] + covariances[1] - 2 * root.real)
    tensors = [torch.from_numpy(some) for pair in zip(means, covariances) for some in pair]
    # A singular product's eigenvalues are 0 to 1e-16 of the largest, their roots to 1e-8.
    assert arithmetic.frechet_distance(*tensors) == pytest.approx(expected, rel=1e-10 if count > 20 else 1e-6)


def test_frechet_distance_of_known_normals():
    mean, eye = torch.zeros(3), torch.eye(3)
    assert arithmetic.frechet_distance(mean, eye, mean + 2, eye) == pytest.approx(12)
    assert arithmetic.frechet_distance(mean, 4 * eye, mean, 9 * eye) == pytest.approx(3 * (3 - 2) ** 2)
    assert arithmetic.frechet_distance(mean, eye, mean, eye) == pytest.approx(0, abs=1e-12)


# ------------------------------------------------------------------------------------------------ KID

def kernel_loop(real, fake):
    """Unbiased squared MMD of two sets of equal size, pair by pair."""
    def kernel(x, y):
        return (sum(a * b for a, b in zip(x.tolist(), y.tolist())) / len(x) + 1) ** 3

    count, total = len(real), 0.0
    for i in range(count):
        for j in range(count):
            if i != j:
                total += (kernel(real[i], real[j]) + kernel(fake[i], fake[j])) / (count * (count - 1))
            total -= 2 * kernel(real[i], fake[j]) / count**2
    return total


def test_kernel_distance_of_all_pictures():
    """Subsets as large as both sides are the sides in another order."""
    real, fake = features(15, 4, 0), features(15, 4, 1, shift=0.5)
    found = arithmetic.kernel_distance(real, fake, seed=3, subsets=2)
    assert found == pytest.approx(kernel_loop(real, fake), rel=1e-10)


def test_kernel_distance_of_subsets():
    """Each subset is unbiased, so many of them average to the distance of the whole; a seed decides which they are."""
    real, fake = features(24, 3, 0), features(24, 3, 1, shift=1.0)
    found = [arithmetic.kernel_distance(real, fake, seed, subsets=400, largest=12) for seed in (0, 0, 1)]
    ones = [arithmetic.kernel_distance(real, fake, seed, subsets=1, largest=12) for seed in range(100)]
    assert found[0] == found[1] != found[2]
    assert abs(found[0] - kernel_loop(real, fake)) < 4 * np.std(ones) / math.sqrt(400)  # four deviations of the mean
    with pytest.raises(ValueError, match="1 real and 24 generated pictures: this metric takes 2 or more"):
        arithmetic.kernel_distance(real[:1], fake, 0)


# ------------------------------------------------------------------------------------------------ precision and recall

def share_loop(points, manifold, k):
    """How many points lie in a ball around a point of the manifold, one by one."""
    points, manifold = points.numpy(), manifold.numpy()
    radii = []
    for i, centre in enumerate(manifold):
        others = sorted(np.linalg.norm(centre - other) for j, other in enumerate(manifold) if j != i)
        radii.append(others[k - 1])
    inside = [any(np.linalg.norm(point - centre) <= radius for centre, radius in zip(manifold, radii)) for point in points]
    return np.mean(inside)


@pytest.mark.parametrize("rows, columns", [(1024, 8192), (7, 5), (5, 7), (1, 1)])
def test_precision_and_recall(monkeypatch, rows, columns):
    monkeypatch.setattr(arithmetic, "ROWS", rows)
    monkeypatch.setattr(arithmetic, "COLUMNS", columns)
    real, fake = features(40, 3, 0), features(30, 3, 1, shift=1.0) * 0.7
    expected = share_loop(fake, real, 3), share_loop(real, fake, 3)
    assert arithmetic.precision_recall(real, fake) == expected
    assert 0 < min(expected) < max(expected) < 1  # so that something is tested


def test_precision_of_few_pictures():
    with pytest.raises(ValueError, match="takes 4 or more of each"):
        arithmetic.precision_recall(features(3, 2, 0), features(9, 2, 1))


# ------------------------------------------------------------------------------------------------ IS, PPL

def test_inception_score():
    probabilities = np.random.RandomState(0).dirichlet([0.2] * 5, 23)
    probabilities[0] = [1, 0, 0, 0, 0]  # 0 log 0 is 0
    sizes, scores, start = [3, 3, 3] + [2] * 7, [], 0
    for size in sizes:
        part = probabilities[start:start + size]
        start += size
        total = 0.0
        for row in part:
            total += sum(p * math.log(p / q) for p, q in zip(row, part.mean(0)) if p > 0)
        scores.append(math.exp(total / size))
    found = arithmetic.inception_score(torch.from_numpy(probabilities))
    np.testing.assert_allclose(found, [np.mean(scores), np.std(scores)], rtol=1e-12)
    with pytest.raises(ValueError, match="of 9 pictures: it takes 10 or more"):
        arithmetic.inception_score(torch.from_numpy(probabilities[:9]))


def test_mean_between_quantiles():
    distances = np.random.RandomState(0).permutation(np.arange(250.0) ** 2)
    # 1 % and 99 % of the way from place 0 to 249 are places 2.49 and 246.51: from 2 to 247.
    expected = np.mean(np.sort(distances)[2:248])
    assert paths.mean_over(torch.from_numpy(distances)) == pytest.approx(expected, rel=1e-12)
    assert paths.mean_over(torch.tensor([3.0])) == 3


# ------------------------------------------------------------------------------------------------ swd

def test_sliced_wasserstein_in_one_dimension():
    random = np.random.RandomState(0)
    a, b = random.randn(300, 1).astype(np.float32), random.randn(300, 1).astype(np.float32) ** 3
    expected = scipy.stats.wasserstein_distance(a[:, 0], b[:, 0])  # the only directions are +1 and -1
    assert patches.sliced_wasserstein(torch.from_numpy(a), torch.from_numpy(b)) == pytest.approx(expected, rel=1e-5)  # float32


def test_sliced_wasserstein_of_a_shift():
    """A shift s moves every projection by d.s, whose mean magnitude over all directions in D dimensions is known."""
    width, shift = 30, 2.5
    a = torch.randn(64, width, generator=torch.Generator().manual_seed(0))
    moved = torch.zeros(width)
    moved[4] = shift
    mean = math.exp(scipy.special.gammaln(width / 2) - scipy.special.gammaln((width + 1) / 2)) / math.sqrt(math.pi)
    deviation = math.sqrt(1 / width - mean**2)  # E (d.s)^2 = |s|^2 / D
    found = patches.sliced_wasserstein(a, a + moved, seed=5) / shift
    assert abs(found - mean) < 4 * deviation / math.sqrt(patches.DIRECTIONS)
    assert patches.sliced_wasserstein(a, a) == 0
    with pytest.raises(ValueError, match="equally many"):
        patches.sliced_wasserstein(a, a[:9])


def test_pyramid():
    """Its levels are what blurring by hand gives, and put together they are the picture."""
    picture = np.random.RandomState(0).randn(16, 16)
    taps = np.outer(patches.TAPS, patches.TAPS)

    def blurred(x):
        padded = np.pad(x, 2, mode="reflect")
        return np.array([[(padded[i:i + 5, j:j + 5] * taps).sum() for j in range(x.shape[1])] for i in range(x.shape[0])])

    small = blurred(picture)[::2, ::2]
    spread = np.zeros_like(picture)
    spread[::2, ::2] = small * 4
    fine, coarse = patches.pyramid(torch.from_numpy(picture)[None, None])
    np.testing.assert_allclose(fine[0, 0], picture - blurred(spread), atol=1e-12)
    np.testing.assert_allclose(coarse[0, 0], small, atol=1e-12)
    flat = patches.pyramid(torch.full([1, 1, 32, 32], 0.7))
    assert [level.shape[-1] for level in flat] == patches.levels(32) == [32, 16]
    assert flat[0].abs().max() < 1e-6 and (flat[1] - 0.7).abs().max() < 1e-6  # a flat picture has no detail; float32
    assert patches.levels(512) == [512, 256, 128, 64, 32, 16] and patches.levels(16) == [16, 8]
    with pytest.raises(ValueError, match="8 pixels a side are too small for swd"):
        patches.levels(8)


def test_descriptors_are_patches():
    """Each is found in its level of the pyramid, and they come from many places."""
    pictures = torch.randint(0, 256, [2, 3, 16, 16], dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = patches.descriptors(pictures, seed=1)
    assert found.shape == (2, 2, patches.PATCHES, 3, 7, 7) and found.dtype == torch.float32
    for number, level in enumerate(patches.pyramid(pictures.float() / 127.5 - 1)):
        side = level.shape[-1]
        for index in range(2):
            places = set()
            for patch in found[index, number]:
                there = [(y, x) for y in range(side - 6) for x in range(side - 6)
                         if torch.equal(level[index, :, y:y + 7, x:x + 7], patch)]
                assert len(there) == 1
                places.update(there)
            assert len(places) > (side - 6) ** 2 / 2
    assert torch.equal(found, patches.descriptors(pictures, seed=1))
    assert not torch.equal(found, patches.descriptors(pictures, seed=2))


@pytest.mark.parametrize("side", [16, 32])
def test_picture_distance_orders_pictures(side):
    """The other half of the same kind is nearer than blurred, darker, wrongly coloured ones of it, and than its mean."""
    pictures = torch.from_numpy(scene.pictures(48, side)[0]).permute(0, 3, 1, 2).contiguous()
    real, other = pictures[:24], pictures[24:]
    near = patches.picture_distance(real, other)
    assert list(near) == ["mean", *[f"level{level}" for level in patches.levels(side)]]
    assert near["mean"] == pytest.approx(np.mean(list(near.values())[1:]))
    assert patches.picture_distance(real, real)["mean"] == 0
    blurred = torch.nn.functional.avg_pool2d(other.float(), 3, 1, 1, count_include_pad=False).to(torch.uint8)
    mean = other.float().mean(0, keepdim=True).to(torch.uint8).expand_as(other)
    for far in (blurred, mean, other // 10 * 9, other.flip(1)):
        assert patches.picture_distance(real, far)["mean"] > 1.5 * near["mean"]


# ------------------------------------------------------------------------------------------------ names and results

def test_names():
    assert metrics.names() == ["fid50k_full", "kid50k_full", "pr50k3_full", "is50k", "ppl2_wend", "fid50k", "kid50k", "pr50k3",
                               "swd", "reprojection", "flatness", "raw_agreement", "heads_pose", "heads_depth", "heads_frechet"]
    assert set(metrics.names()) - set(metrics.NEED_WEIGHTS) == {
        "swd", "reprojection", "flatness", "raw_agreement", "heads_pose", "heads_depth", "heads_frechet"}
    metrics.check(["swd", "swd_100", "reprojection_2k", "flatness_5", "raw_agreement"])  # nothing to open


@pytest.mark.parametrize("name", ["fid", "fid0", "fid-3", "FID50k", "swd5", "is50k_full", "pr50k", "fid50k_fully", "none", ""])
def test_unknown_names(name):
    with pytest.raises(ValueError, match=r"is unknown: choose from fid50k_full, .*swd"):
        metrics.check([name])


def test_results_are_official_lines(tmp_path):
    """The official file's keys, one line an evaluation."""
    for kimg, seconds in ((0, 5.2), (200, 3725.0)):
        metrics.write_result(tmp_path / "run", "fid50k_full", {"fid50k_full": 4.5}, seconds, 8,
                             f"network-snapshot-{kimg:06d}.pkl")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metric-fid50k_full.jsonl").read_text().splitlines()]
    assert [set(line) for line in lines] == 2 * [{
        "results", "metric", "total_time", "total_time_str", "num_gpus", "snapshot_pkl", "timestamp"}]
    assert lines[1]["results"] == {"fid50k_full": 4.5} and lines[1]["metric"] == "fid50k_full"
    assert [line["total_time_str"] for line in lines] == ["5s", "1h 02m 05s"]
    assert lines[1]["num_gpus"] == 8 and lines[1]["snapshot_pkl"] == "network-snapshot-000200.pkl"
