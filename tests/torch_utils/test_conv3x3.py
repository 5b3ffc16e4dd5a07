"""Winograd's convolutions against PyTorch's in float64: values, first and second derivatives, odd sizes, instruction sets."""

import itertools
import shutil

import pytest
import torch
import torch.nn.functional as F

from torch_utils import custom_ops
from torch_utils.ops import conv2d_gradfix, conv3x3

pytestmark = pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")

# Errors of float32 relative to the results' spread, which is 1: measured 3e-6 at 16 channels and 1e-5 at 256, the largest of
# some ten thousand numbers; PyTorch's own are about half.
TOLERANCE = 3e-5


@pytest.fixture(params=range(custom_ops.best_variant() + 1), ids=("baseline", "avx2", "avx512").__getitem__)
def variant(request, monkeypatch):
    monkeypatch.setattr(custom_ops, "best_variant", lambda: request.param)


def case(batch, channels_in, channels_out, height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, channels_in, height, width, generator=generator).contiguous(memory_format=torch.channels_last)
    w = torch.randn(channels_out, channels_in, 3, 3, generator=generator) / (9 * channels_in) ** 0.5
    return x, w


def up_case(batch, channels_in, channels_out, height, width):
    x, w = case(batch, channels_in, channels_out, height, width)
    return x, 1.5 * w.transpose(0, 1).contiguous()  # a result sums up 2.25 products a channel, not 9; some sum up 4


def up(x, w):
    return F.conv_transpose2d(x, w, stride=2)


def close(found, expected):
    scale = max(1.0, expected.abs().max().item() / 4)  # 4: about the largest of these normal numbers
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=TOLERANCE * scale)


@pytest.mark.parametrize("sizes", [
    (1, 16, 16, 8, 8), (2, 32, 48, 9, 11), (3, 48, 32, 8, 17), (1, 128, 64, 21, 10), (5, 16, 96, 13, 8), (1, 256, 256, 16, 16),
    (2, 64, 64, 33, 34)], ids=str)
def test_values(sizes, variant):
    x, w = case(*sizes)
    assert conv3x3.suits(x, w)
    found = conv3x3.conv3x3(x, w)
    assert found.is_contiguous(memory_format=torch.channels_last)
    close(found, F.conv2d(x.double(), w.double(), padding=1))


@pytest.mark.parametrize("sizes", [
    (1, 16, 16, 8, 8), (2, 32, 48, 9, 11), (3, 48, 32, 3, 17), (1, 128, 64, 21, 10), (5, 16, 96, 13, 4), (1, 256, 128, 64, 64)],
    ids=str)
def test_up_values(sizes, variant):
    x, w = up_case(*sizes)
    found = conv3x3.up_conv3x3(x, w)
    assert found.is_contiguous(memory_format=torch.channels_last)
    close(found, up(x.double(), w.double()))


def test_small_pictures():
    """Below the size from which it pays, and no pictures at all."""
    for sizes in ((2, 16, 16, 1, 1), (1, 16, 32, 3, 2), (1, 16, 16, 4, 5)):
        x, w = case(*sizes)
        close(conv3x3.conv3x3(x, w), F.conv2d(x.double(), w.double(), padding=1))
        x, w = up_case(*sizes)
        close(conv3x3.up_conv3x3(x, w), up(x.double(), w.double()))
    assert conv3x3.conv3x3(*case(0, 16, 32, 9, 9)).shape == (0, 32, 9, 9)
    assert conv3x3.up_conv3x3(*up_case(0, 16, 32, 9, 9)).shape == (0, 32, 19, 19)


def test_threads():
    x, w = case(2, 32, 32, 13, 13)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 5, 40):
            torch.set_num_threads(threads)
            close(conv3x3.conv3x3(x, w), F.conv2d(x.double(), w.double(), padding=1))
            close(conv3x3.up_conv3x3(x, w.transpose(0, 1)), up(x.double(), w.transpose(0, 1).double()))
    finally:
        torch.set_num_threads(before)


def derivatives(convolve, x, w):
    """First derivatives of a curved function of the results, and those of the squared norm of the first, as R1 takes them."""
    x, w = x.detach().requires_grad_(), w.detach().requires_grad_()
    first = torch.autograd.grad(convolve(x, w).square().sum() / 2, (x, w), create_graph=True)
    second = torch.autograd.grad(sum(some.square().sum() for some in first), (x, w))
    return [*first, *second]


@pytest.mark.parametrize("ours, plain, make", [
    (conv3x3.conv3x3, lambda x, w: F.conv2d(x, w, padding=1), case), (conv3x3.up_conv3x3, up, up_case)], ids=("same", "up"))
def test_derivatives(ours, plain, make):
    x, w = make(2, 32, 16, 9, 10)
    for found, one in zip(derivatives(ours, x, w), derivatives(plain, x.double(), w.double())):
        close(found, one)


def test_only_one_gradient():
    """As in the R1 penalty, which wants none of kernels, and with frozen pictures."""
    x, w = case(1, 16, 16, 8, 8)
    for wanted, (ours, plain) in itertools.product(
            (x, w), ((conv3x3.conv3x3, lambda x, w: F.conv2d(x, w, padding=1)), (conv3x3.up_conv3x3, up))):
        wanted.requires_grad_()
        close(torch.autograd.grad(ours(x, w).sum(), wanted)[0], torch.autograd.grad(
            plain(x.double(), w.double()).sum(), wanted)[0].double())
        wanted.requires_grad_(False)


@pytest.mark.parametrize("change", [
    dict(stride=2), dict(padding=0), dict(padding=(1, 0)), dict(dilation=2), dict(groups=2), dict(bias=True), dict(kernel=1),
    dict(channels_in=24), dict(channels_out=24), dict(size=7), dict(order=torch.contiguous_format), dict(dtype=torch.float64)],
    ids=str)
def test_conv2d_leaves_the_rest_to_pytorch(change, monkeypatch):
    calls = []
    monkeypatch.setattr(conv3x3, "conv3x3", lambda x, w: calls.append(x) or torch.ops.eg3d.conv3x3(x, w))

    def run(channels_in=32, channels_out=32, size=9, kernel=3, order=torch.channels_last, dtype=torch.float32, bias=False,
            groups=1, **more):
        x, _ = case(1, channels_in, channels_out, size, size)
        x = x.to(dtype).contiguous(memory_format=order)
        w = torch.randn(channels_out, channels_in // groups, kernel, kernel, dtype=dtype)
        b = torch.ones(channels_out, dtype=dtype) if bias else None
        more = dict(dict(padding=1), groups=groups, **more)
        torch.testing.assert_close(
            conv2d_gradfix.conv2d(x, w, b, **more), F.conv2d(x, w, b, **more), rtol=1e-4, atol=1e-3)

    run()
    assert len(calls) == 1
    run(**change)
    assert len(calls) == 1


@pytest.mark.parametrize("change", [
    dict(stride=1), dict(padding=1), dict(output_padding=1), dict(dilation=2), dict(groups=2), dict(bias=True),
    dict(channels=24), dict(size=conv3x3.SMALLEST_UP - 1), dict(order=torch.contiguous_format), dict(dtype=torch.float64)],
    ids=str)
def test_conv_transpose2d_leaves_the_rest_to_pytorch(change, monkeypatch):
    calls = []
    monkeypatch.setattr(conv3x3, "up_conv3x3", lambda x, w: calls.append(x) or torch.ops.eg3d.up_conv3x3(x, w))

    def run(channels=32, size=conv3x3.SMALLEST_UP, order=torch.channels_last, dtype=torch.float32, bias=False, groups=1,
            **more):
        x, w = up_case(1, channels, channels // groups, size, size)
        x, w = x.to(dtype).contiguous(memory_format=order), w.to(dtype)
        b = torch.ones(w.shape[1] * groups, dtype=dtype) if bias else None
        more = dict(dict(stride=2), groups=groups, **more)
        torch.testing.assert_close(
            conv2d_gradfix.conv_transpose2d(x, w, b, **more), F.conv_transpose2d(x, w, b, **more), rtol=1e-4, atol=1e-3)

    run()
    assert len(calls) == 1
    run(**change)
    assert len(calls) == 1


@pytest.mark.parametrize("name, x, w", [
    ("conv2d", (1, 32, 9, 9), (32, 64, 3, 3)), ("conv2d", (1, 64, 9, 9), (32, 32, 3, 3)),
    ("conv2d", (1, 24, 9, 9), (32, 32, 3, 3)), ("conv_transpose2d", (1, 32, 64, 64), (64, 32, 3, 3)),
    ("conv3x3", (1, 32, 9, 9), (32, 64, 3, 3)), ("conv3x3", (1, 24, 9, 9), (24, 24, 3, 3)),
    ("up_conv3x3", (1, 32, 9, 9), (64, 32, 3, 3)), ("conv3x3", (1, 16, 9, 9), (16, 16, 1, 1))], ids=str)
def test_channels_that_do_not_fit(name, x, w):
    """PyTorch says so, or the operator itself; nobody reads beyond an array's end."""
    x = torch.ones(x).contiguous(memory_format=torch.channels_last)
    more = dict(conv2d=dict(padding=1), conv_transpose2d=dict(stride=2)).get(name, {})
    function = getattr(torch.ops.eg3d if "3x3" in name else conv2d_gradfix, name)
    with pytest.raises((RuntimeError, ValueError), match="channels"):
        function(x, torch.ones(w), **more)


@pytest.mark.parametrize("name, size, more", [("conv2d", 9, dict(padding=1)), ("conv_transpose2d", 64, dict(stride=2))])
@pytest.mark.parametrize("which", [0, 1], ids=["pictures", "kernels"])
def test_forward_mode_takes_pytorchs_way(name, size, more, which):
    """Nobody drops a tangent silently."""
    pair = case(2, 16, 16, size, size)  # square: kernels of both kinds
    function = getattr(conv2d_gradfix, name)
    along = torch.randn_like(pair[which])
    expected = function(*[along if i == which else one for i, one in enumerate(pair)], **more)  # linear in both
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(pair[which], along)
        out = function(*[dual if i == which else one for i, one in enumerate(pair)], **more)
        found = torch.autograd.forward_ad.unpack_dual(out).tangent
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE * 10)
    _, found = torch.func.jvp(lambda x: function(*[x if i == which else one for i, one in enumerate(pair)], **more),
                              (pair[which],), (along,))
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE * 10)


def test_plugins_turned_off(monkeypatch):
    x, w = case(1, 16, 16, 8, 8)
    monkeypatch.setenv("EG3D_PLUGINS", "off")
    assert not conv3x3.suits(x, w)


def test_compilers_see_shapes():
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(torch.ops.eg3d.conv3x3.default, case(2, 16, 32, 9, 8), test_utils=tests)
    torch.library.opcheck(torch.ops.eg3d.up_conv3x3.default, up_case(2, 16, 32, 9, 8), test_utils=tests)
