"""The page of a training run: index.html with the curves, the latest pictures and the options.

It reads what a run leaves in its folder (training_options.json, stats.jsonl, metric-*.jsonl, pictures, snapshots) and works
from disk: one file without scripts, whose only links are those to its neighbours. It reloads itself every minute.
"""

from __future__ import annotations

import json
import math
import os
import re
import time
from html import escape
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Union
from urllib.parse import quote

import numpy as np

from dnnlib.util import format_time, written_beside

PAGE = "index.html"
RELOAD = 60  # seconds
MOST_POINTS = 600  # of a curve
MOST_DOTS = 24  # points of a curve that are drawn one by one, too
LARGEST = 1e300  # of a number that can be drawn
WIDTH, HEIGHT = 360, 190  # of a chart, in its own units, and its margins:
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 10, 24
COLOURS = 4  # of curves, named in STYLE

Points = np.ndarray  # [n, 2]: kimg and a value, both finite


class Panel(NamedTuple):
    """A chart: its title, and the statistic of each curve by the curve's name."""

    title: str
    curves: Dict[str, str]
    log: bool = False
    has_target: bool = False  # of adaptive augmentation


PANELS = (
    Panel("Scores of D", {"real": "Loss/scores/real", "fake": "Loss/scores/fake"}),
    Panel("Losses", {"G": "Loss/G/loss", "D": "Loss/D/loss"}),
    Panel("Signs of real scores", {"mean": "Loss/signs/real"}, has_target=True),
    Panel("Probability of augmentation", {"p": "Progress/augment"}),
    Panel("R1 penalty", {"mean": "Loss/r1_penalty"}, log=True),
    Panel("Seconds per kimg", {"sec": "Timing/sec_per_kimg"}),
)
STATE = ("Progress/tick", "Progress/kimg", "Timing/sec_per_kimg")
PICTURES = {"": "Generated", "_raw": "Rendered, before super-resolution", "_depth": "Depth, near is bright"}

STYLE = """
:root { color-scheme: light dark; --paper: #f7f7f5; --card: #fff; --ink: #1d2226; --soft: #5b656e; --line: #dfe3e6;
  --c0: #2160b8; --c1: #b8530c; --c2: #1b7a5a; --c3: #7d4aa6; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #15181b; --card: #1d2125; --ink: #e4e7ea; --soft: #9aa5ae; --line: #343b41;
    --c0: #7fb2f5; --c1: #f0a35e; --c2: #67cba4; --c3: #c9a0ea; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1240px; padding: 32px 24px 64px; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; font-variant-numeric: tabular-nums; }
h1 { margin: 0 0 16px; font-size: 24px; line-height: 1.25; font-weight: 600; overflow-wrap: anywhere; }
h2 { margin: 40px 0 12px; font-size: 17px; font-weight: 600; }
a { color: var(--c0); text-underline-offset: 2px; }
dl { display: flex; flex-wrap: wrap; gap: 12px 40px; margin: 0; }
dt, figcaption, small, li span { color: var(--soft); font-size: 13px; font-weight: 400; }
dd { margin: 0; font-size: 17px; }
progress { display: block; width: 100%; height: 6px; margin-top: 16px; appearance: none; border: 0; border-radius: 3px;
  background: var(--line); overflow: hidden; }
progress::-webkit-progress-bar { background: var(--line); }
progress::-webkit-progress-value { background: var(--c0); }
progress::-moz-progress-bar { background: var(--c0); }
.charts, .pictures { display: grid; gap: 16px; grid-template-columns: repeat(auto-fill, minmax(min(100%, 330px), 1fr)); }
.pictures { grid-template-columns: repeat(auto-fill, minmax(min(100%, 480px), 1fr)); }
figure { margin: 0; padding: 14px 16px; background: var(--card); border: 1px solid var(--line); border-radius: 8px; }
figcaption { display: flex; flex-wrap: wrap; justify-content: space-between; gap: 0 16px; margin-bottom: 8px; }
figcaption b { color: var(--ink); font-size: 14px; font-weight: 600; }
figure img, figure svg { display: block; width: 100%; height: auto; }
figure img { border-radius: 4px; }
svg text { fill: var(--soft); font-size: 11px; }
.grid { stroke: var(--line); stroke-width: 1; }
.target { stroke: var(--soft); stroke-width: 1; stroke-dasharray: 4 3; }
polyline { fill: none; stroke-width: 1.5; stroke-linejoin: round; stroke-linecap: round; }
.c0 { stroke: var(--c0); } .c1 { stroke: var(--c1); } .c2 { stroke: var(--c2); } .c3 { stroke: var(--c3); }
.keys { display: flex; flex-wrap: wrap; gap: 0 12px; }
.key::before { content: ""; display: inline-block; width: 12px; margin: 0 5px 3px 0; vertical-align: middle;
  border-top: 3px solid; }
.key.goal::before { border-top: 1px dashed; }
.key.c0::before { color: var(--c0); } .key.c1::before { color: var(--c1); }
.key.c2::before { color: var(--c2); } .key.c3::before { color: var(--c3); }
details { margin-top: 16px; }
summary { cursor: pointer; color: var(--soft); }
ul { margin: 8px 0 0; padding: 0; list-style: none; columns: 20em; column-gap: 40px; }
li { display: flex; gap: 0 12px; break-inside: avoid; overflow-wrap: anywhere; }
pre { padding: 14px 16px; overflow-x: auto; background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  font-size: 13px; line-height: 1.45; }
@media (max-width: 480px) { body { padding: 20px 12px 40px; } figure { padding: 12px 10px; } dl { gap: 10px 28px; } }
"""


def write_page(run_dir: Union[str, os.PathLike]) -> Path:
    """Writes index.html into a run's folder and returns its path. What the run has not made yet is left out.

    Raises ValueError if there is no such folder or its training_options.json is no JSON object.
    """
    run_dir = Path(run_dir)
    if not run_dir.is_dir():
        raise ValueError(f"{run_dir}: no such folder; give that of a training run")
    options = _options(run_dir / "training_options.json")
    rows = read_statistics(run_dir / "stats.jsonl")
    name = escape(run_dir.resolve().name)
    content = [f"<h1>{name}</h1>", _state(rows, options), _curves(rows, read_metrics(run_dir), options), _pictures(run_dir),
               _files(run_dir)]
    if options:
        content.append(f"<details><summary>Options</summary><pre>{escape(json.dumps(options, indent=2))}</pre></details>")
    body = "\n".join(part for part in content if part)
    with written_beside(run_dir / PAGE) as temporary:
        temporary.write_text(
            f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="{RELOAD}">\n'
            f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{name}</title>\n'
            f"<style>{STYLE}</style></head>\n<body>\n{body}\n</body></html>\n", encoding="utf-8")
    return run_dir / PAGE


# ------------------------------------------------------------------------------------------------ what a run leaves

def _options(path: Path) -> Dict[str, Any]:
    if not path.exists():
        return {}
    try:
        options = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: no JSON ({error})") from error
    if not isinstance(options, dict):
        raise ValueError(f"{path}: holds no options, which are a JSON object")
    return options


def _lines(path: Path) -> Iterator[Dict[str, Any]]:
    """The JSON objects of a file, one a line; lines that are none are passed over, since a run may have died writing one."""
    if not path.exists():
        return
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict):
                yield entry


def _drawable(value: Any) -> bool:
    return isinstance(value, (int, float)) and abs(value) < LARGEST  # NaN is not


def read_statistics(path: Path) -> List[Dict[str, float]]:
    """The means in a stats.jsonl that the page shows, and `timestamp`: a dict a line, which lacks what has no value.

    A run that goes on from a checkpoint counts kimg from there: its numbers take the place of those that came after.
    """
    names = {*STATE, *(name for panel in PANELS for name in panel.curves.values())}
    rows: List[Dict[str, float]] = []
    for entry in _lines(path):
        row = {name: entry[name]["mean"] for name in names
               if isinstance(entry.get(name), dict) and _drawable(entry[name].get("mean"))}
        if "Progress/kimg" not in row:
            continue
        if _drawable(entry.get("timestamp")):
            row["timestamp"] = entry["timestamp"]
        while rows and rows[-1]["Progress/kimg"] >= row["Progress/kimg"]:
            rows.pop()
        rows.append(row)
    return rows


def read_metrics(run_dir: Path) -> Dict[str, Dict[str, Points]]:
    """metric -> result -> its values over the snapshots' kimg."""
    metrics: Dict[str, Dict[str, Points]] = {}
    for path in sorted(run_dir.glob("metric-*.jsonl")):
        found: Dict[str, Dict[int, float]] = {}
        for entry in _lines(path):
            kimg = re.search(r"(\d+)\.pkl$", str(entry.get("snapshot_pkl")))
            results = entry.get("results")
            for name, value in results.items() if kimg and isinstance(results, dict) else ():
                if _drawable(value):
                    found.setdefault(name, {})[int(kimg[1])] = value
        metrics[path.stem[len("metric-"):]] = {name: np.array(sorted(values.items()), dtype=np.float64)
                                               for name, values in found.items()}
    return metrics


# ------------------------------------------------------------------------------------------------ curves

def thinned(points: Points, most: int = MOST_POINTS) -> Points:
    """At most `most` (4 or more) of [n, 2]: both ends, and the lowest and highest of even stretches, so that peaks stay."""
    if len(points) <= most:
        return points
    keep = {0, len(points) - 1}
    for stretch in np.array_split(np.arange(len(points)), most // 2 - 1):
        values = points[stretch, 1]
        keep |= {int(stretch[values.argmin()]), int(stretch[values.argmax()])}
    return points[sorted(keep)]


def ticks(low: float, high: float, most: int = 5) -> List[float]:
    """Round numbers, evenly spaced, from `low` or below to `high` or above: at most `most` (4 or more) intervals."""
    size = max(abs(low), abs(high))
    if high - low <= 1e-6 * size or size == 0:
        low, high = low - (0.1 * size or 0.5), high + (0.1 * size or 0.5)
    unit = 10.0 ** math.floor(math.log10((high - low) / most))
    for step in (unit, 2 * unit, 5 * unit, 10 * unit, 20 * unit):
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        if last - first <= most:
            break
    return [float(f"{number * step:.10g}") for number in range(first, last + 1)]


def log_ticks(low: float, high: float, most: int = 5) -> List[float]:
    """As `ticks` for a logarithmic axis, low > 0: some of 1, 2, 5 in each decade, or whole decades."""
    if high / low < 1.01:
        low, high = low / 1.5, high * 1.5
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    fine = [float(f"{digit}e{decade}") for decade in range(first - 1, last + 2) for digit in (1, 2, 5)]
    below, above = max(t for t in fine if t <= low), min(t for t in fine if t >= high)
    fine = [t for t in fine if below <= t <= above]
    if len(fine) <= most + 1:
        return fine
    step = math.ceil((last - first) / most)
    return [float(f"1e{first + step * number}") for number in range(math.ceil((last - first) / step) + 1)]


def chart(title: str, curves: Dict[str, Points], log: bool = False, target: Optional[float] = None) -> str:
    """A figure of curves over kimg as inline SVG; empty if they have no points. `target`: a dashed line at that value."""
    curves = {name: thinned(points[points[:, 1] > 0] if log else points) for name, points in curves.items()}
    curves = {name: points for name, points in curves.items() if len(points)}
    if not curves:
        return ""
    every = np.concatenate(list(curves.values()))
    values = [*every[:, 1], *([] if target is None else [target])]
    marks = (log_ticks if log else ticks)(min(values), max(values))
    end = every[:, 0].max() or 1.0
    bend = np.log10 if log else np.asarray
    low, high = bend(marks[0]), bend(marks[-1])

    def across(kimg):
        return LEFT + kimg / end * (WIDTH - LEFT - RIGHT)

    def down(value):
        return HEIGHT - BOTTOM - (bend(value) - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    lines = [f'<path class="grid" d="M{LEFT} {down(mark):.1f}H{WIDTH - RIGHT}"/>'
             f'<text x="{LEFT - 6}" y="{down(mark) + 4:.1f}" text-anchor="end">{mark:g}</text>' for mark in marks]
    lines += [f'<text x="{across(mark):.1f}" y="{HEIGHT - 7}" text-anchor="middle">{mark:g}</text>'
              for mark in ticks(0, end) if mark <= end]
    if target is not None:
        lines.append(f'<path class="target" d="M{LEFT} {down(target):.1f}H{WIDTH - RIGHT}"/>')
    key = "" if target is None else f'<span class="key goal">target {target:g}</span>'
    for number, (name, points) in enumerate(curves.items()):
        colour = f"c{number % COLOURS}"
        places = [f"{x:.1f},{y:.1f}" for x, y in zip(across(points[:, 0]), down(points[:, 1]))]
        lines.append(f'<polyline class="{colour}" points="{" ".join(places)}"/>')
        if len(places) <= MOST_DOTS:
            dots = [place.split(",") for place in places]
            lines += [f'<circle r="2" cx="{x}" cy="{y}" fill="var(--{colour})"/>' for x, y in dots]
        key += f'<span class="key {colour}">{escape(name)} {points[-1, 1]:.4g}</span>'
    body = "\n".join(lines)
    return (f'<figure><figcaption><b>{escape(title)}</b><span class="keys">{key}</span></figcaption>\n'
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)} over kimg">\n{body}</svg></figure>')


def _curves(rows: List[Dict[str, float]], metrics: Dict[str, Dict[str, Points]], options: Dict[str, Any]) -> str:
    def series(name: str) -> Points:
        return np.array([(row["Progress/kimg"], row[name]) for row in rows if name in row], dtype=np.float64).reshape(-1, 2)

    charts = [chart(metric, results) for metric, results in metrics.items()]
    for panel in PANELS:
        target = options.get("ada_target") if panel.has_target else None
        charts.append(chart(panel.title, {key: series(name) for key, name in panel.curves.items()}, panel.log, target))
    drawn = "\n".join(figure for figure in charts if figure)
    title = "<h2>Curves <small>over kimg, thousands of real pictures seen</small></h2>"
    return f'{title}\n<div class="charts">{drawn}</div>' if drawn else ""


# ------------------------------------------------------------------------------------------------ the rest of the page

def _state(rows: List[Dict[str, float]], options: Dict[str, Any]) -> str:
    if not rows:
        return '<p><small>No numbers yet: the first tick has not ended.</small></p>'
    row, total = rows[-1], options.get("total_kimg")
    kimg, pace = row["Progress/kimg"], row.get("Timing/sec_per_kimg")
    facts = {"Tick": f"{row['Progress/tick']:.0f}"} if "Progress/tick" in row else {}
    facts["kimg"] = f"{kimg:.1f}" + (f" of {total:g}" if total else "")
    if pace is not None:
        facts["Seconds per kimg"] = f"{pace:.2f}"
    if total and kimg >= total:
        facts["Time left"] = "none: complete"
    elif total and pace:
        facts["Time left"] = format_time((total - kimg) * pace)
    if "timestamp" in row:
        facts["Last numbers"] = time.strftime("%Y-%m-%d %H:%M", time.localtime(row["timestamp"]))
    shown = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts.items())
    bar = f'<progress max="{total:g}" value="{kimg:.1f}"></progress>' if total else ""
    return f"<dl>{shown}</dl>{bar}"


def _picture(file: str, title: str) -> str:
    place = quote(file)
    return (f'<figure><figcaption><b>{title}</b><span>{file}</span></figcaption>'
            f'<a href="{place}"><img src="{place}" alt="{title}" loading="lazy"></a></figure>')


def _pictures(run_dir: Path) -> str:
    names = {path.name for path in run_dir.glob("*.png")}
    counts = sorted((match[1] for match in (re.fullmatch(r"fakes(\d+)\.png", name) for name in names) if match), key=int)
    figures = [_picture("reals.png", "Real")] if "reals.png" in names else []
    if counts:
        figures += [_picture(f"fakes{counts[-1]}{kind}.png", f"{title} ({int(counts[-1])} kimg)")
                    for kind, title in PICTURES.items() if f"fakes{counts[-1]}{kind}.png" in names]
    if not figures:
        return ""
    parts = ["<h2>Pictures</h2>", f'<div class="pictures">{"".join(figures)}</div>']
    earlier = []
    for count in reversed(counts[:-1]):
        links = [f'<a href="fakes{count}{kind}.png">{(kind or "_picture")[1:]}</a>' for kind in PICTURES
                 if f"fakes{count}{kind}.png" in names]
        earlier.append(f"<li><span>{int(count)} kimg</span>{' '.join(links)}</li>")
    if earlier:
        parts.append(f"<details><summary>Earlier pictures ({len(earlier)})</summary><ul>{''.join(earlier)}</ul></details>")
    return "\n".join(parts)


def _files(run_dir: Path) -> str:
    parts = []
    for title, pattern in (("Snapshots", "network-snapshot-*.pkl"), ("Checkpoints", "checkpoint-*.pt")):
        files = sorted((path for path in run_dir.glob(pattern) if path.is_file()), key=lambda path: path.name, reverse=True)
        lines = [f'<li><a href="{quote(path.name)}">{escape(path.name)}</a><span>{path.stat().st_size / 1e6:.1f} MB</span></li>'
                 for path in files]
        if lines:
            parts.append(f"<h2>{title}</h2><ul>{''.join(lines)}</ul>")
    return "\n".join(parts)
