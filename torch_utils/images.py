"""Pictures in [-1, 1] -> bytes, grids, PNG files. One rounding everywhere: clamp(x * 127.5 + 128, 0, 255), truncated."""

from __future__ import annotations

import os
from typing import Union

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from dnnlib.util import written_beside


def to_uint8(images: Tensor) -> Tensor:
    """[..., H, W] in [-1, 1] -> uint8 of the same shape."""
    return (images.to(torch.float32) * 127.5 + 128).clamp(0, 255).to(torch.uint8)


def depth_image(depth: Tensor) -> Tensor:
    """[N, 1, H, W] -> [-1, 1], near is bright; each picture's own range."""
    near, far = depth.amin(dim=(1, 2, 3), keepdim=True), depth.amax(dim=(1, 2, 3), keepdim=True)
    return (far - depth) / (far - near).clamp(min=torch.finfo(depth.dtype).tiny) * 2 - 1


# Ten evenly spaced colours of viridis (van der Walt and Smith 2015, CC0): even in lightness, readable without colour vision.
VIRIDIS = ((68, 1, 84), (72, 40, 120), (62, 74, 137), (49, 104, 142), (38, 130, 142), (31, 158, 137), (53, 183, 121),
           (110, 206, 88), (181, 222, 43), (253, 231, 37))


def viridis(images: Tensor) -> Tensor:
    """[N, 1, H, W] in [-1, 1] -> [N, 3, H, W] in [-1, 1]: from violet over green to yellow."""
    table = torch.tensor(VIRIDIS, dtype=images.dtype, device=images.device) / 127.5 - 1
    position = ((images[:, 0] + 1) / 2).clamp(0, 1) * (len(VIRIDIS) - 1)
    below = position.floor().clamp(max=len(VIRIDIS) - 2).long()
    colors = torch.lerp(table[below], table[below + 1], (position - below)[..., None])
    return colors.permute(0, 3, 1, 2)


def grid(images: Tensor, columns: int) -> np.ndarray:
    """[columns * rows, C, H, W] in [-1, 1] -> uint8 [rows * H, columns * W, 3], row by row; one channel becomes grey."""
    count, channels, height, width = images.shape
    if count % columns:
        raise ValueError(f"{count} pictures do not fill rows of {columns}")
    cells = to_uint8(images).cpu().reshape(count // columns, columns, channels, height, width)
    sheet = cells.permute(0, 3, 1, 4, 2).reshape(count // columns * height, columns * width, channels)
    return sheet.expand(-1, -1, 3).numpy()


def save_png(pixels: np.ndarray, path: Union[str, os.PathLike]) -> None:
    """Writes uint8 [H, W, 3]; the file appears when it is complete."""
    with written_beside(path) as temporary:
        PIL.Image.fromarray(pixels).save(temporary, format="PNG")
