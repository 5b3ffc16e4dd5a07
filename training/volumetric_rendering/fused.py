"""Tri-plane look-up, decoder and compositing in one kernel: nothing of size [samples, channels] is ever in memory.

What is computed is renderer.py's and ray_marcher.py's; results differ by rounding. Colours that no picture of float32 shows
(a share below 2^-32) are left out. For gradients only depths are kept, and the rest is computed again: about four bytes a
sample. Gradients go to planes and decoder, once: not to rays and points, and not to second derivatives, for which there is the
reference.

Notation: N batch, M points or rays, S and F samples of the first and second pass, T = S + F, P planes, C = 32 channels.
"""

import ctypes
import functools
from pathlib import Path
from typing import Dict, Mapping, NamedTuple, Optional, Tuple

import torch
from torch import Tensor

from torch_utils import custom_ops

HERE = Path(__file__).parent
CHANNELS, HIDDEN, COLORS = 32, 64, 32  # sizes of the decoder that kernels know
MOST_PLANES = 8
FEWEST_COARSE = 4  # samples that a second pass needs of the first: its distribution has S - 3 bins

_plugin = functools.partial(custom_ops.Plugin, dtypes=(torch.float32, torch.float64), library=True)
custom_ops.register("render_rays", cpu=_plugin("render_rays_on_cpu", (HERE / "fused_cpu.cpp",)),
                    cuda=_plugin("render_rays_plugin", (HERE / "fused.cu",)))


# ------------------------------------------------------------------------------------------------ what suits the kernels

class Decoder(NamedTuple):
    """A decoder's layers as plain linear maps, density first: [64, 32], [64], [33, 64], [33]."""

    w1: Tensor
    b1: Tensor
    w2: Tensor
    b2: Tensor


def layers_of(decoder: torch.nn.Module) -> Decoder:
    """The layers of a usual decoder."""
    return Decoder(*[value for layer in (decoder.net[0], decoder.net[2])
                     for value in (layer.weight * layer.weight_gain, layer.bias * layer.bias_gain)])


def _is_usual(decoder: torch.nn.Module) -> bool:
    """Whether it is an OSGDecoder of the usual sizes that nobody has altered: kernels know the weights, not the modules."""
    from training.triplane import OSGDecoder  # late: it is made of this package

    if type(decoder) is not OSGDecoder or len(decoder.net) != 3:
        return False
    first, between, second = decoder.net
    if type(between) is not torch.nn.Softplus or (between.beta, between.threshold) != (1, 20):
        return False
    for layer, shape in ((first, (HIDDEN, CHANNELS)), (second, (1 + COLORS, HIDDEN))):
        # By name: a checkpoint that is executed (--trust) brings this class along.
        if (type(layer).__name__ != "FullyConnectedLayer" or layer.activation != "linear" or layer.weight.shape != shape
                or layer.bias is None):
            return False
    return not any(module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module)
                   for module in decoder.modules())


def choose(impl: str, planes: Tensor, plane_axes: Tensor, decoder: torch.nn.Module, *places: Tensor,
           limits: Tuple[Tensor, ...] = ()) -> str:
    """Who computes: 'cuda', 'cpu' or 'ref'. `places` [N, M, 3] are points, or rays' origins and directions.

    Shapes that do not fit are left to the reference, which spreads them as PyTorch does or refuses them. Raises ValueError or
    PluginError where `impl`, other than 'auto' and 'ref', cannot be had.
    """
    chosen = custom_ops.choose("render_rays", impl, planes.device.type, planes.dtype)
    if chosen == "ref":
        return chosen
    fixed = (*places, *limits)
    reasons = {
        f"the decoder is no OSGDecoder of {CHANNELS}, {HIDDEN} and 1 + {COLORS} channels, or was altered":
            not _is_usual(decoder),
        f"planes are {list(planes.shape)}, not [N, {len(plane_axes)}, {CHANNELS}, H, W]":
            planes.ndim != 5 or planes.shape[1:3] != (len(plane_axes), CHANNELS) or 0 in planes.shape[3:],
        f"there are {len(plane_axes)} planes": not 1 <= len(plane_axes) <= MOST_PLANES,
        f"points or rays are {[list(place.shape) for place in places]}, not [{len(planes)}, M, 3]":
            any(place.shape != (len(planes), *places[0].shape[1:2], 3) for place in places),
        "points or rays need a gradient": torch.is_grad_enabled() and any(x.requires_grad for x in fixed),
        "forward-mode differentiation is at work": custom_ops.has_tangent(planes, *fixed, *decoder.parameters()),
        "number types differ": any(x.dtype != planes.dtype for x in (*fixed, *decoder.parameters())),
    }
    wrong = [reason for reason, is_so in reasons.items() if is_so]
    if wrong and impl != "auto":
        raise ValueError(f"rendering option impl={impl!r}: {wrong[0]}; impl='ref' renders this")
    return "ref" if wrong else chosen


def projection(plane_axes: Tensor, box_warp: float, like: Tensor) -> Tensor:
    """What takes a point to coordinates in each plane, in which the planes' edges are -1 and 1: [P, 2, 3]."""
    inverses = torch.linalg.inv(plane_axes.cpu().to(like.dtype)) * (2 / box_warp)
    return inverses[:, :, :2].transpose(1, 2).contiguous().to(like.device)


def channels_together(planes: Tensor) -> Tensor:
    """Planes [N, P, C, H, W] in an order of memory that kernels read in place: the channels of a pixel lie side by side, from
    a multiple of 16 bytes on."""
    steps = [step for axis, step in enumerate(planes.stride()) if axis != 2]
    if planes.stride(2) == 1 and all(step % 4 == 0 for step in steps) and planes.data_ptr() % 16 == 0:
        return planes
    return planes.permute(0, 1, 3, 4, 2).clone(memory_format=torch.contiguous_format).permute(0, 1, 4, 2, 3)


# ------------------------------------------------------------------------------------------------ operators
# Planes are [N, P, C, H, W] in any order of memory; if their channels lie side by side, they are read in place.

_library = torch.library.Library("eg3d", "FRAGMENT")
_FIELD = "Tensor planes, Tensor table, Tensor w1, Tensor b1, Tensor w2, Tensor b2"
_RAYS = "Tensor origins, Tensor directions"
_GRADIENTS = "(Tensor, Tensor, Tensor, Tensor, Tensor)"
for _schema in (
        f"decode_points({_FIELD}, Tensor points, bool colors) -> (Tensor, Tensor)",
        f"decode_points_backward({_FIELD}, Tensor points, bool colors, Tensor d_rgb, Tensor d_sigma) -> {_GRADIENTS}",
        f"render_rays({_FIELD}, {_RAYS}, Tensor depths, Tensor? noise, Tensor? uniform, Tensor? fine_noise, bool white_back)"
        " -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
        f"render_rays_backward({_FIELD}, {_RAYS}, Tensor depths, Tensor noise, bool white_back, Tensor d_rgb, "
        f"Tensor d_distance, Tensor d_weight) -> {_GRADIENTS}"):
    _library.define(_schema)


def decode_points(planes: Tensor, table: Tensor, decoder: Decoder, points: Tensor, colors: bool) -> Tuple[Tensor, Tensor]:
    """Colours [N, M, 32] (none, [N, 0, 32], unless asked for) and densities [N, M, 1] at points [N, M, 3]."""
    return torch.ops.eg3d.decode_points(planes, table, *decoder, points, colors)


class Rendered(NamedTuple):
    """What rays show."""

    rgb: Tensor  # [N, M, 32] in [-1, 1]
    depth: Tensor  # [N, M, 1], inf where nothing was met
    weight: Tensor  # [N, M, 1], sum of weights
    nearest: Tensor  # [N, M, 1], depth of the first sample
    furthest: Tensor  # [N, M, 1]


def render_rays(
    planes: Tensor,  # [N, P, C, H, W]
    table: Tensor,  # [P, 2, 3], from `projection`
    decoder: Decoder,
    origins: Tensor,  # [N, M, 3]
    directions: Tensor,  # [N, M, 3]
    depths: Tensor,  # [N, M, S, 1] of the first pass
    draws,  # renderer.Draws of the rest
    white_back: bool,
) -> Rendered:
    """Both passes and compositing."""
    flat = [None if draw is None else draw.flatten(2) for draw in (draws.coarse_noise, draws.fine, draws.fine_noise)]
    rgb, distance, weight, all_depths, _ = torch.ops.eg3d.render_rays(
        planes, table, *decoder, origins, directions, depths.flatten(2), *flat, white_back)
    return Rendered(rgb, distance, weight, all_depths[..., :1], all_depths[..., -1:])


def _new_samples(points: Tensor, colors: bool) -> Tuple[Tensor, Tensor]:
    items, many = points.shape[:2]
    return points.new_empty(items, many if colors else 0, COLORS), points.new_empty(items, many, 1)


def _new_rays(depths: Tensor, noise: Optional[Tensor], uniform: Optional[Tensor]) -> Tuple[Tensor, ...]:
    """Colours, depth and weight of rays, and their samples' sorted depths and noise (T = 0 where there is none)."""
    samples = depths.shape[2] + (0 if uniform is None else uniform.shape[2])
    sizes = (COLORS, 1, 1, samples, 0 if noise is None else samples)
    return tuple(depths.new_empty(*depths.shape[:2], size) for size in sizes)


def _zeros(planes: Tensor, decoder: Decoder) -> Dict[str, Tensor]:
    """Gradients to add to, by the names that a call has: of planes, which are [N, H, W, P, C] in memory, and of layers."""
    items, count, channels, height, width = planes.shape
    d_planes = planes.new_zeros(items, height, width, count, channels).permute(0, 3, 4, 1, 2)
    return dict(d_planes=d_planes, **{f"d_{name}": torch.zeros_like(layer, memory_format=torch.contiguous_format)
                                      for name, layer in decoder._asdict().items()})


def _fake_gradients(planes, table, w1, b1, w2, b2, *_):
    return tuple(_zeros(planes, Decoder(w1, b1, w2, b2)).values())


# ------------------------------------------------------------------------------------------------ kernels

class _Planes(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("table", ctypes.c_void_p), ("count", ctypes.c_int64), ("height", ctypes.c_int64),
                ("width", ctypes.c_int64), ("stride", ctypes.c_int64 * 4), ("share", ctypes.c_double)]


class _Call(ctypes.Structure):
    """fused.h tells what each is."""

    _fields_ = [
        ("is_double", ctypes.c_int64), ("threads", ctypes.c_int64), ("planes", _Planes),
        *[(name, ctypes.c_void_p) for name in ("w1", "b1", "w2", "b2")],
        *[(name, ctypes.c_int64) for name in ("items", "many", "coarse", "fine", "white_back")],
        *[(name, ctypes.c_void_p) for name in (
            "points", "origins", "directions", "depths", "noise", "uniform", "fine_noise", "rgb", "sigma", "distance",
            "weight", "all_depths", "all_noise", "d_rgb", "d_sigma", "d_distance", "d_weight", "d_planes", "d_w1", "d_b1",
            "d_w2", "d_b2")]]


def _run(name: str, planes: Tensor, table: Tensor, decoder: Decoder, shape: Tuple[int, int], coarse: int = 0, fine: int = 0,
         white_back: bool = False, gradients: Mapping[str, Tensor] = {}, **arrays: Optional[Tensor]) -> None:
    """Calls a kernel for `shape` = (N, M) points or rays; `arrays` are [N, M, size of each], `gradients` from `_zeros`."""
    planes = channels_together(planes)
    items, many = shape
    if items * many == 0:
        return
    table = table.contiguous()
    kept = {key: array.contiguous() for key, array in dict(arrays, **decoder._asdict()).items() if array is not None}
    sizes = dict(points=3, origins=3, directions=3, depths=coarse, noise=coarse, uniform=fine, fine_noise=fine,
                 all_depths=coarse + fine, all_noise=coarse + fine, rgb=COLORS, d_rgb=COLORS)
    whole = dict(w1=(HIDDEN, CHANNELS), b1=(HIDDEN,), w2=(1 + COLORS, HIDDEN), b2=(1 + COLORS,))
    _require("planes", planes, (items, planes.shape[1], CHANNELS, *planes.shape[3:]), planes)
    _require("table", table, (planes.shape[1], 2, 3), planes)
    for key, array in kept.items():
        _require(key, array, whole.get(key, (items, many, sizes.get(key, 1))), planes)
    item, plane, _, row, column = planes.stride()
    call = _Call(
        is_double=planes.dtype == torch.float64, threads=min(torch.get_num_threads(), items * many), items=items, many=many,
        coarse=coarse, fine=fine, white_back=white_back,
        planes=_Planes(planes.data_ptr(), table.data_ptr(), planes.shape[1], *planes.shape[3:],
                       (ctypes.c_int64 * 4)(item, plane, row, column), 1 / planes.shape[1]),
        **{key: array.data_ptr() for key, array in (*kept.items(), *gradients.items())})
    (_start_on_gpu if planes.is_cuda else _start_on_cpu)(name, call, planes)


def _require(name: str, array: Tensor, shape: Tuple[int, ...], planes: Tensor) -> None:
    """Kernels read as far as a call says, and exported programs call them without `choose`."""
    if array.shape != shape or array.dtype != planes.dtype or array.device != planes.device:
        raise ValueError(f"fused rendering: {name} is {list(array.shape)} of {array.dtype} on {array.device}, expected "
                         f"{list(shape)} of {planes.dtype} on {planes.device}")


def _start_on_cpu(name: str, call: _Call, planes: Tensor) -> None:
    getattr(custom_ops.plugin_of("render_rays", "cpu"), name)(ctypes.byref(call), custom_ops.best_variant())


def _start_on_gpu(name: str, call: _Call, planes: Tensor) -> None:
    """Raises RuntimeError where the card cannot do it."""
    kernel = getattr(custom_ops.plugin_of("render_rays", "cuda"), name)
    kernel.restype = ctypes.c_char_p
    with torch.cuda.device_of(planes):
        failure = kernel(ctypes.byref(call), ctypes.c_void_p(custom_ops.current_stream(planes.device)))
    if failure:
        raise RuntimeError(f"rendering on {planes.device}: {failure.decode()}")


def _decode(planes, table, w1, b1, w2, b2, points, colors):
    rgb, sigma = _new_samples(points, colors)
    _run("decode", planes, table, Decoder(w1, b1, w2, b2), points.shape[:2], points=points, sigma=sigma,
         rgb=rgb if colors else None)
    return rgb, sigma


def _decode_backward(planes, table, w1, b1, w2, b2, points, colors, d_rgb, d_sigma):
    decoder = Decoder(w1, b1, w2, b2)
    gradients = _zeros(planes, decoder)
    d_rgb = d_rgb if colors else None
    _run("decode_backward", planes, table, decoder, points.shape[:2], points=points, rgb=d_rgb, d_rgb=d_rgb, d_sigma=d_sigma,
         gradients=gradients)
    return tuple(gradients.values())


def _render(planes, table, w1, b1, w2, b2, origins, directions, depths, noise, uniform, fine_noise, white_back):
    results = _new_rays(depths, noise, uniform)
    rgb, distance, weight, all_depths, all_noise = results
    coarse, fine = depths.shape[2], all_depths.shape[2] - depths.shape[2]
    if coarse < (FEWEST_COARSE if fine else 1):
        raise ValueError(f"fused rendering: {coarse} samples in the first pass, {fine} in the second")
    if fine and (noise is None) != (fine_noise is None):
        raise ValueError("fused rendering: noise for one pass and none for the other")
    _run(
        "render", planes, table, Decoder(w1, b1, w2, b2), origins.shape[:2], origins=origins, directions=directions,
        depths=depths, noise=noise, uniform=uniform, fine_noise=fine_noise, rgb=rgb, distance=distance, weight=weight,
        all_depths=all_depths, all_noise=None if noise is None else all_noise, coarse=coarse, fine=fine,
        white_back=white_back)
    return results


def _render_backward(planes, table, w1, b1, w2, b2, origins, directions, depths, noise, white_back, d_rgb, d_distance,
                     d_weight):
    decoder = Decoder(w1, b1, w2, b2)
    gradients = _zeros(planes, decoder)
    _run(
        "render_backward", planes, table, decoder, origins.shape[:2], origins=origins, directions=directions,
        all_depths=depths, all_noise=noise if noise.shape[2] else None, d_rgb=d_rgb, d_distance=d_distance, d_weight=d_weight,
        coarse=depths.shape[2], white_back=white_back, gradients=gradients)
    return tuple(gradients.values())


# ------------------------------------------------------------------------------------------------ derivatives

def _keep_points(ctx, inputs, output):
    *tensors, ctx.colors = inputs
    ctx.save_for_backward(*tensors)


def _points_derivative(ctx, d_rgb, d_sigma):
    gradients = torch.ops.eg3d.decode_points_backward(*ctx.saved_tensors, ctx.colors, d_rgb, d_sigma)
    return gradients[0], None, *gradients[1:], None, None


def _keep_rays(ctx, inputs, output):
    *_, ctx.white_back = inputs
    ctx.save_for_backward(*inputs[:8], *output[3:])
    ctx.mark_non_differentiable(*output[3:])


def _rays_derivative(ctx, d_rgb, d_distance, d_weight, *_):
    gradients = torch.ops.eg3d.render_rays_backward(*ctx.saved_tensors, ctx.white_back, d_rgb, d_distance, d_weight)
    return gradients[0], None, *gradients[1:], *[None] * 7


def _no_second_derivative(ctx, *_):
    raise NotImplementedError("fused rendering has one derivative; the rendering option impl='ref' has them all")


for _name, _kernel, _fake, _derivative, _keep in (
        ("decode_points", _decode, lambda *call: _new_samples(*call[6:]), _points_derivative, _keep_points),
        ("decode_points_backward", _decode_backward, _fake_gradients, _no_second_derivative, None),
        ("render_rays", _render, lambda *call: _new_rays(*call[8:11]), _rays_derivative, _keep_rays),
        ("render_rays_backward", _render_backward, _fake_gradients, _no_second_derivative, None)):
    _library.impl(_name, _kernel, "CPU")
    _library.impl(_name, _kernel, "CUDA")
    torch.library.register_fake(f"eg3d::{_name}", _fake, lib=_library)
    torch.library.register_autograd(f"eg3d::{_name}", _derivative, setup_context=_keep, lib=_library)
