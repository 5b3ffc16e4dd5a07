"""Adaptive discriminator augmentation ("Training Generative Adversarial Networks with Limited Data", Karras et al. 2020).

The discriminator never sees a picture itself, only randomly transformed ones; each transformation happens with probability
multiplier * p, and p is adapted while training (training/ada.py). All are invertible as distributions, so they do not leak.
Everything is differentiable with respect to the pictures.

Notation: N batch, C channels (3, or 6: two pictures that share one transformation), H x W size. Matrices act on column
vectors (x, y, 1), the origin in the picture's centre, one pixel a unit. This file's text travels inside snapshots: see
networks_stylegan2.py for what that asks.
"""

import math

import numpy as np
import torch

from torch_utils import persistence
from torch_utils.ops import grid_sample_gradfix, upfirdn2d

# Decomposition low-pass filters of two of Daubechies' symlets, as PyWavelets lists them.
SYM2 = (-0.12940952255092145, 0.22414386804185735, 0.836516303737469, 0.48296291314469025)
SYM6 = (0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633, 0.4910559419267466,
        0.787641141030194, 0.3379294217276218, -0.07263752278646252, -0.021060292512300564, 0.04472490177066578,
        0.0017677118642428036, -0.007800708325034148)
BAND_POWER = (10 / 13, 1 / 13, 1 / 13, 1 / 13)  # how natural pictures' power spreads over the octave bands
LUMA_AXIS = (1 / math.sqrt(3), 1 / math.sqrt(3), 1 / math.sqrt(3))


@persistence.persistent_class
class AugmentPipe(torch.nn.Module):
    """Transforms pictures [N, C, H, W]. The first arguments of each group are multipliers of the probability `p` (a buffer);
    0 leaves a transformation out. The rest are strengths, with the paper's values as defaults."""

    def __init__(self, xflip=0, rotate90=0, xint=0, xint_max=0.125,
                 scale=0, rotate=0, aniso=0, xfrac=0, scale_std=0.2, rotate_max=1, aniso_std=0.2, xfrac_std=0.125,
                 brightness=0, contrast=0, lumaflip=0, hue=0, saturation=0,
                 brightness_std=0.2, contrast_std=0.5, hue_max=1, saturation_std=1,
                 imgfilter=0, imgfilter_bands=(1, 1, 1, 1), imgfilter_std=1,
                 noise=0, cutout=0, noise_std=0.1, cutout_size=0.5):
        super().__init__()
        self.register_buffer("p", torch.ones([]))  # adapted from outside
        self.xflip, self.rotate90, self.xint, self.xint_max = xflip, rotate90, xint, xint_max
        self.scale, self.rotate, self.aniso, self.xfrac = scale, rotate, aniso, xfrac
        self.scale_std, self.rotate_max, self.aniso_std, self.xfrac_std = scale_std, rotate_max, aniso_std, xfrac_std
        self.brightness, self.contrast, self.lumaflip = brightness, contrast, lumaflip
        self.hue, self.saturation = hue, saturation
        self.brightness_std, self.contrast_std = brightness_std, contrast_std
        self.hue_max, self.saturation_std = hue_max, saturation_std
        self.imgfilter, self.imgfilter_bands, self.imgfilter_std = imgfilter, list(imgfilter_bands), imgfilter_std
        self.noise, self.cutout, self.noise_std, self.cutout_size = noise, cutout, noise_std, cutout_size
        self.register_buffer("Hz_geom", upfirdn2d.setup_filter(list(SYM6)))
        self.register_buffer("Hz_fbank", torch.from_numpy(_octave_bands(SYM2)).to(torch.float32))

    def forward(self, images, debug_percentile=None):
        """Returns transformed pictures of the same shape; `debug_percentile` in [0, 1] replaces chance by that percentile."""
        dice = _Dice(len(images), self.p, debug_percentile)
        geometry = self._geometry(dice, images.shape[3], images.shape[2])
        if geometry is not None:
            images = self._warp(images, geometry)
        color = self._color(dice, images.shape[1])
        if color is not None:
            images = _recolor(images, color)
        if self.imgfilter > 0:
            images = self._filter(images, dice)
        return self._corrupt(images, dice)

    # -------------------------------------------------------------------------------------------- geometry

    def _geometry(self, dice, width, height):
        """[N, 3, 3]: where each pixel of the transformed pictures comes from; None if nothing is asked for."""
        steps = []
        if self.xflip > 0:
            mirrored = dice.choice(2, self.xflip)
            steps.append(_scaling(1 - 2 * mirrored, torch.ones_like(mirrored)))
        if self.rotate90 > 0:
            steps.append(_rotation(dice.choice(4, self.rotate90) * (math.pi / 2)))
        if self.xint > 0:
            shift = dice.uniform(self.xint, columns=2) * self.xint_max
            steps.append(_translation(-torch.round(shift[:, 0] * width), -torch.round(shift[:, 1] * height)))
        if self.scale > 0:
            factor = torch.exp2(-dice.normal(self.scale) * self.scale_std)
            steps.append(_scaling(factor, factor))
        # Two rotations around the anisotropic scaling; each so likely that together they have the asked probability.
        once = 1 - torch.sqrt((1 - self.rotate * self.p).clamp(0, 1))
        if self.rotate > 0:
            steps.append(_rotation(dice.uniform(once, absolute=True) * (math.pi * self.rotate_max)))
        if self.aniso > 0:
            factor = torch.exp2(dice.normal(self.aniso) * self.aniso_std)
            steps.append(_scaling(1 / factor, factor))
        if self.rotate > 0:
            angle = dice.uniform(once, absolute=True, percentile=0.5)
            steps.append(_rotation(angle * (math.pi * self.rotate_max)))
        if self.xfrac > 0:
            shift = dice.normal(self.xfrac, columns=2) * self.xfrac_std
            steps.append(_translation(-shift[:, 0] * width, -shift[:, 1] * height))
        return _product(steps)

    def _warp(self, images, origin_of):
        """Samples pictures at `origin_of` each pixel: mirrored borders, twofold supersampling with a wavelet's low-pass."""
        width, height = images.shape[3], images.shape[2]
        reach = self.Hz_geom.shape[0] // 4  # samples that the filters take beyond the border, at the original size
        margins = self._margins(origin_of, width, height, reach * 2)
        left, top, right, bottom = margins
        images = torch.nn.functional.pad(images, [left, right, top, bottom], mode="reflect")
        origin_of = _translation(*_numbers(origin_of, (left - right) / 2, (top - bottom) / 2)) @ origin_of

        images = upfirdn2d.upsample2d(images, self.Hz_geom, up=2)
        half, twice = _numbers(origin_of, 0.5, 0.5), _numbers(origin_of, 2, 2)
        pixel_centres = _translation(*_numbers(origin_of, -0.5, -0.5)) @ _scaling(*twice)  # of the doubled picture
        origin_of = pixel_centres @ origin_of @ _scaling(*half) @ _translation(*half)

        out_width, out_height = (width + reach * 2) * 2, (height + reach * 2) * 2
        to_grid = _scaling(*_numbers(origin_of, 2 / images.shape[3], 2 / images.shape[2]))
        from_grid = _scaling(*_numbers(origin_of, out_width / 2, out_height / 2))
        theta = (to_grid @ origin_of @ from_grid)[:, :2]
        grid = torch.nn.functional.affine_grid(
            theta, [images.shape[0], images.shape[1], out_height, out_width], align_corners=False)
        images = grid_sample_gradfix.grid_sample(images, grid)
        return upfirdn2d.downsample2d(images, self.Hz_geom, down=2, padding=-reach * 2, flip_filter=True)

    @staticmethod
    def _margins(origin_of, width, height, extra):
        """Pixels [left, top, right, bottom] that the batch's transformed corners reach beyond the picture."""
        cx, cy = (width - 1) / 2, (height - 1) / 2
        corners = torch.tensor([[-cx, cx, cx, -cx], [-cy, -cy, cy, cy], [1, 1, 1, 1]], device=origin_of.device)
        moved = (origin_of @ corners)[:, :2]  # [N, 2, 4]
        outward = torch.cat([-moved.amin(dim=(0, 2)), moved.amax(dim=(0, 2))])
        size = outward.new_tensor([width, height, width, height])
        beyond = (outward + extra - (size - 1) / 2).clamp(min=0)
        return torch.minimum(beyond, size - 1).ceil().to(torch.int64).tolist()

    # -------------------------------------------------------------------------------------------- colour

    def _color(self, dice, channels):
        """[N, 4, 4] acting on (r, g, b, 1); None if nothing is asked for."""
        if channels not in (1, 3, 6):
            raise ValueError(f"pictures of {channels} channels: AugmentPipe takes 1, 3 or 6")
        axis = torch.tensor([*LUMA_AXIS, 0.0], device=self.p.device)
        along, identity = torch.outer(axis, axis), torch.eye(4, device=self.p.device)
        steps = []  # the first acts first, so it stands rightmost in the product
        if self.brightness > 0:
            offset = dice.normal(self.brightness) * self.brightness_std
            step = identity.repeat(len(offset), 1, 1)
            step[:, :3, 3] = offset[:, None]
            steps.append(step)
        if self.contrast > 0:
            factor = torch.exp2(dice.normal(self.contrast) * self.contrast_std)
            steps.append(torch.diag_embed(torch.stack([factor, factor, factor, torch.ones_like(factor)], dim=1)))
        if self.lumaflip > 0:  # Householder: mirrors at the plane of constant luma
            steps.append(identity - 2 * along * dice.choice(2, self.lumaflip)[:, None, None])
        if self.hue > 0 and channels > 1:
            steps.append(_rotation_about(axis[:3], dice.uniform(self.hue) * (math.pi * self.hue_max)))
        if self.saturation > 0 and channels > 1:
            factor = torch.exp2(dice.normal(self.saturation) * self.saturation_std)[:, None, None]
            steps.append(along + (identity - along) * factor)
        return _product(steps[::-1])

    # -------------------------------------------------------------------------------------------- filter, noise, cutout

    def _filter(self, images, dice):
        """Amplifies each octave band by a random gain, the expected power kept."""
        power = torch.tensor(BAND_POWER, device=images.device)
        gains = torch.ones(len(images), len(power), device=images.device)
        for band, strength in enumerate(self.imgfilter_bands):
            gain = torch.exp2(dice.normal(self.imgfilter * strength) * self.imgfilter_std)
            row = torch.ones_like(gains)
            row[:, band] = gain if strength > 0 else 1
            gains = gains * row / (row.square() * power).sum(dim=1, keepdim=True).sqrt()
        taps = gains @ self.Hz_fbank  # [N, taps]
        batch, channels, height, width = images.shape
        kernels = taps[:, None].repeat(1, channels, 1).reshape(batch * channels, 1, -1)
        margin = taps.shape[1] // 2
        y = torch.nn.functional.pad(images, [margin] * 4, mode="reflect").reshape(1, batch * channels, height + 2 * margin, -1)
        y = torch.nn.functional.conv2d(y, kernels[:, :, None, :], groups=batch * channels)
        y = torch.nn.functional.conv2d(y, kernels[:, :, :, None], groups=batch * channels)
        return y.reshape(images.shape)

    def _corrupt(self, images, dice):
        """Adds noise, then blanks a rectangle."""
        if self.noise > 0:
            sigma = dice.half_normal(self.noise)[:, None, None, None] * self.noise_std
            images = images + torch.randn_like(images) * sigma
        if self.cutout > 0:
            size = dice.gate(self.cutout)[:, None] * self.cutout_size
            centre = dice.position(columns=2)
            covered = []
            for axis, length in enumerate((images.shape[3], images.shape[2])):
                at = (torch.arange(length, device=images.device) + 0.5) / length
                covered.append((at[None] - centre[:, axis : axis + 1]).abs() < size / 2)
            hidden = covered[0][:, None, None, :] & covered[1][:, None, :, None]
            images = images * (~hidden).to(images.dtype)
        return images


class _Dice:
    """One batch's random numbers: a value for each sample, then whether it counts; at a percentile, that instead."""

    def __init__(self, batch, p, percentile):
        self.batch, self.p, self.percentile = batch, p, percentile

    def _rand(self, columns=None):
        return torch.rand([self.batch] if columns is None else [self.batch, columns], device=self.p.device)

    def _happens(self, chance, absolute=False):
        return self._rand() < (chance if absolute else chance * self.p)

    def _settle(self, value, chance, at_percentile, absolute=False):
        happens = self._happens(chance, absolute).reshape([-1] + [1] * (value.ndim - 1))
        if self.percentile is not None:
            return torch.full_like(value, at_percentile(self.percentile))
        return torch.where(happens, value, torch.zeros_like(value))

    def uniform(self, chance, columns=None, absolute=False, percentile=None):
        """In [-1, 1), 0 where it does not happen. `absolute`: the chance is not a multiplier of p."""
        return self._settle(self._rand(columns) * 2 - 1, chance,
                            lambda q: 2 * (q if percentile is None else percentile) - 1, absolute)

    def choice(self, count, chance):
        """0 to count - 1."""
        return self._settle(torch.floor(self._rand() * count), chance, lambda q: math.floor(q * count))

    def normal(self, chance, columns=None):
        shape = [self.batch] if columns is None else [self.batch, columns]
        return self._settle(torch.randn(shape, device=self.p.device), chance, lambda q: _erfinv(2 * q - 1))

    def half_normal(self, chance):
        return self._settle(torch.randn([self.batch], device=self.p.device).abs(), chance, _erfinv)

    def gate(self, chance):
        """1 where it happens, 0 elsewhere."""
        happens = self._happens(chance).to(torch.float32)
        return happens if self.percentile is None else torch.ones_like(happens)

    def position(self, columns):
        """In [0, 1), whatever happens."""
        drawn = self._rand(columns)
        return drawn if self.percentile is None else torch.full_like(drawn, self.percentile)


def _erfinv(value):
    return float(torch.erfinv(torch.tensor(value, dtype=torch.float32)))


# ------------------------------------------------------------------------------------------------ matrices

def _numbers(like, *values):
    """Each number as a vector [N] for `like` [N, 3, 3]."""
    return [torch.full([len(like)], float(value), device=like.device) for value in values]


def _matrix(rows):
    """Rows of equally long vectors or numbers -> [N, 3, 3]."""
    like = next(item for row in rows for item in row if isinstance(item, torch.Tensor))
    return torch.stack([torch.stack([item if isinstance(item, torch.Tensor) else torch.full_like(like, item)
                                     for item in row], dim=-1) for row in rows], dim=-2)


def _translation(x, y):
    return _matrix([[1, 0, x], [0, 1, y], [0, 0, 1]])


def _scaling(x, y):
    return _matrix([[x, 0, 0], [0, y, 0], [0, 0, 1]])


def _rotation(angle):
    cos, sin = torch.cos(angle), torch.sin(angle)
    return _matrix([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])


def _rotation_about(axis, angle):
    """Rotation of colours about a unit axis (Rodrigues), [N, 4, 4]."""
    x, y, z = axis.tolist()
    cross = axis.new_tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    turned = torch.eye(4, device=axis.device).repeat(len(angle), 1, 1)
    sin, cos = torch.sin(angle)[:, None, None], torch.cos(angle)[:, None, None]
    turned[:, :3, :3] = torch.eye(3, device=axis.device) + sin * cross + (1 - cos) * (cross @ cross)
    return turned


def _product(matrices):
    """The matrix product in the order given; None of none."""
    result = None
    for matrix in matrices:
        result = matrix if result is None else result @ matrix
    return result


def _recolor(images, matrix):
    """Applies [N, 4, 4] to each three channels; pictures of one channel take the mean row."""
    batch, channels, height, width = images.shape
    linear, offset = matrix[:, :3, :3], matrix[:, :3, 3:]
    if channels == 1:
        linear, offset = linear.mean(dim=1, keepdim=True).sum(dim=2, keepdim=True), offset.mean(dim=1, keepdim=True)
    pixels = images.reshape(batch, -1, linear.shape[1], height * width)
    return (linear[:, None] @ pixels + offset[:, None]).reshape(images.shape)


def _octave_bands(low_pass):
    """A filter bank [4, taps] that splits a signal into octaves and sums to the identity; row 0 is the lowest band."""
    low = np.asarray(low_pass)
    high = low * (-1.0) ** np.arange(low.size)
    low, high = [np.convolve(taps, taps[::-1]) / 2 for taps in (low, high)]  # zero phase
    bands = [np.ones(1)]
    for _ in range(3):
        stretched = []
        for taps in bands:  # an octave down, then only what the low-pass leaves
            sparse = np.zeros(taps.size * 2 - 1)
            sparse[::2] = taps
            stretched.append(np.convolve(sparse, low))
        bands = stretched
        top = np.zeros(bands[0].size)
        start = (top.size - high.size) // 2
        top[start : start + high.size] = high
        bands.append(top)
    return np.stack(bands)
