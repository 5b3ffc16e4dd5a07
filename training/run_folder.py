"""A run's folder: its number, its options, whom it belongs to, and which run a command goes on with."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, Optional

import filelock

from dnnlib.util import written_beside
from training import checkpoint, config

OPTIONS = "training_options.json"
NUMBERED = re.compile(r"(\d{5,})-.+")
LOCK = ".lock"
HALF_WRITTEN = (".checkpoint-", ".network-snapshot-", ".fakes", ".reals-", ".index-", ".training_options-")
GROWING = ("*.jsonl",)  # files that a run appends to


def numbered(outdir: Path) -> Dict[int, Path]:
    """Runs in a folder, by their numbers."""
    found = outdir.iterdir() if outdir.is_dir() else []
    return {int(match[1]): path for path in found if (match := NUMBERED.fullmatch(path.name)) and path.is_dir()}


def next_folder(outdir: Path, name: str) -> Path:
    """Where the next run goes: the largest number + 1."""
    taken = [int(match[1]) for path in outdir.glob("*") if (match := NUMBERED.fullmatch(path.name))]
    return outdir / f"{max(taken, default=-1) + 1:05d}-{name}"


def begin(outdir: Path, name: str) -> Path:
    """Makes a new run's folder."""
    outdir.mkdir(parents=True, exist_ok=True)
    while True:
        folder = next_folder(outdir, name)
        try:
            folder.mkdir()
        except FileExistsError:  # another process was faster
            continue
        return folder


def write_options(folder: Path, settings: Dict[str, Any]) -> None:
    """Writes a run's options; those that may change are the latest."""
    with written_beside(folder / OPTIONS) as temporary:
        temporary.write_text(json.dumps(settings, indent=2))


def stored_options(folder: Path) -> Optional[Dict[str, Any]]:
    """The options of a run, None where they cannot be read."""
    try:
        content = json.loads((folder / OPTIONS).read_text())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def of(place: Path) -> Path:
    """The run's folder, of a checkpoint or of itself."""
    return place if place.is_dir() else place.parent


def lock(folder: Path) -> filelock.BaseFileLock:
    """Held while a run is being trained. Raises ValueError where another process holds it."""
    held = filelock.FileLock(folder / LOCK)
    try:
        held.acquire(timeout=0)
    except filelock.Timeout as error:
        raise ValueError(f"{folder}: another process is training this run: wait for it, or give --resume=none") from error
    return held


def unfinished(outdir: Path, settings: Dict[str, Any]) -> Optional[Path]:
    """The newest run that these settings began, has a checkpoint, and is not finished."""
    for _number, folder in sorted(numbered(outdir).items(), reverse=True):
        stored = stored_options(folder)
        if stored is None or stored.get("run_name") != settings["run_name"] or config.differing(stored, settings):
            continue
        if not checkpoint.found(folder):
            continue
        if checkpoint.images_seen(checkpoint.found(folder)[0]) < settings["total_kimg"] * 1000:
            return folder
    return None


def chosen(resume: str, outdir: Path, settings: Dict[str, Any]) -> Optional[Path]:
    """The run's folder or checkpoint that --resume stands for; None: a new run. Raises ValueError."""
    if resume == "none":
        return None
    if resume == "auto":
        return unfinished(outdir, settings)
    if resume == "latest":
        runs = [folder for _number, folder in sorted(numbered(outdir).items(), reverse=True) if checkpoint.found(folder)]
        if not runs:
            return None
        _require_same(runs[0], settings)
        return runs[0]
    path = Path(resume)
    if not path.exists():
        raise ValueError(f"--resume={resume}: no such run or checkpoint (auto, none and latest choose by themselves)")
    if path.is_dir() and not checkpoint.found(path):
        raise ValueError(f"--resume={resume}: there is no checkpoint in this folder")
    _require_same(of(path), settings)
    return path


def _require_same(folder: Path, settings: Dict[str, Any]) -> None:
    stored = stored_options(folder)
    if stored is None:
        raise ValueError(f"{folder / OPTIONS}: the run's options cannot be read")
    differing = config.differing(stored, settings)
    if differing:
        shown = ", ".join(f"{name} {one} (now {other})" for name, (one, other) in list(differing.items())[:3])
        raise ValueError(f"--resume: {folder} was begun with {shown}{' and more' if len(differing) > 3 else ''}: give the same "
                         "options, or --resume=none for a new run")


def load(path: Path, fingerprint: str, say: Callable[[str], None]) -> Dict[str, Any]:
    """The checkpoint to go on from. Raises ValueError when none is whole, or the data are others."""
    found = checkpoint.load_newest(path, say) if path.is_dir() else checkpoint.load(path)
    if found is None:
        raise ValueError(f"{path}: no checkpoint there is whole: begin anew with --resume=none")
    if found["data"] != fingerprint:
        raise ValueError(f"{path}: the data set is not the one that this run began with: give that, or begin anew with "
                         "--resume=none or --init-from")
    return found


def lengths(folder: Path) -> Dict[str, int]:
    """How long the growing files are now."""
    return {path.name: path.stat().st_size for path in _growing(folder)}


def tidy(folder: Path, nimg: int, known: Dict[str, int]) -> None:
    """Takes back what came after the checkpoint at `nimg` images, since it will be made again: later checkpoints, lines that
    the growing files got after their `lengths` were taken, and what was half-written when the run was killed."""
    for path in folder.glob(".*"):
        if path.name.startswith(HALF_WRITTEN) and path.is_file():
            path.unlink()
    for path in checkpoint.found(folder):
        if checkpoint.images_seen(path) > nimg:
            path.unlink()
    for path in _growing(folder):
        if path.stat().st_size > known.get(path.name, 0):
            os.truncate(path, known.get(path.name, 0))


def _growing(folder: Path) -> Iterator[Path]:
    for pattern in GROWING:
        yield from sorted(folder.glob(pattern))
