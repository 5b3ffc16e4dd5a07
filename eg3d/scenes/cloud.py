"""The cameras of a data set as a picture: from above and from the side, around the box."""

from __future__ import annotations

import math
import os
from typing import Any, Dict, List, Optional, Tuple

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

from torch_utils.images import VIRIDIS, save_png

PANEL, MARGIN, HEAD, FOOT = 560, 64, 84, 76  # pixels: a view's side, around it, above, below
FINE = 2  # drawn so many times larger, then reduced: smooth edges
MOST = 4000  # cameras drawn
PAPER, INK, PALE, FAINT, BOX, SEEN = "white", "#20242a", "#8a929c", "#e9ecef", "#c2410c", "#fde8d8"
VIEWS = (  # title, then the world axis and direction to the right, and upwards
    ("from above", (0, 1), (2, -1)), ("from the side", (2, 1), (1, 1)))


def draw(labels: np.ndarray, suggestion: Optional[Dict[str, Any]], title: str, path: os.PathLike) -> None:
    """Writes a PNG: labels [N, 25]; box, pivot and ray limits of a `suggestion` too. The colour is the cameras' yaw."""
    labels = np.asarray(labels, dtype=np.float64)
    poses = labels[:, :16].reshape(-1, 4, 4)
    shown = poses[np.linspace(0, len(poses) - 1, min(len(poses), MOST)).astype(int)]
    size = (2 * PANEL + 3 * MARGIN, PANEL + HEAD + FOOT)
    image = PIL.Image.new("RGB", (size[0] * FINE, size[1] * FINE), PAPER)
    sheet = _Sheet(PIL.ImageDraw.Draw(image))
    some = "" if len(shown) == len(poses) else f", {len(shown)} of them shown"
    sheet.text((MARGIN, 20), f"{title}: {len(poses)} cameras{some}", INK, 20)
    wedges = [] if suggestion is None else [_seen(labels, suggestion, across) for across in (True, False)]
    half = 0.0 if suggestion is None else suggestion["box_warp"] / 2
    low, side = _extent(np.concatenate([shown[:, :3, 3], [[-half] * 3, [half] * 3], *wedges]))
    yaw = np.degrees(np.arctan2(shown[:, 0, 3], shown[:, 2, 3]))
    for index, (name, right, up) in enumerate(VIEWS):
        view = _View(sheet, MARGIN + index * (PANEL + MARGIN), right, up, low, side)
        if suggestion is not None:
            view.area(wedges[index])
        view.axes(name)
        view.cameras(shown, _colors(yaw))
        if suggestion is not None:
            view.box(suggestion)
    _legend(sheet, yaw, suggestion)
    save_png(np.asarray(image.resize(size, PIL.Image.Resampling.LANCZOS)), path)


def _extent(points: np.ndarray) -> Tuple[np.ndarray, float]:
    """Lowest corner [3] and side of a cube around points [M, 3], with room to spare."""
    low, high = points.min(axis=0), points.max(axis=0)
    side = max((high - low).max(), 1e-6) * 1.12
    return (low + high - side) / 2, side


def _seen(labels: np.ndarray, suggestion: Dict[str, Any], across: bool) -> np.ndarray:
    """Corners [4, 3] of what the most ordinary camera sees from ray_start to ray_end, across its picture or up and down."""
    poses, K = labels[:, :16].reshape(-1, 4, 4), labels[:, 16:].reshape(-1, 3, 3)
    origins = poses[:, :3, 3]
    one = np.linalg.norm(origins - np.median(origins, axis=0), axis=1).argmin()
    edges = np.array([[0, 0.5, 1], [1, 0.5, 1]] if across else [[0.5, 0, 1], [0.5, 1, 1]]).T
    rays = (poses[one, :3, :3] @ np.linalg.inv(K[one]) @ edges).T
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    near, far = suggestion["ray_start"], suggestion["ray_end"]
    return origins[one] + np.stack([rays[0] * near, rays[0] * far, rays[1] * far, rays[1] * near])


def _colors(values: np.ndarray) -> List[Tuple[int, ...]]:
    """Viridis without its palest end, over the range of the values."""
    table = np.array(VIRIDIS[:-1], dtype=np.float64)
    span = values.max() - values.min()
    place = (values - values.min()) / (span if span > 0 else 1) * (len(table) - 1)
    mixed = np.stack([np.interp(place, np.arange(len(table)), table[:, channel]) for channel in range(3)], axis=1)
    return [tuple(color) for color in mixed.round().astype(int).tolist()]


def _legend(sheet: _Sheet, yaw: np.ndarray, suggestion: Optional[Dict[str, Any]]) -> None:
    top, width = HEAD + PANEL + 46, 180
    for offset, color in enumerate(_colors(np.arange(width, dtype=np.float64))):
        sheet.line([(MARGIN + offset, top), (MARGIN + offset, top + 10)], color, 1)
    text = f"yaw {yaw.min():.0f} to {yaw.max():.0f} degrees"
    if suggestion is not None:
        text += ("        orange: the suggested box about the origin, and the pivot; shaded: what one camera sees from "
                 "ray_start to ray_end")
    sheet.text((MARGIN + width + 12, top - 3), text, INK, 14)


class _Sheet:
    """Drawing in pixels of the finished picture."""

    def __init__(self, draw: PIL.ImageDraw.ImageDraw):
        self._draw = draw

    def line(self, points, color, width: float) -> None:
        self._draw.line(_fine(points), color, round(width * FINE))

    def area(self, points, color) -> None:
        self._draw.polygon(_fine(points), color)

    def dot(self, point, radius: float, color) -> None:
        x, y = point
        self._draw.ellipse(_fine([(x - radius, y - radius), (x + radius, y + radius)]), color)

    def text(self, point, text: str, color, size: int, anchor: str = "la") -> None:
        self._draw.text(_fine([point])[0], text, color, PIL.ImageFont.load_default(size * FINE), anchor)


def _fine(points) -> List[Tuple[float, float]]:
    return [(x * FINE, y * FINE) for x, y in points]


class _View:
    """One view: a square of the world, `low` [3] its corner and `side` its length."""

    def __init__(self, sheet: _Sheet, left: int, right: Tuple[int, int], up: Tuple[int, int], low: np.ndarray, side: float):
        self._sheet, self._left, self._right, self._up, self._low, self._side = sheet, left, right, up, low, side

    def _place(self, points: np.ndarray) -> List[Tuple[float, float]]:
        """Pixels of world points [M, 3]."""
        share = (points - self._low) / self._side
        along = [share[:, axis] if sign > 0 else 1 - share[:, axis] for axis, sign in (self._right, self._up)]
        return list(zip((self._left + along[0] * PANEL).tolist(), (HEAD + PANEL - along[1] * PANEL).tolist()))

    def axes(self, name: str) -> None:
        """Frame, ticks in world units, the names of the axes."""
        step = _step(self._side)
        left, right, top, bottom = self._left, self._left + PANEL, HEAD, HEAD + PANEL
        for axis, upright in ((self._right[0], True), (self._up[0], False)):
            first = math.ceil(self._low[axis] / step)
            for number in range(first, math.floor((self._low[axis] + self._side) / step) + 1):
                point = self._low.copy()
                point[axis] = number * step
                x, y = self._place(point[None])[0]
                ends = [(x, top), (x, bottom)] if upright else [(left, y), (right, y)]
                self._sheet.line(ends, PALE if number == 0 else FAINT, 1)
                at, anchor = ((x, bottom + 6), "ma") if upright else ((left - 6, y), "rm")
                self._sheet.text(at, f"{number * step:g}", PALE, 13, anchor)
        self._sheet.line([(left, top), (right, top), (right, bottom), (left, bottom), (left, top)], PALE, 1)
        self._sheet.text((left, top - 24), name, INK, 15)
        letters = ["xyz"[axis] for axis in (self._right[0], self._up[0])]
        arrow = "up" if self._up[1] > 0 else "down"
        self._sheet.text((right, top - 22), f"{letters[0]} to the right, {letters[1]} {arrow}", PALE, 13, "ra")

    def cameras(self, poses: np.ndarray, colors: List[Tuple[int, ...]]) -> None:
        """A dot each, and a stroke where it looks; the first ones on top."""
        origins = poses[:, :3, 3]
        starts, ends = self._place(origins), self._place(origins + poses[:, :3, 2] * self._side * 0.05)
        radius = 3.5 if len(poses) <= 500 else 2.2
        for start, end, color in reversed(list(zip(starts, ends, colors))):
            self._sheet.line([start, end], color, 1)
            self._sheet.dot(start, radius, color)

    def area(self, corners: np.ndarray) -> None:
        """What a camera sees."""
        self._sheet.area(self._place(corners), SEEN)

    def box(self, suggestion: Dict[str, Any]) -> None:
        """The box about the origin, and the pivot."""
        half = suggestion["box_warp"] / 2
        signs = np.zeros((5, 3))
        signs[:, self._right[0]], signs[:, self._up[0]] = (-1, 1, 1, -1, -1), (-1, -1, 1, 1, -1)
        self._sheet.line(self._place(signs * half), BOX, 2)
        [(x, y)] = self._place(np.array(suggestion["pivot"])[None])
        self._sheet.line([(x - 7, y), (x + 7, y)], BOX, 2)
        self._sheet.line([(x, y - 7), (x, y + 7)], BOX, 2)


def _step(side: float) -> float:
    """Distance of ticks: 1, 2 or 5 times a power of ten, five to ten of them."""
    power = 10.0 ** math.floor(math.log10(side / 5))
    return max(step for step in (power, 2 * power, 5 * power) if step <= side / 5)
