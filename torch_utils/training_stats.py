"""Numbers that training reports from anywhere, summed up over time and over processes.

`report` is cheap and never waits for the device: it adds count, sum and sum of squares to a small tensor. A `Collector`
turns what came in between two of its updates into means and deviations, and that is when processes exchange their sums: all
of them must report the same names (an empty list registers one) and update their collectors together.
"""

from __future__ import annotations

import re
from typing import Any, Dict, List, Optional

import torch

import dnnlib

_MOMENTS = 3  # count, sum, sum of squares

_rank = 0
_sync_device: Optional[torch.device] = None  # None: one process, nothing to exchange
_recent: Dict[str, Dict[torch.device, torch.Tensor]] = {}  # name -> device -> moments since the last exchange
_total: Dict[str, torch.Tensor] = {}  # name -> moments since the start, over all processes, float64 on the CPU


def init_multiprocessing(rank: int, sync_device: Optional[torch.device]) -> None:
    """Tells this process's rank and the device to exchange sums on (None: it is alone). Call before the first update."""
    global _rank, _sync_device
    _rank, _sync_device = rank, sync_device


def report(name: str, value: Any) -> Any:
    """Adds every element of `value` (tensor, number or list) to the statistic `name`; returns `value`."""
    by_device = _recent.setdefault(name, {})
    elements = torch.as_tensor(value).detach().flatten()
    if elements.numel() == 0:
        return value
    # Metal has no float64.
    elements = elements.to(torch.float32 if elements.device.type == "mps" else torch.float64)
    moments = torch.stack([torch.ones_like(elements).sum(), elements.sum(), elements.square().sum()])
    if elements.device in by_device:
        moments = by_device[elements.device] + moments
    by_device[elements.device] = moments
    return value


def report0(name: str, value: Any) -> Any:
    """As `report`, but only rank 0's value counts; the other ranks just register the name."""
    report(name, value if _rank == 0 else [])
    return value


def _exchange() -> None:
    """Moves what was reported lately, by all processes, into the totals."""
    names = sorted(_recent)
    if not names:
        return
    lately = torch.zeros(len(names), _MOMENTS, dtype=torch.float64)
    for row, name in enumerate(names):
        for moments in _recent[name].values():
            lately[row] += moments.to("cpu", torch.float64)
        _recent[name].clear()
    if _sync_device is not None:
        dtype = torch.float32 if _sync_device.type == "mps" else torch.float64
        shared = lately.to(_sync_device, dtype)
        torch.distributed.all_reduce(shared)
        lately = shared.to("cpu", torch.float64)
    for name, moments in zip(names, lately):
        _total[name] = _total.get(name, torch.zeros(_MOMENTS, dtype=torch.float64)) + moments


def all_finite(*names: str) -> bool:
    """Whether all that was reported under these names is finite; waits for the device."""
    found = [moments for name in names for moments in _recent.get(name, {}).values()]
    found += [_total[name] for name in names if name in _total]
    return all(bool(torch.isfinite(moments).all()) for moments in found)


def state_dict() -> Dict[str, Any]:
    """What this process has reported and not exchanged yet, and the totals."""
    recent = {name: [moments.to("cpu", torch.float64) for moments in by_device.values()] for name, by_device in _recent.items()}
    return dict(recent=recent, total=dict(_total))


def load_state_dict(state: Dict[str, Any]) -> None:
    """Goes on from a `state_dict`."""
    _recent.clear()
    _total.clear()
    cpu = torch.device("cpu")
    _recent.update({name: {cpu: sum(parts)} if parts else {} for name, parts in state["recent"].items()})
    _total.update(state["total"])


class Collector:
    """Means and deviations of the statistics whose name `regex` matches in full, between two updates.

    With `keep_previous` a statistic that got nothing new keeps its last values.
    """

    def __init__(self, regex: str = ".*", keep_previous: bool = True):
        self._pattern = re.compile(regex)
        self._keep_previous = keep_previous
        self._seen: Dict[str, torch.Tensor] = {}  # totals at the last update
        self._moments: Dict[str, torch.Tensor] = {}  # of the interval before it
        self.update()
        self._moments.clear()

    def names(self) -> List[str]:
        """Registered names that match."""
        return [name for name in sorted(_recent) if self._pattern.fullmatch(name)]

    def update(self) -> None:
        """Closes the interval; every process must call it."""
        _exchange()
        if not self._keep_previous:
            self._moments.clear()
        for name in self.names():
            total = _total[name]
            fresh = total - self._seen.get(name, torch.zeros_like(total))
            self._seen[name] = total
            if fresh[0] > 0:
                self._moments[name] = fresh

    def state_dict(self) -> Dict[str, Any]:
        """Where its interval began and what the one before held."""
        return dict(seen=dict(self._seen), moments=dict(self._moments))

    def load_state_dict(self, state: Dict[str, Any]) -> None:
        """Goes on from a `state_dict`."""
        self._seen, self._moments = dict(state["seen"]), dict(state["moments"])

    def num(self, name: str) -> int:
        """How many elements the interval has."""
        return int(self._moments[name][0]) if name in self._moments else 0

    def mean(self, name: str) -> float:
        """NaN without elements."""
        if self.num(name) == 0:
            return float("nan")
        count, total, _ = self._moments[name].tolist()
        return total / count

    def std(self, name: str) -> float:
        """Population deviation; NaN without elements."""
        if self.num(name) == 0:
            return float("nan")
        count, total, squares = self._moments[name].tolist()
        return max(squares / count - (total / count) ** 2, 0.0) ** 0.5

    def as_dict(self) -> dnnlib.EasyDict:
        """name -> num, mean, std."""
        return dnnlib.EasyDict({
            name: dnnlib.EasyDict(num=self.num(name), mean=self.mean(name), std=self.std(name)) for name in self.names()})

    def __getitem__(self, name: str) -> float:
        return self.mean(name)
