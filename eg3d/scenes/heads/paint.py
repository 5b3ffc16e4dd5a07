"""What colour the skin, the eyes and the hair have: functions of places on the template, so sharp at any resolution.

All colours are linear RGB. M points.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from eg3d.scenes.heads import hair as hairs
from eg3d.scenes.heads.anatomy import CAVITY, EYE, TONGUE, Anatomy, sampled
from eg3d.scenes.heads.looks import Look

PUPIL, IRIS, LIMBUS = 0.15, 0.40, 0.045  # radians from the eyeball's axis; width of the dark ring
EYEBALL = 0.0411  # radius on the template
SCLERA, GUMS, TONGUES = (0.80, 0.77, 0.74), (0.10, 0.03, 0.03), (0.35, 0.10, 0.10)
DARK = (0.012, 0.010, 0.010)  # of pupils and lashes
BROW_X, BROW_Y = (0.0257, 0.0505, 0.0827, 0.1149, 0.1452), (0.1069, 0.1161, 0.1243, 0.1252, 0.1115)  # the brow's middle line
BEARD_X = (0.0, 0.0459, 0.0689, 0.0919, 0.1286, 0.1654, 0.2022)
BEARD_Y = (-0.0751, -0.0778, -0.0916, -0.1008, -0.0732, -0.0135, 0.0508)  # where a beard begins
BEARD_END = -0.2341  # on the neck
COLLAR = -0.36


class Surface(NamedTuple):
    """Points on a head's own mesh."""

    part: np.ndarray  # [M]
    uv: np.ndarray  # [M, 2]
    template: np.ndarray  # [M, 3]: the same points on the template
    points: np.ndarray  # [M, 3]


class Paint(NamedTuple):
    """What light meets."""

    albedo: np.ndarray  # [M, 3]
    gloss: np.ndarray  # [M]: strength of the highlight
    sharpness: np.ndarray  # [M]: its exponent


def painted(anatomy: Anatomy, look: Look, eyeballs, at: Surface) -> Paint:
    """eyeballs: their centres, [2, 3], right one first."""
    albedo = _skin(look, at.template)
    lips = sampled(anatomy.masks["lips"], at.uv)
    albedo = _mixed(albedo, look.lips, lips)
    albedo = _mixed(albedo, albedo * (1.0, 0.82, 0.80), 0.8 * sampled(anatomy.masks["ears"], at.uv) * look.flush * 2)
    albedo = _mixed(albedo, np.array(look.natural) * (0.8 if look.beard else 0.35), _beard(look, at.template) * (1 - lips))
    albedo = _mixed(albedo, np.array(look.natural) * 0.6, _brows(look, at.template))
    albedo = _mixed(albedo, DARK, _lashes(look, at.template))
    albedo = _mixed(albedo, np.array(look.hair.colour) * 0.75, _scalp(look, at.points))
    albedo = _mixed(albedo, look.clothes, _step(COLLAR - at.template[:, 1] + 0.25 * at.template[:, 0] ** 2, 0.008))
    albedo[at.part == CAVITY] = GUMS
    albedo[at.part == TONGUE] = TONGUES
    gloss = 0.05 + 0.05 * lips
    sharpness = np.full(len(gloss), 18.0)
    eye = at.part == EYE
    albedo[eye] = _eyes(look, eyeballs, at.points[eye])
    gloss[eye], sharpness[eye] = 0.5, 150.0
    return Paint(albedo, gloss, sharpness)


def _mixed(albedo, colour, share) -> np.ndarray:
    return albedo + (np.asarray(colour) - albedo) * share[:, None]


def _step(value, width: float):
    """0 to 1 as the value crosses 0."""
    return np.clip(value / width + 0.5, 0, 1)


def _bump(distance):
    """1 at 0, about 0 beyond 2."""
    return np.exp(-(distance**2))


def _skin(look: Look, p: np.ndarray) -> np.ndarray:
    """Redder on cheeks, nose and chin, a little mottled."""
    side, y, z = np.abs(p[:, 0]), p[:, 1], p[:, 2]
    cheeks = _bump(np.hypot((side - 0.106) / 0.055, (y + 0.027) / 0.046))
    nose = _bump(np.hypot(side / 0.032, (y + 0.027) / 0.028)) * (z > 0.295)
    red = look.flush * np.clip(cheeks + 0.8 * nose, 0, 1)
    mottles = (np.sin(31 * p[:, 0] + 5) * np.sin(37 * y + 2) + np.sin(67 * side + 41 * y) * np.sin(53 * z)) * 0.02
    sockets = 0.10 * _bump(np.hypot((side - 0.078) / 0.05, (y - 0.046) / 0.032))
    tone = np.array(look.skin) * (1 + mottles - sockets)[:, None]
    return tone * (1 - red[:, None] * np.array([0.02, 0.35, 0.32]))


def _brows(look: Look, p: np.ndarray) -> np.ndarray:
    side = np.abs(p[:, 0])
    width = np.interp(side, BROW_X, (0.0083, 0.0106, 0.0092, 0.0069, 0.0028)) * look.brow_weight
    across = (p[:, 1] - np.interp(side, BROW_X, BROW_Y)) / width
    inside = _step(side - BROW_X[0], 0.012) * _step(BROW_X[-1] - side, 0.02)
    return np.exp(-(across**4)) * inside * (p[:, 2] > 0.1) * min(0.55 + 0.4 * look.brow_weight, 0.95)


def _lashes(look: Look, p: np.ndarray) -> np.ndarray:
    """A dark line where the lids touch the eyeballs, mostly above."""
    centre = np.array([0.0798, 0.06, 0.24])
    away = np.stack([np.abs(p[:, 0]), p[:, 1], p[:, 2]], axis=1) - centre
    near = _step(EYEBALL + 0.006 - np.linalg.norm(away, axis=1), 0.004)
    return near * np.where(away[:, 1] > 0, 1.0, 0.35) * look.lashes * (away[:, 2] > 0.012)


def _beard(look: Look, p: np.ndarray) -> np.ndarray:
    side, y = np.abs(p[:, 0]), p[:, 1]
    line = np.interp(side, BEARD_X, BEARD_Y)
    grows = _step(line - y, 0.03) * _step(y - BEARD_END, 0.06) * (p[:, 2] > -0.02)
    return grows * max(0.92 * look.beard, 0.3 * look.stubble)


def _scalp(look: Look, points: np.ndarray) -> np.ndarray:
    """Hair close to the skin, as far as the hairline; of the bald nothing but a shade at the sides."""
    theta, phi = hairs.angles(points)
    line = hairs.hairline(look.hair, phi)
    if look.hair.style == "bald":
        crown = _step(theta - 1.25, 0.3)
        return 0.45 * crown * _step(line - theta, 0.12)
    cover = {"shaved": 0.7}.get(look.hair.style, 0.95)
    return cover * _step(line - theta, 0.10) * (points[:, 1] > -0.28)


def _eyes(look: Look, eyeballs, points: np.ndarray) -> np.ndarray:
    yaw, pitch = look.gaze
    axis = np.array([np.sin(yaw) * np.cos(pitch), np.sin(pitch), np.cos(yaw) * np.cos(pitch)])
    right, left = (points - ball for ball in eyeballs)
    away = np.where((points[:, :1] < 0), right, left)
    away = away / np.linalg.norm(away, axis=1, keepdims=True)
    angle = np.arccos(np.clip(away @ axis, -1, 1))
    colour = np.broadcast_to(np.array(SCLERA), points.shape) * (1 - 0.25 * np.clip(angle - IRIS, 0, 1))[:, None]
    spokes = 1 + 0.12 * np.sin(23 * np.arctan2(away[:, 1], away[:, 0]))
    iris = np.array(look.irises) * (spokes * (0.8 + 0.7 * np.clip((angle - PUPIL) / (IRIS - PUPIL), 0, 1)))[:, None]
    colour = _mixed(colour, iris, _step(IRIS - angle, 0.04))
    colour = _mixed(colour, np.array(look.irises) * 0.25, 0.8 * _bump((angle - IRIS + LIMBUS / 2) / LIMBUS))
    return _mixed(colour, DARK, _step(PUPIL - angle, 0.03))
