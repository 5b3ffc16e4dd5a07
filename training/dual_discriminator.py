"""Discriminators of EG3D (Chan et al. 2022, section 4.3): they see the final picture and the raw rendering together.

Comparing both keeps the super-resolved picture consistent with the volume rendering. The raw rendering is resized to the
picture's size and both enter as six channels; the label is mapped and projected on the features.

A picture here is a dict: image [N, 3, R, R], image_raw [N, 3, r, r], both in [-1, 1]. This file's text travels inside
snapshots: see networks_stylegan2.py for what that asks.
"""

import torch
import torch.nn.functional as F

from torch_utils import persistence
from torch_utils.ops import upfirdn2d
from training.networks_stylegan2 import Discriminator

RAW_FADE_STEP = 32 / 500000  # what DummyDualDiscriminator takes from the raw rendering's weight at every call


def filtered_resizing(image_orig_tensor, size, f, filter_mode="antialiased"):
    """Resizes [N, C, R, R] to [N, C, size, size].

    `filter_mode`: 'antialiased' or 'none' (bilinear with or without low-pass), 'classic' (supersampled, filtered with f), or a
    number m that mixes (1 - m) * 'none' + m * 'antialiased'.
    """
    def bilinear(image, to, antialias):
        return F.interpolate(image, size=(to, to), mode="bilinear", align_corners=False, antialias=antialias)

    if filter_mode == "antialiased":
        return bilinear(image_orig_tensor, size, True)
    if filter_mode == "none":
        return bilinear(image_orig_tensor, size, False)
    if filter_mode == "classic":
        fine = bilinear(upfirdn2d.upsample2d(image_orig_tensor, f, up=2), size * 2 + 2, False)
        return upfirdn2d.downsample2d(fine, f, down=2, flip_filter=True, padding=-1)
    if isinstance(filter_mode, float):
        sharp, smooth = bilinear(image_orig_tensor, size, False), bilinear(image_orig_tensor, size, True)
        return sharp.lerp(smooth, filter_mode)
    raise ValueError(f"filter_mode={filter_mode!r}: choose antialiased, none, classic or a float")


@persistence.persistent_class
class SingleDiscriminator(Discriminator):
    """Sees the final picture alone."""

    def forward(self, img, c, update_emas=False, **block_kwargs):
        return super().forward(img["image"], c, **block_kwargs)


class _PairDiscriminator(Discriminator):
    """Sees picture and raw rendering as twice `img_channels` channels."""

    def __init__(self, c_dim, img_resolution, img_channels, **discriminator_kwargs):
        super().__init__(c_dim, img_resolution, img_channels * 2, **discriminator_kwargs)
        self.register_buffer("resample_filter", upfirdn2d.setup_filter([1, 3, 3, 1]))

    def score(self, img, c, raw_weight, block_kwargs):
        image = img["image"]
        raw = filtered_resizing(img["image_raw"], size=image.shape[-1], f=self.resample_filter)
        return Discriminator.forward(self, torch.cat([image, raw * raw_weight], dim=1), c, **block_kwargs)


@persistence.persistent_class
class DualDiscriminator(_PairDiscriminator):
    """The discriminator of every released network; `disc_c_noise` perturbs labels by that share of their spread."""

    def __init__(self, c_dim, img_resolution, img_channels, *, disc_c_noise=0, **discriminator_kwargs):
        super().__init__(c_dim, img_resolution, img_channels, **discriminator_kwargs)
        self.disc_c_noise = disc_c_noise

    def forward(self, img, c, update_emas=False, **block_kwargs):
        if self.disc_c_noise > 0 and len(c) > 1:  # one label has no spread
            c = c + torch.randn_like(c) * c.std(dim=0) * self.disc_c_noise
        return self.score(img, c, 1, block_kwargs)


@persistence.persistent_class
class DummyDualDiscriminator(_PairDiscriminator):
    """Forgets the raw rendering little by little: its weight falls from 1 to 0 over 15,625 calls."""

    def __init__(self, c_dim, img_resolution, img_channels, **discriminator_kwargs):
        super().__init__(c_dim, img_resolution, img_channels, **discriminator_kwargs)
        self.raw_fade = 1

    def forward(self, img, c, update_emas=False, **block_kwargs):
        self.raw_fade = max(0, self.raw_fade - RAW_FADE_STEP)
        return self.score(img, c, self.raw_fade, block_kwargs)
