"""Bias, activation, gain and clamp in one call: clamp(act(x + b) * gain, -clamp, clamp).

StyleGAN (Karras et al. 2019) scales each activation so that unit variance goes in and comes out; the default gains are
that paper's.

The reference is plain PyTorch and differentiable any number of times. The operator eg3d::bias_act does value, first and second
derivative in one pass over memory each: by bias_act.cu on a GPU, by ops_cpu.cpp on a CPU. The latter has kernels for straight
and bent lines (linear, relu, lrelu), whose second derivative is 0; elsewhere the operator on a CPU is the formulas below. For
training it keeps one array: y where the sign of y tells the slope, else x.
"""

import math
from pathlib import Path
from typing import Callable, NamedTuple, Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import custom_ops
from . import on_cpu

HERE = Path(__file__).parent
SQRT2 = math.sqrt(2)
LEAKY_SLOPE = 0.2  # negative slope of lrelu in all StyleGAN networks
SELU_SCALE, SELU_ALPHA = 1.0507009873554804934, 1.6732632423543772848  # Klambauer et al. 2017


class Activation(NamedTuple):
    """An activation, its derivatives and the defaults of alpha and gain. Functions are of (x, alpha)."""

    func: Callable[[Tensor, float], Tensor]
    def_alpha: float
    def_gain: float
    slope: Callable[[Tensor, float], Tensor]  # first derivative; at 0, the one from below
    curvature: Optional[Callable[[Tensor, float], Tensor]] = None  # second derivative; None: 0 but at 0


def _tanh_slope(x, _):
    return 1 - x.tanh().square()


def _sigmoid_slope(x, _):
    return x.sigmoid() * (-x).sigmoid()


def _exponential_if_negative(x, _):
    return torch.where(x > 0, 0.0, x.exp())


activation_funcs = {
    "linear": Activation(lambda x, _: x, 0.0, 1.0, lambda x, _: torch.ones_like(x)),
    "relu": Activation(lambda x, _: F.relu(x), 0.0, SQRT2, lambda x, _: (x > 0).to(x.dtype)),
    "lrelu": Activation(F.leaky_relu, LEAKY_SLOPE, SQRT2, lambda x, alpha: torch.full_like(x, alpha).masked_fill(x > 0, 1)),
    "tanh": Activation(
        lambda x, _: torch.tanh(x), 0.0, 1.0, _tanh_slope, lambda x, _: -2 * x.tanh() * _tanh_slope(x, _)),
    "sigmoid": Activation(
        lambda x, _: torch.sigmoid(x), 0.0, 1.0, _sigmoid_slope, lambda x, _: _sigmoid_slope(x, _) * (1 - 2 * x.sigmoid())),
    "elu": Activation(
        lambda x, _: F.elu(x), 0.0, 1.0, lambda x, _: torch.where(x > 0, 1.0, x.exp()), _exponential_if_negative),
    "selu": Activation(
        lambda x, _: F.selu(x), 0.0, 1.0,
        lambda x, _: SELU_SCALE * torch.where(x > 0, 1.0, SELU_ALPHA * x.exp()),
        lambda x, _: SELU_SCALE * SELU_ALPHA * _exponential_if_negative(x, _)),
    "softplus": Activation(lambda x, _: F.softplus(x), 0.0, 1.0, lambda x, _: x.sigmoid(), _sigmoid_slope),
    "swish": Activation(
        lambda x, _: F.silu(x), 0.0, SQRT2,
        lambda x, _: x.sigmoid() * (1 + x * (-x).sigmoid()),
        lambda x, _: _sigmoid_slope(x, _) * (2 + x * (1 - 2 * x.sigmoid()))),
}


def bias_act(
    x: Tensor,  # any shape
    b: Optional[Tensor] = None,  # [x.shape[dim]]
    dim: int = 1,
    act: str = "linear",
    alpha: Optional[float] = None,
    gain: Optional[float] = None,
    clamp: Optional[float] = None,
    impl: str = "auto",
) -> Tensor:
    """Returns clamp(act(x + b) * gain), of x's shape and dtype.

    `alpha` (the slope of lrelu) and `gain` default to the activation's own; `clamp=None` does not clamp. `impl='ref'` is
    differentiable any number of times, `'cuda'` and `'cpu'` twice; `'auto'` takes the kernel if it can be had: on a GPU, and on
    a CPU for linear, relu and lrelu in float32 or float64. Raises ValueError for an unknown activation, a bias of the wrong
    shape or a negative clamp; torch_utils.custom_ops.PluginError where `impl='cuda'` or `'cpu'` cannot be had.
    """
    if act not in activation_funcs:
        raise ValueError(f"bias_act: unknown activation {act!r}; choose one of {', '.join(activation_funcs)}")
    if not x.is_floating_point():
        raise ValueError(f"bias_act: expected floating point, got {x.dtype}")
    if clamp is not None and not clamp >= 0:
        raise ValueError(f"bias_act: clamp={clamp} must be a number from 0 up, or None")
    activation = activation_funcs[act]
    alpha = activation.def_alpha if alpha is None else float(alpha)
    gain = activation.def_gain if gain is None else float(gain)
    if b is not None:
        if b.shape != x.shape[dim : dim + 1 or None]:
            raise ValueError(f"bias_act: bias of shape {tuple(b.shape)} on dimension {dim} of {tuple(x.shape)}; dim says which")
        b = b.to(x.dtype)
    dim = dim % x.ndim if x.ndim else 0
    chosen = _choose(impl, act, x)
    if chosen == "ref":
        return _formula(x, b, dim, act, alpha, gain, clamp)
    if chosen == "cpu" and on_cpu.is_at_hand(x):
        return _Direct.apply(x, b, dim, act, alpha, gain, clamp)
    return torch.ops.eg3d.bias_act(x, b, dim, act, alpha, gain, clamp)


def _choose(impl: str, act: str, x: Tensor) -> str:
    chosen = custom_ops.choose("bias_act", impl, x.device.type, x.dtype)
    if chosen != "cpu" or activation_funcs[act].curvature is None:
        return chosen
    if impl == "cpu":
        raise ValueError(f"bias_act: impl='cpu' has no kernel for {act!r}; impl='ref' computes it")
    return "ref"


def _formula(x, b, dim, act, alpha, gain, clamp) -> Tensor:
    x = activation_funcs[act].func(_biased(x, b, dim), alpha)
    if gain != 1:
        x = x * gain
    if clamp is not None:
        x = x.clamp(-clamp, clamp)
    return x


def _biased(x, b, dim):
    return x if b is None else x + b.reshape([-1 if axis == dim else 1 for axis in range(x.ndim)])


# ------------------------------------------------------------------------------------------------ the operator
# `saved` is y if `from_y`, else x. For a straight or bent line the sign of y tells the slope, unless alpha or gain turn it.

custom_ops.register(
    "bias_act", cpu=on_cpu.PLUGIN,
    cuda=custom_ops.Plugin("bias_act_plugin", (HERE / "bias_act.cpp", HERE / "bias_act.cu")))

_library = torch.library.Library("eg3d", "FRAGMENT")
_CALL = "int dim, str act, float alpha, float gain, float? clamp"
for _schema in (
        f"bias_act(Tensor x, Tensor? b, {_CALL}) -> Tensor",
        f"bias_act_slope(Tensor dy, Tensor saved, Tensor? b, bool from_y, {_CALL}) -> Tensor",
        f"bias_act_curvature(Tensor ddx, Tensor dy, Tensor x, Tensor? b, {_CALL}) -> Tensor"):
    _library.define(_schema, tags=torch.Tag.needs_fixed_stride_order)


class _OnCPU:
    """The formulas, as operators: new tensors in their input's order of memory."""

    @staticmethod
    def bias_act(x, b, *call):
        return _new(x, _formula(x, b, *call))

    @staticmethod
    def bias_act_slope(dy, saved, b, from_y, dim, act, alpha, gain, clamp):
        at = _biased(saved, b, dim)
        return _new(saved, dy * gain * activation_funcs[act].slope(at, alpha) * _passed(at, from_y, act, alpha, gain, clamp))

    @staticmethod
    def bias_act_curvature(ddx, dy, x, b, dim, act, alpha, gain, clamp):
        at, curvature = _biased(x, b, dim), activation_funcs[act].curvature
        if curvature is None:
            return _new(x, torch.zeros_like(x))
        return _new(x, ddx * dy * gain * curvature(at, alpha) * _passed(at, False, act, alpha, gain, clamp))


def _passed(at, from_y, act, alpha, gain, clamp):
    """1 where the clamp let the result pass. A y that lies on the limit counts as clamped: it does not tell."""
    if clamp is None:
        return 1
    if from_y:
        return (at.abs() < at.new_full((), clamp)).to(at.dtype)  # the limit as it is stored
    return ((activation_funcs[act].func(at, alpha) * gain).abs() <= clamp).to(at.dtype)


def _new(model, values):
    return custom_ops.empty_as(model).copy_(values)


class _OnCPUByKernel:
    """The kernel where there is one and it can be had, else the formulas."""

    @staticmethod
    def bias_act(x, b, *call):
        return _run(x, b, *call)[0] if _has_kernel(x, call) else _OnCPU.bias_act(x, b, *call)

    @staticmethod
    def bias_act_slope(dy, saved, b, from_y, *call):
        if _has_kernel(saved, call):
            return _run(saved, b, *call, from_y=from_y, dy=dy)[0]
        return _OnCPU.bias_act_slope(dy, saved, b, from_y, *call)

    bias_act_curvature = _OnCPU.bias_act_curvature


def _has_kernel(x, call):
    _, act, *_ = call
    return activation_funcs[act].curvature is None and custom_ops.choose("bias_act", "auto", "cpu", x.dtype) == "cpu"


def _run(saved, b, dim, act, alpha, gain, clamp, from_y=False, dy=None, sums=False, variant=None):
    """The result, and if `sums` its sums over all axes but `dim`."""
    saved = custom_ops.dense(saved)
    dy = None if dy is None else custom_ops.dense(dy, like=saved)
    b = None if b is None else b.contiguous()
    out = custom_ops.empty_as(saved)
    d_bias = saved.new_empty(saved.shape[dim : dim + 1]) if sums else None
    if out.numel() == 0:
        return out, None if d_bias is None else d_bias.zero_()
    one_channel = saved.ndim == 0 or b is None and not sums
    step, channels = (1, 1) if one_channel else (max(1, saved.stride(dim)), saved.shape[dim])
    call = on_cpu.BiasAct(
        count=out.numel(), channels=channels, step=step, from_y=from_y, cut=act == "relu", gain=gain,
        alpha=1 if act == "linear" else alpha, limit=math.nan if clamp is None else clamp)
    on_cpu.run("bias_act", out, call, variant, saved=saved, bias=b, dy=dy, d_bias=d_bias)
    return out, d_bias


class _OnGPU:
    """The kernel: all arrays in one order of memory."""

    @staticmethod
    def bias_act(x, b, *call):
        return _launch(x, b, *call)

    @staticmethod
    def bias_act_slope(dy, saved, b, from_y, *call):
        return _launch(saved, b, *call, from_y=from_y, dy=dy)

    @staticmethod
    def bias_act_curvature(ddx, dy, x, b, *call):
        return _launch(x, b, *call, dy=dy, ddx=ddx)


def _launch(saved, b, dim, act, alpha, gain, clamp, from_y=False, dy=None, ddx=None) -> Tensor:
    saved = custom_ops.dense(saved)
    x, y = (None, saved) if from_y else (saved, None)
    dy, ddx = (None if each is None else custom_ops.dense(each, like=saved) for each in (dy, ddx))
    out = custom_ops.empty_as(saved)
    step = 1 if b is None else max(1, saved.stride(dim))  # an axis of length 1 may have any stride
    custom_ops.plugin_of("bias_act", saved.device.type).bias_act(
        out, x, None if b is None else b.contiguous(), y, dy, ddx, step, act, alpha, gain, -1.0 if clamp is None else clamp,
        custom_ops.current_stream(saved.device))
    return out


# ------------------------------------------------------------------------------------------------ derivatives

def _keep_for_slope(ctx, inputs, output):
    x, b, dim, *ctx.call = inputs
    act, alpha, gain, clamp = ctx.call
    ctx.dim, ctx.scale = dim, gain if act == "linear" and clamp is None else None
    ctx.from_y = activation_funcs[act].curvature is None and alpha >= 0 and gain > 0
    if ctx.scale is None:
        ctx.save_for_backward(*((output, None) if ctx.from_y else (x, b)))


def _slope(ctx, dy):
    if ctx.scale is None:
        saved, b = ctx.saved_tensors
        saved = saved.detach() if ctx.from_y else saved  # the slope is flat in y: no need to walk back through it
        dx = torch.ops.eg3d.bias_act_slope(dy, saved, b, ctx.from_y, ctx.dim, *ctx.call)
    else:
        dx = dy if ctx.scale == 1 else dy * ctx.scale
    return dx, _bias_share(ctx, 1, dx), None, None, None, None, None


def _keep_for_curvature(ctx, inputs, output):
    dy, saved, b, ctx.from_y, ctx.dim, *ctx.call = inputs
    ctx.save_for_backward(None if ctx.from_y else dy, saved, b)


def _curvature(ctx, ddx):
    dy, saved, b = ctx.saved_tensors
    ddy = dx = None
    if ctx.needs_input_grad[0]:
        ddy = torch.ops.eg3d.bias_act_slope(ddx, saved, b, ctx.from_y, ctx.dim, *ctx.call)
    if not ctx.from_y and any(ctx.needs_input_grad[1:3]):
        dx = torch.ops.eg3d.bias_act_curvature(ddx, dy, saved, b, ctx.dim, *ctx.call)
    return ddy, dx, _bias_share(ctx, 2, dx), None, None, None, None, None, None


def _bias_share(ctx, position, dx):
    """Of a gradient: the bias is added to all numbers of its channel."""
    if dx is None or not ctx.needs_input_grad[position]:
        return None
    others = [axis for axis in range(dx.ndim) if axis != ctx.dim]
    return dx.sum(others) if others else dx


def _no_third_derivative(ctx, *_):
    raise NotImplementedError("bias_act's kernels have two derivatives; impl='ref' has them all")


class _Direct(torch.autograd.Function):
    """The kernel without PyTorch's dispatcher, which costs more than a small layer's numbers; the bias's share comes along."""

    @staticmethod
    def forward(ctx, *inputs):  # a setup_context of its own would triple the time of a small call
        y, _ = _run(*inputs)
        _keep_for_slope(ctx, inputs, y)
        return y

    @staticmethod
    def backward(ctx, dy):
        if ctx.scale is not None or not on_cpu.is_at_hand(dy):
            return _slope(ctx, dy)
        saved, b = ctx.saved_tensors
        if torch.is_grad_enabled():
            dx = _DirectSlope.apply(dy, saved, b, ctx.from_y, ctx.dim, *ctx.call)
            db = _bias_share(ctx, 1, dx)
        else:
            dx, db = _run(saved, b, ctx.dim, *ctx.call, from_y=ctx.from_y, dy=dy, sums=ctx.needs_input_grad[1])
        return dx, db, None, None, None, None, None


class _DirectSlope(torch.autograd.Function):
    """Of a bent line. Its derivative for x is 0, and as in the reference zeros go back all the way: whether a parameter has a
    gradient of 0 or none makes a difference to Adam."""

    @staticmethod
    def forward(ctx, dy, saved, b, from_y, *call):
        ctx.call = from_y, *call
        ctx.save_for_backward(saved, b)
        return _run(saved, b, *call, from_y=from_y, dy=dy)[0]

    @staticmethod
    def backward(ctx, ddx):
        saved, b = ctx.saved_tensors
        ddy = _DirectSlope.apply(ddx, saved, b, *ctx.call)
        zeros = [each.new_zeros(()).expand_as(each) if needed else None
                 for each, needed in zip((saved, b), ctx.needs_input_grad[1:3])]
        return ddy, *zeros, None, None, None, None, None, None


for _name, _derivative, _keep in (
        ("bias_act", _slope, _keep_for_slope), ("bias_act_slope", _curvature, _keep_for_curvature),
        ("bias_act_curvature", _no_third_derivative, None)):
    _library.impl(_name, getattr(_OnCPUByKernel, _name), "CPU")
    _library.impl(_name, getattr(_OnGPU, _name), "CUDA")
    torch.library.register_autograd(f"eg3d::{_name}", _derivative, setup_context=_keep, lib=_library)
torch.library.register_fake("eg3d::bias_act", lambda x, *_: custom_ops.empty_as(x), lib=_library)
torch.library.register_fake("eg3d::bias_act_slope", lambda dy, saved, *_: custom_ops.empty_as(saved), lib=_library)
torch.library.register_fake("eg3d::bias_act_curvature", lambda ddx, dy, x, *_: custom_ops.empty_as(x), lib=_library)
