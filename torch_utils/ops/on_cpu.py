"""Calls the kernels of ops_cpu.cpp: bias_act and upfirdn2d on a CPU."""

import ctypes
import functools
from pathlib import Path
from typing import Optional, Union

import torch
from torch import Tensor

from .. import custom_ops

PLUGIN = custom_ops.Plugin(
    "operators_on_cpu", (Path(__file__).parent / "ops_cpu.cpp",), dtypes=(torch.float32, torch.float64), library=True)

_Pair = ctypes.c_int64 * 2


def _fields(integers: str = "", pairs: str = "", numbers: str = "", arrays: str = ""):
    kinds = ((integers, ctypes.c_int64), (pairs, _Pair), (numbers, ctypes.c_double), (arrays, ctypes.c_void_p))
    return [(name, kind) for names, kind in kinds for name in names.split()]


class BiasAct(ctypes.Structure):
    """ops_cpu.cpp tells what each is."""

    _fields_ = _fields("is_double threads count channels step cut from_y", "", "alpha gain limit", "saved bias dy out d_bias")


class UpFirDn(ctypes.Structure):
    """ops_cpu.cpp tells what each is."""

    _fields_ = _fields("is_double threads planes unit", "size out_size up down before taps", "gain", "x filter column row out")


def is_at_hand(x: Tensor) -> bool:
    """Whether there are numbers in memory to work on: a compiler that traces has none, and needs to see an operator."""
    return not torch.compiler.is_compiling() and type(x) in (Tensor, torch.nn.Parameter)


@functools.cache
def _library() -> ctypes.CDLL:
    library = custom_ops.load(PLUGIN)
    if (library.size_of_bias_act(), library.size_of_upfirdn2d()) != (ctypes.sizeof(BiasAct), ctypes.sizeof(UpFirDn)):
        raise RuntimeError("on_cpu.py and ops_cpu.cpp differ about the arguments of a call")
    return library


def run(
    name: str, out: Tensor, call: Union[BiasAct, UpFirDn], variant: Optional[int] = None, **arrays: Optional[Tensor]
) -> None:
    """Calls a kernel; `arrays`, `out` among them, are of one dtype and live until it is done."""
    call.is_double, call.threads, call.out = out.dtype == torch.float64, torch.get_num_threads(), out.data_ptr()
    for key, array in arrays.items():
        setattr(call, key, None if array is None else array.data_ptr())
    getattr(_library(), name)(ctypes.byref(call), custom_ops.best_variant() if variant is None else variant)
