"""Helpers around tensors and modules. Everything here is exact: copies, shapes, messages."""

import os
import warnings

import numpy as np
import pytest
import torch

from torch_utils import misc

# ------------------------------------------------------------------------------------------------ tensors

def test_constant():
    """Values, shape and dtype as asked; made once for each set of arguments."""
    once = misc.constant([[1, 2], [3, 4]])
    assert torch.equal(once, torch.tensor([[1.0, 2.0], [3.0, 4.0]])) and once.dtype == torch.float32
    assert misc.constant([[1, 2], [3, 4]]) is once
    assert misc.constant(np.array([[1, 2], [3, 4]])) is once
    assert misc.constant([[1.0, 2.0], [3.0, 4.0]], dtype=torch.int64).dtype == torch.int64
    assert torch.equal(misc.constant(np.eye(3)[:, ::-1]), torch.eye(3).flip(1))
    assert misc.constant(2, shape=[3, 1]).tolist() == [[2], [2], [2]]
    assert misc.constant([1, 2], shape=(3, 2)).tolist() == [[1, 2]] * 3
    assert misc.constant(0).shape == () and misc.constant([]).shape == (0,)
    wide = misc.constant(np.zeros([1, 2, 3, 3]), memory_format=torch.channels_last)
    assert wide.is_contiguous(memory_format=torch.channels_last)


def test_constants_can_be_learned_with_wherever_they_were_made_first():
    """A constant first asked for in inference mode takes part in gradients later."""
    with torch.inference_mode():
        misc.constant([5.0, 6.0])
    x = torch.ones(2, requires_grad=True)
    (x * misc.constant([5.0, 6.0])).sum().backward()
    assert x.grad.tolist() == [5, 6]


def test_nan_to_num():
    """As torch.nan_to_num, into `out` too; other values for NaN than 0 are refused."""
    x = torch.tensor([1.0, torch.nan, torch.inf, -torch.inf])
    assert misc.nan_to_num(x, posinf=5, neginf=-6).tolist() == [1, 0, 5, -6]
    largest = torch.finfo(torch.float32).max
    assert misc.nan_to_num(x).tolist() == [1, 0, largest, -largest]
    misc.nan_to_num(x, nan=0, posinf=1e5, neginf=-1e5, out=x)
    assert x.tolist() == [1, 0, 1e5, -1e5]
    with pytest.raises(ValueError, match="nan=1 is not supported"):
        misc.nan_to_num(x, nan=1)


def test_suppress_tracer_warnings():
    """Tracer warnings are silenced inside the block, other warnings are not, and afterwards none is."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with misc.suppress_tracer_warnings():
            warnings.warn("quiet", torch.jit.TracerWarning, stacklevel=1)
            warnings.warn("loud", UserWarning, stacklevel=1)
        warnings.warn("again", torch.jit.TracerWarning, stacklevel=1)
    assert [str(warning.message) for warning in seen] == ["loud", "again"]


def test_assert_shape():
    """None matches any size; the message shows both shapes."""
    x = torch.zeros(2, 3, 4)
    misc.assert_shape(x, [2, 3, 4])
    misc.assert_shape(x, (None, 3, None))
    misc.assert_shape(x, x.shape)
    misc.assert_shape(torch.zeros([]), [])
    for shape in ([2, 3], [2, 3, 4, None], [2, 3, 5], [None, None, 0], []):
        with pytest.raises(AssertionError, match=r"shape \[2, 3, 4\], expected \["):
            misc.assert_shape(x, shape)


def test_profiled_function():
    """The function keeps its name, arguments and result, and stands in the profile."""
    @misc.profiled_function
    def double_it(x, factor=2):
        """Doubles."""
        return x * factor

    with torch.profiler.profile() as profile:
        assert double_it(torch.ones([]), factor=3) == 3
    assert double_it.__name__ == "double_it" and double_it.__doc__ == "Doubles."
    assert "double_it" in [event.key for event in profile.key_averages()]


# ------------------------------------------------------------------------------------------------ parameters and buffers

def network(value, features=3, extra=False):
    """A layer and a normalization, every tensor of one value; `extra` adds a buffer at the end."""
    module = torch.nn.Sequential(torch.nn.Linear(2, features), torch.nn.BatchNorm1d(features))
    if extra:
        module.register_buffer("extra", torch.zeros(1))
    for tensor in misc.params_and_buffers(module):
        tensor.data.fill_(value)
    return module


def values(module):
    return {name: tensor.unique().tolist() for name, tensor in misc.named_params_and_buffers(module)}


def test_params_and_buffers():
    """Parameters first, then buffers, with dotted names."""
    names = [name for name, _ in misc.named_params_and_buffers(network(0, extra=True))]
    assert names == ["0.weight", "0.bias", "1.weight", "1.bias", "extra", "1.running_mean", "1.running_var",
                     "1.num_batches_tracked"]
    module = network(0)
    assert [id(t) for t in misc.params_and_buffers(module)] == [id(t) for _, t in misc.named_params_and_buffers(module)]


def test_copy_params_and_buffers():
    """Everything of the same name is copied; what either has alone is left alone; gradients' flags too."""
    src, dst = network(1, extra=True), network(2)
    dst[0].weight.requires_grad_(False)
    misc.copy_params_and_buffers(src, dst)
    assert set(map(tuple, values(dst).values())) == {(1,)}
    assert not dst[0].weight.requires_grad and dst[0].bias.requires_grad and dst[0].weight.is_leaf
    assert dst[0].weight.data_ptr() != src[0].weight.data_ptr()

    misc.copy_params_and_buffers(network(3), src)
    assert values(src)["extra"] == [1] and values(src)["0.weight"] == [3]


@pytest.mark.parametrize("src, dst, require_all, error, message", [
    (network(1), network(2, extra=True), True, KeyError, "extra is not in the source network"),
    (network(1, features=4), network(2), False, ValueError, r"0.weight: shape \(4, 2\) does not fit \(3, 2\)")])
def test_nothing_is_copied_when_something_does_not_fit(src, dst, require_all, error, message):
    before = values(dst)
    with pytest.raises(error, match=message):
        misc.copy_params_and_buffers(src, dst, require_all=require_all)
    assert values(dst) == before


# ------------------------------------------------------------------------------------------------ consistency of processes

def check_in_two_processes(rank, folder):
    """Writes what the check says of equal networks, of one to be ignored, and of one that differs in its last tensor."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    consistent = network(1)
    consistent[0].weight.data.fill_(torch.nan)
    consistent.register_buffer("strided", torch.zeros(2, 3, 4, 4).contiguous(memory_format=torch.channels_last))
    consistent.register_buffer("turned", torch.arange(6).reshape(2, 3).t())
    consistent.register_buffer("empty", torch.zeros(0))
    differing = network(1)
    differing[1].num_batches_tracked.fill_(rank)
    messages = []
    for module, ignored in [(consistent, None), (differing, r".*\.num_batches_tracked"), (differing, r".*tracke")]:
        try:
            misc.check_ddp_consistency(module, ignore_regex=ignored)
            messages.append("consistent")
        except RuntimeError as error:
            messages.append(str(error))
    with open(f"{folder}/{rank}", "w") as file:
        file.write("\n".join(messages))
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this PyTorch has no torch.distributed")
def test_check_ddp_consistency(tmp_path):
    """Equal networks pass (NaNs and any memory layout included), a difference is named, `ignore_regex` must match in full."""
    torch.multiprocessing.spawn(check_in_two_processes, args=(os.fspath(tmp_path),), nprocs=2)
    for rank in ("0", "1"):  # every process learns of it, so that none waits for the others
        assert (tmp_path / rank).read_text().split("\n") == [
            "consistent", "consistent", "differs between processes: Sequential.1.num_batches_tracked"]


# ------------------------------------------------------------------------------------------------ summary

class Pair(torch.nn.Module):
    """Two outputs in a dict, a submodule called twice, a buffer."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)
        self.deep = torch.nn.Sequential(torch.nn.Sequential(torch.nn.Linear(2, 3)))
        self.register_buffer("offset", torch.ones(4))

    def forward(self, x):
        y = self.layer(self.layer(x))
        return dict(y=y + 1, z=self.deep(y).half(), note="not a tensor")


def printed(capsys, module, inputs, **kwargs):
    outputs = misc.print_module_summary(module, inputs, **kwargs)
    return outputs, [line.split() for line in capsys.readouterr().out.strip().split("\n")]


def test_print_module_summary(capsys):
    """A line an output; every tensor is counted once; what the module returned is returned."""
    outputs, lines = printed(capsys, Pair(), [torch.ones(5, 2)], skip_redundant=False)
    assert outputs["y"].shape == (5, 2) and outputs["z"].dtype == torch.float16 and outputs["note"] == "not a tensor"
    assert lines == [
        ["module", "parameters", "buffers", "output", "dtype"],
        ["layer", "6", "0", "(5,", "2)", "float32"],
        ["layer", "0", "0", "(5,", "2)", "float32"],
        ["deep.0.0", "9", "0", "(5,", "3)", "float32"],
        ["deep.0", "0", "0", "(5,", "3)", "float32"],
        ["deep", "0", "0", "(5,", "3)", "float32"],
        ["Pair", "0", "4", "(5,", "2)", "float32"],
        ["output", "1", "(5,", "3)", "float16"],
        ["all", "15", "4"]]


def test_print_module_summary_down_to_a_depth(capsys):
    """Deeper modules have no line; what they own counts for the one that contains them."""
    _, lines = printed(capsys, Pair(), [torch.ones(5, 2)], max_nesting=1, skip_redundant=False)
    assert [line[:3] for line in lines[1:]] == [
        ["layer", "6", "0"], ["layer", "0", "0"], ["deep", "9", "0"], ["Pair", "0", "4"], ["output", "1", "(5,"],
        ["all", "15", "4"]]
    _, lines = printed(capsys, Pair(), [torch.ones(5, 2)], max_nesting=0)
    assert [line[:3] for line in lines[1:]] == [["Pair", "15", "4"], ["output", "1", "(5,"], ["all", "15", "4"]]


def test_print_module_summary_without_repetition(capsys):
    """A container that owns nothing and returns what its last child returned has no line of its own."""
    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Identity()))
    _, lines = printed(capsys, module, [torch.ones(1, 2)])
    assert [line[0] for line in lines[1:]] == ["0", "1.0", "all"]


def test_print_module_summary_leaves_no_hooks(capsys):
    """Not even after the module failed."""
    module = Pair()
    misc.print_module_summary(module, [torch.ones(1, 2)])
    with pytest.raises(RuntimeError):
        misc.print_module_summary(module, [torch.ones(1, 3)])
    assert not any(child._forward_hooks or child._forward_pre_hooks for child in module.modules())
