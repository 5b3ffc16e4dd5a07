"""The kernels of bias_act and upfirdn2d for CPUs against the formulas, for each instruction set that this processor has."""

import itertools
import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck

from torch_utils import custom_ops
from torch_utils.ops import bias_act, on_cpu, upfirdn2d
from training import dual_discriminator

pytestmark = pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")

# Of upfirdn2d, to the sum of the magnitudes of what is added up: a product of two taps and a sample rounds three times, sums
# of up to 6 + 6 numbers and the gain some more.
ROUNDING = {torch.float32: 1e-6, torch.float64: 2e-15}
DTYPES = pytest.mark.parametrize("dtype", ROUNDING, ids=lambda dtype: str(dtype).split(".")[-1])
ORDERS = pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last], ids=["nchw", "channels_last"])
STRAIGHT = [name for name, activation in bias_act.activation_funcs.items() if activation.curvature is None]
CURVED = [name for name in bias_act.activation_funcs if name not in STRAIGHT]
FILTER = upfirdn2d.setup_filter([1, 3, 3, 1])
VARIANTS = range(custom_ops.best_variant() + 1)  # instruction sets that run here
COMMON = {  # what networks do
    "after a convolution up": dict(padding=(1, 1, 1, 1), gain=4), "before a convolution down": dict(padding=(2, 2, 2, 2)),
    "up": dict(up=(2, 2), padding=(2, 1, 2, 1), gain=4), "down": dict(down=(2, 2), padding=(1, 1, 1, 1)),
    "crop": dict(padding=(-1, -2, 1, 0)), "flipped": dict(padding=(1, 1, 1, 1), flip_filter=True)}


@pytest.fixture(autouse=True)
def unwritten_shows(monkeypatch):
    """New arrays are full of NaN, so that what is not written shows."""
    monkeypatch.delenv("EG3D_PLUGINS", raising=False)
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def three_threads(monkeypatch):
    """Of the kernels only."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)


def randn(*shape, seed=0, dtype=torch.float32, order=torch.contiguous_format):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype, memory_format=order)


# ------------------------------------------------------------------------------------------------ bias_act

SHAPES = [((2, 5, 7, 3), 1, False), ((3, 16, 9, 5), 1, True), ((2, 3, 5, 5), 1, True), ((67,), 0, False), ((5, 300), 1, False),
          ((4, 6, 2, 3), 3, True), ((1, 1, 1, 1), 1, False), ((1, 2, 150, 150), 1, False), ((2, 1, 4, 4), 1, True),
          ((3, 600, 2, 2), 1, True), ((2, 3, 4, 2, 5), 1, False), ((4, 3), 0, False)]


def same(result, expected):
    assert result.stride() == expected.stride() and result.dtype == expected.dtype
    assert torch.equal(result, expected)


@DTYPES
@pytest.mark.parametrize("act", STRAIGHT)
@pytest.mark.parametrize("clamp", [None, 0.7])
def test_bias_act(act, clamp, dtype):
    """To the last bit: nothing is rounded in another order. Sums: a few units of the last place of what is added up."""
    for (shape, dim, turned), has_bias, variant in itertools.product(SHAPES, (False, True), VARIANTS):
        x, gradient = (randn(*shape, seed=seed, dtype=dtype) for seed in range(2))
        x = x.contiguous(memory_format=torch.channels_last) if turned else x
        b, call = randn(shape[dim], seed=2, dtype=dtype) if has_bias else None, (dim, act, 0.3, 1.5, clamp)
        y, _ = bias_act._run(x, b, *call, variant=variant)
        same(y, bias_act._OnCPU.bias_act(x, b, *call))
        for dy, saved, bias, from_y in ((gradient, y, None, True), (gradient, x, b, False)):
            dx, sums = bias_act._run(saved, bias, *call, from_y=from_y, dy=dy, sums=True, variant=variant)
            same(dx, bias_act._OnCPU.bias_act_slope(dy, saved, bias, from_y, *call))
            each = dx.double().movedim(dim, 0).reshape(shape[dim], -1)
            assert ((sums - each.sum(1)).abs() <= 4 * torch.finfo(dtype).eps * each.abs().sum(1)).all()


@ORDERS
@pytest.mark.parametrize("act, alpha, gain, clamp", [
    ("lrelu", None, None, None), ("lrelu", None, None, 0.8), ("lrelu", -0.4, 1.3, None), ("relu", None, -1.3, 0.8),
    ("linear", None, None, 0.8), ("linear", None, 3.0, None), ("linear", None, None, None)])
def test_bias_act_derivatives(act, alpha, gain, clamp, order):
    """Against finite differences, of layers as they are called."""
    def layer(x, b):
        return bias_act.bias_act(x, b, act=act, alpha=alpha, gain=gain, clamp=clamp, impl="cpu")

    inputs = [randn(2, 3, 4, 2, dtype=torch.float64, order=order).requires_grad_(),
              randn(3, seed=1, dtype=torch.float64).requires_grad_()]
    assert gradcheck(layer, inputs) and gradgradcheck(layer, inputs)
    assert gradcheck(lambda b: layer(inputs[0].detach(), b), inputs[1:])
    assert gradcheck(lambda x: layer(x, None), inputs[:1])


@ORDERS
def test_gradients_of_a_layer(order):
    """Those of the reference, also where the gradient that comes in is one number spread out, or in the other order."""
    def gradients(impl, *, turned):
        x, b = randn(3, 16, 20, 9, order=order).requires_grad_(), randn(16, seed=1).requires_grad_()
        y = bias_act.bias_act(x, b, act="lrelu", clamp=1, impl=impl)
        weight = randn(*y.shape, seed=2).mT.contiguous().mT if turned else torch.ones(())
        return torch.autograd.grad((y * weight).sum(), (x, b))

    for turned in (False, True):
        for ours, theirs in zip(gradients("cpu", turned=turned), gradients("ref", turned=turned)):
            torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-5)  # sums of 540 numbers


@ORDERS
def test_bias_act_of_many_threads(order, three_threads):
    x, b = randn(3, 17, 61, 67, order=order), randn(17, seed=1)
    call = (1, "lrelu", 0.2, 1.4, None)
    same(bias_act._run(x, b, *call)[0], bias_act._OnCPU.bias_act(x, b, *call))
    dx, sums = bias_act._run(x, b, *call, dy=x, sums=True)
    same(dx, bias_act._OnCPU.bias_act_slope(x, x, b, False, *call))
    torch.testing.assert_close(sums.double(), dx.double().sum([0, 2, 3]), rtol=1e-6, atol=1e-3)


@pytest.mark.parametrize("act", STRAIGHT)
def test_what_is_no_number_goes_on(act):
    x = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 1.0])
    for clamp in (None, 0.5):
        ours, theirs = (bias_act.bias_act(x, dim=0, act=act, clamp=clamp, impl=impl) for impl in ("cpu", "ref"))
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("shape", [(0, 5), (0, 5, 3, 3), (4, 5, 0)])
def test_bias_act_of_nothing(shape):
    x, b = torch.zeros(shape, requires_grad=True), torch.zeros(5, requires_grad=True)
    bias_act.bias_act(x, b, act="lrelu", impl="cpu").sum().backward()
    assert x.grad.shape == shape and b.grad.tolist() == [0] * 5


def test_arrays_with_gaps():
    x, b = randn(4, 12, 9, 8)[::2, ::3, 1::2], randn(8)[::2]
    same(bias_act.bias_act(x, b, act="lrelu", impl="cpu"), bias_act.bias_act(x, b, act="lrelu", impl="ref"))
    ours, theirs = (upfirdn2d.upfirdn2d(x, FILTER.t(), padding=2, impl=impl) for impl in ("cpu", "ref"))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)  # of numbers around 1


@pytest.mark.parametrize("act, kept", [("linear", 0), ("lrelu", 1), ("relu", 1)])
def test_a_layer_keeps_one_array_for_training(act, kept):
    numbers, x = [], randn(2, 3, 4).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: numbers.append(tensor.numel()), lambda tensor: tensor):
        bias_act.bias_act(x, randn(3).requires_grad_(), act=act, impl="cpu")
    assert numbers == [x.numel()] * kept


# ------------------------------------------------------------------------------------------------ upfirdn2d

def compare(x, f, variant, up=(1, 1), down=(1, 1), padding=(0, 0, 0, 0), flip_filter=False, gain=1.0):
    """With the reference in double precision."""
    y = upfirdn2d._run(x, f, up, down, padding, flip_filter, gain, variant=variant)
    wide = None if f is None else f.double()
    exact, size = (upfirdn2d._formula(picture, taps, up, down, padding, flip_filter, scale) for picture, taps, scale in (
        (x.double(), wide, gain), (x.double().abs(), None if f is None else wide.abs(), abs(gain))))
    assert y.dtype == x.dtype and y.shape == exact.shape
    assert custom_ops.order_of(y) == custom_ops.order_of(x) or y.is_contiguous()
    error = (y - exact).abs()
    assert not error.isnan().any() and (error <= ROUNDING[x.dtype] * size).all(), (error - ROUNDING[x.dtype] * size).max()


@ORDERS
@DTYPES
@pytest.mark.parametrize("case", COMMON)
def test_upfirdn2d(case, dtype, order):
    """Sizes around those of a register and of the blocks that rows are cut into; a picture of one pixel."""
    for shape, variant in itertools.product(
            [(2, 3, 9, 7), (1, 16, 6, 33), (2, 33, 5, 8), (1, 2, 4, 9000), (1, 600, 3, 40)], VARIANTS):
        compare(randn(*shape, dtype=dtype, order=order), FILTER, variant, **COMMON[case])
    compare(randn(1, 1, 1, 1, dtype=dtype), FILTER, 0, padding=(2, 1, 1, 2))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.data())
def test_upfirdn2d_of_any_shape(data):
    """Any filter, of one term or of many, and any factors, paddings and crops."""
    number = lambda low, high: data.draw(st.integers(low, high))  # noqa: E731
    dtype, order = (data.draw(st.sampled_from(each)) for each in (list(ROUNDING), [torch.preserve_format, torch.channels_last]))
    x = randn(number(1, 2), number(1, 9), number(1, 7), number(1, 20), dtype=dtype, order=order)
    row, column = randn(number(1, 6), seed=1), randn(number(1, 6), seed=2)
    f = data.draw(st.sampled_from([None, row, torch.outer(column, row), randn(len(column), len(row), seed=3)]))
    padding, up = tuple(number(-4, 6) for _ in range(4)), (number(1, 3), number(1, 3))
    height, width = upfirdn2d._padded_size(x.shape, up, padding)
    taps_x, taps_y = upfirdn2d._taps(f)
    if height >= taps_y and width >= taps_x:
        compare(x, f, number(0, custom_ops.best_variant()), up=up, down=(number(1, 3), number(1, 3)), padding=padding,
                flip_filter=data.draw(st.booleans()), gain=data.draw(st.sampled_from([1.0, 4.0, -0.3])))


@ORDERS
@pytest.mark.parametrize("case", COMMON)
def test_upfirdn2d_derivatives(case, order):
    """Against finite differences, twice; crops leave no gradient behind."""
    x = randn(2, 2, 4, 7, dtype=torch.float64, order=order).requires_grad_()
    for f in (FILTER, torch.tensor([1.0, 2.0, 5.0])):
        function = lambda x: upfirdn2d.upfirdn2d(x, f, **COMMON[case], impl="cpu")  # noqa: B023,E731
        assert gradcheck(function, x) and gradgradcheck(function, x)


@ORDERS
def test_upfirdn2d_of_many_threads(order, three_threads):
    for shape in ((1, 19, 61, 67), (1, 1, 300, 200), (40, 1, 40, 40), (1, 600, 3, 40)):
        compare(randn(*shape, order=order), FILTER, None, padding=(1, 1, 1, 1), up=(2, 2))


def test_upfirdn2d_of_nothing():
    x = torch.zeros(0, 3, 5, 5, requires_grad=True)
    y = upfirdn2d.upfirdn2d(x, FILTER, down=2, padding=1, impl="cpu")
    y.sum().backward()
    assert y.shape == (0, 3, 2, 2) and x.grad.shape == x.shape


# ------------------------------------------------------------------------------------------------ choosing

@pytest.fixture
def calls(monkeypatch):
    """Notes which kernels run."""
    noted, run = [], on_cpu.run

    def noting(name, *arguments, **options):
        noted.append(name)
        run(name, *arguments, **options)

    monkeypatch.setattr(on_cpu, "run", noting)
    return noted


def compute(dtype=torch.float32, act="lrelu", impl="auto"):
    return (bias_act.bias_act(torch.ones(2, 3, dtype=dtype), act=act, impl=impl),
            upfirdn2d.upfirdn2d(torch.ones(1, 2, 3, 3, dtype=dtype), FILTER, padding=2, impl=impl))


def test_auto_takes_kernels_where_there_are_some(calls, monkeypatch):
    compute()
    compute(torch.float64, "relu")
    assert calls == ["bias_act", "upfirdn2d"] * 2
    compute(torch.bfloat16)
    compute(impl="ref")
    monkeypatch.setenv("EG3D_PLUGINS", "off")
    compute()
    assert len(calls) == 4
    with pytest.raises(custom_ops.PluginError, match="turned off"):
        compute(impl="cpu")


@pytest.mark.parametrize("act", CURVED)
def test_curved_activations_are_the_references(act, calls):
    x = randn(3, 4)
    assert torch.equal(bias_act.bias_act(x, act=act), bias_act.bias_act(x, act=act, impl="ref")) and not calls
    with pytest.raises(ValueError, match=f"impl='cpu' has no kernel for '{act}'; impl='ref' computes it"):
        bias_act.bias_act(x, act=act, impl="cpu")


def test_a_learned_filter_has_no_kernel(calls):
    f = torch.rand(3, 3, requires_grad=True)
    upfirdn2d.upfirdn2d(torch.ones(1, 1, 4, 4), f).sum().backward()
    assert f.grad.shape == (3, 3) and not calls
    with pytest.raises(ValueError, match="impl='cpu' has no derivative for the filter"):
        upfirdn2d.upfirdn2d(torch.ones(1, 1, 4, 4), f, impl="cpu")


def test_operators_of_a_saved_graph(calls, monkeypatch):
    """They take the kernel, and do without where there is none."""
    x, b = randn(2, 3, 4, 4), randn(3)
    results = []
    for said in ("on", "off"):
        monkeypatch.setenv("EG3D_PLUGINS", said)
        y = torch.ops.eg3d.bias_act(x, b, 1, "lrelu", 0.2, 1.4, None)
        results.append((y, torch.ops.eg3d.bias_act_slope(x, y, None, True, 1, "lrelu", 0.2, 1.4, None),
                        torch.ops.eg3d.upfirdn2d(x, FILTER, [1, 1], [1, 1], [1, 1, 1, 1], False, 1.0)))
        assert calls == ["bias_act", "bias_act", "upfirdn2d"]
    torch.testing.assert_close(*results)


def test_compiled_layers():
    """One graph, forwards and backwards, and the same gradients."""
    def layer(x, b):
        return upfirdn2d.upfirdn2d(bias_act.bias_act(x, b, act="lrelu", clamp=1), FILTER, padding=1)

    def gradients(function):
        x, b = randn(2, 3, 8, 8).requires_grad_(), randn(3, seed=1).requires_grad_()
        y = function(x, b)
        return y.detach(), *torch.autograd.grad(y.square().sum(), (x, b))

    torch._dynamo.reset()
    torch.testing.assert_close(gradients(torch.compile(layer, backend="aot_eager", fullgraph=True)), gradients(layer))


def test_r1_of_a_discriminator(monkeypatch, calls):
    """A penalty on gradients, differentiated, as with the formulas."""
    torch.manual_seed(0)
    D = dual_discriminator.DualDiscriminator(
        c_dim=25, img_resolution=16, img_channels=3, channel_base=256, channel_max=16, num_fp16_res=0,
        epilogue_kwargs=dict(mbstd_group_size=2))
    images = dict(image=randn(2, 3, 16, 16).requires_grad_(), image_raw=randn(2, 3, 8, 8, seed=1).requires_grad_())
    c = randn(2, 25, seed=2)

    def gradients():
        D.zero_grad()
        parts = torch.autograd.grad(D(images, c).sum(), list(images.values()), create_graph=True)
        sum(part.square().sum() for part in parts).backward()
        return torch.cat([(torch.zeros_like(each) if each.grad is None else each.grad).flatten() for each in D.parameters()])

    ours = gradients()
    assert {"bias_act", "upfirdn2d"} == set(calls)
    monkeypatch.setenv("EG3D_PLUGINS", "off")
    theirs = gradients()
    assert theirs.norm() > 0
    assert (ours - theirs).norm() <= 1e-4 * theirs.norm()  # float, in another order, of numbers that nearly cancel
