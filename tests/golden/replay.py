#!/usr/bin/env python3
"""Replays the golden cases on an implementation of EG3D and compares with the stored outputs.

    python replay.py --root PROJECT                       # compare with the files beside this script
    python replay.py --root PROJECT --only ops,render     # some groups
    python replay.py --root PROJECT --write OUT --salt X  # write outputs instead (other weights and inputs)

The .npz files hold what the official code computes. Weights and inputs come from tests/recipe.py, so nothing but outputs
is stored. The implementation under --root must answer to the official module and parameter names, as this project does.
Each group is a function that fills a dict of named arrays; its `meta` records the arguments of every case and is stored in
the file as JSON under `__meta__`. tests/test_golden.py runs the same cases under pytest.
"""

import argparse
import json
import os
import sys
import time
import traceback

import numpy as np
import torch
import torch.nn.functional as F

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import recipe  # noqa: E402

SALT = ""
FILTER = [1, 3, 3, 1]

COMMON_RENDERING = dict(
    disparity_space_sampling=False, clamp_mode="softplus", c_gen_conditioning_zero=False, gpc_reg_prob=0.5, c_scale=1,
    superresolution_noise_mode="none", density_reg=0.25, density_reg_p_dist=0.004, reg_type="l1", decoder_lr_mul=1,
    sr_antialias=True)
PRESETS = dict(
    ffhq=dict(depth_resolution=48, depth_resolution_importance=48, ray_start=2.25, ray_end=3.3, box_warp=1,
              avg_camera_radius=2.7, avg_camera_pivot=[0, 0, 0.2]),
    afhq=dict(depth_resolution=48, depth_resolution_importance=48, ray_start=2.25, ray_end=3.3, box_warp=1,
              avg_camera_radius=2.7, avg_camera_pivot=[0, 0, -0.06]),
    shapenet=dict(depth_resolution=64, depth_resolution_importance=64, ray_start=0.1, ray_end=2.6, box_warp=1.6,
                  white_back=True, avg_camera_radius=1.7, avg_camera_pivot=[0, 0, 0]))
SUPERRES = {512: "SuperresolutionHybrid8XDC", 256: "SuperresolutionHybrid4X", 128: "SuperresolutionHybrid2X"}


# ----------------------------------------------------------------------------- inputs and networks

def randn(name, shape, scale=1.0, shift=0.0):
    return recipe.tensor(SALT + name, shape, scale, shift)


def rand(name, shape, low=-1.0, high=1.0):
    return torch.from_numpy(recipe.uniform(SALT + name, shape, low, high))


def fill(module):
    return recipe.fill(module, SALT)


def cameras():
    """The module with LookAtPoseSampler and its kin."""
    try:
        import eg3d.cameras as module
    except ImportError:
        import camera_utils as module
    return module


def labels(n, cfg="ffhq", focal=4.2647):
    """[n, 25] labels of an arc of look-at cameras."""
    pivot = torch.tensor(PRESETS[cfg]["avg_camera_pivot"], dtype=torch.float32)
    K = torch.tensor([[focal, 0, 0.5], [0, focal, 0.5], [0, 0, 1]])
    rows = []
    for i in range(n):
        t = 0 if n == 1 else i / (n - 1) * 2 - 1
        pose = cameras().LookAtPoseSampler.sample(
            np.pi / 2 + 0.4 * t, np.pi / 2 - 0.2 * t, pivot, radius=PRESETS[cfg]["avg_camera_radius"])
        rows.append(torch.cat([pose.reshape(-1, 16), K.reshape(-1, 9)], 1))
    return torch.cat(rows)


def rendering_kwargs(cfg, resolution, **changes):
    return dict(image_resolution=resolution, superresolution_module="training.superresolution." + SUPERRES[resolution],
                **COMMON_RENDERING, **PRESETS[cfg]) | changes


def generator(cfg, resolution, channel_base, channel_max, z_dim=512, mapping=None, **rendering):
    import dnnlib
    from training.triplane import TriPlaneGenerator
    easy = dnnlib.EasyDict
    return fill(TriPlaneGenerator(
        z_dim=z_dim, c_dim=25, w_dim=512, img_resolution=resolution, img_channels=3, channel_base=channel_base,
        channel_max=channel_max, mapping_kwargs=easy(mapping or dict(num_layers=2)),
        rendering_kwargs=rendering_kwargs(cfg, resolution, **rendering), num_fp16_res=0, conv_clamp=None,
        fused_modconv_default="inference_only", sr_num_fp16_res=4,
        sr_kwargs=easy(channel_base=channel_base, channel_max=channel_max, fused_modconv_default="inference_only"),
    )).requires_grad_(False)


def discriminator(resolution, channel_base, channel_max):
    import dnnlib
    from training.dual_discriminator import DualDiscriminator
    easy = dnnlib.EasyDict
    return fill(DualDiscriminator(
        c_dim=25, img_resolution=resolution, img_channels=3, channel_base=channel_base, channel_max=channel_max,
        num_fp16_res=4, conv_clamp=256, block_kwargs=easy(freeze_layers=0), mapping_kwargs=easy(),
        epilogue_kwargs=easy(mbstd_group_size=4), disc_c_noise=0)).requires_grad_(False)


def brief(out, key, image):
    """A large image as statistics, a 16x16 average and its central 16x16 crop."""
    n = image.shape[-1]
    out[key + ".stats"] = torch.stack([image.mean(), image.std(), image.min(), image.max()])
    out[key + ".small"] = F.adaptive_avg_pool2d(image, 16) if n > 16 else image
    out[key + ".crop"] = image[..., n // 2 - 8:n // 2 + 8, n // 2 - 8:n // 2 + 8] if n > 16 else image


# ----------------------------------------------------------------------------- groups

def ops(out, meta):
    from torch_utils.ops import bias_act, conv2d_resample, upfirdn2d
    from training.networks_stylegan2 import modulated_conv2d

    setups = [(FILTER, {}), ([1, 2, 1], dict(gain=4)), ([1, 2, 5], dict(flip_filter=True)), ([[1, 2], [3, 4]], {}),
              (FILTER, dict(normalize=False)), (FILTER, dict(separable=True)), ([1, 4, 6, 4, 1, 2, 2, 1, 1], {})]
    for i, (taps, kw) in enumerate(setups):
        out[f"filter{i}.out"] = upfirdn2d.setup_filter(taps, **kw)
        meta[f"filter{i}"] = dict(f=taps, **kw)

    x = out["upfirdn.x"] = randn("upfirdn.x", [2, 3, 11, 13])
    filters = dict(f1=upfirdn2d.setup_filter(FILTER), sep9=upfirdn2d.setup_filter([1, 4, 6, 4, 1, 2, 2, 1, 1]),
                   f3=randn("upfirdn.f3", [3, 5]), none=None)
    out["upfirdn.f3"] = filters["f3"]
    cases = [("f1", {}), ("f1", dict(up=2, padding=[2, 1, 2, 1], gain=4)), ("f1", dict(down=2, padding=[1, 1, 1, 1])),
             ("f1", dict(up=[2, 1], down=[1, 2], padding=[3, 0, -1, 2])), ("sep9", dict(up=3, down=2, padding=4, gain=2.5)),
             ("sep9", dict(flip_filter=True, padding=[4, 4, 4, 4])), ("f3", dict(flip_filter=True, padding=[1, 2, 0, 3])),
             ("f3", dict(up=[1, 3], down=[2, 1], padding=[5, 5, 5, 5])), ("none", dict(up=2)),
             ("f1", dict(padding=[-2, -1, -1, -3]))]
    for i, (name, kw) in enumerate(cases):
        out[f"upfirdn{i}.out"] = upfirdn2d.upfirdn2d(x, filters[name], **kw)
        meta[f"upfirdn{i}"] = dict(filter=name, **kw)
    out["filter2d.out"] = upfirdn2d.filter2d(x, filters["f1"])
    out["upsample2d.out"] = upfirdn2d.upsample2d(x, filters["f1"])
    out["downsample2d.out"] = upfirdn2d.downsample2d(x, filters["f1"])
    out["downsample2d_pad.out"] = upfirdn2d.downsample2d(x, filters["f1"], down=2, flip_filter=True, padding=-1)

    x = out["bias_act.x"] = randn("bias_act.x", [3, 5, 4])
    b = out["bias_act.b"] = randn("bias_act.b", [5])
    for act in ("linear", "relu", "lrelu", "tanh", "sigmoid", "elu", "selu", "softplus", "swish"):
        variants = [{}, dict(gain=0.7, clamp=0.4), dict(alpha=0.3) if act == "lrelu" else dict(gain=2.0)]
        for i, kw in enumerate(variants):
            xx, bb = x.clone().requires_grad_(True), b.clone().requires_grad_(True)
            y = bias_act.bias_act(xx, bb, dim=1, act=act, **kw)
            key = f"bias_act.{act}{i}"
            out[key + ".out"] = y
            out[key + ".grad_x"], out[key + ".grad_b"] = torch.autograd.grad(y.square().sum(), [xx, bb])
            meta[key] = dict(act=act, dim=1, **kw)

    x = out["resample.x"] = randn("resample.x", [2, 4, 10, 12])
    cases = [([6, 4, 3, 3], dict(padding=1)), ([6, 4, 3, 3], dict(up=2, padding=1)), ([6, 4, 3, 3], dict(down=2, padding=1)),
             ([6, 4, 1, 1], dict(up=2)), ([6, 4, 1, 1], dict(down=2)),
             ([6, 2, 3, 3], dict(groups=2, up=2, padding=1, flip_weight=False)), ([6, 4, 3, 3], dict(up=2, down=2, padding=1)),
             ([6, 4, 3, 3], dict(padding=[0, 1, 2, 1], flip_weight=False))]
    for i, (shape, kw) in enumerate(cases):
        w = out[f"resample{i}.w"] = randn(f"resample.w{i}", shape)
        out[f"resample{i}.out"] = conv2d_resample.conv2d_resample(x, w, f=filters["f1"], **kw)
        meta[f"resample{i}"] = kw

    x = out["modconv.x"] = randn("modconv.x", [3, 4, 8, 8])
    styles = out["modconv.styles"] = randn("modconv.styles", [3, 4], 0.5, 1.0)
    noise = out["modconv.noise"] = randn("modconv.noise", [3, 1, 8, 8])
    noise2 = out["modconv.noise2"] = randn("modconv.noise2", [3, 1, 16, 16])
    w = out["modconv.w"] = randn("modconv.w", [5, 4, 3, 3])
    for i, kw in enumerate([dict(padding=1), dict(padding=1, demodulate=False), dict(padding=1, fused_modconv=False),
                            dict(padding=1, up=2, flip_weight=False),
                            dict(padding=1, up=2, flip_weight=False, fused_modconv=False)]):
        doubled = kw.get("up") == 2
        out[f"modconv{i}.out"] = modulated_conv2d(
            x, w, styles, noise=noise2 if doubled else noise, resample_filter=filters["f1"], **kw)
        meta[f"modconv{i}"] = dict(noise="noise2" if doubled else "noise", **kw)


def camera(out, meta):
    c = cameras()
    views = [(np.pi / 2, np.pi / 2, [0, 0, 0.2], 2.7), (3.14 / 2, 3.14 / 2, [0, 0, 0.2], 2.7),
             (np.pi / 2 + 0.4, np.pi / 2 - 0.2, [0, 0, 0.2], 2.7), (0.3, 1.1, [0.1, -0.2, 0], 1.7),
             (4.0, 2.6, [0, 0, 0], 1.0), (np.pi / 2, 0.0, [0, 0, 0], 1.0)]
    for i, (h, v, pivot, radius) in enumerate(views):
        out[f"lookat{i}.out"] = c.LookAtPoseSampler.sample(h, v, torch.tensor(pivot, dtype=torch.float32), radius=radius)
        out[f"gaussian{i}.out"] = c.GaussianCameraPoseSampler.sample(h, v, radius=radius)
        meta[f"lookat{i}"] = dict(horizontal_mean=h, vertical_mean=v, lookat_position=pivot, radius=radius)
    spread = dict(horizontal_stddev=0.3, vertical_stddev=0.155, radius=2.7, batch_size=5)
    for name, sampler in dict(gaussian_rand=c.GaussianCameraPoseSampler, uniform_rand=c.UniformCameraPoseSampler).items():
        torch.manual_seed(7)
        out[name + ".out"] = sampler.sample(np.pi / 2, np.pi / 2, **spread)
        meta[name] = dict(seed=7, **spread)
    for degrees in (18.837, 12.0, 45.0):
        out[f"fov{degrees}.out"] = c.FOV_to_intrinsics(degrees)


def render(out, meta):
    from training.triplane import OSGDecoder
    from training.volumetric_rendering import math_utils
    from training.volumetric_rendering.ray_marcher import MipRayMarcher2
    from training.volumetric_rendering.ray_sampler import RaySampler
    from training.volumetric_rendering.renderer import (
        ImportanceRenderer,
        generate_planes,
        project_onto_planes,
        sample_from_planes,
    )
    c = labels(2)
    K = c[:, 16:].reshape(-1, 3, 3).clone()
    K[1, 0, 1], K[1, 0, 2], K[1, 1, 2], K[1, 1, 1] = 0.05, 0.45, 0.6, 4.0
    pose = c[:, :16].reshape(-1, 4, 4)
    o, d = RaySampler()(pose, K, 12)
    out.update({"rays.cam2world": pose, "rays.intrinsics": K, "rays.origins": o, "rays.directions": d})
    start, end = math_utils.get_ray_limits_box(o, d, 1.0)
    out["limits.start"], out["limits.end"] = start, end
    o2, d2 = rand("limits.o", [1, 40, 3], -2, 2), F.normalize(randn("limits.d", [1, 40, 3]), dim=-1)
    s2, e2 = math_utils.get_ray_limits_box(o2, d2, 1.6)
    out.update({"limits2.origins": o2, "limits2.directions": d2, "limits2.start": s2, "limits2.end": e2})

    planes, coords = randn("planes", [2, 3, 4, 8, 10]), rand("coords", [2, 50, 3], -1, 1)
    out.update({"planes": planes, "coords": coords, "axes": generate_planes(),
                "projected": project_onto_planes(generate_planes(), coords),
                "features": sample_from_planes(generate_planes(), planes, coords, box_warp=1.6)})

    colors, sigma = rand("march.colors", [2, 7, 6, 5], 0, 1), randn("march.densities", [2, 7, 6, 1], 3.0)
    depths = torch.sort(rand("march.depths", [2, 7, 6, 1], 2, 3), dim=2)[0]
    out.update({"march.colors": colors, "march.densities": sigma, "march.depths": depths})
    for white in (0, 1):
        rgb, depth, weights = MipRayMarcher2()(colors, sigma, depths, dict(clamp_mode="softplus", white_back=bool(white)))
        out.update({f"march{white}.rgb": rgb, f"march{white}.depth": depth, f"march{white}.weights": weights})

    renderer = ImportanceRenderer()
    for name, args in dict(fixed=(2.25, 3.3, 6, False), disparity=(2.25, 3.3, 6, True), auto=(start, end, 6, False)).items():
        torch.manual_seed(3)
        out["stratified." + name] = renderer.sample_stratified(o, *args)
    z = torch.sort(rand("imp.z", [2, 7, 8, 1], 2, 3), dim=2)[0]
    w = rand("imp.w", [2, 7, 7, 1], 0, 1)
    torch.manual_seed(4)
    out.update({"importance.depths": z, "importance.weights": w, "importance.out": renderer.sample_importance(z, w, 9)})
    meta["importance"] = dict(seed=4, n=9)

    decoder = fill(OSGDecoder(32, {"decoder_lr_mul": 1, "decoder_output_dim": 32}))
    planes = randn("render.planes", [2, 3, 32, 16, 16], 2.0)
    few = dict(depth_resolution=12, depth_resolution_importance=10)
    eight = dict(depth_resolution=8, depth_resolution_importance=8)
    options = dict(
        ffhq=rendering_kwargs("ffhq", 512, **few), shapenet=rendering_kwargs("shapenet", 128, **few),
        auto=rendering_kwargs(
            "shapenet", 128, ray_start="auto", ray_end="auto", depth_resolution=9, depth_resolution_importance=0),
        disparity=rendering_kwargs("ffhq", 512, **eight, disparity_space_sampling=True),
        noise=rendering_kwargs("ffhq", 512, **eight, density_noise=0.5))
    with torch.no_grad():
        decoded = decoder(randn("decoder.in", [2, 3, 11, 32]), None)
        out["decoder.rgb"], out["decoder.sigma"] = decoded["rgb"], decoded["sigma"]
        for name, opt in options.items():
            torch.manual_seed(5)
            rgb, depth, weights = renderer(planes, decoder, o, d, opt)
            out.update({f"render.{name}.rgb": rgb, f"render.{name}.depth": depth, f"render.{name}.weights": weights})
            meta[f"render.{name}"] = dict(seed=5, options=opt)
    leaf = planes.clone().requires_grad_(True)
    torch.manual_seed(5)
    renderer(leaf, decoder.requires_grad_(True), o, d, options["ffhq"])[0].square().mean().backward()
    out.update({"render.ffhq.grad_planes_sum": leaf.grad.sum((2, 3, 4)),
                "render.ffhq.grad_planes_abs": leaf.grad.abs().sum((2, 3, 4)),
                "render.ffhq.grad_w0": decoder.net[0].weight.grad, "render.ffhq.grad_w2": decoder.net[2].weight.grad})


@torch.no_grad()
def networks(out, meta):
    import dnnlib
    from torch_utils.ops import upfirdn2d
    from training.dual_discriminator import DualDiscriminator, DummyDualDiscriminator, SingleDiscriminator, filtered_resizing
    from training.networks_stylegan2 import Discriminator, Generator, MappingNetwork, MinibatchStdLayer, SynthesisNetwork
    easy = dnnlib.EasyDict

    z, c = randn("z", [4, 16]), labels(4)
    mapping = fill(MappingNetwork(z_dim=16, c_dim=25, w_dim=32, num_ws=6, num_layers=2))
    for i, kw in enumerate([{}, dict(truncation_psi=0.7), dict(truncation_psi=0.5, truncation_cutoff=3)]):
        out[f"mapping{i}.out"] = mapping(z, c, **kw)
        meta[f"mapping{i}"] = kw
    mapping(z, c, update_emas=True)
    out["mapping.w_avg_after_update"] = mapping.w_avg.clone()
    out["mapping_c_only.out"] = fill(MappingNetwork(
        z_dim=0, c_dim=25, w_dim=32, num_ws=None, w_avg_beta=None, num_layers=3))(None, c)

    for arch in ("skip", "orig", "resnet"):
        net = fill(SynthesisNetwork(w_dim=32, img_resolution=32, img_channels=9, channel_base=512, channel_max=24,
                                    num_fp16_res=2, architecture=arch)).eval()
        ws = randn("ws", [3, net.num_ws, 32])
        out[f"synthesis.{arch}.const"] = net(ws, noise_mode="const")
        out[f"synthesis.{arch}.none"] = net(ws, noise_mode="none")
        out[f"synthesis.{arch}.unfused"] = net(ws, noise_mode="const", fused_modconv=False)
        meta[f"synthesis.{arch}"] = dict(num_ws=net.num_ws)
    net = fill(Generator(z_dim=16, c_dim=25, w_dim=32, img_resolution=32, img_channels=3, channel_base=512, channel_max=24,
                         mapping_kwargs=easy(num_layers=2))).eval()
    out["generator2d.out"] = net(z, c, truncation_psi=0.6, noise_mode="const")

    x = randn("mbstd.x", [8, 6, 4, 4])
    for i, args in enumerate([(4, 1), (2, 2), (None, 1)]):
        out[f"mbstd{i}.out"] = MinibatchStdLayer(*args)(x)

    image = randn("img", [4, 3, 32, 32], 0.5)
    small = dict(img_channels=3, channel_base=512, channel_max=24)
    for arch in ("resnet", "skip", "orig"):
        net = fill(Discriminator(c_dim=25, img_resolution=32, architecture=arch, epilogue_kwargs=easy(mbstd_group_size=2),
                                 **small)).eval()
        out[f"discriminator.{arch}.out"] = net(image, c)
    out["discriminator.uncond.out"] = fill(Discriminator(c_dim=0, img_resolution=32, **small)).eval()(image, torch.zeros(4, 0))

    big, raw = randn("img64", [4, 3, 64, 64], 0.5), randn("raw", [4, 3, 24, 24], 0.5)
    for name, cls in dict(single=SingleDiscriminator, dual=DualDiscriminator, dummy=DummyDualDiscriminator).items():
        net = fill(cls(c_dim=25, img_resolution=64, epilogue_kwargs=easy(mbstd_group_size=4), **small)).eval()
        out[f"dual.{name}.out"] = net({"image": big, "image_raw": raw}, c)
    noisy = fill(DualDiscriminator(c_dim=25, img_resolution=64, disc_c_noise=1.0, epilogue_kwargs=easy(mbstd_group_size=4),
                                   **small)).eval()
    torch.manual_seed(8)
    out["dual.label_noise.out"] = noisy({"image": big, "image_raw": raw}, c.clone())
    for mode in ("antialiased", "none", 0.3):
        out[f"filtered_resizing.{mode}"] = filtered_resizing(big, 24, None, mode)
    out["filtered_resizing.classic"] = filtered_resizing(big, 24, upfirdn2d.setup_filter(FILTER), "classic")


@torch.no_grad()
def superres(out, meta):
    from training import superresolution
    cases = [("SuperresolutionHybrid8X", 512, [64]), ("SuperresolutionHybrid8XDC", 512, [64]),
             ("SuperresolutionHybrid4X", 256, [64, 128]), ("SuperresolutionHybrid2X", 128, [32, 64]),
             ("SuperresolutionHybridDeepfp32", 256, [64])]
    for name, resolution, sizes in cases:
        kw = dict(channels=32, img_resolution=resolution, sr_num_fp16_res=4)
        if name != "SuperresolutionHybridDeepfp32":
            kw["sr_antialias"] = True
        net = fill(getattr(superresolution, name)(**kw)).eval()
        for size in sizes:
            x, ws = randn(f"sr.x{size}", [1, 32, size, size], 0.5), randn("sr.ws", [1, 14, 512])
            brief(out, f"{name}.{size}", net(x[:, :3].clone(), x.clone(), ws, noise_mode="none"))
            if name.endswith("2X"):
                brief(out, f"{name}.{size}.const", net(x[:, :3].clone(), x.clone(), ws, noise_mode="const"))
            meta[f"{name}.{size}"] = kw


def loss(out, meta):
    from torch_utils import training_stats
    from training.loss import StyleGAN2Loss
    training_stats.init_multiprocessing(0, None)

    def case(tag, phase, cur_nimg=10_000_000, reg="l1", gpc=0.5, nrr=16, nrr_final=None, blur=0, filter_mode="antialiased",
             mixing=0.0, augmented=False):
        G = generator("ffhq", 128, 512, 8, z_dim=32, mapping=dict(num_layers=2, layer_features=32, embed_features=32),
                      depth_resolution=6, depth_resolution_importance=6, reg_type=reg).train()
        D = discriminator(128, 512, 8).train()
        pipe = None
        if augmented:
            from training.augment import AugmentPipe
            pipe = AugmentPipe(xflip=1, rotate90=1, xint=1, scale=1, rotate=1, aniso=1, xfrac=1, brightness=1, contrast=1,
                               lumaflip=1, hue=1, saturation=1)
            pipe.p.fill_(0.5)
        objective = StyleGAN2Loss(
            device="cpu", G=G, D=D, augment_pipe=pipe, r1_gamma=1.0, blur_init_sigma=blur, blur_fade_kimg=200,
            neural_rendering_resolution_initial=nrr, neural_rendering_resolution_final=nrr_final,
            neural_rendering_resolution_fade_kimg=1000, gpc_reg_fade_kimg=1000, gpc_reg_prob=gpc,
            dual_discrimination=True, filter_mode=filter_mode, style_mixing_prob=mixing)
        module = (G if phase[0] == "G" else D).requires_grad_(True)
        real, z, c = randn("loss.real", [4, 3, 128, 128], 0.5), randn("loss.z", [4, 32]), labels(4)
        collector = training_stats.Collector(regex=".*")
        torch.manual_seed(11)
        objective.accumulate_gradients(
            phase=phase, real_img=real, real_c=c, gen_z=z, gen_c=c.clone(), gain=1.0, cur_nimg=cur_nimg)
        collector.update()
        grads = {n: p.grad for n, p in module.named_parameters() if p.grad is not None}
        out[tag + ".grad_norm"] = torch.stack([g.norm() for g in grads.values()])
        # A random projection of every gradient, relative to its norm: catches wrong signs and permutations.
        out[tag + ".grad_projection"] = torch.stack([
            (g * randn("projection." + n, g.shape)).sum() / g.norm().clamp(min=1e-12) for n, g in grads.items()])
        out[tag + ".w_avg"] = G.backbone.mapping.w_avg.clone()
        stats = {k: float(v.mean) for k, v in collector.as_dict().items() if v.num > 0}
        out[tag + ".stats"] = np.array([stats[k] for k in sorted(stats)])
        meta[tag] = dict(phase=phase, cur_nimg=cur_nimg, reg_type=reg, gpc_reg_prob=gpc, nrr_initial=nrr, nrr_final=nrr_final,
                         blur_init_sigma=blur, filter_mode=filter_mode, style_mixing_prob=mixing, augmented=augmented, seed=11,
                         stats=stats, grad_names=list(grads))

    case("gmain", "Gmain")
    case("gmain_swap_early", "Gmain", cur_nimg=0)
    case("gmain_nocond", "Gmain", gpc=None)
    case("gmain_blur", "Gmain", cur_nimg=50_000, blur=10)
    case("gmain_nrr", "Gmain", cur_nimg=500_000, nrr_final=32)
    case("gmain_mixing", "Gmain", mixing=0.9)
    case("greg", "Greg")
    case("greg_monotonic_detach", "Greg", reg="monotonic-detach")
    case("greg_monotonic_fixed", "Greg", reg="monotonic-fixed")
    case("gboth", "Gboth")
    case("dmain", "Dmain")
    case("dreg", "Dreg")
    case("dboth", "Dboth")
    case("dmain_blur", "Dmain", cur_nimg=50_000, blur=10)
    case("dboth_nofilter", "Dboth", filter_mode="none")
    case("dboth_blur", "Dboth", cur_nimg=50_000, blur=10)
    case("gmain_augmented", "Gmain", augmented=True)
    case("dboth_augmented", "Dboth", augmented=True)


@torch.no_grad()
def augment(out, meta):
    from training.augment import AugmentPipe
    groups = dict(blit=dict(xflip=1, rotate90=1, xint=1), geom=dict(scale=1, rotate=1, aniso=1, xfrac=1),
                  color=dict(brightness=1, contrast=1, lumaflip=1, hue=1, saturation=1), filter=dict(imgfilter=1),
                  noise=dict(noise=1), cutout=dict(cutout=1))
    groups["bgc"] = groups["blit"] | groups["geom"] | groups["color"]
    x3, x6 = randn("aug.x3", [2, 3, 32, 32], 0.5), randn("aug.x6", [2, 6, 32, 32], 0.5)

    def seeded(pipe, x, **kw):
        torch.manual_seed(2)
        return pipe(x.clone(), **kw)

    for name, kwargs in groups.items():
        pipe = AugmentPipe(**kwargs)
        out[f"{name}.0.5.x3"] = seeded(pipe, x3, debug_percentile=0.5)
        for percentile in (0.15, 0.8):
            out[f"{name}.{percentile}.x3"] = F.avg_pool2d(seeded(pipe, x3, debug_percentile=percentile), 2)
        out[f"{name}.seeded.x3"] = F.avg_pool2d(seeded(pipe, x3), 2)
        if name in ("blit", "geom", "color", "bgc"):
            out[f"{name}.seeded.x6"] = F.avg_pool2d(seeded(pipe, x6), 2)
            pipe.p.fill_(0.3)
            out[f"{name}.p30.x6"] = F.avg_pool2d(seeded(pipe, x6), 2)
        meta[name] = dict(kwargs=kwargs, seed=2)


@torch.no_grad()
def generators(out, meta):
    cases = dict(ffhq512=("ffhq", 512, 32768, 512, 64, 1), tiny128=("shapenet", 128, 1024, 16, 32, 2),
                 small256=("afhq", 256, 2048, 32, 48, 2))
    for tag, (cfg, resolution, base, cmax, nrr, n) in cases.items():
        G = generator(cfg, resolution, base, cmax, depth_resolution=12, depth_resolution_importance=12).eval()
        G.neural_rendering_resolution = nrr
        z, c = randn("gen.z", [2, 512])[:n], labels(2, cfg)[:n]
        ws = G.mapping(z, c, truncation_psi=0.7, truncation_cutoff=14)
        out[tag + ".ws"] = ws[:, 0]
        torch.manual_seed(6)
        for key, image in G.synthesis(ws, c, noise_mode="const").items():
            brief(out, f"{tag}.{key}", image)
        points = rand("gen.coords", [n, 200, 3], -0.6, 0.6)
        sampled = G.sample_mixed(points, torch.zeros_like(points), ws, noise_mode="const")
        out[tag + ".sigma"], out[tag + ".rgb"] = sampled["sigma"], sampled["rgb"]
        if resolution < 512:
            sampled = G.sample(
                points, torch.zeros_like(points), z, c, truncation_psi=0.5, truncation_cutoff=3, noise_mode="const")
            out[tag + ".sample.sigma"], out[tag + ".sample.rgb"] = sampled["sigma"], sampled["rgb"]
            G.synthesis(ws, c, noise_mode="const", cache_backbone=True)
            torch.manual_seed(6)
            again = G.synthesis(ws.flip(0), c, noise_mode="const", use_cached_backbone=True)  # other ws, the same planes
            brief(out, tag + ".cached.image", again["image"])
        meta[tag] = dict(cfg=cfg, img_resolution=resolution, channel_base=base, channel_max=cmax, n=n, seed=6,
                         neural_rendering_resolution=nrr, truncation_psi=0.7, truncation_cutoff=14)


GROUPS = dict(ops=ops, camera=camera, render=render, networks=networks, superres=superres, loss=loss, augment=augment,
              generator=generators)


# ----------------------------------------------------------------------------- compare

def difference(got, want):
    """Largest error relative to the size of the expected array; inf where shapes or NaNs differ."""
    got, want = np.asarray(got, dtype=np.float64), np.asarray(want, dtype=np.float64)
    if got.shape != want.shape or np.isnan(got).any() != np.isnan(want).any():
        return np.inf
    if want.size == 0:
        return 0.0
    scale = max(np.abs(want[np.isfinite(want)]).max(initial=0.0), 1e-6)
    with np.errstate(invalid="ignore"):
        err = np.where(got == want, 0.0, np.abs(got - want))
    return float(np.nanmax(err) / scale)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default=".", help="the implementation's checkout")
    parser.add_argument("--expect", default=os.path.dirname(os.path.abspath(__file__)), help="folder of golden files")
    parser.add_argument("--write", help="write outputs into this folder instead of comparing")
    parser.add_argument("--salt", default="", help="prefix of every seed: other weights, other inputs")
    parser.add_argument("--only", default=",".join(GROUPS))
    parser.add_argument("--rtol", type=float, default=2e-4, help="allowed error, relative to an array's largest magnitude")
    args = parser.parse_args()
    global SALT
    SALT = args.salt
    sys.path.insert(0, os.path.abspath(args.root))

    passed = failed = 0
    for name in args.only.split(","):
        out, meta, began = {}, {}, time.time()
        try:
            GROUPS[name](out, meta)
        except Exception:
            traceback.print_exc()
        arrays = {k: v.detach().cpu().numpy() if torch.is_tensor(v) else np.asarray(v) for k, v in out.items()}
        if args.write:
            os.makedirs(args.write, exist_ok=True)
            note = np.frombuffer(json.dumps(meta, indent=1).encode(), dtype=np.uint8)
            np.savez_compressed(os.path.join(args.write, name + ".npz"), __meta__=note, **arrays)
            print(f"{name}: wrote {len(arrays)} arrays")
            continue
        want = np.load(os.path.join(args.expect, name + ".npz"))
        keys = [k for k in want.files if k != "__meta__"]
        errors = {k: difference(arrays[k], want[k]) if k in arrays else np.inf for k in keys}
        bad = {k: e for k, e in errors.items() if not e <= (1e-2 if k.startswith("fov") else args.rtol)}
        passed, failed = passed + len(keys) - len(bad), failed + len(bad)
        finite = [e for e in errors.values() if np.isfinite(e)]
        print(f"{name}: {len(keys) - len(bad)}/{len(keys)} agree, worst {max(finite, default=float('nan')):.1e}, "
              f"{time.time() - began:.0f} s")
        for key, error in sorted(bad.items(), key=lambda item: -item[1])[:8]:
            print(f"    {key}: error {error:.2e}" if key in arrays else f"    {key}: missing")
    if not args.write:
        print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
