"""The CUDA kernels against the formulas, in double precision from the same, already rounded inputs.

Without a GPU the very same sources run on the CPU: cuda_on_cpu.h lets a C++ compiler take a kernel for a function, and the
project's own bindings and builder make plugins of them. That shows their arithmetic, indices and barriers, not their speed
or what only a GPU does. On a GPU (-m gpu) the real plugins go through the same table.
"""

import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from emulation import cuda_headers, needs_gpu, needs_nvcc
from hypothesis import given, settings
from hypothesis import strategies as st

from dnnlib.util import written_beside
from eg3d import generator
from torch_utils import custom_ops
from torch_utils.ops import bias_act, upfirdn2d

HERE = Path(__file__).parent
OPS = Path(bias_act.__file__).parent

# A kernel computes in float (double in double) and rounds once, so it is off by a unit of the last place of the result, and
# of float's where numbers cancel. Sums over 32x32 taps and the two launches of a separable filter, which round in between,
# add some.
ROUNDING = {torch.float64: 1e-13, torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
DTYPES = pytest.mark.parametrize("dtype", ROUNDING, ids=lambda dtype: str(dtype).split(".")[-1])
ACTIVATIONS = pytest.mark.parametrize("act", bias_act.activation_funcs)


@pytest.fixture(scope="session")
def emulated(tmp_path_factory):
    """Plugins whose kernels run on the CPU, by operator. Test processes that run side by side share them."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if root.name.startswith("popen-") else root
    plugins = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EG3D_CACHE_DIR", str(root / "emulated"))
        patch.setenv("CPATH", f"{OPS}:{cuda_headers()}")
        patch.setattr(custom_ops, "CPP_FLAGS", ["-O1"])  # built in half the time
        for operator in ("bias_act", "upfirdn2d"):
            kernel = root / f"{operator}_on_cpu.cpp"
            text = f'#include "{HERE / "cuda_on_cpu.h"}"\n#include "{OPS / operator}.cu"\n'
            with written_beside(kernel) as beside:  # never half there for another process
                Path(beside).write_text(text)
            plugins[operator] = custom_ops.load(custom_ops.Plugin(f"{operator}_on_cpu", (OPS / f"{operator}.cpp", kernel)))
    return plugins


@pytest.fixture(params=[pytest.param("cpu", marks=needs_nvcc), pytest.param("cuda", marks=needs_gpu)])
def device(request, monkeypatch):
    """Where kernels run. New arrays are full of NaN, so that what is not written shows."""
    if request.param == "cpu":
        plugins = request.getfixturevalue("emulated")
        monkeypatch.setattr(custom_ops, "plugin_of", lambda operator, _: plugins[operator])
        monkeypatch.setattr(custom_ops, "current_stream", lambda _: 0)
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield torch.device(request.param)
    torch.use_deterministic_algorithms(False)


def randn(*shape, seed=0, dtype, device):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype).to(device)


def close(result, expected, dtype, scale=1.0):
    assert result.dtype == dtype and result.shape == expected.shape
    error = (result.double().cpu() - expected.double().cpu()).abs()
    limit = ROUNDING[dtype] * (scale + expected.double().cpu().abs())
    assert not (error > limit).any() and not error.isnan().any(), (error - limit).max()


# ------------------------------------------------------------------------------------------------ bias_act

@ACTIVATIONS
@DTYPES
@pytest.mark.parametrize("clamp", [None, 0.7])
def test_bias_act(act, dtype, clamp, device):
    """Value and derivatives, with and without a bias, on shapes whose rows are no multiple of what a thread moves."""
    curved = bias_act.activation_funcs[act].curvature is not None
    for shape, dim, order in [
            ((2, 5, 7, 3), 1, None), ((3, 16, 9, 5), 1, torch.channels_last), ((67,), 0, None), ((5, 300), 1, None),
            ((4, 6, 2, 3), 3, torch.channels_last), ((2, 3, 4, 2, 5), 1, torch.channels_last_3d)]:
        x, dy, ddx = (randn(*shape, seed=seed, dtype=dtype, device=device) for seed in range(3))
        if order:
            x = x.contiguous(memory_format=order)
        for b in (None, randn(shape[dim], seed=3, dtype=dtype, device=device)):
            call = (dim, act, 0.3, 1.5, clamp)
            wide = [None if each is None else each.double() for each in (x, b, dy, ddx)]
            y = bias_act._OnGPU.bias_act(x, b, *call)
            assert y.stride() == x.stride()
            close(y, bias_act._OnCPU.bias_act(*wide[:2], *call), dtype)
            if clamp is not None:  # rounding decides on which side of the limit these lie
                unsure = ((bias_act._formula(*wide[:2], *call[:-1], None).abs() - clamp).abs() < 4 * ROUNDING[dtype])
            else:
                unsure = torch.zeros_like(x, dtype=torch.bool)
            slope = bias_act._OnCPU.bias_act_slope(wide[2], wide[0], wide[1], False, *call).masked_fill(unsure, 0)
            close(bias_act._OnGPU.bias_act_slope(dy, x, b, False, *call).masked_fill(unsure, 0), slope, dtype)
            if not curved:
                close(bias_act._OnGPU.bias_act_slope(dy, y, None, True, *call).masked_fill(unsure, 0), slope, dtype)
            curvature = bias_act._OnCPU.bias_act_curvature(wide[3], wide[2], wide[0], wide[1], *call).masked_fill(unsure, 0)
            close(bias_act._OnGPU.bias_act_curvature(ddx, dy, x, b, *call).masked_fill(unsure, 0), curvature, dtype)


@DTYPES
def test_bias_act_of_arrays_that_start_anywhere(dtype, device):
    """Views that begin between two multiples of 16 bytes, transposed views, gradients in another order of memory."""
    long, b = randn(1001, dtype=dtype, device=device), randn(10, seed=1, dtype=dtype, device=device)
    for x in (long[1:].view(10, 10, 10), long[:1000].view(10, 10, 10).transpose(0, 2), long[:500].view(5, 10, 10)[:, :, 1:6]):
        call = (1, "lrelu", 0.2, 2.0, None)
        close(bias_act._OnGPU.bias_act(x, b, *call), bias_act._OnCPU.bias_act(x.double(), b.double(), *call), dtype)
        close(bias_act._OnGPU.bias_act(x, b[:1].expand(10), *call),
              bias_act._OnCPU.bias_act(x.double(), b[:1].double().expand(10), *call), dtype)
        dy = long.flip(0)[: x.numel()].view(x.shape[::-1]).permute(*range(x.ndim)[::-1])
        close(bias_act._OnGPU.bias_act_slope(dy, x, b, False, *call),
              bias_act._OnCPU.bias_act_slope(dy.double(), x.double(), b.double(), False, *call), dtype)


@pytest.mark.parametrize("shape, dim", [
    ((0, 3, 4), 1), ((2, 0), 1), ((2, 3, 0, 4), 1), ((1,), 0), ((2, 1, 3), 1), ((3, 2, 1, 1), 1)])
def test_bias_act_of_little(shape, dim, device):
    plain = randn(*shape, dtype=torch.float32, device=device)
    without_steps = plain.as_strided(shape, [0 if size == 1 else step for size, step in zip(shape, plain.stride())])
    for x in (plain, without_steps):
        b = randn(shape[dim], seed=1, dtype=torch.float32, device=device)
        y = bias_act._OnGPU.bias_act(x, b, dim, "tanh", 0.0, 1.0, None)
        close(y, bias_act._OnCPU.bias_act(x.double(), b.double(), dim, "tanh", 0.0, 1.0, None), torch.float32)


@ACTIVATIONS
def test_bias_act_of_extremes(act, device):
    """Infinities, NaN and numbers whose exponential overflows give what the formula gives."""
    x = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 100.0, -100.0, 1e30, -1e30, 1e-30], device=device)
    for clamp in (None, 3.0):
        call = (0, act, 0.2, 1.0, clamp)
        torch.testing.assert_close(
            bias_act._OnGPU.bias_act(x, None, *call).cpu(), bias_act._OnCPU.bias_act(x.cpu(), None, *call), equal_nan=True)
        finite = x[3:]
        dy = torch.ones_like(finite)
        torch.testing.assert_close(bias_act._OnGPU.bias_act_slope(dy, finite, None, False, *call).cpu(),
                                   bias_act._OnCPU.bias_act_slope(dy.cpu(), finite.cpu(), None, False, *call))


# ------------------------------------------------------------------------------------------------ upfirdn2d

def taps(*shape):
    """A filter without symmetry, so that a turn or a transposition shows."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(len(shape))) / torch.Size(shape).numel() ** 0.5


CASES = [  # height, width, filter, up, down, padding
    *[(11, 38, taps(4, 4), [up] * 2, [down] * 2, padding) for up, down in [(1, 1), (2, 1), (1, 2)]
      for padding in ([2, 1, 2, 1], [1, 2, 3, 0], [-1, 3, 2, -2], [0, 0, 0, 0])],
    *[(45, 83, taps(12), [up] * 2, [down] * 2, padding) for up, down in [(2, 1), (1, 2)]
      for padding in ([6, 5, 6, 5], [5, 6, 11, 0], [-3, 11, 4, -5])],
    (8, 9, taps(4, 4), [2, 2], [1, 1], [1, 2, 1, 2]),  # runs and tiles begin before the picture, and one more ends it
    (32, 32, taps(12), [2, 2], [1, 1], [5, 6, 5, 6]),
    (9, 8, taps(12), [2, 2], [1, 1], [6, 5, 6, 5]),  # too small for tiles
    (0, 5, taps(8), [1, 1], [1, 1], [8, 8, 8, 8]),  # zeros alone
    (5, 0, taps(4, 4), [2, 2], [1, 1], [8, 8, 8, 8]),
    (40, 70, taps(12), [1, 1], [1, 1], [6, 5, 6, 5]),
    (7, 9, taps(4), [2, 2], [1, 1], [2, 1, 2, 1]),
    (5, 6, None, [1, 1], [1, 1], [1, -1, 2, 0]),
    (5, 6, None, [3, 2], [2, 5], [1, 2, 3, 4]),
    (6, 5, taps(3, 5), [1, 3], [2, 1], [4, 0, -1, 3]),
    (20, 21, taps(32, 32), [2, 1], [1, 3], [16, 15, 15, 16]),
    (20, 21, taps(32), [1, 4], [3, 1], [16, 15, 31, 31]),
    (1, 1, taps(4, 4), [2, 2], [1, 1], [2, 1, 2, 1]),
    (4, 4, taps(2), [1, 1], [2, 2], [0, 0, 0, 0]),
]


def resampled(x, f, *call):
    wide = upfirdn2d._on_cpu(x.double().cpu(), None if f is None else f.cpu(), *call)
    result = upfirdn2d._on_gpu(x, None if f is None else f.to(x.device), *call)
    assert result.is_contiguous(memory_format=custom_ops.order_of(x))
    close(result, wide, x.dtype, scale=2.0)
    return result


@DTYPES
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(
    str(list(each.shape) if isinstance(each, torch.Tensor) else each).replace(" ", "") for each in case))
def test_upfirdn2d(case, order, dtype, device):
    height, width, f, up, down, padding = case
    x = randn(2, 3, height, width, dtype=dtype, device=device).contiguous(memory_format=order)
    resampled(x, f, up, down, padding, False, 1.0)
    resampled(x, f, up, down, padding, True, -1.7)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
@needs_nvcc
def test_upfirdn2d_of_any_shape(emulated, data):
    """Fast paths included: half of the calls are 2x or 1x with filters that have one."""
    size = st.integers(1, 40)
    taps_of = st.sampled_from([(4, 4), (12,)]) | st.lists(st.integers(1, 13), min_size=1, max_size=2).map(tuple)
    f = taps(*data.draw(taps_of))
    up, down = data.draw(st.sampled_from([((1, 1), (1, 1)), ((2, 2), (1, 1)), ((1, 1), (2, 2))])
                         | st.tuples(*[st.tuples(st.integers(1, 4), st.integers(1, 4))] * 2))
    padding = data.draw(st.tuples(*[st.integers(-3, 15)] * 4))
    x = randn(data.draw(st.integers(0, 2)), data.draw(st.integers(1, 3)), data.draw(size), data.draw(size),
              dtype=torch.float64, device="cpu")
    (height, width), (taps_x, taps_y) = upfirdn2d._padded_size(x.shape, up, padding), upfirdn2d._taps(f)
    if height < taps_y or width < taps_x:
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(custom_ops, "plugin_of", lambda operator, _: emulated[operator])
        patch.setattr(custom_ops, "current_stream", lambda _: 0)
        resampled(x, f, list(up), list(down), list(padding), data.draw(st.booleans()), 1.0)


def test_upfirdn2d_of_pictures_with_gaps(device):
    x = randn(2, 6, 12, 20, dtype=torch.float32, device=device)[:, ::2, 1:, ::2]
    resampled(x, taps(4, 4), [2, 2], [1, 1], [2, 1, 2, 1], False, 1.0)
    f = taps(8, 8)[::2, ::2]
    resampled(x, f, [2, 2], [1, 1], [2, 1, 2, 1], False, 1.0)


# ------------------------------------------------------------------------------------------------ arithmetic

DIVISIONS = """
#include <Python.h>
#include "cuda_on_cpu.h"
#include "kernels.cuh"
using eg3d::Index;

static PyObject* divide(PyObject*, PyObject* arguments) {
    Index number, value;
    if (!PyArg_ParseTuple(arguments, "LL", &number, &value)) return nullptr;
    const Index quotient = eg3d::Divisor(value).divide(number);
    return Py_BuildValue("LL", quotient, number);
}

static PyMethodDef methods[] = {{"divide", divide, METH_VARARGS, nullptr}, {}};
static PyModuleDef module = {PyModuleDef_HEAD_INIT, "divisions", nullptr, -1, methods};
PyMODINIT_FUNC PyInit_divisions() { return PyModule_Create(&module); }
"""


@needs_nvcc
def test_divisions(tmp_path, monkeypatch):
    """By multiplication where 31 bits hold both numbers, and beyond; around powers of two and multiples of the divisor."""
    (tmp_path / "divisions.cpp").write_text(DIVISIONS)
    monkeypatch.setenv("EG3D_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("CPATH", f"{HERE}:{OPS}:{cuda_headers()}")
    divide = custom_ops.load(custom_ops.Plugin("divisions", (tmp_path / "divisions.cpp",))).divide
    chosen = random.Random(0)
    divisors = [*range(1, 70), *(2**power + off for power in range(6, 33) for off in (-1, 0, 1)),
                *(chosen.randrange(1, 2**31) for _ in range(300))]
    for divisor in divisors:
        multiple = divisor * chosen.randrange(1, max(2, 2**31 // divisor))
        for number in [0, 1, divisor - 1, divisor, multiple - 1, multiple, multiple + 1, 2**31 - 1, 2**31, 2**32, 2**40 + 12345,
                       *(chosen.randrange(2**31) for _ in range(20))]:
            assert divide(number, divisor) == divmod(number, divisor)


# ------------------------------------------------------------------------------------------------ only on a GPU

def on_gpu(test):
    for mark in needs_gpu:
        test = mark(test)
    return test


@on_gpu
def test_the_plugins_are_what_auto_takes(monkeypatch):
    """With their derivatives, on another stream than PyTorch's own, against the reference in double precision."""
    monkeypatch.delenv("EG3D_PLUGINS", raising=False)
    x, b, f = (randn(*shape, seed=seed, dtype=torch.float32, device="cuda")
               for seed, shape in enumerate([(2, 8, 33, 31), (8,), (4, 4)]))
    results = {}
    for impl, dtype in (("auto", torch.float32), ("cuda", torch.float32), ("ref", torch.float64)):
        at, bias = x.to(dtype).requires_grad_(), b.to(dtype).requires_grad_()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            y = bias_act.bias_act(at, bias, act="swish", clamp=2, impl=impl)
            y = upfirdn2d.upfirdn2d(y, f, up=2, padding=2, impl=impl)
            first = torch.autograd.grad(y.square().sum(), (at, bias), create_graph=True)
            second = torch.autograd.grad(sum(each.square().sum() for each in first), (at, bias))
        torch.cuda.synchronize()
        assert ("eg3d" in type(y.grad_fn).__name__) == (impl != "ref")
        results[impl] = [y, *first, *second]
    for impl in ("auto", "cuda"):
        for result, expected in zip(results[impl], results["ref"]):
            assert (result - expected).norm() <= 1e-5 * expected.norm()


@on_gpu
def test_more_numbers_than_32_bits_count():
    """The last picture of a batch of more than 2^31 numbers is what it is alone."""
    batch, f4, f12 = 2**31 // (64 * 1024 * 1024) + 2, taps(4, 4).cuda(), taps(12).cuda()
    if torch.cuda.mem_get_info()[0] < 3 * batch * 2**27:
        pytest.skip("less than 13 GB of free GPU memory")
    x = torch.empty(batch, 64, 1024, 1024, dtype=torch.float16, device="cuda").normal_()
    b = torch.randn(64, device="cuda")
    for order in (torch.contiguous_format, torch.channels_last):
        whole = x if order == torch.contiguous_format else x.view(batch, 1024, 1024, 64).permute(0, 3, 1, 2)
        last = whole[-1:].clone(memory_format=torch.preserve_format)
        for call in (lambda x: bias_act.bias_act(x, b, act="lrelu", impl="cuda"),
                     lambda x: upfirdn2d.upfirdn2d(x, f4, padding=[2, 1, 2, 1], impl="cuda"),
                     lambda x: upfirdn2d.upfirdn2d(x, taps(3, 3).cuda(), padding=1, impl="cuda"),
                     lambda x: upfirdn2d.upfirdn2d(x, f12, down=2, padding=5, impl="cuda")):
            assert torch.equal(call(whole)[-1:], call(last))
        del last, whole


@on_gpu
def test_generators_compile_with_the_plugins(tiny_path):
    G = generator.load(tiny_path, device="cuda")
    ws = torch.randn(1, G.backbone.num_ws, G.w_dim, device="cuda")
    with torch.no_grad():
        expected = G.backbone.synthesis(ws, noise_mode="const")
        compiled = torch.compile(lambda ws: G.backbone.synthesis(ws, noise_mode="const"), fullgraph=True)(ws)
    assert (compiled - expected).norm() <= 1e-2 * expected.norm()  # convolutions in TF32, in another order


# ------------------------------------------------------------------------------------------------ compilers

BUILDING = """
import re, sys
import torch
from torch.utils import cpp_extension
from torch_utils import custom_ops
from torch_utils.ops import bias_act, upfirdn2d

cpp_extension.CUDA_HOME, torch.version.cuda = sys.argv[1:]
custom_ops.architectures = lambda: ["80", "90"]
custom_ops.CUDA_FLAGS += ["-Werror", "all-warnings", "-Xptxas", "-v"]
custom_ops.verbosity = "full"
assert custom_ops.plugin_of("upfirdn2d", "cuda").upfirdn2d
launch = custom_ops.plugin_of("bias_act", "cuda").bias_act
if not torch.cuda.is_available():
    x = torch.ones(2, 3)
    launch(x, x, None, None, None, None, 1, "relu", 0.0, 1.0, -1.0, 0)
"""


@needs_nvcc
def test_nvcc_compiles(tmp_path):
    """By PyTorch's builder for an A100 and an H100, without a warning or variables that spill out of registers.

    The plugins load, too, and a launch without a GPU is an error in CUDA's words. A PyTorch for the CPU lacks two libraries
    that the builder links with; nothing of them is called, so empty ones do.
    """
    for name in ("c10_cuda", "torch_cuda"):
        subprocess.run(["c++", "-shared", "-x", "c++", "/dev/null", "-o", str(tmp_path / f"lib{name}.so")], check=True)
    home = Path(cuda_headers()).parent
    version = re.search(r"release ([\d.]+)", subprocess.run(["nvcc", "--version"], capture_output=True, text=True).stdout)[1]
    environment = dict(os.environ, EG3D_CACHE_DIR=str(tmp_path / "cache"), LIBRARY_PATH=str(tmp_path),
                       LD_LIBRARY_PATH=f"{tmp_path}:{home / 'lib64'}")
    done = subprocess.run([sys.executable, "-c", BUILDING, str(home), version], cwd=OPS.parents[1], env=environment,
                          capture_output=True, text=True)
    assert done.stdout.count("Done.") == 2, done.stdout + done.stderr
    for arch in (80, 90):
        assert f"for 'sm_{arch}'" in done.stdout
    assert set(re.findall(r"(\d+) bytes spill", done.stdout)) == {"0"}
    assert torch.cuda.is_available() or re.search("RuntimeError: CUDA: .*(driver|device)", done.stderr)


def test_bindings_refuse_what_does_not_fit(device):
    plugin = custom_ops.plugin_of("bias_act", device.type)
    x = randn(2, 3, dtype=torch.float32, device=device)
    rest = (1, "relu", 0.0, 1.0, -1.0, 0)
    for out, x_given in [(x, x.double()), (x, x[:, :2]), (x.int(), x.int())]:
        with pytest.raises(RuntimeError, match="expected Float|shape|kernels know"):
            plugin.bias_act(out, x_given, None, None, None, None, *rest)
    with pytest.raises(RuntimeError, match="unknown activation gelu"):
        plugin.bias_act(x, x, None, None, None, None, 1, "gelu", 0.0, 1.0, -1.0, 0)
