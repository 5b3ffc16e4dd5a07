"""One picture: decoded, cropped, resized, encoded, and its intrinsics with it. Worker processes run this: no torch here.

W, H are a picture's size in pixels; a box is (left, top, right, bottom) in them, pixel i reaching from i to i + 1. It may reach
beyond the picture, where it is black. Labels are 25 numbers whose intrinsics are divided by their picture's W and H.
"""

from __future__ import annotations

import dataclasses
import io
import struct
import zlib
from typing import List, Optional, Sequence, Tuple, Union

import numpy as np
import PIL.Image
import PIL.ImageOps

Box = Tuple[int, int, int, int]
SMALLEST = 32  # pixels along a side
PLAIN_MODES = ("RGB", "L", "1", "P", "CMYK", "YCbCr")  # 8 bits or less a channel, no alpha
UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, struct.error, zlib.error, PIL.Image.DecompressionBombError)


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture of a source."""

    name: str
    label: Optional[list]  # as it is found, not judged yet
    crop: Optional[Box] = None  # the part that is meant


@dataclasses.dataclass(frozen=True)
class Form:
    """How pictures are made."""

    transform: Optional[str] = None  # center-crop or center-crop-wide
    size: Optional[Tuple[int, int]] = None  # width, height; None: as they come
    mirror: bool = False  # each a second time, flipped
    background: Optional[str] = None  # colour under what is transparent; None: refuse it


@dataclasses.dataclass(frozen=True)
class Made:
    """A converted picture."""

    files: List[bytes]  # PNG: the picture, and its mirror image if asked for
    label: Optional[List[float]]
    side: int  # pixels
    mode: str  # of the source


# ------------------------------------------------------------------------------------------------ intrinsics

def cropped(label: Sequence[float], size: Tuple[int, int], box: Sequence[float]) -> List[float]:
    """The label of a part (`box`) of a picture of `size`. Resizing changes no label."""
    (width, height), (left, top, right, bottom) = size, box
    if (left, top, right, bottom) == (0, 0, width, height):
        return list(label)
    across, down = right - left, bottom - top
    fx, skew, cx, _, fy, cy = label[16:22]
    return [*label[:16], fx * width / across, skew * width / across, (cx * width - left) / across,
            0.0, fy * height / down, (cy * height - top) / down, *label[22:]]


# ------------------------------------------------------------------------------------------------ pixels

def decoded(data: bytes, where: str) -> PIL.Image.Image:
    """The picture in a file's bytes, read to its end. Raises ValueError that begins with `where`."""
    try:
        with PIL.Image.open(io.BytesIO(data)) as image:
            image.load()
            return image
    except UNREADABLE as error:
        raise ValueError(f"{where}: cannot be read as an image ({error})") from error


def in_color(image: PIL.Image.Image, where: str, background: Optional[str]) -> PIL.Image.Image:
    """RGB of 8 bits. Raises ValueError for deeper pictures, and for transparent ones without a background."""
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        if background is None and image.getextrema()[3] != (255, 255):
            raise ValueError(f"{where}: is transparent in places: give --background=white or black to lay it on")
        under = PIL.Image.new("RGBA", image.size, background or "black")
        return PIL.Image.alpha_composite(under, image).convert("RGB")
    if image.mode not in PLAIN_MODES:
        raise ValueError(f"{where}: has mode {image.mode}, expected 8 bits a channel: convert it to RGB")
    return image.convert("RGB")


def _region(size: Tuple[int, int], where: str, form: Form) -> Optional[Box]:
    """The box of a picture that is kept and stretched to form.size; None if the picture is too small for it."""
    width, height = size
    if form.transform == "center-crop":
        side = min(size)
        left, top = (width - side) // 2, (height - side) // 2
        return left, top, left + side, top + side
    if form.transform == "center-crop-wide":
        rows = round(form.size[1] * width / form.size[0])
        if width < form.size[0] or height < rows:
            return None
        # Official: takes as many rows of the picture as it would have if it were that wide, which squeezes larger pictures.
        top = (height - rows) // 2
        return 0, top, width, top + rows
    if width != height:
        raise ValueError(f"{where}: is {width} x {height}, not square: give --transform=center-crop or center-crop-wide")
    return 0, 0, width, height


def made(data: bytes, where: str, label: Optional[List[float]], crop: Optional[Box], form: Form) -> Optional[Made]:
    """Converts one picture; None if center-crop-wide drops it. `label` is that of the part `crop`, if this is given.

    Raises ValueError that begins with `where`.
    """
    source = decoded(data, where)
    image = in_color(source, where, form.background)
    if crop is not None:
        image = image.crop(crop)
    box = _region(image.size, where, form)
    if box is None:
        return None
    label = None if label is None else cropped(label, image.size, box)
    image = image.crop(box)
    size = form.size or image.size
    if image.size != size:
        image = image.resize(size, PIL.Image.Resampling.LANCZOS)
    if size[0] != size[1]:  # black rows above and below
        top = (size[0] - size[1]) // 2
        canvas = (0, -top, size[0], size[0] - top)
        label = None if label is None else cropped(label, size, canvas)
        image = image.crop(canvas)
    side = image.size[0]
    if side < SMALLEST or side & (side - 1):
        raise ValueError(f"{where}: would become {side} x {side}, expected a power of two, at least {SMALLEST}: give "
                         "--resolution")
    views = [image, PIL.ImageOps.mirror(image)] if form.mirror else [image]
    return Made([encoded(view) for view in views], label, side, source.mode)


def encoded(image) -> bytes:
    """A PNG of a picture or of pixels, uint8 [H, W, 3]. Not compressed: quick to read. Colour profiles, dates and the like stay
    behind."""
    buffer = io.BytesIO()
    PIL.Image.fromarray(np.asarray(image)).save(buffer, format="PNG", compress_level=0)
    return buffer.getvalue()


def examined(data: Union[bytes, str], where: str) -> Union[str, Tuple[str, Tuple[int, int]]]:
    """Mode and size of a picture that can be read to its end, else what is wrong; `data` may be what is already known so."""
    if isinstance(data, str):
        return data
    try:
        image = decoded(data, where)
    except ValueError as error:
        return str(error)
    return image.mode, image.size
