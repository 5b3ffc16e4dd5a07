"""Batches on their way to the networks: real pictures with their labels, latents, and cameras for the generator."""

from __future__ import annotations

import atexit
import functools
import os
import signal
from typing import Callable, Iterator, List, NamedTuple, Optional, Tuple

import torch
from torch import Tensor

import dnnlib
from torch_utils import distributed
from training.dataset import DatasetError, InfiniteSampler

Micro = Tuple[Tensor, ...]


class Batch(NamedTuple):
    """This rank's share of a batch in micro-batches; latents and cameras are drawn anew for each phase."""

    real: Micro  # [n, C, R, R] in [-1, 1]
    real_c: Micro  # [n, 25], or [n, 0] without labels
    gen_z: List[Micro]  # of each phase
    gen_c: List[Micro]


class Batches:
    """Endless batches of a data set in the order of `order`, whose place moves on as they are used.

    cameras(count) -> [count, 25] draws the generator's; by default they are those of random items.
    """

    def __init__(self, dataset, order: InfiniteSampler, config: dnnlib.EasyDict, phases: int, device: torch.device,
                 cameras: Optional[Callable[[int], Tensor]] = None):
        self._order, self._phases, self._device = order, phases, device
        self._share = config.batch_size // distributed.size()
        self._micro, self._z_dim = config.batch_gpu, config.G_kwargs.z_dim
        self._labels = torch.from_numpy(dataset.labels())
        self._cameras = self._of_random_items if cameras is None else cameras
        options = dict(config.data_loader_kwargs, pin_memory=config.data_loader_kwargs.pin_memory and device.type == "cuda")
        self._ending = torch.multiprocessing.Event()
        loader = torch.utils.data.DataLoader(
            _Told(dataset), sampler=order, batch_size=self._share, collate_fn=_collated,
            worker_init_fn=functools.partial(_deaf, self._ending),
            generator=torch.Generator(),  # of its own: the run's random numbers stay as they are
            **options)
        self._real: Iterator = iter(loader)
        atexit.register(self.close)  # before Python ends its processes

    def close(self) -> None:
        """Lets the reading processes end."""
        self._ending.set()
        self._real = iter(())

    def __next__(self) -> Batch:
        """Raises DatasetError when a picture cannot be read."""
        found = next(self._real)
        if isinstance(found, DatasetError):
            raise found
        self._order.advance(self._share)
        images, real_c = [part.to(self._device, non_blocking=True) for part in found]
        z = torch.randn((self._phases * self._share, self._z_dim), device=self._device)
        c = self._cameras(self._phases * self._share).to(self._device, non_blocking=True)
        return Batch(
            self._split(images.to(torch.float32) / 127.5 - 1), self._split(real_c),
            [self._split(part) for part in z.split(self._share)], [self._split(part) for part in c.split(self._share)])

    def _split(self, tensor: Tensor) -> Micro:
        return tensor.split(self._micro)

    def _of_random_items(self, count: int) -> Tensor:
        return self._labels[torch.randint(len(self._labels), (count,))]


class _Told(torch.utils.data.Dataset):
    """A data set that returns its errors: raised in a worker process they would come with its traceback."""

    def __init__(self, dataset):
        self._dataset = dataset

    def __getitem__(self, index: int):
        try:
            return self._dataset[index]
        except DatasetError as error:
            return error


def _collated(items: list):
    """Images uint8 [N, C, R, R] and labels [N, 25], or the first error."""
    for item in items:
        if isinstance(item, DatasetError):
            return item
    images, labels = zip(*items)
    return torch.stack([torch.from_numpy(image) for image in images]), torch.stack([torch.from_numpy(c) for c in labels])


def _deaf(ending, _worker: int) -> None:
    """Signals to stop are the run's to answer: it finishes its batch, for which it needs these processes."""
    def hear(*_signal) -> None:
        if ending.is_set():
            os._exit(0)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, hear)
    torch.set_num_threads(1)
