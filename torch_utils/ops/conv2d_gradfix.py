"""2-D convolutions under the names that official sources call.

The original replaced autograd's rule to skip weight gradients in the R1 penalty. PyTorch does that by itself now: a call of
torch.autograd.grad computes only what its `inputs` need. So these are PyTorch's own convolutions, public calls only.
"""

import contextlib

import torch.nn.functional as F

conv2d = F.conv2d
conv_transpose2d = F.conv_transpose2d


@contextlib.contextmanager
def no_weight_gradients(disable: bool = True):
    """Marks a block that asks for no weight gradients; autograd skips what nobody asks for, so nothing is switched."""
    yield disable
