"""The training loop, in one process (rank) of any number on any number of hosts. Rank 0 alone touches the run's folder."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

import torch
from torch import Tensor

import dnnlib
from torch_utils import distributed, misc, pickles, training_stats
from training import checkpoint, grids, run_folder
from training.batches import Batches
from training.state import TrainingState, seed, undisturbed
from training.watch import Watch


@dataclasses.dataclass
class Calls:
    """What the loop gets from above: callables, so that it need not know who does it."""

    stop: Callable[[], bool]  # whether someone asked this process to stop
    evaluate: Optional[Callable[[torch.nn.Module, str], Dict[str, Dict[str, float]]]] = None  # (G_ema, snapshot) -> metrics
    cameras: Optional[Callable[[int], Tensor]] = None  # count -> labels [count, 25], for data without


def train(config: dnnlib.EasyDict, dataset, device: torch.device, folder: Optional[Path], calls: Calls,
          initial: Optional[dict] = None, resumed: Optional[Dict[str, Any]] = None) -> bool:
    """Trains until total_kimg or until someone asks to stop; returns whether it is finished.

    config: see training/config.py. On rank 0 only: the run's folder; initial, a snapshot whose weights to begin with; resumed,
    a checkpoint's content. Raises ValueError (the loss is not finite, a picture cannot be read) and OSError (the disk is full).
    """
    run = _Run(config, dataset, device, folder, calls, initial, resumed)
    try:
        while not run.state.is_done:
            run.learn_a_batch()
            if run.state.ends_tick:
                run.end_tick()
            if run.is_interrupted():
                break
        run.save_checkpoint()
    finally:
        run.batches.close()
        run.watch.close()
    return run.state.is_done


class _Run:
    def __init__(self, config, dataset, device, folder, calls, initial, resumed):
        self.config, self.dataset, self.device, self.folder, self.calls = config, dataset, device, folder, calls
        training_stats.load_state_dict(dict(recent={}, total={}))
        training_stats.init_multiprocessing(distributed.rank(), device if distributed.size() > 1 else None)
        self.state = TrainingState(config, dataset, device, initial)
        self._resume(resumed, initial)
        self.watch = Watch(folder, self.state)
        self.batches = Batches(dataset, self.state.order, config, len(self.state.phases), device, calls.cameras)
        self.grids = self._grids() if folder is not None else None
        self._checkpointed = self.watch.seconds

    def _resume(self, resumed: Optional[Dict[str, Any]], initial: Optional[dict]) -> None:
        self._data, found = self.dataset.fingerprint(), distributed.shared(resumed)
        if found is not None:
            self.state.restore(found["common"], found["ranks"][distributed.rank()])
        self._saved = None if found is None else self.state.nimg  # images seen at the checkpoint on the disk
        if self.folder is not None:
            run_folder.tidy(self.folder, self.state.nimg, found["lengths"] if found else {})
        for used in (resumed or {}, initial or {}):
            used.clear()  # it would stay in memory for the whole run

    def _grids(self) -> grids.Grids:
        shape = grids.layout(self.dataset.resolution, self.config.grid)
        with undisturbed(self.device):
            seed(grids.SEED)
            cameras = self.calls.cameras(shape[1]) if self.calls.cameras else None
        made = grids.Grids(self.dataset, self.config.G_kwargs.z_dim, shape, self.config.batch_gpu, self.device, cameras)
        made.save_reals(self.folder / "reals.png")
        return made

    def learn_a_batch(self) -> None:
        """Fetch, step phases, update EMA, adapt ADA."""
        state, batch = self.state, next(self.batches)
        for phase, gen_z, gen_c in zip(state.phases, batch.gen_z, batch.gen_c):
            if phase.is_due(state.step):
                phase.step(state.loss, batch.real, batch.real_c, gen_z, gen_c, state.nimg)
        state.end_batch()
        self.watch.batch()

    def end_tick(self) -> None:
        """A status line and statistics; every few ticks pictures, a snapshot and its metrics."""
        state, kimg = self.state, f"{self.state.nimg // 1000:06d}"
        self._require_finite()
        self.watch.status()
        with undisturbed(self.device):
            if self.folder is not None and self._is_due(self.config.image_snapshot_ticks):
                self.grids.save_fakes(state.G_ema, self.folder / f"fakes{kimg}")
            metrics: Dict[str, Dict[str, float]] = {}
            if self._is_due(self.config.network_snapshot_ticks):
                name = f"network-snapshot-{kimg}.pkl"
                for network in (state.G, state.D, state.G_ema) if distributed.size() > 1 else ():
                    misc.check_ddp_consistency(network, r".*\.w_avg")  # these are each rank's own
                if self.folder is not None:
                    pickles.save(state.snapshot(), self.folder / name)
                if self.calls.evaluate is not None:
                    metrics = self.calls.evaluate(state.G_ema, name)
        state.stats.update()
        self.watch.record(metrics)
        state.tick += 1
        state.tick_start = state.nimg

    def _is_due(self, ticks: Optional[int]) -> bool:
        return ticks is not None and (self.state.is_done or self.state.tick % ticks == 0)

    def is_interrupted(self) -> bool:
        """Whether any rank was asked to stop; also writes a checkpoint when it is time. All ranks decide alike."""
        waited = self.watch.seconds - self._checkpointed
        late = self.folder is not None and waited >= self.config.checkpoint_minutes * 60
        stop, late = distributed.most([self.calls.stop(), late])
        if stop:
            self.watch.say("Stopping, with a checkpoint ...")
        elif late and not self.state.is_done:
            self.save_checkpoint()
        return bool(stop)

    def save_checkpoint(self) -> None:
        """Writes the run's state, unless it is on the disk already."""
        if self._saved == self.state.nimg:
            return
        self._require_finite()
        common, own = self.state.captured()
        ranks: Optional[List[Any]] = distributed.collected(own)
        if self.folder is not None:
            common["counters"]["seconds"] = self.watch.seconds
            checkpoint.save(
                dict(common=common, ranks=ranks, data=self._data, lengths=run_folder.lengths(self.folder)),
                checkpoint.path_of(self.folder, self.state.nimg))
        self._checkpointed, self._saved = self.watch.seconds, self.state.nimg

    def _require_finite(self) -> None:
        if distributed.most([not training_stats.all_finite("Loss/G/loss", "Loss/D/loss")])[0]:
            if self.folder is None:
                raise distributed.RankLost("rank 0 says why")
            kept = checkpoint.found(self.folder)
            last = f"the last good checkpoint is {kept[0]}" if kept else "there is no checkpoint before it"
            raise ValueError(
                f"the loss is not finite after {self.state.nimg / 1000:.1f} kimg: {last}; begin anew from a good snapshot "
                "(--init-from) with smaller --glr and --dlr or a larger --gamma")
