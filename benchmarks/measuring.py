"""What the benchmarks share: networks of official size, and tables of ways to do the same thing."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import Callable, Dict, List, NamedTuple
from unittest import mock

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # the checkout that this file lies in

from dnnlib import EasyDict
from dnnlib.util import keep_freed_memory
from training import networks_stylegan2
from training.dual_discriminator import DualDiscriminator
from training.triplane import TriPlaneGenerator
from training.volumetric_rendering import renderer

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")

RENDERING = EasyDict(  # of ffhq512-128
    image_resolution=512, disparity_space_sampling=False, clamp_mode="softplus",
    superresolution_module="training.superresolution.SuperresolutionHybrid8XDC", c_gen_conditioning_zero=False, c_scale=1,
    superresolution_noise_mode="none", decoder_lr_mul=1, sr_antialias=True, depth_resolution=48,
    depth_resolution_importance=48, ray_start=2.25, ray_end=3.3, box_warp=1, avg_camera_radius=2.7,
    avg_camera_pivot=[0, 0, 0.2])
WIDTH = dict(channel_base=32768, channel_max=512)


def official_generator() -> TriPlaneGenerator:
    """A generator of ffhq512-128's configuration with random weights, ready for inference."""
    torch.manual_seed(0)
    G = TriPlaneGenerator(
        z_dim=512, c_dim=25, w_dim=512, img_resolution=512, img_channels=3, sr_num_fp16_res=4,
        mapping_kwargs=EasyDict(num_layers=2), rendering_kwargs=EasyDict(RENDERING),
        sr_kwargs=EasyDict(WIDTH, fused_modconv_default="inference_only"), fused_modconv_default="inference_only",
        num_fp16_res=0, conv_clamp=None, **WIDTH)
    G.neural_rendering_resolution = 128
    return G.eval().requires_grad_(False)


def official_discriminator() -> DualDiscriminator:
    """Its discriminator."""
    D = DualDiscriminator(c_dim=25, img_resolution=512, img_channels=3, num_fp16_res=4, conv_clamp=256, **WIDTH)
    return D.eval().requires_grad_(False)


@contextlib.contextmanager
def plain(dtype=torch.float32):
    """The original's way in this project's code: no kernels of our own, NCHW; in float64 with float32's draws."""
    draw, convolve = renderer._draw, networks_stylegan2.modulated_conv2d
    precision = lambda block, device, force_fp32: (dtype, torch.contiguous_format)  # noqa: E731
    same_draws = lambda sampler, shape, like, *more: draw(sampler, shape, like.float(), *more).to(like)  # noqa: E731
    keep_freed_memory(False)
    with (mock.patch.dict(os.environ, EG3D_PLUGINS="off"), mock.patch.object(networks_stylegan2, "_precision", precision),
          mock.patch.object(networks_stylegan2, "modulated_conv2d", lambda styles, weight, **more: convolve(
              styles=styles.to(weight), weight=weight, **more)), mock.patch.object(renderer, "_draw", same_draws)):
        yield
    keep_freed_memory()


class Run(NamedTuple):
    seconds: float
    peak: int  # bytes above what was held before
    result: object


def measure(way: Callable[[], object], device: torch.device, afresh: bool = True) -> Run:
    """Runs once. Peak memory is the device's, or on a Linux CPU the process's own: what it adds if it is run `afresh`, when
    memory kept from before is given back first."""
    if afresh:
        _rest()
    before = _start(device)
    began = time.perf_counter()
    result = way()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return Run(time.perf_counter() - began, _peak(device) - before, result)


def compare(title: str, ways: Dict[str, Callable[[], object]], rounds: int, device: torch.device,
            error: Callable[[object, object], str], truth: object = None) -> None:
    """Prints a table; the first way is what the others are compared with. Each is run once before, for its peak memory.

    With 0 rounds that run counts. Errors are those of results from `truth`, or from the first way's.
    """
    first = {name: measure(way, device) for name, way in ways.items()}
    truth = next(iter(first.values())).result if truth is None else truth
    errors = {name: error(truth, run.result) for name, run in first.items()}
    peaks = {name: run.peak for name, run in first.items()}
    runs: Dict[str, List[Run]] = {name: [run._replace(result=None)] if rounds == 0 else [] for name, run in first.items()}
    del first
    for _ in range(rounds):
        for name, way in ways.items():
            runs[name].append(measure(way, device, afresh=False)._replace(result=None))
    medians = {name: statistics.median(run.seconds for run in some) for name, some in runs.items()}
    base = next(iter(medians.values()))
    print(f"\n### {title}\n\n| way | seconds (median of {max(rounds, 1)}) | spread | times faster | peak memory, MB | error |")
    print("|---|---|---|---|---|---|")
    for name, some in runs.items():
        spread = f"{min(run.seconds for run in some):.2f} to {max(run.seconds for run in some):.2f}"
        cells = (f"{medians[name]:.2f}", spread, f"{base / medians[name]:.2f}", f"{peaks[name] / 1e6:.0f}", errors[name])
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def machine(device: torch.device) -> str:
    """One line on what the figures were measured on."""
    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        names = [line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                 if line.startswith("model name")]
        model = names[0] if names else model
    gpu = f", {torch.cuda.get_device_name(device)}" if device.type == "cuda" else ""
    return (f"{model}, {torch.get_num_threads()} threads ({torch.backends.cpu.get_cpu_capability()}){gpu}, torch "
            f"{torch.__version__}, Python {platform.python_version()}")


def _rest() -> None:
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


def _start(device: torch.device) -> int:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    if CLEAR.exists():
        CLEAR.write_text("5")  # the peak starts anew
    return _status("VmRSS")


def _peak(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _status("VmHWM")


def _status(field: str) -> int:
    """Bytes; 0 where the system does not tell."""
    lines = STATUS.read_text().splitlines() if STATUS.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), 0)
