"""Checkpoints: files from which a run goes on exactly. They are not snapshots, which hold networks for everyone to use.

A checkpoint is PyTorch's zip of tensors and plain Python, read as data only. It is written beside its place and renamed, and
its checksums are verified before it is used. A run's folder keeps the last two.
"""

from __future__ import annotations

import os
import re
import zipfile
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

import torch

from dnnlib.util import written_beside

VERSION = 1
KEPT = 2
NAME = re.compile(r"checkpoint-(\d{9,})\.pt")


class DamagedCheckpoint(ValueError):
    """A file that is no complete checkpoint; one line."""


def path_of(folder: Path, nimg: int) -> Path:
    """Where the checkpoint after `nimg` images lies."""
    return folder / f"checkpoint-{nimg:09d}.pt"


def images_seen(path: Path) -> int:
    """What the name of a checkpoint says."""
    match = NAME.fullmatch(path.name)
    if match is None:
        raise ValueError(f"{path}: checkpoints are named like {path_of(Path(), 12000)}")
    return int(match[1])


def found(folder: Path) -> List[Path]:
    """Checkpoints in a run's folder, the newest first."""
    return sorted((path for path in folder.iterdir() if NAME.fullmatch(path.name)), key=images_seen, reverse=True)


def save(content: Dict[str, Any], path: Path) -> None:
    """Writes a checkpoint and then deletes all but the last two. Raises OSError with one line; the others stay then."""
    try:
        with written_beside(path) as temporary, open(temporary, "wb") as file:
            torch.save(dict(content, version=VERSION), file)
            file.flush()
            os.fsync(file.fileno())  # the new one is on the disk before an old one goes
    except (OSError, RuntimeError) as error:
        kept = found(path.parent)
        last = f"the last one, {kept[0]}, is intact" if kept else "there is none before it, so training begins anew"
        raise OSError(f"{path}: the checkpoint was not written ({_reason(error)}); {last}; make room and run the same command "
                      "again") from error
    for old in [other for other in found(path.parent) if other != path][KEPT - 1:]:
        old.unlink()


def _reason(error: Optional[BaseException]) -> str:
    """The system's words, which PyTorch's own error may hide."""
    first = str(error).splitlines()[0]
    while error is not None:
        if isinstance(error, OSError) and error.strerror:
            return error.strerror
        error = error.__context__
    return first


def load(path: Path) -> Dict[str, Any]:
    """Reads and verifies a checkpoint. Raises DamagedCheckpoint, OSError."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise DamagedCheckpoint(f"{path}: {damaged} in it has another checksum than it should")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (zipfile.BadZipFile, EOFError, RuntimeError) as error:
        raise DamagedCheckpoint(f"{path}: is no complete checkpoint ({str(error).splitlines()[0]})") from error
    except Exception as error:  # what the unpickler raises of files that are no checkpoints
        if isinstance(error, (OSError, DamagedCheckpoint)):
            raise
        raise DamagedCheckpoint(f"{path}: is no checkpoint ({type(error).__name__})") from error
    if not isinstance(content, dict) or content.get("version") != VERSION:
        raise DamagedCheckpoint(f"{path}: is no checkpoint of this version")
    return content


def load_newest(folder: Path, say: Callable[[str], None]) -> Optional[Dict[str, Any]]:
    """The newest checkpoint of a folder that is whole; `say` hears of those that are not. None where there is none."""
    for path in found(folder):
        try:
            return load(path)
        except DamagedCheckpoint as error:
            say(f"{error}; it is not used")
    return None
