"""Builds and loads this project's own kernels when they are first needed, and chooses who runs an operator.

An operator has a reference in plain PyTorch ('ref') and may have plugins: C++ and CUDA beside it, compiled by
torch.utils.cpp_extension and ninja, once for each version of PyTorch, CUDA and graphics card, and kept in the user's cache.
Nothing is built by importing. EG3D_PLUGINS=off in the environment does without plugins.
"""

import contextlib
import ctypes
import functools
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import threading
import warnings
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Dict, List, Optional, Sequence, Tuple, Union

import torch
from filelock import FileLock
from torch import Tensor

from dnnlib.util import cache_dir

HEADERS, SHARED = {".h", ".cuh"}, Path(__file__).parent / "ops"
CPP_FLAGS, CUDA_FLAGS = ["-O3"], ["-O3"]
LIBRARY_FLAGS = ["-Wno-psabi", *(["-fopenmp"] if sys.platform == "linux" else [])]  # elsewhere compilers want other words
KERNEL_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
QUOTED_LINES, QUOTED_WIDTH = 3, 200  # of a compiler's messages; the log holds all
TELLING = ("error", "fatal", "not found", "cannot find", "undefined reference", "no such file")

verbosity = "brief"  # 'none' prints nothing, 'brief' one line a plugin, 'full' also what ninja and the compilers print


class _NoToolkit(RuntimeError):
    """CUDA's compiler is missing, or does not suit this PyTorch. Its text holds the remedy."""


class PluginError(RuntimeError):
    """A plugin cannot be had. Names the cause, the remedy and the log."""


# ------------------------------------------------------------------------------------------------ plugins

@dataclass(frozen=True)
class Plugin:
    """An extension module made of source files in one folder; the headers beside them, and those in SHARED, belong to it.

    A `library` is not a module but plain C functions, to be called by ctypes.
    """

    name: str
    sources: Tuple[Path, ...]
    dtypes: Tuple[torch.dtype, ...] = KERNEL_DTYPES
    library: bool = False

    @property
    def cpp_flags(self) -> List[str]:
        return CPP_FLAGS + (LIBRARY_FLAGS if self.library else [])

    @property
    def uses_cuda(self) -> bool:
        return any(source.suffix == ".cu" for source in self.sources)

    def folder(self) -> Path:
        """Where it is kept: one folder for whatever may change what a compiler makes of it."""
        headers = (path for folder in (self.sources[0].parent, SHARED) for path in folder.iterdir() if path.suffix in HEADERS)
        texts = sorted({*self.sources, *headers})
        key = {
            "sources": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in texts},
            "flags": [self.cpp_flags, CUDA_FLAGS],
            "python": sysconfig.get_config_var("EXT_SUFFIX"),
            "torch": torch.__version__,
            "cuda": torch.version.cuda if self.uses_cuda else None,
            "architectures": architectures() if self.uses_cuda else [],
        }
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        return cache_dir() / "plugins" / f"{self.name}-{digest[:16]}"


def turned_off() -> bool:
    """Whether EG3D_PLUGINS says so. Raises ValueError unless it is on (as without it), off, 1 or 0."""
    said = os.environ.get("EG3D_PLUGINS") or "on"
    if said.lower() not in ("on", "off", "1", "0"):
        raise ValueError(f"EG3D_PLUGINS={said} in the environment: expected on or off")
    return said.lower() in ("off", "0")


def architectures() -> List[str]:
    """Of all graphics cards in sight, such as ['90'] for an H100."""
    capabilities = {torch.cuda.get_device_capability(index) for index in range(torch.cuda.device_count())}
    return [f"{major}{minor}" for major, minor in sorted(capabilities)]


Loaded = Union[ModuleType, ctypes.CDLL]
_outcomes: Dict[Plugin, Union[Loaded, str]] = {}  # modules, or why there is none
_one_at_a_time = threading.Lock()


def load(plugin: Plugin) -> Loaded:
    """Returns the module, which the first call of the process loads, and the first call on the machine builds.

    Raises PluginError where that fails, and from then on in this process at once: a compiler is not asked twice.
    """
    if turned_off():
        raise PluginError(f"{plugin.name} is turned off by EG3D_PLUGINS=off in the environment")
    with _one_at_a_time:
        if plugin not in _outcomes:
            _outcomes[plugin] = _set_up(plugin)
    outcome = _outcomes[plugin]
    if isinstance(outcome, str):
        raise PluginError(outcome)
    return outcome


def _set_up(plugin: Plugin) -> Union[Loaded, str]:
    talks = verbosity != "none"
    if talks:
        print(f'Setting up PyTorch plugin "{plugin.name}"... ', end="", flush=True)
    folder = None
    try:
        if plugin.uses_cuda and torch.version.cuda is None:
            raise _NoToolkit("this PyTorch was built without CUDA. Install one with CUDA")
        folder = plugin.folder()
        module = _import(plugin, folder) if _is_built(folder) else _build(plugin, folder)
    except Exception as error:  # compilers and their builder fail in many ways; whoever asked can do without
        if talks:
            print("Failed!", flush=True)
        return _explained(plugin, error, folder)
    if talks:
        print("Done.", flush=True)
    return module


def _is_built(folder: Path) -> bool:
    return (folder / "built").exists()  # written last


def _import(plugin: Plugin, folder: Path) -> Loaded:
    path = folder / (plugin.name + (".pyd" if os.name == "nt" else ".so"))
    if plugin.library:
        return ctypes.CDLL(str(path))
    spec = importlib.util.spec_from_file_location(plugin.name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _build(plugin: Plugin, folder: Path) -> Loaded:
    """Builds, or waits for the process that does. The system frees the lock of a process that died."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if _is_built(folder):
            return _import(plugin, folder)
        shutil.rmtree(folder, ignore_errors=True)  # what a build that was cut off left, PyTorch's own lock file among it
        folder.mkdir()
        flags = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in architectures()] if plugin.uses_cuda else []
        try:
            from torch.utils import cpp_extension  # late: it looks for compilers and takes a while

            if plugin.uses_cuda:
                _check_toolkit(cpp_extension.CUDA_HOME)
            with contextlib.suppress(AttributeError, KeyError):  # else it takes a build that was interrupted for done
                del cpp_extension.JIT_EXTENSION_VERSIONER.entries[plugin.name]
            with _ninja_in_sight():
                module = cpp_extension.load(
                    plugin.name, [str(source) for source in plugin.sources], build_directory=str(folder),
                    extra_cflags=plugin.cpp_flags, extra_cuda_cflags=CUDA_FLAGS + flags, with_cuda=plugin.uses_cuda,
                    is_python_module=not plugin.library, verbose=verbosity == "full")
        except Exception as error:
            (folder / "build.log").write_text(str(error))
            raise
        (folder / "built").touch()
        return _import(plugin, folder) if plugin.library else module


def _check_toolkit(home: Optional[str]) -> None:
    """PyTorch compares versions only where packages are installed; another one's runtime beside its own is no good."""
    wanted = f"CUDA toolkit {torch.version.cuda}, the version that this PyTorch was built with, and set CUDA_HOME to its folder"
    nvcc = home and shutil.which(os.path.join(home, "bin", "nvcc"))
    if not nvcc:
        raise _NoToolkit(f"there is no nvcc{f' in {home}' if home else ''}. Install the {wanted}")
    said = subprocess.run([nvcc, "--version"], capture_output=True, text=True).stdout
    found = re.search(r"release (\d+)", said)
    if found and found[1] != torch.version.cuda.split(".")[0]:
        raise _NoToolkit(f"nvcc in {home} is of CUDA {found[1]}. Install the {wanted}")


@contextlib.contextmanager
def _ninja_in_sight():
    """The ninja that pip installed, also where the virtual environment's folder of programs is not on the path."""
    before = os.environ.get("PATH")
    with contextlib.suppress(ImportError):
        import ninja

        os.environ["PATH"] = os.pathsep.join([ninja.BIN_DIR, *([before] if before else [])])
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("PATH", None)
        else:
            os.environ["PATH"] = before


def _explained(plugin: Plugin, error: Exception, folder: Optional[Path]) -> str:
    """The cause in the words of whoever found it, and what to do."""
    if isinstance(error, _NoToolkit):
        return f"{plugin.name} cannot be had: {error}."
    return f"{plugin.name} cannot be had: {_cause(error).rstrip('.')}. {_remedy(error, folder)}."


def _cause(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    said = [line for line in lines[1:] if not line.startswith(("[", "FAILED", "ninja:", "collect2:")) and " -c " not in line]
    telling = [line for line in said if any(word in line.lower() for word in TELLING)] or said or lines
    return " | ".join(line[:QUOTED_WIDTH] for line in telling[:QUOTED_LINES])


def _remedy(error: Exception, folder: Optional[Path]) -> str:
    if "Ninja is required" in str(error):
        return "Install ninja (pip install ninja)"
    with contextlib.suppress(OSError):
        if folder and _is_built(folder):
            return f"It was built before: delete {folder} to have it built anew"
        if folder and (folder / "build.log").exists():
            return f"The whole log: {folder / 'build.log'}"
    if isinstance(error, OSError):
        return "Set EG3D_CACHE_DIR to a folder that can be written to"
    return "See to that and start again"


# ------------------------------------------------------------------------------------------------ operators

_operators: Dict[str, Dict[str, Plugin]] = {}  # operator -> device type -> plugin


def register(operator: str, **plugins: Plugin) -> None:
    """Declares an operator and its plugins by the device type ('cuda', 'cpu') that they run on."""
    _operators[operator] = plugins


def plugin_of(operator: str, device_type: str) -> Loaded:
    """The loaded plugin. Raises PluginError."""
    return load(_operators[operator][device_type])


def choose(operator: str, impl: str, device_type: str, dtype: torch.dtype) -> str:
    """Returns who runs `operator` on such tensors: 'cuda', 'cpu' or 'ref'.

    'auto' takes the device's plugin, or the reference where there is none; where a plugin cannot be had it warns, once a
    plugin. Any other `impl` is that one or an error: ValueError where it does not exist or does not suit the tensors,
    PluginError where it cannot be had.
    """
    plugins = _operators[operator]
    names = ("auto", *plugins, "ref")
    if impl not in names:
        raise ValueError(f"{operator}: impl={impl!r} does not exist; choose one of {', '.join(names)}")
    suits = device_type in plugins and dtype in plugins[device_type].dtypes
    if impl == "ref" or impl == "auto" and not suits:
        return "ref"
    if impl == "auto":
        return device_type if _is_available(operator, plugins[device_type]) else "ref"
    if impl != device_type:
        raise ValueError(f"{operator}: impl={impl!r} needs tensors on a {impl} device, got {device_type}")
    if not suits:
        raise ValueError(f"{operator}: impl={impl!r} takes {_named(*plugins[impl].dtypes)}, got {_named(dtype)}")
    load(plugins[impl])
    return impl


def _named(*dtypes: torch.dtype) -> str:
    return ", ".join(str(dtype).split(".")[-1] for dtype in dtypes)


# A compiler asks once, while it traces, and takes the answer as given. torch.compiler.assume_constant_result sets this mark
# too, but imports the compiler to do so, which would cost every program more than a second.
choose._dynamo_marked_constant = True


def _is_available(operator: str, plugin: Plugin) -> bool:
    if turned_off():
        return False
    try:
        load(plugin)
    except PluginError as error:
        _warn_once(f"{operator} runs in plain PyTorch, with the same results and slower: {error} EG3D_PLUGINS=off does "
                   "without, silently.")
        return False
    return True


@functools.cache
def _warn_once(text: str) -> None:
    warnings.warn(text, RuntimeWarning, stacklevel=5)


# ------------------------------------------------------------------------------------------------ what kernels are given

def best_variant() -> int:
    """The instruction set that kernels on this CPU use: 0 whatever there is, 1 AVX2, 2 AVX-512."""
    return {"AVX2": 1, "AVX512": 2}.get(torch.backends.cpu.get_cpu_capability(), 0)


def has_tangent(*tensors: Tensor) -> bool:
    """Whether forward-mode differentiation follows one of them. Operators without gradients would drop it silently."""
    unpack = torch.autograd.forward_ad.unpack_dual
    return not torch.compiler.is_compiling() and any(unpack(x).tangent is not None for x in tensors)


def order_of(x: Tensor) -> torch.memory_format:
    """The order of memory that kernels read x in: its own if it has no gaps and is channels_last, else contiguous."""
    for ndim, channels_last in ((4, torch.channels_last), (5, torch.channels_last_3d)):
        if x.ndim == ndim and not x.is_contiguous() and x.is_contiguous(memory_format=channels_last):
            return channels_last
    return torch.contiguous_format


def dense(x: Tensor, like: Optional[Tensor] = None) -> Tensor:
    """x without gaps, in its own or another tensor's order of memory."""
    return x.contiguous(memory_format=order_of(x if like is None else like))


def empty_as(x: Tensor, shape: Optional[Sequence[int]] = None) -> Tensor:
    """An empty tensor in x's order of memory, of its or another shape."""
    return torch.empty(x.shape if shape is None else shape, dtype=x.dtype, device=x.device, memory_format=order_of(x))


def current_stream(device: torch.device) -> int:
    """The address of the CUDA stream that work on `device` is queued on."""
    return torch.cuda.current_stream(device).cuda_stream
