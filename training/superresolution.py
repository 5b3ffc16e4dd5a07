"""Super-resolution (EG3D, section 4.2): from rendered features to the final picture.

Two StyleGAN2 blocks, styled by the last w, refine a feature image of `input_resolution`; its first three channels are the
picture that the blocks add to. The official modules differ only in sizes; SuperresolutionGeneral reaches any power of two.

Notation: N batch, C feature channels, r rendered size, R final size. This file's text travels inside snapshots: see
networks_stylegan2.py for what that asks.
"""

import torch
import torch.nn.functional as F

from torch_utils import persistence
from torch_utils.ops import upfirdn2d
from training.networks_stylegan2 import SynthesisBlock, SynthesisLayer, ToRGBLayer

CLAMP = 256  # half precision overflows beyond 65504; fixed at construction, so it acts on every device


@persistence.persistent_class
class SynthesisBlockNoUp(torch.nn.Module):
    """A 'skip' block of StyleGAN2 that keeps the size: conv0, conv1, toRGB."""

    def __init__(self, in_channels, out_channels, w_dim, resolution, img_channels, is_last, architecture="skip",
                 resample_filter=(1, 3, 3, 1), conv_clamp=256, use_fp16=False, fp16_channels_last=False,
                 fused_modconv_default=True, **layer_kwargs):
        super().__init__()
        if architecture != "skip":
            raise ValueError(f"architecture={architecture!r}: a block that keeps the size is always skip")
        self.architecture = architecture
        self.in_channels = in_channels
        self.w_dim = w_dim
        self.resolution = resolution
        self.img_channels = img_channels
        self.is_last = is_last
        self.use_fp16 = use_fp16
        self.channels_last = use_fp16 and fp16_channels_last
        self.fused_modconv_default = fused_modconv_default
        self.num_conv = 2
        self.num_torgb = 1
        self.register_buffer("resample_filter", upfirdn2d.setup_filter(list(resample_filter)))
        shared = dict(w_dim=w_dim, conv_clamp=conv_clamp, channels_last=self.channels_last)
        self.conv0 = SynthesisLayer(in_channels, out_channels, resolution=resolution, **shared, **layer_kwargs)
        self.conv1 = SynthesisLayer(out_channels, out_channels, resolution=resolution, **shared, **layer_kwargs)
        self.torgb = ToRGBLayer(out_channels, img_channels, **shared)

    def forward(self, x, img, ws, force_fp32=False, fused_modconv=None, update_emas=False, **layer_kwargs):
        """x [N, I, R, R], img [N, img_channels, R, R], ws [N, 3, W] -> features [N, O, R, R], picture."""
        fused = self.fused_modconv_default if fused_modconv is None else fused_modconv
        if fused == "inference_only":
            fused = not self.training
        half = self.use_fp16 and not force_fp32 and ws.device.type == "cuda"
        last = half and self.channels_last or ws.device.type == "cpu"
        layout = torch.channels_last if last else torch.contiguous_format
        x = x.to(dtype=torch.float16 if half else torch.float32, memory_format=layout)
        for layer, w in zip([self.conv0, self.conv1], ws.unbind(dim=1)):
            x = layer(x, w, fused_modconv=fused, **layer_kwargs)
        return x, img + self.torgb(x, ws[:, 2], fused_modconv=fused).to(torch.float32)


class _Superresolution(torch.nn.Module):
    """Blocks of given (resolution, channels); the first keeps or doubles the input's size, each further one doubles it."""

    only_smaller = False  # resize features only if they are smaller than input_resolution

    def __init__(self, stages, channels, input_resolution, sr_num_fp16_res, sr_antialias, w_dim, block_kwargs):
        super().__init__()
        self.input_resolution = input_resolution
        self.sr_antialias = sr_antialias
        self.block_names = []
        half = sr_num_fp16_res > 0
        resolution = input_resolution
        for index, (target, width) in enumerate(stages):
            block_class = SynthesisBlockNoUp if target == resolution else SynthesisBlock
            block = block_class(
                channels, width, w_dim=w_dim, resolution=target, img_channels=3, is_last=index == len(stages) - 1,
                use_fp16=half, conv_clamp=CLAMP if half else None, **block_kwargs)
            self.block_names.append(f"block{index}")
            setattr(self, self.block_names[-1], block)
            resolution, channels = target, width

    def forward(self, rgb, x, ws, **block_kwargs):
        """rgb [N, 3, r, r], x [N, C, r, r], ws [N, L, W] -> picture [N, 3, R, R]; the arguments are left as they are."""
        style = ws[:, -1:].repeat(1, 3, 1)
        size = x.shape[-1]
        if size < self.input_resolution or size > self.input_resolution and not self.only_smaller:
            rgb, x = [F.interpolate(image, size=(self.input_resolution, self.input_resolution), mode="bilinear",
                                    align_corners=False, antialias=self.sr_antialias) for image in (rgb, x)]
        for name in self.block_names:
            x, rgb = getattr(self, name)(x, rgb, style, **block_kwargs)
        return rgb


class _Official(_Superresolution):
    """A module of the official family: its sizes are the class's.

    num_fp16_res, conv_clamp, channel_base and channel_max are accepted and have no effect, as in the official modules:
    training passes the same sr_kwargs to whatever module the output's size asks for.
    """

    input_resolution = 128
    stages = ()  # (resolution, channels) of each block
    antialias = True  # where sr_antialias asks for it
    owns_filter = True
    new_arguments = dict(w_dim=512)

    def __init__(self, channels, img_resolution, sr_num_fp16_res, sr_antialias=True, num_fp16_res=4, conv_clamp=None,
                 channel_base=None, channel_max=None, w_dim=512, **block_kwargs):
        output = self.stages[-1][0]
        if img_resolution != output:
            raise ValueError(f"{type(self).__name__} makes {output}x{output} pictures, not {img_resolution}x{img_resolution}")
        antialias = self.antialias and sr_antialias
        super().__init__(self.stages, channels, self.input_resolution, sr_num_fp16_res, antialias, w_dim, block_kwargs)
        if self.owns_filter:
            self.register_buffer("resample_filter", upfirdn2d.setup_filter([1, 3, 3, 1]))


@persistence.persistent_class
class SuperresolutionHybrid8X(_Official):
    """64 (resized to 128) -> 512."""

    stages = ((256, 128), (512, 64))


@persistence.persistent_class
class SuperresolutionHybrid8XDC(_Official):
    """128 -> 512 with twice the channels of 8X: all released 512x512 networks."""

    stages = ((256, 256), (512, 128))
    owns_filter = False


@persistence.persistent_class
class SuperresolutionHybrid4X(_Official):
    """128 -> 256."""

    stages = ((128, 128), (256, 64))
    only_smaller = True


@persistence.persistent_class
class SuperresolutionHybrid2X(_Official):
    """64 -> 128: the released ShapeNet network."""

    input_resolution = 64
    stages = ((64, 128), (128, 64))


@persistence.persistent_class
class SuperresolutionHybridDeepfp32(SuperresolutionHybrid4X):
    """As 4X, with plain bilinear resizing."""

    antialias = False


@persistence.persistent_class
class SuperresolutionGeneral(_Superresolution):
    """Any power-of-two output from 32 up, which no official module covers.

    Starts at `input_resolution` (default: half the output, at most 128) and has min(channel_base / resolution, channel_max)
    channels in each block.
    """

    def __init__(self, channels, img_resolution, sr_num_fp16_res, sr_antialias=True, input_resolution=None,
                 channel_base=32768, channel_max=256, w_dim=512, **block_kwargs):
        if img_resolution < 32 or img_resolution & (img_resolution - 1):
            raise ValueError(f"img_resolution={img_resolution}: must be a power of two from 32 up")
        start = min(img_resolution // 2, 128) if input_resolution is None else input_resolution
        if start > img_resolution or start < 4 or start & (start - 1):
            raise ValueError(f"input_resolution={start}: must be a power of two from 4 to {img_resolution}")
        stages, target = [], start
        while target <= img_resolution:
            stages.append((target, min(channel_base // target, channel_max)))
            target *= 2
        super().__init__(stages, channels, start, sr_num_fp16_res, sr_antialias, w_dim, block_kwargs)
        self.register_buffer("resample_filter", upfirdn2d.setup_filter([1, 3, 3, 1]))
