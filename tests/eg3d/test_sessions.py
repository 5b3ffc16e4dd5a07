"""A session: one identity from anywhere, the same pictures as the official calls, and a network that stays as it was."""

import copy

import pytest
import torch

from eg3d import cameras, generator, sampling, session
from eg3d.session import Session

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


def test_one_identity_a_session(G, ws):
    with pytest.raises(ValueError, match="one identity, not 2"):
        Session(G, ws.repeat(2, 1, 1))


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
