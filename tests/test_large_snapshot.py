"""A snapshot of the official size in both formats: it loads within 2.2 times its size of memory, with the same bits.

The network is that of ffhq512-128 with random weights: three networks, about 378 MB. The seconds are printed (pytest -s), not
judged.
"""

import copy
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import measuring
import pytest

from eg3d import generator

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
MOST_MEMORY = 2.2  # of the file's size: the file's bytes, mapped or read, the tensors made of them, and a little for the rest
SIZE = 378e6  # bytes of the official file


def official_snapshot():
    G, D = measuring.official_generator(), measuring.official_discriminator()
    ema = copy.deepcopy(G)
    for parameter in ema.parameters():
        parameter.mul_(0.75)
    return dict(G=G, D=D, G_ema=ema, augment_pipe=None, training_set_kwargs=None)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """(suffix -> path, the digests of what was saved); the files are removed at the end, for their size."""
    folder = tmp_path_factory.mktemp("large")
    snapshot = official_snapshot()
    paths = {suffix: folder / f"large{suffix}" for suffix in generator.WRITERS}
    for path in paths.values():
        generator.save_snapshot(snapshot, path)
    yield paths, digests(snapshot)
    for path in paths.values():
        path.unlink()


def digests(snapshot):
    """network.tensor -> type, shape and SHA-256 of every tensor. The subprocess below runs this function's text."""
    import hashlib

    return {
        f"{key}.{name}": [str(tensor.dtype), list(tensor.shape), hashlib.sha256(tensor.contiguous().numpy()).hexdigest()]
        for key, network in snapshot.items() if network is not None for name, tensor in network.state_dict().items()}


LOAD = """
import json, sys, time
sys.path.insert(0, sys.argv[1])
import torch
from eg3d import generator
import training.triplane, training.superresolution, training.dual_discriminator  # what loading imports

{digests}

def kilobytes(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(name + ":"))

base = kilobytes("VmRSS")
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # forgets the peak so far
began = time.perf_counter()
snapshot = generator.load_snapshot(sys.argv[2])
seconds = time.perf_counter() - began
peak = kilobytes("VmHWM")
print(json.dumps(dict(seconds=seconds, peak=(peak - base) * 1024, digests=digests(snapshot))))
"""


def can_measure():
    """Whether this system tells a process its peak, and lets it forget it."""
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
        return "VmHWM:" in Path("/proc/self/status").read_text()
    except OSError:
        return False


@pytest.mark.skipif(not can_measure(), reason="needs Linux, which tells the peak of memory in /proc")
@pytest.mark.parametrize("suffix", [".pkl", ".safetensors"])
def test_memory_and_bits(files, suffix):
    paths, expected = files
    path = paths[suffix]
    size = path.stat().st_size
    assert abs(size / SIZE - 1) < 0.02
    run = subprocess.run([sys.executable, "-c", LOAD.format(digests=inspect.getsource(digests)), str(ROOT), str(path)],
                         env=dict(os.environ, OMP_NUM_THREADS="1"), capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    told = json.loads(run.stdout)
    print(f"{path.name}: {size / 1e6:.0f} MB in {told['seconds']:.2f} s, peak of memory {told['peak'] / size:.2f} of its size")
    assert told["digests"] == expected and len(expected) > 200
    assert size * 0.9 < told["peak"] < size * MOST_MEMORY  # below its size, something was not measured
