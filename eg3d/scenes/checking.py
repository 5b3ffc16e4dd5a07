"""`dataset_tool.py --check`: what is wrong with a source of posed pictures, what its cameras are like, what they suggest."""

from __future__ import annotations

import collections
import dataclasses
import math
import os
from typing import Any, Dict, Iterator, List, Optional, Tuple

import numpy as np
import tqdm

from eg3d.scenes.geometry import depths
from eg3d.scenes.pictures import SMALLEST, examined
from eg3d.scenes.sources import Source
from eg3d.scenes.suggestion import suggest
from eg3d.scenes.workers import in_order
from training import labels
from training.dataset import LABELS

FAR_PIVOT = 0.5  # of the box's side; beyond it most of the box lies where nobody looks


@dataclasses.dataclass
class Report:
    """What `check` found."""

    problems: List[str]  # one line each
    notes: List[str]
    facts: List[Tuple[str, str]]  # title, text
    labels: np.ndarray  # [N, 25] float64: those without problems
    suggestion: Optional[Dict[str, Any]] = None  # of suggest()


def check(source: Source, workers: int, accept_labels: bool = False) -> Report:
    """Looks at every picture, read to its end, and at every label. Raises ValueError and OSError only for the whole source."""
    report = Report([], [], [], _good_labels(source))
    _check_pictures(source, workers, report)
    report.problems += _label_problems(source)
    mismatch = None if accept_labels else source.mismatch()
    if mismatch:
        report.problems.append(mismatch)
    if len(report.labels):
        try:
            report.suggestion = suggest(report.labels)
        except ValueError as error:
            report.problems.append(f"{source.path}: {error}")
        report.facts += _camera_facts(report.labels, report.suggestion)
        _note_pivot(report)
    return report


# ------------------------------------------------------------------------------------------------ pictures

def _check_pictures(source: Source, workers: int, report: Report) -> None:
    """Adds what cannot be read, and what has another size or mode than most."""
    found = {}
    results = in_order(examined, _jobs(source), workers)
    for result, picture in zip(tqdm.tqdm(results, total=len(source.pictures), unit="picture"), source.pictures):
        if isinstance(result, str):
            report.problems.append(result)
        else:
            found[picture.name] = result
    if not found:
        return
    (mode, size), usual = collections.Counter(found.values()).most_common(1)[0]
    text = f"{size[0]} x {size[1]} {mode}"
    report.problems += [f"{source.where(name)}: is {it[1][0]} x {it[1][1]} {it[0]}, most pictures are {text}"
                        for name, it in found.items() if it != (mode, size)]
    report.facts.append(("pictures", f"{len(source.pictures)}, {usual} of them {text}"))
    if size[0] != size[1] or size[0] < SMALLEST or size[0] & (size[0] - 1) or mode not in ("RGB", "L"):
        report.notes.append(f"pictures of {text} must be converted for training; where that crops them, their focal length "
                            "changes: check the result again")


def _jobs(source: Source) -> Iterator[tuple]:
    for picture in source.pictures:
        try:
            data: Any = source.read(picture.name)
        except ValueError as error:
            data = str(error)
        yield data, source.where(picture.name)


# ------------------------------------------------------------------------------------------------ labels

def _good_labels(source: Source) -> np.ndarray:
    good = [picture.label for picture in source.pictures
            if picture.label is not None and labels.problem(picture.label) is None]
    return np.array(good, dtype=np.float64).reshape(-1, labels.SIZE)


def _label_problems(source: Source) -> Iterator[str]:
    if all(picture.label is None for picture in source.pictures):
        yield f"{source.path}: has no labels: give a {LABELS}, or train without poses by --cond=False"
        return
    for picture in source.pictures:
        wrong = "is missing" if picture.label is None else labels.problem(picture.label)
        if wrong:
            yield f"{source.where(picture.name)}: its label {wrong}"
    for name in source.absent:
        yield f"{source.where(name)}: has a label, but is not there"


def _camera_facts(good: np.ndarray, suggestion: Optional[Dict[str, Any]]) -> Iterator[Tuple[str, str]]:
    poses, K = good[:, :16].reshape(-1, 4, 4), good[:, 16:].reshape(-1, 3, 3)
    origins = poses[:, :3, 3]
    distance = np.linalg.norm(origins, axis=1)
    yaw = np.arctan2(origins[:, 0], origins[:, 2])
    pitch = -math.pi / 2 * origins[:, 1] / np.maximum(distance, np.finfo(float).tiny)  # as the camera sampler counts
    yield "cameras", str(len(good))
    yield "focal length", f"{_span(K[:, 0, 0])} picture widths, {_span(K[:, 1, 1])} heights"
    yield "distance", f"{_span(distance)} from the world's origin"
    if suggestion is not None:
        yield "look at", f"({_pivot(suggestion)}), which is {_span(depths(poses, np.array(suggestion['pivot'])))} before them"
    for title, angle in (("yaw", yaw), ("pitch", pitch)):
        yield title, f"{_span(angle.round(4) + 0.0)} radians from frontal, deviation {angle.std():.3g}"


def _span(values: np.ndarray) -> str:
    low, high = f"{values.min():.4g}", f"{values.max():.4g}"
    return low if low == high else f"{low} to {high}"


def _digits(suggestion: Dict[str, Any]) -> int:
    """Decimals that are worth showing: about a thousandth of the radius."""
    return 3 - math.ceil(math.log10(suggestion["radius"]))


def _pivot(suggestion: Dict[str, Any]) -> str:
    return ",".join(f"{round(value, _digits(suggestion)) + 0.0:g}" for value in suggestion["pivot"])


def _note_pivot(report: Report) -> None:
    if report.suggestion and np.abs(report.suggestion["pivot"]).max() > FAR_PIVOT / 2 * report.suggestion["box_warp"]:
        report.notes.append("the cameras look at a point far from the world's origin, about which the box must lie: move the "
                            "poses")


def command(suggestion: Dict[str, Any]) -> str:
    """The options of train.py for a suggestion, rounded: the ranges outwards."""
    scale = 10.0 ** _digits(suggestion)

    def outwards(name: str, rounding) -> str:
        return f"{rounding(suggestion[name] * scale) / scale:g}"

    return (f"--cfg=custom --ray_start={outwards('ray_start', math.floor)} --ray_end={outwards('ray_end', math.ceil)} "
            f"--box_warp={outwards('box_warp', math.ceil)} --radius={suggestion['radius']:.4g} --pivot={_pivot(suggestion)} "
            f"--focal={suggestion['focal']:.5g}")


def cloud_path(source: str) -> str:
    """Where the picture of the cameras goes if nobody says: beside the source."""
    return os.path.splitext(os.path.abspath(source))[0] + "-cameras.png"
