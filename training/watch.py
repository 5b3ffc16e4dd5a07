"""What people watch while a network learns: a line a tick, a progress bar, stats.jsonl, TensorBoard, the run's page."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any, Dict, Optional

import torch
import tqdm

from dnnlib.util import format_time
from torch_utils import training_stats
from training import run_page
from training.state import TrainingState

GIGA = 2**30
STATM = Path("/proc/self/statm")


class Watch:
    """Tells about a run on rank 0; on the other ranks only registers the names of its statistics.

    folder: the run's, None on the other ranks.
    """

    def __init__(self, folder: Optional[Path], state: TrainingState):
        self._folder, self._state = folder, state
        self._began = self._tick_began = time.time()
        self._maintenance = 0.0
        self._nimg = state.nimg  # images seen when this process began the tick
        self._board = _tensorboard(folder, state.nimg) if folder else None
        self._bar = tqdm.tqdm(
            total=state.config.total_kimg * 1000, initial=state.nimg, unit="img", unit_scale=True, smoothing=0.05,
            dynamic_ncols=True, disable=folder is None or not sys.stderr.isatty(), file=sys.__stderr__)

    @property
    def seconds(self) -> float:
        """Of the whole run, with what came before it was continued."""
        return self._state.seconds + time.time() - self._began

    def batch(self) -> None:
        """Moves the progress bar."""
        self._bar.update(self._state.nimg - self._bar.n)

    def status(self) -> None:
        """Reports how the tick went and prints its line; every rank calls it."""
        state, now, report = self._state, time.time(), training_stats.report0
        seconds, images = now - self._tick_began, state.nimg - self._nimg
        per_kimg = seconds / images * 1000
        augment = 0.0 if state.augment_pipe is None else float(state.augment_pipe.p)
        memory = _gpu_memory(state.device)
        fields = [
            f"tick {report('Progress/tick', state.tick):<5d}", f"kimg {report('Progress/kimg', state.nimg / 1000):<8.1f}",
            f"time {format_time(report('Timing/total_sec', self.seconds)):<12s}",
            f"sec/tick {report('Timing/sec_per_tick', seconds):<7.1f}",
            f"sec/kimg {report('Timing/sec_per_kimg', per_kimg):<7.2f}",
            f"maintenance {report('Timing/maintenance_sec', self._maintenance):<6.1f}",
            f"cpumem {report('Resources/cpu_mem_gb', _cpu_memory()):<6.2f}",
            f"gpumem {report('Resources/peak_gpu_mem_gb', memory['peak']):<6.2f}",
            f"reserved {report('Resources/peak_gpu_mem_reserved_gb', memory['reserved']):<6.2f}",
            f"augment {report('Progress/augment', augment):.3f}"]
        report("Timing/total_hours", self.seconds / 3600)
        report("Timing/total_days", self.seconds / 86400)
        self._tick_ended = now
        self.say(" ".join(fields))

    def say(self, line: str) -> None:
        """Prints a line above the progress bar; the run's log has it too."""
        if self._folder is not None:
            with tqdm.tqdm.external_write_mode(file=sys.__stderr__):
                print(line, flush=True)

    def record(self, metrics: Dict[str, Dict[str, float]]) -> None:
        """Appends the tick's statistics to the files, and begins the next one. Every rank calls it, after its collector."""
        if self._folder is not None:
            stats, now = self._state.stats.as_dict(), time.time()
            with open(self._folder / "stats.jsonl", "a", encoding="utf-8") as file:
                file.write(json.dumps(dict(_plain(stats), timestamp=now)) + "\n")
            if self._board is not None:
                values = {name: value.mean for name, value in stats.items() if value.num > 0}
                values.update({f"Metrics/{name}": value for found in metrics.values() for name, value in found.items()})
                for name, value in values.items():
                    self._board.add_scalar(name, value, global_step=self._state.nimg // 1000, walltime=now)
                self._board.flush()
            run_page.write_page(self._folder)
        self._nimg, self._tick_began = self._state.nimg, time.time()
        self._maintenance = self._tick_began - self._tick_ended

    def close(self) -> None:
        """Closes the bar and TensorBoard's file."""
        self._bar.close()
        if self._board is not None:
            self._board.close()


def _plain(stats: Dict[str, Any]) -> Dict[str, Any]:
    """As JSON has it: what is no number is null."""
    return {name: {key: number if math.isfinite(number) else None for key, number in value.items()}
            for name, value in stats.items()}


def _tensorboard(folder: Path, nimg: int):
    if importlib.util.find_spec("tensorboard") is None:
        print("TensorBoard is not installed: no tfevents are written (pip install tensorboard).", flush=True)
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=nimg // 1000 + 1 if nimg > 0 else None)


def _cpu_memory() -> float:
    """Of this process now, in GiB; where the system does not tell, its peak."""
    if STATM.exists():
        return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / GIGA
    if importlib.util.find_spec("resource") is None:
        return math.nan
    import resource  # Unix has it

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / GIGA if sys.platform == "darwin" else peak * 1024 / GIGA


def _gpu_memory(device: torch.device) -> Dict[str, float]:
    """Peaks since the last call, in GiB."""
    if device.type != "cuda":
        return dict(peak=0.0, reserved=0.0)
    found = dict(peak=torch.cuda.max_memory_allocated(device) / GIGA, reserved=torch.cuda.max_memory_reserved(device) / GIGA)
    torch.cuda.reset_peak_memory_stats(device)
    return found
