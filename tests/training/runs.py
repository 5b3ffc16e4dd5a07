"""Small runs for tests of training: `python runs.py FOLDER DATA BATCHES [KEY=VALUE ...]` trains, or goes on, in FOLDER.

Keys: kill=MOMENT:N kills the process (of several, rank 0) at the N-th such moment; every other is a setting. Under torchrun
every process is a rank. PYTHONPATH must lead to the project.
"""

import hashlib
import json
import os
import signal
import sys
from pathlib import Path

import torch

from torch_utils import distributed
from training import checkpoint, phases, run_folder
from training import config as configs
from training.dataset import ImageFolderDataset
from training.training_loop import Calls, train

SMALL = dict(
    cfg="ffhq", batch=4, gamma=0.3, cbase=128, cmax=8, latent=16, plane_resolution=16, plane_channels=4, decoder_width=8,
    samples=4, importance=4, neural_rendering_resolution_initial=16, gen_pose_cond=True, metrics="none", grid="2x1", aug="ada",
    workers=1, mbstd_group=2)
TIMES = ("Timing/", "Resources/", "timestamp", "seconds")  # of statistics and counters: not the same twice


def settings(data, dataset, batches, ranks=1, **changed):
    """A configuration of that many batches, with a tick every ten and a checkpoint after each."""
    config = configs.resolve(configs.Options(outdir="", data=str(data), **SMALL),
                             configs.Facts(dataset.name, len(dataset), dataset.resolution, ranks))
    config.update(total_kimg=batches * 4 / 1000, kimg_per_tick=0.04, checkpoint_minutes=0, **changed)
    return config


def run(folder, data, batches, calls=None, device="cpu", **changed):
    """Trains in `folder`, from its newest checkpoint if it has one."""
    device = distributed.start(torch.device(device))
    dataset = ImageFolderDataset(data, use_labels=True)
    config = settings(data, dataset, batches, distributed.size(), **changed)
    resumed = None
    if distributed.rank() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        resumed = run_folder.load(folder, dataset.fingerprint(), lambda line: None) if checkpoint.found(folder) else None
    finished = train(config, dataset, device, folder if distributed.rank() == 0 else None,
                     calls or Calls(stop=lambda: False), resumed=resumed)
    distributed.stop()
    return finished


def state(folder):
    """Hashes of all that the newest checkpoint holds, times aside, and the lines of statistics."""
    content = checkpoint.load(checkpoint.found(folder)[0])
    hashes = {key: digest(content["common"][key]) for key in sorted(content["common"])}
    hashes.update({f"rank{number}": digest(own) for number, own in enumerate(content["ranks"])})
    lines = [json.loads(line) for line in (folder / "stats.jsonl").read_text().splitlines()]
    return hashes, [{key: value for key, value in line.items() if not key.startswith(TIMES)} for line in lines]


def digest(value):
    """A hash of a nest of tensors and plain Python."""
    found = hashlib.sha256()

    def take(item):
        if isinstance(item, torch.Tensor):
            found.update(f"{item.dtype}{tuple(item.shape)}".encode() + item.contiguous().numpy().tobytes())
        elif isinstance(item, dict):
            for key in sorted(item, key=str):
                if not str(key).startswith(TIMES):
                    found.update(f"{key}:".encode())
                    take(item[key])
        elif isinstance(item, (list, tuple)):
            for part in item:
                take(part)
        else:
            found.update(repr(item).encode())

    take(value)
    return found.hexdigest()[:16]


# ------------------------------------------------------------------------------------------------ killed

def die():
    os.kill(os.getpid(), signal.SIGKILL)


def before(owner, name, count):
    """Kills the process when `owner.name` is called for the count-th time."""
    original, calls = getattr(owner, name), [0]

    def counted(*args, **kwargs):
        calls[0] += 1
        if calls[0] == count:
            die()
        return original(*args, **kwargs)

    setattr(owner, name, counted)


def within_save(count):
    """Kills the process when half of the count-th checkpoint is written."""
    original, calls = torch.save, [0]

    def half(content, file, **kwargs):
        if kwargs:  # a tensor of a snapshot
            return original(content, file, **kwargs)
        calls[0] += 1
        if calls[0] == count:
            original(content, file)
            file.truncate(file.tell() // 2)
            file.flush()
            die()
        return original(content, file)

    torch.save = half


MOMENTS = {
    "phase": lambda count: before(phases.Phase, "step", count),  # between two phases of a batch
    "optimizer": lambda count: before(torch.optim.Adam, "step", count),  # gradients are there, weights are old
    "save": within_save,
    "rename": lambda count: before(os, "replace", count),  # what was written has no name yet
    "delete": lambda count: before(Path, "unlink", count),  # the new checkpoint is there, the oldest not gone
}


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, data, batches, *rest = sys.argv[1:]
    changed = {}
    for argument in rest:
        key, value = argument.split("=")
        if key == "kill":
            moment, number = value.split(":")
            if os.environ.get("RANK", "0") == "0":
                MOMENTS[moment](int(number))
        else:
            changed[key] = json.loads(value)
    run(Path(folder), data, int(batches), **changed)
