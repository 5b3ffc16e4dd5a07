"""Dictionaries with attributes, objects by name, files from URLs, files that are whole or absent.

The server is a thread of this process.
"""

import contextlib
import copy
import errno
import hashlib
import http.client
import http.server
import json
import os
import pickle
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import dnnlib
from dnnlib import util

ROOT = Path(__file__).parents[2]
CONTENT = bytes(range(256)) * 1000


# ------------------------------------------------------------------------------------------------ EasyDict

def test_easydict():
    """Items are attributes and attributes are items; it remains a dict."""
    d = dnnlib.EasyDict(a=1)
    d.b = 2
    d["c"] = 3
    assert (d.a, d.b, d.c) == (1, 2, 3) and d == dict(a=1, b=2, c=3) and json.dumps(d) == '{"a": 1, "b": 2, "c": 3}'
    del d.b
    assert "b" not in d and not hasattr(d, "b") and getattr(d, "b", 7) == 7
    for act in (lambda: d.b, lambda: delattr(d, "b")):
        with pytest.raises(AttributeError, match="'b'"):
            act()


@pytest.mark.parametrize("twin", [copy.deepcopy, *[
    lambda d, version=version: pickle.loads(pickle.dumps(d, version)) for version in range(pickle.HIGHEST_PROTOCOL + 1)]])
def test_easydict_copies(twin):
    """Pickles of any protocol and deep copies are EasyDicts again, all the way down."""
    d = dnnlib.EasyDict(a=dnnlib.EasyDict(x=[1]), b="y")
    other = twin(d)
    assert type(other) is dnnlib.EasyDict and type(other.a) is dnnlib.EasyDict and other == d
    other.a.x.append(2)
    assert d.a.x == [1]


def test_easydict_pickles_under_the_official_name():
    """Checkpoints refer to dnnlib.util.EasyDict."""
    assert b"cdnnlib.util\nEasyDict" in pickle.dumps(dnnlib.EasyDict(a=1), protocol=2)


# ------------------------------------------------------------------------------------------------ objects by name

def test_get_obj_by_name():
    """Classes, functions, submodules, and attributes deeper in."""
    assert util.get_obj_by_name("dnnlib.util.EasyDict") is dnnlib.EasyDict
    assert util.get_obj_by_name("dnnlib.EasyDict.fromkeys")(["a"]) == {"a": None}
    assert util.get_obj_by_name("os.path.join") is os.path.join
    made = util.construct_class_by_name(1, 2, class_name="fractions.Fraction")
    assert made == util.construct_class_by_name(class_name="fractions.Fraction", numerator=1, denominator=2)


def test_get_obj_by_name_errors(tmp_path, monkeypatch):
    """No module, no attribute, and a module that fails by itself are told apart."""
    with pytest.raises(ImportError, match="no_such_package.Thing"):
        util.get_obj_by_name("no_such_package.Thing")
    with pytest.raises(ImportError):
        util.get_obj_by_name("EasyDict")
    with pytest.raises(AttributeError, match="NoSuchClass"):
        util.get_obj_by_name("dnnlib.util.NoSuchClass")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "needs_what_is_missing.py").write_text("import no_such_package")
    (tmp_path / "divides_by_zero.py").write_text("1 / 0")
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        util.get_obj_by_name("needs_what_is_missing.Thing")
    with pytest.raises(ZeroDivisionError):
        util.get_obj_by_name("divides_by_zero.Thing")


# ------------------------------------------------------------------------------------------------ files from URLs

class Server(http.server.ThreadingHTTPServer):
    """Serves `content` at every path. `behaviours` says how each request in turn is answered: 'whole', honouring Range;
    'no ranges'; 'truncated': half of what is promised; 'slow': half of it, and after a second the rest; 'silent': no answer;
    or a status code."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.behaviours, self.ranges = CONTENT, [], []

    def handle_error(self, request, client_address):
        pass

    def url(self, path="file.bin"):
        return f"http://127.0.0.1:{self.server_port}/{path}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        behaviour = self.server.behaviours.pop(0) if self.server.behaviours else "whole"
        asked = self.headers.get("Range")
        self.server.ranges.append(asked)
        if behaviour == "silent":
            self.close_connection = True
            return
        if isinstance(behaviour, int):
            self.send_error(behaviour)
            return
        start = 0 if asked is None or behaviour == "no ranges" else int(asked.removeprefix("bytes=").removesuffix("-"))
        if start >= len(self.server.content):
            self.send_error(416)
            return
        body = self.server.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        half = len(body) // 2
        self.wfile.write(body[:half])
        if behaviour == "slow":
            self.wfile.flush()
            time.sleep(1)
        if behaviour != "truncated":
            self.wfile.write(body[half:])

    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("EG3D_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs=dict(poll_interval=0.02))
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def read(url, **kwargs):
    with util.open_url(url, **kwargs) as file:
        return file.read()


def refusal(url, **kwargs):
    """The message with which open_url fails: one line with the URL in it."""
    with pytest.raises(OSError) as caught:
        util.open_url(url, **kwargs)
    message = str(caught.value)
    assert url in message and "\n" not in message
    return message


def cached():
    folder = util.cache_dir()
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock") if folder.exists() else []


def test_is_url():
    assert all(map(util.is_url, ["http://a/b", "https://a/b.pkl", "file:///a/b"]))
    assert not any(map(util.is_url, ["a.pkl", "/a/b", "C:\\a", "ftp://a/b", "", None, Path("a"), b"http://a"]))


def test_cache_dir(monkeypatch):
    """EG3D_CACHE_DIR, else XDG_CACHE_HOME, else the home folder's."""
    monkeypatch.setenv("EG3D_CACHE_DIR", "/chosen")
    assert util.cache_dir() == Path("/chosen")
    monkeypatch.delenv("EG3D_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert util.cache_dir() == Path("/xdg/eg3d")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert util.cache_dir() == Path.home() / ".cache" / "eg3d"
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as where the user has no home
    with pytest.raises(OSError, match="no home folder for downloads and plugins: set EG3D_CACHE_DIR"):
        util.cache_dir()


def test_local_files(tmp_path):
    """A path and its file:// URL are read in place, names with spaces included."""
    path = tmp_path / "a file.bin"
    path.write_bytes(CONTENT)
    assert read(str(path)) == read(path) == read(path.as_uri()) == CONTENT
    assert "%20" in path.as_uri()
    for missing in (str(tmp_path / "b"), (tmp_path / "b").as_uri()):
        with pytest.raises(FileNotFoundError):
            util.open_url(missing)


def test_downloads_are_cached(server):
    """One request a URL, whatever is asked for later; files of one name from different URLs are kept apart."""
    for _ in range(3):
        assert read(server.url()) == CONTENT
    assert read(server.url(), sha256=hashlib.sha256(CONTENT).hexdigest()) == CONTENT
    assert len(server.ranges) == 1
    server.content = b"other"
    assert read(server.url("other/file.bin")) == read(server.url("file.bin?version=2")) == b"other"
    assert read(server.url()) == CONTENT
    assert len(cached()) == 3 and all(name.endswith("-file.bin") for name in cached())


def test_several_processes_download_once(server):
    """While one process fetches a file, the others wait for it."""
    server.behaviours = ["slow"]
    code = "import sys; from dnnlib import util; sys.stdout.buffer.write(util.open_url(sys.argv[1]).read())"
    started = [subprocess.Popen([sys.executable, "-c", code, server.url()], cwd=ROOT, stdout=subprocess.PIPE) for _ in range(4)]
    assert [process.communicate(timeout=60)[0] for process in started] == [CONTENT] * 4
    assert server.ranges == [None] and len(cached()) == 1


@pytest.mark.parametrize("path", ["", "a/", "%2e%2e/%2F..", "a b".replace(" ", "%20"), "x" * 150])
def test_any_url_has_a_cached_name(server, path):
    """Names are made of harmless characters and stay inside the folder."""
    assert read(server.url(path)) == CONTENT
    assert len(cached()) == 1 and "/" not in cached()[0] and "%" not in cached()[0]


def test_interrupted_downloads_are_resumed(server):
    """The first half stays; the next call asks for the rest alone, and the file is whole."""
    half = len(CONTENT) // 2
    server.behaviours = ["truncated"]
    assert f"{half} of {len(CONTENT)} bytes arrived; run again to resume" in refusal(server.url())
    (part,) = cached()
    assert part.endswith(".part") and (util.cache_dir() / part).read_bytes() == CONTENT[:half]
    assert read(server.url()) == CONTENT
    assert server.ranges == [None, f"bytes={half}-"]
    assert len(cached()) == 1 and not cached()[0].endswith(".part")


@pytest.mark.parametrize("error", [
    ConnectionResetError(104, "Connection reset by peer"), TimeoutError("timed out"), http.client.IncompleteRead(b"", 9)])
def test_a_connection_that_breaks(server, monkeypatch, error):
    """Whatever http.client raises while data arrive, the message names the URL; the next call succeeds."""
    def broken(*args):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(http.client.HTTPResponse, "read", broken)
        refusal(server.url())
    assert read(server.url()) == CONTENT


def test_servers_without_ranges(server):
    """Where the server sends everything again, the second download starts over."""
    server.behaviours = ["truncated", "no ranges"]
    refusal(server.url())
    assert read(server.url()) == CONTENT


def test_resuming_what_has_shrunk(server):
    """A part longer than the server's file is deleted; the call after that succeeds."""
    server.behaviours = ["truncated"]
    refusal(server.url())
    server.content = b"short"
    assert "it was deleted, try again" in refusal(server.url())
    assert cached() == [] and read(server.url()) == b"short"


def test_checksum(server):
    """A wrong checksum deletes the copy, cached earlier or not; the right one passes."""
    right, wrong = hashlib.sha256(CONTENT).hexdigest(), "0" * 64
    assert "checksum" in refusal(server.url(), sha256=wrong) and cached() == []
    assert read(server.url(), sha256=right) == CONTENT
    assert "checksum" in refusal(server.url(), sha256=wrong) and cached() == []


@pytest.mark.parametrize("status", [403, 404, 500])
def test_refused_by_the_server(server, status):
    """The message says what the server answered, and nothing is kept."""
    server.behaviours = [status]
    assert f"answered {status}" in refusal(server.url())
    assert cached() == [] and read(server.url()) == CONTENT


def test_no_server(server):
    """Nobody listens at the address."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/file.bin"
        assert "no connection" in refusal(url)


def test_no_answer(server):
    """The server hangs up without a word."""
    server.behaviours = ["silent"]
    refusal(server.url())
    assert cached() == [] and read(server.url()) == CONTENT


@pytest.mark.parametrize("size", [0, 1, util.DOWNLOAD_BLOCK, util.DOWNLOAD_BLOCK + 1])
def test_checksum_of_files(tmp_path, size):
    """SHA-256 of all of the file, also where it does not fit into one block."""
    content = (CONTENT * (size // len(CONTENT) + 1))[:size]
    path = tmp_path / "file"
    path.write_bytes(content)
    assert util.checksum(path) == util.checksum(str(path)) == hashlib.sha256(content).hexdigest()


def test_known_checksum(tmp_path):
    """The standard's own example."""
    (tmp_path / "abc").write_bytes(b"abc")
    assert util.checksum(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    with pytest.raises(FileNotFoundError):
        util.checksum(tmp_path / "missing")


# ------------------------------------------------------------------------------------------------ written_beside

@contextlib.contextmanager
def umask(mask):
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@pytest.mark.parametrize("kind", [str, Path])
def test_written_beside(tmp_path, kind):
    """Until the block ends the old file is there; then the new one, and nothing else. Folders are made."""
    path = tmp_path / "new" / "deep" / "film.mp4"
    for content in (b"first", b"second"):
        with util.written_beside(kind(path)) as temporary:
            assert temporary.parent == path.parent and temporary.suffix == ".mp4" and temporary != path
            temporary.write_bytes(content)
            assert path.exists() == (content == b"second") and (not path.exists() or path.read_bytes() == b"first")
        assert path.read_bytes() == content
        assert list(path.parent.iterdir()) == [path]


def test_written_beside_after_an_error(tmp_path):
    """The old file stays as it was, the temporary one goes, the error comes through."""
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), util.written_beside(path) as temporary:
        temporary.write_text("half")
        1 / 0  # noqa: B018
    with pytest.raises(KeyboardInterrupt), util.written_beside(tmp_path / "b.txt"):
        raise KeyboardInterrupt
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
@pytest.mark.parametrize("mask, mode", [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_written_beside_follows_the_umask(tmp_path, mask, mode):
    """As a file opened for writing would."""
    with umask(mask):
        with util.written_beside(tmp_path / "a.txt"):
            pass
        assert os.umask(mask) == mask
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == mode


# ------------------------------------------------------------------------------------------------ whole folders

def fill(folder, **files):
    for name, content in files.items():
        (folder / name).write_text(content)


def content(folder):
    """Everything below a folder: names, and the text of files."""
    return {str(path.relative_to(folder)): path.read_text() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.parametrize("kind", [str, Path])
def test_folder_written_beside(tmp_path, kind):
    """Until the block ends there is no folder; then it is whole, and nothing else. Folders above it are made."""
    path = tmp_path / "new" / "deep" / "frames"
    with util.folder_written_beside(kind(path)) as temporary:
        assert temporary.parent == path.parent and temporary.is_dir() and temporary != path
        fill(temporary, a="1", b="2")
        (temporary / "inner").mkdir()
        fill(temporary / "inner", c="3")
        assert not path.exists()
    assert content(path) == {"a": "1", "b": "2", "inner": None, "inner/c": "3"} and os.listdir(path.parent) == ["frames"]


def test_folder_that_is_there(tmp_path):
    """Its files of the same names are replaced at the end, others stay."""
    path = tmp_path / "frames"
    path.mkdir()
    fill(path, a="old", mine="kept")
    with util.folder_written_beside(path) as temporary:
        fill(temporary, a="new", b="2")
        assert content(path) == {"a": "old", "mine": "kept"}
    assert content(tmp_path) == {"frames": None, "frames/a": "new", "frames/b": "2", "frames/mine": "kept"}


def test_folder_behind_a_link(tmp_path):
    """A link to a folder remains one."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with util.folder_written_beside(tmp_path / "link") as temporary:
        fill(temporary, a="1")
    assert (tmp_path / "link").is_symlink() and content(tmp_path / "real") == {"a": "1"}


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
@pytest.mark.parametrize("mask, mode", [(0o022, 0o755), (0o077, 0o700), (0o002, 0o775)])
def test_folders_follow_the_umask(tmp_path, mask, mode):
    """As folders made in the ordinary way would; those that were there keep what they have."""
    (tmp_path / "there").mkdir(mode=0o711)
    with umask(mask):
        for name in ("new/frames", "there"):
            with util.folder_written_beside(tmp_path / name):
                pass
        assert os.umask(mask) == mask
    for name in ("new", "new/frames"):
        assert (tmp_path / name).stat().st_mode & 0o777 == mode
    assert (tmp_path / "there").stat().st_mode & 0o777 == 0o711


# ------------------------------------------------------------------------------------------------ what errors leave

BESIDE = pytest.mark.parametrize("beside", [util.written_beside, util.folder_written_beside], ids=["file", "folder"])


def start(temporary):
    """Half of what was to be written."""
    if temporary.is_dir():
        fill(temporary, a="half")
    else:
        temporary.write_text("half")


@BESIDE
@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, SystemExit, OSError])
def test_folders_made_for_nothing_go(tmp_path, beside, error):
    """After an error the folders that were made for it are gone, and those that were there stay, empty or not."""
    (tmp_path / "there").mkdir()
    with pytest.raises(error), beside(tmp_path / "there" / "new" / "deep" / "thing.x") as temporary:
        start(temporary)
        raise error
    assert content(tmp_path) == {"there": None}


@BESIDE
def test_folders_with_something_else_stay(tmp_path, beside):
    """What came into them in the meantime is not ours."""
    with pytest.raises(ZeroDivisionError), beside(tmp_path / "new" / "deep" / "thing.x") as temporary:
        start(temporary)
        fill(tmp_path / "new", other="mine")
        1 / 0  # noqa: B018
    assert content(tmp_path) == {"new": None, "new/other": "mine"}


@BESIDE
def test_folders_by_detours_go(tmp_path, beside):
    """new/../other leads through a folder that is made on the way."""
    with pytest.raises(ZeroDivisionError), beside(tmp_path / "new" / ".." / "other" / "thing.x"):
        1 / 0  # noqa: B018
    assert content(tmp_path) == {}


def test_folder_that_is_there_after_an_error(tmp_path):
    """It stays as it was."""
    path = tmp_path / "frames"
    path.mkdir()
    fill(path, a="old")
    for error in (ZeroDivisionError, KeyboardInterrupt):
        with pytest.raises(error), util.folder_written_beside(path) as temporary:
            start(temporary)
            raise error
        assert content(tmp_path) == {"frames": None, "frames/a": "old"}


@BESIDE
@pytest.mark.parametrize("error, kind", [
    (OSError(errno.ENOSPC, "No space left on device"), OSError),
    (PermissionError(errno.EACCES, "Permission denied"), PermissionError),
    (OSError("encoder error -2"), OSError),
    (OSError(), OSError),
])
def test_errors_name_the_place(tmp_path, beside, error, kind):
    """One line with the path that was asked for, in errors that name none; what they were about is still in them."""
    path = tmp_path / "thing.x"
    with pytest.raises(kind) as caught, beside(path):
        raise error
    message = str(caught.value)
    assert str(path) in message and "\n" not in message and caught.value.__cause__ is error
    assert (error.strerror or str(error)) in message and caught.value.errno == error.errno
    assert (caught.value.filename == str(path)) == (error.errno is not None)


@BESIDE
def test_errors_about_other_files(tmp_path, beside):
    """An error that names a file of its own comes through as it is."""
    with pytest.raises(FileNotFoundError) as caught, beside(tmp_path / "thing.x"):
        (tmp_path / "network.pkl").read_bytes()
    assert caught.value.filename == str(tmp_path / "network.pkl") and caught.value.__cause__ is None
    assert content(tmp_path) == {}


@BESIDE
def test_errors_do_not_name_the_temporary_file(tmp_path, beside):
    """Not the temporary file itself, nor one inside a temporary folder."""
    path = tmp_path / "thing.x"
    with pytest.raises(OSError) as caught, beside(path) as temporary:
        (temporary / "inner" / "file").read_text()
    assert caught.value.filename == str(path) and caught.value.filename2 is None
    with pytest.raises(FileExistsError) as caught, beside(path) as temporary:
        os.mkdir(temporary)
    assert caught.value.filename == str(path)


def test_errors_of_files_in_folders(tmp_path):
    """A file written beside, within a folder written beside: the folder that was asked for is named."""
    path = tmp_path / "frames"
    with (pytest.raises(OSError, match="No space left") as caught, util.folder_written_beside(path) as temporary,
          util.written_beside(temporary / "00000.png")):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert str(path) in str(caught.value) and f"{tmp_path}{os.sep}." not in str(caught.value)


@BESIDE
@pytest.mark.parametrize("where", ["file/thing.x", "file/deep/thing.x"])
def test_file_in_the_way(tmp_path, beside, where):
    """Where a folder should be there is a file: it stays, and the error names a part of the path."""
    fill(tmp_path, file="mine")
    with pytest.raises(OSError, match="file") as caught, beside(tmp_path / where):
        pytest.fail("nothing can be written there")
    assert "\n" not in str(caught.value) and content(tmp_path) == {"file": "mine"}


def test_file_for_a_folder_and_a_folder_for_a_file(tmp_path):
    """Neither replaces the other; the error names what was asked for, and no temporary file."""
    fill(tmp_path, thing="mine")
    (tmp_path / "folder").mkdir()
    fill(tmp_path / "folder", a="1")
    for beside, name in ((util.folder_written_beside, "thing"), (util.written_beside, "folder")):
        with pytest.raises(OSError) as caught, beside(tmp_path / name) as temporary:
            start(temporary)
        assert str(tmp_path / name) in str(caught.value) and f"{tmp_path}{os.sep}." not in str(caught.value)
        assert content(tmp_path) == {"thing": "mine", "folder": None, "folder/a": "1"}


def test_links_are_followed(tmp_path):
    """To a file that is there, and to one that is not yet."""
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there/file")
    for content in ("first", "second"):
        with util.written_beside(tmp_path / "link") as temporary:
            temporary.write_text(content)
        assert (tmp_path / "link").is_symlink() and (tmp_path / "there" / "file").read_text() == content
    assert sorted(os.listdir(tmp_path)) == ["link", "there"] and os.listdir(tmp_path / "there") == ["file"]


@BESIDE
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are POSIX's")
def test_what_is_no_ordinary_file(tmp_path, beside):
    """A pipe, like a device, is not replaced by a file."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="pipe: what is there is no ordinary file"), beside(tmp_path / "pipe"):
        pytest.fail("nothing can be written there")
    assert (tmp_path / "pipe").is_fifo() and os.listdir(tmp_path) == ["pipe"]


@pytest.mark.parametrize("seconds, words", [(0, "0s"), (59.4, "59s"), (60, "1m 00s"), (3599.6, "1h 00m 00s"),
                                            (3725, "1h 02m 05s"), (86399, "23h 59m 59s"), (594000, "6d 21h 00m")])
def test_format_time(seconds, words):
    assert util.format_time(seconds) == words


def test_logger(tmp_path, capsys):
    """What is printed goes to both; an error is noted, and raised on."""
    with util.Logger(tmp_path / "log.txt"):
        print("one")
        print("two", file=sys.stderr)
    with pytest.raises(ValueError), util.Logger(tmp_path / "log.txt"):
        raise ValueError("three")
    print("four")
    assert (tmp_path / "log.txt").read_text() == "one\ntwo\nValueError: three\n"
    assert capsys.readouterr() == ("one\nfour\n", "two\n")


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_freed_memory_is_kept():
    """In a process of its own: after 200 MB are freed, they are still there, or are not."""
    script = ("import numpy, sys; from dnnlib.util import keep_freed_memory; keep_freed_memory(sys.argv[1] == 'keep')\n"
              "for _ in range(2): numpy.ones(25_000_000)\n"
              "print(next(int(line.split()[1]) for line in open('/proc/self/status') if line.startswith('VmRSS')))")
    kept, returned = [
        int(subprocess.run([sys.executable, "-c", script, how], cwd=ROOT, check=True, capture_output=True, text=True).stdout)
        for how in ("keep", "return")]
    assert kept - returned > 150_000  # KB
