"""Films: closed curves through styles, cells rendered together or alone, and frames that depend on nothing else."""

import re
import warnings

import numpy as np
import pytest
import scipy.interpolate
import torch

from eg3d import cameras, generator, sampling, video
from eg3d.session import Session
from torch_utils import images

SIZE = 8  # of the raw rendering
FRAMES = 3  # of a film, unless it says otherwise


@pytest.fixture(scope="module")
def G(tiny_path):
    return generator.load(tiny_path, device="cpu")


def film(G, seeds, columns=1, mode="image", frames=FRAMES, **kwargs):
    labels = cameras.film_path(G.rendering_kwargs, frames)
    return video.Film(G, seeds, labels, columns, **{**dict(psi=0.7, mode=mode, resolution=SIZE, multiplier=0.5), **kwargs})


def grey(frame):
    """Bytes as numbers that can be subtracted."""
    return frame.astype(int)


# ------------------------------------------------------------------------------------------------ interpolation

@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_curve_through_the_keys(count):
    """The curve meets each key at its number, is closed, and is the cubic one through five copies of the keys."""
    keys = torch.from_numpy(np.random.RandomState(count).randn(count, 2, 4, 3).astype(np.float32))
    at = video.interpolated_styles(keys)
    for index in range(count):
        assert at(index).shape == (2, 4, 3) and at(index).dtype == torch.float32
        torch.testing.assert_close(at(index), keys[index])
    torch.testing.assert_close(at(count), at(0))
    copies = np.tile(keys.numpy(), (5, 1, 1, 1))
    naive = scipy.interpolate.interp1d(np.arange(-2 * count, 3 * count), copies, kind="cubic", axis=0)
    for position in np.linspace(0, count, 17):
        # Styles of size 1 in float32: a few roundings of 6e-8, and what the two solvers differ by.
        np.testing.assert_allclose(at(position).numpy(), naive(position), atol=1e-5)


def test_curves_of_cells_are_their_own():
    """Every cell of a grid goes through its keys as it would alone."""
    keys = torch.from_numpy(np.random.RandomState(7).randn(3, 4, 2, 5).astype(np.float32))
    together = video.interpolated_styles(keys)(1.3)
    for cell in range(4):
        alone = video.interpolated_styles(keys[:, cell : cell + 1])(1.3)
        torch.testing.assert_close(together[cell : cell + 1], alone)  # float32's own tolerance


def test_curve_is_smooth_where_it_closes():
    """Near the end it goes on as it does near the beginning. Copies of the keys are finitely many, hence the tolerance."""
    keys = torch.from_numpy(np.random.RandomState(0).randn(4, 1, 1, 5).astype(np.float32))
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
    together = film(G, [[0], [1], [2], [3]], columns=2, mode=mode, at_once=1).frame(1)
    size = 128 if mode == "image" else SIZE
    assert together.shape == (2 * size, 2 * size, 3) and together.dtype == np.uint8
    alone = [film(G, [[seed]], mode=mode).frame(1) for seed in range(4)]
    rows = [np.concatenate(alone[:2], axis=1), np.concatenate(alone[2:], axis=1)]
    assert np.array_equal(together, np.concatenate(rows))
    assert not np.array_equal(alone[0], alone[1])


def test_a_frame_equals_itself_in_sequence(G):
    """No frame depends on those before it, on a film of two keyframes neither; a film can be gone through again."""
    for seeds in ([[2]], [[0, 1]]):
        moving = film(G, seeds)
        assert len(moving) == FRAMES
        sequence = list(moving)
        assert len(sequence) == FRAMES and all(frame.shape == (128, 128, 3) for frame in sequence)
        assert np.array_equal(film(G, seeds).frame(FRAMES - 1), sequence[-1])
        assert not np.array_equal(sequence[0], sequence[-1])
        assert all(np.array_equal(*pair) for pair in zip(moving, sequence))


@pytest.mark.parametrize("frames, index", [(6, 4), (5, 3), (3, 2), (1, 0)])
def test_what_a_frame_shows(G, frames, index):
    """Its own label, the styles at index * keyframes / frames, the picture of that mode, the first seed's jitter."""
    moving = film(G, [[4, 5]], mode="image_depth", frames=frames)
    keys = torch.stack([sampling.styles(G, seed, 0.7) for seed in (4, 5)])
    ws = video.interpolated_styles(keys)(index * 2 / frames)
    options = dict(depth_resolution=8, depth_resolution_importance=8)
    c = cameras.film_path(G.rendering_kwargs, frames)[index : index + 1]
    depth = Session(G, ws, 4, options).render(c, SIZE)["image_depth"]
    near_is_bright = (depth.max() - depth) / (depth.max() - depth.min()) * 2 - 1
    assert np.array_equal(moving.frame(index), images.to_uint8(near_is_bright)[0, 0, :, :, None].expand(-1, -1, 3).numpy())


def test_labels_are_followed(G):
    """Any cameras, as many as are given, in their order."""
    labels = torch.cat([cameras.view(G.rendering_kwargs, yaw) for yaw in (-0.3, 0.5, -0.3, 0.0)])
    moving = video.Film(G, [[3]], labels, mode="image_depth", resolution=SIZE, multiplier=0.5)
    frames = list(moving)
    assert len(moving) == len(frames) == 4
    assert np.array_equal(frames[0], frames[2])
    assert not np.array_equal(frames[0], frames[1]) and not np.array_equal(frames[0], frames[3])


def test_session_of_a_film(G):
    """The identities of a part of the grid at a frame. Those that stay the same are made once."""
    still = film(G, [[0], [1], [2]], at_once=2)
    assert [still.session(0, part).seeds for part in range(len(still.parts))] == [[0, 1], [2]]
    assert still.session(0) is still.session(2) and still.session(0, 1) is still.session(1, 1)
    torch.testing.assert_close(still.session(1).ws[1:], sampling.styles(G, 1, 0.7), rtol=0, atol=0)

    moving = film(G, [[0, 1], [2, 2]], frames=4, at_once=2)
    for index, (first, second) in enumerate([(0, 2), (None, 2), (1, 2), (None, 2)]):
        ws = moving.session(index).ws
        # Keys are met to the rounding of the spline's float32; the second cell does not move.
        if first is not None:
            torch.testing.assert_close(ws[:1], sampling.styles(G, first, 0.7), rtol=0, atol=1e-5)
        torch.testing.assert_close(ws[1:], sampling.styles(G, second, 0.7), rtol=0, atol=1e-5)
    assert (moving.session(1).ws[0] - moving.session(0).ws[0]).abs().max() > 0.01


def test_cutoff_zero_switches_truncation_off(G):
    """As in the original: a cutoff of 0 means no truncation, and without truncation the cutoff means nothing."""
    def shown(psi, cutoff):
        return film(G, [[0]], frames=1, psi=psi, cutoff=cutoff).frame(0)

    free = shown(1, 14)
    assert np.array_equal(shown(0.5, 0), free) and np.array_equal(shown(1, 3), free)
    assert not np.array_equal(shown(0.5, 14), free)


def test_focal_length_of_the_condition(G):
    """The mapping sees the frontal camera with the focal length that is given, the data's by default."""
    seen = []
    handle = G.backbone.mapping.register_forward_hook(lambda _module, given, _out: seen.append(given[1]))
    try:
        film(G, [[0]], focal=2.5).frame(0)
        film(G, [[0]]).frame(0)
    finally:
        handle.remove()
    assert [c[0, 16].item() for c in seen] == [2.5, pytest.approx(cameras.FFHQ_FOCAL)]
    assert torch.equal(seen[1], cameras.view(G.rendering_kwargs))


def test_unknown_mode(G):
    with pytest.raises(ValueError, match="image mode 'depth': choose one of image, image_depth, image_raw"):
        film(G, [[0]], mode="depth")


# ------------------------------------------------------------------------------------------------ colours of depth

def test_depth_in_colors(G):
    """viridis shows what grey shows: bright is near in both, the ends are the map's, and grey is the default."""
    plain, grey_, colored = [film(G, [[1]], mode="image_depth", frames=1, **chosen).frame(0) for chosen in (
        {}, dict(depth_colors="grey"), dict(depth_colors="viridis"))]
    assert np.array_equal(plain, grey_) and (plain == plain[..., :1]).all()
    assert {0, 255} <= set(plain.flatten().tolist())
    assert (colored[plain[..., 0] == 255] == (253, 231, 37)).all() and (colored[plain[..., 0] == 0] == (68, 1, 84)).all()
    luminance = colored @ np.array([0.2126, 0.7152, 0.0722])
    order = np.argsort(plain[..., 0], axis=None, kind="stable")
    assert (np.diff(luminance.flatten()[order]) > -2).all()  # pixels of one grey level are up to a level apart


def test_colors_are_of_depth_only(G):
    """Other pictures keep theirs."""
    for mode in ("image", "image_raw"):
        first, second = [film(G, [[1]], mode=mode, frames=1, depth_colors=colors).frame(0) for colors in ("grey", "viridis")]
        assert np.array_equal(first, second)


def test_unknown_colors(G):
    with pytest.raises(ValueError, match="depth colours 'jet': choose one of grey, viridis"):
        film(G, [[0]], mode="image_depth", depth_colors="jet")


# ------------------------------------------------------------------------------------------------ cells at once

STILL, MOVING = [[0], [1], [2], [3]], [[0, 1], [2, 3], [4, 0], [1, 1]]


@pytest.mark.parametrize("seeds, mode", [(STILL, "image"), (MOVING, "image_depth")], ids=["still", "moving"])
def test_cells_at_once(G, seeds, mode):
    """However many cells are rendered together: the same pictures. A batch may round to the neighbouring grey level."""
    alone = film(G, seeds, columns=2, mode=mode, at_once=1).frame(1)
    for at_once, parts in ((2, 2), (4, 1)):
        together = film(G, seeds, columns=2, mode=mode, at_once=at_once)
        assert len(together.parts) == parts and together.at_once == at_once
        assert abs(grey(together.frame(1)) - grey(alone)).max() <= 1
    assert film(G, seeds, at_once=9).at_once == 4


def test_one_cell_at_once_on_a_cpu(G):
    """There a batch takes longer than its cells one by one."""
    assert film(G, [[0], [1]]).at_once == 1 and video.cells_at_once(G, torch.device("cpu")) == 1


class Memory:
    """A device with room for so many identities; it tells what was rendered."""

    def __init__(self, monkeypatch, room, from_call=0):
        self.sizes, real = [], Session.render

        def render(session, *args, **kwargs):
            self.sizes.append(len(session.ws))
            if len(session.ws) > room and len(self.sizes) > from_call:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory")
            return real(session, *args, **kwargs)

        monkeypatch.setattr(Session, "render", render)


@pytest.mark.parametrize("seeds, room, at_once, tried, told", [
    (MOVING, 2, 4, [4, 2, 2, 2, 2], ["4 cells at once need too much memory: 2 from here on"]),
    (STILL, 1, 4, [4, 2] + [1] * 8, ["4 cells at once need too much memory: 2 from", "2 cells .*: 1 from here on"]),
    (STILL, 2, 3, [3] + [1] * 8, ["3 cells at once need too much memory: 1 from here on"]),
])
def test_too_little_memory(G, monkeypatch, seeds, room, at_once, tried, told):
    """Half as many cells are tried, with a warning, and kept; the pictures are the same, and no frame is lost."""
    kinds = dict(columns=2, mode="image_depth", frames=2)
    expected = list(film(G, seeds, at_once=1, **kinds))
    short, memory = film(G, seeds, at_once=at_once, **kinds), Memory(monkeypatch, room)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        frames = list(short)
    assert [warning.category for warning in caught] == [RuntimeWarning] * len(told)
    assert all(re.match(text, str(warning.message)) for warning, text in zip(caught, told))
    assert memory.sizes == tried and len(frames) == 2
    for frame, right in zip(frames, expected):
        assert abs(grey(frame) - grey(right)).max() <= 1  # a batch may round to the neighbouring grey level


def test_memory_that_runs_out_later(G, monkeypatch):
    """In the middle of a frame, after others: that frame is made again from its beginning."""
    seeds = STILL
    expected = list(film(G, seeds, columns=4, frames=2, at_once=1))
    short = film(G, seeds, columns=4, frames=2, at_once=2)
    memory = Memory(monkeypatch, room=1, from_call=3)
    with pytest.warns(RuntimeWarning, match="2 cells at once need too much memory: 1 from here on"):
        frames = list(short)
    assert memory.sizes == [2, 2, 2, 2, 1, 1, 1, 1] and short.at_once == 1
    assert all(abs(grey(frame) - grey(right)).max() <= 1 for frame, right in zip(frames, expected))


def test_no_memory_at_all(G, monkeypatch):
    """When a single cell is too much, the error comes through."""
    alone, several = film(G, [[0]], at_once=1), film(G, [[0], [1]], at_once=2)
    Memory(monkeypatch, room=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(torch.cuda.OutOfMemoryError, match="out of memory"):
            alone.frame(0)
    with pytest.warns(RuntimeWarning, match="1 from here on"), pytest.raises(torch.cuda.OutOfMemoryError):
        several.frame(0)


def test_other_errors_come_through(G, monkeypatch):
    """Only a lack of memory is answered with fewer cells."""
    several = film(G, [[0], [1]], at_once=2)

    def broken(*_args, **_kwargs):
        raise RuntimeError("no lack of memory")

    monkeypatch.setattr(Session, "render", broken)
    with pytest.raises(RuntimeError, match="no lack of memory"):
        several.frame(0)
    assert several.at_once == 2
