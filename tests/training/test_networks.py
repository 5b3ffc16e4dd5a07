"""Networks: what their options do, what they leave alone, and their derivatives. What they compute is in test_golden.py.

Two ways to the same picture differ in the order of float32 sums; SINGLE, relative to the largest value, holds that.
"""

import copy

import pytest
import torch
from recipe import fill
from torch.autograd import gradcheck, gradgradcheck

from training import superresolution
from training.dual_discriminator import DualDiscriminator, DummyDualDiscriminator, SingleDiscriminator, filtered_resizing
from training.networks_stylegan2 import (
    Conv2dLayer,
    Discriminator,
    Generator,
    MappingNetwork,
    MinibatchStdLayer,
    SynthesisLayer,
    SynthesisNetwork,
)
from training.regularizers import r1_penalty
from training.superresolution import SuperresolutionGeneral
from training.triplane import TriPlaneGenerator
from training.volumetric_rendering.renderer import CORRECTED_AXES

SINGLE = 1e-4  # thousands of float32 roundings of 6e-8; measures about 1e-6
SMALL = dict(channel_base=512, channel_max=8)


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def same(result, expected, tolerance=SINGLE):
    assert result.shape == expected.shape and (result - expected).abs().max() <= tolerance * expected.abs().max()


def label(batch=2):
    """Cameras in front of the origin, all rays of which meet the unit box."""
    row = [1, 0, 0, 0, 0, -1, 0, 0, 0, 0, -1, 2.7, 0, 0, 0, 1, 4.2647, 0, 0.5, 0, 4.2647, 0.5, 0, 0, 1]
    c = torch.tensor([row] * batch)
    c[:, 11] += torch.arange(batch) * 0.05
    return c


def generator(rendering=(), **changes):
    """A generator with no size at its official value."""
    options = dict(
        superresolution_module="training.superresolution.SuperresolutionGeneral", depth_resolution=4,
        depth_resolution_importance=4, ray_start=2.25, ray_end=3.3, box_warp=1, c_scale=1, **dict(rendering))
    arguments = dict(
        z_dim=12, c_dim=25, w_dim=24, img_resolution=32, img_channels=3, mapping_kwargs=dict(num_layers=2),
        rendering_kwargs=options, plane_resolution=16, plane_channels=8, decoder_width=20, plane_axes=CORRECTED_AXES,
        sr_kwargs=dict(SMALL, fused_modconv_default="inference_only"), num_fp16_res=0, conv_clamp=None,
        fused_modconv_default="inference_only", **SMALL)
    G = fill(TriPlaneGenerator(**(arguments | changes))).eval()
    G.neural_rendering_resolution = 16
    return G


def synthesis(G, ws, c, seed=0, **kwargs):
    """G.synthesis with this seed for every draw."""
    torch.manual_seed(seed)
    return G.synthesis(ws, c, **kwargs)


# ------------------------------------------------------------------------------------------------ super-resolution

@pytest.mark.parametrize("resolution, start, widths", [
    (32, 16, [8, 4]), (64, 32, [4, 2]), (128, 64, [2, 1]), (256, 128, [16, 8]), (1024, 128, [16, 8, 4, 2])])
def test_general_superresolution(resolution, start, widths):
    """From half the output, at most 128, in doublings; channels are channel_base / resolution, at most channel_max."""
    base = 128 if resolution < 256 else 2048
    net = fill(SuperresolutionGeneral(4, resolution, sr_num_fp16_res=0, w_dim=8, channel_base=base, channel_max=16))
    blocks = [getattr(net, name) for name in net.block_names]
    assert [block.resolution for block in blocks] == [start * 2**level for level in range(len(blocks))]
    assert [block.conv1.out_channels for block in blocks] == widths
    assert blocks[-1].resolution == resolution and [block.is_last for block in blocks] == [False] * (len(blocks) - 1) + [True]
    x = randn(1, 4, 16, 16)
    with torch.no_grad():
        image = net(x[:, :3], x, randn(1, 5, 8), noise_mode="none")
    assert image.shape == (1, 3, resolution, resolution) and image.isfinite().all() and image.std() > 0


def test_general_superresolution_from_any_size():
    """`input_resolution` is free up to the output, and features of any size are brought to it."""
    for start, blocks in ((4, 4), (16, 2), (32, 1)):
        net = SuperresolutionGeneral(4, 32, sr_num_fp16_res=0, w_dim=8, input_resolution=start, **SMALL)
        assert len(net.block_names) == blocks
        for size in (4, 24, 40):
            x = randn(1, 4, size, size)
            assert net(x[:, :3], x, randn(1, 1, 8)).shape == (1, 3, 32, 32)


@pytest.mark.parametrize("arguments, culprit", [
    (dict(img_resolution=16), "img_resolution=16"), (dict(img_resolution=96), "img_resolution=96"),
    (dict(img_resolution=32, input_resolution=64), "input_resolution=64"),
    (dict(img_resolution=32, input_resolution=24), "input_resolution=24"),
    (dict(img_resolution=32, input_resolution=2), "input_resolution=2")])
def test_general_superresolution_refuses(arguments, culprit):
    with pytest.raises(ValueError, match=f"{culprit}: must be a power of two from"):
        SuperresolutionGeneral(4, sr_num_fp16_res=0, **arguments)


@pytest.mark.parametrize("name, made, asked", [
    ("8X", 512, 256), ("8XDC", 512, 128), ("4X", 256, 512), ("2X", 128, 64), ("Deepfp32", 256, 128)])
def test_official_superresolution_refuses(name, made, asked):
    """Each official module makes one size, and says which."""
    with pytest.raises(ValueError, match=f"makes {made}x{made} pictures, not {asked}x{asked}"):
        getattr(superresolution, "SuperresolutionHybrid" + name)(channels=4, img_resolution=asked, sr_num_fp16_res=0)


@pytest.mark.parametrize("name, size, made", [("8X", 256, 512), ("8XDC", 256, 512), ("2X", 128, 128)])
def test_large_features_are_resized_too(name, size, made):
    """8X, 8XDC and 2X make one size whatever is rendered; the others resize smaller features only."""
    net = getattr(superresolution, "SuperresolutionHybrid" + name)(channels=4, img_resolution=made, sr_num_fp16_res=0, w_dim=8)
    with torch.no_grad():
        picture = net(torch.zeros(1, 3, size, size), torch.zeros(1, 4, size, size), torch.zeros(1, 1, 8), noise_mode="none")
    assert picture.shape == (1, 3, made, made)


def test_clamps_act_with_half_precision_only():
    """A clamp of 256 belongs to modules that may run in half precision, on every device: then each of the two toRGB layers
    adds at most 256, so that pictures from different features differ by at most 1024."""
    for half, clamp in ((0, None), (4, 256)):
        net = fill(SuperresolutionGeneral(4, 32, sr_num_fp16_res=half, w_dim=8, **SMALL))
        clamps = {layer.conv_clamp for block in (net.block0, net.block1) for layer in (block.conv0, block.conv1, block.torgb)}
        assert clamps == {clamp}
        x, rgb, ws = randn(1, 4, 16, 16) * 1e6, torch.zeros(1, 3, 16, 16), randn(1, 1, 8)
        assert ((net(rgb, x, ws) - net(rgb, -x, ws)).abs().max() <= 1024) == (half > 0)


@pytest.mark.parametrize("name, resolution, size", [
    ("SuperresolutionHybrid2X", 128, 64), ("SuperresolutionHybrid2X", 128, 24), ("SuperresolutionHybrid4X", 256, 128),
    ("SuperresolutionGeneral", 32, 16), ("SuperresolutionGeneral", 32, 10)])
def test_superresolution_leaves_its_input_alone(name, resolution, size):
    """The original added its first picture onto the rendered one in place, where no resizing came between."""
    net = fill(getattr(superresolution, name)(channels=4, img_resolution=resolution, sr_num_fp16_res=0, w_dim=8))
    features, ws = randn(1, 4, size, size), randn(1, 2, 8)
    before = features.clone(), ws.clone()
    with torch.no_grad():
        first = net(features[:, :3], features, ws, noise_mode="none")
        assert torch.equal(features, before[0]) and torch.equal(ws, before[1])
        assert torch.equal(net(features[:, :3], features, ws, noise_mode="none"), first)


# ------------------------------------------------------------------------------------------------ the tri-plane generator

def test_image_raw_is_what_was_rendered():
    """Whatever super-resolution adds, image_raw is the renderer's, also where super-resolution resizes nothing."""
    G, c = generator(), label()
    ws = G.mapping(randn(2, 12), c)
    for size in (16, 12):
        shown = synthesis(G, ws, c, neural_rendering_resolution=size, noise_mode="none")
        origins, directions = G.ray_sampler(c[:, :16].reshape(-1, 4, 4), c[:, 16:].reshape(-1, 3, 3), size)
        torch.manual_seed(0)
        options = G.rendering_kwargs | dict(disparity_space_sampling=False, clamp_mode="softplus")
        features, depth, _ = G.renderer(G.planes(ws, noise_mode="none"), G.decoder, origins, directions, options)
        assert torch.equal(shown["image_raw"], features.transpose(1, 2).reshape(2, 8, size, size)[:, :3])
        assert torch.equal(shown["image_depth"], depth.reshape(2, 1, size, size))
        assert shown["image"].shape == (2, 3, 32, 32)


def test_generator_leaves_its_arguments_alone():
    """Latents, labels, styles, the rendering options and the caller's keyword arguments are as before."""
    G, z, c, points = generator(), randn(2, 12), label(), randn(2, 5, 3)
    ws, kwargs = G.mapping(z, c).detach(), dict(noise_mode="const", fused_modconv=False)
    arguments = [z, c, points, ws, kwargs, G.rendering_kwargs]
    before = copy.deepcopy(arguments)
    G(z, c, truncation_psi=0.5, **kwargs)
    G.synthesis(ws, c, **kwargs)
    G.sample(points, points, z, c, **kwargs)
    G.sample_mixed(points, points, ws, **kwargs)
    for now, then in zip(arguments, before):
        assert torch.equal(now, then) if torch.is_tensor(now) else now == then


def test_every_weight_learns():
    """With no size at its default, in training mode with random noise: each parameter has a finite gradient that is not 0."""
    G = generator(dict(superresolution_noise_mode="random")).train()
    torch.manual_seed(0)
    shown = G(randn(2, 12), label())
    (shown["image"].square().mean() + shown["image_raw"].square().mean() + shown["image_depth"].mean()).backward()
    for name, parameter in G.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("train", [False, True])
def test_fused_and_unfused_agree(train, batch):
    """Convolutions of modulated kernels, or modulated activations; 'inference_only' is fused in eval mode.

    A CPU takes the second way for more than one sample.
    """
    G, c = generator().train(train), label()[:batch]
    with torch.no_grad():
        ws = G.mapping(randn(batch, 12), c)
        shown = {fused: synthesis(G, ws, c, noise_mode="const", fused_modconv=fused) for fused in (True, False)}
        default = synthesis(G, ws, c, noise_mode="const")
    for key in shown[True]:
        same(shown[True][key], shown[False][key])
        assert torch.equal(default[key], shown[not train][key])
    assert torch.equal(shown[True]["image"], shown[False]["image"]) == (batch > 1)  # one computation, or two


@pytest.mark.parametrize("architecture", ["skip", "orig", "resnet"])
def test_fused_and_unfused_architectures_agree(architecture):
    net = fill(SynthesisNetwork(w_dim=8, img_resolution=16, img_channels=3, architecture=architecture, **SMALL))
    ws = randn(3, net.num_ws, 8)
    same(net(ws, noise_mode="const", fused_modconv=True), net(ws, noise_mode="const", fused_modconv=False))


def test_neural_rendering_resolution_is_kept():
    """64 at birth; what is given to synthesis stays for later calls."""
    G = generator()
    assert TriPlaneGenerator(**G.init_kwargs).neural_rendering_resolution == 64
    ws, c = G.mapping(randn(1, 12), label(1)), label(1)
    assert G.synthesis(ws, c)["image_raw"].shape[2:] == (16, 16)
    assert G.synthesis(ws, c, neural_rendering_resolution=9)["image_raw"].shape[2:] == (9, 9)
    assert G.neural_rendering_resolution == 9 and G.synthesis(ws, c)["image_depth"].shape == (1, 1, 9, 9)
    assert G(randn(1, 12), c, neural_rendering_resolution=5)["image_raw"].shape[2:] == (5, 5)
    assert G.neural_rendering_resolution == 5


def test_cached_planes():
    """Nothing is kept unless asked for; kept planes serve other styles, until new ones are kept."""
    G, c = generator(), label()
    one, other = [G.mapping(randn(2, 12, seed=seed), c) for seed in (1, 2)]
    plain = synthesis(G, one, c, noise_mode="none")["image_raw"]
    assert G._last_planes is None
    different = synthesis(G, other, c, noise_mode="none", use_cached_backbone=True)["image_raw"]  # there are none yet
    assert not torch.equal(different, plain)
    synthesis(G, one, c, noise_mode="none", cache_backbone=True)
    assert torch.equal(synthesis(G, other, c, noise_mode="none", use_cached_backbone=True)["image_raw"], plain)
    assert torch.equal(synthesis(G, other, c, noise_mode="none")["image_raw"], different)
    synthesis(G, other, c, noise_mode="none", cache_backbone=True)
    assert torch.equal(synthesis(G, one, c, noise_mode="none", use_cached_backbone=True)["image_raw"], different)


def received(module):
    """A list that fills with the keyword arguments of each call of the module."""
    seen = []
    module.register_forward_pre_hook(lambda module, args, kwargs: seen.append(kwargs), with_kwargs=True)
    return seen


@pytest.mark.parametrize("own", ["none", "const", "random"])
def test_noise_mode_reaches_only_the_backbone(own):
    """Super-resolution takes its own from the rendering options; other keyword arguments go to both."""
    G, c = generator(dict(superresolution_noise_mode=own)), label()
    backbone, sr = received(G.backbone.synthesis), received(G.superresolution)
    ws = G.mapping(randn(2, 12), c)
    G.synthesis(ws, c, noise_mode="const", force_fp32=True)
    G.synthesis(ws, c)
    G.synthesis(ws, c, cache_backbone=True, use_cached_backbone=True, noise_mode="const")
    assert [call.get("noise_mode", "random") for call in backbone] == ["const", "random", "const"]
    assert [call["noise_mode"] for call in sr] == [own] * 3
    assert backbone[0]["force_fp32"] and sr[0]["force_fp32"] and "force_fp32" not in backbone[1] | sr[1]


def test_noise():
    """'random' differs from call to call, 'const' and 'none' repeat and differ from each other; anything else is refused."""
    net = fill(SynthesisNetwork(w_dim=8, img_resolution=16, img_channels=3, **SMALL))
    ws = randn(2, net.num_ws, 8)
    for mode, repeats in (("random", False), ("const", True), ("none", True)):
        assert torch.equal(net(ws, noise_mode=mode), net(ws, noise_mode=mode)) == repeats
    assert not torch.equal(net(ws, noise_mode="const"), net(ws, noise_mode="none"))
    assert not torch.equal(net(ws), net(ws))
    with pytest.raises(ValueError, match="noise_mode='loud': choose random, const or none"):
        net(ws, noise_mode="loud")
    silent = SynthesisLayer(4, 4, w_dim=8, resolution=8, use_noise=False)
    assert torch.equal(silent(randn(2, 4, 8, 8), ws[:, 0]), silent(randn(2, 4, 8, 8), ws[:, 0], noise_mode="none"))


def test_superresolution_noise():
    """With its own noise random, two pictures of the same rendering differ; with none they do not."""
    c = label()
    for own, repeats in (("random", False), ("none", True)):
        G = generator(dict(superresolution_noise_mode=own))
        ws = G.mapping(randn(2, 12), c)
        planes = G.planes(ws, noise_mode="const")
        one, two = [G.render(planes, ws, c, 8, rendering_options=dict(generator=torch.Generator().manual_seed(3)))
                    for _ in range(2)]
        assert torch.equal(one["image_raw"], two["image_raw"]) and torch.equal(one["image"], two["image"]) == repeats


def test_sample_is_mapping_and_sample_mixed():
    """And densities at points are those of the planes, looked up and decoded; directions do not matter."""
    G, z, c, points = generator(), randn(2, 12), label(), randn(2, 7, 3) * 0.3
    sampled = G.sample(points, points, z, c, truncation_psi=0.6, truncation_cutoff=2, noise_mode="const")
    ws = G.mapping(z, c, truncation_psi=0.6, truncation_cutoff=2)
    mixed = G.sample_mixed(points, -points, ws, truncation_psi=0.1, noise_mode="const")
    assert sampled["rgb"].shape == (2, 7, 8) and sampled["sigma"].shape == (2, 7, 1)
    assert all(torch.equal(sampled[key], mixed[key]) for key in ("rgb", "sigma"))
    assert sampled["rgb"].min() >= -0.001 and sampled["rgb"].max() <= 1.001


@pytest.mark.parametrize("options, scale", [
    (dict(c_scale=1), 1), (dict(c_scale=0.3), 0.3), (dict(c_scale=1, c_gen_conditioning_zero=True), 0), (dict(c_scale=0), 0)])
def test_label_into_mapping(options, scale):
    """Scaled by c_scale, or zeros; rendering takes the label as it is."""
    G, z, c = generator(), randn(2, 12), label()
    G.rendering_kwargs.update(options)
    assert torch.equal(G.mapping(z, c), G.backbone.mapping(z, c * scale))
    if "c_scale" in options and scale == 0:
        del G.rendering_kwargs["c_scale"]
        assert torch.equal(G.mapping(z, c), G.backbone.mapping(z, c * 0))


# ------------------------------------------------------------------------------------------------ mapping

def mapping(**changes):
    return fill(MappingNetwork(**(dict(z_dim=6, c_dim=25, w_dim=8, num_ws=5, num_layers=2) | changes)))


def test_truncation():
    """Styles come nearer to their mean by the factor psi, in the first `cutoff` layers or in all."""
    net, z, c = mapping(), randn(3, 6), label(3)
    ws = net(z, c)
    assert torch.equal(ws, ws[:, :1].expand(-1, 5, -1))
    same(net(z, c, truncation_psi=0.25), net.w_avg + 0.25 * (ws - net.w_avg), 1e-6)
    same(net(z, c, truncation_psi=0), net.w_avg.expand(3, 5, 8), 1e-6)
    some = net(z, c, truncation_psi=0.25, truncation_cutoff=2)
    assert torch.equal(some[:, 2:], ws[:, 2:]) and torch.equal(some[:, :2], net(z, c, truncation_psi=0.25)[:, :2])
    assert torch.equal(net(z, c, truncation_psi=0.25, truncation_cutoff=9), net(z, c, truncation_psi=0.25))
    assert torch.equal(net(z, c, truncation_psi=0.25, truncation_cutoff=0), ws)
    assert torch.equal(net(z, c, truncation_psi=1, truncation_cutoff=2), ws)


def test_w_avg_moves_only_when_asked():
    """By 1 - beta towards the batch's mean style, before truncation; without gradients."""
    net, z, c = mapping(w_avg_beta=0.9), randn(3, 6), label(3)
    before = net.w_avg.clone()
    w = net(z, c)[:, 0]
    net(z, c, truncation_psi=0.5)
    assert torch.equal(net.w_avg, before)
    net(z, c, truncation_psi=0.5, update_emas=True)
    same(net.w_avg, before * 0.9 + w.mean(dim=0) * 0.1, 1e-6)
    assert not net.w_avg.requires_grad

    G = generator()
    before = G.backbone.mapping.w_avg.clone()
    G(randn(2, 12), label())
    G.synthesis(G.mapping(randn(2, 12), label()), label(), update_emas=True)
    assert torch.equal(G.backbone.mapping.w_avg, before)
    G(randn(2, 12), label(), update_emas=True)
    assert not torch.equal(G.backbone.mapping.w_avg, before)


def test_mapping_without_average_or_layers():
    """Without num_ws there is one style and no average; without a label, or without a latent, only the other counts."""
    assert mapping(num_ws=None)(randn(3, 6), label(3)).shape == (3, 8) and "w_avg" not in mapping(num_ws=None).state_dict()
    assert mapping(c_dim=0)(randn(3, 6), None).shape == (3, 5, 8)
    assert mapping(z_dim=0)(None, label(3)).shape == (3, 5, 8)
    net, z = mapping(), randn(3, 6)
    same(net(z, label(3)), net(z * 100, label(3)), 1e-5)  # latents are normalized


# ------------------------------------------------------------------------------------------------ sizes

@pytest.mark.parametrize("build", [
    lambda size: SynthesisNetwork(w_dim=8, img_resolution=size, img_channels=3, **SMALL),
    lambda size: Generator(z_dim=4, c_dim=0, w_dim=8, img_resolution=size, img_channels=3, **SMALL),
    lambda size: Discriminator(c_dim=0, img_resolution=size, img_channels=3, **SMALL),
    lambda size: DualDiscriminator(c_dim=25, img_resolution=size, img_channels=3, **SMALL),
    lambda size: generator(plane_resolution=size)], ids=["synthesis", "generator", "discriminator", "dual", "planes"])
@pytest.mark.parametrize("size", [0, 2, 12, 100, -16])
def test_only_powers_of_two(build, size):
    with pytest.raises(ValueError, match=f"img_resolution={size}: must be a power of two from 4 up"):
        build(size)


def test_unknown_architecture():
    for build in (SynthesisNetwork, Discriminator):
        with pytest.raises(ValueError, match="architecture='unet': choose orig, skip or resnet"):
            build(8, img_resolution=8, img_channels=3, architecture="unet")


# ------------------------------------------------------------------------------------------------ discriminators

def discriminator(cls=DualDiscriminator, **changes):
    return fill(cls(**(dict(c_dim=25, img_resolution=16, img_channels=3, channel_base=256, channel_max=8) | changes)))


def picture(batch=4, size=16, raw=6):
    return dict(image=randn(batch, 3, size, size), image_raw=randn(batch, 3, raw, raw, seed=1))


@pytest.mark.parametrize("cls", [SingleDiscriminator, DualDiscriminator, DummyDualDiscriminator])
def test_discriminators_leave_their_arguments_alone(cls):
    """Neither the pictures nor the labels change, also where labels are perturbed (the original changed the caller's)."""
    img, c = picture(), label(4)
    before = copy.deepcopy((img, c))
    noise = dict(disc_c_noise=0.5) if cls is DualDiscriminator else {}
    assert discriminator(cls, **noise)(img, c, update_emas=True).shape == (4, 1)
    assert img.keys() == before[0].keys() and all(torch.equal(img[key], before[0][key]) for key in img)
    assert torch.equal(c, before[1])


def test_disc_c_noise():
    """Labels get normal noise of this share of their deviation over the batch: where they agree, none."""
    noisy, plain, img = discriminator(disc_c_noise=0.5), discriminator(), picture()
    torch.manual_seed(1)
    scores = noisy(img, label(4))
    torch.manual_seed(1)
    c = label(4)
    same(scores, plain(img, c + torch.randn(4, 25) * c.std(dim=0) * 0.5), 1e-6)
    assert torch.equal(noisy(img, label(1).repeat(4, 1)), plain(img, label(1).repeat(4, 1)))


def test_what_discriminators_see():
    """Single: the picture alone. Dual: both. Dummy: the raw one less and less, until after 15,625 calls not at all."""
    img, c = picture(), label(4)
    other = dict(img, image_raw=img["image_raw"] * 2)
    for cls, sees in ((SingleDiscriminator, False), (DualDiscriminator, True), (DummyDualDiscriminator, True)):
        assert torch.equal(discriminator(cls)(img, c), discriminator(cls)(other, c)) != sees
    D = discriminator(DummyDualDiscriminator)
    first, second = D(img, c), D(img, c)
    assert not torch.equal(first, second) and D.raw_fade == pytest.approx(1 - 2 * 32 / 500_000)
    D.raw_fade = 1e-5
    assert torch.equal(D(img, c), D(other, c)) and D.raw_fade == 0


def test_freeze_layers():
    """Weights of the first layers, counted through the network, become buffers; names and scores stay."""
    layers = ["b16.fromrgb", "b16.conv0", "b16.conv1", "b16.skip", "b8.conv0", "b8.conv1", "b8.skip"]
    free, img, c = discriminator(), picture(), label(4)
    for count in range(len(layers) + 1):
        D = discriminator(block_kwargs=dict(freeze_layers=count))
        learned, fixed = [{name for name, _ in tensors} for tensors in (D.named_parameters(), D.named_buffers())]
        for index, layer in enumerate(layers):
            for name in [f"{layer}.weight"] + [f"{layer}.bias"] * ("skip" not in layer):
                assert name in (fixed if index < count else learned) and name not in (learned if index < count else fixed)
        assert D.state_dict().keys() == free.state_dict().keys() and {"b4.conv.weight", "mapping.fc0.weight"} <= learned
        assert torch.equal(D(img, c), free(img, c))
        D(img, c).sum().backward()
        assert all(parameter.grad is not None for parameter in D.parameters())


def test_minibatch_std():
    """Sample n belongs to group n mod (N / group size); each group's mean deviation is appended to its samples."""
    x = randn(6, 4, 3, 3)
    for group_size, features in ((2, 1), (3, 2), (None, 1), (9, 4)):
        size = min(group_size or 6, 6)
        y = MinibatchStdLayer(group_size, features)(x)
        assert torch.equal(y[:, :4], x)
        for n in range(6):
            group = [k for k in range(6) if k % (6 // size) == n % (6 // size)]
            for feature in range(features):
                channels = range(feature * 4 // features, (feature + 1) * 4 // features)
                spread = (x[group][:, channels].var(dim=0, unbiased=False) + 1e-8).sqrt().mean()
                same(y[n, 4 + feature], spread.expand(3, 3), 1e-6)


def test_filtered_resizing():
    """A number mixes plain and antialiased resizing; unknown modes are refused."""
    image = randn(1, 3, 32, 32)
    plain, smooth = [filtered_resizing(image, 10, None, mode) for mode in ("none", "antialiased")]
    for share, expected in ((0.0, plain), (1.0, smooth), (0.25, plain * 0.75 + smooth * 0.25)):
        same(filtered_resizing(image, 10, None, share), expected, 1e-6)
    with pytest.raises(ValueError, match="filter_mode='sharp'"):
        filtered_resizing(image, 10, None, "sharp")


# ------------------------------------------------------------------------------------------------ second derivatives

def test_convolution_layers_differentiate_twice():
    """The layers that discriminators are made of, in float64, against finite differences."""
    for arguments in (dict(kernel_size=3, activation="lrelu", conv_clamp=256), dict(kernel_size=3, down=2, activation="lrelu"),
                      dict(kernel_size=1, down=2, bias=False)):
        layer = fill(Conv2dLayer(2, 3, **arguments)).double()
        names, tensors = zip(*layer.named_parameters())

        def run(x, *values, layer=layer, names=names):
            return torch.func.functional_call(layer, dict(zip(names, values)), (x,))

        inputs = [randn(1, 2, 4, 4).double().requires_grad_(True), *tensors]
        assert gradcheck(run, inputs) and gradgradcheck(run, inputs)


def r1(D, weights, img, c):
    """The R1 penalty of D with these weights, at both renderings."""
    seen = {key: value.detach().requires_grad_(True) for key, value in img.items()}
    logits = torch.func.functional_call(D, weights, (seen, c))
    return r1_penalty(logits, [seen["image"], seen["image_raw"]]).mean()


def test_r1_of_the_dual_discriminator():
    """The gradient of R1, a second derivative, against a central difference: all tensors move together, each along its own
    gradient by the same share of its size.

    Blocks and epilogue compute in float32 whatever they are given, so gradgradcheck cannot be asked. 'swish' stands in for
    lrelu, at whose kinks R1 jumps. The step changes R1 by some percent, of which float32 resolves about 1e-4."""
    smooth, step = dict(activation="swish"), 1e-4
    D = discriminator(conv_clamp=None, num_fp16_res=0, block_kwargs=smooth, epilogue_kwargs=smooth, mapping_kwargs=smooth)
    img, c = picture(), label(4)
    weights = {name: parameter.detach().requires_grad_(True) for name, parameter in D.named_parameters()}
    gradients = torch.autograd.grad(r1(D, weights, img, c), weights.values(), allow_unused=True)
    directions = {name: gradient / gradient.norm() * weights[name].detach().norm()
                  for name, gradient in zip(weights, gradients) if gradient is not None}
    assert weights.keys() - directions.keys() <= {"b4.out.bias"}  # adds the same to every score whatever the picture
    slope = sum(gradient.norm() * weights[name].norm() for name, gradient in zip(weights, gradients) if gradient is not None)

    def moved(share):
        return r1(D, {name: weights[name].detach() + share * direction for name, direction in directions.items()}, img, c)

    difference = (moved(step) - moved(-step)) / (2 * step)
    assert moved(step) - moved(-step) > 0.01 * moved(0)
    assert difference.item() == pytest.approx(slope.item(), rel=2e-3)


@pytest.mark.parametrize("architecture", ["resnet", "skip", "orig"])
def test_r1_is_finite(architecture):
    """As trained (lrelu, clamps, minibatch deviation), with identical pictures in the batch, whose deviation is 0."""
    D = discriminator(architecture=architecture)
    img = {key: value[:1].repeat(4, 1, 1, 1) for key, value in picture().items()}
    weights = {name: parameter.detach().requires_grad_(True) for name, parameter in D.named_parameters()}
    penalty = r1(D, weights, img, label(4))
    gradients = torch.autograd.grad(penalty, weights.values(), allow_unused=True)
    assert penalty > 0 and all(gradient is None or gradient.isfinite().all() for gradient in gradients)
