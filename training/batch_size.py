"""--batch-gpu=auto: how many pictures a rank can take at once, found by trying."""

from __future__ import annotations

import gc

import torch

import dnnlib
from torch_utils import distributed
from torch_utils.misc import is_out_of_memory
from training import labels
from training.state import TrainingState

LATE = 1e12  # images seen when all fades are over and the most rays are cast


def largest(config: dnnlib.EasyDict, dataset, device: torch.device) -> int:
    """The largest micro-batch whose training steps fit into memory on every rank; all ranks call it together.

    It must divide a rank's share of the batch into equal parts and hold whole groups of D's minibatch deviation. Raises
    ValueError when not even the smallest fits.
    """
    group = config.D_kwargs.epilogue_kwargs.mbstd_group_size
    share = config.batch_size // distributed.size()
    candidates = [size for size in range(share, 0, -1) if share % size == 0 and size >= group and size % group == 0]
    for size in candidates:
        failed = distributed.most([not _fits(config, dataset, device, size)])[0]
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
        if not failed:
            return size
    raise ValueError(f"--batch-gpu=auto: not even {candidates[-1]} pictures at once fit into the memory of {device}: choose a "
                     "smaller network, or a smaller --mbstd-group")


def _fits(config: dnnlib.EasyDict, dataset, device: torch.device, size: int) -> bool:
    """Runs every phase once, without exchanging anything, since another rank may have stopped."""
    state = TrainingState(config, dataset, device)
    try:
        if state.augment_pipe is not None:
            state.augment_pipe.p.fill_(1)  # when it takes the most
        _try_phases(state, dataset, size)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return False
    return True


def _try_phases(state: TrainingState, dataset, size: int) -> None:
    real = torch.zeros([size, *dataset.image_shape], device=state.device)
    c = torch.zeros([size, labels.SIZE], device=state.device)
    c[:, [0, 5, 10, 15, 16, 20, 24]] = 1
    z = torch.randn([size, state.config.G_kwargs.z_dim], device=state.device)
    for phase in state.phases:
        phase.module.requires_grad_(True)
        state.loss.accumulate_gradients(
            phase=phase.name, real_img=real, real_c=c[:, : dataset.label_dim], gen_z=z, gen_c=c, gain=phase.interval,
            cur_nimg=LATE)
        phase.module.requires_grad_(False)
        phase.optimizer.step()
