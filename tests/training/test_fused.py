"""Fused rendering against the reference: values and gradients, over random scenes, options, sizes and instruction sets."""

import math
import shutil

import pytest
import torch
from torch.autograd import gradcheck

from torch_utils import custom_ops
from training.networks_stylegan2 import FullyConnectedLayer
from training.triplane import OSGDecoder
from training.volumetric_rendering import fused
from training.volumetric_rendering.renderer import CORRECTED_AXES, OFFICIAL_AXES, Draws, ImportanceRenderer

pytestmark = pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")

DOUBLE = 1e-8  # float64 on both sides; kernels leave out what counts less than 2^-32
SINGLE = 2e-5  # float32: sums of a few hundred terms in another order, relative to the largest number
OPTIONS = dict(ray_start=2.0, ray_end=3.4, box_warp=1.2, depth_resolution=7, depth_resolution_importance=5,
               disparity_space_sampling=False, clamp_mode="softplus")
CASES = {
    "plain": {},
    "white": dict(white_back=True),
    "auto": dict(ray_start="auto", ray_end="auto"),
    "disparity": dict(disparity_space_sampling=True),
    "noise": dict(density_noise=0.7),
    "one pass": dict(depth_resolution_importance=0),
    "one noisy pass": dict(depth_resolution_importance=0, density_noise=0.7),
    "many samples": dict(depth_resolution=96, depth_resolution_importance=96),
    "few then many": dict(depth_resolution=4, depth_resolution_importance=61),
    "backwards": dict(ray_start=3.4, ray_end=2.0),
}


@pytest.fixture(params=range(custom_ops.best_variant() + 1), ids=("baseline", "avx2", "avx512").__getitem__)
def variant(request, monkeypatch):
    """Each instruction set that this processor has."""
    monkeypatch.setattr(custom_ops, "best_variant", lambda: request.param)


class Scene:
    """Random planes, a random decoder and rays that start outside of the box, or inside."""

    def __init__(self, seed=0, batch=2, rays=5, size=(9, 12), dtype=torch.float64, axes=CORRECTED_AXES, density=0.0,
                 inside=False, order=None):
        torch.manual_seed(seed)
        self.renderer = ImportanceRenderer()
        self.renderer.plane_axes = torch.tensor(axes)
        self.planes = torch.randn(batch, len(axes), 32, *size, dtype=dtype)
        if order is not None:  # the same numbers in another order of memory
            self.planes = self.planes.permute(order).contiguous().permute([order.index(axis) for axis in range(5)])
        self.planes.requires_grad_()
        self.decoder = OSGDecoder(32, dict(decoder_lr_mul=1, decoder_output_dim=32)).to(dtype)
        with torch.no_grad():
            for parameter in self.decoder.parameters():
                parameter.normal_()
            self.decoder.net[2].bias[0] += density
        self.origins = torch.randn(batch, rays, 3, dtype=dtype) * 0.1
        if not inside:
            self.origins[..., 2] += 2.7
        targets = torch.rand(batch, rays, 3, dtype=dtype) - 0.5  # a few rays miss the box
        self.directions = torch.nn.functional.normalize(targets * 1.4 - self.origins, dim=-1)

    def render(self, impl, **options):
        options = dict(OPTIONS, **options, impl=impl, generator=torch.Generator().manual_seed(3))
        return self.renderer(self.planes, self.decoder, self.origins, self.directions, options)

    @property
    def parameters(self):
        return [self.planes, *self.decoder.parameters()]

    def gradients(self, outputs, used=(0, 1, 2)):
        """Of a random projection of the chosen outputs."""
        generator = torch.Generator().manual_seed(4)
        draws = [torch.randn(out.shape, generator=generator, dtype=torch.float64).to(out.dtype) for out in outputs]
        return torch.autograd.grad(sum((outputs[i] * draws[i]).sum() for i in used), self.parameters)


def close(found, expected, tolerance):
    for one, other in zip(found, expected):
        assert one.shape == other.shape and one.dtype == other.dtype
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance * max(1.0, other.detach().abs().max().item()))


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients(name, variant):
    scene = Scene(seed=len(name))
    expected, found = scene.render("ref", **CASES[name]), scene.render("cpu", **CASES[name])
    close(found, expected, DOUBLE)
    close(scene.gradients(found), scene.gradients(expected), DOUBLE)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, DOUBLE), (torch.float32, SINGLE)], ids=["double", "single"])
@pytest.mark.parametrize("seed", range(12))
def test_random_scenes(seed, dtype, tolerance, variant):
    """Sizes, densities from empty to solid, cameras inside and outside, both axes, several orders of memory."""
    torch.manual_seed(100 + seed)
    draw = lambda *choices: choices[torch.randint(len(choices), []).item()]  # noqa: E731
    scene = Scene(
        seed, batch=draw(1, 2, 5), rays=draw(1, 3, 17), size=draw((1, 1), (8, 8), (5, 14)), dtype=dtype,
        axes=draw(OFFICIAL_AXES, CORRECTED_AXES), density=draw(-8.0, 0.0, 3.0, 20.0), inside=draw(True, False),
        order=draw(None, [0, 1, 3, 4, 2], [0, 3, 4, 1, 2]))
    options = dict(depth_resolution=draw(4, 11, 24), depth_resolution_importance=draw(0, 1, 13), white_back=draw(True, False))
    expected, found = scene.render("ref", **options), scene.render("cpu", **options)
    close(found, expected, tolerance)
    # Depth is a quotient: its gradient without weight is 0 / 0 in the reference.
    used = (0, 2) if scene.decoder.net[2].bias[0] < -4 or dtype == torch.float32 else (0, 1, 2)
    close(scene.gradients(found, used), scene.gradients(expected, used), tolerance)


@pytest.mark.parametrize("density", [-1e4, 1e4, 1e30])
def test_extreme_densities(density, variant):
    """Nothing at all, and walls."""
    scene = Scene(dtype=torch.float32, density=density)
    found = scene.render("cpu")
    close(found, scene.render("ref"), SINGLE)
    assert all(gradient.isfinite().all() for gradient in scene.gradients(found))


def test_one_sample():
    """A single sample spans no interval: rays show nothing."""
    scene = Scene()
    table = fused.projection(scene.renderer.plane_axes, 1.2, scene.planes)
    depths = torch.full((2, 5, 1, 1), 2.5, dtype=torch.float64)
    rendered = fused.render_rays(scene.planes, table, fused.layers_of(scene.decoder), scene.origins, scene.directions, depths,
                                 Draws(None, None, None, None), white_back=False)
    assert (rendered.rgb == -1).all() and (rendered.weight == 0).all() and rendered.depth.isinf().all()
    assert (rendered.nearest == 2.5).all() and (rendered.furthest == 2.5).all()


@pytest.mark.parametrize("batch, rays", [(0, 4), (2, 0), (0, 0)])
def test_nothing_to_render(batch, rays):
    scene = Scene(batch=batch, rays=rays)
    found = scene.render("cpu")
    assert [x.shape for x in found] == [(batch, rays, 32), (batch, rays, 1), (batch, rays, 1)]
    assert all((gradient == 0).all() for gradient in scene.gradients(found))


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_threads(threads):
    """Batch items that two or more threads share get all of their gradients."""
    scene = Scene(batch=2, rays=4)
    expected = scene.gradients(scene.render("ref"))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = scene.gradients(scene.render("cpu"))
    finally:
        torch.set_num_threads(before)
    close(found, expected, DOUBLE)


def test_gradcheck():
    """Finite differences of the kernel itself."""
    scene = Scene(batch=1, rays=2, size=(3, 4))
    table = fused.projection(scene.renderer.plane_axes, 1.2, scene.planes)
    depths = torch.linspace(2.2, 3.2, 4, dtype=torch.float64).expand(1, 2, 4)
    noise = torch.randn(1, 2, 4, dtype=torch.float64)
    layers = [layer.detach().requires_grad_() for layer in fused.layers_of(scene.decoder)]

    def run(planes, *layers):
        return torch.ops.eg3d.render_rays(
            planes, table, *layers, scene.origins, scene.directions, depths, noise, None, None, True)[:3]

    assert gradcheck(run, (scene.planes, *layers), fast_mode=True)


@pytest.mark.parametrize("axes", [OFFICIAL_AXES, CORRECTED_AXES], ids=["official", "corrected"])
def test_points(axes, variant):
    """Colours and densities at points, some outside of the box, one nowhere; and their gradients."""
    scene = Scene(axes=axes)
    points = (torch.rand(2, 401, 3, dtype=torch.float64) - 0.5) * 1.5
    ask = lambda impl, **more: scene.renderer.run_model(  # noqa: E731
        scene.planes, scene.decoder, points, None, dict(OPTIONS, impl=impl, **more))
    expected, found = ask("ref"), ask("cpu")
    found, expected = [(out["rgb"], out["sigma"]) for out in (found, expected)]
    close(found, expected, DOUBLE)
    close(scene.gradients(found, (0, 1)), scene.gradients(expected, (0, 1)), DOUBLE)
    found, expected = ask("cpu", colors=False), ask("ref", colors=False)
    assert found.keys() == expected.keys() == {"sigma"}
    close(scene.gradients((found["sigma"],), (0,)), scene.gradients((expected["sigma"],), (0,)), DOUBLE)


def test_points_that_are_nowhere():
    """As with the reference, what is not a number stays so: a broken camera shows. Far away there is nothing."""
    scene = Scene(dtype=torch.float32)
    points = torch.tensor([[[math.nan, 0, 0], [math.inf, -math.inf, 1e30], [9, 9, 9], [1e30, 0, 0]]]).expand(2, -1, -1)
    expected, found = [scene.renderer.run_model(scene.planes, scene.decoder, points, None, dict(OPTIONS, impl=impl))
                       for impl in ("ref", "cpu")]
    close((found["sigma"][:, 2:],), (expected["sigma"][:, 2:],), SINGLE)
    assert expected["sigma"][:, :2].isnan().all() and found["sigma"][:, :2].isnan().all()


@pytest.mark.parametrize("importance", [0, 12])
@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_broken_numbers_stay_where_they_are(broken, importance, variant):
    """A corner pixel that is not a number reaches the rays that read it and no others; so does an origin."""
    scene = Scene(dtype=torch.float32, rays=40)
    with torch.no_grad():
        scene.planes[0, 0, :, 0, 0] = broken
        scene.origins[1, 3, 0] = broken
    expected, found = [scene.render(impl, depth_resolution_importance=importance) for impl in ("ref", "cpu")]
    assert 0 < expected[0].isnan().any(dim=-1).sum() < 40
    for one, other in zip(found, expected):
        assert torch.equal(one.isnan(), other.isnan())
    whole = ~expected[0].isnan().any(dim=-1)
    for which in (0, 2):  # depth ends at the call's nearest sample, which a broken ray makes NaN
        close([found[which][whole]], [expected[which][whole]], SINGLE)


def test_gradients_of_many_samples():
    """The decoder's are sums over all samples, and as exact with many as with few."""
    scene, double = Scene(dtype=torch.float32), Scene(dtype=torch.float64)
    with torch.no_grad():
        for mine, other in zip(double.parameters, scene.parameters):
            mine.copy_(other)
    points = torch.rand(2, 200000, 3) - 0.5
    gradients = {}
    for name, one, impl in (("truth", double, "ref"), ("ref", scene, "ref"), ("kernel", scene, "cpu")):
        out = one.renderer.run_model(one.planes, one.decoder, points.to(one.planes), None, dict(OPTIONS, impl=impl))
        gradients[name] = torch.autograd.grad(out["rgb"].sum() + out["sigma"].sum(), one.parameters)
    for truth, ref, kernel in zip(*[gradients[name][1:] for name in ("truth", "ref", "kernel")]):
        # Measured 7e-8, and 8e-7 for the reference; one running sum in float32 loses some 1e-5.
        assert (kernel - truth).norm() < max(5e-7 * truth.norm(), (ref - truth).norm())


# ------------------------------------------------------------------------------------------------ who computes

class Louder(OSGDecoder):
    """A decoder of somebody else."""

    def forward(self, sampled_features, ray_directions):
        return {key: 2 * value for key, value in super().forward(sampled_features, ray_directions).items()}


def count_calls(monkeypatch):
    calls = []
    render = fused.render_rays
    monkeypatch.setattr(fused, "render_rays", lambda *call: calls.append(call) or render(*call))
    return calls


def test_auto_takes_kernels_where_they_suit(monkeypatch):
    calls, scene = count_calls(monkeypatch), Scene()
    scene.render("auto")
    assert len(calls) == 1
    scene.render("ref")
    assert len(calls) == 1


@pytest.mark.parametrize("change, words", [
    (lambda scene: setattr(scene, "decoder", Louder(32, dict(decoder_lr_mul=1, decoder_output_dim=32)).double()), "OSGDecoder"),
    (lambda scene: setattr(scene, "decoder", OSGDecoder(
        32, dict(decoder_lr_mul=1, decoder_output_dim=32, decoder_width=48)).double()), "OSGDecoder"),
    (lambda scene: scene.decoder.net.append(torch.nn.Tanh()), "altered"),
    (lambda scene: scene.decoder.net.__setitem__(1, torch.nn.ReLU()), "altered"),
    (lambda scene: setattr(scene.decoder.net[1], "beta", 5), "altered"),
    (lambda scene: setattr(scene.decoder.net[0], "activation", "relu"), "altered"),
    (lambda scene: scene.decoder.net.__setitem__(2, torch.nn.Linear(64, 33).double()), "altered"),
    (lambda scene: scene.decoder.net.__setitem__(0, FullyConnectedLayer(32, 64, bias=False).double()), "altered"),
    (lambda scene: scene.decoder.net[1].register_forward_hook(lambda module, given, out: out / 2), "altered"),
    (lambda scene: setattr(scene.decoder, "forward", lambda features, _: dict(
        rgb=features.mean(1), sigma=features.mean(1)[..., :1])), "altered"),
    (lambda scene: scene.origins.requires_grad_(), "gradient"),
    (lambda scene: scene.directions.requires_grad_(), "gradient"),
    (lambda scene: scene.decoder.float(), "number types"),
], ids=["another decoder", "another width", "a layer more", "another function", "another softplus", "another activation",
        "another class", "no bias", "a hook", "another forward", "origins", "directions", "types"])
def test_what_does_not_suit(change, words, monkeypatch):
    calls, scene = count_calls(monkeypatch), Scene()
    change(scene)
    if words != "number types":  # the reference refuses that too
        close(scene.render("auto"), scene.render("ref"), 0)
    assert calls == []
    with pytest.raises(ValueError, match=f"impl='cpu'.*{words}.*impl='ref'"):
        scene.render("cpu")


def test_rays_that_share_a_direction(monkeypatch):
    """What PyTorch spreads, the reference spreads."""
    calls, scene = count_calls(monkeypatch), Scene()
    whole = scene.directions[:1].expand(2, -1, -1)
    scene.directions = whole[:1]
    found = scene.render("auto")
    assert calls == []
    scene.directions = whole
    close(found, scene.render("cpu"), DOUBLE)


@pytest.mark.parametrize("change", [
    lambda scene: setattr(scene, "planes", scene.planes[:1]),
    lambda scene: (setattr(scene, "origins", scene.origins[:1]), setattr(scene, "directions", scene.directions[:1])),
    lambda scene: setattr(scene, "origins", scene.origins[..., :2]),
    lambda scene: setattr(scene, "planes", scene.planes[:, :2]),
    lambda scene: setattr(scene, "planes", scene.planes.repeat(1, 2, 1, 1, 1)),
    lambda scene: setattr(scene, "planes", scene.planes[:, :0]),
    lambda scene: setattr(scene, "planes", scene.planes[..., :0]),
], ids=["one item's planes", "one item's rays", "two coordinates", "two planes", "six planes", "no planes", "no pixels"])
def test_shapes_that_do_not_fit(change):
    """The reference says so; nobody reads beyond an array's end."""
    scene = Scene(batch=3)
    change(scene)
    with pytest.raises((RuntimeError, ValueError, IndexError)):
        scene.render("auto")
    with pytest.raises(ValueError, match="impl='cpu'.*impl='ref'"):
        scene.render("cpu")


@pytest.mark.parametrize("which", range(9))
def test_operators_refuse_what_does_not_fit(which):
    """Also where they are called by their names, as an exported program does."""
    scene = Scene(dtype=torch.float32)
    table = fused.projection(scene.renderer.plane_axes, 1.2, scene.planes)
    arrays = [scene.planes, table, *fused.layers_of(scene.decoder), scene.origins, scene.directions, torch.ones(2, 5, 6)]
    for wrong in (arrays[which][:1], arrays[which].double()):
        broken = [wrong if i == which else array for i, array in enumerate(arrays)]
        with pytest.raises(ValueError, match="fused rendering: .* is .* expected"):
            torch.ops.eg3d.render_rays(*broken, None, None, None, False)


@pytest.mark.parametrize("coarse, noise, fine, fine_noise", [
    (6, 5, None, None), (6, None, None, 3), (6, 6, 3, None), (6, None, 3, 3), (6, 6, 3, 2), (0, None, None, None),
    (3, None, 2, None), (3, 3, 2, 2)])
def test_operators_refuse_passes_that_do_not_fit(coarse, noise, fine, fine_noise):
    scene = Scene(dtype=torch.float32)
    table = fused.projection(scene.renderer.plane_axes, 1.2, scene.planes)
    draws = [None if many is None else torch.rand(2, 5, many) for many in (noise, fine, fine_noise)]
    with pytest.raises(ValueError, match="fused rendering"):
        torch.ops.eg3d.render_rays(scene.planes, table, *fused.layers_of(scene.decoder), scene.origins, scene.directions,
                                   torch.ones(2, 5, coarse), *draws, False)


@pytest.mark.parametrize("impl, error, words", [
    ("auto", NotImplementedError, "grid_sampler"), ("cpu", ValueError, "impl='cpu'.*forward-mode")])
def test_forward_mode_is_not_dropped(impl, error, words):
    """Neither kernels nor PyTorch's look-up have it, and both say so."""
    scene = Scene()
    scene.planes = scene.planes.detach()
    with torch.autograd.forward_ad.dual_level(), pytest.raises(error, match=words):
        scene.planes = torch.autograd.forward_ad.make_dual(scene.planes, torch.ones_like(scene.planes))
        scene.render(impl)


@pytest.mark.parametrize("impl", ["auto", "cpu", "ref"])
def test_another_clamp_mode(impl):
    with pytest.raises(ValueError, match="clamp_mode='relu': only softplus"):
        Scene().render(impl, clamp_mode="relu")


def test_no_samples():
    with pytest.raises(ValueError, match="depth_resolution=0: at least one"):
        Scene().render("auto", depth_resolution=0, depth_resolution_importance=0)


def test_another_default_type():
    """Float32 networks stay so where new arrays are float64."""
    scene = Scene(dtype=torch.float32)
    expected = scene.render("cpu")
    torch.set_default_dtype(torch.float64)
    try:
        close(scene.render("cpu"), expected, 0)
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_first_pass_too_small_for_a_second(monkeypatch):
    calls, scene = count_calls(monkeypatch), Scene()
    scene.render("auto", depth_resolution=3)
    assert calls == []
    with pytest.raises(ValueError, match="depth_resolution=3: impl='cpu' needs 4 samples.*impl='ref'"):
        scene.render("cpu", depth_resolution=3)
    scene.render("cpu", depth_resolution=3, depth_resolution_importance=0)
    assert len(calls) == 1


def test_decoder_layers_are_those_that_count():
    """Learning rate multipliers belong to the weights."""
    decoder = OSGDecoder(32, dict(decoder_lr_mul=0.5, decoder_output_dim=32))
    assert isinstance(decoder.net[0], FullyConnectedLayer)
    w1, b1, _, _ = fused.layers_of(decoder)
    x = torch.randn(3, 32)
    torch.testing.assert_close(x @ w1.t() + b1, decoder.net[0](x))


def test_a_renderer_with_its_own_field():
    class Constant(ImportanceRenderer):
        def decode(self, planes, decoder, coordinates, directions, options):
            flat = torch.zeros_like(coordinates[..., :1])
            return {"rgb": flat.expand(-1, -1, 32) + 0.25, "sigma": flat + 9}

    scene = Scene()
    scene.renderer = Constant()
    rgb, _, weight = scene.render("auto")
    torch.testing.assert_close(rgb, (0.25 * weight * 2 - 1).expand_as(rgb))


def test_plugins_turned_off(monkeypatch):
    calls, scene = count_calls(monkeypatch), Scene()
    expected = scene.render("cpu")
    monkeypatch.setenv("EG3D_PLUGINS", "off")
    close(scene.render("auto"), expected, DOUBLE)
    assert len(calls) == 1
    with pytest.raises(custom_ops.PluginError, match="EG3D_PLUGINS"):
        scene.render("cpu")


def test_no_second_derivative():
    scene = Scene()
    rgb = scene.render("cpu")[0]
    slope, = torch.autograd.grad(rgb.sum(), scene.planes, create_graph=True)
    with pytest.raises(NotImplementedError, match="impl='ref'"):
        slope.square().sum().backward()


def test_compilers_see_shapes():
    """torch.library's own check of the operators: fake results have the real ones' shapes and strides."""
    scene = Scene(dtype=torch.float32)
    table = fused.projection(scene.renderer.plane_axes, 1.2, scene.planes)
    field = [scene.planes, table, *fused.layers_of(scene.decoder)]
    depths = torch.linspace(2, 3, 6).expand(2, 5, 6).contiguous()
    for arguments in ([depths, None, None, None], [depths, depths, torch.rand(2, 5, 3), torch.rand(2, 5, 3)]):
        torch.library.opcheck(torch.ops.eg3d.render_rays.default, (
            *field, scene.origins, scene.directions, *arguments, True), test_utils=("test_schema", "test_faketensor"))
    torch.library.opcheck(torch.ops.eg3d.decode_points.default, (*field, scene.origins, True),
                          test_utils=("test_schema", "test_faketensor"))
