"""Fused rendering's CUDA kernels against the reference: values and gradients.

Without a GPU the very same source runs on the CPU (emulation.py), which shows its arithmetic, indices and barriers, but not
its speed, nor what only a GPU does: its fast exponentials, additions to one place by many at once. On a GPU (-m gpu) the real
plugin goes through the same tests.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import emulation
import pytest
import test_fused
import torch
from test_fused import CASES, DOUBLE, SINGLE, close

from torch_utils import custom_ops
from training.volumetric_rendering import fused
from training.volumetric_rendering.renderer import CORRECTED_AXES, OFFICIAL_AXES, Draws

DTYPES = pytest.mark.parametrize(
    "dtype, tolerance", [(torch.float64, DOUBLE), (torch.float32, SINGLE)], ids=["double", "single"])
CHANNELS_LAST = [0, 3, 4, 1, 2]  # N, H, W, P, C: as a backbone in channels_last leaves planes


@pytest.fixture(scope="session")
def emulated(tmp_path_factory):
    root = tmp_path_factory.getbasetemp()
    return emulation.plugin(fused.HERE / "fused.cu", root.parent if root.name.startswith("popen-") else root,
                            dtypes=(torch.float32, torch.float64))


@pytest.fixture(params=[pytest.param("cpu", marks=emulation.needs_nvcc), pytest.param("cuda", marks=emulation.needs_gpu)])
def device(request, monkeypatch):
    """Where kernels run. New arrays are full of NaN, so that what is not written shows."""
    if request.param == "cpu":
        plugin = request.getfixturevalue("emulated")
        monkeypatch.setitem(custom_ops._operators, "render_rays", dict(cpu=plugin, cuda=plugin))
        monkeypatch.setattr(custom_ops, "current_stream", lambda _: 0)
        monkeypatch.setattr(fused, "_start_on_cpu", fused._start_on_gpu)
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield torch.device(request.param)
    torch.use_deterministic_algorithms(False)


class Scene(test_fused.Scene):
    def __init__(self, device, **options):
        super().__init__(**options)
        self.planes = self.planes.detach().to(device).requires_grad_()
        self.decoder.to(device)
        self.origins, self.directions = self.origins.to(device), self.directions.to(device)
        self.impl = device.type

    @property
    def field(self):
        table = fused.projection(self.renderer.plane_axes, 1.2, self.planes)
        return self.planes, table, fused.layers_of(self.decoder)

    def compare(self, tolerance, used=(0, 1, 2), **options):
        expected, found = self.render("ref", **options), self.render(self.impl, **options)
        close(found, expected, tolerance)
        found, expected = self.gradients(found, used), self.gradients(expected, used)
        close(found, expected, tolerance)

    def gradients(self, outputs, used=(0, 1, 2)):
        """Of a projection of the chosen outputs that is the same on every device."""
        draws = [torch.randn(out.shape, generator=torch.Generator().manual_seed(i)).to(out) for i, out in enumerate(outputs)]
        return torch.autograd.grad(sum((outputs[i] * draws[i]).sum() for i in used), self.parameters)


# ------------------------------------------------------------------------------------------------ rays

@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients(name, device):
    Scene(device, seed=len(name)).compare(DOUBLE, **CASES[name])


@DTYPES
@pytest.mark.parametrize("coarse, fine", [(16, 16), (48, 48), (33, 0), (4, 1)])
@pytest.mark.parametrize("axes", [OFFICIAL_AXES, CORRECTED_AXES], ids=["official", "corrected"])
def test_sizes(coarse, fine, axes, dtype, tolerance, device):
    """The usual ones and those at the ends of tiles and warps, on planes that are not square, in both orders of memory."""
    order = CHANNELS_LAST if axes is OFFICIAL_AXES else None
    scene = Scene(device, batch=3 if fine == 16 else 1, rays=3, size=(7, 12), dtype=dtype, axes=axes, density=2.0, order=order)
    scene.compare(
        tolerance, depth_resolution=coarse, depth_resolution_importance=fine, white_back=fine == 16, density_noise=0.5)


@pytest.mark.parametrize("seed", range(6))
def test_random_scenes(seed, device):
    """Empty to solid, cameras inside and outside, more rays than a grid of blocks has warps."""
    torch.manual_seed(200 + seed)
    draw = lambda *choices: choices[torch.randint(len(choices), []).item()]  # noqa: E731
    density = draw(-8.0, 0.0, 3.0, 20.0)
    scene = Scene(
        device, seed=seed, batch=draw(1, 2, 5), rays=draw(1, 3, 17, 29), size=draw((1, 1), (8, 8), (5, 14)), density=density,
        axes=CORRECTED_AXES[: draw(1, 2, 3)], inside=draw(True, False), order=draw(None, [0, 1, 3, 4, 2], CHANNELS_LAST))
    used = (0, 2) if density < -4 else (0, 1, 2)  # depth's gradient without weight is 0 / 0 in the reference
    scene.compare(DOUBLE, used, depth_resolution=draw(4, 11), depth_resolution_importance=draw(0, 1, 13),
                  white_back=draw(True, False))


@pytest.mark.parametrize("density", [-1e4, 1e4, 1e30])
def test_extreme_densities(density, device):
    scene = Scene(device, dtype=torch.float32, density=density)
    found = scene.render(scene.impl)
    close(found, scene.render("ref"), SINGLE)
    assert all(gradient.isfinite().all() for gradient in scene.gradients(found))


@pytest.mark.parametrize("batch, rays", [(0, 4), (2, 0)])
def test_nothing_to_render(batch, rays, device):
    scene = Scene(device, batch=batch, rays=rays)
    found = scene.render(scene.impl)
    assert [x.shape for x in found] == [(batch, rays, 32), (batch, rays, 1), (batch, rays, 1)]
    assert all((gradient == 0).all() for gradient in scene.gradients(found))


def test_one_sample(device):
    scene = Scene(device)
    depths = torch.full((2, 5, 1, 1), 2.5, dtype=torch.float64, device=device)
    rendered = fused.render_rays(
        *scene.field, scene.origins, scene.directions, depths, Draws(None, None, None, None), white_back=False)
    assert (rendered.rgb == -1).all() and (rendered.weight == 0).all() and rendered.depth.isinf().all()
    assert (rendered.nearest == 2.5).all() and (rendered.furthest == 2.5).all()
    assert all((gradient == 0).all() for gradient in scene.gradients(rendered[:3], (0, 2)))


def test_depths_in_any_order_are_sorted(device):
    """Ties and a first pass that comes shuffled, with the noise of each depth beside it."""
    scene = Scene(device, batch=1, rays=3)
    depths = torch.rand(1, 3, 21, dtype=torch.float64, device=device).mul(20).round() / 20 + 2
    noise, fine_noise = depths * 3, torch.zeros(1, 3, 2, dtype=torch.float64, device=device)
    uniform = torch.rand(1, 3, 2, dtype=torch.float64, device=device)
    planes, table, decoder = scene.field
    *_, sorted_depths, sorted_noise = torch.ops.eg3d.render_rays(
        planes, table, *decoder, scene.origins, scene.directions, depths, noise, uniform, fine_noise, False)
    assert (sorted_depths.diff(dim=2) >= 0).all()
    fine = sorted_noise == 0
    assert (fine.sum(dim=2) == 2).all() and torch.equal(sorted_noise[~fine], sorted_depths[~fine] * 3)
    assert torch.equal(sorted_depths[~fine].view(1, 3, 21), depths.sort(dim=2).values)


def test_more_samples_than_memory_holds(device):
    scene = Scene(device, batch=1, rays=1, dtype=torch.float32)
    with pytest.raises(RuntimeError, match="shared memory.*impl='ref'"):
        scene.render(scene.impl, depth_resolution=40000, depth_resolution_importance=0)


@pytest.mark.parametrize("view", [
    lambda flat: flat[1:].view(1, 3, 4, 5, 32).permute(0, 1, 4, 2, 3),  # begins amid 16 bytes
    lambda flat: flat.as_strided((1, 3, 32, 4, 4), (3 * 16 * 33, 16 * 33, 1, 4 * 33, 33)),
], ids=["begins anywhere", "pixels anywhere"])
def test_planes_that_begin_anywhere(view, device):
    scene = Scene(device, batch=1, dtype=torch.float32)
    scene.planes = view(torch.randn(1 + 3 * 4 * 5 * 32, device=device)).detach().requires_grad_()
    scene.compare(SINGLE)


# ------------------------------------------------------------------------------------------------ points

@DTYPES
@pytest.mark.parametrize("many", [1, 203])
def test_points(many, dtype, tolerance, device):
    """Colours and densities at points, some outside of the box; and their gradients. With colours and without."""
    scene = Scene(device, dtype=dtype)
    points = ((torch.rand(2, many, 3, dtype=dtype) - 0.5) * 1.5).to(device)

    def ask(impl, **more):
        options = dict(test_fused.OPTIONS, impl=impl, **more)
        out = scene.renderer.run_model(scene.planes, scene.decoder, points, None, options)
        return tuple(out[key] for key in sorted(out))

    for more in ({}, dict(colors=False)):
        found, expected = ask(scene.impl, **more), ask("ref", **more)
        assert len(found) == (1 if more else 2)
        close(found, expected, tolerance)
        used = range(len(found))
        close(scene.gradients(found, used), scene.gradients(expected, used), tolerance)


def test_points_that_are_nowhere(device):
    scene = Scene(device, dtype=torch.float32)
    points = torch.tensor([[[torch.nan, 0, 0], [torch.inf, -torch.inf, 1e30], [9, 9, 9]]], device=device).expand(2, -1, -1)
    found = scene.renderer.run_model(scene.planes, scene.decoder, points, None, dict(test_fused.OPTIONS, impl=scene.impl))
    outside = scene.decoder(torch.zeros(2, 3, 1, 32, device=device), None)
    close((found["sigma"][:, 1:],), (outside["sigma"].expand(2, 2, 1),), SINGLE)


# ------------------------------------------------------------------------------------------------ who computes

def test_kernels_for_a_gpu_need_one():
    scene = test_fused.Scene()
    with pytest.raises(ValueError, match="impl='cuda' needs tensors on a cuda device"):
        scene.render("cuda")


def on_gpu(test):
    for mark in emulation.needs_gpu:
        test = mark(test)
    return test


@on_gpu
def test_auto_takes_the_plugin(monkeypatch):
    monkeypatch.delenv("EG3D_PLUGINS", raising=False)
    scene = Scene(torch.device("cuda"), dtype=torch.float32)
    assert fused.choose("auto", scene.planes, scene.renderer.plane_axes, scene.decoder, scene.origins) == "cuda"
    assert fused.choose("auto", scene.planes[:, :, :16], scene.renderer.plane_axes, scene.decoder, scene.origins) == "ref"
    assert fused.choose("auto", scene.planes.half(), scene.renderer.plane_axes, scene.decoder, scene.origins) == "ref"


@on_gpu
def test_a_whole_picture():
    """More rays than run at once, on a stream of one's own, without waiting for the card, and again from a CUDA graph."""
    device = torch.device("cuda")
    scene = Scene(device, batch=2, rays=64 * 64 + 1, size=(256, 256), dtype=torch.float32, density=2.0, order=CHANNELS_LAST)
    expected = scene.render("ref", depth_resolution=48, depth_resolution_importance=48)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        close(scene.render("cuda", depth_resolution=48, depth_resolution_importance=48), expected, SINGLE)
    torch.cuda.current_stream().wait_stream(stream)
    planes, table, decoder = [x.detach() if isinstance(x, torch.Tensor) else x for x in scene.field]
    depths = torch.linspace(2, 3.4, 48, device=device).expand(2, 64 * 64 + 1, 48).contiguous()
    call = (planes, table, *[layer.detach() for layer in decoder], scene.origins, scene.directions, depths, None,
            torch.rand_like(depths), None, False)
    torch.cuda.set_sync_debug_mode("error")
    try:
        once = torch.ops.eg3d.render_rays(*call)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        again = torch.ops.eg3d.render_rays(*call)
    graph.replay()
    torch.cuda.synchronize()
    assert all(torch.equal(one, other) for one, other in zip(once, again))


# ------------------------------------------------------------------------------------------------ compilers

BUILDING = """
import ctypes, sys
import torch
from torch.utils import cpp_extension
from torch_utils import custom_ops
from training.volumetric_rendering import fused

cpp_extension.CUDA_HOME, torch.version.cuda = sys.argv[1:]
custom_ops.architectures = lambda: ["80", "90"]
custom_ops.CUDA_FLAGS += ["-Werror", "all-warnings", "-Xptxas", "-v"]
custom_ops.verbosity = "full"
library = custom_ops.plugin_of("render_rays", "cuda")
library.decode.restype = ctypes.c_char_p
print("said:", library.decode(ctypes.byref(fused._Call(items=1, many=1)), None))
"""


@emulation.needs_nvcc
@pytest.mark.slow
def test_nvcc_compiles(tmp_path):
    """By PyTorch's builder for an A100 and an H100, without a warning or variables that spill out of registers.

    The plugin loads, too, and a launch without a GPU answers in CUDA's words. A PyTorch for the CPU lacks two libraries that
    the builder links with; nothing of them is called, so empty ones do.
    """
    for name in ("c10_cuda", "torch_cuda"):
        subprocess.run(["c++", "-shared", "-x", "c++", "/dev/null", "-o", str(tmp_path / f"lib{name}.so")], check=True)
    home = Path(emulation.cuda_headers()).parent
    version = re.search(r"release ([\d.]+)", subprocess.run(["nvcc", "--version"], capture_output=True, text=True).stdout)[1]
    environment = dict(os.environ, EG3D_CACHE_DIR=str(tmp_path / "cache"), LIBRARY_PATH=str(tmp_path),
                       LD_LIBRARY_PATH=f"{tmp_path}:{home / 'lib64'}")
    done = subprocess.run([sys.executable, "-c", BUILDING, str(home), version], cwd=Path(__file__).parents[2], env=environment,
                          capture_output=True, text=True)
    assert done.stdout.count("Done.") == 1, done.stdout + done.stderr
    for arch in (80, 90):
        assert f"for 'sm_{arch}'" in done.stdout
    assert set(re.findall(r"(\d+) bytes spill", done.stdout)) == {"0"}
    assert torch.cuda.is_available() or re.search("said: b'.*(driver|device)", done.stdout), done.stdout
