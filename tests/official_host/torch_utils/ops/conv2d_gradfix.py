"""Stand-in for the official module of this name, written for a test."""

import contextlib

import torch


def conv2d(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    return torch.nn.functional.conv2d(input, weight, bias, stride, padding, dilation, groups)


@contextlib.contextmanager
def no_weight_gradients(disable=True):
    yield
