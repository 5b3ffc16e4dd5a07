"""How good a generator is: metrics by name, of a network and a data set.

Official names are fid50k_full, kid50k_full, pr50k3_full, is50k, ppl2_wend, fid50k, kid50k, pr50k3; any number may stand in
place of 50k. They need a detector (eg3d/metrics/detectors.py). swd, reprojection, flatness and raw_agreement need none;
heads_pose, heads_depth and heads_frechet, of synthetic heads, need a small network that ships. Where a name has no number,
one may be appended: swd_500. `_full` means: against all real pictures, not against as many as generated.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import time
from pathlib import Path
from typing import Callable, Dict, List, Mapping, Optional, Sequence, Union

import torch

from dnnlib.util import format_time
from eg3d.metrics import heads, kinds, regressor
from eg3d.metrics.detectors import opened
from eg3d.metrics.fakes import Cameras, Work
from torch_utils import distributed
from training.state import undisturbed

BATCH = 8  # pictures at once where nobody says
THOUSAND = "k"

NUMBER = r"(?P<count>[1-9]\d{0,6}k?)"
APPENDED = rf"(?:_{NUMBER})?"


@dataclasses.dataclass(frozen=True)
class Kind:
    """A family of metrics whose names differ in a number."""

    official: str  # its usual name
    pattern: str
    compute: Callable[..., Optional[Dict[str, float]]]  # (work, detector, count, full) -> results by suffix, on rank 0
    detector: Optional[str] = None
    needs: str = ""  # the detector's method
    usual: Optional[str] = None  # the number, where the name has none
    shipped: bool = False  # needs the regressor that ships


KINDS = (
    Kind("fid50k_full", rf"fid{NUMBER}(?P<full>_full)?", kinds.fid, "inception", "features"),
    Kind("kid50k_full", rf"kid{NUMBER}(?P<full>_full)?", kinds.kid, "inception", "features"),
    Kind("pr50k3_full", rf"pr{NUMBER}3(?P<full>_full)?", kinds.precision_recall, "inception", "features"),
    Kind("is50k", rf"is{NUMBER}", kinds.inception_score, "inception", "probabilities"),
    Kind("ppl2_wend", rf"ppl2_wend{APPENDED}", kinds.path_length, "vgg", "perceptual", usual="50k"),
    Kind("swd", rf"swd{APPENDED}", kinds.sliced_wasserstein, usual="1k"),
    Kind("reprojection", rf"reprojection{APPENDED}", kinds.reprojection, usual="200"),
    Kind("flatness", rf"flatness{APPENDED}", kinds.flatness, usual="500"),
    Kind("raw_agreement", rf"raw_agreement{APPENDED}", kinds.raw_agreement, usual="500"),
    Kind("heads_pose", rf"heads_pose{APPENDED}", heads.pose, usual="500", shipped=True),
    Kind("heads_depth", rf"heads_depth{APPENDED}", heads.depth, usual="500", shipped=True),
    Kind("heads_frechet", rf"heads_frechet{APPENDED}", heads.frechet, usual="2k", shipped=True),
)
NOT_FULL = ("fid50k", "kid50k", "pr50k3")
NEED_WEIGHTS = tuple(kind.official for kind in KINDS if kind.detector) + NOT_FULL


@dataclasses.dataclass(frozen=True)
class _Metric:
    kind: Kind
    count: int
    full: bool


def names() -> List[str]:
    """The usual names."""
    return [kind.official for kind in KINDS if kind.detector] + [*NOT_FULL] + [
        kind.official for kind in KINDS if not kind.detector]


def _parsed(name: str) -> _Metric:
    for kind in KINDS:
        match = re.fullmatch(kind.pattern, name)
        if match is not None:
            number = match["count"] or kind.usual
            count = int(number.removesuffix(THOUSAND)) * (1000 if number.endswith(THOUSAND) else 1)
            return _Metric(kind, count, bool(match.groupdict().get("full")))
    raise ValueError(f"metric {name!r} is unknown: choose from {', '.join(names())}; other numbers may stand in place of 50k, "
                     "and after a name without one, like swd_500")


def check(wanted: Sequence[str], detectors: Optional[Mapping[str, str]] = None) -> None:
    """Looks whether metrics can be had: their names, and their detectors, each of which is tried on two pictures.

    `detectors`: "inception" and "vgg" -> file or URL, in place of NVIDIA's addresses. Raises ValueError.
    """
    needed: Dict[str, set] = {}
    metrics = [_parsed(name) for name in wanted]
    if any(metric.kind.shipped for metric in metrics):
        regressor.load()
    for metric in metrics:
        if metric.kind.detector:
            needed.setdefault(metric.kind.detector, set()).add(metric.kind.needs)
    for kind, methods in needed.items():
        detector = opened(kind, detectors, torch.device("cpu"))
        for method in sorted(methods):
            detector.check(method)


@torch.no_grad()
def evaluate(wanted: Sequence[str], G: torch.nn.Module, dataset, device: torch.device,
             detectors: Optional[Mapping[str, str]] = None, batch: Optional[int] = None, seed: int = 0,
             progress: bool = False, cameras: Optional[Cameras] = None) -> Dict[str, Dict[str, float]]:
    """{metric: {result: number}} of a generator on `device`, measured by all ranks together; every rank gets it.

    batch: pictures that a rank makes at once. progress: a bar on rank 0's terminal. cameras: draws that many labels [n, 25] for
    data that have none. Raises ValueError for unknown names, detectors that do not work, and data without cameras.
    """
    metrics = {name: _parsed(name) for name in wanted}
    if not dataset.has_labels and cameras is None:
        raise ValueError(f"{dataset.path}: has no labels, from which metrics draw the cameras of generated pictures")
    work = Work(G, dataset, device, batch or BATCH, seed, progress, None if dataset.has_labels else cameras)
    results = {}
    with undisturbed(device):
        for name, metric in metrics.items():
            detector = opened(metric.kind.detector, detectors, device) if metric.kind.detector else None
            found = metric.kind.compute(work, detector, metric.count, metric.full)
            if found is not None:
                found = {f"{name}_{suffix}" if suffix else name: value for suffix, value in found.items()}
            results[name] = distributed.shared(found)
    return results


def write_result(run_dir: Union[str, os.PathLike], name: str, results: Mapping[str, float], seconds: float, num_gpus: int,
                 snapshot_pkl: Union[str, os.PathLike]) -> None:
    """Appends a line to metric-<name>.jsonl in a folder, as the official code does. `snapshot_pkl` as seen from that folder."""
    entry = dict(results=dict(results), metric=name, total_time=seconds, total_time_str=format_time(seconds), num_gpus=num_gpus,
                 snapshot_pkl=os.fspath(snapshot_pkl), timestamp=time.time())
    Path(run_dir).mkdir(parents=True, exist_ok=True)
    with open(Path(run_dir) / f"metric-{name}.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")
