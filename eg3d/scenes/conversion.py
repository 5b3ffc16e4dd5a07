"""Conversion: a source of posed pictures becomes a data set for training, as a stored zip or a folder.

Pictures are 00000/img00000000.png and on (..._mirror.png is flipped, and its camera with it), numbered as in the source;
dataset.json holds their labels, or null if one of them has none. The same input gives the same bytes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import zipfile
from pathlib import Path
from typing import Callable, Iterator, List, Optional

import numpy as np
import tqdm

from dnnlib.util import folder_written_beside, written_beside
from eg3d.scenes.pictures import Form, Made, made
from eg3d.scenes.sources import Source
from eg3d.scenes.workers import in_order
from training import labels
from training.dataset import LABELS

ZIP_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest there is
UNIX = 3
FILE_RIGHTS = 0o100644 << 16


@dataclasses.dataclass
class Converted:
    """What was written, and what the user should know of it."""

    count: int = 0  # pictures, mirrored ones too
    side: int = 0  # pixels
    labelled: bool = False
    notes: List[str] = dataclasses.field(default_factory=list)


def convert(source: Source, dest: str, form: Form, workers: int) -> Converted:
    """Writes the data set to `dest` (a .zip, or a new folder), where it appears when it is complete.

    Raises ValueError, with one line that names the file, and OSError.
    """
    _check_dest(source, dest)
    for picture in source.pictures:
        wrong = picture.label is not None and labels.problem(picture.label)
        if wrong:
            raise ValueError(f"{source.where(picture.name)}: its label {wrong}")
    jobs = ((source.read(picture.name), source.where(picture.name), picture.label, picture.crop, form)
            for picture in source.pictures)
    results = in_order(made, jobs, workers)
    with store(dest) as add, contextlib.closing(results):
        done = _write(source, tqdm.tqdm(results, total=len(source.pictures), unit="picture"), add)
    if source.absent:
        done.notes.append(f"{len(source.absent)} labels belong to no picture, like that of {source.absent[0]}")
    return done


def _write(source: Source, results, add: Callable[[str, bytes], None]) -> Converted:
    """Adds every picture and the labels."""
    done, pairs, dropped, other_modes, unlabelled = Converted(), [], [], [], []
    for index, (result, picture) in enumerate(zip(results, source.pictures)):
        if result is None:
            dropped.append(picture.name)
            continue
        done.side = done.side or result.side
        if result.side != done.side:
            raise ValueError(f"{source.where(picture.name)}: would become {result.side} x {result.side}, the pictures before "
                             f"it {done.side} x {done.side}: give --resolution")
        if result.mode != "RGB":
            other_modes.append(f"{picture.name} ({result.mode})")
        if result.label is None:
            unlabelled.append(picture.name)
        for name, data, label in _entries(index, result):
            add(name, data)
            pairs.append([name, label])
            done.count += 1
    if not pairs:
        raise ValueError(f"{source.path}: no picture is large enough for --transform=center-crop-wide at this --resolution")
    done.labelled = not unlabelled
    add(LABELS, json.dumps({"labels": pairs if done.labelled else None}).encode())
    if unlabelled:
        done.notes.append(f"no labels are written, since {len(unlabelled)} of {len(source.pictures)} pictures have none; the "
                          f"first is {unlabelled[0]}")
    if dropped:
        done.notes.append(f"{len(dropped)} pictures were too small and are left out; the first is {dropped[0]}")
    if other_modes:
        done.notes.append(f"{len(other_modes)} pictures were converted to RGB; the first is {other_modes[0]}")
    return done


def stem(index: int) -> str:
    """The name of a data set's picture, without its suffix."""
    return f"{index // 1000:05d}/img{index:08d}"


def _entries(index: int, result: Made):
    """(name, data, label) of a picture and its mirror image."""
    name = stem(index)
    yield f"{name}.png", result.files[0], result.label
    for data in result.files[1:]:
        label: Optional[list] = None
        if result.label is not None:
            label = labels.mirrored(np.array(result.label, dtype=np.float64)).tolist()
        yield f"{name}_mirror.png", data, label


# ------------------------------------------------------------------------------------------------ places

def _is_zip(dest: str) -> bool:
    return os.path.splitext(dest)[1].lower() == ".zip"


def _check_dest(source: Source, dest: str) -> None:
    path = Path(dest)
    if path.exists() and path.samefile(source.path):
        raise ValueError(f"{dest}: --dest is --source: give another place")
    if _is_zip(dest) and path.is_dir():
        raise ValueError(f"{dest}: is a folder, expected a zip's name")
    if not _is_zip(dest) and path.exists():
        if not path.is_dir():
            raise ValueError(f"{dest}: is a file, but no .zip: give a zip's name or a new folder's")
        if any(path.iterdir()):
            raise ValueError(f"{dest}: the folder is not empty: give a new one")


@contextlib.contextmanager
def store(dest: str) -> Iterator[Callable[[str, bytes], None]]:
    """Yields add(name, data); what was added appears at the end, at once."""
    if not _is_zip(dest):
        with folder_written_beside(dest) as folder:
            def add(name: str, data: bytes) -> None:
                (folder / name).parent.mkdir(exist_ok=True)
                (folder / name).write_bytes(data)

            yield add
        return
    with written_beside(dest) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        def add(name: str, data: bytes) -> None:
            entry = zipfile.ZipInfo(name, ZIP_DATE)
            entry.create_system, entry.external_attr = UNIX, FILE_RIGHTS
            archive.writestr(entry, data)

        yield add
