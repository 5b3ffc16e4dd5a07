"""The Inception v3 network of FID as a plain module, for the state dict that pytorch-fid made widely used.

It has torchvision's names and shapes; its poolings are those of the TensorFlow graph that FID is defined by: averages do not
count padding, and the last block takes the maximum (Szegedy et al. 2016; Heusel et al. 2017). 1008 classes.
"""

from __future__ import annotations

from typing import Callable, Dict, List, Tuple, Union

import torch
import torch.nn.functional as F
from torch import Tensor

SIZE = 299  # pixels along a side of what the network sees
FEATURES, CLASSES = 2048, 1008

Conv = Tuple[int, Union[int, Tuple[int, int]], int, Union[int, Tuple[int, int]]]  # channels, kernel, stride, padding
# Names of convolutions that follow each other; a tuple at the end stands for several beside each other.
Path = Tuple[Union[str, Tuple[str, ...]], ...]

WIDE, TALL = ((1, 7), 1, (0, 3)), ((7, 1), 1, (3, 0))


class ConvUnit(torch.nn.Module):
    """Convolution, batch normalization with stored statistics, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel, stride=1, padding=0):
        super().__init__()
        self.conv = torch.nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = torch.nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] -> [N, outputs, h, w]."""
        return F.relu(self.bn(self.conv(x)))


def _average(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


def _maximum(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, 1, 1)


def _shrink(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, 2)


class Mixed(torch.nn.Module):
    """Paths of convolutions beside each other, and one of pooling (and a convolution, where `pool_channels` > 0)."""

    def __init__(self, inputs: int, convs: Dict[str, Conv], paths: List[Path], pool: Callable[[Tensor], Tensor],
                 pool_channels: int = 0):
        super().__init__()
        self.paths, self.pool = paths, pool
        for path in paths:
            width = inputs
            for step in path:
                for name in [step] if isinstance(step, str) else step:
                    self.add_module(name, ConvUnit(width, *convs[name]))
                width = convs[step][0] if isinstance(step, str) else 0  # nothing follows several
        self.branch_pool = ConvUnit(inputs, pool_channels, 1) if pool_channels else None

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] -> the paths' outputs, one after another in the channels."""
        found = []
        for path in self.paths:
            here = [x]
            for step in path:
                names = [step] if isinstance(step, str) else step
                here = [self.get_submodule(name)(here[0]) for name in names]
            found += here
        pooled = self.pool(x)
        found.append(pooled if self.branch_pool is None else self.branch_pool(pooled))
        return torch.cat(found, dim=1)


def _block_35(inputs: int, pool_channels: int) -> Mixed:
    """5b, 5c, 5d."""
    convs = dict(branch1x1=(64, 1), branch5x5_1=(48, 1), branch5x5_2=(64, 5, 1, 2), branch3x3dbl_1=(64, 1),
                 branch3x3dbl_2=(96, 3, 1, 1), branch3x3dbl_3=(96, 3, 1, 1))
    paths = [("branch1x1",), ("branch5x5_1", "branch5x5_2"), ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3")]
    return Mixed(inputs, convs, paths, _average, pool_channels)


def _block_35_to_17(inputs: int) -> Mixed:
    """6a."""
    convs = dict(branch3x3=(384, 3, 2), branch3x3dbl_1=(64, 1), branch3x3dbl_2=(96, 3, 1, 1), branch3x3dbl_3=(96, 3, 2))
    return Mixed(inputs, convs, [("branch3x3",), ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3")], _shrink)


def _block_17(inputs: int, width: int) -> Mixed:
    """6b to 6e."""
    convs = dict(branch1x1=(192, 1), branch7x7_1=(width, 1), branch7x7_2=(width, *WIDE), branch7x7_3=(192, *TALL),
                 branch7x7dbl_1=(width, 1), branch7x7dbl_2=(width, *TALL), branch7x7dbl_3=(width, *WIDE),
                 branch7x7dbl_4=(width, *TALL), branch7x7dbl_5=(192, *WIDE))
    paths = [("branch1x1",), tuple(f"branch7x7_{i}" for i in (1, 2, 3)), tuple(f"branch7x7dbl_{i}" for i in (1, 2, 3, 4, 5))]
    return Mixed(inputs, convs, paths, _average, 192)


def _block_17_to_8(inputs: int) -> Mixed:
    """7a."""
    convs = dict(branch3x3_1=(192, 1), branch3x3_2=(320, 3, 2), branch7x7x3_1=(192, 1), branch7x7x3_2=(192, *WIDE),
                 branch7x7x3_3=(192, *TALL), branch7x7x3_4=(192, 3, 2))
    return Mixed(inputs, convs, [("branch3x3_1", "branch3x3_2"), tuple(f"branch7x7x3_{i}" for i in (1, 2, 3, 4))], _shrink)


def _block_8(inputs: int, pool: Callable[[Tensor], Tensor]) -> Mixed:
    """7b, 7c."""
    wide, tall = ((1, 3), 1, (0, 1)), ((3, 1), 1, (1, 0))
    convs = dict(branch1x1=(320, 1), branch3x3_1=(384, 1), branch3x3_2a=(384, *wide), branch3x3_2b=(384, *tall),
                 branch3x3dbl_1=(448, 1), branch3x3dbl_2=(384, 3, 1, 1), branch3x3dbl_3a=(384, *wide),
                 branch3x3dbl_3b=(384, *tall))
    paths = [("branch1x1",), ("branch3x3_1", ("branch3x3_2a", "branch3x3_2b")),
             ("branch3x3dbl_1", "branch3x3dbl_2", ("branch3x3dbl_3a", "branch3x3dbl_3b"))]
    return Mixed(inputs, convs, paths, pool, 192)


class FidInception(torch.nn.Module):
    """uint8 pictures of any size -> features or class probabilities, called as the TorchScript detector is."""

    def __init__(self):
        super().__init__()
        self.Conv2d_1a_3x3 = ConvUnit(3, 32, 3, 2)
        self.Conv2d_2a_3x3 = ConvUnit(32, 32, 3)
        self.Conv2d_2b_3x3 = ConvUnit(32, 64, 3, 1, 1)
        self.Conv2d_3b_1x1 = ConvUnit(64, 80, 1)
        self.Conv2d_4a_3x3 = ConvUnit(80, 192, 3)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = _block_35(192, 32), _block_35(256, 64), _block_35(288, 64)
        self.Mixed_6a = _block_35_to_17(288)
        self.Mixed_6b, self.Mixed_6c = _block_17(768, 128), _block_17(768, 160)
        self.Mixed_6d, self.Mixed_6e = _block_17(768, 160), _block_17(768, 192)
        self.Mixed_7a = _block_17_to_8(768)
        self.Mixed_7b, self.Mixed_7c = _block_8(1280, _average), _block_8(2048, _maximum)
        self.fc = torch.nn.Linear(FEATURES, CLASSES)

    def forward(self, pictures: Tensor, return_features: bool = False, no_output_bias: bool = False) -> Tensor:
        """uint8 [N, 3, H, W] -> features [N, 2048], or probabilities [N, 1008], without the last layer's bias on request."""
        x = (pictures.float() - 128) / 128
        x = F.interpolate(x, (SIZE, SIZE), mode="bilinear", align_corners=False)
        x = _shrink(self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x))))
        x = _shrink(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)))
        for name, block in self.named_children():
            if name.startswith("Mixed"):
                x = block(x)
        features = x.mean(dim=(2, 3))
        if return_features:
            return features
        return F.linear(features, self.fc.weight, None if no_output_bias else self.fc.bias).softmax(dim=1)


def from_state_dict(state: Dict[str, Tensor]) -> FidInception:
    """The network with these weights, in eval mode. Raises ValueError for what is missing, unknown or of another shape."""
    network = FidInception().eval().requires_grad_(False)
    wanted = {key: tensor for key, tensor in network.state_dict().items() if not key.endswith("num_batches_tracked")}
    found = {key: tensor for key, tensor in state.items() if not key.endswith("num_batches_tracked")}
    missing = [key for key in wanted if key not in found]
    if missing:
        raise ValueError(f"it has no {missing[0]}")
    for key, tensor in found.items():
        if key not in wanted:
            raise ValueError(f"it has {key}, which no Inception of FID has")
        if not isinstance(tensor, Tensor) or tensor.shape != wanted[key].shape:
            raise ValueError(f"its {key} has another shape than {list(wanted[key].shape)}")
    network.load_state_dict(found, strict=False)
    return network
