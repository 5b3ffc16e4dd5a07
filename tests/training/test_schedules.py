"""Schedules at their start, in the middle, at their end and after it."""

import pytest

from training import schedules

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
