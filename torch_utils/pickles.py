"""Checkpoints: bytes <-> objects. A checkpoint is DATA.

`load` reads an official snapshot without Python's unpickler. A small machine follows the pickle's instructions, and all it
can make are plain values, tensors and inert records of objects; every global that is not in its table is refused by name
before anything is called. Persistent objects are then rebuilt from this project's classes (torch_utils/persistence.py).
With `trust=True` Python's own unpickler runs instead and executes the source that the file carries: for forks.

`save` writes the official format beside its place and renames it there.
"""

from __future__ import annotations

import collections
import contextlib
import io
import math
import os
import pickle
import pickletools
import re
from typing import Any, BinaryIO, Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple, Union

import numpy as np
import torch

import dnnlib
from dnnlib.util import written_beside
from torch_utils import persistence
from torch_utils.misc import is_out_of_memory
from torch_utils.persistence import REMEDY, CheckpointError, Record, plain_keys

NEWEST_PROTOCOL = 5
MOST_NETWORKS = 100  # in a snapshot
HEAD = 256  # bytes that tell one format from another
# torch.save began its files with this magic number.
LEGACY_TORCH = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
Source = Union[str, os.PathLike, bytes, BinaryIO]


def load(source: Source, trust: bool = False, name: Optional[str] = None) -> Any:
    """Reads a checkpoint from a path, bytes or an open binary file; tensors come to the CPU.

    Returns what the file holds, usually a dict with G, D, G_ema. `trust=True` executes the code it carries. `name` is what
    messages call the source.
    Raises CheckpointError, whose message starts with the file's name and says what is wrong, and OSError.
    """
    name = _name(source) if name is None else name
    if not trust:
        return finish(read(source, name), name)
    with _opened(source, name) as (stream, _size):
        try:
            return _load_trusted(stream)
        except CheckpointError:
            raise
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise CheckpointError(f"the code it carries failed ({type(error).__name__}: {error})") from error


def read(source: Source, name: Optional[str] = None) -> Any:
    """The first half of `load`: the file's content with inert Records in place of objects. Raises as `load` does."""
    with _opened(source, _name(source) if name is None else name) as (stream, size):
        return _Machine(stream, size).run()


def finish(content: Any, name: str) -> Any:
    """The second half of `load`: makes objects of the Records that `read` returned. Raises CheckpointError."""
    with persistence.explained(name):
        return _finish(content, "", {})


def save(obj: Any, path: Union[str, os.PathLike]) -> None:
    """Writes `obj` as an official snapshot; the file appears under its name only when it is complete."""
    with written_beside(path) as temporary, open(temporary, "wb") as file:
        pickle.dump(obj, file, protocol=4)


def _name(source: Source) -> str:
    if isinstance(source, bytes):
        return "checkpoint"
    return str(getattr(source, "name", "checkpoint")) if hasattr(source, "read") else os.fspath(source)


@contextlib.contextmanager
def _opened(source: Source, name: str) -> Iterator[Tuple[BinaryIO, int]]:
    """The source as a stream that can be rewound, with the bytes left in it; what the caller opened stays open."""
    with contextlib.ExitStack() as stack:
        if isinstance(source, bytes):
            stream: BinaryIO = io.BytesIO(source)
        elif not hasattr(source, "read"):
            stream = stack.enter_context(open(source, "rb"))
        else:
            stream = source if source.seekable() else io.BytesIO(source.read())
        with persistence.explained(name):
            size = _rest(stream)
            _reject_other_formats(_head(stream), size)
            yield stream, size


def _rest(stream: BinaryIO) -> int:
    """Bytes from here to the end."""
    here = stream.tell()
    end = stream.seek(0, os.SEEK_END)
    stream.seek(here)
    return end - here


def _head(stream: BinaryIO) -> bytes:
    here = stream.tell()
    head = stream.read(HEAD)
    stream.seek(here)
    return head


def _reject_other_formats(data: bytes, size: int) -> None:
    """Raises CheckpointError with one line for files that are often mistaken for a checkpoint; `data` is how one begins."""
    head = data.lstrip()
    if not data:
        raise CheckpointError("the file is empty")
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError("a git-lfs pointer, not the file itself: run `git lfs pull` where it came from")
    if head[:1] == b"<":
        raise CheckpointError("a web page, not a checkpoint: the download was answered by a page, fetch the file itself")
    if data[:2] == b"PK":
        raise CheckpointError("a zip archive (torch.save or a data set), not an EG3D snapshot, which is a plain pickle")
    if data[8:9] == b"{" and int.from_bytes(data[:8], "little") < size:
        raise CheckpointError("a safetensors file, not a pickle: eg3d.generator.load reads both")
    if data.startswith(LEGACY_TORCH):
        raise CheckpointError("written by torch.save, not an EG3D snapshot, which is a plain pickle")
    if data[:1] == b"\x80" and data[1:2] > bytes([NEWEST_PROTOCOL]):
        raise CheckpointError(f"pickle protocol {data[1]} is newer than this program knows ({NEWEST_PROTOCOL})")
    if not re.match(rb"\x80|[(][dlt]|[(]i?\w|[}\]]|c[\w.]+\n[\w.]+\n", data):
        raise CheckpointError("not a pickle, so no EG3D snapshot")


# ------------------------------------------------------------------------------------------------ the machine

class Global(NamedTuple):
    """A dotted name that a pickle mentions."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


STORAGE = Global("torch.storage", "_load_from_bytes")

# Objects that official snapshots store by name: they stay records until a persistent object takes their tensors.
STORED_BY_NAME = frozenset({
    Global("training.triplane", "OSGDecoder"),
    Global("training.volumetric_rendering.renderer", "ImportanceRenderer"),
    Global("training.volumetric_rendering.ray_marcher", "MipRayMarcher2"),
    Global("training.volumetric_rendering.ray_sampler", "RaySampler"),
    Global("torch.nn.modules.container", "Sequential"),
    Global("torch.nn.modules.activation", "Softplus"),
})


class _Mark:
    """The pickle machine's MARK."""


class _Packed:
    """Bytes that may be a tensor's data; given up when they have become one, though the machine remembers them."""

    def __init__(self, data: bytes):
        self.data = data
        self.storage: Optional[_Storage] = None

    def unread(self) -> bytes:
        if self.storage is not None:
            raise CheckpointError("damaged: the same bytes are a tensor's data and a value")
        return self.data


MARK = _Mark()


class _Bounded:
    """A stream whose reader never reserves more than the file holds, whatever length a pickle claims."""

    def __init__(self, stream: BinaryIO, size: int):
        self._stream, self._size = stream, size
        self.readline, self.tell = stream.readline, stream.tell

    def read(self, count: int) -> bytes:
        return self._stream.read(min(count, self._size))


class _Machine:
    """Runs a pickle's instructions on a stack of data. See the standard library's pickletools for what each one means."""

    def __init__(self, stream: BinaryIO, size: int):
        self.stream, self.size = stream, size
        self.budget = 2 * size  # bytes that calls may still copy: protocol 2 keeps bytes as text, which is decoded first
        self.stack: List[Any] = []
        self.memo: Dict[int, Any] = {}

    def run(self) -> Any:
        """Returns the pickled value, with Records in place of objects. Raises CheckpointError."""
        finished = False
        try:
            for opcode, argument, _position in pickletools.genops(_Bounded(self.stream, self.size)):
                finished = opcode.name == "STOP"
                self.step(opcode.name, argument)
        except CheckpointError:
            raise
        except Exception as error:  # a damaged pickle fails in many ways, and a step has no effect but on the stack
            if is_out_of_memory(error):
                raise
            raise CheckpointError(f"truncated or damaged ({error})") from error
        if not finished or len(self.stack) != 1:
            raise CheckpointError("truncated or damaged")
        return self.stack[0]

    def step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in _LITERALS:
            stack.append(argument)
        elif name in ("BINBYTES", "BINBYTES8"):
            stack.append(_Packed(argument))
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name]())
        elif name in _TUPLES:
            count = _TUPLES[name]
            stack[-count:] = [tuple(stack[-count:])]
        elif name in _COLLECTED:
            items = self.since_mark()
            stack.append(_COLLECTED[name](items))
        elif name in _ADDED:
            collect, add = _ADDED[name]
            items = self.since_mark() if collect else self.pop(2 if name == "SETITEM" else 1)
            add(stack[-1], items)
        elif name in ("MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[len(self.memo) if name == "MEMOIZE" else argument] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif name == "GLOBAL":
            stack.append(_allowed(Global(*argument.split(" ", 1))))
        elif name == "STACK_GLOBAL":
            module, attribute = self.pop(2)
            if not isinstance(module, str) or not isinstance(attribute, str):
                raise CheckpointError("truncated or damaged")
            stack.append(_allowed(Global(module, attribute)))
        elif name in ("REDUCE", "NEWOBJ"):
            function, arguments = self.pop(2)
            stack.append(self.call(function, arguments))
        elif name == "BUILD":
            target, state = stack[-2], self.pop(1)[0]
            if not isinstance(target, (Record, _DType)):
                raise CheckpointError(f"sets the state of a {type(target).__name__}, which no snapshot does")
            if isinstance(target, Record):
                target.state = state
        elif name == "POP_MARK":
            self.since_mark()
        elif name == "POP":
            self.pop(1)
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise CheckpointError(f"uses the pickle instruction {name}, which no snapshot does")

    def call(self, name: Any, arguments: Any) -> Any:
        if not isinstance(name, Global) or not isinstance(arguments, tuple):
            raise CheckpointError("calls something that is no function")
        if name != STORAGE:
            arguments = tuple(item.unread() if isinstance(item, _Packed) else item for item in arguments)
        self.budget -= sum(len(item) for item in arguments if isinstance(item, (bytes, str, list, tuple, dict, set)))
        if self.budget < 0:
            raise CheckpointError("damaged: unfolds to more than it holds")
        return Record(str(name)) if name in STORED_BY_NAME else _FUNCTIONS[name](*arguments)

    def pop(self, count: int) -> List[Any]:
        if len(self.stack) < count:
            raise CheckpointError("truncated or damaged")
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def since_mark(self) -> List[Any]:
        index = len(self.stack) - 1
        while self.stack[index] is not MARK:
            index -= 1
            if index < 0:
                raise CheckpointError("truncated or damaged")
        items = self.stack[index + 1 :]
        del self.stack[index:]
        return items


_LITERALS = frozenset((
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "SHORT_BINBYTES"))
_CONSTANTS = dict(
    NONE=lambda: None, NEWTRUE=lambda: True, NEWFALSE=lambda: False, EMPTY_LIST=list, EMPTY_TUPLE=tuple, EMPTY_DICT=dict,
    EMPTY_SET=set, MARK=lambda: MARK)
_TUPLES = dict(TUPLE1=1, TUPLE2=2, TUPLE3=3)


_COLLECTED: Dict[str, Callable] = dict(
    TUPLE=tuple, LIST=list, FROZENSET=lambda items: frozenset(plain_keys(items)),
    DICT=lambda items: dict(zip(plain_keys(items[::2]), items[1::2], strict=True)))


def _set_items(target: Any, items: List[Any]) -> None:
    if not isinstance(target, dict):
        raise CheckpointError("truncated or damaged")
    target.update(zip(plain_keys(items[::2]), items[1::2], strict=True))


_ADDED: Dict[str, Tuple[bool, Callable]] = dict(
    APPEND=(False, list.extend), APPENDS=(True, list.extend),
    ADDITEMS=(True, lambda target, items: set.update(target, plain_keys(items))),
    SETITEM=(False, _set_items), SETITEMS=(True, _set_items))


def _allowed(name: Global) -> Global:
    if name in STORED_BY_NAME or name in _FUNCTIONS:
        return name
    raise CheckpointError(f"asks for {name}, which no EG3D snapshot needs; nothing was executed; {REMEDY}")


# ------------------------------------------------------------------------------------------------ what a pickle may call

def _persistent(meta: Any) -> Record:
    meta = persistence.checked_meta(meta)
    return Record(meta["class_name"], meta["state"], meta)


class _Storage(NamedTuple):
    """The elements of a tensor, in a row."""

    flat: torch.Tensor


_ELEMENTS = dict(FloatStorage=torch.float32, DoubleStorage=torch.float64, HalfStorage=torch.float16,
                 BFloat16Storage=torch.bfloat16, LongStorage=torch.int64, IntStorage=torch.int32, ShortStorage=torch.int16,
                 CharStorage=torch.int8, ByteStorage=torch.uint8, BoolStorage=torch.bool)


class _StorageMachine(_Machine):
    """Follows the pickles that PyTorch writes for a storage: plain values, and one description of a storage.

    This is a weights-only load, like torch.load(weights_only=True), which however reserves what a file merely claims.
    """

    def step(self, name: str, argument: Any) -> None:
        if name == "BINPERSID":
            _word, kind, _key, _location, numel, *view = self.pop(1)[0]
            if type(kind) is not str or type(numel) is not int or view not in ([], [None]):
                raise CheckpointError("a tensor's data is not described as PyTorch does")
            self.stack.append((kind, numel))
        elif name == "GLOBAL":
            module, _, kind = argument.partition(" ")
            if module not in ("torch", "torch.storage") or kind not in _ELEMENTS:
                raise CheckpointError(f"a tensor's data asks for {module}.{kind}; nothing was executed")
            self.stack.append(kind)
        elif name in ("REDUCE", "NEWOBJ", "BUILD", "STACK_GLOBAL"):
            raise CheckpointError("a tensor's data hides code; nothing was executed")
        else:
            super().step(name, argument)


def _storage(packed: Any) -> _Storage:
    """The tensor data that PyTorch packs into bytes of its own: five pickles, the number of elements, the elements."""
    if isinstance(packed, bytes):
        return _unpacked(packed)
    if not isinstance(packed, _Packed):
        raise CheckpointError("damaged: a tensor without data")
    if packed.storage is None:
        packed.storage, packed.data = _unpacked(packed.data), b""
    return packed.storage


def _unpacked(data: bytes) -> _Storage:
    stream = io.BytesIO(data)
    _magic, _protocol, system, (kind, numel), _names = [_StorageMachine(stream, len(data)).run() for _ in range(5)]
    if not system.get("little_endian", True):
        raise CheckpointError("written on a big-endian machine, which is not supported")
    dtype = _ELEMENTS[kind]
    start = stream.tell() + 8
    if numel < 0 or numel * dtype.itemsize > len(data) - start:
        raise CheckpointError(f"a tensor claims {numel} elements but brings {len(data) - start} bytes")
    if numel == 0:
        return _Storage(torch.empty(0, dtype=dtype))
    elements = memoryview(data)[start : start + numel * dtype.itemsize]
    return _Storage(torch.frombuffer(bytearray(elements), dtype=dtype))


def _tensor(storage: Any, offset: int, size: tuple, stride: tuple, requires_grad: bool = False, *_hooks) -> torch.Tensor:
    if not isinstance(storage, _Storage):
        raise CheckpointError("damaged: a tensor without data")
    numbers = (offset, *size, *stride)
    if len(size) != len(stride) or any(type(number) is not int or number < 0 for number in numbers):
        raise CheckpointError("damaged: a tensor of impossible shape")
    have = len(storage.flat)
    count = math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride)) if count else offset
    if count > have or (count and last >= have):
        raise CheckpointError(f"a tensor of shape {list(size)} claims more than its {have} elements")
    tensor = storage.flat.as_strided(size, stride, offset)
    return tensor.requires_grad_(bool(requires_grad) and tensor.is_floating_point())


def _parameter(tensor: Any, requires_grad: bool = True, *_hooks) -> torch.nn.Parameter:
    if not isinstance(tensor, torch.Tensor):
        raise CheckpointError("damaged: a parameter without a tensor")
    return torch.nn.Parameter(tensor.detach(), requires_grad=bool(requires_grad))


class _DType:
    """numpy.dtype as a pickle describes it; only plain numbers."""

    def __init__(self, code: str, *_flags):
        if not isinstance(code, str) or code not in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"):
            raise CheckpointError("a NumPy value that is no number")
        self.code = code


def _numpy_scalar(dtype: Any, data: Any) -> Any:
    if isinstance(data, str):
        data = data.encode("latin1")
    if not isinstance(dtype, _DType) or not isinstance(data, bytes):
        raise CheckpointError("damaged: a NumPy number without data")
    return np.frombuffer(data, dtype="<" + dtype.code, count=1)[0].item()


def _encoded(text: str, encoding: str = "latin1") -> bytes:
    if not isinstance(text, str) or not isinstance(encoding, str) or encoding != "latin1":
        raise CheckpointError("asks for an encoding that no snapshot uses")
    return text.encode("latin1")


def _container(kind: type) -> Callable:
    def make(*items):
        if len(items) > 1 or not all(isinstance(item, (list, tuple, dict)) for item in items):
            raise CheckpointError("truncated or damaged")
        for item in items:
            plain_keys(item if kind is set else item.keys() if isinstance(item, dict) else [pair[0] for pair in item])
        return kind(*items)
    return make


_FUNCTIONS: Dict[Global, Callable] = {
    Global("torch_utils.persistence", "_reconstruct_persistent_obj"): _persistent,
    STORAGE: _storage,
    Global("torch._utils", "_rebuild_tensor_v2"): _tensor,
    Global("torch._utils", "_rebuild_parameter"): _parameter,
    Global("numpy", "dtype"): _DType,
    Global("numpy.core.multiarray", "scalar"): _numpy_scalar,
    Global("numpy._core.multiarray", "scalar"): _numpy_scalar,
    Global("_codecs", "encode"): _encoded,
    Global("collections", "OrderedDict"): _container(collections.OrderedDict),
    Global("dnnlib.util", "EasyDict"): _container(dnnlib.EasyDict),
    Global("builtins", "set"): _container(set),
    Global("__builtin__", "set"): _container(set),
}


def _finish(value: Any, path: str, done: Dict[int, Any]) -> Any:
    """Rebuilds the persistent objects of the pickled value and of a dict's items; what was one object stays one."""
    if id(value) in done:
        return done[id(value)]
    if isinstance(value, _Packed):
        return value.unread()
    if isinstance(value, Record):
        if value.meta is None:
            raise CheckpointError(f"holds a bare {value.class_name}, not a network")
        if sum(isinstance(item, torch.nn.Module) for item in done.values()) >= MOST_NETWORKS:
            raise CheckpointError(f"damaged: holds more than {MOST_NETWORKS} networks")
        done[id(value)] = persistence.rebuild(value, path)
    elif isinstance(value, (list, tuple)) and any(isinstance(item, (Record, _Packed, dict, list, tuple)) for item in value):
        done[id(value)] = type(value)(_finish(item, f"{path}[{index}]", done) for index, item in enumerate(value))
    elif isinstance(value, dict):
        finished = type(value)()
        done[id(value)] = finished
        finished.update((key, _finish(item, f"{path}.{key}" if path else str(key), done)) for key, item in value.items())
    else:
        return value
    return done[id(value)]


# ------------------------------------------------------------------------------------------------ trusted

class _TrustedUnpickler(pickle.Unpickler):
    """Python's unpickler, with persistent objects made from the source they carry and every tensor on the CPU."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch_utils.persistence", "_reconstruct_persistent_obj"):
            return persistence.rebuild_trusted
        if (module, name) == ("torch.storage", "_load_from_bytes"):
            return lambda data: torch.load(io.BytesIO(data), map_location="cpu", weights_only=False)
        if module.startswith("numpy.core.") and hasattr(np, "_core"):  # renamed in NumPy 2
            module = module.replace("numpy.core.", "numpy._core.", 1)
        return super().find_class(module, name)


def _load_trusted(stream: BinaryIO) -> Any:
    try:
        return _TrustedUnpickler(stream).load()
    except (EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"truncated or damaged ({error})") from error
    except (ImportError, AttributeError) as error:
        raise CheckpointError(f"the code it carries does not find what it needs ({error})") from error
