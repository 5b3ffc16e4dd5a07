"""Sources for a GPU as plugins that run on the CPU: cuda_on_cpu.h lets a C++ compiler take a kernel for a function."""

import functools
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from dnnlib.util import written_beside
from torch_utils import custom_ops

EMULATOR = Path(__file__).parent / "torch_utils" / "cuda_on_cpu.h"

needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc: CUDA's headers and compiler are needed")
needs_gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@functools.cache
def cuda_headers() -> str:
    said = subprocess.run(["nvcc", "--dryrun", "-E", "-x", "cu", "/dev/null"], capture_output=True, text=True).stderr
    return str(Path(re.search(r"TOP=(.+)", said)[1].strip(), "include").resolve())


def plugin(kernels: Path, folder: Path, **options) -> custom_ops.Plugin:
    """A plugin, built and loaded, of a .cu file whose C functions start its kernels. Test processes may share the folder."""
    source = folder / f"{kernels.stem}_on_cpu.cpp"
    with written_beside(source) as beside:  # never half there for another process
        Path(beside).write_text(f'#include "{EMULATOR}"\n#include "{kernels}"\n')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EG3D_CACHE_DIR", str(folder / "emulated"))
        patch.setenv("CPATH", cuda_headers())
        patch.setattr(custom_ops, "CPP_FLAGS", ["-O1"])  # built in half the time
        made = custom_ops.Plugin(source.stem, (source,), library=True, **options)
        custom_ops.load(made)
    return made
