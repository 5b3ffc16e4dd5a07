"""The volume renderer against naive oracles: Python loops over rays, samples and pixels, in float64.

Where the code under test is given float64 too, agreement is to 1e-9; where it computes in float32, a tolerance says so.
Notation as in the renderer: N batch, M rays, S samples along a ray, C channels.
"""

import itertools
import math

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from training.triplane import OSGDecoder
from training.volumetric_rendering import renderer as rendering
from training.volumetric_rendering.math_utils import get_ray_limits_box
from training.volumetric_rendering.ray_marcher import MipRayMarcher2, composite
from training.volumetric_rendering.ray_sampler import RaySampler
from training.volumetric_rendering.renderer import CORRECTED_AXES, OFFICIAL_AXES, ImportanceRenderer

EXACT = 1e-9  # float64 on both sides; sums of at most a hundred terms
SINGLE = 1e-5  # float32: a few dozen roundings of 6e-8 in a row
FIXED = dict(ray_start=2.0, ray_end=3.4, box_warp=1.2, depth_resolution=6, depth_resolution_importance=5,
             disparity_space_sampling=False, clamp_mode="softplus")
OPTIONS = {
    "fixed": FIXED,
    "disparity": FIXED | dict(disparity_space_sampling=True),
    "auto": FIXED | dict(ray_start="auto", ray_end="auto"),
    "auto, disparity": FIXED | dict(ray_start="auto", ray_end="auto", disparity_space_sampling=True),
    "white": FIXED | dict(white_back=True),
    "noise": FIXED | dict(density_noise=0.5),
    "auto, noise": FIXED | dict(ray_start="auto", ray_end="auto", density_noise=0.5),
    "one pass": FIXED | dict(depth_resolution_importance=0),
    "one noisy pass": FIXED | dict(depth_resolution_importance=0, density_noise=0.5),
}


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def rand(*shape, seed=0, dtype=torch.float64):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def close(result, oracle, tolerance):
    np.testing.assert_allclose(result.detach().double().numpy(), np.asarray(oracle), rtol=tolerance, atol=tolerance)


def pose(yaw, distance=2.7):
    """A camera on the horizontal circle that looks at the origin, y down: [4, 4] float64."""
    back = np.array([math.sin(yaw), 0, math.cos(yaw)])
    matrix = np.eye(4)
    matrix[:3, 2], matrix[:3, 1] = -back, [0, -1, 0]
    matrix[:3, 0] = np.cross(matrix[:3, 1], matrix[:3, 2])
    matrix[:3, 3] = back * distance
    return matrix


def rays(resolution=4, focal=4.0, yaws=(0.0, 0.7), dtype=torch.float32):
    """Origins and directions [N, resolution^2, 3] of cameras all of whose rays meet the box of side 1.2."""
    K = torch.tensor([[focal, 0, 0.5], [0, focal, 0.5], [0, 0, 1]], dtype=dtype).repeat(len(yaws), 1, 1)
    return RaySampler()(torch.tensor(np.stack([pose(yaw) for yaw in yaws]), dtype=dtype), K, resolution)


class ToyDecoder(torch.nn.Module):
    """Colours and a density of high contrast straight from the features, so that an oracle can do the same."""

    def forward(self, features, directions):
        mean = features.mean(dim=1)
        return dict(rgb=torch.sigmoid(mean[..., :-1]), sigma=mean[..., -1:] * 4)


# ------------------------------------------------------------------------------------------------ compositing

def naive_softplus(x):
    return np.log1p(np.exp(x))


def naive_ray(colors, densities, depths, white_back):
    """One ray: colours [S, C], densities [S], depths [S] -> colour [C] in [-1, 1], depth or NaN, weights [S - 1]."""
    seen, distance, transmittance, weights = np.zeros(colors.shape[1]), 0.0, 1.0, []
    for i in range(len(depths) - 1):
        density = naive_softplus((densities[i] + densities[i + 1]) / 2 - 1)
        alpha = 1 - math.exp(-density * (depths[i + 1] - depths[i]))
        weight = alpha * transmittance
        seen = seen + weight * (colors[i] + colors[i + 1]) / 2
        distance += weight * (depths[i] + depths[i + 1]) / 2
        transmittance *= 1 - alpha + 1e-10
        weights.append(weight)
    total = sum(weights)
    if white_back:
        seen = seen + 1 - total
    return seen * 2 - 1, distance / total if total > 0 else math.nan, np.array(weights)


def naive_march(colors, densities, depths, white_back):
    """Every ray on its own, then depths: NaN becomes infinite, and all are limited to the depths of the call."""
    colors, densities, depths = [x.double().numpy() for x in (colors, densities, depths)]
    batch, count = depths.shape[:2]
    found = [[naive_ray(colors[n, m], densities[n, m, :, 0], depths[n, m, :, 0], white_back) for m in range(count)]
             for n in range(batch)]
    rgb, weights = [np.array([[ray[part] for ray in sample] for sample in found]) for part in (0, 2)]
    depth = np.array([[math.inf if math.isnan(ray[1]) else ray[1] for ray in sample] for sample in found])
    return rgb, np.minimum(np.maximum(depth, depths.min()), depths.max())[..., None], weights[..., None]


def samples_on_rays():
    """Ordinary rays, an empty one, an opaque one, one with all samples at one place, one that begins behind the others' end."""
    colors, densities = rand(2, 5, 8, 3), randn(2, 5, 8, 1, seed=1) * 3
    depths = (rand(2, 5, 8, 1, seed=2) + 2).sort(dim=2).values
    densities[0, 1] = -800
    densities[0, 2] = 500
    depths[0, 3] = 2.5
    depths[1, 4] += 2
    return colors, densities, depths


@pytest.mark.parametrize("white_back", [False, True])
def test_compositing(white_back):
    """Colour, depth and weights of the oracle. An empty ray shows the background, at the furthest depth of the call."""
    colors, densities, depths = samples_on_rays()
    rgb, depth, weights = MipRayMarcher2()(colors, densities, depths, dict(clamp_mode="softplus", white_back=white_back))
    for result, oracle in zip((rgb, depth, weights), naive_march(colors, densities, depths, white_back)):
        close(result, oracle, EXACT)
    assert rgb[0, 1].tolist() == [1 if white_back else -1] * 3 and depth[0, 1] == depths.max()
    assert weights[0, 1].count_nonzero() == 0 and weights[0, 2].sum() == pytest.approx(1)
    assert weights.sum(dim=2).max() <= 1 + 8e-10  # the transmittance's 1e-10 a sample


def test_compositing_before_limits():
    """`composite` leaves the depth of an empty ray infinite: only the whole call knows the limits."""
    colors, densities, depths = samples_on_rays()
    depth = composite(colors, densities, depths, dict(clamp_mode="softplus")).depth
    assert torch.isinf(depth).flatten().nonzero().tolist() == [[1], [3]]


@pytest.mark.parametrize("white_back", [False, True])
def test_compositing_derivatives(white_back):
    """With respect to colours, densities and depths, against finite differences in float64."""
    colors, densities = rand(1, 2, 4, 2).requires_grad_(True), randn(1, 2, 4, 1, seed=1).requires_grad_(True)
    depths = torch.tensor([2.0, 2.1, 2.4, 2.9], dtype=torch.float64).reshape(1, 1, 4, 1).repeat(1, 2, 1, 1).requires_grad_(True)
    assert gradcheck(lambda *x: composite(*x, dict(clamp_mode="softplus", white_back=white_back)), (colors, densities, depths))


def test_only_softplus():
    with pytest.raises(ValueError, match="clamp_mode='relu': only softplus exists"):
        MipRayMarcher2()(*samples_on_rays(), dict(clamp_mode="relu"))


# ------------------------------------------------------------------------------------------------ depths along rays

def naive_importance(depths, weights, uniform):
    """One ray: depths [S], weights [S - 1], uniform [F] -> [F]."""
    padded = [-math.inf, *weights, -math.inf]
    peaks = [max(padded[i], padded[i + 1]) for i in range(len(weights) + 1)]
    smooth = [(peaks[i] + peaks[i + 1]) / 2 + 0.01 for i in range(len(weights))]
    pdf = [value + 1e-5 for value in smooth[1:-1]]
    cdf = [0.0]
    for value in pdf:
        cdf.append(cdf[-1] + value / sum(pdf))
    bins = [(depths[i] + depths[i + 1]) / 2 for i in range(len(depths) - 1)]
    drawn = []
    for u in uniform:
        above = 0
        while above < len(cdf) and cdf[above] <= u:
            above += 1
        below, above = max(above - 1, 0), min(above, len(cdf) - 1)
        width = cdf[above] - cdf[below]
        drawn.append(bins[below] + (u - cdf[below]) / (1 if width < 1e-5 else width) * (bins[above] - bins[below]))
    return drawn


@pytest.mark.parametrize("magnitude", [0, 1, 1e-3, 1e7])
@pytest.mark.parametrize("samples", [4, 5, 16])
def test_importance_sampling(samples, magnitude):
    """Smoothing, distribution function and its inverse. At magnitude 1e7 most intervals are narrower than the 1e-5 below
    which the original does not divide; u includes 0 and the largest number below 1."""
    depths = (rand(6, samples) + 2).sort(dim=1).values
    weights = rand(6, samples - 1, seed=1) ** 8 * magnitude
    uniform = rand(6, 9, seed=2)
    uniform[:, 0], uniform[:, 1] = 0, np.nextafter(1, 0)
    drawn = rendering.importance_depths(depths, weights, uniform)
    close(drawn, [naive_importance(*ray) for ray in zip(depths.tolist(), weights.tolist(), uniform.tolist())], EXACT)
    assert (drawn >= depths[:, :1]).all() and (drawn <= depths[:, -1:]).all()


def test_importance_sampling_finds_matter():
    """Where one of 40 intervals holds all the weight, 84 % of the draws lie within 1.5 intervals of its near end: smoothing
    makes 0.5, 1, 0.5 of it, the floor adds 0.01 everywhere; the half interval towards the camera is the original's."""
    depths = torch.linspace(2, 3, 41, dtype=torch.float64)[None]
    weights = torch.zeros(1, 40, dtype=torch.float64)
    weights[0, 25] = 1
    drawn = rendering.importance_depths(depths, weights, torch.linspace(0, 1, 2000, dtype=torch.float64)[None])
    close_by = (drawn - depths[0, 25]).abs() <= 1.5 / 40
    assert close_by.double().mean() == pytest.approx(2.03 / 2.38, abs=0.001)
    assert drawn[close_by].mean() == pytest.approx(float(depths[0, 25]), abs=0.001)


@pytest.mark.parametrize("disparity", [False, True])
def test_stratified_depths(disparity):
    """Sample s lies in stratum s; strata begin at the S points that divide the way (or its reciprocal) evenly."""
    near, far, count = 1.5, 4.0, 7
    edges = [i / (count - 1) for i in range(count + 1)]  # the last stratum reaches beyond `far`, as in the original
    edges = [1 / ((1 - t) / near + t / far) if disparity else near + t * (far - near) for t in edges]
    for share in (0.0, 0.3, 0.999):
        noise = torch.full([1, 1, count, 1], share, dtype=torch.float64)
        depths = rendering.stratified_depths(*torch.tensor([near, far], dtype=torch.float64), noise, disparity).flatten()
        for depth, low, high in zip(depths.tolist(), edges, edges[1:]):
            assert low - SINGLE <= depth < high
        assert (share == 0) == np.allclose(depths, edges[:-1], rtol=SINGLE)


# ------------------------------------------------------------------------------------------------ rays

def random_cameras():
    """Poses with any rotation, and intrinsics with skew, offset principal points and oblong pixels."""
    matrices = torch.eye(4, dtype=torch.float64).repeat(3, 1, 1)
    matrices[:, :3, :3] = torch.linalg.qr(randn(3, 3, 3)).Q
    matrices[:, :3, 3] = randn(3, 3, seed=1)
    K = torch.eye(3, dtype=torch.float64).repeat(3, 1, 1)
    K[:, 0, 0], K[:, 1, 1] = torch.tensor([4.2647, 1.7, 0.9]), torch.tensor([4.2647, 1.2, 3.0])
    K[:, :2, 2] = torch.tensor([[0.5, 0.5], [0.45, 0.6], [-0.2, 1.3]])
    K[:, 0, 1] = torch.tensor([0.0, 0.05, -0.3])
    return matrices, K


@pytest.mark.parametrize("resolution", [1, 5, 8])
def test_rays_invert_the_intrinsics(resolution):
    """Row by row from the top left: K^-1 of the pixel's centre, turned into the world, of unit length.

    Pixel centres are made in float32, hence 1e-6."""
    poses, K = random_cameras()
    origins, directions = RaySampler()(poses, K, resolution)
    assert origins.shape == directions.shape == (3, resolution**2, 3)
    for n, (row, column) in itertools.product(range(3), itertools.product(range(resolution), repeat=2)):
        pixel = [(column + 0.5) / resolution, (row + 0.5) / resolution, 1]
        direction = poses[n, :3, :3].numpy() @ np.linalg.inv(K[n].numpy()) @ pixel
        close(directions[n, row * resolution + column], direction / np.linalg.norm(direction), 1e-6)
        close(origins[n, row * resolution + column], poses[n, :3, 3], 0)


def naive_limits(origin, direction, half):
    """Where the line enters and leaves the cube: its intersections with the six faces' planes that lie within the faces."""
    found = []
    for axis, side in itertools.product(range(3), (-half, half)):
        if direction[axis] != 0:
            t = (side - origin[axis]) / direction[axis]
            point = origin + t * direction
            if all(abs(point[other]) <= half for other in range(3) if other != axis):
                found.append(t)
    return (min(found), max(found)) if found else (-1, -2)


@pytest.mark.parametrize("side", [0.5, 1.6])
def test_box_limits(side):
    """Rays from outside, from inside, away from the box, and along the axes; a miss gives -1 and -2."""
    origins = (rand(1, 300, 3) * 4 - 2) * side
    directions = torch.nn.functional.normalize(randn(1, 300, 3, seed=1), dim=-1)
    directions[0, :100] = torch.nn.functional.normalize(-origins[0, :100] + randn(100, 3, seed=2) * side / 4, dim=-1)
    directions[0, 100:130] = torch.eye(3, dtype=torch.float64).repeat(10, 1)
    directions[0, 130:160] = -torch.eye(3, dtype=torch.float64).repeat(10, 1)
    origins[0, 110:140] /= 8
    near, far = get_ray_limits_box(origins, directions, side)
    oracle = np.array([naive_limits(o, d, side / 2) for o, d in zip(origins[0].numpy(), directions[0].numpy())])
    close(near[0, :, 0], oracle[:, 0], EXACT)
    close(far[0, :, 0], oracle[:, 1], EXACT)
    missed = oracle[:, 0] > oracle[:, 1]
    assert 50 < missed.sum() < 250 and (oracle[:, 0] < 0).sum() > missed.sum()


# ------------------------------------------------------------------------------------------------ planes

PAIRS = {"official": [(0, 1), (0, 2), (2, 0)], "corrected": [(0, 1), (0, 2), (2, 1)]}
AXES = {"official": OFFICIAL_AXES, "corrected": CORRECTED_AXES}


def naive_lookup(image, column, row):
    """Bilinear value of [C, H, W] at a place in [-1, 1]^2; pixel i's centre is at (2 i + 1) / size - 1; zero beyond."""
    _, height, width = image.shape
    column, row = ((column + 1) * width - 1) / 2, ((row + 1) * height - 1) / 2
    value = 0
    for r, c in itertools.product([math.floor(row), math.floor(row) + 1], [math.floor(column), math.floor(column) + 1]):
        if 0 <= r < height and 0 <= c < width:
            value = value + (1 - abs(row - r)) * (1 - abs(column - c)) * image[:, r, c]
    return value + np.zeros(len(image))


@pytest.mark.parametrize("axes", PAIRS)
def test_triplane_lookup(axes):
    """Each plane is asked at its own two coordinates; the box of side 1.6 fills it, beyond is zero."""
    planes, points = randn(2, 3, 4, 5, 7), rand(2, 40, 3, seed=1) * 2.4 - 1.2
    points[:, 0] = 5
    found = rendering.sample_from_planes(torch.tensor(AXES[axes], dtype=torch.float64), planes, points, box_warp=1.6)
    oracle = [[[naive_lookup(planes[n, p].numpy(), *(point[list(PAIRS[axes][p])].numpy() / 0.8)) for point in points[n]]
               for p in range(3)] for n in range(2)]
    close(found, oracle, EXACT)
    assert found[:, :, 0].count_nonzero() == 0 and found[:, :, 1:].count_nonzero() > 0


def test_third_plane():
    """The official third plane repeats the second, transposed; the corrected one shows height."""
    assert torch.equal(rendering.generate_planes(), torch.tensor(OFFICIAL_AXES))
    points = rand(1, 10, 3)
    official = rendering.project_onto_planes(torch.tensor(OFFICIAL_AXES), points)
    corrected = rendering.project_onto_planes(torch.tensor(CORRECTED_AXES), points)
    close(official[2], official[1].flip(-1), EXACT)
    close(corrected[2], points[0][:, [2, 1]], EXACT)


def test_triplane_derivatives():
    """With respect to features and points, against finite differences; no point of this seed lies on a pixel's centre."""
    def look_up(planes, points):
        return rendering.sample_from_planes(torch.tensor(CORRECTED_AXES), planes, points, box_warp=1.2)

    planes, points = randn(1, 3, 2, 4, 4).requires_grad_(True), (rand(1, 4, 3, seed=3) - 0.5).requires_grad_(True)
    assert gradcheck(look_up, (planes, points))


# ------------------------------------------------------------------------------------------------ the whole renderer

def naive_decode(planes, point, box):
    features = np.mean([naive_lookup(planes[p], *(point[list(PAIRS["official"][p])] / (box / 2))) for p in range(3)], axis=0)
    return 1 / (1 + np.exp(-features[:-1])), features[-1] * 4


def naive_render(planes, origin, direction, near, far, options, coarse, fine):
    """One ray through planes [3, C, H, W], with its uniform random numbers coarse [S] and fine [F] -> depths and samples."""
    def evaluate(depths):
        found = [naive_decode(planes, origin + t * direction, options["box_warp"]) for t in depths]
        return np.array([rgb for rgb, _ in found]), np.array([sigma for _, sigma in found])

    steps = (np.arange(len(coarse)) + coarse) / (len(coarse) - 1)
    if options["disparity_space_sampling"]:
        depths = 1 / ((1 - steps) / near + steps / far)
    else:
        depths = near + steps * (far - near)
    colors, densities = evaluate(depths)
    if len(fine):
        weights = naive_ray(colors, densities, depths, False)[2]
        extra = np.array(naive_importance(depths, weights, fine))
        more_colors, more_densities = evaluate(extra)
        order = np.argsort(np.concatenate([depths, extra]))
        depths = np.concatenate([depths, extra])[order]
        colors, densities = np.concatenate([colors, more_colors])[order], np.concatenate([densities, more_densities])[order]
    return colors, densities, depths


@pytest.mark.parametrize("name", ["fixed", "disparity", "auto", "white", "one pass"])
def test_whole_renderer(name):
    """Ray by ray from the same random numbers, drawn in the reference's order. Float32 rounding is magnified where fine
    samples follow the inverse of a steep distribution function, hence 1e-4."""
    options = OPTIONS[name]
    planes, (origins, directions) = randn(2, 3, 4, 6, 6, dtype=torch.float32) * 2, rays(3)
    near, far = torch.full([2, 9, 1], 2.0), torch.full([2, 9, 1], 3.4)
    torch.manual_seed(1)
    if name == "auto":
        near, far = get_ray_limits_box(origins, directions, 1.2)
        coarse = torch.rand(6, 2, 9).permute(1, 2, 0)
    else:
        coarse = torch.rand(2, 9, 6)
    fine = torch.rand(2 * 9, options["depth_resolution_importance"]).reshape(2, 9, -1)

    torch.manual_seed(1)
    rgb, depth, weight = ImportanceRenderer()(planes, ToyDecoder(), origins, directions, options)
    arrays = [x.double().numpy() for x in (planes, origins, directions, near, far, coarse, fine)]
    samples = [[naive_render(arrays[0][n], *[x[n, m] for x in arrays[1:3]], arrays[3][n, m, 0], arrays[4][n, m, 0], options,
                             arrays[5][n, m], arrays[6][n, m]) for m in range(9)] for n in range(2)]
    colors, densities, depths = [torch.tensor(np.array([[ray[part] for ray in sample] for sample in samples]))
                                 for part in range(3)]
    oracle = naive_march(colors, densities[..., None], depths[..., None], options.get("white_back", False))
    close(rgb, oracle[0], 1e-4)
    close(depth, oracle[1], 1e-4)
    close(weight, oracle[2].sum(axis=2), 1e-4)
    assert weight.min() > 0.05 and weight.max() < 0.999 and rgb.std() > 0.05  # neither empty nor opaque nor flat


def seeded(options, seed=1, resolution=4, focal=4.0, yaws=(0.0, 0.7), decoder=None, planes=None):
    torch.manual_seed(seed)
    planes = randn(len(yaws), 3, 4, 6, 6, dtype=torch.float32) * 2 if planes is None else planes
    return ImportanceRenderer()(planes, decoder or ToyDecoder(), *rays(resolution, focal, yaws), options)


@pytest.mark.parametrize("focal", [4.0, 1.0], ids=["all hit", "some miss"])
@pytest.mark.parametrize("name", OPTIONS)
def test_chunks_change_nothing(name, focal):
    """From the same seed, rays rendered 1, 7, all or more at a time show the same; only the order of float32 sums differs.
    With focal length 1 some rays miss the box, and some meet nothing: their depths come from the whole call."""
    whole = seeded(OPTIONS[name], focal=focal)
    for chunk in (1, 7, 16, 100, None):
        for result, expected in zip(seeded(OPTIONS[name] | dict(ray_chunk=chunk), focal=focal), whole):
            close(result, expected, SINGLE)


def test_chunks_share_the_limits_of_depth():
    """Rays that meet nothing get the furthest depth of the call, not of their chunk."""
    class Nothing(torch.nn.Module):
        def forward(self, features, directions):
            return dict(rgb=features.mean(dim=1), sigma=torch.full_like(features[:, 0, :, :1], -200))

    whole = seeded(OPTIONS["auto"], focal=1.0, decoder=Nothing())
    chunked = seeded(OPTIONS["auto"] | dict(ray_chunk=3), focal=1.0, decoder=Nothing())
    assert whole[1].unique().numel() == 1 and torch.equal(whole[1], chunked[1]) and whole[2].count_nonzero() == 0


def generators(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


@pytest.mark.parametrize("name", OPTIONS)
def test_one_generator_a_sample(name):
    """A batch in which each sample has its own generator shows what each sample shows alone, up to rounding, also in chunks.

    All rays meet the box and matter: what a missing ray gets depends on the others of the call, in the original too."""
    planes = randn(2, 3, 4, 6, 6, dtype=torch.float32) * 2
    both = seeded(OPTIONS[name] | dict(generator=generators(5, 6)), planes=planes)
    chunked = seeded(OPTIONS[name] | dict(generator=generators(5, 6), ray_chunk=5), planes=planes)
    for n, yaw in enumerate((0.0, 0.7)):
        alone = seeded(OPTIONS[name] | dict(generator=generators(5 + n)[0]), seed=99, yaws=[yaw], planes=planes[n : n + 1])
        for part, expected in zip([*both, *chunked], [*alone, *alone]):
            close(part[n : n + 1], expected, SINGLE)


@pytest.mark.parametrize("name", OPTIONS)
def test_a_generator_draws_as_torch_does(name):
    """A single generator gives what torch's own gives from the same seed, and leaves torch's own alone."""
    expected = seeded(OPTIONS[name], seed=3)
    torch.manual_seed(77)
    state = torch.get_rng_state()
    planes = randn(2, 3, 4, 6, 6, dtype=torch.float32) * 2
    options = OPTIONS[name] | dict(generator=generators(3)[0])
    result = ImportanceRenderer()(planes, ToyDecoder(), *rays(), options)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(map(torch.equal, result, expected))


def test_density_noise():
    """Normal, of the given deviation, in both passes of a picture and at single points; 0 draws nothing."""
    planes, points = randn(2, 3, 4, 6, 6, dtype=torch.float32), rand(2, 50, 3, dtype=torch.float32) - 0.5
    ask = ImportanceRenderer().run_model
    plain = ask(planes, ToyDecoder(), points, points, FIXED)
    torch.manual_seed(2)
    noisy = ask(planes, ToyDecoder(), points, points, FIXED | dict(density_noise=0.25))
    torch.manual_seed(2)
    close(noisy["sigma"] - plain["sigma"], torch.randn(2, 50, 1) * 0.25, SINGLE)
    assert torch.equal(noisy["rgb"], plain["rgb"])
    assert torch.equal(ask(planes, ToyDecoder(), points, points, FIXED | dict(density_noise=0))["sigma"], plain["sigma"])

    for one_pass in (FIXED, OPTIONS["one pass"]):
        quiet, loud = seeded(one_pass), seeded(one_pass | dict(density_noise=0.5))
        assert (quiet[2] - loud[2]).abs().min() > 0


def test_one_pass_draws_once():
    """Without a second pass, the numbers that it would draw are not drawn."""
    seeded(OPTIONS["one pass"])
    state = torch.get_rng_state()
    torch.manual_seed(1)
    torch.rand(2, 16, 6, 1)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", OPTIONS)
def test_gradients_reach_planes_and_decoder(name):
    """Finite and not all zero, for every weight; with 16-channel planes and the real decoder."""
    planes = (randn(2, 3, 16, 6, 6, dtype=torch.float32) * 2).requires_grad_(True)
    torch.manual_seed(4)
    decoder = OSGDecoder(16, dict(decoder_lr_mul=1, decoder_output_dim=16))
    rgb, _, weight = seeded(OPTIONS[name] | dict(ray_chunk=5), decoder=decoder, planes=planes)
    (rgb.square().mean() + weight.mean()).backward()
    for tensor in [planes, *decoder.parameters()]:
        assert tensor.grad.isfinite().all() and tensor.grad.abs().max() > 0
    assert (planes.grad.abs().sum(dim=(2, 3, 4)) > 0).all()  # every plane of every sample


def test_gradients_of_the_renderer():
    """The derivative along a random direction, against a central difference. The picture is linear in the planes where the
    density does not depend on them, so the difference of its square is exact but for float32's rounding over the step."""
    class Fog(torch.nn.Module):
        def forward(self, features, directions):
            return dict(rgb=features.mean(dim=1), sigma=torch.ones_like(features[:, 0, :, :1]))

    planes, toward = [randn(2, 3, 4, 6, 6, seed=seed, dtype=torch.float32) for seed in (0, 1)]

    def picture(planes):
        return seeded(FIXED, decoder=Fog(), planes=planes)[0].square().sum()

    planes.requires_grad_(True)
    slope = (torch.autograd.grad(picture(planes), planes)[0] * toward).sum()
    with torch.no_grad():
        difference = (picture(planes + 1e-2 * toward) - picture(planes - 1e-2 * toward)) / 2e-2
    assert float(slope) == pytest.approx(float(difference), rel=1e-3)


def test_renderer_errors():
    """A message names the option and the remedy."""
    for wrong in (dict(ray_start="auto"), dict(ray_end="auto")):
        with pytest.raises(ValueError, match="'auto' goes with 'auto'"):
            seeded(FIXED | wrong)
    with pytest.raises(ValueError, match="clamp_mode='relu'"):
        seeded(FIXED | dict(clamp_mode="relu"))
    with pytest.raises(ValueError, match="3 generators for 2 samples"):
        seeded(FIXED | dict(generator=generators(1, 2, 3)))


@pytest.mark.parametrize("name", ["fixed", "auto", "noise", "one pass"])
@pytest.mark.parametrize("batch, count", [(0, 4), (2, 0)])
def test_no_rays(name, batch, count):
    """No pictures, or pictures without rays, give empty results."""
    planes, nowhere = torch.zeros(batch, 3, 4, 6, 6), torch.zeros(batch, count, 3)
    rgb, depth, weight = ImportanceRenderer()(planes, ToyDecoder(), nowhere, nowhere, OPTIONS[name])
    assert rgb.shape == (batch, count, 3) and depth.shape == weight.shape == (batch, count, 1)
