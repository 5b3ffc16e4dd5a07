"""Statistics: means and deviations of everything reported between two updates, by one process or by several."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from torch_utils import training_stats
from torch_utils.training_stats import Collector, report, report0

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def nothing_reported(monkeypatch):
    """Each test has the statistics to itself, as one process."""
    for name in ("_recent", "_total"):
        monkeypatch.setattr(training_stats, name, {})
    monkeypatch.setattr(training_stats, "_rank", 0)
    monkeypatch.setattr(training_stats, "_sync_device", None)


def test_against_numpy():
    """Tensors of any shape and type, numbers, lists: every element counts once; the deviation is the population's."""
    collector = Collector()
    random = np.random.RandomState(0)
    parts = [random.randn(3, 4), random.randn(1) + 100, random.randint(0, 9, 5), random.randn(2, 2, 2).astype(np.float32)]
    for part in parts:
        report("x", torch.from_numpy(part))
    report("x", 2.5)
    report("x", [True, False, 3])
    collector.update()
    everything = np.concatenate([*[part.ravel() for part in parts], [2.5, 1, 0, 3]])
    assert collector.num("x") == len(everything)
    assert collector.mean("x") == collector["x"] == pytest.approx(everything.mean(), rel=1e-9)
    assert collector.std("x") == pytest.approx(everything.std(ddof=0), rel=1e-9)
    assert collector.as_dict() == dict(x=dict(num=len(everything), mean=collector.mean("x"), std=collector.std("x")))
    assert collector.as_dict().x.num == len(everything)


def test_report_returns_its_value():
    """The very object, with its graph; statistics keep none."""
    x = torch.ones(3, requires_grad=True)
    value = x * 2
    assert report("x", value) is value and report0("x", value) is value
    value.sum().backward()
    assert torch.equal(x.grad, torch.full([3], 2.0))
    assert not any(moments.requires_grad for moments in training_stats._recent["x"].values())


def test_small_deviation_of_large_numbers():
    """A loss of 1000 that moves by 0.01: float32 sums of squares would lose it."""
    values = 1000 + 0.01 * np.random.RandomState(0).randn(1000)
    collector = Collector()
    report("x", torch.from_numpy(values))
    collector.update()
    assert collector.std("x") == pytest.approx(values.std(), rel=1e-3)


def test_one_value_has_no_deviation():
    collector = Collector()
    report("x", 0.1)
    collector.update()
    assert collector.std("x") == 0.0


def test_empty_list_registers_a_name():
    """It is known, and has nothing to show."""
    collector = Collector()
    assert report("x", []) == []
    collector.update()
    assert collector.names() == ["x"] and collector.num("x") == 0
    assert np.isnan([collector.mean("x"), collector.std("x"), collector["x"], collector.as_dict().x.mean]).all()
    assert collector.num("never heard of") == 0 and np.isnan(collector["never heard of"])


def test_intervals():
    """An update closes an interval: only what came since the one before counts, and nothing before the first."""
    report("x", [1.0, 2.0])
    collector = Collector()
    assert collector.num("x") == 0
    for values in ([10.0, 20.0], [5.0]):
        report("x", values)
        collector.update()
        assert (collector.num("x"), collector["x"]) == (len(values), np.mean(values))


def test_keep_previous():
    """A statistic without news keeps its last values, or forgets them."""
    keeping, forgetting = Collector(), Collector(keep_previous=False)
    report("x", 7.0)
    for _ in range(2):
        keeping.update()
        forgetting.update()
    assert (keeping.num("x"), keeping["x"]) == (1, 7.0)
    assert forgetting.num("x") == 0 and np.isnan(forgetting["x"])
    assert forgetting.names() == ["x"]


def test_collectors_do_not_disturb_each_other():
    """Each has its own intervals."""
    first, second = Collector(), Collector()
    report("x", 1.0)
    first.update()
    report("x", 3.0)
    first.update()
    second.update()
    assert (first["x"], second["x"], second.num("x")) == (3.0, 2.0, 2)


def test_regex_matches_in_full():
    """Loss/G is neither Loss/G/loss nor Old/Loss/G."""
    for name in ("Loss/G", "Loss/G/loss", "Old/Loss/G"):
        report(name, [])
    assert Collector("Loss/G").names() == ["Loss/G"]
    assert Collector("Loss/.*").names() == ["Loss/G", "Loss/G/loss"]
    assert Collector().names() == ["Loss/G", "Loss/G/loss", "Old/Loss/G"]


def test_report0_on_another_rank(monkeypatch):
    """Only rank 0 counts; the others know the name, and return the value all the same."""
    collector = Collector()
    assert report0("x", 1.0) == 1.0
    monkeypatch.setattr(training_stats, "_rank", 3)
    assert report0("x", 5.0) == 5.0 and report0("y", 5.0) == 5.0
    collector.update()
    assert (collector.num("x"), collector["x"], collector.num("y")) == (1, 1.0, 0)
    assert collector.names() == ["x", "y"]


ONE_OF_TWO = """
import json, sys
root, store, rank = sys.argv[1:]
rank = int(rank)
sys.path.insert(0, root)
import torch
from torch_utils import training_stats

torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
training_stats.init_multiprocessing(rank, torch.device("cpu"))
collector = training_stats.Collector()
shown = []
for values in ([[1.0, 2.0], [6.0]], [[], [4.0, 8.0]], [[], []]):
    training_stats.report("both", values[rank])
    training_stats.report("scaled", torch.tensor(values[rank]) * 10)
    training_stats.report0("first", 100.0 + rank)
    collector.update()
    shown.append(collector.as_dict())
print(json.dumps(shown))
torch.distributed.destroy_process_group()
"""


def test_two_processes_sum_up(tmp_path):
    """Both see the statistics of both, each interval for itself."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", ONE_OF_TWO, str(ROOT), str(tmp_path / "store"), str(rank)],
            env=dict(os.environ, OMP_NUM_THREADS="1"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for rank in range(2)]
    try:
        results = [process.communicate(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], results
    first, second = [json.loads(out) for out, _ in results]
    assert first == second
    for shown, values in zip(first, ([1, 2, 6], [4, 8], [4, 8])):  # the last interval has none: the one before stays
        assert shown["both"] == pytest.approx(dict(num=len(values), mean=np.mean(values), std=np.std(values)))
        assert shown["scaled"]["mean"] == pytest.approx(np.mean(values) * 10)
        assert shown["first"] == dict(num=1, mean=100.0, std=0.0)
