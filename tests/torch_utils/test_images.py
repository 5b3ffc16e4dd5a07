"""Pictures to bytes: one rounding, grids row by row, depth as grey, files that are whole or absent."""

import os

import numpy as np
import PIL.Image
import pytest
import torch

from torch_utils import images


def test_rounding():
    """x * 127.5 + 128, cut to [0, 255], truncated: the middle is 128, both ends are reached before 1 in magnitude."""
    known = {-5.0: 0, -1.0: 0, -0.998: 0, -0.996: 1, -0.004: 127, 0.0: 128, 0.0078: 128, 0.0079: 129, 0.99: 254, 0.997: 255,
             1.0: 255, 7.0: 255}
    shown = images.to_uint8(torch.tensor(list(known)).reshape(1, 1, 1, -1))
    assert shown.dtype == torch.uint8 and shown.shape == (1, 1, 1, len(known))
    assert shown.flatten().tolist() == list(known.values())


def test_rounding_of_half_precision():
    """Computed in float32: float16 has no room for all 256 values near 255."""
    x = torch.linspace(-1, 1, 256).half()
    assert torch.equal(images.to_uint8(x[None]), images.to_uint8(x.float()[None]))


def test_grid_layout():
    """Pictures fill rows from the left, rows fill the sheet from the top; channels become the last axis."""
    pictures = torch.rand(6, 3, 4, 5) * 2 - 1
    sheet = images.grid(pictures, columns=3)
    assert sheet.shape == (2 * 4, 3 * 5, 3) and sheet.dtype == np.uint8
    for index in range(6):
        row, column = divmod(index, 3)
        cell = sheet[row * 4 : row * 4 + 4, column * 5 : column * 5 + 5]
        assert np.array_equal(cell, images.to_uint8(pictures[index]).permute(1, 2, 0).numpy())


def test_grey_grid():
    """One channel is shown in all three."""
    pictures = torch.rand(2, 1, 4, 4) * 2 - 1
    sheet = images.grid(pictures, columns=1)
    assert sheet.shape == (8, 4, 3)
    for channel in range(3):
        assert np.array_equal(sheet[..., channel], images.to_uint8(pictures).reshape(8, 4).numpy())


def test_incomplete_grid():
    with pytest.raises(ValueError, match="5 pictures do not fill rows of 2"):
        images.grid(torch.zeros(5, 3, 4, 4), columns=2)


def test_depth_image():
    """Each picture's own range: nearest is 1, furthest -1, linear between; nothing to see in a flat one."""
    depth = torch.tensor([[2.0, 3.0, 4.0, 2.5], [10.0, 30.0, 20.0, 10.0], [5.0, 5.0, 5.0, 5.0]]).reshape(3, 1, 2, 2)
    expected = torch.tensor([[1, 0, -1, 0.5], [1, -1, 0, 1], [-1, -1, -1, -1]]).reshape(3, 1, 2, 2)
    torch.testing.assert_close(images.depth_image(depth), expected)


@pytest.mark.parametrize("channels", [1, 3])
def test_png_round_trip(tmp_path, channels):
    """What a file shows is what went in; the folder is made, and nothing stays beside the file."""
    sheet = images.grid(torch.rand(4, channels, 8, 6) * 2 - 1, columns=2)
    path = tmp_path / "new" / "sheet.png"
    images.save_png(sheet, path)
    with PIL.Image.open(path) as picture:
        assert picture.format == "PNG" and picture.mode == "RGB" and np.array_equal(np.asarray(picture), sheet)
    assert os.listdir(path.parent) == ["sheet.png"]


def test_png_appears_only_when_complete(tmp_path, monkeypatch):
    """After an error half-way the old file is there, and nothing else."""
    path = tmp_path / "sheet.png"
    images.save_png(np.zeros((4, 4, 3), dtype=np.uint8), path)
    before = path.read_bytes()

    def half_written(_image, file, **_):
        file.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(PIL.Image.Image, "save", half_written)
    with pytest.raises(OSError, match="no space left"):
        images.save_png(np.ones((4, 4, 3), dtype=np.uint8), path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["sheet.png"]
