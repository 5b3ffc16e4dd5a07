"""bias_act and upfirdn2d as operators that PyTorch's compilers know: schemas, shapes, derivatives, tracing.

Where `operators` is asked for, the formulas stand for the kernels (test_kernels.py and test_cpu_kernels.py compare those with
them): what is shown is everything around.
"""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.library import opcheck

from eg3d import cameras, generator
from torch_utils import custom_ops
from torch_utils.ops import bias_act, upfirdn2d
from training import dual_discriminator

ACTIVATIONS = pytest.mark.parametrize("act", bias_act.activation_funcs)
LIMITS = pytest.mark.parametrize("clamp", [None, 0.8])
FILTERS = {"4x4": upfirdn2d.setup_filter([1, 2, 5, 3]), "9": upfirdn2d.setup_filter([1, 4, 6, 4, 1, 2, 2, 1, 1]), "none": None}
CALLS = [([1, 1], [1, 1], [4, 3, 2, 5], False, 1.0), ([2, 2], [1, 1], [8, 9, 7, 8], False, 4.0),
         ([1, 1], [2, 2], [8, 7, 9, 8], True, 1.0), ([3, 1], [2, 4], [9, -1, 12, -2], True, -0.5)]


@pytest.fixture
def operators(monkeypatch):
    """'auto' takes the operators, as it does on a GPU."""
    def choose(operator, impl, device_type, dtype):
        return "ref" if impl == "ref" else "cuda"

    monkeypatch.setattr(custom_ops, "choose", torch.compiler.assume_constant_result(choose))


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype).requires_grad_()


# ------------------------------------------------------------------------------------------------ contracts

@ACTIVATIONS
@LIMITS
def test_bias_act_keeps_the_contract(act, clamp):
    """Schema, autograd, shapes without data, tracing with symbolic shapes: all that PyTorch checks of an operator."""
    x, b, call = randn(2, 3, 4, dtype=torch.float32), randn(3, seed=1, dtype=torch.float32), (1, act, 0.2, 1.5, clamp)
    opcheck(torch.ops.eg3d.bias_act, (x, b, *call))
    opcheck(torch.ops.eg3d.bias_act, (randn(2, 3, 4, 5).to(memory_format=torch.channels_last), None, *call))
    dy, ddx = randn(2, 3, 4, seed=2, dtype=torch.float32), randn(2, 3, 4, seed=3, dtype=torch.float32)
    opcheck(torch.ops.eg3d.bias_act_slope, (dy, x, b, False, *call))
    if bias_act.activation_funcs[act].curvature is None:
        opcheck(torch.ops.eg3d.bias_act_slope, (dy, x.detach(), None, True, *call))
    picture = randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    opcheck(torch.ops.eg3d.bias_act_slope, (randn(2, 3, 4, 5, seed=1), picture, None, False, *call))
    opcheck(torch.ops.eg3d.bias_act_curvature, (ddx, dy, x, b, *call), test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("taps", FILTERS)
def test_upfirdn2d_keeps_the_contract(taps, call):
    for order in (torch.contiguous_format, torch.channels_last):
        opcheck(torch.ops.eg3d.upfirdn2d, (randn(2, 3, 6, 5).to(memory_format=order), FILTERS[taps], *call))


# ------------------------------------------------------------------------------------------------ derivatives

@ACTIVATIONS
@LIMITS
@pytest.mark.parametrize("alpha, gain", [(0.2, 1.3), (-0.4, 1.3), (0.2, -1.3)])
def test_bias_act_derivatives(act, clamp, alpha, gain):
    """Against finite differences; with a slope or a gain below zero the sign of y does not tell that of x."""
    def operator(x, b):
        return torch.ops.eg3d.bias_act(x, b, 1, act, alpha, gain, clamp)

    inputs = randn(2, 3, 4), randn(3, seed=1)
    assert torch.equal(operator(*inputs), bias_act._formula(*inputs, 1, act, alpha, gain, clamp))
    assert gradcheck(operator, inputs) and gradgradcheck(operator, inputs)
    assert gradgradcheck(lambda b: operator(inputs[0].detach(), b), inputs[1:])


@ACTIVATIONS
def test_bias_act_derivatives_of_a_vector(act):
    def operator(x, b):
        return torch.ops.eg3d.bias_act(x, b, 0, act, 0.2, 1.0, None)

    inputs = randn(5), randn(5, seed=1)
    assert gradcheck(operator, inputs) and gradgradcheck(operator, inputs)


@ACTIVATIONS
def test_bias_act_has_two_derivatives(act, operators):
    x = randn(5)
    slope, = torch.autograd.grad(bias_act.bias_act(x, dim=0, act=act).sum(), x, create_graph=True)
    if bias_act.activation_funcs[act].curvature is None:
        assert not slope.requires_grad  # a straight line: nothing to walk back through
        return
    curvature, = torch.autograd.grad(slope.sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="two derivatives; impl='ref' has them all"):
        torch.autograd.grad(curvature.sum(), x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("clamp", [256 * 0.5 ** 0.5, 0.7])
def test_a_limit_that_is_rounded_still_stops_gradients(dtype, clamp, operators):
    """Of y alone, which is stored on the limit's nearest number in half precision: inside or outside of it."""
    x = (torch.tensor([-3.0, -0.5, 0.5, 3.0]) * clamp).to(dtype).requires_grad_()
    bias_act.bias_act(x, dim=0, act="lrelu", alpha=1.0, gain=1.0, clamp=clamp).sum().backward()
    assert x.grad.tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize("act, kept", [("linear", 0), ("lrelu", 1), ("relu", 1), ("swish", 2)])
def test_bias_act_keeps_one_array_for_training(act, kept, operators):
    """y alone, or x and the bias; the layer behind keeps y anyway. The formula keeps more."""
    x, b, numbers = randn(2, 3, 4), randn(3, seed=1), []
    def note(tensor):
        numbers.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        bias_act.bias_act(x, b, act=act)
    assert len(numbers) == kept and sum(numbers) <= x.numel() + b.numel()


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("taps", FILTERS)
def test_upfirdn2d_derivatives(taps, call):
    def operator(x):
        return torch.ops.eg3d.upfirdn2d(x, FILTERS[taps], *call)

    x = randn(1, 2, 6, 5)
    torch.testing.assert_close(operator(x), upfirdn2d._formula(x, FILTERS[taps], *call))
    assert gradcheck(operator, x) and gradgradcheck(operator, x)


def test_a_learned_filter_takes_the_reference(monkeypatch, operators):
    f = torch.rand(3, 3, requires_grad=True)
    upfirdn2d.upfirdn2d(randn(1, 1, 4, 4, dtype=torch.float32), f).sum().backward()
    assert f.grad.shape == (3, 3)
    with pytest.raises(ValueError, match="impl='cuda' has no derivative for the filter"):
        upfirdn2d.upfirdn2d(randn(1, 1, 4, 4, dtype=torch.float32), f, impl="cuda")


def test_r1_of_a_discriminator(operators, monkeypatch):
    """A penalty on gradients, differentiated: the operators' second derivatives, in place, against the reference's."""
    D = dual_discriminator.DualDiscriminator(
        c_dim=25, img_resolution=16, img_channels=3, channel_base=256, channel_max=16, num_fp16_res=0,
        epilogue_kwargs=dict(mbstd_group_size=2))
    images = dict(image=randn(2, 3, 16, 16, dtype=torch.float32), image_raw=randn(2, 3, 8, 8, seed=1, dtype=torch.float32))
    c = randn(2, 25, seed=2, dtype=torch.float32).detach()

    def gradients():
        D.zero_grad()
        parts = torch.autograd.grad(D(images, c).sum(), list(images.values()), create_graph=True)
        sum(part.square().sum() for part in parts).backward()
        return torch.cat([(torch.zeros_like(each) if each.grad is None else each.grad).flatten() for each in D.parameters()])

    ours = gradients()
    monkeypatch.setattr(custom_ops, "choose", lambda *_: "ref")
    theirs = gradients()
    assert theirs.norm() > 0
    assert (ours - theirs).norm() <= 1e-5 * theirs.norm()  # float, in another order


# ------------------------------------------------------------------------------------------------ compilers

class Frame(torch.nn.Module):
    """A generator as a function of latents and cameras."""

    def __init__(self, G):
        super().__init__()
        self.G = G

    def forward(self, z, c):
        return self.G(z, c, noise_mode="const")["image"]


@pytest.fixture(params=["ref", "operators"])
def frame(request, tiny_path):
    """A picture of the network that ships, its inputs, and whether it is made with the operators."""
    if request.param == "operators":
        request.getfixturevalue("operators")
    else:
        request.getfixturevalue("monkeypatch").setenv("EG3D_PLUGINS", "off")
    G = generator.load(tiny_path, device="cpu")
    G.rendering_kwargs.update(depth_resolution=4, depth_resolution_importance=4)
    z = torch.randn(1, G.z_dim, generator=torch.Generator().manual_seed(0))
    return Frame(G).eval().requires_grad_(False), (z, cameras.view(G.rendering_kwargs)), request.param == "operators"


def test_generators_compile_without_graph_breaks(frame):
    module, inputs, _ = frame
    torch._dynamo.reset()
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    torch.manual_seed(0)
    expected = module(*inputs)
    torch.manual_seed(0)
    torch.testing.assert_close(compiled(*inputs), expected, rtol=0, atol=1e-4 * expected.abs().max().item())


@pytest.mark.parametrize("strict", [False, True])
def test_generators_can_be_exported(frame, strict):
    """The graph calls the operators, and gives the same picture."""
    module, inputs, operators = frame
    program = torch.export.export(module, inputs, strict=strict)
    called = {str(node.target) for node in program.graph.nodes if "eg3d" in str(node.target)}
    assert called == ({"eg3d.bias_act.default", "eg3d.upfirdn2d.default", "eg3d.render_rays.default"} if operators else set())
    torch.manual_seed(0)
    expected = module(*inputs)
    torch.manual_seed(0)
    torch.testing.assert_close(program.module()(*inputs), expected, rtol=0, atol=1e-4 * expected.abs().max().item())
