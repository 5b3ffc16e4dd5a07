"""Dictionaries with attributes, objects by dotted name, and files from URLs.

The names are those that EG3D checkpoints and their embedded sources expect; the code is this project's own.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import http.client
import importlib
import os
import re
import shutil
import sys
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any, Optional

import filelock

DOWNLOAD_BLOCK = 1 << 20  # bytes
DOWNLOAD_TIMEOUT = 60  # seconds without an answer


class EasyDict(dict):
    """A dict whose items are also its attributes."""

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        raise AttributeError(f"no item or attribute {name!r}")

    __setattr__ = dict.__setitem__

    def __delattr__(self, name: str) -> None:
        if name not in self:
            raise AttributeError(f"no item or attribute {name!r}")
        del self[name]


def get_obj_by_name(name: str) -> Any:
    """Returns what a dotted name stands for: `package.module.Class`, or an attribute deeper in.

    Raises ImportError when no prefix of the name is a module, AttributeError when the rest is not found in it.
    """
    parts = name.split(".")
    for split in range(len(parts) - 1, 0, -1):
        module_name = ".".join(parts[:split])
        try:
            found: Any = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            # Only a missing part of the name itself leads to a shorter prefix; a module's own failed import is an error.
            if error.name is None or not (module_name + ".").startswith(error.name + "."):
                raise
            continue
        for attribute in parts[split:]:
            found = getattr(found, attribute)
        return found
    raise ImportError(f"{name!r} names no importable module")


def construct_class_by_name(*args: Any, class_name: str, **kwargs: Any) -> Any:
    """Makes an object of the class that `class_name` stands for."""
    return get_obj_by_name(class_name)(*args, **kwargs)


# ------------------------------------------------------------------------------------------------ files from URLs

def is_url(source: Any) -> bool:
    """Whether `source` is an http(s) or file URL."""
    return isinstance(source, str) and re.match(r"^(https?|file)://", source) is not None


def cache_dir() -> Path:
    """Where downloads and plugins are kept: $EG3D_CACHE_DIR, or the user's cache folder.

    Raises OSError where there is neither.
    """
    chosen = os.environ.get("EG3D_CACHE_DIR")
    if chosen:
        return Path(chosen)
    folder = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if folder.startswith("~"):
        raise OSError("there is no home folder for downloads and plugins: set EG3D_CACHE_DIR to a folder")
    return Path(folder) / "eg3d"


def open_url(url: str, sha256: Optional[str] = None):
    """Opens a local path, file URL or http(s) URL for reading bytes.

    Downloads are cached under `cache_dir()`; an interrupted one is resumed where the server allows it, and a file
    appears under its final name only when it is complete and, if `sha256` is given, has that checksum.

    Raises OSError with one line that names the URL.
    """
    if not is_url(url):
        return open(url, "rb")
    try:
        path = urllib.parse.urlparse(url).path
    except ValueError as error:
        raise OSError(f"{url}: not a valid URL ({error})") from error
    if url.startswith("file://"):
        return open(urllib.request.url2pathname(path), "rb")
    name = re.sub(r"[^\w.-]", "_", os.path.basename(path)) or "download"
    target = cache_dir() / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}-{name}"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(f"{target}.lock"):  # of several processes one fetches it, the others wait
            if not target.exists():
                _download(url, target)
    if sha256 is not None and checksum(target) != sha256:
        target.unlink()
        raise OSError(f"{url}: the checksum is not {sha256}; the copy was deleted, try again")
    return open(target, "rb")


def checksum(path: os.PathLike) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(DOWNLOAD_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _download(url: str, target: Path) -> None:
    part = target.with_name(target.name + ".part")
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with urllib.request.urlopen(request, timeout=DOWNLOAD_TIMEOUT) as answer:
            resumed = have > 0 and answer.status == 206
            expected = answer.headers.get("Content-Length")
            total = int(expected) + (have if resumed else 0) if expected else None
            with open(part, "ab" if resumed else "wb") as file:
                while block := answer.read(DOWNLOAD_BLOCK):
                    file.write(block)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # the part is not a prefix of what the server now has
            part.unlink()
            raise OSError(f"{url}: the interrupted download no longer matches; it was deleted, try again") from error
        raise OSError(f"{url}: the server answered {error.code} {error.reason}") from error
    except (ValueError, http.client.InvalidURL) as error:
        raise OSError(f"{url}: not a valid URL ({error})") from error
    except urllib.error.URLError as error:
        raise OSError(f"{url}: no connection ({error.reason})") from error
    except (OSError, http.client.HTTPException) as error:
        raise OSError(f"{url}: the transfer broke off ({error or type(error).__name__}); run again to resume") from error
    if total is not None and part.stat().st_size != total:
        raise OSError(f"{url}: {part.stat().st_size} of {total} bytes arrived; run again to resume")
    os.replace(part, target)


def _beside(path: Path) -> str:
    """How the names of temporary files beside `path` begin."""
    return f".{path.stem[:40]}-"


@contextlib.contextmanager
def _in_place_of(path: Path):
    """Makes the folder that `path` goes into; after an error what was made goes, if nothing else came into it.

    Errors of the disk name the file that the user asked for, not the one beside it, and never no file at all.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise OSError(f"{path}: what is there is no ordinary file")
    made = [folder for folder in path.parents if not folder.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException as error:
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()
        if isinstance(error, OSError):
            if error.errno is None:
                raise OSError(f"{path}: cannot be written ({error})") from error
            parts = Path(os.fsdecode(error.filename or "")).parts
            if error.filename is None or any(part.startswith(_beside(path)) for part in parts):
                raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
        raise


def _make_public(path: Path, mode: int) -> None:
    """What tempfile makes is private: gives it the rights that an ordinary file or folder would have."""
    umask = os.umask(0)
    os.umask(umask)
    os.chmod(path, mode & ~umask)


@contextlib.contextmanager
def written_beside(path: os.PathLike):
    """Yields a temporary path in `path`'s folder and renames it onto `path` at the end; after an error nothing stays.

    The suffix is kept, since encoders choose their format by it. A link is followed.
    """
    path = Path(os.path.realpath(path)) if os.path.islink(path) else Path(path)
    with _in_place_of(path):
        handle, name = tempfile.mkstemp(prefix=_beside(path), suffix=path.suffix, dir=path.parent)
        os.close(handle)
        try:
            yield Path(name)
            _make_public(Path(name), 0o666)
            os.replace(name, path)
        finally:
            if os.path.exists(name):
                os.unlink(name)


@contextlib.contextmanager
def folder_written_beside(path: os.PathLike):
    """Yields a temporary folder beside `path`, whose files appear there at the end; after an error in the block nothing stays.

    Where no folder is, they appear together. One that is there keeps its other files, and gets the new ones one after another,
    in place of those of the same name.
    """
    path = Path(path)
    with _in_place_of(path):
        temporary = Path(tempfile.mkdtemp(prefix=_beside(path), dir=path.parent))
        try:
            yield temporary
            _make_public(temporary, 0o777)
            if path.exists():
                in_the_way = [path / file.name for file in temporary.iterdir() if (path / file.name).is_dir()]
                if in_the_way:
                    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(in_the_way[0]))
                for file in temporary.iterdir():
                    os.replace(file, path / file.name)
            else:
                os.replace(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


# ------------------------------------------------------------------------------------------------ logs

def format_time(seconds: float) -> str:
    """The two or three largest units: 5s, 2m 05s, 1h 02m 05s, 1d 01h 02m."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d {hours:02d}h {minutes:02d}m"
    if hours:
        return f"{hours}h {minutes:02d}m {rest:02d}s"
    return f"{minutes}m {rest:02d}s" if minutes else f"{rest}s"


class _Tee:
    """A stream whose text goes into a file too; in all else it is the stream."""

    def __init__(self, stream, file):
        self._stream, self._file = stream, file

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):  # a full disk: what goes wrong is told, and that is not the log
            self._file.write(text)
        return self._stream.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._file.flush()
        self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class Logger:
    """Inside `with Logger(path):` what is printed, and the block's error, is also appended to a file."""

    def __init__(self, path: os.PathLike):
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (closed on leaving the block)

    def __enter__(self) -> Logger:
        self._streams = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = [_Tee(stream, self._file) for stream in self._streams]
        return self

    def __exit__(self, kind, error, _traceback) -> None:
        sys.stdout, sys.stderr = self._streams
        with contextlib.suppress(OSError):
            if error is not None:
                self._file.write(f"{kind.__name__}: {error}\n")
            self._file.close()


# ------------------------------------------------------------------------------------------------ memory

MALLOC_OPTIONS = {  # of glibc's mallopt: number -> where freed memory is kept, and by default
    -4: (0, 65536),  # M_MMAP_MAX: arrays that get pages of their own
    -1: (2**31 - 1, 128 << 10),  # M_TRIM_THRESHOLD: free bytes at the end before the system gets them back
    -2: (64 << 20, 128 << 10),  # M_TOP_PAD: bytes to ask for in advance
}


def keep_freed_memory(keep: bool = True) -> None:
    """Lets this process keep freed memory for its next arrays, up to 2 GB, instead of returning it to the system.

    The system clears every page that it gives out: for the arrays of a picture of 512x512 that takes a quarter of the time.
    With glibc only; elsewhere nothing changes.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    for number, values in MALLOC_OPTIONS.items() if mallopt else ():
        mallopt(number, values[0 if keep else 1])
