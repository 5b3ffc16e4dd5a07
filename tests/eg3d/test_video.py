"""Films: closed curves through styles, frames that depend on nothing else, and files that are whole or absent."""

import os
import subprocess
import sys
from pathlib import Path

import imageio
import numpy as np
import pytest
import scipy.interpolate
import torch

from eg3d import cameras, generator, sampling, video
from eg3d.session import Session
from torch_utils import images

ROOT = Path(__file__).parents[2]
SIZE = 8  # of the raw rendering
FRAMES = 3  # between keyframes


@pytest.fixture(scope="module")
def G(tiny_path):
    return generator.load(tiny_path, device="cpu")


def film(G, seeds, columns=1, mode="image", **kwargs):
    return video.Film(G, seeds, columns, FRAMES, psi=0.7, mode=mode, resolution=SIZE, multiplier=0.5, **kwargs)


# ------------------------------------------------------------------------------------------------ interpolation

@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_curve_through_the_keys(count):
    """The curve meets each key at its number, is closed, and is the cubic one through five copies of the keys."""
    keys = torch.from_numpy(np.random.RandomState(count).randn(count, 4, 3).astype(np.float32))
    at = video.interpolated_styles(keys)
    for index in range(count):
        assert at(index).shape == (1, 4, 3) and at(index).dtype == torch.float32
        torch.testing.assert_close(at(index)[0], keys[index])
    torch.testing.assert_close(at(count), at(0))
    naive = scipy.interpolate.interp1d(np.arange(-2 * count, 3 * count), np.tile(keys.numpy(), (5, 1, 1)), kind="cubic", axis=0)
    for position in np.linspace(0, count, 17):
        np.testing.assert_allclose(at(position)[0].numpy(), naive(position), atol=1e-5)


def test_curve_is_smooth_where_it_closes():
    """Near the end it goes on as it does near the beginning. Copies of the keys are finitely many, hence the tolerance."""
    keys = torch.from_numpy(np.random.RandomState(0).randn(4, 1, 5).astype(np.float32))
    at, step = video.interpolated_styles(keys), 0.01
    torch.testing.assert_close(at(4) - at(4 - step), at(step) - at(0), atol=2e-3, rtol=0)


# ------------------------------------------------------------------------------------------------ seeds and samples

def test_seeds_fill_the_grid():
    """Each cell gets as many consecutive seeds as come out even."""
    assert video.assign_seeds(range(4), 4) == [[0], [1], [2], [3]]
    assert video.assign_seeds([5, 3, 8, 1], 2) == [[5, 3], [8, 1]]
    assert video.assign_seeds([7], 1) == [[7]]


@pytest.mark.parametrize("count, cells", [(3, 2), (1, 4), (5, 4)])
def test_seeds_that_do_not_come_out_even(count, cells):
    with pytest.raises(ValueError, match=f"{count} seeds do not fill a grid of {cells} cells"):
        video.assign_seeds(range(count), cells)


def test_keyframes_repeat_seeds():
    """With a number of keyframes, seeds are repeated in order, or left out."""
    assert video.assign_seeds([1, 2, 3], 2, keyframes=3) == [[1, 2, 3], [1, 2, 3]]
    assert video.assign_seeds([1, 2, 3], 2, keyframes=2) == [[1, 2], [3, 1]]
    assert video.assign_seeds(range(9), 2, keyframes=1) == [[0], [1]]


def test_shuffled_seeds():
    """Shuffling keeps the seeds and is NumPy's own for that number."""
    expected = np.arange(12)
    np.random.RandomState(3).shuffle(expected)
    assert expected.tolist() != list(range(12))
    assert video.assign_seeds(range(12), 4, shuffle_seed=3) == expected.reshape(4, 3).tolist()


def test_sampling_options(G):
    """Both depth counts are multiplied; less than four samples on a ray are refused."""
    assert video.sampling_options(G, 2) == dict(depth_resolution=32, depth_resolution_importance=32)
    assert video.sampling_options(G, 0.25) == dict(depth_resolution=4, depth_resolution_importance=4)
    with pytest.raises(ValueError, match="multiplier of 0.1 leaves 1 samples"):
        video.sampling_options(G, 0.1)


# ------------------------------------------------------------------------------------------------ frames

@pytest.mark.parametrize("mode", video.IMAGE_MODES)
def test_a_cell_equals_the_film_of_its_seed(G, mode):
    """Cell by cell, a film of four seeds shows exactly what the films of one seed show."""
    together = film(G, [[0], [1], [2], [3]], columns=2, mode=mode).frame(1)
    size = 128 if mode == "image" else SIZE
    assert together.shape == (2 * size, 2 * size, 3) and together.dtype == np.uint8
    alone = [film(G, [[seed]], mode=mode).frame(1) for seed in range(4)]
    rows = [np.concatenate(alone[:2], axis=1), np.concatenate(alone[2:], axis=1)]
    assert np.array_equal(together, np.concatenate(rows))
    assert not np.array_equal(alone[0], alone[1])


def test_a_frame_equals_itself_in_sequence(G):
    """No frame depends on those before it; on a film of two keyframes neither."""
    for seeds in ([[2]], [[0, 1]]):
        moving = film(G, seeds)
        assert len(moving) == FRAMES * len(seeds[0])
        sequence = dict(moving)
        assert list(sequence) == list(range(len(moving)))
        last = len(moving) - 1
        assert np.array_equal(film(G, seeds).frame(last), sequence[last])
        assert not np.array_equal(sequence[0], sequence[last])


def test_what_a_frame_shows(G):
    """The camera's path at that frame, the styles at that position, the picture of that mode."""
    moving = film(G, [[4, 5]], mode="image_depth")
    at = video.interpolated_styles(torch.cat([sampling.styles(G, seed, 0.7) for seed in (4, 5)]))
    options = dict(depth_resolution=8, depth_resolution_importance=8)
    depth = Session(G, at(4 / FRAMES), 4, options).render(cameras.orbit(G.rendering_kwargs, 6)[4:5], SIZE)["image_depth"]
    near_is_bright = (depth.max() - depth) / (depth.max() - depth.min()) * 2 - 1
    assert np.array_equal(moving.frame(4), images.to_uint8(near_is_bright)[0, 0, :, :, None].expand(-1, -1, 3).numpy())


def test_cutoff_zero_switches_truncation_off(G):
    """As in the original: a cutoff of 0 means no truncation, and without truncation the cutoff means nothing."""
    def shown(psi, cutoff):
        return video.Film(G, [[0]], 1, 1, psi=psi, cutoff=cutoff, resolution=SIZE, multiplier=0.5).frame(0)

    free = shown(1, 14)
    assert np.array_equal(shown(0.5, 0), free) and np.array_equal(shown(1, 3), free)
    assert not np.array_equal(shown(0.5, 14), free)


def test_unknown_mode(G):
    with pytest.raises(ValueError, match="'depth': choose one of image, image_depth, image_raw"):
        film(G, [[0]], mode="depth")


# ------------------------------------------------------------------------------------------------ encoding

def pattern(index, size=64):
    """A frame of which the encoder keeps the brightness."""
    return np.full((size, size, 3), 20 + 10 * index, dtype=np.uint8)


def encode(path, frames, **kwargs):
    with video.encoder(path, **kwargs) as add:
        for frame in frames:
            add(frame)


@pytest.mark.parametrize("count", [1, 20])
def test_film_can_be_played(tmp_path, count):
    """As many frames as went in, in order, at 60 frames a second, and nothing beside the film."""
    path = tmp_path / "new folder" / "film.mp4"
    encode(path, map(pattern, range(count)))
    assert os.listdir(path.parent) == ["film.mp4"]
    with imageio.get_reader(path) as reader:
        about = reader.get_meta_data()
        assert about["fps"] == 60 and about["size"] == (64, 64) and about["codec"] == "h264"
        shown = [frame.mean() for frame in reader.iter_data()]
    assert len(shown) == count
    np.testing.assert_allclose(shown, [20 + 10 * index for index in range(count)], atol=3)


def test_same_film_same_bytes(G, tmp_path):
    """Rendered and encoded twice: in colour, and in grey, whose three channels share their memory."""
    for mode in ("image", "image_depth"):
        for name in ("a.mp4", "b.mp4"):
            encode(tmp_path / name, [frame for _, frame in film(G, [[0]], mode=mode)])
        assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_interrupted_films_leave_nothing(tmp_path, error):
    """Whatever ends the rendering; a film that was there stays."""
    path = tmp_path / "film.mp4"
    for before in (None, b"an older film"):
        if before:
            path.write_bytes(before)
        with pytest.raises(error), video.encoder(path) as add:
            for index in range(20):
                add(pattern(index))
            raise error
        assert os.listdir(tmp_path) == (["film.mp4"] if before else [])
    assert path.read_bytes() == b"an older film"


@pytest.mark.parametrize("place", [1, 19])
def test_error_of_the_encoder(tmp_path, place):
    """A frame of another size, at once or as the last: one line, and no film."""
    frames = [pattern(index) for index in range(20)]
    frames[place] = pattern(0, size=32)
    with pytest.raises(OSError, match="encoding failed: .*same size") as caught:
        encode(tmp_path / "film.mp4", frames)
    assert "\n" not in str(caught.value) and os.listdir(tmp_path) == []


def test_place_that_cannot_be_written(tmp_path):
    """A file where the folder should be, a folder where the film should be."""
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.mp4").mkdir()
    for path in (tmp_path / "file" / "film.mp4", tmp_path / "folder.mp4"):
        with pytest.raises(OSError, match=r"file|folder") as caught:
            encode(path, [pattern(0)])
        assert "\n" not in str(caught.value)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder.mp4"]


def test_film_without_frames(tmp_path):
    """There is no such film, so no such file."""
    with pytest.raises((OSError, ValueError)):
        encode(tmp_path / "film.mp4", [])
    assert os.listdir(tmp_path) == []


DISK_FULL = """
import resource, signal, sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from eg3d import video

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # as a full disk, too large a file is an error and not a signal
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    with video.encoder(sys.argv[2]) as add:
        for index in range(int(sys.argv[3])):
            add(np.random.RandomState(index).randint(0, 255, (64, 64, 3), dtype=np.uint8))
except OSError as error:
    print(len(str(error).splitlines()), "line:", error)
"""


@pytest.mark.parametrize("count", [20, 300])
def test_full_disk(tmp_path, count):
    """A film that does not fit, whether that shows while rendering or only when the encoder ends: no film, and an error."""
    run = subprocess.run(
        [sys.executable, "-c", DISK_FULL, str(ROOT), str(tmp_path / "film.mp4"), str(count)],
        env=dict(os.environ, OMP_NUM_THREADS="1"), capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert os.listdir(tmp_path) == []
    assert run.stdout.startswith("1 line: ")
