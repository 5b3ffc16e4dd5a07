"""Augmentation: each transformation alone at a known percentile against its formula, and what all of them must keep.

Geometry is compared on pictures made of cosines that mirror themselves at the borders, so that the picture is known at every
point of the plane. The wavelet's low-pass is not quite symmetric: turned pictures are right to a few percent, unturned ones
to rounding.
"""

import math

import numpy as np
import pytest
import torch
from scipy.special import erfinv

from training import augment
from training.augment import AugmentPipe

WIDTH, HEIGHT = 40, 32
GEOMETRY = dict(xflip=1, rotate90=1, xint=1, scale=1, rotate=1, aniso=1, xfrac=1)
COLOR = dict(brightness=1, contrast=1, lumaflip=1, hue=1, saturation=1)
EVERYTHING = dict(GEOMETRY, **COLOR, imgfilter=1, noise=1, cutout=1)
ROUNDING = 2e-5  # float32, of pictures of size 1


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def cosines(x, y):
    """Three channels at pixels (x, y) from the centre, each [H, W] or as x and y are."""
    u, v = [math.pi * (position / (size - 1) + 0.5) for position, size in ((x, WIDTH), (y, HEIGHT))]
    return torch.stack([u.cos() + 0.5 * (2 * v).cos(), v.cos() - 0.3 * u.cos(), u.cos() * v.cos() + 0.4 * (2 * u).cos()])


def picture_at(origin_of):
    """The picture [3, H, W] whose pixels come from `origin_of` [3, 3] of their own places."""
    y, x = torch.meshgrid(torch.arange(HEIGHT) - (HEIGHT - 1) / 2, torch.arange(WIDTH) - (WIDTH - 1) / 2, indexing="ij")
    moved = torch.tensor(np.asarray(origin_of), dtype=torch.float32) @ torch.stack([x, y, torch.ones_like(x)]).flatten(1)
    return cosines(moved[0], moved[1]).reshape(3, HEIGHT, WIDTH)


def pictures(batch=2, channels=3, height=HEIGHT, width=WIDTH):
    return torch.rand(batch, channels, height, width) * 2 - 1


def at_percentile(percentile, x, **kwargs):
    return AugmentPipe(**kwargs)(x, debug_percentile=percentile)


def normal(percentile):
    """What a percentile stands for where a normal variable is drawn."""
    return float(erfinv(2 * percentile - 1))


# ------------------------------------------------------------------------------------------------ geometry

def scaling(x, y):
    return np.diag([x, y, 1])


def rotation(angle):
    return np.array([[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1]])


def shift(x, y):
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]])


# transformation, percentile, where each pixel comes from, tolerance
MOVES = [
    ("xflip", 0.4, np.eye(3), ROUNDING), ("xflip", 0.9, scaling(-1, 1), 0.03),
    ("rotate90", 0.1, np.eye(3), ROUNDING), ("rotate90", 0.3, rotation(math.pi / 2), 0.03),
    ("rotate90", 0.6, rotation(math.pi), 0.03), ("rotate90", 0.9, rotation(-math.pi / 2), 0.03),
    ("xint", 0.5, np.eye(3), ROUNDING), ("xint", 1.0, shift(-5, -4), ROUNDING), ("xint", 0.0, shift(5, 4), ROUNDING),
    ("xint", 0.7, shift(-2, -2), ROUNDING),  # 0.4 * 0.125 of the size, rounded
    ("scale", 0.5, np.eye(3), ROUNDING), ("scale", 0.9, scaling(*[2 ** -(0.2 * normal(0.9))] * 2), 0.03),
    ("rotate", 0.5, np.eye(3), ROUNDING), ("rotate", 0.6, rotation(0.2 * math.pi), 0.03),
    ("aniso", 0.2, scaling(2 ** -(0.2 * normal(0.2)), 2 ** (0.2 * normal(0.2))), 0.03),
    ("xfrac", 0.6, shift(-WIDTH / 8 * normal(0.6), -HEIGHT / 8 * normal(0.6)), 0.03),
]


@pytest.mark.parametrize("name, percentile, origin_of, tolerance", MOVES, ids=[f"{name}-{q}" for name, q, *_ in MOVES])
def test_moved_pictures(name, percentile, origin_of, tolerance):
    """Every pixel comes from where the transformation says, borders mirrored."""
    still = picture_at(np.eye(3))[None]
    moved = at_percentile(percentile, still, **{name: 1})
    assert (moved[0] - picture_at(origin_of)).abs().max() <= tolerance * (still.max() - still.min())


def test_flip_is_a_flip():
    """Without the oracle: the picture of the mirror."""
    still = picture_at(np.eye(3))[None]
    difference = at_percentile(0.9, still, xflip=1) - still.flip(3)
    assert difference.abs().max() < 0.03 * (still.max() - still.min()) < (still - still.flip(3)).abs().max()


def test_transformations_in_order():
    """A flip, then a quarter turn, then a shift: the place of a pixel is their product."""
    percentile = 0.9
    shown = at_percentile(percentile, picture_at(np.eye(3))[None], xflip=1, rotate90=1, xint=1)
    expected = picture_at(scaling(-1, 1) @ rotation(-math.pi / 2) @ shift(-4, -3))  # 0.8 * 0.125 of the size, rounded
    assert (shown[0] - expected).abs().max() <= 0.05 * (expected.max() - expected.min())


# ------------------------------------------------------------------------------------------------ colour

def luma(x):
    return x.mean(dim=1, keepdim=True)


COLORS = {
    "brightness": lambda x, q: x + 0.2 * normal(q), "contrast": lambda x, q: x * 2 ** (0.5 * normal(q)),
    "lumaflip": lambda x, q: x - 2 * luma(x) if q >= 0.5 else x,
    "saturation": lambda x, q: luma(x) + (x - luma(x)) * 2 ** normal(q)}


@pytest.mark.parametrize("percentile", [0.1, 0.5, 0.8])
@pytest.mark.parametrize("name", COLORS)
def test_recoloured_pictures(name, percentile):
    """Brightness adds, contrast multiplies, the luma flip mirrors at grey, saturation scales what is not grey."""
    x = pictures()
    torch.testing.assert_close(at_percentile(percentile, x, **{name: 1}), COLORS[name](x, percentile), atol=1e-5, rtol=1e-5)


def test_colours_in_order():
    """Brightness first, so that contrast multiplies what was added."""
    x = pictures()
    expected = COLORS["contrast"](COLORS["brightness"](x, 0.8), 0.8)
    torch.testing.assert_close(at_percentile(0.8, x, brightness=1, contrast=1), expected, atol=1e-5, rtol=0)


def test_hue():
    """A rotation about the grey axis: a third of a turn permutes the channels, half a turn mirrors them at their mean."""
    x = pictures()
    third = (1 + 2 / 3) / 2  # of a rotation that reaches from -pi to pi
    torch.testing.assert_close(at_percentile(third, x, hue=1), x.roll(1, dims=1), atol=1e-5, rtol=0)
    torch.testing.assert_close(at_percentile(1.0, x, hue=1), 2 * luma(x) - x, atol=1e-5, rtol=0)
    torch.testing.assert_close(at_percentile(0.5, x, hue=1), x, atol=1e-5, rtol=0)


def test_one_channel_is_grey():
    """Grey pictures take what a grey pixel of a colour picture takes; hue and saturation leave them alone."""
    x = pictures(channels=1)
    for name in COLORS:
        grey = COLORS[name](x.expand(-1, 3, -1, -1), 0.8)[:, :1]
        torch.testing.assert_close(at_percentile(0.8, x, **{name: 1}), grey, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(at_percentile(0.8, x, hue=1), x)


# ------------------------------------------------------------------------------------------------ filter, noise, cutout

def band_gains(percentile):
    """Each octave's gain where all four draw the same percentile: amplified in turn, the expected power kept."""
    power, gains = np.array([10, 1, 1, 1]) / 13, np.ones(4)
    for band in range(4):
        row = np.ones(4)
        row[band] = 2 ** normal(percentile)
        gains = gains * row / np.sqrt((row**2 * power).sum())
    return gains


def test_filtered_pictures():
    """Constant pictures take the lowest octave's gain on both axes, stripes of one pixel the highest's across."""
    lowest, *_, highest = band_gains(0.8)
    flat = torch.full((1, 3, 48, 48), 0.7)
    stripes = flat * (1 - 2 * (torch.arange(48) % 2))
    torch.testing.assert_close(at_percentile(0.8, flat, imgfilter=1), flat * lowest**2, atol=1e-5, rtol=0)
    torch.testing.assert_close(at_percentile(0.8, stripes, imgfilter=1), stripes * lowest * highest, atol=1e-5, rtol=0)
    x = pictures()
    torch.testing.assert_close(at_percentile(0.5, x, imgfilter=1), x, atol=ROUNDING, rtol=0)


def test_bands_can_be_left_out():
    """With only the lowest octave named, its gain is the first one's, normalized alone."""
    gain = 2 ** normal(0.8)
    expected = gain / math.sqrt((10 * gain**2 + 3) / 13)
    flat = torch.ones(1, 3, 48, 48)
    shown = at_percentile(0.8, flat, imgfilter=1, imgfilter_bands=[1, 0, 0, 0])
    torch.testing.assert_close(shown, flat * expected**2, atol=1e-5, rtol=0)


def test_noise():
    """Normal, its deviation half-normal: at a percentile 0.1 * erfinv of it."""
    x = pictures(batch=8, height=64, width=64)
    noise = at_percentile(0.8, x, noise=1) - x
    assert noise.std().item() == pytest.approx(0.1 * erfinv(0.8), rel=0.02) and abs(noise.mean().item()) < 1e-3


def test_cutout():
    """A black rectangle of half the size, centred at the percentile."""
    x = pictures() + 5
    expected = x.clone()
    expected[:, :, HEIGHT // 4 : HEIGHT * 3 // 4, WIDTH // 4 : WIDTH * 3 // 4] = 0
    assert torch.equal(at_percentile(0.5, x, cutout=1), expected)
    corner = x.clone()
    corner[:, :, : HEIGHT // 4, : WIDTH // 4] = 0
    assert torch.equal(at_percentile(0.0, x, cutout=1), corner)


# ------------------------------------------------------------------------------------------------ chance

@pytest.mark.parametrize("channels", [1, 3, 6])
def test_nothing_happens_at_p_zero(channels):
    """Every transformation is drawn and none happens; the warp's filters together are the identity."""
    x = pictures(channels=channels)
    pipe = AugmentPipe(**EVERYTHING)
    pipe.p.fill_(0)
    torch.testing.assert_close(pipe(x), x, atol=ROUNDING, rtol=0)


def test_nothing_is_asked_for():
    """With every multiplier at its default pictures come back as they are."""
    x = pictures()
    assert torch.equal(AugmentPipe()(x), x)


@pytest.mark.parametrize("p, multiplier", [(1, 1), (0.3, 1), (0.6, 0.5)])
def test_how_often(p, multiplier):
    """With probability p times the multiplier, each picture for itself. 4000 pictures: four deviations are 0.03."""
    x = pictures(batch=4000, height=1, width=1)
    pipe = AugmentPipe(brightness=multiplier)
    pipe.p.fill_(p)
    change = (pipe(x) - x)[:, 0, 0, 0]
    happened = change.abs() > 1e-5
    assert happened.float().mean().item() == pytest.approx(p * multiplier, abs=0.03)
    assert change[happened].std().item() == pytest.approx(0.2, rel=0.1)


def test_rotations_before_and_after_scaling_share_their_probability():
    """Either happens with 1 - sqrt(1 - p), so that one of them does with p. 600 pictures: four deviations are 0.08."""
    x = pictures(batch=600, height=8, width=8)
    pipe = AugmentPipe(rotate=1)
    pipe.p.fill_(0.5)
    turned = (pipe(x) - x).abs().amax(dim=(1, 2, 3)) > 1e-3
    assert turned.float().mean().item() == pytest.approx(0.5, abs=0.08)


def test_six_channels_share_one_transformation():
    """The final picture and the raw one are moved, recoloured, filtered and cut alike."""
    x = pictures()
    pipe = AugmentPipe(**dict(EVERYTHING, noise=0))
    first, second = pipe(torch.cat([x, x], dim=1)).chunk(2, dim=1)
    torch.testing.assert_close(first, second)
    assert (first - x).abs().max() > 0.1


@pytest.mark.parametrize("channels", [2, 4])
def test_other_channels_are_refused(channels):
    with pytest.raises(ValueError, match=f"{channels} channels: AugmentPipe takes 1, 3 or 6"):
        AugmentPipe(**COLOR)(pictures(channels=channels))


def test_pictures_are_not_changed():
    """What comes in stays as it was; the same seed gives the same."""
    x = pictures()
    before, pipe = x.clone(), AugmentPipe(**EVERYTHING)
    torch.manual_seed(3)
    first = pipe(x)
    torch.manual_seed(3)
    assert torch.equal(pipe(x), first) and torch.equal(x, before)
    assert first.shape == x.shape and first.dtype == x.dtype and torch.isfinite(first).all()


# ------------------------------------------------------------------------------------------------ gradients

def test_gradient_with_respect_to_pictures():
    """The same draws make an affine function of the pictures: its change along a direction is the gradient's product with it.

    The pipe's matrices are float32, so that finite differences of float64 are no option, and none is needed.
    """
    x, direction, weights = pictures(), pictures(), pictures()
    pipe = AugmentPipe(**EVERYTHING)

    def score(pixels):
        torch.manual_seed(5)
        return (pipe(pixels) * weights).sum()

    x.requires_grad_(True)
    (gradient,) = torch.autograd.grad(score(x), [x])
    change = score(x + direction) - score(x)
    assert gradient.abs().max() > 0.1
    rounding = 1e-5 * (gradient.norm() * direction.norm()).item()
    assert (gradient * direction).sum().item() == pytest.approx(change.item(), abs=rounding)


# ------------------------------------------------------------------------------------------------ filters

@pytest.mark.parametrize("taps, vanishing", [(augment.SYM2, 2), (augment.SYM6, 6)])
def test_wavelet_taps(taps, vanishing):
    """Orthonormal to their own even shifts, summing to sqrt 2; as many vanishing moments of the high-pass as the name says."""
    taps = np.asarray(taps)
    assert len(taps) == 2 * vanishing and taps.sum() == pytest.approx(math.sqrt(2), abs=1e-10)
    for even in range(0, len(taps), 2):
        assert taps[even:] @ taps[: len(taps) - even] == pytest.approx(float(even == 0), abs=1e-10)
    signs, places = (-1.0) ** np.arange(len(taps)), np.arange(len(taps)) / len(taps)
    moments = [(taps * signs * places**moment).sum() for moment in range(vanishing)]
    assert moments == pytest.approx([0] * vanishing, abs=1e-7)


def test_filter_bank():
    """Four zero-phase octave bands that sum to the identity; the lowest passes constants, the highest single stripes."""
    bands = AugmentPipe().Hz_fbank.double().numpy()
    middle = bands.shape[1] // 2
    np.testing.assert_allclose(bands.sum(axis=0), np.eye(bands.shape[1])[middle], atol=1e-6)
    np.testing.assert_allclose(bands, bands[:, ::-1], atol=1e-7)
    places = np.arange(bands.shape[1]) - middle
    for index, frequency in ((0, 0.0), (3, math.pi)):
        np.testing.assert_allclose(bands @ np.cos(frequency * places), np.eye(4)[index], atol=1e-6)
    strongest = [(np.abs(np.cos(np.outer(np.linspace(0, math.pi, 200), places)) @ band)).argmax() for band in bands]
    assert strongest == sorted(strongest)
