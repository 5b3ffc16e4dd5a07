"""Helpers around tensors and modules, under the names that official sources call."""

from __future__ import annotations

import contextlib
import functools
import re
import warnings
from typing import Any, Iterable, List, NamedTuple, Optional, Sequence, Set, Tuple

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


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that there is too little memory; on a CPU PyTorch says so in words only."""
    return isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and re.search("can't allocate memory|not enough memory", str(error)) is not None)


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
    """Raises RuntimeError, in every process, if a tensor is not the same in all of them; every process must call it.

    `ignore_regex` leaves out names (Class.name) that it matches in full.
    """
    label = type(module).__name__
    tensors = {f"{label}.{name}": tensor.detach() for name, tensor in named_params_and_buffers(module)
               if ignore_regex is None or not re.fullmatch(ignore_regex, f"{label}.{name}")}
    flags = []
    for tensor in tensors.values():
        mine = (torch.nan_to_num(tensor) if tensor.is_floating_point() else tensor).contiguous()
        theirs = mine.clone()
        torch.distributed.broadcast(theirs, src=0)
        flags.append((mine != theirs).any())
    differs = torch.stack(flags).to(torch.int32) if flags else torch.zeros(0, dtype=torch.int32)
    torch.distributed.all_reduce(differs)
    names = [name for name, count in zip(tensors, differs.tolist()) if count > 0]
    if names:
        raise RuntimeError(f"differs between processes: {', '.join(names)}")


# ------------------------------------------------------------------------------------------------ summary

class _Row(NamedTuple):
    """A line of the summary."""

    module: str
    parameters: str
    buffers: str
    output: str
    dtype: str


def print_module_summary(module: torch.nn.Module, inputs: Iterable, max_nesting: int = 3, skip_redundant: bool = True) -> Any:
    """Runs the module once and prints parameters, buffers and outputs of what it ran, `max_nesting` levels of calls deep.

    `skip_redundant` leaves out submodules that add nothing to a line already printed. Returns the module's outputs.
    """
    ran: List[Tuple[str, torch.nn.Module, List[Tensor]]] = []
    running: List[str] = []  # names of the modules that are being called, outermost first

    def before(name: str, _child, _args):
        running.append(name)

    def after(name: str, child: torch.nn.Module, _args, result: Any):
        running.pop()
        if len(running) <= max_nesting:
            items = result.values() if isinstance(result, dict) else result if isinstance(result, (tuple, list)) else [result]
            ran.append((name, child, [item for item in items if isinstance(item, Tensor)]))

    hooks = []
    for name, child in module.named_modules():
        hooks.append(child.register_forward_pre_hook(functools.partial(before, name)))
        hooks.append(child.register_forward_hook(functools.partial(after, name)))
    try:
        outputs = module(*inputs)
    finally:
        for hook in hooks:
            hook.remove()

    seen: Set[int] = set()  # ids of tensors that a line has counted or shown

    def fresh(tensors: Iterable[Tensor]) -> List[Tensor]:
        new = [tensor for tensor in tensors if id(tensor) not in seen]
        seen.update(map(id, new))
        return new

    rows, total = [], [0, 0]
    for name, child, results in ran:
        counts = [sum(t.numel() for t in fresh(group)) for group in (child.parameters(), child.buffers())]
        new_results = fresh(results)
        if skip_redundant and not any(counts) and not new_results:
            continue
        total = [sum(pair) for pair in zip(total, counts)]
        shown = [(str(tuple(t.shape)), str(t.dtype).replace("torch.", "")) for t in results] or [("-", "-")]
        rows.append(_Row(name or type(module).__name__, *map(str, counts), *shown[0]))
        rows += [_Row(f"  output {index}", "", "", *more) for index, more in enumerate(shown[1:], start=1)]
    table = [_Row("module", "parameters", "buffers", "output", "dtype"), *rows, _Row("all", *map(str, total), "", "")]
    widths = [max(map(len, column)) for column in zip(*table)]
    for row in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
    return outputs
