"""Frames to files: every frame in order, whole films or none, and PNGs where there is no encoder that works."""

import itertools
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import imageio
import imageio_ffmpeg
import numpy as np
import PIL.Image
import pytest

from eg3d import cameras, encoding, generator, video

ROOT = Path(__file__).parents[2]
FILMS = [".mp4", ".webm", ".gif"]
LOSS = 3  # grey levels that coding an even grey costs at 10 Mbit/s: rounding to YCbCr and back, and a level of the coder's


def pattern(index, size=64):
    """A frame of which the encoder keeps the brightness."""
    return np.full((size, size, 3), 20 + 10 * index, dtype=np.uint8)


def noise(count, size=128):
    """Frames that cannot be made small."""
    return [np.random.RandomState(index).randint(0, 255, (size, size, 3), dtype=np.uint8) for index in range(count)]


def colored(height, width):
    """Four quarters of different colours; each has an even number of pixels, so that coarse colour keeps them apart."""
    frame = np.zeros((height, width, 3), dtype=np.uint8)
    frame[:, width // 4 * 2 :] = (200, 60, 60)
    frame[height // 4 * 2 :] += np.array((20, 120, 30), dtype=np.uint8)
    return frame


def encode(path, frames, **kwargs):
    with encoding.encoder(path, **kwargs) as add:
        for frame in frames:
            add(frame)


def play(path):
    """Frames, uint8 [F, H, W, 3], and the rate: by the decoder of another build where there is one, Pillow, for .gif."""
    if path.suffix == ".gif":
        with PIL.Image.open(path) as film:
            shown, durations = [], []
            for index in range(film.n_frames):
                film.seek(index)
                shown.append(np.asarray(film.convert("RGB")))
                durations.append(film.info["duration"])
        assert len(set(durations)) == 1
        return np.stack(shown), 1000 / durations[0]
    with imageio.get_reader(path) as reader:
        return np.stack(list(reader.iter_data())), reader.get_meta_data()["fps"]


def pngs(folder):
    """The pictures of a folder; their names count from 0."""
    names = sorted(os.listdir(folder))
    assert names == [f"{index:05d}.png" for index in range(len(names))]
    return [np.asarray(PIL.Image.open(folder / name)) for name in names]


def same_frames(shown, frames):
    return len(shown) == len(frames) and all(map(np.array_equal, shown, frames))


# ------------------------------------------------------------------------------------------------ films

@pytest.mark.parametrize("suffix", FILMS)
@pytest.mark.parametrize("count", [1, 20])
def test_film_can_be_played(tmp_path, suffix, count):
    """As many frames as went in, in order, at the rate that was asked for, and nothing beside the film."""
    path = tmp_path / "new folder" / f"film{suffix}"
    frames = list(map(pattern, range(count)))
    assert encoding.write(frames, path, 25) == path
    assert os.listdir(path.parent) == [path.name]
    shown, fps = play(path)
    assert shown.shape == (count, 64, 64, 3)
    assert fps == (pytest.approx(25) if count > 1 or suffix == ".mp4" else fps)  # else a single frame has no rate
    np.testing.assert_allclose(shown.mean((1, 2, 3)), [frame.mean() for frame in frames], atol=LOSS)


def test_rate_and_codec_of_mp4(tmp_path):
    """60 frames a second when nothing is said, H.264 that players play, fractions as they are."""
    for given, fps in (({}, 60), (dict(fps=12.5), 12.5), (dict(fps=24000 / 1001), 23.98)):
        encode(tmp_path / "film.mp4", map(pattern, range(5)), **given)
        with imageio.get_reader(tmp_path / "film.mp4") as reader:
            about = reader.get_meta_data()
        assert about["fps"] == fps  # as ffmpeg writes it, in two digits
        assert about["size"] == (64, 64) and about["codec"] == "h264" and about["pix_fmt"].startswith("yuv420p")


def test_codec_of_webm(tmp_path):
    encode(tmp_path / "film.webm", map(pattern, range(3)))
    with imageio.get_reader(tmp_path / "film.webm") as reader:
        about = reader.get_meta_data()
    assert about["codec"] == "vp9" and about["fps"] == 60


@pytest.mark.parametrize("fps", [50, 20, 10, 12.5])
def test_rate_of_gif(tmp_path, fps):
    """Hundredths of seconds that come out even."""
    encode(tmp_path / "film.gif", map(pattern, range(4)), fps=fps)
    shown, found = play(tmp_path / "film.gif")
    assert len(shown) == 4 and found == fps


@pytest.mark.parametrize("suffix", FILMS)
def test_frames_that_repeat(tmp_path, suffix):
    """A film that stands still has all its frames."""
    path = tmp_path / f"film{suffix}"
    levels = [3, 3, 3, 8, 8, 3, 3]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert encoding.write([pattern(level) for level in levels], path, 25) == path
    if suffix == ".gif":  # Pillow joins equal frames, ffmpeg does not
        assert imageio_ffmpeg.count_frames_and_secs(str(path)) == (7, pytest.approx(7 / 25, abs=0.011))
    else:
        np.testing.assert_allclose(play(path)[0].mean((1, 2, 3)), [pattern(level).mean() for level in levels], atol=LOSS)


@pytest.mark.parametrize("suffix", FILMS)
@pytest.mark.parametrize("height, width", [(65, 64), (64, 67), (33, 49)])
def test_odd_sizes(tmp_path, suffix, height, width):
    """The picture stays where it is; its last row or column is there once more.

    A ramp of two levels a pixel along what is odd: moved by a pixel it would be two levels brighter or darker.
    """
    rows, columns = np.mgrid[:height, :width]
    ramp = 20 + 2 * rows * (height % 2) + 2 * columns * (width % 2)
    frame, path = np.repeat(ramp[..., None], 3, axis=2).astype(np.uint8), tmp_path / f"film{suffix}"
    encoding.write([frame] * 3, path, 25)
    shown, _ = play(path)
    assert shown.shape[1:] == (height + height % 2, width + width % 2, 3)
    difference = shown[0, :height, :width].astype(int) - frame
    assert abs(difference).max() <= 2 * LOSS and abs(difference.mean()) < 0.75
    for axis, odd in ((0, height % 2), (1, width % 2)):
        if odd:
            last, before = shown[0].take([-1, -2], axis=axis).swapaxes(0, axis).astype(int)
            assert abs((last - before).mean()) < 1.5  # VP9 makes a slope of a ramp that stops


def test_rows_and_columns_of_a_film(tmp_path):
    """Colours of four quarters are where they belong: width is not height, red is not blue."""
    frame = colored(32, 64)
    for suffix in FILMS:
        encoding.write([frame] * 2, tmp_path / f"film{suffix}", 25)
        shown, _ = play(tmp_path / f"film{suffix}")
        assert shown.shape[1:] == (32, 64, 3)
        for row, column in itertools.product((8, 24), (16, 48)):
            np.testing.assert_allclose(shown[-1, row, column].astype(int), frame[row, column], atol=2 * LOSS)


@pytest.mark.parametrize("name", ["two words.mp4", "100%d.mp4", "-y.mp4", "käse.mp4", "a'b\"c.mp4", "x" * 250 + ".mp4",
                                  "a:b.gif"])
def test_names_of_films(tmp_path, name, monkeypatch):
    """Whatever a file can be called, relative names included."""
    monkeypatch.chdir(tmp_path)
    assert encoding.write([pattern(1)] * 2, name, 25) == Path(name)
    assert os.listdir() == [name]


def test_memory_that_is_used_again(tmp_path):
    """Whoever renders into one array gets every frame as it was when it was handed over."""
    buffer, levels = np.empty((64, 64, 3), dtype=np.uint8), range(16, 240, 8)

    def frames():
        for level in levels:
            buffer[:] = level
            yield buffer

    encoding.write(frames(), tmp_path / "film.mp4")
    np.testing.assert_allclose(play(tmp_path / "film.mp4")[0].mean((1, 2, 3)), levels, atol=LOSS)


@pytest.mark.parametrize("suffix", [*FILMS, "/"])
def test_same_film_same_bytes(tmp_path, suffix):
    """Written twice."""
    for name in ("a", "b"):
        encoding.write(noise(6, 48), f"{tmp_path / name}{suffix}", 25)
    if suffix == "/":
        assert [os.listdir(tmp_path / name) for name in "ab"][0] == os.listdir(tmp_path / "b")
        first, second = [[(tmp_path / name / f"{index:05d}.png").read_bytes() for index in range(6)] for name in "ab"]
        assert first == second
    else:
        assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


def test_films_of_a_network(tiny_path, tmp_path):
    """Rendered and encoded twice: in colour, and in grey, whose three channels share their memory."""
    G = generator.load(tiny_path, device="cpu")
    labels = cameras.film_path(G.rendering_kwargs, 3)
    for mode in ("image", "image_depth"):
        for name in ("a.mp4", "b.mp4"):
            film = video.Film(G, [[0]], labels, mode=mode, resolution=8, multiplier=0.5)
            assert encoding.write(film, tmp_path / name) == tmp_path / name
        assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
        assert len(play(tmp_path / "a.mp4")[0]) == 3


# ------------------------------------------------------------------------------------------------ folders of PNGs

@pytest.mark.parametrize("height, width", [(64, 64), (33, 49), (1, 1)])
def test_folder(tmp_path, height, width):
    """Frames as they are, odd sizes too."""
    frames = [np.random.RandomState(index).randint(0, 255, (height, width, 3), dtype=np.uint8) for index in range(3)]
    folder = tmp_path / "new" / "frames"
    assert encoding.write(frames, folder) == folder
    assert same_frames(pngs(folder), frames) and os.listdir(folder.parent) == ["frames"]


def test_grey_frames_in_a_folder(tmp_path):
    """Three channels that share their memory, as grids of depth are."""
    grey = np.broadcast_to(np.arange(64, dtype=np.uint8).reshape(8, 8, 1), (8, 8, 3))
    encoding.write([grey], tmp_path / "frames")
    assert same_frames(pngs(tmp_path / "frames"), [grey])


def test_folder_that_is_there(tmp_path):
    """Other files stay; with a suffix, too, it is a folder."""
    for name in ("frames", "frames.mp4"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "notes.txt").write_text("mine")
        assert encoding.write([pattern(1), pattern(2)], folder) == folder
        assert sorted(os.listdir(folder)) == ["00000.png", "00001.png", "notes.txt"]
        assert (folder / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["00000.png", "00001.png", "69999.png"])
def test_numbered_pictures_are_never_touched(tmp_path, name):
    """A data set is named as frames are: it is neither replaced nor deleted."""
    (tmp_path / name).write_bytes(b"a photograph")
    with pytest.raises(OSError, match="numbered pictures already"):
        encoding.write([pattern(1), pattern(2)], tmp_path)
    assert os.listdir(tmp_path) == [name] and (tmp_path / name).read_bytes() == b"a photograph"


def test_is_folder(tmp_path):
    """No suffix, a slash at the end, a folder that is there; films by their suffix, others refused by name."""
    (tmp_path / "there.mp4").mkdir()
    (tmp_path / "there.v2").mkdir()
    for name in ("frames", "frames/", "film.mp4/", "a.b/frames", tmp_path / "there.mp4", str(tmp_path / "there.v2"), "."):
        assert encoding.is_folder(name), name
    for name in ("film.mp4", "a/film.webm", Path("film.gif"), "frames.mp4.gif"):
        assert not encoding.is_folder(name), name
    for name in ("film.avi", Path("out") / "film.mov", "film.MP4", "film.png", "film.mp4.part"):
        with pytest.raises(ValueError, match="films are written as .mp4, .webm, .gif, or as PNGs into FOLDER/") as caught:
            encoding.is_folder(name)
        assert str(caught.value).startswith(f"{name}: ") and "\n" not in str(caught.value)


def test_unsupported_suffix(tmp_path):
    """Refused before a frame is made, and nothing is written."""
    with pytest.raises(ValueError, match="film.avi: films are written as"):
        encoding.write(iter([]), tmp_path / "new" / "film.avi")
    assert os.listdir(tmp_path) == []


def test_check_fps(tmp_path):
    """Hundredths of seconds: 50, 25, 20 ... in a .gif; anything elsewhere."""
    for fps in (50, 25, 20, 12.5, 10, 5, 2, 1):
        encoding.check_fps("film.gif", fps)
    for fps in (60, 30, 24, 100, 51, 29.97):
        with pytest.raises(ValueError, match=f"{fps:g} frames a second do not go into a .gif.*choose 50, 25, 20 or 10"):
            encoding.check_fps("film.gif", fps)
        for name in ("film.mp4", "film.webm", "frames/", "gif"):
            encoding.check_fps(name, fps)
    with pytest.raises(ValueError, match="do not go into a .gif"):
        encoding.write(iter([]), tmp_path / "film.gif", 60)
    assert os.listdir(tmp_path) == []
    (tmp_path / "folder.gif").mkdir()
    encoding.check_fps(tmp_path / "folder.gif", 60)  # PNGs go there


# ------------------------------------------------------------------------------------------------ interruptions and errors

@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_interrupted_films_leave_nothing(tmp_path, error):
    """Whatever ends the rendering; a film that was there stays."""
    path = tmp_path / "film.mp4"
    for before in (None, b"an older film"):
        if before:
            path.write_bytes(before)
        with pytest.raises(error), encoding.encoder(path) as add:
            for index in range(20):
                add(pattern(index))
            raise error
        assert os.listdir(tmp_path) == (["film.mp4"] if before else [])
    assert path.read_bytes() == b"an older film"


@pytest.mark.parametrize("name", ["film.mp4", "film.gif", "frames"])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("good", [0, 12])
def test_interrupted_writing_leaves_nothing(tmp_path, name, error, good):
    """An error of what renders comes through: no file, no folder, and no PNGs in the film's place."""
    def frames():
        yield from map(pattern, range(good))
        raise error("while rendering")

    with pytest.raises(error, match="while rendering"):
        encoding.write(frames(), tmp_path / "new" / "deep" / name, 25)
    assert os.listdir(tmp_path) == []


def test_interrupted_folder_stays_as_it_was(tmp_path):
    """Frames of a film that was not finished do not get among those that were there."""
    (tmp_path / "notes.txt").write_text("old")

    def frames():
        yield pattern(1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encoding.write(frames(), tmp_path)
    assert os.listdir(tmp_path) == ["notes.txt"] and (tmp_path / "notes.txt").read_text() == "old"


ENDLESS = """
import itertools, sys, time
sys.path.insert(0, sys.argv[1])
import numpy as np
from eg3d import encoding

def frames():
    for index in itertools.count():
        if index == 5:
            print("go", flush=True)
        time.sleep(0.01)
        yield np.full((64, 64, 3), index % 256, dtype=np.uint8)

try:
    encoding.write(frames(), sys.argv[2])
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
def test_ctrl_c(tmp_path):
    """A signal from the keyboard, while ffmpeg works."""
    with subprocess.Popen([sys.executable, "-c", ENDLESS, str(ROOT), str(tmp_path / "out" / "film.mp4")],
                          env=dict(os.environ, OMP_NUM_THREADS="1"), stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout.readline() == "go\n"
        run.send_signal(signal.SIGINT)
        assert run.communicate(timeout=60)[0] == "interrupted\n" and run.returncode == 0
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("place", [1, 19])
def test_frame_of_another_size(tmp_path, place):
    """At once or as the last: one line, and no film."""
    frames = [pattern(index) for index in range(20)]
    frames[place] = pattern(0, size=32)
    with pytest.raises(encoding.EncodingError, match="encoding failed: .*same size") as caught:
        encode(tmp_path / "film.mp4", frames)
    assert "\n" not in str(caught.value) and os.listdir(tmp_path) == []
    assert not isinstance(caught.value, OSError)


@pytest.mark.parametrize("frame", [np.zeros((8, 8, 3), np.float32), np.zeros((8, 8), np.uint8), np.zeros((8, 8, 4), np.uint8)],
                         ids=["float", "grey", "alpha"])
def test_what_is_no_frame(tmp_path, frame):
    """Told as what it is, and no film."""
    with pytest.raises(ValueError, match=r"a frame is uint8 \[H, W, 3\], not"):
        encoding.write([frame, frame], tmp_path / "film.mp4")
    assert os.listdir(tmp_path) == []


def test_place_that_cannot_be_written(tmp_path):
    """A file where the folder should be, a folder where the film should be."""
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.mp4").mkdir()
    for path in (tmp_path / "file" / "film.mp4", tmp_path / "folder.mp4"):
        with pytest.raises(OSError, match=r"file|folder") as caught:
            encode(path, [pattern(0)])
        assert "\n" not in str(caught.value)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder.mp4"]


@pytest.mark.parametrize("name", ["file/film.mp4", "file/frames", "file/", "file/deep/film.gif"])
def test_file_where_the_folder_should_be(tmp_path, name):
    """One line that names what was asked for, no PNGs elsewhere, and the file stays."""
    (tmp_path / "file").write_text("mine")
    path = f"{tmp_path}/{name}"
    with warnings.catch_warnings(), pytest.raises(OSError, match="file") as caught:
        warnings.simplefilter("error")
        encoding.write([pattern(0)] * 2, path, 25)
    message = str(caught.value)
    assert "\n" not in message and str(tmp_path / "file") in message
    assert f"{tmp_path}{os.sep}." not in message, "names a temporary file"
    assert os.listdir(tmp_path) == ["file"] and (tmp_path / "file").read_text() == "mine"


def test_film_without_frames(tmp_path):
    """There is no such film, so no such file, and no folder in its place."""
    with pytest.raises(ValueError, match="without frames"):
        encode(tmp_path / "film.mp4", [])
    for path in (tmp_path / "film.mp4", tmp_path / "folder"):
        with pytest.raises(ValueError, match="frames"):
            encoding.write([], path)
    assert os.listdir(tmp_path) == []


# ------------------------------------------------------------------------------------------------ an encoder that fails

def program(path, text):
    """A program in place of ffmpeg."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


BROKEN = {
    "false": lambda tmp_path: "/bin/false",
    "missing": lambda tmp_path: str(tmp_path / "no" / "ffmpeg"),
    "not a program": lambda tmp_path: str(ROOT / "README.md"),
    "a folder": lambda tmp_path: str(tmp_path),
    "true": lambda tmp_path: "/bin/true",
    "dies at once": lambda tmp_path: program(tmp_path / "ffmpeg", "echo 'no such codec' >&2; exit 1"),
    "dies in the middle": lambda tmp_path: program(tmp_path / "ffmpeg", f"head -c {8 * 64 * 64 * 3 + 5} > /dev/null; exit 1"),
    "killed": lambda tmp_path: program(tmp_path / "ffmpeg", "head -c 100000 > /dev/null; kill -9 $$"),
    "takes everything, writes nothing": lambda tmp_path: program(tmp_path / "ffmpeg", "cat > /dev/null"),
    "writes rubbish": lambda tmp_path: program(
        tmp_path / "ffmpeg", 'for last; do :; done; cat > /dev/null; if [ "$last" != - ]; then echo rubbish > "$last"; fi'),
    "writes some frames": lambda tmp_path: program(  # ends well, and leaves a film that lacks frames
        tmp_path / "ffmpeg", f'case "$*" in *rawvideo*) head -c {2 * 64 * 64 * 3} | {imageio_ffmpeg.get_ffmpeg_exe()} "$@"; '
                             f'cat > /dev/null;; *) exec {imageio_ffmpeg.get_ffmpeg_exe()} "$@";; esac'),
}


@pytest.mark.skipif(os.name != "posix", reason="the programs are shell scripts")
@pytest.mark.parametrize("count", [3, 22])
@pytest.mark.parametrize("broken", BROKEN)
def test_pngs_instead(tmp_path, monkeypatch, broken, count):
    """Whatever an encoder does wrong: every frame becomes a PNG, a line tells so, and there is nothing else.

    Three frames fit into the pipe to the encoder, so that its end shows only when the film is closed; 22 do not.
    """
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", BROKEN[broken](tmp_path / "bin"))
    frames, path = list(map(pattern, range(count))), tmp_path / "out" / "film.mp4"
    with pytest.warns(RuntimeWarning) as caught:
        folder = encoding.write(frames, path)
    assert folder == tmp_path / "out" / "film-frames"
    assert same_frames(pngs(folder), frames) and os.listdir(tmp_path / "out") == ["film-frames"]
    # ResourceWarnings, which Python hides by itself, come from pipes to programs that died.
    (message,) = [str(warning.message) for warning in caught if warning.category is RuntimeWarning]
    assert "\n" not in message
    assert message.startswith(f"{path}: encoding failed: ") and message.endswith(f"; its frames become PNGs in {folder}")


@pytest.mark.skipif(os.name != "posix", reason="the programs are shell scripts")
def test_frames_that_come_once(tmp_path, monkeypatch):
    """A generator cannot be gone through again: an error, and no folder that lacks frames."""
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/bin/false")
    with pytest.raises(encoding.EncodingError, match="encoding failed") as caught:
        encoding.write((frame for frame in noise(30, 64)), tmp_path / "film.mp4")
    assert "\n" not in str(caught.value) and os.listdir(tmp_path) == []


@pytest.mark.skipif(os.name != "posix", reason="the programs are shell scripts")
@pytest.mark.parametrize("suffix", FILMS)
def test_pngs_beside_an_older_film(tmp_path, monkeypatch, suffix):
    """The older film stays, and so does a folder of that name: the frames get the next one."""
    path, older, folder = tmp_path / f"film{suffix}", tmp_path / "film-frames", tmp_path / "film-frames-2"
    path.write_text("an older film")
    older.mkdir()
    (older / "00000.png").write_text("mine")
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/bin/false")
    with pytest.warns(RuntimeWarning, match="encoding failed"):
        assert encoding.write([pattern(3)], path, 25) == folder
    assert path.read_text() == "an older film"
    assert os.listdir(folder) == ["00000.png"] and (older / "00000.png").read_text() == "mine"
    assert sorted(os.listdir(tmp_path)) == sorted([path.name, older.name, folder.name])


def test_no_encoder_for_folders(tmp_path, monkeypatch):
    """PNGs need none."""
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "missing"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoding.write([pattern(0)], tmp_path / "frames")


@pytest.mark.skipif(os.name != "posix", reason="the programs are shell scripts")
def test_the_error_says_what_failed(tmp_path, monkeypatch):
    """The encoder's own words: that the program is not there, that the pipe broke."""
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "no-ffmpeg"))
    with pytest.raises(encoding.EncodingError, match="encoding failed: .*No such file.*no-ffmpeg") as caught:
        encode(tmp_path / "film.mp4", [pattern(0)] * 30)
    assert "\n" not in str(caught.value)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/bin/false")
    with pytest.raises(encoding.EncodingError, match="encoding failed: .*Broken pipe") as caught:
        encode(tmp_path / "film.mp4", noise(30))
    assert "\n" not in str(caught.value) and "rawvideo" not in str(caught.value)  # the command is nobody's business
    assert os.listdir(tmp_path) == []


# ------------------------------------------------------------------------------------------------ full disks

DISK_FULL = """
import resource, signal, sys
sys.path.insert(0, sys.argv[1])
import warnings
import numpy as np
from eg3d import encoding

call, path, count, size = sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # as a full disk, too large a file is an error and not a signal
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
warnings.simplefilter("ignore")
frames = [np.random.RandomState(index).randint(0, 255, (size, size, 3), dtype=np.uint8) for index in range(count)]
try:
    if call == "encoder":
        with encoding.encoder(path) as add:
            for frame in frames:
                add(frame)
    else:
        print("wrote", encoding.write(frames, path, 25))
except (encoding.EncodingError, OSError) as error:
    print(type(error).__name__, len(str(error).splitlines()), "line:", error)
"""


def on_a_full_disk(*arguments):
    """What is told where no file can be larger than 20 kB."""
    run = subprocess.run([sys.executable, "-c", DISK_FULL, str(ROOT), *map(str, arguments)],
                         env=dict(os.environ, OMP_NUM_THREADS="1"), capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.skipif(os.name != "posix", reason="limits of files are POSIX's")
@pytest.mark.parametrize("count", [20, 300])
def test_full_disk(tmp_path, count):
    """A film that does not fit, whether that shows while rendering or only when the encoder ends: no film, and an error."""
    told = on_a_full_disk("encoder", tmp_path / "new" / "film.mp4", count, 64)
    assert told.startswith("EncodingError 1 line: encoding failed: ")
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(os.name != "posix", reason="limits of files are POSIX's")
def test_pngs_that_fit(tmp_path):
    """Frames of 12 kB each are there where the film of all of them does not fit."""
    assert on_a_full_disk("write", tmp_path / "film.mp4", 30, 64) == f"wrote {tmp_path / 'film-frames'}\n"
    assert same_frames(pngs(tmp_path / "film-frames"), noise(30, 64)) and os.listdir(tmp_path) == ["film-frames"]


@pytest.mark.skipif(os.name != "posix", reason="limits of files are POSIX's")
@pytest.mark.parametrize("name", ["film.mp4", "film.gif", "frames"])
def test_nothing_fits(tmp_path, name):
    """Frames of 49 kB do not go into files of 20 kB: an error of one line that names the place, and nothing is left."""
    told = on_a_full_disk("write", tmp_path / "new" / name, 12, 128)
    assert told.startswith("OSError 1 line: ") and os.listdir(tmp_path) == []
    named = tmp_path / "new" / ("frames" if name == "frames" else "film-frames")
    assert str(named) in told, "the error names a temporary file"
