"""Hair: a shell around the skull, thick or thin, which may hang down, and a knot of tied hair.

Around the skull's centre a direction has an angle from the top (theta, 0 to pi) and an azimuth (phi, 0 in front, positive to
+x, the head's left). Hair grows where theta is less than the hairline's.
"""

from __future__ import annotations

from typing import NamedTuple, Optional, Tuple

import numpy as np
from scipy.interpolate import PchipInterpolator
from scipy.ndimage import gaussian_filter

from eg3d.scenes.heads.looks import Hair

CENTRE = np.array([0.0, 0.10, 0.02])  # of the skull
COLUMNS, ROWS = 144, 60  # of the shell
# the hairline: azimuth -> theta, from the forehead past the temple, the sideburn and the ear to the nape
HAIRLINE = PchipInterpolator([0.0, 0.5, 0.85, 1.1, 1.25, 1.42, 1.62, 1.95, 2.4, np.pi],
                             [1.0, 1.01, 1.12, 1.42, 1.66, 1.70, 1.44, 1.74, 2.3, 2.42])
TAPER = 0.22  # radians before the hairline over which short hair gets thin
HANGS_FROM = 1.3  # theta from which long hair falls straight
FALLS_BESIDE = 1.12  # azimuth of the front edge of long hair
LONG = ("bob", "long")


class Shell(NamedTuple):
    """Triangles of hair, and along them."""

    vertices: np.ndarray  # [V, 3]
    triangles: np.ndarray  # [F, 3]
    strands: np.ndarray  # [V, 3]: unit vectors along the hair
    shade: np.ndarray  # [V]: brightness, about 1


def angles(points: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """theta and phi of points [N, 3]."""
    x, y, z = (points - CENTRE).T
    return np.arctan2(np.hypot(x, z), y), np.arctan2(x, z)


def hairline(hair: Hair, phi: np.ndarray) -> np.ndarray:
    """The theta where hair ends, with the fringe and what has receded."""
    front = np.exp(-((phi / 0.75) ** 4))
    temples = np.exp(-(((np.abs(phi) - 0.55) / 0.3) ** 2))
    middle = hair.peak * np.exp(-((phi / 0.25) ** 2))
    return HAIRLINE(np.abs(phi)) + front * (hair.fringe - 0.6 * hair.recede) - 0.5 * temples * hair.recede + middle


def skull_radius(radii: np.ndarray) -> np.ndarray:
    """Distances [ROWS, COLUMNS] from the centre to the skin, NaN where the ears were left out -> filled and smoothed."""
    known = np.isfinite(radii)
    weights = gaussian_filter(known.astype(np.float64), 2.0, mode=("nearest", "wrap"))
    values = gaussian_filter(np.where(known, radii, 0.0), 2.0, mode=("nearest", "wrap"))
    smooth = values / np.maximum(weights, 1e-3)
    return np.where(known, np.maximum(smooth, radii), smooth)


def directions() -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """theta [ROWS, 1], phi [1, COLUMNS] and unit vectors [ROWS, COLUMNS, 3] of the grid that skull_radius() wants."""
    theta = ((np.arange(ROWS) + 0.5) / ROWS * np.pi)[:, None]
    phi = (np.arange(COLUMNS) / COLUMNS * 2 * np.pi - np.pi)[None]
    return theta, phi, _unit(theta, phi)


def _unit(theta, phi) -> np.ndarray:
    return np.stack(np.broadcast_arrays(np.sin(theta) * np.sin(phi), np.cos(theta), np.sin(theta) * np.cos(phi)), axis=-1)


def shell(hair: Hair, radii: np.ndarray) -> Optional[Shell]:
    """The hair on a skull of `radii` [ROWS, COLUMNS]; None for a bald one."""
    if hair.style == "bald":
        return None
    random = np.random.RandomState(hair.seed)
    phi = np.linspace(-np.pi, np.pi, COLUMNS + 1)[None]  # the first column again at the end
    line = hairline(hair, phi) + 0.03 * _noise(random, (1, COLUMNS + 1), (0, 1.2))  # not cut by a ruler
    along = np.linspace(0, 1, ROWS)[:, None]
    theta = along * line
    falling = np.zeros_like(theta)
    if hair.style in LONG:
        beside = _smooth(np.abs(phi), FALLS_BESIDE - 0.06, FALLS_BESIDE + 0.06)
        theta, falling = _hanging(hair, along, line, beside)
    skin = _looked_up(radii, theta, phi)
    thickness = _thickness(hair, theta, phi, line) * (1 + _unevenness(random, hair, theta)) + 0.002
    points = CENTRE + _unit(theta, phi) * (skin + thickness)[..., None]
    points = _drop(hair, points, falling, phi)
    vertices, triangles = points.reshape(-1, 3), _grid_triangles(*points.shape[:2])
    strands = np.gradient(points, axis=0)
    strands /= np.maximum(np.linalg.norm(strands, axis=-1, keepdims=True), 1e-9)
    shade = 1 + _streaks(random, hair, theta.shape)
    made = Shell(vertices.astype(np.float32), triangles, strands.reshape(-1, 3).astype(np.float32), shade.ravel())
    return _joined(made, _knot(hair, random, radii)) if hair.style == "tied" else made


def _smooth(value, low: float, high: float):
    """0 below, 1 above, smooth between."""
    t = np.clip((value - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def _looked_up(radii: np.ndarray, theta, phi) -> np.ndarray:
    """Bilinear radii at angles."""
    theta, phi = np.broadcast_arrays(theta, phi)
    row = np.clip(theta / np.pi * ROWS - 0.5, 0, ROWS - 1.001)
    column = (phi + np.pi) / (2 * np.pi) * COLUMNS
    i, j = row.astype(int), column.astype(int)
    u, v = row - i, column - j
    j, k = j % COLUMNS, (j + 1) % COLUMNS
    return (1 - u) * ((1 - v) * radii[i, j] + v * radii[i, k]) + u * ((1 - v) * radii[i + 1, j] + v * radii[i + 1, k])


def _hanging(hair: Hair, along, line, beside):
    """theta, and how far (0..1) hair has fallen, of long hair: beside the face and behind it half of the rows fall."""
    crown = np.minimum(along * 2, 1)
    theta = (1 - beside) * along * line + beside * crown * np.minimum(HANGS_FROM, line)
    return theta, beside * np.maximum(along * 2 - 1, 0)


def _thickness(hair: Hair, theta, phi, line) -> np.ndarray:
    upper = 1 - _smooth(theta, 0.7, 1.3)
    thick = hair.side + (hair.thickness - hair.side) * upper
    parted = 1 - 0.55 * np.exp(-(((phi - hair.parting) / 0.12) ** 2)) * (theta > 0.05) * (np.abs(hair.parting) > 0)
    thick = thick * np.where(np.abs(phi) < 1.6, parted, 1)
    edge = 0.15 if hair.fringe else 0.0
    taper = np.clip((line - theta) / TAPER, 0, 1) ** 0.5
    front = np.exp(-((phi / 0.7) ** 4)) * edge
    taper = np.maximum(taper, front * (theta < line - 1e-6))  # the last row lies on the skin
    if hair.style in LONG:
        inwards = _smooth(np.abs(phi), FALLS_BESIDE, FALLS_BESIDE + 0.25)
        hanging = _smooth(np.abs(phi), FALLS_BESIDE - 0.06, FALLS_BESIDE + 0.06)
        taper = (1 - hanging) * taper + hanging * (0.3 + 0.7 * inwards)
    over_ears = 0.035 * np.exp(-(((np.abs(phi) - 1.6) / 0.3) ** 2)) * np.exp(-(((theta - 1.55) / 0.3) ** 2))
    return thick * taper + over_ears * (hair.style in LONG)


def _unevenness(random, hair: Hair, theta) -> np.ndarray:
    """Waves, curls and strands: what the thickness varies by, as a share of it."""
    size = (ROWS, COLUMNS + 1)
    waves, curls, strands = (_noise(random, size, blur) for blur in ((6, 6), (1.8, 2.0), (8, 0.9)))
    return (0.12 * waves + 0.16 * hair.curl * curls + 0.05 * (1 - hair.curl) * strands) * np.minimum(theta, 1)


def _noise(random, size, blur) -> np.ndarray:
    """Smooth noise of deviation 1, which joins at the azimuth's ends."""
    inner = gaussian_filter(random.normal(size=(size[0], size[1] - 1)), blur, mode=("nearest", "wrap"))
    inner /= inner.std()
    return np.concatenate([inner, inner[:, :1]], axis=1)


def _streaks(random, hair: Hair, size) -> np.ndarray:
    return 0.13 * _noise(random, size, (9 * (1 - hair.curl) + 1, 0.6)) + 0.06 * _noise(random, size, (1, 1))


def _drop(hair: Hair, points: np.ndarray, falling, phi) -> np.ndarray:
    """Long hair falls to its end, a little inwards under the chin and outwards over the shoulders."""
    falling = np.broadcast_to(falling, points.shape[:2])
    end = hair.end + 0.03 * np.cos(3 * phi)
    dropped = points.copy()
    dropped[..., 1] += falling * np.minimum(end - points[..., 1], 0)
    bob, long = hair.style == "bob", hair.style == "long"
    swing = 1 - 0.28 * bob * np.sin(falling * np.pi / 2) - 0.16 * long * np.sin(falling * np.pi)
    dropped[..., 0] *= swing
    dropped[..., 2] = CENTRE[2] + (points[..., 2] - CENTRE[2]) * swing
    return dropped


def _grid_triangles(rows: int, columns: int) -> np.ndarray:
    corner = np.arange(rows * columns).reshape(rows, columns)
    a, b, c, d = (part.ravel() for part in (corner[:-1, :-1], corner[1:, :-1], corner[1:, 1:], corner[:-1, 1:]))
    return np.concatenate([np.stack([a, b, c], axis=1), np.stack([a, c, d], axis=1)])


def _knot(hair: Hair, random, radii) -> Shell:
    """A bun, on top or behind."""
    theta, phi = random.uniform(0.35, 2.0), np.pi * 0.999
    size = random.uniform(0.06, 0.1)
    middle = CENTRE + _unit(theta, phi) * (_looked_up(radii, np.array(theta), np.array(phi)) + 0.75 * size)
    v, u = np.meshgrid(np.linspace(0, np.pi, 14), np.linspace(0, 2 * np.pi, 25), indexing="ij")
    ball = _unit(v, u)
    bumps = 1 + 0.05 * _noise(random, v.shape, (2, 1))
    points = middle + size * ball * bumps[..., None] * np.array([1.15, 0.95, 0.95])
    strands = np.gradient(points, axis=1)
    strands /= np.maximum(np.linalg.norm(strands, axis=-1, keepdims=True), 1e-9)
    shade = 1 + 0.12 * _noise(random, v.shape, (0.6, 3))
    return Shell(points.reshape(-1, 3).astype(np.float32), _grid_triangles(*v.shape), strands.reshape(-1, 3).astype(np.float32),
                 shade.ravel())


def _joined(one: Shell, other: Shell) -> Shell:
    return Shell(np.concatenate([one.vertices, other.vertices]),
                 np.concatenate([one.triangles, other.triangles + len(one.vertices)]),
                 np.concatenate([one.strands, other.strands]), np.concatenate([one.shade, other.shade]))
