"""Pictures to bytes: one rounding, grids row by row, depth as grey or colours, files that are whole or absent."""

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


def ramp(count):
    """[1, 1, 1, count] from -1 to 1."""
    return torch.linspace(-1, 1, count).reshape(1, 1, 1, -1)


def lightness(rgb):
    """CIE L* of bytes [..., 3]."""
    linear = np.where(rgb <= 0.04045 * 255, rgb / 255 / 12.92, ((rgb / 255 + 0.055) / 1.055) ** 2.4)
    luminance = linear @ np.array([0.2126, 0.7152, 0.0722])
    return np.where(luminance > 0.008856, 116 * np.cbrt(luminance) - 16, 903.3 * luminance)


def test_viridis():
    """The ends exactly; the quarters of the published map, which is not straight between our ten colours: to 2 levels."""
    colors = images.to_uint8(images.viridis(ramp(5)))[0, :, 0].T.int().numpy()
    assert colors[0].tolist() == [0x44, 0x01, 0x54] and colors[4].tolist() == [0xFD, 0xE7, 0x25]
    published = [[0x44, 0x01, 0x54], [0x3B, 0x52, 0x8B], [0x21, 0x91, 0x8C], [0x5E, 0xC9, 0x62], [0xFD, 0xE7, 0x25]]
    np.testing.assert_allclose(colors, published, atol=2)


def test_viridis_is_even():
    """Lightness grows all the way, about as much everywhere; neighbours of 1000 steps differ by a level at most."""
    colors = images.viridis(ramp(1000))
    light = lightness((colors[0, :, 0].T.double().numpy() + 1) * 127.5)
    assert (np.diff(light) > 0).all() and light[0] < 20 and light[-1] > 90
    np.testing.assert_allclose(light, np.linspace(light[0], light[-1], 1000), atol=2)  # the published map's own to 1
    assert abs(np.diff(images.to_uint8(colors).int().numpy(), axis=-1)).max() <= 1


def test_viridis_of_pictures():
    """Every pixel by itself; values beyond the ends get the ends' colours; kind of number and shape stay."""
    picture = torch.rand(2, 1, 3, 4, dtype=torch.float64) * 2 - 1
    colors = images.viridis(picture)
    assert colors.shape == (2, 3, 3, 4) and colors.dtype == torch.float64
    for n, y, x in ((0, 0, 0), (1, 2, 3), (0, 2, 1)):
        torch.testing.assert_close(images.viridis(picture[n, 0, y, x].reshape(1, 1, 1, 1)).flatten(), colors[n, :, y, x])
    beyond = torch.tensor([-7.0, -1.0, 1.0, 1.001, 9.0]).reshape(1, 1, 1, 5)
    ends = images.viridis(beyond)[0, :, 0]
    assert torch.equal(ends[:, 0], ends[:, 1]) and torch.equal(ends[:, 2], ends[:, 3]) and torch.equal(ends[:, 2], ends[:, 4])


def test_viridis_follows_its_table():
    """Straight between ten colours at even distances, by NumPy's interpolation."""
    values = np.linspace(-1, 1, 137)
    table = np.array(images.VIRIDIS) / 127.5 - 1
    naive = [np.interp(values, np.linspace(-1, 1, 10), channel) for channel in table.T]
    shown = images.viridis(torch.from_numpy(values).reshape(1, 1, 1, -1))[0, :, 0]
    np.testing.assert_allclose(shown.numpy(), naive, atol=1e-12)  # float64 on both sides


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
