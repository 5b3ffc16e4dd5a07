"""What posed pictures are read from: a folder or zip with a dataset.json, NeRF's transforms.json, or a COLMAP text model.

Wherever they come from, a label is 25 numbers as in training/labels.py, with intrinsics divided by the width and height of the
picture as it lies there (of its crop, if it has one).
"""

from __future__ import annotations

import json
import os
import re
import zipfile
import zlib
from typing import Any, Dict, List, Optional

import PIL.Image

from eg3d.cameras import FFHQ_FOCAL
from eg3d.scenes import colmap, nerf
from eg3d.scenes.pictures import UNREADABLE, Box, Picture
from training import dataset as datasets

FORMATS = ("labels", "nerf", "colmap")
NO_LABELS = re.compile(rb'\s*\{\s*"labels"\s*:\s*null\s*\}\s*')
FFHQ_TOLERANCE = 1e-3
FFHQ_SIZES = ((1024, 1024), (1500, 1500))  # the standard release, and the aligned pictures that are to be cropped


class Source:
    """Pictures in the order of their names, and the names that labels have but no picture (`absent`)."""

    def __init__(self, path: str, files, kind: str, pictures: List[Picture], absent: List[str]):
        self.path, self.kind, self.pictures, self.absent = path, kind, pictures, absent
        self._files = files

    def where(self, name: str) -> str:
        """What a file is called in messages."""
        return os.path.join(self.path, name)

    def read(self, name: str) -> bytes:
        """A file's bytes. Raises ValueError, with one line that names it."""
        return _read(self._files, self.path, name)

    def mismatch(self) -> Optional[str]:
        """What is wrong if FFHQ's published labels lie beside pictures that they were not made for."""
        posed = [picture for picture in self.pictures if picture.label is not None]
        if not posed or any(picture.crop or not _like_ffhq(picture.label) for picture in posed):
            return None
        try:
            with self._files.open(posed[0].name) as file, PIL.Image.open(file) as image:
                size = image.size
        except (*UNREADABLE, zipfile.BadZipFile):  # told when it is converted or checked
            return None
        if size not in FFHQ_SIZES:
            return None
        return (f"{self.path}: holds pictures of {size[0]} x {size[1]} with FFHQ's focal length {FFHQ_FOCAL}, but the "
                "published labels belong to pictures cropped anew: give the aligned 1500 x 1500 ones and --crops=FILE.json, or "
                "--accept-labels if these labels were made for these pictures")


def _like_ffhq(label: Any) -> bool:
    return (isinstance(label, list) and len(label) == 25 and isinstance(label[16], (int, float))
            and abs(label[16] - FFHQ_FOCAL) < FFHQ_TOLERANCE)


def _read(files, path: str, name: str) -> bytes:
    try:
        return files.read(name)
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError) as error:
        raise ValueError(f"{os.path.join(path, name)}: cannot be read ({error})") from error


# ------------------------------------------------------------------------------------------------ opening

def opened(path: str, kind: Optional[str], radius: float, crops: Optional[str], limit: Optional[int]) -> Source:
    """The source at `path`. kind: one of FORMATS, or None to go by what lies there. radius: mean distance that imported cameras
    get from what they look at. crops: a JSON file of boxes. limit: that many pictures, the first.

    Raises ValueError with one line.
    """
    files = datasets.open_files(path)
    kind = kind or _kind(path, files)
    if crops is not None and kind != "labels":
        raise ValueError(f"{crops}: crops belong to a dataset.json, not to {kind} data: leave --crops out")
    if kind == "labels":
        found = _labelled(path, files, crops)
    else:
        def read(name):
            return _read(files, path, name)

        found = (nerf if kind == "nerf" else colmap).cameras(path, files.sizes, read, radius)
    pictures = sorted((picture for picture in found if picture.name in files.sizes), key=lambda picture: picture.name)
    absent = sorted(picture.name for picture in found if picture.name not in files.sizes)
    if not pictures:
        raise ValueError(f"{path}: holds no images" + (f"; {absent[0]} is named but not there" if absent else ""))
    return Source(path, files, kind, pictures[:limit], absent)


def _kind(path: str, files) -> str:
    found = [kind for kind, there in (
        ("labels", datasets.LABELS in files.sizes), ("nerf", nerf.model_file(files.sizes) is not None),
        ("colmap", colmap.model_folder(files.sizes) is not None or colmap.has_binary_model(files.sizes))) if there]
    if len(found) > 1:
        raise ValueError(f"{path}: holds cameras in {' and '.join(found)} format: say which by "
                         f"{' or '.join(f'--format={kind}' for kind in found)}")
    return found[0] if found else "labels"


def _is_image(name: str) -> bool:
    """Whether a file is a picture by its suffix; what systems hide is none."""
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))
    return not hidden and os.path.splitext(name)[1].lower() in PIL.Image.EXTENSION


def _labelled(path: str, files, crops: Optional[str]) -> List[Picture]:
    """All images, with what dataset.json says of them; and what it names besides."""
    PIL.Image.init()
    names = [name for name in files.sizes if _is_image(name)]
    data = _read(files, path, datasets.LABELS) if datasets.LABELS in files.sizes else b'{"labels": null}'
    labels: Dict[str, list] = {}
    if not NO_LABELS.fullmatch(data):
        labels = datasets.labels_by_name(data, os.path.join(path, datasets.LABELS))
    boxes = None if crops is None else _crops(crops)
    if boxes is not None:
        lacking = [name for name in sorted(names) if name not in boxes]
        if lacking:
            raise ValueError(f"{crops}: has no crop of {lacking[0]} ({len(lacking)} of {len(names)} images lack one)")
    return [Picture(name, labels.get(name), boxes.get(name) if boxes is not None else None)
            for name in sorted({*names, *labels})]


def _crops(path: str) -> Dict[str, Box]:
    """name -> (left, top, right, bottom), whole pixels, of a JSON file."""
    with open(path, "rb") as file:
        try:
            content = json.load(file)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}: no JSON ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f'{path}: holds no crops, which are {{"name.png": [left, top, right, bottom], ...}}')
    boxes = {}
    for name, box in content.items():
        numbers = box if isinstance(box, list) and all(type(x) in (int, float) and abs(x) < 1e6 for x in box) else []
        corners = tuple(round(x) for x in numbers)
        if len(corners) != 4 or corners[0] >= corners[2] or corners[1] >= corners[3]:
            raise ValueError(f"{path}: the crop of {name} is no [left, top, right, bottom] in pixels")
        boxes[name] = corners
    return boxes
