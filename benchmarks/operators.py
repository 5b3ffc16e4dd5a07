"""bias_act and upfirdn2d on a GPU: the kernels against the reference, and against how fast the card copies memory.

A kernel's rate counts what no version can do without: every input read once and every output written once. `of a copy` is
that rate against the rate of a plain copy of a large tensor in the same process.
"""

from __future__ import annotations

import argparse
import datetime
import re
import statistics
import sys
import time
from pathlib import Path
from typing import Callable, Dict, NamedTuple

import torch
from measuring import machine  # puts the checkout on the path

from torch_utils import custom_ops
from torch_utils.ops import bias_act, upfirdn2d

REPORTS = Path(__file__).parent / "reports"
WARM_UP, LAUNCHES = 3, 10  # before it counts; in a row, for one reading of the clock
SYM6 = [0.0154, 0.0035, -0.1180, -0.0483, 0.4911, 0.7876, 0.3379, -0.0726, -0.0210, 0.0447, 0.0018, -0.0078]  # of augmentation


class Case(NamedTuple):
    operator: str
    title: str
    way: Callable[[str], torch.Tensor]  # of impl
    inputs: tuple  # tensors that any version reads


def cases(device: torch.device, batch: int):
    """Sizes beyond any cache, as in the upper layers of a 512x512 network."""
    def randn(*shape, dtype, order=torch.contiguous_format):
        return torch.randn(shape, device=device, dtype=dtype).contiguous(memory_format=order)

    half, single, last = torch.float16, torch.float32, torch.channels_last
    for dtype, order in [
            (half, None), (half, last), (torch.bfloat16, None), (single, None), (single, last), (torch.float64, None)]:
        x, b = randn(batch, 64, 256, 256, dtype=dtype, order=order or torch.contiguous_format), randn(64, dtype=dtype)
        kind = f"{str(dtype)[6:]}{', channels_last' if order else ''}"
        for act in ("lrelu", "swish") if dtype in (half, single) else ("lrelu",):
            yield Case("bias_act", f"{act}, {kind}", lambda impl, x=x, b=b, act=act: bias_act.bias_act(
                x, b, act=act, clamp=256, impl=impl), (x,))
            if dtype in (half, single) and order is None:
                yield _gradient(f"gradient of {act}, {kind}", x, b, act)

    four, twelve = (upfirdn2d.setup_filter(taps, device=device) for taps in ([1, 3, 3, 1], SYM6))
    for title, f, up, down, padding, shape in [
            ("4x4 taps, 1x", four, 1, 1, [2, 1, 2, 1], (batch, 32, 512, 512)),
            ("4x4 taps, 2x up", four, 2, 1, [2, 1, 2, 1], (batch, 32, 256, 256)),
            ("4x4 taps, 2x down", four, 1, 2, [1, 1, 1, 1], (batch, 32, 512, 512)),
            ("12 taps, 2x up", twelve, 2, 1, [6, 5, 6, 5], (batch * 8, 3, 256, 256)),
            ("12 taps, 2x down", twelve, 1, 2, [5, 5, 5, 5], (batch * 8, 3, 512, 512))]:
        for dtype, order in [(half, None), (single, None), *([(half, last)] if "4x4" in title else [])]:
            x = randn(*shape, dtype=dtype, order=order or torch.contiguous_format)
            yield Case("upfirdn2d", f"{title}, {str(dtype)[6:]}{', channels_last' if order else ''}",
                       lambda impl, x=x, f=f, up=up, down=down, padding=padding: upfirdn2d.upfirdn2d(
                           x, f, up, down, padding, impl=impl), (x,))


def _gradient(title, x, b, act) -> Case:
    """From dy to dx; what the value's pass kept is there."""
    dy, x = torch.randn_like(x), x.detach().requires_grad_()
    with torch.enable_grad():
        results = {impl: bias_act.bias_act(x, b, act=act, clamp=256, impl=impl) for impl in ("cuda", "ref")}
    return Case("bias_act", title, lambda impl: torch.autograd.grad(results[impl], x, dy, retain_graph=True)[0], (x, dy))


def seconds(ways: Dict[str, Callable[[], object]], rounds: int, device: torch.device) -> Dict[str, float]:
    """Medians of ways that are run in turn."""
    readings = {name: [] for name in ways}
    for way in ways.values():
        for _ in range(WARM_UP):
            way()
    for _ in range(rounds):
        for name, way in ways.items():
            readings[name].append(_reading(way, device))
    return {name: statistics.median(some) for name, some in readings.items()}


def _reading(way, device) -> float:
    if device.type != "cuda":
        began = time.perf_counter()
        way()
        return time.perf_counter() - began
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    for _ in range(2):  # the card has work while Python prepares what counts
        way()
    start.record()
    for _ in range(LAUNCHES):
        way()
    end.record()
    torch.cuda.synchronize(device)
    return start.elapsed_time(end) / 1e3 / LAUNCHES


def peak(way, device) -> float:
    """Megabytes above what was held before, the result among them."""
    if device.type != "cuda":
        return float("nan")
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    way()
    torch.cuda.synchronize(device)
    return (torch.cuda.max_memory_allocated(device) - before) / 1e6


def size(tensors) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _copy_rate(batch: int, rounds: int, device: torch.device) -> float:
    """Bytes a second, read and written."""
    long = torch.randn(batch * 2**22, device=device)
    copied = torch.empty_like(long)
    return 2 * size([long]) / seconds({"copy": lambda: copied.copy_(long)}, rounds, device)["copy"]


@torch.no_grad()
def report(device: torch.device, batch: int, rounds: int):
    """Yields lines. The reference convolves in float32 proper, not in TF32."""
    torch.backends.cudnn.allow_tf32 = False
    yield f"{machine(device)}, CUDA {torch.version.cuda}\n"
    rate = _copy_rate(batch, rounds, device)
    yield f"A copy of {batch * 2**24 / 1e6:.0f} MB moves {rate / 1e9:.0f} GB/s, read and written.\n"
    yield "| operator | case | kernel, us | of a copy | reference, us | times faster | peak MB: kernel, reference | error |"
    yield "|---|---|---|---|---|---|---|---|"
    for case in cases(device, batch):
        yield _row(case, rate, rounds, device)
    x, b = torch.randn(1, 8, 4, 4, device=device), torch.zeros(8, device=device)
    ways = {impl: (lambda impl=impl: bias_act.bias_act(x, b, act="lrelu", impl=impl)) for impl in ("cuda", "ref")}
    taken = seconds(ways, rounds * 10, device)
    yield f"\nA call on 128 numbers, one of many in a row: {taken['cuda'] * 1e6:.0f} us, reference {taken['ref'] * 1e6:.0f} us."


def _row(case: Case, rate: float, rounds: int, device: torch.device) -> str:
    ways = {impl: (lambda impl=impl: case.way(impl)) for impl in ("cuda", "ref")}
    result, expected = ways["cuda"](), ways["ref"]()
    error = max((one.double() - other.double()).abs().max().item() for one, other in zip(result, expected))
    least = size(case.inputs) + size([result])
    del result, expected
    peaks = [peak(way, device) for way in ways.values()]
    kernel, reference = seconds(ways, rounds, device).values()
    return (f"| {case.operator} | {case.title} | {kernel * 1e6:.0f} | {least / kernel / rate:.0%} | {reference * 1e6:.0f} | "
            f"{reference / kernel:.1f} | {peaks[0]:.0f}, {peaks[1]:.0f} | {error:.1e} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="readings of the clock for a median")
    parser.add_argument("--report", action="store_true", help="also write benchmarks/reports/DATE-operators-GPU.md")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("benchmarks/operators.py measures kernels on a GPU; PyTorch sees no CUDA device here")
    device = torch.device("cuda", torch.cuda.current_device())
    batch = min(16, max(1, torch.cuda.mem_get_info(device)[0] // 2**31))  # the reference needs some 2 GB for each
    for operator in ("bias_act", "upfirdn2d"):
        custom_ops.plugin_of(operator, "cuda")
    lines = []
    for line in report(device, batch, arguments.rounds):
        print(line, flush=True)
        lines.append(line)
    if arguments.report:
        date, name = datetime.date.today().isoformat(), re.sub(r"\W+", "-", torch.cuda.get_device_name(device).lower())
        path = REPORTS / f"{date}-operators-{name}.md"
        path.write_text("\n".join([f"# {date}: bias_act and upfirdn2d, kernels and reference\n", *lines, ""]))
        print(f"\nwritten: {path}")


if __name__ == "__main__":
    main()
