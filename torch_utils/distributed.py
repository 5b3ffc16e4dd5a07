"""Several processes that work as one: torchrun's set-up, exchange of tensors, averaging of gradients.

Every process is a rank; they may be on several hosts. Alone (without torchrun) every function here does nothing quickly, so
code that calls them needs no second way. CPU tensors travel by gloo, CUDA tensors by nccl.
"""

from __future__ import annotations

import contextlib
import datetime
import os
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

import torch
import torch.distributed as dist
from torch import Tensor

BUCKET = 25 * 2**20  # bytes of gradients that travel together
TIMEOUT = datetime.timedelta(minutes=30)  # metrics and checkpoints may keep one rank busy that long
LARGEST_GRADIENT = 1e5  # what an infinite one becomes


class RankLost(RuntimeError):
    """Another rank has ended, so this one cannot go on."""


def launched() -> bool:
    """Whether torchrun (or another launcher of its kind) started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def start(device: torch.device) -> torch.device:
    """Joins the processes that torchrun started; returns this rank's device. Alone: just the device.

    Raises ValueError when a host has more ranks than GPUs.
    """
    if not launched():
        if device.type == "cuda":
            torch.cuda.set_device(device)
        return device
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if device.type == "cuda":
        if local >= torch.cuda.device_count():
            raise ValueError(f"this host starts {local + 1} ranks or more but has {torch.cuda.device_count()} GPUs: "
                             "choose a smaller --nproc-per-node, or --device=cpu")
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=TIMEOUT)
    return device


def stop() -> None:
    """Leaves the group, if there is one."""
    if _together():
        dist.destroy_process_group()


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Inside the block, what PyTorch raises when another rank has ended becomes RankLost."""
    try:
        yield
    except RuntimeError as error:
        if size() > 1 and (isinstance(error, dist.DistError) or "gloo" in str(error).lower()):
            raise RankLost("another rank has ended") from error
        raise


def _together() -> bool:
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """This process's number among all hosts."""
    return dist.get_rank() if _together() else 0


def size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if _together() else 1


# ------------------------------------------------------------------------------------------------ exchange

def gathered(tensor: Tensor) -> Tensor:
    """Every rank's tensor of the same shape, one after another along dimension 0."""
    if size() == 1:
        return tensor
    parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(size())]
    dist.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)


def most(numbers: Sequence[float]) -> List[float]:
    """The largest among the ranks, of each number."""
    if size() == 1:
        return list(numbers)
    tensor = torch.tensor(numbers, dtype=torch.float64)
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return tensor.tolist()


def collected(value: Any) -> Optional[List[Any]]:
    """Rank 0 gets a list of every rank's (small, picklable) value, the others None."""
    if size() == 1:
        return [value]
    values: Optional[List[Any]] = [None] * size() if rank() == 0 else None
    dist.gather_object(value, values, dst=0)
    return values


def shared(value: Any) -> Any:
    """Rank 0's value, a nest of dicts and lists of tensors and plain Python; tensors arrive on the CPU."""
    if size() == 1:
        return value
    tensors: List[Tensor] = []
    outline = [_outline(value, tensors) if rank() == 0 else None]
    dist.broadcast_object_list(outline, src=0)
    return _filled(outline[0], iter(tensors))


class _Place:
    """Where a tensor stands in an outline."""

    def __init__(self, tensor: Tensor):
        self.shape, self.dtype = tuple(tensor.shape), tensor.dtype


def _outline(value: Any, tensors: List[Tensor]) -> Any:
    if isinstance(value, Tensor):
        tensors.append(value)
        return _Place(value)
    if isinstance(value, dict):
        return type(value)({key: _outline(item, tensors) for key, item in value.items()})
    if isinstance(value, (list, tuple)):
        return type(value)(_outline(item, tensors) for item in value)
    return value


def _filled(outline: Any, tensors) -> Any:
    if isinstance(outline, _Place):
        own = next(tensors, None)
        tensor = torch.empty(outline.shape, dtype=outline.dtype) if own is None else own.detach().cpu().contiguous()
        dist.broadcast(tensor, src=0)
        return tensor
    if isinstance(outline, dict):
        return type(outline)({key: _filled(item, tensors) for key, item in outline.items()})
    if isinstance(outline, (list, tuple)):
        return type(outline)(_filled(item, tensors) for item in outline)
    return outline


def broadcast_module(module: torch.nn.Module) -> None:
    """Every parameter and buffer becomes rank 0's."""
    if size() > 1:
        for tensor in [*module.parameters(), *module.buffers()]:
            with torch.no_grad():
                dense = tensor.detach().contiguous()
                dist.broadcast(dense, src=0)
                tensor.copy_(dense)


# ------------------------------------------------------------------------------------------------ gradients

class GradientAverager:
    """Averages gradients over the ranks, in buckets; NaN becomes 0 and infinity +-1e5, and both are counted.

    Backward passes of one kind always touch the same parameters equally often. The first one of a kind (`kind` names it)
    teaches which; in later ones a bucket sets off as soon as its last gradient is there, while backward goes on.
    """

    def __init__(self, parameters: Sequence[Tensor]):
        self._parameters = list(parameters)
        self._plans: Dict[str, _Plan] = {}
        self._plan: Optional[_Plan] = None
        if size() > 1:
            for parameter in self._parameters:
                wanted = parameter.requires_grad
                parameter.requires_grad_(True).register_post_accumulate_grad_hook(self._arrived)
                parameter.requires_grad_(wanted)

    def begin(self, kind: str) -> None:
        """Call before the first backward pass of this kind."""
        self._plan = self._plans.setdefault(kind, _Plan())
        self._plan.restart()

    def _arrived(self, parameter: Tensor) -> None:
        if self._plan is not None:
            self._plan.arrived(parameter)

    def finish(self) -> Tensor:
        """Call after the last one; every .grad is the average then. Returns how many elements were not finite."""
        plan, self._plan = self._plan, None
        if size() > 1:
            buckets = plan.finish(self._parameters)
        else:
            bucket = [parameter for parameter in self._parameters if parameter.grad is not None]
            buckets = [(bucket, _flat(bucket))] if bucket else []
        strange = torch.zeros([], dtype=torch.int64)
        for bucket, flat in buckets:
            strange = strange.to(flat.device) + (~torch.isfinite(flat)).sum()
            torch.nan_to_num(flat, nan=0.0, posinf=LARGEST_GRADIENT, neginf=-LARGEST_GRADIENT, out=flat)
            for parameter, part in zip(bucket, flat.split([parameter.numel() for parameter in bucket])):
                parameter.grad = part.view(parameter.shape)
        return strange


def _flat(bucket: Sequence[Tensor]) -> Tensor:
    """Gradients one after another."""
    return torch.cat([parameter.grad.flatten() for parameter in bucket])


class _Plan:
    """Which gradients one kind of backward makes, in what buckets they travel."""

    def __init__(self):
        self.expected: Dict[Tensor, int] = {}  # arrivals of each parameter's gradient, in the order of their last
        self.buckets: List[List[Tensor]] = []

    def restart(self) -> None:
        self.counts: Dict[Tensor, int] = {}
        self.travelling: List[Any] = []  # (bucket, flat gradients, handle); always a prefix of the buckets
        self.missing = [len(bucket) for bucket in self.buckets]

    def arrived(self, parameter: Tensor) -> None:
        count = self.counts.pop(parameter, 0) + 1
        self.counts[parameter] = count  # moves to the end
        if self.buckets and count == self.expected.get(parameter):
            self.missing[self.bucket_of[parameter]] -= 1
            # Every rank sends them in the same order.
            while len(self.travelling) < len(self.buckets) and self.missing[len(self.travelling)] == 0:
                self._send(self.buckets[len(self.travelling)])

    def _send(self, bucket: List[Tensor]) -> None:
        flat = _flat(bucket)
        self.travelling.append((bucket, flat, dist.all_reduce(flat, async_op=True)))

    def finish(self, parameters: Sequence[Tensor]) -> List[Tuple[List[Tensor], Tensor]]:
        """Every bucket with its averaged gradients."""
        if not self.buckets:
            self.learn(parameters)
        elif self.counts != self.expected:
            raise RuntimeError("a backward pass made other gradients than the first of its kind")
        for bucket in self.buckets[len(self.travelling):]:
            self._send(bucket)
        for _bucket, flat, handle in self.travelling:
            handle.wait()
            flat /= size()
        return [(bucket, flat) for bucket, flat, _handle in self.travelling]

    def learn(self, parameters: Sequence[Tensor]) -> None:
        """Rank 0's order of arrival is everyone's."""
        if {id(parameter) for parameter in parameters if parameter.grad is not None} != {id(seen) for seen in self.counts}:
            raise RuntimeError("gradients came that nobody noticed")
        own = {id(parameter): index for index, parameter in enumerate(parameters)}
        order = shared([own[id(parameter)] for parameter in self.counts])
        self.expected = dict(self.counts)
        filled = 0
        for index in order:
            length = parameters[index].grad.numel() * parameters[index].grad.element_size()
            if not self.buckets or filled + length > BUCKET:
                self.buckets.append([])
                filled = 0
            self.buckets[-1].append(parameters[index])
            filled += length
        self.bucket_of = {parameter: number for number, bucket in enumerate(self.buckets) for parameter in bucket}
