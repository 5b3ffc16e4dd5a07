"""Several ranks learn what one learns, and a run without a checkpoint of its last batches learns them again."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import runs
import scene
import shares
import torch

from training import checkpoint, watch
from training.training_loop import Calls

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
ENVIRONMENT = dict(os.environ, PYTHONPATH=str(ROOT))
OPTIONS = dict(runs.SMALL, batch=48, cbase=64, latent=8, neural_rendering_resolution_initial=8, workers=0)
LENGTH = 1008  # images that 1 kimg becomes in batches of 48


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "heads.zip"
    scene.write_zip(path, 30, 32, seed=0)
    return path


def ranks(count, *arguments):
    """Runs a Python command as that many ranks, without a launcher."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = dict(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free.getsockname()[1]), WORLD_SIZE=str(count))
    started = [subprocess.Popen([sys.executable, *map(str, arguments)], env=dict(
        ENVIRONMENT, **place, RANK=str(rank), LOCAL_RANK=str(rank))) for rank in range(count)]
    assert [process.wait(timeout=120) for process in started] == [0] * count


def test_two_learn_what_one_learns(data, tmp_path):
    """On the same draws, minibatch deviation, swapped poses and noise included; from the second step on all buckets set off
    before backward ends."""
    for count in (1, 2):
        ranks(count, HERE / "shares.py", tmp_path / f"{count}", data)
    alone, first, second = [torch.load(tmp_path / name, weights_only=False) for name in ("1.0", "2.0", "2.1")]
    assert len({key[:2] for key in alone["gradients"]}) == 4 * shares.STEPS
    assert alone["gradients"].keys() == first["gradients"].keys()
    for key, gradient in alone["gradients"].items():
        assert torch.equal(first["gradients"][key], second["gradients"][key])
        # float32 sums in another order: measured 1.5e-7 where the largest gradients of a phase are 2e-3 to 0.3
        torch.testing.assert_close(first["gradients"][key], gradient, rtol=0, atol=1e-6)
    for (step, _phase), (early, total) in first["counts"].items():
        assert total > 5 and early == (0 if step == 0 else total)


NOT_FINITE = """
import torch
from torch_utils import distributed
distributed.start(torch.device("cpu"))
weight = torch.nn.Parameter(torch.zeros(4))
averager = distributed.GradientAverager([weight])
spoilt = torch.tensor([float("nan"), float("-inf"), 2.0, 4.0])
for _ in range(3):
    weight.grad = None
    averager.begin("kind")
    (weight * (spoilt if distributed.rank() == 1 else torch.ones(4))).sum().backward()
    assert int(averager.finish()) == 2
    assert weight.grad.tolist() == [0, -1e5, 1.5, 2.5], weight.grad
distributed.stop()
"""


def test_one_rank_has_no_numbers():
    """What is not finite on one rank is 0 or -1e5 on all, and all count it; the other elements are means."""
    ranks(2, "-c", NOT_FINITE)


class PowerCut(Exception):
    pass


def test_statistics_after_the_checkpoint(data, tmp_path, monkeypatch):
    """Lines that were written after the last checkpoint are written again, once."""
    monkeypatch.setattr(watch.Watch, "seconds", property(lambda self: float(self._state.step)))  # a second a batch
    settings = runs.settings

    def seldom(*args, **changed):
        config = settings(*args, **changed)
        config.update(checkpoint_minutes=7 / 60, kimg_per_tick=0.012)  # every 7 batches, with a tick every 3
        return config

    def stop():
        calls.append(None)
        if len(calls) == last:
            raise PowerCut
        return False

    monkeypatch.setattr(runs, "settings", seldom)
    for last in (20, 3, None):
        calls = []
        try:
            runs.run(tmp_path / "broken", data, 24, Calls(stop))
            assert last is None
        except PowerCut:
            assert checkpoint.images_seen(checkpoint.found(tmp_path / "broken")[0]) == 14 * 4
            assert len((tmp_path / "broken" / "stats.jsonl").read_text().splitlines()) > 1 + 14 // 3
    runs.run(tmp_path / "straight", data, 24)
    assert runs.state(tmp_path / "broken") == runs.state(tmp_path / "straight")


# ------------------------------------------------------------------------------------------------ the command

def train(data, outdir, *arguments):
    options = [f"--{key}={value}" for key, value in OPTIONS.items()]
    command = [sys.executable, str(ROOT / "train.py"), f"--data={data}", f"--outdir={outdir}", *options, "--kimg=1", "--tick=1",
               "--device=cpu", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)


def ended(process):
    """Exit code and lines of a command."""
    out, errors = process.communicate(timeout=120)
    return process.returncode, out.splitlines(), [line for line in errors.splitlines() if line]


def newest(outdir):
    """Images seen at the last checkpoint of the only run."""
    return max([checkpoint.images_seen(path) for folder in outdir.glob("0*") for path in checkpoint.found(folder)], default=0)


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--gpus=2",)], ids=["alone", "two ranks"])
def test_stopped_thrice(options, data, tmp_path):
    """Ctrl-C, SIGTERM and SIGHUP; the same command goes on each time, and its end is that of a run without a stop."""
    assert ended(train(data, tmp_path / "straight", *options))[0] == 0
    outdir, seen = tmp_path / "broken", [0]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        process = train(data, outdir, *options, "--checkpoint-minutes=0")
        while newest(outdir) == seen[-1] and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(number)
        code, out, errors = ended(process)
        assert code == 130 and not any("Traceback" in line for line in errors), errors
        assert errors == [] and "Stopping, with a checkpoint ..." in out
        assert out[-1].startswith("Stopped; the state is kept in ")
        assert any(line.startswith(f"Going on from {seen[-1] / 1000:.3f} kimg") for line in out) == (seen[-1] > 0)
        assert seen[-1] < newest(outdir) < LENGTH
        seen.append(newest(outdir))
    code, out, _ = ended(train(data, outdir, *options))
    [folder] = outdir.iterdir()
    assert code == 0 and out[-1] == f"Finished: {folder}"
    [straight] = (tmp_path / "straight").iterdir()
    assert runs.state(folder) == runs.state(straight)
