"""A session: identities from anywhere, the same pictures as the official calls, and a network that stays as it was."""

import copy
import math

import numpy as np
import pytest
import torch

from eg3d import cameras, generator, sampling, session
from eg3d.session import Session
from training.volumetric_rendering.ray_sampler import RaySampler
from training.volumetric_rendering.renderer import ImportanceRenderer

CLOSE = dict(rtol=0, atol=1e-5)  # the same float32 sums in other orders; pictures and depths are of size 1
SIZE = 8  # of the raw rendering


@pytest.fixture(scope="module")
def G(tiny_path):
    return generator.load(tiny_path, device="cpu")


@pytest.fixture(scope="module")
def ws(G):
    return sampling.styles(G, 3, psi=0.7)


@pytest.fixture(scope="module")
def c(G):
    return cameras.view(G.rendering_kwargs, yaw=0.3, pitch=-0.1)


@pytest.fixture(scope="module")
def points():
    torch.manual_seed(1)
    return torch.rand(100, 3) * 1.2 - 0.6  # some outside the box


class Fork(torch.nn.Module):
    """A generator of another code base: what the official one has, in the official way, and nothing else."""

    def __init__(self, network):
        super().__init__()
        self._inner = [copy.deepcopy(network)]  # in a list, so that its modules do not count as ours
        for name in ("z_dim", "rendering_kwargs", "neural_rendering_resolution"):
            setattr(self, name, getattr(network, name))
        self.rendering_kwargs = copy.deepcopy(network.rendering_kwargs)
        self._last_planes = None
        self.seen = []

    def synthesis(self, ws, c, neural_rendering_resolution=None, update_emas=False, cache_backbone=False,
                  use_cached_backbone=False, **synthesis_kwargs):
        self.seen.append(dict(self.rendering_kwargs))
        self.neural_rendering_resolution = neural_rendering_resolution or self.neural_rendering_resolution
        if neural_rendering_resolution == 13:
            raise RuntimeError("unlucky")
        inner = self._inner[0]
        inner.rendering_kwargs, inner._last_planes = self.rendering_kwargs, self._last_planes
        shown = inner.synthesis(
            ws, c, neural_rendering_resolution=self.neural_rendering_resolution, cache_backbone=cache_backbone,
            use_cached_backbone=use_cached_backbone, **synthesis_kwargs)
        self._last_planes = inner._last_planes
        return shown

    def sample_mixed(self, coordinates, directions, ws, truncation_psi=1, truncation_cutoff=None, update_emas=False,
                     **synthesis_kwargs):
        inner = self._inner[0]
        inner.rendering_kwargs = self.rendering_kwargs
        return inner.sample_mixed(coordinates, directions, ws, **synthesis_kwargs)


def same(pictures, others):
    assert pictures.keys() == others.keys() == {"image", "image_raw", "image_depth"}
    for key in pictures:
        torch.testing.assert_close(pictures[key], others[key], **CLOSE)


# ------------------------------------------------------------------------------------------------ pictures

def test_equals_the_official_call(G, ws, c):
    """With the draws of the same seed, synthesis shows the same; on the CPU a generator draws as torch.manual_seed does."""
    twin = copy.deepcopy(G)
    for seed, resolution in ((0, SIZE), (5, 12)):
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            official = twin.synthesis(ws, c, neural_rendering_resolution=resolution, noise_mode="const")
        shown = Session(G, ws, seed=seed).render(c, resolution)
        assert shown["image_raw"].shape == (1, 3, resolution, resolution) and shown["image"].shape == (1, 3, 128, 128)
        same(shown, official)


@pytest.mark.parametrize("index, value, words", [
    (None, 0, "no rotation"), (3, math.nan, "no number"), (11, math.inf, "no number"), (16, 0, "focal length"),
    (20, -1, "focal length"), (slice(0, 3), 0, "no rotation")])
def test_cameras_that_see_nothing(G, ws, c, index, value, words):
    """A label of zeros, say: a picture of NaN would say nothing."""
    wrong = c.clone()
    wrong[:, slice(None) if index is None else index] = value
    with pytest.raises(ValueError, match=f"camera 0 .*{words}"):
        Session(G, ws).render(wrong)


def test_options_and_styles_that_no_network_knows(G, ws):
    """Misspelt options would be read by nothing."""
    with pytest.raises(ValueError, match="rendering option 'depth_resolutoin': this network knows .*depth_resolution"):
        Session(G, ws, rendering_options=dict(depth_resolutoin=3))
    with pytest.raises(ValueError, match=r"styles of shape \[1, 3\]: this network's are \[N, "):
        Session(G, torch.zeros(1, 3))
    with pytest.raises(ValueError, match="styles of shape"):
        Session(G, ws[:, :-1])


def test_resolution_of_the_network(G, ws, c):
    """Without a resolution the network's own counts."""
    assert Session(G, ws).render(c)["image_depth"].shape[-1] == G.neural_rendering_resolution


@pytest.mark.parametrize("kind", [copy.deepcopy, Fork], ids=["own", "fork"])
def test_planes_are_computed_once(kind, G, ws, c, points):
    """Views cost no pass through the backbone after the first; of this project's networks, densities neither."""
    network, calls = kind(G), []
    inner = network if kind is copy.deepcopy else network._inner[0]
    inner.backbone.synthesis.register_forward_hook(lambda *_: calls.append(1))
    identity = Session(network, ws)
    identity.render(c, SIZE)
    identity.render(c, SIZE * 2)
    if kind is copy.deepcopy:
        identity.density(points)
    assert len(calls) == 1


def test_sessions_of_a_fork_do_not_mix(G, ws, c):
    """Two identities of one foreign network, shown in turn: each its own planes."""
    fork, other = Fork(G), sampling.styles(G, 4)
    first, second = Session(fork, ws), Session(fork, other)
    for _ in range(2):
        same(first.render(c, SIZE), Session(G, ws).render(c, SIZE))
        same(second.render(c, SIZE), Session(G, other).render(c, SIZE))


def test_same_seed_same_picture(G, ws, c):
    """Exactly, whatever was shown before; another seed moves the depths along the rays."""
    identity = Session(G, ws, seed=7)
    first = identity.render(c, SIZE)
    identity.render(cameras.view(G.rendering_kwargs, yaw=-0.4), SIZE)
    for again in (identity.render(c, SIZE), Session(G, ws, seed=7).render(c, SIZE)):
        assert all(torch.equal(first[key], again[key]) for key in first)
    other = Session(G, ws, seed=8).render(c, SIZE)
    assert not torch.equal(first["image_depth"], other["image_depth"])


@pytest.mark.parametrize("budget", [1, 33, 1000])
def test_chunks_do_not_change_the_picture(G, ws, c, budget, monkeypatch):
    """Rays may be rendered one by one, or a few at a time."""
    whole = Session(G, ws).render(c, SIZE)
    monkeypatch.setattr(session, "SAMPLES_AT_ONCE", {"cpu": budget})
    same(Session(G, ws).render(c, SIZE), whole)


def test_options_of_a_session(G, ws, c):
    """Options go over the network's own, for this session alone."""
    options = dict(depth_resolution=5, depth_resolution_importance=0)
    twin = copy.deepcopy(G)
    twin.rendering_kwargs.update(options)
    same(Session(G, ws, rendering_options=options).render(c, SIZE), Session(twin, ws).render(c, SIZE))
    same(Session(G, ws).render(c, SIZE), Session(copy.deepcopy(G), ws).render(c, SIZE))


def test_noise_is_const_in_superresolution(G, ws, c):
    """A network that was trained with random noise there gives the same picture twice."""
    noisy = copy.deepcopy(G)
    noisy.rendering_kwargs["superresolution_noise_mode"] = "random"
    for layer in noisy.superresolution.modules():
        if hasattr(layer, "noise_strength"):
            torch.nn.init.ones_(layer.noise_strength)
    first, second = [Session(noisy, ws).render(c, SIZE)["image"] for _ in range(2)]
    assert torch.equal(first, second)


def test_one_camera_a_picture(G, ws, c):
    """Two labels at once are refused in words, not by the inside of the renderer."""
    with pytest.raises(ValueError, match=r"one camera.*not \[2, 25\]"):
        Session(G, ws).render(c.repeat(2, 1), SIZE)


# ------------------------------------------------------------------------------------------------ several identities

SEEDS = (7, 2, 9)


@pytest.fixture(scope="module")
def several(G):
    return torch.cat([sampling.styles(G, seed) for seed in SEEDS])


@pytest.fixture(scope="module")
def solid(G):
    """The network with firm bodies in empty space: where a ray meets none, its weights are exactly zero."""
    firm, sharpness = copy.deepcopy(G), 100
    last = firm.decoder.net[-1]
    with torch.no_grad():
        # Nothing outside the box, where features are zero: the density there is taken off, and a little more.
        outside = firm.decoder(torch.zeros(1, 3, 1, 32), None)["sigma"].item()
        last.weight[0] *= sharpness
        last.bias[0] = (last.bias[0] - outside) * sharpness - 20
    return firm


@pytest.mark.parametrize("kind", [lambda G: G, Fork], ids=["own", "fork"])
@pytest.mark.parametrize("seed", [4, (4, 5, 4)], ids=["one seed", "a seed each"])
def test_several_identities(kind, seed, G, several, c):
    """Each looks as it does alone. Convolutions of a batch may round in another order, hence to rounding."""
    together = Session(kind(G), several, seed).render(c, SIZE)
    assert together["image"].shape == (3, 3, 128, 128) and together["image_depth"].shape == (3, 1, SIZE, SIZE)
    for index in range(3):
        own = seed if isinstance(seed, int) else seed[index]
        alone = Session(G, several[index : index + 1], own).render(c, SIZE)
        same({key: shown[index : index + 1] for key, shown in together.items()}, alone)
    assert (together["image_depth"][0] - together["image_depth"][1]).abs().max() > 1e-3


def test_each_identity_has_its_own_jitter(G, ws, c):
    """One identity three times: the same seed shows the same, another one other depths."""
    depth = Session(G, ws.repeat(3, 1, 1), [1, 2, 1]).render(c, SIZE)["image_depth"]
    torch.testing.assert_close(depth[0], depth[2], **CLOSE)
    assert (depth[0] - depth[1]).abs().max() > 1e-3


@pytest.mark.parametrize("distance", [2.7, 2.2])
def test_depth_does_not_depend_on_the_neighbours(solid, several, distance):
    """Rays that meet nothing end at the furthest depth of their own picture, which differs with the seed.

    Densities here are a hundred times the network's, so the rounding of the planes is too: 1e-3 for 1e-5.
    """
    c = cameras.view(dict(solid.rendering_kwargs, avg_camera_radius=distance), yaw=0.3, focal=2.0)
    seeds = (1, 2, 3)
    together = Session(solid, several, seeds).render(c, 12)["image_depth"]
    alone = torch.cat([Session(solid, several[i : i + 1], seeds[i]).render(c, 12)["image_depth"] for i in range(3)])
    missing = alone == alone.amax((1, 2, 3), keepdim=True)
    assert (missing.sum((1, 2, 3)) > 10).all() and not missing.all((1, 2, 3)).any()  # rays that miss, rays that do not
    furthest = alone.amax((1, 2, 3))
    assert min((furthest[i] - furthest[j]).abs() for i, j in ((0, 1), (0, 2), (1, 2))) > 1e-4  # what a shared limit would mix
    torch.testing.assert_close(together[missing], alone[missing], rtol=0, atol=1e-6)  # no planes are in these: float32's own
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-3)


@pytest.mark.parametrize("seeds", [[], [1], [1, 2], [1, 2, 3, 4]])
def test_wrong_number_of_seeds(G, several, seeds):
    with pytest.raises(ValueError, match=f"{len(seeds)} seeds for 3 identities"):
        Session(G, several, seeds)


@pytest.mark.parametrize("seed, plain", [(np.int64(3), 3), (np.arange(3), [0, 1, 2]), ([np.int64(2)] * 3, [2, 2, 2])])
def test_seeds_of_numpy(G, several, c, seed, plain):
    """Its integers are integers, alone and in rows."""
    same(Session(G, several, seed).render(c, 4), Session(G, several, plain).render(c, 4))


@pytest.mark.parametrize("kind", [lambda G: G, Fork], ids=["own", "fork"])
def test_identities_that_are_not_there(kind, G, several, points):
    """Counted as in a list, from the end too; beyond, the error says so."""
    identities = Session(kind(G), several)
    torch.testing.assert_close(identities.density(points, -1), Session(G, several[2:]).density(points), **CLOSE)
    for ask in (identities.density, identities.colors):
        with pytest.raises(IndexError, match="3 is out of bounds"):
            ask(points, 3)


@pytest.mark.parametrize("budget", [1, 1000])
def test_chunks_of_several(G, several, c, budget, monkeypatch):
    """Rays of several identities in pieces: the same pictures."""
    whole = Session(G, several, SEEDS).render(c, SIZE)
    monkeypatch.setattr(session, "SAMPLES_AT_ONCE", {"cpu": budget})
    same(Session(G, several, SEEDS).render(c, SIZE), whole)


@pytest.mark.parametrize("kind", [copy.deepcopy, Fork], ids=["own", "fork"])
def test_planes_of_several_are_computed_once(kind, G, several, c):
    """A pass of the backbone for all of them, or, through official calls, one for each."""
    network, calls = kind(G), []
    inner = network if kind is copy.deepcopy else network._inner[0]
    inner.backbone.synthesis.register_forward_hook(lambda _module, given, _out: calls.append(len(given[0])))
    identities = Session(network, several)
    first = identities.render(c, SIZE)
    same(identities.render(c, SIZE), first)
    assert calls == ([3] if kind is copy.deepcopy else [1, 1, 1])


# ------------------------------------------------------------------------------------------------ limits of depth

class Fog(torch.nn.Module):
    """Matter of one density wherever the planes are 1; where they are 0, nothing, and weights are exactly zero."""

    def forward(self, features, directions):
        mean = features.mean(dim=1)
        return dict(rgb=mean, sigma=mean * 103 - 100)


NEAR, FAR, SAMPLES, RAYS = 2.0, 3.4, 5, 4


def naive_depths(full, seed):
    """Depths [RAYS], NaN where nothing is met, and every sampled depth, of one picture: ray by ray, sample by sample."""
    noise = torch.rand(1, RAYS, SAMPLES, 1, generator=torch.Generator().manual_seed(seed))[0, :, :, 0].double().numpy()
    density, found, sampled = math.log1p(math.exp((3 if full else -100) - 1)) if full else 0.0, [], []
    for ray in range(RAYS):
        t = [NEAR + (i + noise[ray, i]) / (SAMPLES - 1) * (FAR - NEAR) for i in range(SAMPLES)]
        through, total, depth = 1.0, 0.0, 0.0
        for i in range(SAMPLES - 1):
            weight = (1 - math.exp(-density * (t[i + 1] - t[i]))) * through
            through, total, depth = through - weight, total + weight, depth + weight * (t[i] + t[i + 1]) / 2
        found.append(depth / total if total else math.nan)
        sampled += t
    return np.array(found), sampled


@pytest.mark.parametrize("chunk", [None, 1, 3])
@pytest.mark.parametrize("scope", ["call", "sample", None])
def test_depth_limits(scope, chunk):
    """Empty rays end at the furthest depth of the call, official and the default, or of their own sample of the batch."""
    full, seeds = [False, True, False], [11, 12, 13]
    options = dict(ray_start=NEAR, ray_end=FAR, box_warp=1000, depth_resolution=SAMPLES, depth_resolution_importance=0,
                   disparity_space_sampling=False, clamp_mode="softplus", ray_chunk=chunk,
                   generator=[torch.Generator().manual_seed(seed) for seed in seeds])
    if scope is not None:
        options["depth_limits"] = scope
    planes = torch.tensor(full).float().reshape(3, 1, 1, 1, 1).expand(3, 3, 4, 8, 8)
    directions = torch.nn.functional.normalize(torch.randn(3, RAYS, 3, generator=torch.Generator().manual_seed(0)), dim=-1)
    _, depth, weight = ImportanceRenderer()(planes, Fog(), torch.zeros(3, RAYS, 3), directions, options)
    assert (weight[0] == 0).all() and (weight[1] > 0).all()

    naive = [naive_depths(*of) for of in zip(full, seeds)]
    everything = [t for _, sampled in naive for t in sampled]
    for index, (found, sampled) in enumerate(naive):
        limits = sampled if scope == "sample" else everything
        expected = [max(min(math.inf if math.isnan(x) else x, max(limits)), min(limits)) for x in found]
        # float32: a few dozen roundings of 6e-8 in a row
        np.testing.assert_allclose(depth[index, :, 0].numpy(), expected, rtol=0, atol=1e-5)
    assert abs(max(naive[0][1]) - max(naive[2][1])) > 1e-3


@pytest.mark.parametrize("scope", ["both", None, 1])
def test_unknown_depth_limits(G, several, c, scope):
    """The option of the renderer, named with what it may be."""
    with pytest.raises(ValueError, match=f"depth_limits={scope!r}: choose call or sample"):
        G.render(G.planes(several[:1]), several[:1], c, 4, rendering_options=dict(depth_limits=scope))


# ------------------------------------------------------------------------------------------------ densities

def test_density_equals_the_official_call(G, ws, points, monkeypatch):
    """sample_mixed gives the same, however many points go at once."""
    with torch.no_grad():
        sampled = G.sample_mixed(points[None], torch.zeros_like(points)[None], ws, noise_mode="const")["sigma"]
    for at_once in (session.POINTS_AT_ONCE, 33):
        monkeypatch.setattr(session, "POINTS_AT_ONCE", at_once)
        for network in (G, Fork(G)):
            torch.testing.assert_close(Session(network, ws).density(points), sampled[0, :, 0], **CLOSE)


@pytest.mark.parametrize("kind", [lambda G: G, Fork], ids=["own", "fork"])
def test_density_is_that_of_the_session(kind, G, ws, points):
    """The session's options count for densities as they do for pictures: another box, other places in the planes."""
    wide = Session(kind(G), ws, rendering_options=dict(box_warp=2)).density(points)
    torch.testing.assert_close(wide, Session(G, ws).density(points / 2), **CLOSE)


@pytest.mark.parametrize("kind", [lambda G: G, Fork], ids=["own", "fork"])
def test_density_is_free_of_noise(kind, G, ws, points):
    """Density noise, a training option, is not what a shape is made of."""
    noisy = kind(copy.deepcopy(G))
    noisy.rendering_kwargs["density_noise"] = 1
    torch.testing.assert_close(Session(noisy, ws).density(points), Session(G, ws).density(points), **CLOSE)


@pytest.mark.parametrize("kind", [lambda G: G, Fork], ids=["own", "fork"])
def test_densities_and_colors_of_each_identity(kind, G, several, points, monkeypatch):
    """What sample_mixed gives for its styles; colours in [-1, 1], the first three features; also some points at a time."""
    identities = Session(kind(G), several)
    for identity, at_once in ((0, 1 << 17), (2, 1 << 17), (1, 60)):
        monkeypatch.setattr(session, "POINTS_AT_ONCE", at_once)
        with torch.no_grad():
            sampled = G.sample_mixed(
                points[None], torch.zeros_like(points)[None], several[identity : identity + 1], noise_mode="const")
        density, colors = identities.density(points, identity), identities.colors(points, identity=identity)
        torch.testing.assert_close(density, sampled["sigma"][0, :, 0], **CLOSE)
        torch.testing.assert_close(colors, sampled["rgb"][0, :, :3] * 2 - 1, **CLOSE)
        assert colors.shape == (len(points), 3)
    torch.testing.assert_close(identities.density(points), identities.density(points, 0), rtol=0, atol=0)
    assert (identities.density(points, 0) - identities.density(points, 1)).abs().max() > 0.01


def test_pictures_blend_what_a_session_tells(G, several):
    """Absorption of the second identity's densities along four rays in small steps, seen in its colours: the raw picture.

    The renderer's 200 jittered samples of a ray are 5e-3 apart; the middles of their intervals make the sum good to the square
    of that where the density is smooth, to 1e-3 where the planes' texels bend it.
    """
    c = cameras.view(G.rendering_kwargs, yaw=0.2)
    fine = Session(G, several, SEEDS, dict(depth_resolution=200, depth_resolution_importance=0))
    origins, directions = RaySampler()(c[:, :16].reshape(1, 4, 4), c[:, 16:].reshape(1, 3, 3), 2)
    start, end, steps = G.rendering_kwargs["ray_start"], G.rendering_kwargs["ray_end"], 2000
    delta = (end - start) / steps
    expected = torch.zeros(4, 3)
    for ray in range(4):
        t = start + (torch.arange(steps) + 0.5)[:, None] * delta
        points = origins[0, ray] + t * directions[0, ray]
        passed = 0.0
        for density, color in zip(fine.density(points, 1).tolist(), fine.colors(points, 1)):
            absorbed = math.log1p(math.exp(density - 1)) * delta
            expected[ray] += math.exp(-passed) * (1 - math.exp(-absorbed)) * (color + 1)
            passed += absorbed
    shown = fine.render(c, 2)["image_raw"][1].flatten(1).T
    torch.testing.assert_close(shown, expected - 1, rtol=0, atol=1e-3)
    assert (shown - fine.render(c, 2)["image_raw"][0].flatten(1).T).abs().max() > 0.02


# ------------------------------------------------------------------------------------------------ what stays as it was

@pytest.mark.parametrize("kind", [copy.deepcopy, Fork], ids=["own", "fork"])
def test_the_network_is_not_changed(kind, G, ws, c, points):
    """Rendering changes neither options, nor the stored resolution, nor the cached planes, nor any tensor."""
    network = kind(G)
    options, before = network.rendering_kwargs, copy.deepcopy(network.rendering_kwargs)
    tensors = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    resolution = network.neural_rendering_resolution
    identity = Session(network, ws, rendering_options=dict(depth_resolution=6, white_back=True))
    identity.render(c, SIZE)
    identity.density(points)
    assert network.rendering_kwargs is options and options == before
    assert network.neural_rendering_resolution == resolution != SIZE
    assert getattr(network, "_last_planes", None) is None
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("kind", [lambda G: G, Fork], ids=["own", "fork"])
def test_chance_is_not_touched(kind, G, ws, c, points):
    """PyTorch's global generator stands where it stood, and what it holds does not matter."""
    torch.manual_seed(1)
    state = torch.get_rng_state()
    identity = Session(kind(G), ws)
    first = identity.render(c, SIZE)
    identity.density(points)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(identity.render(c, SIZE)["image_depth"], first["image_depth"])


# ------------------------------------------------------------------------------------------------ forks

def test_fork_is_called_the_official_way(G, ws, c):
    """A network without planes and render shows the same through synthesis, with the session's options in place."""
    fork, options = Fork(G), dict(depth_resolution=6)
    shown = Session(fork, ws, seed=4, rendering_options=options).render(c, SIZE)
    same(shown, Session(G, ws, seed=4, rendering_options=options).render(c, SIZE))
    assert [seen["depth_resolution"] for seen in fork.seen] == [6]
    assert fork.rendering_kwargs["depth_resolution"] == 16


def test_settings_are_put_back_after_an_error(G, ws, c):
    """An exception inside a foreign network leaves neither its settings nor the global generator changed."""
    fork = Fork(G)
    before, state = dict(fork.rendering_kwargs), torch.get_rng_state()
    with pytest.raises(RuntimeError, match="unlucky"):
        Session(fork, ws, rendering_options=dict(depth_resolution=6)).render(c, 13)
    assert fork.seen[0]["depth_resolution"] == 6
    assert fork.rendering_kwargs == before and fork.neural_rendering_resolution == 32
    assert torch.equal(torch.get_rng_state(), state)
