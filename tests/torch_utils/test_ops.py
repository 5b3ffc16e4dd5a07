"""Operators against naive oracles (loops over output pixels, NumPy formulas) and against finite differences.

Oracles compute in float64 from the same, already rounded inputs. What an operator may then differ by is its own rounding:
a few dozen products of numbers around 1, so a few units of the dtype's precision. ROUNDING holds that for each dtype.

All of it twice: with the kernels for CPUs where there is a compiler, and without any.
"""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck

from torch_utils.ops import bias_act, conv2d_gradfix, conv2d_resample, fma, grid_sample_gradfix, upfirdn2d
from training.networks_stylegan2 import modulated_conv2d

ROUNDING = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 8e-2}
DTYPES = pytest.mark.parametrize("dtype", ROUNDING, ids=lambda dtype: str(dtype).split(".")[-1])


@pytest.fixture(scope="module", autouse=True, params=["kernels", "formulas"])
def who_computes(request):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EG3D_PLUGINS", "on" if request.param == "kernels" else "off")
        yield


ACTIVATIONS = ["linear", "relu", "lrelu", "tanh", "sigmoid", "elu", "selu", "softplus", "swish"]


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def close(result, oracle, dtype=torch.float64):
    """Whether the result has this dtype and the oracle's shape and values, up to rounding."""
    assert result.dtype == dtype
    oracle = np.asarray(oracle)
    assert tuple(result.shape) == oracle.shape
    np.testing.assert_allclose(result.detach().double().numpy(), oracle, rtol=ROUNDING[dtype], atol=ROUNDING[dtype])


def check_derivatives(function, *inputs, second=True):
    """First and second derivatives in float64 against finite differences, at PyTorch's own tolerances (1e-5, 1e-3)."""
    inputs = [x.detach().clone().requires_grad_(True) for x in inputs]
    assert gradcheck(function, inputs)
    if second:
        assert gradgradcheck(function, inputs)


# ------------------------------------------------------------------------------------------------ bias_act

def naive_activation(name, x, alpha):
    positive = np.maximum(x, 0)
    return {
        "linear": lambda: x,
        "relu": lambda: positive,
        "lrelu": lambda: np.where(x > 0, x, alpha * x),
        "tanh": lambda: np.tanh(x),
        "sigmoid": lambda: 1 / (1 + np.exp(-x)),
        "elu": lambda: np.where(x > 0, x, np.exp(x) - 1),
        "selu": lambda: 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * (np.exp(x) - 1)),
        "softplus": lambda: np.log1p(np.exp(x)),
        "swish": lambda: x / (1 + np.exp(-x)),
    }[name]()


DEFAULT_GAIN = dict.fromkeys(ACTIVATIONS, 1) | dict.fromkeys(["relu", "lrelu", "swish"], np.sqrt(2))


@DTYPES
@pytest.mark.parametrize("act", ACTIVATIONS)
def test_bias_act_values(act, dtype):
    """clamp(act(x + b) * gain, -clamp, clamp) with the defaults, with every argument, and without a bias."""
    x, b = randn(3, 5, 7, dtype=dtype), randn(5, seed=1, dtype=dtype)
    x64, b64 = x.double().numpy(), b.double().numpy()[:, None]
    close(bias_act.bias_act(x, b, act=act), naive_activation(act, x64 + b64, 0.2) * DEFAULT_GAIN[act], dtype)
    close(bias_act.bias_act(x, act=act), naive_activation(act, x64, 0.2) * DEFAULT_GAIN[act], dtype)
    everything = np.clip(naive_activation(act, x64 + b64, 0.3) * 0.7, -0.4, 0.4)
    close(bias_act.bias_act(x, b, act=act, alpha=0.3, gain=0.7, clamp=0.4), everything, dtype)


@pytest.mark.parametrize("dim", [0, 1, 2, -1, -2, -3])
def test_bias_act_dimensions(dim):
    """The bias goes along `dim`, counted from either end."""
    x = randn(2, 3, 4)
    b = randn(x.shape[dim], seed=1)
    shape = [1, 1, 1]
    shape[dim] = -1
    close(bias_act.bias_act(x, b, dim=dim), x.numpy() + b.numpy().reshape(shape))


@DTYPES
def test_bias_act_keeps_the_dtype(dtype):
    """The result has x's dtype, whatever the bias has."""
    assert bias_act.bias_act(randn(2, 3, dtype=dtype), randn(3), act="lrelu", clamp=1).dtype == dtype


@pytest.mark.parametrize("shape", [(0, 5), (0, 5, 3, 3), (4, 5, 0)])
def test_bias_act_of_nothing(shape):
    """An empty tensor stays one."""
    assert bias_act.bias_act(torch.zeros(shape), torch.zeros(5), act="lrelu", clamp=1).shape == shape


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_bias_act_derivatives(act):
    """Kinks (at 0) and clamps (at 2 and -2) lie at least 0.1 away from every value, farther than the difference steps."""
    x = torch.tensor([[-3.1, -1.7, -0.9], [-0.4, -0.2, 0.2], [0.5, 1.1, 3.2]], dtype=torch.float64)
    b = torch.tensor([0.1, -0.1, 0.05], dtype=torch.float64)
    y = bias_act.bias_act(x, b, act=act, gain=1.3)
    assert (x + b).abs().min() > 0.05 and (y.abs() - 2).abs().min() > 0.01
    assert act in ("tanh", "sigmoid") or (y.abs() > 2).any()  # the clamp acts, where the activation reaches it
    check_derivatives(lambda x, b: bias_act.bias_act(x, b, act=act), x, b)
    check_derivatives(lambda x, b: bias_act.bias_act(x, b, act=act, gain=1.3, clamp=2), x, b)


def test_bias_act_errors():
    """A message names the culprit and what there is to choose from."""
    x = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="unknown activation 'gelu'.*lrelu"):
        bias_act.bias_act(x, act="gelu")
    for b in (torch.zeros(2), torch.zeros(1), torch.zeros(3, 1), torch.zeros([])):
        with pytest.raises(ValueError, match=r"bias of shape .* on dimension 1 of \(2, 3\)"):
            bias_act.bias_act(x, b)
    with pytest.raises(ValueError, match="impl='fast'"):
        bias_act.bias_act(x, impl="fast")
    with pytest.raises(ValueError, match="expected floating point, got torch.int32"):
        bias_act.bias_act(x.int())
    for clamp in (-1, float("nan")):
        with pytest.raises(ValueError, match="clamp=.* must be a number from 0 up"):
            bias_act.bias_act(x, clamp=clamp)


# ------------------------------------------------------------------------------------------------ upfirdn2d

def naive_upfirdn2d(x, f, up=(1, 1), down=(1, 1), padding=(0, 0, 0, 0), flip_filter=False, gain=1):
    """Loops over output pixels and taps. Sample r of the zero-stuffed axis is x[r / up], or 0 between and beyond."""
    x = np.asarray(x, dtype=np.float64)
    f = np.ones([1, 1]) if f is None else np.asarray(f, dtype=np.float64)
    f = np.outer(f, f) if f.ndim == 1 else f
    kernel = f if flip_filter else f[::-1, ::-1]
    left, right, top, bottom = padding
    height, width = x.shape[2] * up[1], x.shape[3] * up[0]
    out_height = (height + top + bottom - f.shape[0]) // down[1] + 1
    out_width = (width + left + right - f.shape[1]) // down[0] + 1
    out = np.zeros([*x.shape[:2], out_height, out_width])
    for i, j, a, b in itertools.product(*map(range, [out_height, out_width, *f.shape])):
        row, column = i * down[1] + a - top, j * down[0] + b - left
        if 0 <= row < height and 0 <= column < width and row % up[1] == column % up[0] == 0:
            out[:, :, i, j] += gain * kernel[a, b] * x[:, :, row // up[1], column // up[0]]
    return out


FILTERS = {  # in float64, so that a gain multiplied into them is no source of errors
    "none": None,
    "vector": randn(4, seed=1),
    "odd vector": randn(3, seed=2),
    "matrix": randn(3, 5, seed=3),
    "column": randn(4, 1, seed=4),
}
RESAMPLINGS = {
    "filter": dict(padding=(1, 2, 2, 1)),
    "up": dict(up=(2, 2), padding=(2, 1, 2, 1), gain=4),
    "down": dict(down=(2, 2), padding=(1, 1, 1, 1)),
    "all of it": dict(up=(3, 2), down=(2, 3), padding=(3, 4, 5, 2), gain=0.3),
    "crop": dict(padding=(-1, -1, -1, 0)),
    "crop after stuffing": dict(up=(2, 3), padding=(-2, 1, 2, -3)),
    "crop into the zeros": dict(padding=(14, -11, -11, 14)),
    "large padding": dict(padding=(7, 8, 9, 6), down=(3, 1)),
}


@DTYPES
@pytest.mark.parametrize("flip_filter", [False, True])
@pytest.mark.parametrize("case", RESAMPLINGS)
@pytest.mark.parametrize("taps", FILTERS)
def test_upfirdn2d_values(taps, case, flip_filter, dtype):
    """Every kind of filter in every direction, on a picture of odd size."""
    x, f, case = randn(2, 3, 7, 9, dtype=dtype), FILTERS[taps], dict(RESAMPLINGS[case], flip_filter=flip_filter)
    close(upfirdn2d.upfirdn2d(x, f, **case), naive_upfirdn2d(x.double(), f, **case), dtype)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data())
def test_upfirdn2d_of_any_shape(data):
    """Any small problem is either refused, because the filter does not fit, or has the oracle's size and values."""
    number = lambda low, high: data.draw(st.integers(low, high))  # noqa: E731
    x = randn(number(0, 2), number(1, 2), number(1, 5), number(1, 5))
    separable = data.draw(st.booleans())
    f = randn(number(1, 4), seed=1) if separable else randn(number(1, 4), number(1, 4), seed=1)
    case = dict(up=[number(1, 3), number(1, 3)], down=[number(1, 3), number(1, 3)], padding=[number(-2, 4) for _ in range(4)],
                flip_filter=data.draw(st.booleans()), gain=data.draw(st.sampled_from([1, 4, 0.3])))
    left, right, top, bottom = case["padding"]
    size = [x.shape[2] * case["up"][1] + top + bottom, x.shape[3] * case["up"][0] + left + right]
    if size[0] < f.shape[0] or size[1] < f.shape[-1]:
        with pytest.raises(ValueError, match="padded samples"):
            upfirdn2d.upfirdn2d(x, f, **case)
    else:
        close(upfirdn2d.upfirdn2d(x, f, **case), naive_upfirdn2d(x, f, **case))


def test_upfirdn2d_short_forms():
    """An int is both axes; two paddings are left and right, top and bottom."""
    x, f = randn(1, 2, 5, 6), FILTERS["vector"]
    same = [("up", 2, [2, 2]), ("down", 2, [2, 2]), ("padding", 1, [1, 1, 1, 1]), ("padding", [1, 2], [1, 1, 2, 2])]
    for name, short, full in same:
        assert torch.equal(upfirdn2d.upfirdn2d(x, f, **{name: short}), upfirdn2d.upfirdn2d(x, f, **{name: full}))


@pytest.mark.parametrize("taps", FILTERS)
def test_same_half_and_double_size(taps):
    """filter2d keeps the size, upsample2d multiplies and downsample2d divides it (rounding up), whatever the filter."""
    x, f = randn(1, 2, 7, 10), FILTERS[taps]
    assert upfirdn2d.filter2d(x, f).shape[2:] == (7, 10)
    assert upfirdn2d.filter2d(x, f, padding=[1, 0, 0, 2]).shape[2:] == (9, 11)
    assert upfirdn2d.upsample2d(x, f, up=3).shape[2:] == (21, 30)
    assert upfirdn2d.upsample2d(x, f, up=[2, 1]).shape[2:] == (7, 20)
    assert upfirdn2d.downsample2d(x, f).shape[2:] == (len(range(0, 7 - 1, 2)), 5)


def test_constant_pictures_stay_constant():
    """A filter that sums to 1 keeps brightness, away from the border; upsampling makes up for its zeros."""
    f, x = upfirdn2d.setup_filter([1, 3, 3, 1]), torch.full([1, 1, 12, 12], 0.7)
    for function in (upfirdn2d.filter2d, upfirdn2d.upsample2d, upfirdn2d.downsample2d):
        middle = function(x, f)[:, :, 3:-3, 3:-3]
        assert middle.numel() == 0 or torch.allclose(middle, torch.full_like(middle, 0.7), atol=1e-6)


def test_setup_filter():
    """Normalized to sum 1; a vector stays one from 8 taps on; the picture's gain is `gain` in either form."""
    matrix, vector = upfirdn2d.setup_filter([1, 3, 3, 1], gain=4), upfirdn2d.setup_filter([1] * 8, gain=4)
    assert matrix.shape == (4, 4) and matrix.sum() == pytest.approx(4)
    assert vector.shape == (8,) and vector.sum() == pytest.approx(2)  # applied twice
    assert upfirdn2d.setup_filter([1] * 7).shape == (7, 7) and upfirdn2d.setup_filter([1, 2], separable=True).shape == (2,)
    assert upfirdn2d.setup_filter([1] * 8, separable=False).shape == (8, 8)
    assert upfirdn2d.setup_filter(None).tolist() == [[1]] and upfirdn2d.setup_filter(5).tolist() == [[1]]
    assert upfirdn2d.setup_filter([[1, 2], [3, 4]], normalize=False, flip_filter=True).tolist() == [[4, 3], [2, 1]]
    taps = torch.tensor([1.0, 2.0])
    upfirdn2d.setup_filter(taps)
    assert taps.tolist() == [1, 2]


DIFFERENTIATED = [
    ("vector", dict(up=(2, 2), padding=(2, 1, 2, 1), gain=4)), ("vector", dict(down=(2, 2), padding=(1, 1, 1, 1))),
    ("vector", dict(padding=(-1, 1, 2, -1), flip_filter=True)), ("matrix", dict(up=(1, 2), down=(2, 1), padding=(3, 2, 1, 1))),
    ("matrix", dict(flip_filter=True, padding=(2, 2, 1, 1))), ("none", dict(up=(2, 1), padding=(-1, 0, 0, 1)))]


@pytest.mark.parametrize("taps, case", DIFFERENTIATED)
def test_upfirdn2d_derivatives(taps, case):
    check_derivatives(lambda x: upfirdn2d.upfirdn2d(x, FILTERS[taps], **case), randn(1, 2, 3, 4))


def test_upfirdn2d_errors():
    """A message names the operator, the culprit and the sizes."""
    x, f = torch.zeros(1, 1, 3, 3), torch.ones(4)
    with pytest.raises(ValueError, match="4x4 taps on 3x3 padded samples"):
        upfirdn2d.upfirdn2d(x, f)
    with pytest.raises(ValueError, match="down=0 must be at least 1"):
        upfirdn2d.upfirdn2d(x, f, down=0, padding=2)
    with pytest.raises(ValueError, match="up=.*must be at least 1"):
        upfirdn2d.upfirdn2d(x, f, up=[1, 0], padding=2)
    with pytest.raises(ValueError, match=r"expected floating point \[N, C, H, W\], got torch.float32 \(3, 3\)"):
        upfirdn2d.upfirdn2d(x[0, 0], f)
    with pytest.raises(ValueError, match="impl='fast'"):
        upfirdn2d.upfirdn2d(x, f, padding=2, impl="fast")
    with pytest.raises(ValueError, match="expected floating point"):
        upfirdn2d.upfirdn2d(x.int(), f, padding=2)
    for wrong in ([1, 2], torch.ones(1, 2, 2), torch.ones(()), torch.ones(0, 0), f.to("meta")):
        with pytest.raises(ValueError, match="expected as filter None or what setup_filter gives, on the picture's device"):
            upfirdn2d.upfirdn2d(x, wrong, padding=2)
    for name, wrong in itertools.product(("up", "padding"), (2.0, None, "2", [1.5, 1], [1, 2, 3])):
        with pytest.raises(ValueError, match=f"upfirdn2d: {name}=.*expected whole numbers, as one"):
            upfirdn2d.upfirdn2d(x, f, **{"padding": 2, name: wrong})
    with pytest.raises(ValueError, match="taps that sum to 0 cannot be normalized"):
        upfirdn2d.setup_filter([1, -1])
    for factors in (dict(up=0), dict(down=-1), dict(up=1.5)):
        with pytest.raises(ValueError, match="conv2d_resample: up=.*, down=.*: expected whole numbers from 1 up"):
            conv2d_resample.conv2d_resample(x, torch.ones(1, 1, 1, 1), **factors)
    for taps in ([], torch.ones(2, 2, 2)):
        with pytest.raises(ValueError, match="expected a number, a vector or a matrix"):
            upfirdn2d.setup_filter(taps)
    with pytest.raises(ValueError, match="a separable filter is 1-D"):
        upfirdn2d.setup_filter([[1, 2], [3, 4]], separable=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="refused only where there is no CUDA")
@pytest.mark.parametrize("call", [
    lambda: bias_act.bias_act(torch.zeros(2, 3), impl="cuda"),
    lambda: upfirdn2d.upfirdn2d(torch.zeros(1, 1, 3, 3), None, impl="cuda")])
def test_cuda_is_not_silently_replaced(call):
    """Asking for the CUDA kernel by name, on the CPU, is an error rather than a fall-back."""
    with pytest.raises((ValueError, RuntimeError), match="cuda|CUDA"):
        call()


# ------------------------------------------------------------------------------------------------ conv2d_resample

def naive_conv2d(x, w, groups=1, flip_weight=True):
    """Loops over samples, output channels and pixels; without padding."""
    x, w = np.asarray(x, dtype=np.float64), np.asarray(w, dtype=np.float64)
    w = w if flip_weight else w[:, :, ::-1, ::-1]
    out_channels, fan_in, kernel_height, kernel_width = w.shape
    size = x.shape[2] - kernel_height + 1, x.shape[3] - kernel_width + 1
    out = np.zeros([x.shape[0], out_channels, *size])
    for n, o, i, j in itertools.product(*map(range, out.shape)):
        first = o // (out_channels // groups) * fan_in
        window = x[n, first : first + fan_in, i : i + kernel_height, j : j + kernel_width]
        out[n, o, i, j] = (window * w[o]).sum()
    return out


def naive_resample(x, w, f=None, up=1, down=1, padding=(0, 0, 0, 0), groups=1, flip_weight=True, flip_filter=False):
    """The definition: upsample with the filter (gain up^2), pad, convolve, filter and drop."""
    margins = list(padding)
    for axis, taps in enumerate((1, 1) if f is None else (f.shape[-1], f.shape[0])):
        if up > 1:
            margins[2 * axis] += (taps + up - 1) // 2
            margins[2 * axis + 1] += (taps - up) // 2
        if down > 1:
            margins[2 * axis] += (taps - down + 1) // 2
            margins[2 * axis + 1] += (taps - down) // 2
    x = naive_upfirdn2d(x, f if up > 1 else None, up=(up, up), padding=margins, gain=up**2, flip_filter=flip_filter)
    x = naive_conv2d(x, w, groups, flip_weight)
    return naive_upfirdn2d(x, f if down > 1 else None, down=(down, down), flip_filter=flip_filter)


ROUTES = {
    "plain": ((4, 2, 3, 3), dict(padding=(1, 1, 1, 1))),
    "plain, oblong": ((4, 2, 3, 2), dict(padding=(1, 1, 2, 2), flip_weight=False)),
    "plain, lopsided padding": ((4, 2, 3, 3), dict(padding=(0, 1, 2, 1), flip_weight=False)),
    "plain, cropped": ((4, 2, 3, 3), dict(padding=(-1, -1, 1, 1))),
    "pointwise": ((4, 2, 1, 1), {}),
    "pointwise up": ((4, 2, 1, 1), dict(up=2)),
    "pointwise up, padded": ((4, 2, 1, 1), dict(up=3, padding=(1, 0, -1, 2))),
    "pointwise down": ((4, 2, 1, 1), dict(down=2)),
    "pointwise both": ((4, 2, 1, 1), dict(up=2, down=3, padding=(2, 2, 2, 2))),
    "down": ((4, 2, 3, 3), dict(down=2, padding=(1, 1, 1, 1))),
    "down, flipped": ((4, 2, 3, 3), dict(down=2, padding=(2, 0, 1, 1), flip_weight=False, flip_filter=True)),
    "up": ((4, 2, 3, 3), dict(up=2, padding=(1, 1, 1, 1), flip_weight=False)),
    "up, flipped": ((4, 2, 3, 3), dict(up=2, padding=(1, 1, 1, 1), flip_filter=True)),
    "up, cropped": ((4, 2, 5, 5), dict(up=2)),
    "up, cropped on one side": ((4, 2, 3, 3), dict(up=2, padding=(-2, 3, 4, -1))),
    "up by 3": ((4, 2, 2, 4), dict(up=3, padding=(2, 1, 0, 3))),
    "both": ((4, 2, 3, 3), dict(up=2, down=2, padding=(1, 1, 1, 1))),
    "groups": ((4, 2, 3, 3), dict(groups=2, padding=(1, 1, 1, 1))),
    "groups up": ((4, 2, 3, 3), dict(groups=2, up=2, padding=(1, 1, 1, 1), flip_weight=False)),
    "groups down": ((4, 2, 3, 3), dict(groups=2, down=2, padding=(1, 1, 1, 1))),
}


@pytest.mark.parametrize("taps", ["none", "vector", "matrix"])
@pytest.mark.parametrize("route", ROUTES)
def test_conv2d_resample_values(route, taps):
    """Every route gives what the definition gives, on a picture of odd size."""
    shape, case = ROUTES[route]
    x, w, f = randn(2, shape[1] * case.get("groups", 1), 7, 5), randn(*shape, seed=1), FILTERS[taps]
    close(conv2d_resample.conv2d_resample(x, w, f, **case), naive_resample(x, w, f, **case))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("route", ["plain", "up", "down", "both"])
def test_conv2d_resample_dtypes(route, dtype):
    """The result has the input's dtype; errors are its rounding, times 10 since sums of 18 products reach about 10."""
    shape, case = ROUTES[route]
    x, w, f = randn(2, 2, 6, 6, dtype=dtype), randn(*shape, seed=1, dtype=dtype), upfirdn2d.setup_filter([1, 3, 3, 1])
    y = conv2d_resample.conv2d_resample(x, w, f, **case)
    assert y.dtype == dtype
    np.testing.assert_allclose(y.double(), naive_resample(x.double(), w.double(), f, **case), rtol=0, atol=10 * ROUNDING[dtype])


@pytest.mark.parametrize("route", ROUTES)
def test_conv2d_resample_derivatives(route):
    (_, fan_in, *kernel), case = ROUTES[route]
    x, w = randn(1, fan_in * case.get("groups", 1), 3, 5), randn(2, fan_in, *kernel, seed=1)
    check_derivatives(lambda x, w: conv2d_resample.conv2d_resample(x, w, upfirdn2d.setup_filter([1, 2, 1]), **case), x, w)


@pytest.mark.parametrize("route", ROUTES)
def test_conv2d_resample_of_an_empty_batch(route):
    shape, case = ROUTES[route]
    x, w = torch.zeros(0, shape[1] * case.get("groups", 1), 7, 5), torch.zeros(shape)
    y = conv2d_resample.conv2d_resample(x, w, FILTERS["vector"], **case)
    assert y.shape == naive_resample(x, w, FILTERS["vector"], **case).shape


def test_conv2d_gradfix_names():
    """The names of the official module convolve as PyTorch does; the weight-gradient switch hides no gradient asked for."""
    x, w = randn(1, 2, 5, 5), randn(3, 2, 3, 3, seed=1).requires_grad_(True)
    with conv2d_gradfix.no_weight_gradients():
        y = conv2d_gradfix.conv2d(x, w, padding=1)
    close(y, naive_conv2d(np.pad(x, [(0, 0), (0, 0), (1, 1), (1, 1)]), w.detach()))
    assert torch.autograd.grad(y.sum(), w)[0].shape == w.shape
    assert conv2d_gradfix.conv_transpose2d(y, w, padding=1).shape == x.shape


# ------------------------------------------------------------------------------------------------ modulated_conv2d

MODULATIONS = {
    "same size": dict(padding=1),
    "up": dict(padding=1, up=2, flip_weight=False),
    "down": dict(padding=1, down=2),
    "not demodulated": dict(padding=1, demodulate=False),
}


def naive_modulated(x, weight, styles, noise, f, demodulate=True, padding=0, **resampling):
    """Sample by sample: scale the kernel, normalize each output channel's, convolve."""
    pictures = []
    for picture, style in zip(x.numpy(), styles.numpy()):
        kernel = weight.numpy() * style[None, :, None, None]
        if demodulate:
            kernel = np.stack([one / np.sqrt((one**2).sum() + 1e-8) for one in kernel])
        pictures.append(naive_resample(picture[None], kernel, f, padding=[padding] * 4, **resampling)[0])
    return np.stack(pictures) + noise.numpy()


@pytest.mark.parametrize("fused_modconv", [True, False])
@pytest.mark.parametrize("case", MODULATIONS)
def test_modulated_conv2d(case, fused_modconv):
    """Values, and first and second derivatives, of both ways to compute it."""
    case = MODULATIONS[case]
    f = upfirdn2d.setup_filter([1, 3, 3, 1])
    x, weight, styles = randn(2, 3, 4, 4), randn(2, 3, 3, 3, seed=1), randn(2, 3, seed=2) + 1
    size = 4 * case.get("up", 1) // case.get("down", 1)
    noise = randn(2, 1, size, size, seed=3)

    def convolve(x, weight, styles, noise):
        return modulated_conv2d(x, weight, styles, noise, resample_filter=f, fused_modconv=fused_modconv, **case)

    close(convolve(x, weight, styles, noise), naive_modulated(x, weight, styles, noise, f, **case))
    check_derivatives(convolve, x, weight, styles, noise)


@pytest.mark.parametrize("fused_modconv", [True, False])
@pytest.mark.parametrize("magnitude", [1, 1e4])
def test_modulated_conv2d_in_half_precision(fused_modconv, magnitude):
    """Demodulation cancels any scale of styles and weights, so large ones do not overflow float16.

    Errors: products and sums of float16 numbers below 10, hence the dtype's rounding times 4."""
    x, weight, styles = randn(2, 8, 5, 5, dtype=torch.float16), randn(4, 8, 3, 3, seed=1), randn(2, 8, seed=2) + 1
    y = modulated_conv2d(x, weight.float() * magnitude, styles.float() * magnitude, padding=1, fused_modconv=fused_modconv)
    assert y.dtype == torch.float16
    oracle = naive_modulated(x.double(), weight, styles, torch.zeros([]), None, padding=1)
    np.testing.assert_allclose(y.double(), oracle, rtol=0, atol=4 * ROUNDING[torch.float16])


@pytest.mark.parametrize("fused_modconv", [True, False])
def test_modulated_conv2d_of_an_empty_batch(fused_modconv):
    x, weight, styles = torch.zeros(0, 3, 4, 4), torch.zeros(2, 3, 3, 3), torch.zeros(0, 3)
    y = modulated_conv2d(x, weight, styles, padding=1, fused_modconv=fused_modconv)
    assert y.shape == (0, 2, 4, 4)


# ------------------------------------------------------------------------------------------------ fma, grid_sample

@DTYPES
def test_fma(dtype):
    """a * b + c, broadcast every way."""
    for shapes in [((2, 3), (2, 3), (2, 3)), ((2, 3), (3,), (2, 1)), ((1, 3), (2, 1), (4, 2, 3)), ((0, 3), (1, 3), (3,))]:
        a, b, c = [randn(*shape, seed=seed, dtype=dtype) for seed, shape in enumerate(shapes)]
        close(fma.fma(a, b, c), a.double().numpy() * b.double().numpy() + c.double().numpy(), dtype)


def test_fma_derivatives():
    check_derivatives(fma.fma, randn(2, 3), randn(2, 1, seed=1), randn(3, seed=2))


def naive_grid_sample(x, grid):
    """Loops over look-ups and their four neighbours; pixel i's centre is at (2 i + 1) / size - 1."""
    samples, channels, height, width = x.shape
    out = np.zeros([samples, channels, *grid.shape[1:3]])
    for n, i, j in itertools.product(*map(range, grid.shape[:3])):
        column, row = [((float(at) + 1) * size - 1) / 2 for at, size in zip(grid[n, i, j], (width, height))]
        for r, c in itertools.product([np.floor(row), np.floor(row) + 1], [np.floor(column), np.floor(column) + 1]):
            if 0 <= r < height and 0 <= c < width:
                out[n, :, i, j] += (1 - abs(row - r)) * (1 - abs(column - c)) * x[n, :, int(r), int(c)]
    return out


def test_grid_sample():
    """Bilinear with zeros outside; the first derivative (for pictures and grid) is right."""
    x, grid = randn(2, 3, 5, 4), randn(2, 6, 7, 2, seed=1)
    close(grid_sample_gradfix.grid_sample(x, grid), naive_grid_sample(x.numpy(), grid.numpy()))
    assert grid_sample_gradfix.grid_sample(x[:0], grid[:0]).shape == (0, 3, 6, 7)
    # gradcheck's steps are 1e-6: no look-up of this seed is so close to a pixel's centre, where the slope changes.
    check_derivatives(grid_sample_gradfix.grid_sample, randn(1, 2, 3, 4), randn(1, 3, 3, 2, seed=2) * 0.6, second=False)
