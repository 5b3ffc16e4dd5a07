"""Schedules at their start, in the middle, at their end and after it."""

import pytest

from training import ada, schedules

KIMG = 1000  # images


@pytest.mark.parametrize("kimg, expected", [(0, 0), (50, 0.25), (100, 0.5), (200, 1), (5000, 1)])
def test_fade(kimg, expected):
    """Linear in images seen, then done."""
    assert schedules.faded(kimg * KIMG, 200) == expected


@pytest.mark.parametrize("nimg", [0, 1, 10**9])
def test_fade_of_zero_is_over_at_once(nimg):
    """At the first image already: no division by zero, everything final."""
    assert schedules.faded(nimg, 0) == 1
    assert schedules.swap_probability(nimg, 0.5, 0) == 0.5
    assert schedules.blur_sigma(nimg, 10, 0) == 0
    assert schedules.rendering_resolution(nimg, 64, 128, 0) == 128


@pytest.mark.parametrize("kimg, expected", [(0, 1), (250, 0.875), (500, 0.75), (1000, 0.5), (10**6, 0.5)])
def test_swap_probability(kimg, expected):
    """From always to the final probability."""
    assert schedules.swap_probability(kimg * KIMG, 0.5, 1000) == pytest.approx(expected)


def test_no_pose_at_all():
    """None is not a probability of 0: the generator then gets no pose."""
    assert schedules.swap_probability(0, None, 1000) is None
    assert schedules.swap_probability(10**9, 0, 1000) == 0


@pytest.mark.parametrize("kimg, expected", [(0, 10), (50, 7.5), (100, 5), (200, 0), (10**6, 0)])
def test_blur(kimg, expected):
    """From the initial deviation to none; without one, none."""
    assert schedules.blur_sigma(kimg * KIMG, 10, 200) == pytest.approx(expected)
    assert schedules.blur_sigma(kimg * KIMG, 0, 200) == 0


@pytest.mark.parametrize("kimg, expected", [(0, 64), (7, 64), (8, 65), (500, 96), (1000, 128), (10**6, 128)])
def test_rendering_resolution(kimg, expected):
    """Whole numbers, rounded to the nearest; downwards as well as upwards."""
    found = schedules.rendering_resolution(kimg * KIMG, 64, 128, 1000)
    assert found == expected and isinstance(found, int)
    assert schedules.rendering_resolution(kimg * KIMG, 128, 64, 1000) == 192 - expected


def test_resolution_without_a_final_one():
    assert [schedules.rendering_resolution(nimg, 64, None, 1000) for nimg in (0, 10**9)] == [64, 64]


@pytest.mark.parametrize("nimg, rampup, half_life", [(0, 0.05, 0), (20_000, 0.05, 1000), (200_000, 0.05, 10_000),
                                                     (1e9, 0.05, 10_000), (0, None, 10_000)])
def test_ema_decay(nimg, rampup, half_life):
    """Half of it is left after the half-life, which grows with the images seen; at the start nothing is kept."""
    decay = schedules.ema_decay(nimg, 32, 10, rampup)
    assert decay == (0.5 ** (32 / half_life) if half_life else 0)


STEP = 32 * 4 / 500_000


@pytest.mark.parametrize("p, sign, expected", [(0.5, 0.7, 0.5 + STEP), (0.5, 0.5, 0.5 - STEP), (0.0, 0.1, 0.0),
                                               (1.0, 0.9, 1.0 + STEP), (0.5, 0.6, 0.5), (0.5, float("nan"), 0.5)])
def test_ada(p, sign, expected):
    """Up above the target, down below, never under 0, over 1 if need be; nothing known, nothing done."""
    assert ada.adapted(p, sign, target=0.6, batch=32, ada_kimg=500) == pytest.approx(expected, abs=1e-15)
