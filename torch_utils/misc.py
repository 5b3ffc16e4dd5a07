"""Helpers around tensors and modules, under the names that official sources call."""

from __future__ import annotations

import contextlib
import functools
import re
import warnings
from typing import Any, Iterable, List, Optional, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor


@functools.lru_cache(maxsize=256)
def _constant(data: bytes, kind: str, shape: tuple, dtype, device, memory_format) -> Tensor:
    values = np.frombuffer(data, dtype=kind).reshape(shape)
    with torch.inference_mode(False):  # it may be asked for again where autograd records
        return torch.tensor(values, dtype=dtype, device=device).contiguous(memory_format=memory_format)


def constant(value: Any, shape: Optional[Sequence[int]] = None, dtype=None, device=None, memory_format=None) -> Tensor:
    """A tensor of a fixed value, made once for each set of arguments; do not write into it."""
    array = np.asarray(value)
    if dtype is None:
        dtype = torch.get_default_dtype()
    if memory_format is None:
        memory_format = torch.contiguous_format
    device = torch.device("cpu" if device is None else device)
    tensor = _constant(array.tobytes(), array.dtype.str, array.shape, dtype, device, memory_format)
    return tensor if shape is None else tensor.expand(tuple(shape))


def nan_to_num(input: Tensor, nan: float = 0.0, posinf=None, neginf=None, *, out=None) -> Tensor:
    """torch.nan_to_num; `nan` other than 0 is refused, as the original did."""
    if nan != 0:
        raise ValueError(f"nan_to_num: nan={nan} is not supported, only 0")
    return torch.nan_to_num(input, nan=nan, posinf=posinf, neginf=neginf, out=out)


@contextlib.contextmanager
def suppress_tracer_warnings():
    """Silences torch.jit's tracer warnings inside the block."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=torch.jit.TracerWarning)
        yield


def assert_shape(tensor: Tensor, ref_shape: Sequence[Optional[int]]) -> None:
    """Raises AssertionError unless the tensor has this shape; None matches any size."""
    expected = list(ref_shape)
    fits = tensor.ndim == len(expected) and all(
        want is None or int(have) == int(want) for have, want in zip(tensor.shape, expected))
    if not fits:
        raise AssertionError(f"shape {list(tensor.shape)}, expected {expected}")


def profiled_function(fn):
    """Decorator that shows the function under its name in torch.profiler."""

    @functools.wraps(fn)
    def wrapper(*args, **kwargs):
        with torch.autograd.profiler.record_function(fn.__name__):
            return fn(*args, **kwargs)

    return wrapper


# ------------------------------------------------------------------------------------------------ parameters and buffers

def named_params_and_buffers(module: torch.nn.Module) -> List[Tuple[str, Tensor]]:
    """All parameters, then all buffers, with their dotted names."""
    return [*module.named_parameters(), *module.named_buffers()]


def params_and_buffers(module: torch.nn.Module) -> List[Tensor]:
    """All parameters, then all buffers."""
    return [tensor for _, tensor in named_params_and_buffers(module)]


@torch.no_grad()
def copy_params_and_buffers(src_module: torch.nn.Module, dst_module: torch.nn.Module, require_all: bool = False) -> None:
    """Copies every tensor of `dst_module` that `src_module` has under the same name.

    Raises KeyError with `require_all` when one is not there, ValueError when shapes differ; then nothing is copied.
    """
    source = dict(named_params_and_buffers(src_module))
    pairs = []
    for name, tensor in named_params_and_buffers(dst_module):
        if name not in source:
            if require_all:
                raise KeyError(f"{name} is not in the source network")
            continue
        if source[name].shape != tensor.shape:
            raise ValueError(f"{name}: shape {tuple(source[name].shape)} does not fit {tuple(tensor.shape)}")
        pairs.append((tensor, source[name]))
    for tensor, values in pairs:
        tensor.copy_(values)


def check_ddp_consistency(module: torch.nn.Module, ignore_regex: Optional[str] = None) -> None:
    """Raises RuntimeError naming the first tensor that differs from rank 0's; every rank must call it."""
    for name, tensor in named_params_and_buffers(module):
        full_name = f"{type(module).__name__}.{name}"
        if ignore_regex is not None and re.fullmatch(ignore_regex, full_name):
            continue
        own = tensor.detach()
        if own.is_floating_point():
            own = nan_to_num(own)
        first = own.clone()
        torch.distributed.broadcast(first, src=0)
        if not torch.equal(own, first):
            raise RuntimeError(f"{full_name} differs between rank 0 and rank {torch.distributed.get_rank()}")


# ------------------------------------------------------------------------------------------------ summary

def print_module_summary(module: torch.nn.Module, inputs: Iterable, max_nesting: int = 3, skip_redundant: bool = True) -> Any:
    """Runs the module once and prints parameters, buffers and output shapes down to `max_nesting`; returns its outputs.

    `skip_redundant` leaves out submodules that add nothing to a line already printed.
    """
    names = {child: name for name, child in module.named_modules()}
    calls: List[Tuple[torch.nn.Module, List[Tensor]]] = []
    depth = 0

    def enter(_module, _inputs):
        nonlocal depth
        depth += 1

    def leave(child, _inputs, outputs):
        nonlocal depth
        depth -= 1
        if depth <= max_nesting:
            values = outputs.values() if isinstance(outputs, dict) else outputs
            values = list(values) if isinstance(values, (list, tuple)) or isinstance(outputs, dict) else [outputs]
            calls.append((child, [value for value in values if isinstance(value, Tensor)]))

    hooks = [hook for child in names
             for hook in (child.register_forward_pre_hook(enter), child.register_forward_hook(leave))]
    try:
        outputs = module(*inputs)
    finally:
        for hook in hooks:
            hook.remove()

    header = [type(module).__name__, "Parameters", "Buffers", "Output shape", "Datatype"]
    rows, counted, shown = [], set(), set()
    for child, results in calls:
        parameters = [p for p in child.parameters() if id(p) not in counted]
        buffers = [b for b in child.buffers() if id(b) not in counted]
        counted.update(id(tensor) for tensor in parameters + buffers)
        if skip_redundant and not parameters and not buffers and all(id(tensor) in shown for tensor in results):
            continue
        shown.update(id(tensor) for tensor in results)
        label = names[child] or "<top-level>"
        sizes = [str(sum(t.numel() for t in group)) if group else "-" for group in (parameters, buffers)]
        shapes = [str(list(t.shape)) for t in results] or ["-"]
        types = [str(t.dtype).split(".")[-1] for t in results] or ["-"]
        for index, (shape, kind) in enumerate(zip(shapes, types)):
            own = [label, *sizes] if index == 0 else [f"{label}:{index}", "-", "-"]
            rows.append([*own, shape, kind])
    totals = [sum(int(row[i]) for row in rows if row[i] != "-") for i in (1, 2)]
    rows.append(["Total", str(totals[0]), str(totals[1]), "-", "-"])
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    print()
    for row in [header, ["-" * width for width in widths], *rows]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
    print()
    return outputs
