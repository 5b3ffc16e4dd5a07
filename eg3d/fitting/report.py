"""What a comparison of fits came to: a table in Markdown, and a plot of quality against seconds."""

from __future__ import annotations

import math
import os
from typing import Dict, List, Optional

import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

from dnnlib.util import written_beside
from eg3d.fitting.fit import Fit

SIZE, MARGIN, FINE = (900, 560), (84, 56, 40, 84), 2  # left, top, right, bottom; drawn twice as large, then reduced
PAPER, INK, PALE, FAINT = "white", "#20242a", "#8a929c", "#e9ecef"
COLOURS = dict(triplane="#c2410c", voxel="#2563eb", mlp="#15803d")
LINE = 3


def reached(fit: Fit, psnr: float) -> Optional[float]:
    """Seconds after which a fit's curve had that many decibels, between two looks by a straight line; None if never."""
    for before, after in zip(fit.curve, fit.curve[1:]):
        if after.psnr >= psnr:
            if before.psnr >= psnr:
                return before.seconds
            return before.seconds + (psnr - before.psnr) / (after.psnr - before.psnr) * (after.seconds - before.seconds)
    return None


def table(fits: List[Fit]) -> str:
    """A row for each; the last column is the time until the mlp's last PSNR on the way."""
    goal = next((fit.curve[-1].psnr for fit in fits if fit.kind == "mlp"), math.nan)
    lines = ["| representation | megabytes | steps | seconds | PSNR, dB | SSIM | depth correlation | "
             f"seconds to {goal:.2f} dB |",
             "|---|---|---|---|---|---|---|---|"]
    for fit in fits:
        found = reached(fit, goal)
        depth = "" if fit.depth_correlation is None else f"{fit.depth_correlation:.3f}"
        lines.append(f"| {fit.kind} | {fit.fitted.field.size() / 1e6:.2f} | {fit.steps} | {fit.seconds:.0f} | {fit.psnr:.2f} | "
                     f"{fit.ssim:.3f} | {depth} | {'never' if found is None else f'{found:.1f}'} |")
    return "\n".join(lines) + "\n"


def plot(fits: List[Fit], title: str, path: os.PathLike) -> None:
    """Writes a PNG: PSNR on some held-out pixels against seconds of fitting, the first look left out."""
    image = PIL.Image.new("RGB", tuple(side * FINE for side in SIZE), PAPER)
    sheet = PIL.ImageDraw.Draw(image)
    points: Dict[str, list] = {fit.kind: [(moment.seconds, moment.psnr) for moment in fit.curve[1:]] for fit in fits}
    seconds = max(x for line in points.values() for x, _ in line)
    values = [y for line in points.values() for _, y in line]
    low, high = 2 * math.floor(min(values) / 2), 2 * math.ceil(max(values) / 2)
    left, top, right, bottom = MARGIN

    def place(x: float, y: float):
        return ((left + x / seconds * (SIZE[0] - left - right)) * FINE,
                (SIZE[1] - bottom - (y - low) / max(high - low, 1) * (SIZE[1] - top - bottom)) * FINE)

    for value in range(low, high + 1, 2):
        sheet.line([place(0, value), place(seconds, value)], FAINT, FINE)
        sheet.text(place(0, value), f"{value} ", INK, _font(15), anchor="rm")
    for share in (0, 0.25, 0.5, 0.75, 1):
        x, y = place(seconds * share, low)
        sheet.text((x, y + 10 * FINE), f"{seconds * share:.0f}", INK, _font(15), anchor="mt")
    sheet.text((SIZE[0] * FINE // 2, (SIZE[1] - 30) * FINE), "seconds of fitting", PALE, _font(15), anchor="mm")
    sheet.text((left * FINE, 18 * FINE), f"{title}: PSNR on held-out views, dB", INK, _font(18), anchor="lm")
    for index, fit in enumerate(fits):
        line = [place(*point) for point in points[fit.kind]]
        sheet.line(line, COLOURS[fit.kind], LINE * FINE, joint="curve")
        for x, y in line:
            sheet.ellipse([x - 3 * FINE, y - 3 * FINE, x + 3 * FINE, y + 3 * FINE], COLOURS[fit.kind])
        text = f"{fit.kind}, {fit.fitted.field.size() / 1e6:.1f} MB"
        sheet.text(((SIZE[0] - right - 190) * FINE, (SIZE[1] - bottom - 90 + 26 * index) * FINE), text, COLOURS[fit.kind],
                   _font(16), anchor="lm")
    with written_beside(path) as temporary:
        image.resize(SIZE, PIL.Image.Resampling.LANCZOS).save(temporary, format="PNG")


def _font(size: int):
    return PIL.ImageFont.load_default(size * FINE)
