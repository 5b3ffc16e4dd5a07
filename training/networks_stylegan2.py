"""StyleGAN2's layers, generator and discriminator ("Analyzing and Improving the Image Quality of StyleGAN", CVPR 2020).

EG3D's backbone is this generator with 96 output channels; its super-resolution and discriminators are made of the same
layers. Weights are stored with unit variance and scaled at run time ("equalized learning rate", Karras et al. 2018), so a
layer's `weight_gain` belongs to its definition.

Notation: N batch, Z / C / W sizes of latent, label and style, L layers that take a style, I / O channels in and out,
k kernel size, R resolution. Pictures are [N, channels, R, R] in [-1, 1].

This file's text travels inside snapshots and must run in other code bases: it uses only names that the official package
has too, plain attributes, and Python 3.8.
"""

import math

import torch
import torch.nn.functional as F

from torch_utils import misc, persistence
from torch_utils.ops import bias_act, conv2d_resample, upfirdn2d

MOMENT_EPS = 1e-8  # under the root, when a latent or a filter is normalized
RESIDUAL_GAIN = math.sqrt(0.5)  # keeps the variance of a sum of two branches


def _unit_rms(x):
    """Divides each row of [N, size] by its root mean square."""
    return x * torch.rsqrt(x.square().mean(dim=1, keepdim=True) + MOMENT_EPS)


def modulated_conv2d(
    x,  # [N, I, R, R]
    weight,  # [O, I, k, k]
    styles,  # [N, I]
    noise=None,  # broadcasts to the output, added to it
    up=1,
    down=1,
    padding=0,
    resample_filter=None,  # from upfirdn2d.setup_filter
    demodulate=True,
    flip_weight=True,
    fused_modconv=True,
):
    """Convolves each sample with its own kernel weight * style (StyleGAN2, section 2.2, equations 1 to 3).

    `fused_modconv` scales the kernels and runs one grouped convolution, otherwise the activations are scaled before and
    after one shared convolution; both give the same picture. A CPU, where groups are slow, scales kernels of single samples
    only. Returns [N, O, R', R'].
    """
    batch, in_channels = styles.shape
    if x.dtype == torch.float16 and demodulate:
        # Demodulation cancels any constant factor: keep products far from half precision's limits.
        fan_in = weight[0].numel()
        weight = weight / weight.abs().amax(dim=(1, 2, 3), keepdim=True) / math.sqrt(fan_in)
        styles = styles / styles.abs().amax(dim=1, keepdim=True)
    gain = None  # [N, O]: 1 / norm of each modulated kernel
    if demodulate:
        energy = weight.square().sum(dim=(2, 3))
        gain = 1 / (styles.square() @ energy.t() + MOMENT_EPS).sqrt()
    resampling = dict(f=resample_filter, up=up, down=down, padding=padding, flip_weight=flip_weight)

    if fused_modconv and (batch == 1 or batch > 1 and x.device.type != "cpu"):
        kernels = weight * styles[:, None, :, None, None]
        if gain is not None:
            kernels = kernels * gain[:, :, None, None, None]
        if batch == 1:  # no reshaping: it would forget the order of memory
            y = conv2d_resample.conv2d_resample(x, kernels[0].to(x.dtype), **resampling)
            return y if noise is None else y + noise.to(y.dtype)
        groups = x.reshape(1, batch * in_channels, *x.shape[2:])
        y = conv2d_resample.conv2d_resample(groups, kernels.flatten(0, 1).to(x.dtype), groups=batch, **resampling)
        y = y.reshape(batch, -1, *y.shape[2:])
    else:
        scaled = x * styles[:, :, None, None].to(x.dtype)
        y = conv2d_resample.conv2d_resample(scaled, weight.to(x.dtype), **resampling)
        if gain is not None:
            y = y * gain[:, :, None, None].to(x.dtype)
    return y if noise is None else y + noise.to(y.dtype)


# ------------------------------------------------------------------------------------------------ plain layers

@persistence.persistent_class
class FullyConnectedLayer(torch.nn.Module):
    """activation(x W^T + b). Weights are stored divided by `lr_multiplier` and scaled back at run time, so that a step of the
    optimizer counts that much."""

    def __init__(self, in_features, out_features, bias=True, activation="linear", lr_multiplier=1, bias_init=0):
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.activation = activation
        self.weight = torch.nn.Parameter(torch.randn(out_features, in_features) / lr_multiplier)
        self.bias = torch.nn.Parameter(torch.full((out_features,), float(bias_init))) if bias else None
        self.weight_gain = lr_multiplier / math.sqrt(in_features)
        self.bias_gain = lr_multiplier

    def forward(self, x):  # [..., in_features] -> [..., out_features]
        weight = (self.weight * self.weight_gain).to(x.dtype)
        bias = None if self.bias is None else (self.bias * self.bias_gain).to(x.dtype)
        y = F.linear(x, weight, bias)
        return y if self.activation == "linear" else bias_act.bias_act(y, dim=y.ndim - 1, act=self.activation)

    def extra_repr(self):
        return f"{self.in_features} -> {self.out_features}, {self.activation}"


@persistence.persistent_class
class Conv2dLayer(torch.nn.Module):
    """A convolution with optional resampling, bias, activation and clamp; `trainable=False` makes its weights buffers."""

    def __init__(self, in_channels, out_channels, kernel_size, bias=True, activation="linear", up=1, down=1,
                 resample_filter=(1, 3, 3, 1), conv_clamp=None, channels_last=False, trainable=True):
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.activation = activation
        self.up = up
        self.down = down
        self.conv_clamp = conv_clamp
        self.padding = kernel_size // 2
        self.weight_gain = 1 / math.sqrt(in_channels * kernel_size**2)
        self.act_gain = bias_act.activation_funcs[activation].def_gain
        self.register_buffer("resample_filter", upfirdn2d.setup_filter(list(resample_filter)))
        weight = _conv_weight(out_channels, in_channels, kernel_size, channels_last)
        tensors = dict(weight=weight, bias=torch.zeros(out_channels) if bias else None)
        for name, tensor in tensors.items():
            if tensor is not None and trainable:
                self.register_parameter(name, torch.nn.Parameter(tensor))
            else:
                self.register_buffer(name, tensor)

    def forward(self, x, gain=1):
        weight = (self.weight * self.weight_gain).to(x.dtype)
        y = conv2d_resample.conv2d_resample(
            x=x, w=weight, f=self.resample_filter, up=self.up, down=self.down, padding=self.padding,
            flip_weight=self.up == 1)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return bias_act.bias_act(y, bias, act=self.activation, **_gain_and_clamp(self, gain))

    def extra_repr(self):
        return f"{self.in_channels} -> {self.out_channels}, {self.activation}, up={self.up}, down={self.down}"


def _conv_weight(out_channels, in_channels, kernel_size, channels_last):
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return torch.randn(out_channels, in_channels, kernel_size, kernel_size).contiguous(memory_format=layout)


def _gain_and_clamp(layer, gain):
    """bias_act's arguments for a layer whose output is scaled by `gain`: the clamp scales along."""
    clamp = None if layer.conv_clamp is None else layer.conv_clamp * gain
    return dict(gain=layer.act_gain * gain, clamp=clamp)


# ------------------------------------------------------------------------------------------------ mapping

@persistence.persistent_class
class MappingNetwork(torch.nn.Module):
    """Latent and label to styles: z [N, Z], c [N, C] -> ws [N, L, W], or [N, W] when num_ws is None."""

    def __init__(self, z_dim, c_dim, w_dim, num_ws, num_layers=8, embed_features=None, layer_features=None,
                 activation="lrelu", lr_multiplier=0.01, w_avg_beta=0.998):
        super().__init__()
        self.z_dim = z_dim
        self.c_dim = c_dim
        self.w_dim = w_dim
        self.num_ws = num_ws
        self.num_layers = num_layers
        self.w_avg_beta = w_avg_beta
        width = z_dim
        if c_dim > 0:
            self.embed = FullyConnectedLayer(c_dim, w_dim if embed_features is None else embed_features)
            width += self.embed.out_features
        for index in range(num_layers):
            last = index == num_layers - 1
            layer = FullyConnectedLayer(width, w_dim if last or layer_features is None else layer_features,
                                        activation=activation, lr_multiplier=lr_multiplier)
            width = layer.out_features
            setattr(self, f"fc{index}", layer)
        if num_ws is not None and w_avg_beta is not None:
            self.register_buffer("w_avg", torch.zeros(w_dim))

    def forward(self, z, c, truncation_psi=1, truncation_cutoff=None, update_emas=False):
        parts = []
        if self.z_dim > 0:
            misc.assert_shape(z, [None, self.z_dim])
            parts.append(_unit_rms(z.to(torch.float32)))
        if self.c_dim > 0:
            misc.assert_shape(c, [None, self.c_dim])
            parts.append(_unit_rms(self.embed(c.to(torch.float32))))
        w = torch.cat(parts, dim=1)
        for index in range(self.num_layers):
            w = getattr(self, f"fc{index}")(w)

        if update_emas and self.w_avg_beta is not None:
            self.w_avg.lerp_(w.detach().mean(dim=0), 1 - self.w_avg_beta)
        if self.num_ws is None:
            return w
        ws = w[:, None, :].repeat(1, self.num_ws, 1)
        if truncation_psi == 1:
            return ws
        # StyleGAN (2019), appendix B: pull styles towards their mean, here only in the first layers.
        reach = self.num_ws if truncation_cutoff is None else truncation_cutoff
        near = self.w_avg.lerp(ws[:, :reach], truncation_psi)
        return torch.cat([near, ws[:, reach:]], dim=1)

    def extra_repr(self):
        return f"z {self.z_dim}, c {self.c_dim} -> w {self.w_dim} x {self.num_ws}"


# ------------------------------------------------------------------------------------------------ synthesis

@persistence.persistent_class
class SynthesisLayer(torch.nn.Module):
    """Style-modulated 3x3 convolution (2x up if asked), noise, bias and activation."""

    def __init__(self, in_channels, out_channels, w_dim, resolution, kernel_size=3, up=1, use_noise=True,
                 activation="lrelu", resample_filter=(1, 3, 3, 1), conv_clamp=None, channels_last=False):
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.w_dim = w_dim
        self.resolution = resolution
        self.up = up
        self.use_noise = use_noise
        self.activation = activation
        self.conv_clamp = conv_clamp
        self.padding = kernel_size // 2
        self.act_gain = bias_act.activation_funcs[activation].def_gain
        self.affine = FullyConnectedLayer(w_dim, in_channels, bias_init=1)
        self.weight = torch.nn.Parameter(_conv_weight(out_channels, in_channels, kernel_size, channels_last))
        self.register_buffer("resample_filter", upfirdn2d.setup_filter(list(resample_filter)))
        if use_noise:
            self.register_buffer("noise_const", torch.randn(resolution, resolution))
            self.noise_strength = torch.nn.Parameter(torch.zeros([]))
        self.bias = torch.nn.Parameter(torch.zeros(out_channels))

    def forward(self, x, w, noise_mode="random", fused_modconv=True, gain=1):
        """`noise_mode` is 'random' (new each call), 'const' (the stored pattern) or 'none'."""
        y = modulated_conv2d(
            x=x, weight=self.weight, styles=self.affine(w), noise=self._noise(x, noise_mode), up=self.up,
            padding=self.padding, resample_filter=self.resample_filter, flip_weight=self.up == 1,
            fused_modconv=fused_modconv)
        return bias_act.bias_act(y, self.bias.to(y.dtype), act=self.activation, **_gain_and_clamp(self, gain))

    def _noise(self, x, mode):
        if mode not in ("random", "const", "none"):
            raise ValueError(f"noise_mode={mode!r}: choose random, const or none")
        if not self.use_noise or mode == "none":
            return None
        if mode == "const":
            return self.noise_const * self.noise_strength
        draw = torch.randn([x.shape[0], 1, self.resolution, self.resolution], device=x.device)
        return draw * self.noise_strength

    def extra_repr(self):
        return f"{self.in_channels} -> {self.out_channels}, {self.resolution}x{self.resolution}, up={self.up}"


@persistence.persistent_class
class ToRGBLayer(torch.nn.Module):
    """Style-modulated convolution without demodulation that turns features into picture channels."""

    def __init__(self, in_channels, out_channels, w_dim, kernel_size=1, conv_clamp=None, channels_last=False):
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.w_dim = w_dim
        self.conv_clamp = conv_clamp
        self.weight_gain = 1 / math.sqrt(in_channels * kernel_size**2)
        self.affine = FullyConnectedLayer(w_dim, in_channels, bias_init=1)
        self.weight = torch.nn.Parameter(_conv_weight(out_channels, in_channels, kernel_size, channels_last))
        self.bias = torch.nn.Parameter(torch.zeros(out_channels))

    def forward(self, x, w, fused_modconv=True):
        styles = self.affine(w) * self.weight_gain
        y = modulated_conv2d(x=x, weight=self.weight, styles=styles, demodulate=False, fused_modconv=fused_modconv,
                             padding=self.weight.shape[-1] // 2)
        return bias_act.bias_act(y, self.bias.to(y.dtype), clamp=self.conv_clamp)

    def extra_repr(self):
        return f"{self.in_channels} -> {self.out_channels}"


@persistence.persistent_class
class SynthesisBlock(torch.nn.Module):
    """One resolution of the generator: conv0 (doubles the size), conv1, toRGB.

    The first block (in_channels 0) starts from a learned constant and has no conv0. Architectures: 'skip' adds up each
    block's picture, 'orig' has toRGB in the last block only, 'resnet' adds a shortcut around the convolutions.
    """

    def __init__(self, in_channels, out_channels, w_dim, resolution, img_channels, is_last, architecture="skip",
                 resample_filter=(1, 3, 3, 1), conv_clamp=256, use_fp16=False, fp16_channels_last=False,
                 fused_modconv_default=True, **layer_kwargs):
        super().__init__()
        if architecture not in ("orig", "skip", "resnet"):
            raise ValueError(f"architecture={architecture!r}: choose orig, skip or resnet")
        self.in_channels = in_channels
        self.w_dim = w_dim
        self.resolution = resolution
        self.img_channels = img_channels
        self.is_last = is_last
        self.architecture = architecture
        self.use_fp16 = use_fp16
        self.channels_last = use_fp16 and fp16_channels_last
        self.fused_modconv_default = fused_modconv_default
        self.register_buffer("resample_filter", upfirdn2d.setup_filter(list(resample_filter)))
        shared = dict(conv_clamp=conv_clamp, channels_last=self.channels_last)
        layer = dict(w_dim=w_dim, resolution=resolution, **shared, **layer_kwargs)

        if in_channels == 0:
            self.const = torch.nn.Parameter(torch.randn(out_channels, resolution, resolution))
        else:
            self.conv0 = SynthesisLayer(
                in_channels, out_channels, up=2, resample_filter=list(resample_filter), **layer)
        self.conv1 = SynthesisLayer(out_channels, out_channels, **layer)
        self.num_conv = 1 if in_channels == 0 else 2
        self.num_torgb = int(is_last or architecture == "skip")
        if self.num_torgb:
            self.torgb = ToRGBLayer(out_channels, img_channels, w_dim=w_dim, **shared)
        if in_channels != 0 and architecture == "resnet":
            self.skip = Conv2dLayer(in_channels, out_channels, kernel_size=1, bias=False, up=2,
                                    resample_filter=list(resample_filter), channels_last=self.channels_last)

    def forward(self, x, img, ws, force_fp32=False, fused_modconv=None, update_emas=False, **layer_kwargs):
        """x [N, I, R/2, R/2] (ignored by the first block), img of that size or None, ws [N, num_conv + num_torgb, W].

        Returns features [N, O, R, R] and the picture [N, img_channels, R, R] (float32), or None where there is none yet.
        """
        styles = list(ws.unbind(dim=1))
        fused = _fused(self, fused_modconv)
        dtype, layout = _precision(self, ws.device, force_fp32)
        layer_kwargs = dict(layer_kwargs, fused_modconv=fused)

        if self.in_channels == 0:
            x = self.const[None].repeat(ws.shape[0], 1, 1, 1).to(dtype=dtype, memory_format=layout)
            x = self.conv1(x, styles.pop(0), **layer_kwargs)
        else:
            x = x.to(dtype=dtype, memory_format=layout)
            shortcut = self.skip(x, gain=RESIDUAL_GAIN) if self.architecture == "resnet" else None
            x = self.conv0(x, styles.pop(0), **layer_kwargs)
            x = self.conv1(x, styles.pop(0), gain=1 if shortcut is None else RESIDUAL_GAIN, **layer_kwargs)
            x = x if shortcut is None else x + shortcut

        if img is not None:
            img = upfirdn2d.upsample2d(img, self.resample_filter)
        if self.num_torgb:
            rgb = self.torgb(x, styles.pop(0), fused_modconv=fused).to(torch.float32)
            img = rgb if img is None else img + rgb
        return x, img

    def extra_repr(self):
        return f"{self.resolution}x{self.resolution}, {self.architecture}"


def _fused(block, choice):
    """Whether a block runs fused convolutions: the caller's choice, else its own ('inference_only': when in eval mode)."""
    default = block.fused_modconv_default if choice is None else choice
    return not block.training if default == "inference_only" else default


def _precision(block, device, force_fp32):
    """A block's dtype and memory layout: half precision exists on CUDA only, and a CPU convolves channels_last sooner."""
    half = block.use_fp16 and not force_fp32 and device.type == "cuda"
    dtype = torch.float16 if half else torch.float32
    last = block.channels_last and half or device.type == "cpu"
    return dtype, torch.channels_last if last else torch.contiguous_format


def _resolutions(img_resolution):
    """[4, 8, ..., img_resolution]; ValueError unless that is a power of two from 4 up."""
    if img_resolution < 4 or img_resolution & (img_resolution - 1):
        raise ValueError(f"img_resolution={img_resolution}: must be a power of two from 4 up")
    return [2**level for level in range(2, img_resolution.bit_length())]


def _width(resolution, channel_base, channel_max):
    """Channels of the features at a resolution."""
    return min(channel_base // resolution, channel_max)


def _runs_in_half(resolution, img_resolution, num_fp16_res):
    """Whether a block is among the num_fp16_res highest resolutions; the 4x4 block never runs in half precision."""
    return resolution > 4 and resolution * 2**num_fp16_res > img_resolution


@persistence.persistent_class
class SynthesisNetwork(torch.nn.Module):
    """Blocks from 4x4 to the output resolution: ws [N, L, W] -> picture [N, img_channels, R, R]."""

    def __init__(self, w_dim, img_resolution, img_channels, channel_base=32768, channel_max=512, num_fp16_res=4,
                 **block_kwargs):
        super().__init__()
        self.w_dim = w_dim
        self.img_resolution = img_resolution
        self.img_channels = img_channels
        self.num_fp16_res = num_fp16_res
        self.block_resolutions = _resolutions(img_resolution)
        self.num_ws = 0
        channels = 0
        for res in self.block_resolutions:
            coarser = channels
            channels = _width(res, channel_base, channel_max)
            block = SynthesisBlock(
                coarser, channels, w_dim=w_dim, resolution=res, img_channels=img_channels,
                is_last=res == img_resolution, use_fp16=_runs_in_half(res, img_resolution, num_fp16_res), **block_kwargs)
            setattr(self, f"b{res}", block)
            self.num_ws += block.num_conv
        self.num_ws += block.num_torgb  # toRGB shares its style with the next block's first convolution, the last has its own

    def forward(self, ws, **block_kwargs):
        ws = ws.to(torch.float32)
        x = img = None
        first = 0
        for res in self.block_resolutions:
            block = getattr(self, f"b{res}")
            styles = ws[:, first : first + block.num_conv + block.num_torgb]
            x, img = block(x, img, styles, **block_kwargs)
            first += block.num_conv
        return img

    def extra_repr(self):
        return f"{self.img_resolution}x{self.img_resolution}x{self.img_channels}, {self.num_ws} styles"


@persistence.persistent_class
class Generator(torch.nn.Module):
    """Mapping and synthesis: z [N, Z], c [N, C] -> picture [N, img_channels, R, R]."""

    def __init__(self, z_dim, c_dim, w_dim, img_resolution, img_channels, mapping_kwargs={}, **synthesis_kwargs):
        super().__init__()
        self.z_dim = z_dim
        self.c_dim = c_dim
        self.w_dim = w_dim
        self.img_resolution = img_resolution
        self.img_channels = img_channels
        self.synthesis = SynthesisNetwork(
            w_dim=w_dim, img_resolution=img_resolution, img_channels=img_channels, **synthesis_kwargs)
        self.num_ws = self.synthesis.num_ws
        self.mapping = MappingNetwork(z_dim=z_dim, c_dim=c_dim, w_dim=w_dim, num_ws=self.num_ws, **mapping_kwargs)

    def forward(self, z, c, truncation_psi=1, truncation_cutoff=None, update_emas=False, **synthesis_kwargs):
        ws = self.mapping(z, c, truncation_psi=truncation_psi, truncation_cutoff=truncation_cutoff, update_emas=update_emas)
        return self.synthesis(ws, update_emas=update_emas, **synthesis_kwargs)


# ------------------------------------------------------------------------------------------------ discriminator

@persistence.persistent_class
class DiscriminatorBlock(torch.nn.Module):
    """One resolution of the discriminator: fromRGB where pictures enter, conv0, conv1 (halves the size).

    Layers are counted through the whole network; the first `freeze_layers` of them are not trained (Freeze-D).
    """

    def __init__(self, in_channels, tmp_channels, out_channels, resolution, img_channels, first_layer_idx,
                 architecture="resnet", activation="lrelu", resample_filter=(1, 3, 3, 1), conv_clamp=None, use_fp16=False,
                 fp16_channels_last=False, freeze_layers=0):
        super().__init__()
        if architecture not in ("orig", "skip", "resnet"):
            raise ValueError(f"architecture={architecture!r}: choose orig, skip or resnet")
        self.in_channels = in_channels
        self.resolution = resolution
        self.img_channels = img_channels
        self.first_layer_idx = first_layer_idx
        self.architecture = architecture
        self.use_fp16 = use_fp16
        self.channels_last = use_fp16 and fp16_channels_last
        self.register_buffer("resample_filter", upfirdn2d.setup_filter(list(resample_filter)))
        self.num_layers = 0

        def layer(i, o, kernel_size, **kwargs):
            trainable = first_layer_idx + self.num_layers >= freeze_layers
            self.num_layers += 1
            return Conv2dLayer(i, o, kernel_size=kernel_size, trainable=trainable, channels_last=self.channels_last, **kwargs)

        active = dict(activation=activation, conv_clamp=conv_clamp)
        halving = dict(down=2, resample_filter=list(resample_filter))
        if in_channels == 0 or architecture == "skip":
            self.fromrgb = layer(img_channels, tmp_channels, 1, **active)
        self.conv0 = layer(tmp_channels, tmp_channels, 3, **active)
        self.conv1 = layer(tmp_channels, out_channels, 3, **active, **halving)
        if architecture == "resnet":
            self.skip = layer(tmp_channels, out_channels, 1, bias=False, **halving)

    def forward(self, x, img, force_fp32=False):
        """x [N, I, R, R] or None, img [N, img_channels, R, R] or None -> features and picture at half the size."""
        device = (img if x is None else x).device
        dtype, layout = _precision(self, device, force_fp32)
        if x is not None:
            x = x.to(dtype=dtype, memory_format=layout)
        if self.in_channels == 0 or self.architecture == "skip":
            entering = self.fromrgb(img.to(dtype=dtype, memory_format=layout))
            x = entering if x is None else x + entering
            img = upfirdn2d.downsample2d(img, self.resample_filter) if self.architecture == "skip" else None
        if self.architecture != "resnet":
            return self.conv1(self.conv0(x)), img
        shortcut = self.skip(x, gain=RESIDUAL_GAIN)
        return self.conv1(self.conv0(x), gain=RESIDUAL_GAIN) + shortcut, img

    def extra_repr(self):
        return f"{self.resolution}x{self.resolution}, {self.architecture}"


@persistence.persistent_class
class MinibatchStdLayer(torch.nn.Module):
    """Appends the deviation within groups of samples as channels (Karras et al. 2018, section 3): [N, C, R, R] -> C + F."""

    def __init__(self, group_size, num_channels=1):
        super().__init__()
        self.group_size = group_size
        self.num_channels = num_channels

    def forward(self, x):
        batch, channels, height, width = x.shape
        group = max(batch if self.group_size is None else min(self.group_size, batch), 1)
        if batch % group:
            raise ValueError(f"a batch of {batch} is no multiple of the minibatch-std group of {group}")
        # Sample n belongs to group n mod (N / group); channels form num_channels sets that are averaged over.
        parts = x.reshape(group, batch // group, self.num_channels, -1, height, width).to(torch.float32)
        spread = (parts.var(dim=0, unbiased=False) + MOMENT_EPS).sqrt()
        statistic = spread.mean(dim=(2, 3, 4)).to(x.dtype)  # [N / group, num_channels]
        planes = statistic.repeat(group, 1)[:, :, None, None].expand(-1, -1, height, width)
        return torch.cat([x, planes], dim=1)

    def extra_repr(self):
        return f"groups of {self.group_size}, {self.num_channels} channels"


@persistence.persistent_class
class DiscriminatorEpilogue(torch.nn.Module):
    """The 4x4 end of the discriminator: features [N, I, 4, 4] -> scores [N, 1].

    With a mapped label the score is its projection on the features (Miyato and Koyama 2018).
    """

    def __init__(self, in_channels, cmap_dim, resolution, img_channels, architecture="resnet", mbstd_group_size=4,
                 mbstd_num_channels=1, activation="lrelu", conv_clamp=None):
        super().__init__()
        self.in_channels = in_channels
        self.cmap_dim = cmap_dim
        self.resolution = resolution
        self.img_channels = img_channels
        self.architecture = architecture
        if architecture == "skip":
            self.fromrgb = Conv2dLayer(img_channels, in_channels, kernel_size=1, activation=activation)
        self.mbstd = None
        if mbstd_num_channels > 0:
            self.mbstd = MinibatchStdLayer(group_size=mbstd_group_size, num_channels=mbstd_num_channels)
        self.conv = Conv2dLayer(
            in_channels + mbstd_num_channels, in_channels, kernel_size=3, activation=activation, conv_clamp=conv_clamp)
        self.fc = FullyConnectedLayer(in_channels * resolution**2, in_channels, activation=activation)
        self.out = FullyConnectedLayer(in_channels, 1 if cmap_dim == 0 else cmap_dim)

    def forward(self, x, img, cmap, force_fp32=False):
        x = x.to(dtype=torch.float32, memory_format=torch.contiguous_format)
        if self.architecture == "skip":
            x = x + self.fromrgb(img.to(torch.float32))
        if self.mbstd is not None:
            x = self.mbstd(x)
        x = self.out(self.fc(self.conv(x).flatten(1)))
        if self.cmap_dim > 0:
            x = (x * cmap).sum(dim=1, keepdim=True) / math.sqrt(self.cmap_dim)
        return x

    def extra_repr(self):
        return f"{self.resolution}x{self.resolution}, {self.architecture}"


@persistence.persistent_class
class Discriminator(torch.nn.Module):
    """Blocks from the picture's resolution to 4x4: img [N, img_channels, R, R], c [N, C] -> scores [N, 1]."""

    def __init__(self, c_dim, img_resolution, img_channels, architecture="resnet", channel_base=32768, channel_max=512,
                 num_fp16_res=4, conv_clamp=256, cmap_dim=None, block_kwargs={}, mapping_kwargs={}, epilogue_kwargs={}):
        super().__init__()
        self.c_dim = c_dim
        self.img_resolution = img_resolution
        self.img_channels = img_channels
        self.block_resolutions = _resolutions(img_resolution)[:0:-1]
        everywhere = dict(img_channels=img_channels, architecture=architecture, conv_clamp=conv_clamp)
        entering, first_layer = 0, 0  # channels, and the layer's number, at which the next block begins
        for res in self.block_resolutions:
            half = _runs_in_half(res, img_resolution, num_fp16_res)
            here, leaving = [_width(r, channel_base, channel_max) for r in (res, res // 2)]
            block = DiscriminatorBlock(
                entering, here, leaving, resolution=res, first_layer_idx=first_layer, use_fp16=half, **everywhere,
                **block_kwargs)
            setattr(self, f"b{res}", block)
            entering, first_layer = leaving, first_layer + block.num_layers
        projected = 0  # features that the label is compared with
        narrow = _width(4, channel_base, channel_max)
        if c_dim > 0:
            projected = narrow if cmap_dim is None else cmap_dim
            self.mapping = MappingNetwork(
                z_dim=0, c_dim=c_dim, w_dim=projected, num_ws=None, w_avg_beta=None, **mapping_kwargs)
        self.b4 = DiscriminatorEpilogue(narrow, cmap_dim=projected, resolution=4, **everywhere, **epilogue_kwargs)

    def forward(self, img, c, update_emas=False, **block_kwargs):
        x = None
        for res in self.block_resolutions:
            x, img = getattr(self, f"b{res}")(x, img, **block_kwargs)
        cmap = self.mapping(None, c) if self.c_dim > 0 else None
        return self.b4(x, img, cmap)

    def extra_repr(self):
        return f"{self.img_resolution}x{self.img_resolution}x{self.img_channels}, c {self.c_dim}"
