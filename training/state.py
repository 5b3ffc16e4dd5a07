"""All that a training run consists of between two batches: networks, optimizers, order of the data, counters, random states.

`captured` and `restore` are each other's inverse, to the last bit: a run that stops and goes on is the run that never stopped.
"""

from __future__ import annotations

import contextlib
import copy
import random
from typing import Any, Dict, Iterator, List, Optional, Tuple

import numpy as np
import torch
from torch import Tensor

import dnnlib
from torch_utils import distributed, misc, training_stats
from training import ada, labels, phases, schedules
from training.dataset import InfiniteSampler


class TrainingState:
    """A run's state on this rank, at the start as `config` (training/config.py) has it.

    initial: an opened snapshot whose weights to begin with. Raises ValueError where its sizes differ.
    """

    def __init__(self, config: dnnlib.EasyDict, dataset, device: torch.device, initial: Optional[dict] = None):
        self.config, self.device = config, device
        seed(config.random_seed * distributed.size() + distributed.rank())
        size = dict(img_resolution=dataset.resolution, img_channels=dataset.num_channels)
        self.G = _learner(config.G_kwargs, device, c_dim=labels.SIZE, **size)
        self.D = _learner(config.D_kwargs, device, c_dim=dataset.label_dim, **size)
        self.G_ema = copy.deepcopy(self.G).eval()
        if initial is not None:
            self._begin_with(initial)
        spread = dataset.get_label_std() if dataset.has_labels else np.zeros(labels.SIZE, dtype=np.float32)
        for network in (self.G, self.G_ema):
            network.register_buffer("dataset_label_std", torch.tensor(spread, device=device))
        for network in (self.G, self.D, self.G_ema):
            if config.channels_last:
                network.to(memory_format=torch.channels_last)
            distributed.broadcast_module(network)
        self.augment_pipe = None
        if config.augment_kwargs is not None:
            pipe = dnnlib.util.construct_class_by_name(**config.augment_kwargs)
            self.augment_pipe = pipe.train().requires_grad_(False).to(device)
            self.augment_pipe.p.fill_(config.augment_p)
        self.loss = dnnlib.util.construct_class_by_name(
            device=device, G=self.G, D=self.D, augment_pipe=self.augment_pipe, bf16=config.bf16, compile=config.compile,
            **config.loss_kwargs)
        self.optimizers = dict(G=phases.optimizer_of(self.G, config.G_reg_interval, **config.G_opt_kwargs),
                               D=phases.optimizer_of(self.D, config.D_reg_interval, **config.D_opt_kwargs))
        self.phases = [*phases.phases_of("G", self.G, self.optimizers["G"], config.G_reg_interval),
                       *phases.phases_of("D", self.D, self.optimizers["D"], config.D_reg_interval)]
        self.order = InfiniteSampler(
            len(dataset), rank=distributed.rank(), num_replicas=distributed.size(), seed=config.random_seed)
        self.step = 0  # batches seen
        self.nimg = 0  # real images seen, by all ranks
        self.tick = 0
        self.tick_start = 0  # images seen when it began
        self.seconds = 0.0  # of training, before this process
        self.signs = training_stats.Collector("Loss/signs/real")
        self.stats = training_stats.Collector()

    def _begin_with(self, snapshot: dict) -> None:
        for name in ("G", "D", "G_ema"):
            if snapshot.get(name) is None:
                raise ValueError(f"--init-from: {self.config.init_from} has no {name}: training begins with a whole snapshot")
            try:
                misc.copy_params_and_buffers(snapshot[name], getattr(self, name))
            except ValueError as error:
                raise ValueError(f"--init-from: {self.config.init_from} has other sizes: {name}.{error}") from error

    # -------------------------------------------------------------------------------------------- what a batch does

    def end_batch(self) -> None:
        """Moves the average of G, counts the batch, adapts the augmentation."""
        config = self.config
        decay = schedules.ema_decay(self.nimg, config.batch_size, config.ema_kimg, config.ema_rampup)
        with torch.no_grad():
            for average, current in zip(self.G_ema.parameters(), self.G.parameters()):
                average.copy_(current.lerp(average, decay))
            for average, current in zip(self.G_ema.buffers(), self.G.buffers()):
                average.copy_(current)
        self.G_ema.neural_rendering_resolution = self.G.neural_rendering_resolution
        self.G_ema.rendering_kwargs = dnnlib.EasyDict(self.G.rendering_kwargs)
        self.step += 1
        self.nimg += config.batch_size
        if config.ada_target is not None and self.step % ada.INTERVAL == 0:
            self.signs.update()
            p = ada.adapted(self.augment_pipe.p.item(), self.signs["Loss/signs/real"], config.ada_target, config.batch_size,
                            config.ada_kimg)
            self.augment_pipe.p.fill_(p)

    @property
    def is_done(self) -> bool:
        """Whether the run has reached its length."""
        return self.nimg >= self.config.total_kimg * 1000

    @property
    def ends_tick(self) -> bool:
        """The first batch is a tick of its own; later ones have kimg_per_tick thousand images."""
        return self.is_done or self.tick == 0 or self.nimg >= self.tick_start + self.config.kimg_per_tick * 1000

    def snapshot(self) -> Dict[str, Any]:
        """What official pickles hold; networks are copies on the CPU, in eval mode."""
        content: Dict[str, Any] = {}
        for name in ("G", "D", "G_ema", "augment_pipe"):
            network = getattr(self, name)
            if network is not None:
                network = copy.deepcopy(network).eval().requires_grad_(False).cpu()
            content[name] = network
        return dict(content, training_set_kwargs=dnnlib.EasyDict(self.config.training_set_kwargs))

    # -------------------------------------------------------------------------------------------- to disk and back

    def captured(self) -> Tuple[Dict[str, Any], Dict[str, Any]]:
        """What all ranks have in common, and this rank's own; tensors and plain Python."""
        common = dict(
            networks={name: dict(getattr(self, name).state_dict()) for name in self._networks()},
            optimizers={name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            order=self.order.state_dict(), signs=self.signs.state_dict(), stats=self.stats.state_dict(),
            counters={name: getattr(self, name) for name in COUNTERS})
        own = dict(random=random_states(self.device), reports=training_stats.state_dict(), averages=dict(self._averages()))
        return common, own

    def restore(self, common: Dict[str, Any], own: Dict[str, Any]) -> None:
        """Takes over what `captured` gave."""
        for name, tensors in common["networks"].items():
            getattr(self, name).load_state_dict(tensors)
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(common["optimizers"][name])
        self.order.load_state_dict(common["order"])
        self.signs.load_state_dict(common["signs"])
        self.stats.load_state_dict(common["stats"])
        for name in COUNTERS:
            setattr(self, name, common["counters"][name])
        for name, average in self._averages():
            average.copy_(own["averages"][name])
        training_stats.load_state_dict(own["reports"])
        set_random_states(self.device, own["random"])

    def _networks(self) -> List[str]:
        return [name for name in ("G", "D", "G_ema", "augment_pipe") if getattr(self, name) is not None]

    def _averages(self) -> Iterator[Tuple[str, Tensor]]:
        """Running means that every rank keeps of its own pictures."""
        for network in ("G", "G_ema"):
            for name, tensor in getattr(self, network).named_buffers():
                if name.endswith("w_avg"):
                    yield f"{network}.{name}", tensor


COUNTERS = ("step", "nimg", "tick", "tick_start", "seconds")


def _learner(kwargs: dict, device: torch.device, **more) -> torch.nn.Module:
    network = dnnlib.util.construct_class_by_name(**kwargs, **more)
    return network.train().requires_grad_(False).to(device)


# ------------------------------------------------------------------------------------------------ random states

def seed(number: int) -> None:
    """Starts every source of random numbers of this process."""
    random.seed(number)
    np.random.seed(number % 2**32)
    torch.manual_seed(number)


@contextlib.contextmanager
def undisturbed(device: torch.device) -> Iterator[None]:
    """What draws random numbers inside the block changes none of those after it."""
    states = random_states(device)
    try:
        yield
    finally:
        set_random_states(device, states)


def random_states(device: torch.device) -> Dict[str, Any]:
    """Where Python's, NumPy's and PyTorch's random numbers stand; tensors and plain Python."""
    kind, keys, *rest = np.random.get_state()
    states = dict(python=random.getstate(), numpy=[kind, torch.from_numpy(keys.astype(np.int64)), *rest],
                  torch=torch.get_rng_state())
    if device.type != "cpu":
        states[device.type] = torch.get_device_module(device).get_rng_state()
    return states


def set_random_states(device: torch.device, states: Dict[str, Any]) -> None:
    """Goes on from `random_states`."""
    kinds = set(states) - {"python", "numpy", "torch"}
    if kinds != {device.type} - {"cpu"}:
        raise ValueError(f"the run was trained on {', '.join(kinds) or 'cpu'}, not on {device.type}: give that --device, or "
                         "begin anew with --resume=none")
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if device.type != "cpu":
        torch.get_device_module(device).set_rng_state(states[device.type])
