"""The parts of a training step: which network learns, by what, how often, with which optimizer (StyleGAN2, appendix B).

Regularization is lazy: it happens every few batches, with its gradients multiplied by that number. Main and regularizing
phase of a network share one Adam, whose rates are adjusted for the steps that come in between.
"""

from __future__ import annotations

import time
from typing import List, Optional, Sequence, Tuple

import torch
from torch import Tensor

import dnnlib
from torch_utils import training_stats
from torch_utils.distributed import GradientAverager


class Phase:
    """One kind of step of one network. `name` is a key of loss.PHASES."""

    def __init__(self, name: str, module: torch.nn.Module, optimizer: torch.optim.Optimizer, averager: GradientAverager,
                 interval: int):
        self.name, self.module, self.optimizer, self.averager, self.interval = name, module, optimizer, averager, interval
        self._clock = _Clock(next(module.parameters()).device)

    def is_due(self, step: int) -> bool:
        """Whether it happens at batch number `step`."""
        return step % self.interval == 0

    def step(self, loss, real: Sequence[Tensor], real_c: Sequence[Tensor], gen_z: Sequence[Tensor], gen_c: Sequence[Tensor],
             nimg: int) -> None:
        """Teaches by a batch that comes in micro-batches, whose gradients are summed; nimg: real images seen."""
        training_stats.report0(f"Timing/{self.name}", self._clock.start())
        self.optimizer.zero_grad(set_to_none=True)
        self.module.requires_grad_(True)
        self.averager.begin(self.name)
        for images, c, z, label in zip(real, real_c, gen_z, gen_c):
            loss.accumulate_gradients(
                phase=self.name, real_img=images, real_c=c, gen_z=z, gen_c=label, gain=self.interval, cur_nimg=nimg)
        self.module.requires_grad_(False)
        training_stats.report0(f"Gradients/not_finite/{self.name}", self.averager.finish())
        self.optimizer.step()
        self._clock.stop()


def optimizer_of(module: torch.nn.Module, interval: Optional[int], class_name: str, lr: float, betas: Sequence[float],
                 **kwargs) -> torch.optim.Optimizer:
    """Adam for a network that is regularized every `interval` batches (None: in every one).

    Of interval + 1 steps, `interval` are the main phase's, so that rates shrink by interval / (interval + 1).
    """
    ratio = 1.0 if interval is None else interval / (interval + 1)
    return dnnlib.util.construct_class_by_name(
        module.parameters(), class_name=class_name, lr=lr * ratio, betas=tuple(beta**ratio for beta in betas), **kwargs)


def phases_of(letter: str, module: torch.nn.Module, optimizer: torch.optim.Optimizer, interval: Optional[int]) -> List[Phase]:
    """Main and regularizing phase of G or D, or both in one where regularization is not lazy."""
    averager = GradientAverager(list(module.parameters()))
    kinds = [("both", 1)] if interval is None else [("main", 1), ("reg", interval)]
    return [Phase(letter + kind, module, optimizer, averager, every) for kind, every in kinds]


class _Clock:
    """Milliseconds of what happens between start and stop; a GPU's are known when the next start comes, without waiting."""

    def __init__(self, device: torch.device):
        self._device = device
        self._began = 0.0
        self._events: Optional[Tuple[torch.cuda.Event, torch.cuda.Event]] = None
        self._last: List[float] = []

    def start(self) -> List[float]:
        """What the time before took, once it is known."""
        if self._device.type == "cuda":
            if self._events is not None and self._events[1].query():
                self._last = [self._events[0].elapsed_time(self._events[1])]
            self._events = (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))
            self._events[0].record()
        self._began = time.perf_counter()
        last, self._last = self._last, []
        return last

    def stop(self) -> None:
        if self._events is not None:
            self._events[1].record()
        else:
            self._last = [(time.perf_counter() - self._began) * 1000]
