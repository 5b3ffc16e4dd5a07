"""A training step of a small configuration: pictures a second and peak memory, by phase, and the time outside the networks.

Ways of training are run in turn in one process, a round of 16 batches each (every phase happens). Outside the networks is
everything but forward and backward: fetching, averaging, the optimizer, the moving average, statistics.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
from collections import defaultdict
from pathlib import Path
from typing import Dict, List, NamedTuple

import measuring
import numpy as np
import torch

from torch_utils import training_stats
from training import config as configs
from training.batches import Batches
from training.state import TrainingState

BATCHES = 16  # between two Dreg
PICTURES, RESOLUTION = 64, 64
SMALL = dict(cfg="heads", neural_rendering_resolution_initial=32)
PLAIN = "as the original"  # without kernels of our own, NCHW
WAYS = {PLAIN: {}, "here": {}, "--bf16": dict(bf16=True)}


class RandomPictures:
    """A data set of noise, in memory: reading files is not measured."""

    num_channels, resolution, label_dim, has_labels = 3, RESOLUTION, 25, True
    image_shape = [3, RESOLUTION, RESOLUTION]

    def __init__(self):
        random = np.random.RandomState(0)
        self._pixels = random.randint(0, 256, [PICTURES, 3, RESOLUTION, RESOLUTION], dtype=np.uint8)
        pose = np.diag([1.0, -1.0, -1.0, 1.0])  # looks along -z
        pose[2, 3] = 2.7
        self._label = np.concatenate([pose.flatten(), [4.2647, 0, 0.5, 0, 4.2647, 0.5, 0, 0, 1]]).astype(np.float32)

    def __len__(self) -> int:
        return PICTURES

    def __getitem__(self, index: int):
        return self._pixels[index], self._label

    def labels(self) -> np.ndarray:
        return np.tile(self._label, (PICTURES, 1))

    def get_label_std(self) -> np.ndarray:
        return np.zeros(25, dtype=np.float32)


class Round(NamedTuple):
    """One round of one way."""

    seconds: float
    peak: int  # bytes above what was held before
    phases: Dict[str, float]  # seconds in forward and backward
    counts: Dict[str, int]


class Trainer:
    """Trains one way."""

    def __init__(self, way: dict, device: torch.device, plain: bool = False):
        self.mode = measuring.plain if plain else contextlib.nullcontext
        asked = configs.Options(outdir="unused", data="noise", **SMALL, **way)
        self.config = configs.resolve(asked, configs.Facts("noise", PICTURES, RESOLUTION, 1))
        dataset = RandomPictures()
        self.device, self.state = device, TrainingState(self.config, dataset, device)
        self.batches = Batches(dataset, self.state.order, self.config, len(self.state.phases), device)
        self.inside: Dict[str, float] = defaultdict(float)
        self._learn = self.state.loss.accumulate_gradients
        self.state.loss.accumulate_gradients = self._timed

    def _timed(self, phase: str, **kwargs) -> None:
        began = self._now()
        self._learn(phase=phase, **kwargs)
        self.inside[phase] += self._now() - began

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def round(self) -> Round:
        """BATCHES batches."""
        counts: Dict[str, int] = defaultdict(int)
        self.inside.clear()

        def learn() -> None:
            for _ in range(BATCHES):
                batch = next(self.batches)
                for phase, z, c in zip(self.state.phases, batch.gen_z, batch.gen_c):
                    if phase.is_due(self.state.step):
                        phase.step(self.state.loss, batch.real, batch.real_c, z, c, self.state.nimg)
                        counts[phase.name] += 1
                self.state.end_batch()

        with self.mode():
            run = measuring.measure(learn, self.device)
        return Round(run.seconds, run.peak, dict(self.inside), dict(counts))


def main(rounds: int, device: torch.device) -> None:
    training_stats.init_multiprocessing(0, None)
    with contextlib.ExitStack() as stack:
        trainers = {}
        for name, way in WAYS.items():
            trainers[name] = Trainer(way, device, name == PLAIN)
            stack.callback(trainers[name].batches.close)
        for trainer in trainers.values():
            trainer.round()  # does not count
        runs: Dict[str, List[Round]] = {name: [] for name in trainers}
        for _ in range(rounds):
            for name, trainer in trainers.items():
                runs[name].append(trainer.round())
    report(runs, trainers[PLAIN].config.batch_size)


def report(runs: Dict[str, List[Round]], batch: int) -> None:
    """Two tables: ways, and the phases of each."""
    images = BATCHES * batch
    base = statistics.median(run.seconds for run in runs[PLAIN])
    print(f"\n| way | pictures a second (median of {len(runs[PLAIN])}) | times faster | peak memory, MB "
          "| outside the networks |\n|---|---|---|---|---|")
    for name, some in runs.items():
        seconds = statistics.median(run.seconds for run in some)
        outside = statistics.median(1 - sum(run.phases.values()) / run.seconds for run in some)
        peak = statistics.median(run.peak for run in some)
        print(f"| {name} | {images / seconds:.1f} | {base / seconds:.2f} | {peak / 1e6:.0f} | {outside:.1%} |")
    phases = list(runs[PLAIN][0].phases)
    print("\n| way | " + " | ".join(f"{phase}, ms each" for phase in phases) + " |\n|---|" + "---|" * len(phases))
    for name, some in runs.items():
        each = [statistics.median(run.phases[phase] / run.counts[phase] for run in some) * 1000 for phase in phases]
        print(f"| {name} | " + " | ".join(f"{value:.0f}" for value in each) + " |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    print(f"{Path(__file__).name}: {measuring.machine(torch.device(arguments.device))}")
    main(arguments.rounds, torch.device(arguments.device))
