"""A run that was killed and goes on is the run that never was: to the last bit, statistics included."""

import functools
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import runs
import scene
import torch

from eg3d import generator
from torch_utils import misc
from training import checkpoint, loss, phases, run_folder

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("runs.py")
ENVIRONMENT = dict(os.environ, PYTHONPATH=str(ROOT))
KILLED = -signal.SIGKILL


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "heads.zip"
    scene.write_zip(path, 30, 32, seed=0)
    return path


@pytest.fixture(scope="session")
def straight(data, tmp_path_factory):
    """number of batches -> the folder of a run without a stop."""
    @functools.cache
    def made(batches):
        folder = tmp_path_factory.mktemp("straight") / "run"
        assert runs.run(folder, data, batches)
        return folder

    return made


def script(folder, data, batches, *settings):
    return subprocess.run(command(folder, data, batches, *settings), env=ENVIRONMENT, timeout=300).returncode


def command(folder, data, batches, *settings):
    return [sys.executable, str(SCRIPT), str(folder), str(data), str(batches), *settings]


def test_goes_on(straight, data, tmp_path):
    """40 batches are 20, killed, and 20 more."""
    folder = tmp_path / "run"
    assert script(folder, data, 40, "kill=phase:60") == KILLED
    seen = checkpoint.images_seen(checkpoint.found(folder)[0])
    assert 60 < seen < 120
    assert script(folder, data, 40) == 0
    assert runs.state(folder) == runs.state(straight(40))
    assert len(checkpoint.found(folder)) == checkpoint.KEPT
    ours, theirs = [generator.load_snapshot(place / "network-snapshot-000000.pkl") for place in (folder, straight(40))]
    for network in ("G", "D", "G_ema", "augment_pipe"):
        pairs = zip(misc.params_and_buffers(ours[network]), misc.params_and_buffers(theirs[network]))
        assert all(torch.equal(one, other) for one, other in pairs)


@pytest.mark.parametrize("moment", ["phase:2", "save:3", "rename:9", *[
    pytest.param(moment, marks=pytest.mark.slow) for moment in ("optimizer:3", "save:1", "rename:1", "delete:2")]])
def test_killed_at(moment, straight, data, tmp_path):
    """In the first step, while a checkpoint or anything else is written, renamed, deleted."""
    folder = tmp_path / "run"
    assert script(folder, data, 12, f"kill={moment}") == KILLED
    for path in checkpoint.found(folder):
        checkpoint.load(path)  # what has its name is whole
    assert runs.run(folder, data, 12)
    assert runs.state(folder) == runs.state(straight(12))
    assert not [path for path in folder.glob(".*") if path.name != run_folder.LOCK]  # nothing half-written stays


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_killed_at_random(seed, straight, data, tmp_path):
    """Twice at random moments, by the clock."""
    folder, draw = tmp_path / "run", random.Random(seed)
    for _ in range(2):
        process = subprocess.Popen(command(folder, data, 40), env=ENVIRONMENT)
        time.sleep(draw.uniform(1, 6))
        process.kill()
        process.wait()
    assert runs.run(folder, data, 40)
    assert runs.state(folder) == runs.state(straight(40))


# ------------------------------------------------------------------------------------------------ files

@pytest.fixture
def kept(tmp_path):
    """A folder with two checkpoints, of 4 and 8 images, and of an older one that went."""
    for nimg in (0, 4, 8):
        checkpoint.save(dict(data="print", content=torch.full((1000,), nimg)), checkpoint.path_of(tmp_path, nimg))
    return tmp_path


def damage(path, kind):
    data = bytearray(path.read_bytes())
    if kind == "bit":
        data[len(data) // 2] ^= 1
    path.write_bytes({"bit": data, "cut": data[: len(data) // 2], "empty": b"", "text": b"no checkpoint"}[kind])


@pytest.mark.parametrize("kind", ["bit", "cut", "empty", "text"])
def test_damaged(kept, kind):
    """The one before is used, and that is said; without one it is an error."""
    newest, older = checkpoint.found(kept)
    damage(newest, kind)
    with pytest.raises(checkpoint.DamagedCheckpoint, match=newest.name):
        checkpoint.load(newest)
    said = []
    found = run_folder.load(kept, "print", said.append)
    assert int(found["content"][0]) == 4
    assert len(said) == 1 and newest.name in said[0]
    damage(older, kind)
    with pytest.raises(ValueError, match="no checkpoint there is whole"):
        run_folder.load(kept, "print", said.append)


def test_kept(kept):
    """The last two."""
    assert [checkpoint.images_seen(path) for path in checkpoint.found(kept)] == [8, 4]


def test_other_data(kept):
    with pytest.raises(ValueError, match="the data set is not the one"):
        run_folder.load(kept, "another print", print)


def test_code_is_refused(tmp_path):
    """A checkpoint is data: what would call something when it is opened is not opened."""
    class Calls:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "made"),)

    path = checkpoint.path_of(tmp_path, 4)
    torch.save(dict(version=checkpoint.VERSION, bad=Calls()), path)
    with pytest.raises(checkpoint.DamagedCheckpoint):
        checkpoint.load(path)
    assert not (tmp_path / "made").exists()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)], capture_output=True).returncode:
        pytest.skip("no permission to mount a small disk")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_full_disk(small_disk):
    """One line, and the checkpoint before is whole."""
    checkpoint.save(dict(content=torch.ones(100_000)), checkpoint.path_of(small_disk, 4))
    with pytest.raises(OSError, match="No space left on device.*is intact") as raised:
        checkpoint.save(dict(content=torch.ones(1_000_000)), checkpoint.path_of(small_disk, 8))
    assert "\n" not in str(raised.value)
    assert [path.name for path in small_disk.iterdir()] == [checkpoint.path_of(small_disk, 4).name]
    assert checkpoint.load(checkpoint.path_of(small_disk, 4))["content"].sum() == 100_000


# ------------------------------------------------------------------------------------------------ a loss that goes wrong

def test_not_finite(data, tmp_path, monkeypatch):
    """A loss that is not finite ends the run with the last good checkpoint named; no later one is written."""
    step, calls = phases.Phase.step, [0]

    def poisoned(self, *args):
        calls[0] += self.name == "Gmain"
        if self.name == "Gmain" and calls[0] == 13:
            self.module.backbone.mapping.fc0.weight.data.fill_(float("nan"))
        return step(self, *args)

    monkeypatch.setattr(phases.Phase, "step", poisoned)
    with pytest.raises(ValueError, match=r"is not finite after 0\.1 kimg: the last good checkpoint is .*000000048\.pt"):
        runs.run(tmp_path / "run", data, 40)
    assert checkpoint.images_seen(checkpoint.found(tmp_path / "run")[0]) == 48


def test_gradients_that_are_no_numbers(data, tmp_path, monkeypatch):
    """They become 0, are counted, and training goes on."""
    learn, calls = loss.StyleGAN2Loss.accumulate_gradients, [0]

    def spoiled(self, phase, **kwargs):
        learn(self, phase, **kwargs)
        calls[0] += phase == "Dmain"
        if phase == "Dmain" and calls[0] == 3:
            self.D.b4.out.bias.grad.fill_(float("nan"))

    monkeypatch.setattr(loss.StyleGAN2Loss, "accumulate_gradients", spoiled)
    assert runs.run(tmp_path / "run", data, 12)
    lines = [json.loads(line) for line in (tmp_path / "run" / "stats.jsonl").read_text().splitlines()]
    counted = sum(line["Gradients/not_finite/Dmain"]["mean"] * line["Gradients/not_finite/Dmain"]["num"] for line in lines)
    weights = checkpoint.load(checkpoint.found(tmp_path / "run")[0])["common"]["networks"]["D"]
    assert counted == weights["b4.out.bias"].numel()
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())
