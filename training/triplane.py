"""The tri-plane generator (EG3D, sections 3 and 4): style -> three feature planes -> rendered features -> picture.

A StyleGAN2 backbone makes 3 x 32 channels, read as three axis-aligned planes; a small decoder turns what is looked up there
into density and features; the volume renderer makes a feature image of `neural_rendering_resolution`; super-resolution makes
the final picture.

Notation: N batch, M points, P = 3 planes, C channels a plane, L styles, W style size. A label c is 25 numbers: the 4x4
camera-to-world matrix and the 3x3 intrinsics, row by row (docs/conventions.md). This file's text travels inside snapshots:
see networks_stylegan2.py for what that asks.
"""

import torch

import dnnlib
from torch_utils import persistence
from training.networks_stylegan2 import FullyConnectedLayer, Generator
from training.volumetric_rendering.ray_sampler import RaySampler
from training.volumetric_rendering.renderer import ImportanceRenderer

RGB_PADDING = 0.001  # Mip-NeRF's sigmoid reaches a little beyond [0, 1]
NUM_PLANES = 3

# What the official code does where a checkpoint's rendering_kwargs lack a key.
RENDERING_DEFAULTS = dict(
    c_scale=0, c_gen_conditioning_zero=False, superresolution_noise_mode="none", disparity_space_sampling=False,
    clamp_mode="softplus", white_back=False, density_noise=0)


@persistence.persistent_class
class TriPlaneGenerator(torch.nn.Module):
    """Latent z and label c to pictures from any camera.

    Sizes that the official code fixes are arguments here, with its values as defaults: `plane_resolution`,
    `plane_channels`, `decoder_width`, and `plane_axes`, three 3x3 frames (see volumetric_rendering/renderer.py).
    """

    # Remembered only where they differ from what the official class does: it could not take them.
    new_arguments = dict(plane_resolution=256, plane_channels=32, decoder_width=64, plane_axes=None)

    def __init__(self, z_dim, c_dim, w_dim, img_resolution, img_channels, sr_num_fp16_res=0, mapping_kwargs={},
                 rendering_kwargs={}, sr_kwargs={}, *, plane_resolution=256, plane_channels=32,
                 decoder_width=64, plane_axes=None, **synthesis_kwargs):
        super().__init__()
        self.z_dim = z_dim
        self.c_dim = c_dim
        self.w_dim = w_dim
        self.img_resolution = img_resolution
        self.img_channels = img_channels
        self.neural_rendering_resolution = 64
        self.rendering_kwargs = rendering_kwargs
        self._last_planes = None
        self.renderer = ImportanceRenderer()
        if plane_axes is not None:
            self.renderer.plane_axes = torch.tensor(plane_axes, dtype=torch.float32, device="cpu")
        self.ray_sampler = RaySampler()
        self.backbone = Generator(
            z_dim, c_dim, w_dim, img_resolution=plane_resolution, img_channels=NUM_PLANES * plane_channels,
            mapping_kwargs=mapping_kwargs, **synthesis_kwargs)
        sized = dict(sr_kwargs) if w_dim == 512 else dict(sr_kwargs, w_dim=w_dim)
        self.superresolution = dnnlib.util.construct_class_by_name(
            class_name=rendering_kwargs["superresolution_module"], channels=plane_channels, img_resolution=img_resolution,
            sr_num_fp16_res=sr_num_fp16_res, sr_antialias=rendering_kwargs.get("sr_antialias", True), **sized)
        self.decoder = OSGDecoder(plane_channels, dict(
            decoder_lr_mul=rendering_kwargs.get("decoder_lr_mul", 1), decoder_output_dim=plane_channels,
            decoder_width=decoder_width))

    def mapping(self, z, c, truncation_psi=1, truncation_cutoff=None, update_emas=False):
        """z [N, z_dim], conditioning label c [N, 25] -> ws [N, L, W]."""
        options = self._options()
        if options["c_gen_conditioning_zero"]:
            c = torch.zeros_like(c)
        return self.backbone.mapping(
            z, c * options["c_scale"], truncation_psi=truncation_psi, truncation_cutoff=truncation_cutoff,
            update_emas=update_emas)

    def synthesis(self, ws, c, neural_rendering_resolution=None, update_emas=False, cache_backbone=False,
                  use_cached_backbone=False, **synthesis_kwargs):
        """ws [N, L, W] from cameras c [N, 25] -> image [N, 3, R, R], image_raw [N, 3, r, r], image_depth [N, 1, r, r].

        A `neural_rendering_resolution` given here is kept for later calls. `cache_backbone` keeps the planes for calls
        with `use_cached_backbone`.
        """
        if neural_rendering_resolution is None:
            neural_rendering_resolution = self.neural_rendering_resolution
        else:
            self.neural_rendering_resolution = neural_rendering_resolution
        if use_cached_backbone and self._last_planes is not None:
            planes = self._last_planes
        else:
            planes = self.planes(ws, update_emas=update_emas, **synthesis_kwargs)
        if cache_backbone:
            self._last_planes = planes
        synthesis_kwargs.pop("noise_mode", None)  # the caller's reaches only the backbone
        return self.render(planes, ws, c, neural_rendering_resolution, **synthesis_kwargs)

    def planes(self, ws, update_emas=False, **synthesis_kwargs):
        """ws [N, L, W] -> feature planes [N, 3, C, H, H]."""
        features = self.backbone.synthesis(ws, update_emas=update_emas, **synthesis_kwargs)
        return features.reshape(len(ws), NUM_PLANES, -1, *features.shape[2:])

    def render(self, planes, ws, c, neural_rendering_resolution, rendering_options={}, **block_kwargs):
        """Planes seen from cameras c, as `synthesis` returns them; `rendering_options` go over the network's own."""
        if c.shape[-1] < 25:
            raise ValueError(f"cameras c have 25 numbers each, a 4x4 pose and 3x3 intrinsics, not {c.shape[-1]}")
        size = neural_rendering_resolution
        options = dict(self._options(), **rendering_options)
        origins, directions = self.ray_sampler(c[:, :16].reshape(-1, 4, 4), c[:, 16:25].reshape(-1, 3, 3), size)
        features, depth, _weight = self.renderer(planes, self.decoder, origins, directions, options)
        feature_image = features.transpose(1, 2).reshape(len(c), -1, size, size)
        image_raw = feature_image[:, :3]
        image = self.superresolution(
            image_raw, feature_image, ws, noise_mode=options["superresolution_noise_mode"], **block_kwargs)
        return {"image": image, "image_raw": image_raw,
                "image_depth": depth.reshape(len(c), 1, size, size)}

    def sample(self, coordinates, directions, z, c, truncation_psi=1, truncation_cutoff=None, update_emas=False,
               **synthesis_kwargs):
        """Features 'rgb' [N, M, C] and densities 'sigma' [N, M, 1] of z, c at points and directions [N, M, 3]."""
        ws = self.mapping(z, c, truncation_psi=truncation_psi, truncation_cutoff=truncation_cutoff, update_emas=update_emas)
        return self.sample_mixed(coordinates, directions, ws, update_emas=update_emas, **synthesis_kwargs)

    def sample_mixed(self, coordinates, directions, ws, truncation_psi=1, truncation_cutoff=None, update_emas=False,
                     **synthesis_kwargs):
        """As `sample`, from styles ws [N, L, W], which are taken as they are: truncation happens in `mapping`."""
        planes = self.planes(ws, update_emas=update_emas, **synthesis_kwargs)
        return self.renderer.run_model(planes, self.decoder, coordinates, directions, self._options())

    def forward(self, z, c, truncation_psi=1, truncation_cutoff=None, neural_rendering_resolution=None, update_emas=False,
                cache_backbone=False, use_cached_backbone=False, **synthesis_kwargs):
        """`mapping`, then `synthesis` from the same label."""
        ws = self.mapping(z, c, truncation_psi=truncation_psi, truncation_cutoff=truncation_cutoff, update_emas=update_emas)
        return self.synthesis(
            ws, c, neural_rendering_resolution=neural_rendering_resolution, update_emas=update_emas,
            cache_backbone=cache_backbone, use_cached_backbone=use_cached_backbone, **synthesis_kwargs)

    def _options(self):
        return dict(RENDERING_DEFAULTS, **self.rendering_kwargs)


class OSGDecoder(torch.nn.Module):
    """Plane features to density and colour: mean over planes, 32 -> 64 -> 1 + 32. Checkpoints store it by name."""

    def __init__(self, n_features, options):
        super().__init__()
        self.hidden_dim = options.get("decoder_width", 64)
        speed = options["decoder_lr_mul"]
        self.net = torch.nn.Sequential(
            FullyConnectedLayer(n_features, self.hidden_dim, lr_multiplier=speed),
            torch.nn.Softplus(),
            FullyConnectedLayer(self.hidden_dim, 1 + options["decoder_output_dim"], lr_multiplier=speed))

    def forward(self, sampled_features, ray_directions):
        """sampled_features [N, P, M, C] -> 'rgb' [N, M, decoder_output_dim], 'sigma' [N, M, 1]; directions are not used."""
        out = self.net(sampled_features.mean(dim=1))
        return {"rgb": torch.sigmoid(out[..., 1:]) * (1 + 2 * RGB_PADDING) - RGB_PADDING, "sigma": out[..., :1]}
