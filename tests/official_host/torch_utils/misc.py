"""Stand-in for the official module of this name, written for a test: what embedded sources call."""

import contextlib

import torch


def constant(value, shape=None, dtype=None, device=None, memory_format=None):
    tensor = torch.as_tensor(value, dtype=dtype or torch.get_default_dtype(), device=device)
    if shape is not None:
        tensor = tensor.expand(shape)
    return tensor.contiguous(memory_format=memory_format or torch.contiguous_format)


def assert_shape(tensor, ref_shape):
    assert tensor.ndim == len(ref_shape)
    assert all(want is None or have == want for have, want in zip(tensor.shape, ref_shape))


def profiled_function(fn):
    return fn


@contextlib.contextmanager
def suppress_tracer_warnings():
    yield
