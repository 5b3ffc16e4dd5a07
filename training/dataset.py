"""Posed pictures: a zip or a folder of images and a dataset.json, in the official format.

    dataset.json = {"labels": [["00000/img00000000.png", [25 floats]], ...]}

A label says where the picture's camera stands (training/labels.py). Everything wrong with the files is told when the data set
is opened or checked, with the file's name.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Tuple, Union

import numpy as np
import PIL.Image
import torch

import dnnlib
from training import labels

LABELS = "dataset.json"
PNG_START = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
PNG_MODES = {(8, 0): "L", (8, 2): "RGB"}  # (bits, colour type)
CHANNELS = {"L": 1, "RGB": 3}
UNREADABLE = (OSError, ValueError, SyntaxError, RuntimeError, zipfile.BadZipFile, zlib.error, PIL.Image.DecompressionBombError)
END_OF_FILE = 64  # bytes that tell whether a file changed


class DatasetError(ValueError):
    """Something is wrong with a data set; one line that names the file."""


class ImageFolderDataset(torch.utils.data.Dataset):
    """Item i is (uint8 [C, H, W], label float32 [25], or [0] without labels). The official class, by name and arguments.

    path: a zip or a folder. resolution: what the pictures must have. max_size: use that many, chosen by `random_seed`.
    use_labels: read dataset.json. xflip: every picture once more, flipped left to right. Official: such a picture keeps its
    label; here the camera is flipped too.
    Raises DatasetError, and OSError for what cannot be read.
    """

    def __init__(self, path, resolution=None, max_size=None, use_labels=False, xflip=False, random_seed=0):
        self.path = os.fspath(path)
        self.name = Path(self.path).stem
        self._files = open_files(self.path)
        PIL.Image.init()
        self._names = sorted(name for name in self._files.sizes if os.path.splitext(name)[1].lower() in PIL.Image.EXTENSION)
        if not self._names:
            raise DatasetError(f"{self.path}: holds no images")
        self._use_labels = use_labels
        self._raw_labels = self._read_labels() if use_labels else np.zeros([len(self._names), 0], dtype=np.float32)
        self._mode, size = self._header(0)
        if self._mode not in CHANNELS:
            raise DatasetError(f"{self._where(0)}: has mode {self._mode}, expected RGB or L: convert it with dataset_tool.py")
        if size[0] != size[1] or size[0] & (size[0] - 1):
            raise DatasetError(f"{self._where(0)}: is {size[0]} x {size[1]}, expected a square of a power of two: convert the "
                               "images with dataset_tool.py --resolution")
        if resolution is not None and size[0] != resolution:
            raise DatasetError(f"{self._where(0)}: is {size[0]} x {size[1]}, expected {resolution} x {resolution}")
        self.image_shape = [CHANNELS[self._mode], size[1], size[0]]
        self._chosen = np.arange(len(self._names))
        if max_size is not None and max_size < len(self._chosen):
            np.random.RandomState(random_seed).shuffle(self._chosen)
            self._chosen = np.sort(self._chosen[:max_size])
        self._xflip = bool(xflip)

    # -------------------------------------------------------------------------------------------- items

    def __len__(self) -> int:
        return len(self._chosen) * (2 if self._xflip else 1)

    def __getitem__(self, index: int) -> Tuple[np.ndarray, np.ndarray]:
        details = self.get_details(index)
        image = self._image(details.raw_idx)
        if details.xflip:
            image = image[:, :, ::-1]
        return image.copy(), self.get_label(index)

    def get_details(self, index: int) -> dnnlib.EasyDict:
        """raw_idx (of the sorted names), xflip, raw_label (as in the file) of an item."""
        raw, flipped = self._raw(index)
        return dnnlib.EasyDict(raw_idx=raw, xflip=flipped, raw_label=self._raw_labels[raw].copy())

    def get_label(self, index: int) -> np.ndarray:
        """The item's label, flipped if its picture is."""
        raw, flipped = self._raw(index)
        label = self._raw_labels[raw]
        return labels.mirrored(label) if flipped and self.has_labels else label.copy()

    def labels(self) -> np.ndarray:
        """All items' labels, [len, 25] (or [len, 0])."""
        chosen = self._raw_labels[self._chosen]
        if not self._xflip:
            return chosen
        return np.concatenate([chosen, labels.mirrored(chosen) if self.has_labels else chosen])

    def get_label_std(self) -> np.ndarray:
        """Deviation of each number over the file's labels."""
        return self._raw_labels.std(axis=0)

    def _raw(self, index: int) -> Tuple[int, bool]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"item {index} of {len(self)}")
        flipped, place = divmod(index % len(self), len(self._chosen))
        return int(self._chosen[place]), bool(flipped)

    # -------------------------------------------------------------------------------------------- facts

    @property
    def num_channels(self) -> int:
        """1 or 3."""
        return self.image_shape[0]

    @property
    def resolution(self) -> int:
        """Pixels along a side."""
        return self.image_shape[1]

    @property
    def label_shape(self) -> List[int]:
        """[25], or [0] without labels."""
        return list(self._raw_labels.shape[1:])

    @property
    def label_dim(self) -> int:
        """25 or 0."""
        return self._raw_labels.shape[1]

    @property
    def has_labels(self) -> bool:
        """Whether items have cameras."""
        return self.label_dim > 0

    @property
    def has_onehot_labels(self) -> bool:
        """Never: labels are cameras."""
        return False

    def fingerprint(self) -> str:
        """A hash of names, sizes, checksums (in a folder: the ends of files) and labels; the pictures are not read."""
        digest = hashlib.sha256()
        for name in self._names:
            digest.update(f"{name}\0{self._files.sizes[name]}\0{self._files.stamp(name)}\n".encode())
        digest.update(self._raw_labels.tobytes())
        digest.update(f"{self._chosen.tolist()} {self._xflip}".encode())
        return digest.hexdigest()

    # -------------------------------------------------------------------------------------------- files

    def problems(self) -> Iterator[str]:
        """One line for every image whose header does not fit the first one's; the pixels are not read."""
        for index in range(len(self._names)):
            try:
                mode, size = self._header(index)
            except DatasetError as error:
                yield str(error)
                continue
            if mode != self._mode or list(size) != self.image_shape[:0:-1]:
                yield (f"{self._where(index)}: is {size[0]} x {size[1]} {mode}, expected "
                       f"{self.resolution} x {self.resolution} {self._mode} like {self._names[0]}")

    def check(self) -> None:
        """Raises DatasetError for the first of `problems`."""
        for problem in self.problems():
            raise DatasetError(problem)

    def _where(self, index: int) -> str:
        return os.path.join(self.path, self._names[index])

    def _header(self, index: int) -> Tuple[str, Tuple[int, int]]:
        """Mode, and width and height."""
        try:
            with self._files.open(self._names[index]) as file:
                start = file.read(len(PNG_START) + 10)
                if start.startswith(PNG_START) and len(start) == len(PNG_START) + 10:
                    width, height, *kind = struct.unpack(">IIBB", start[len(PNG_START):])
                    if tuple(kind) in PNG_MODES:
                        return PNG_MODES[tuple(kind)], (width, height)
                with PIL.Image.open(io.BytesIO(start + file.read())) as image:
                    return image.mode, image.size
        except UNREADABLE as error:
            raise DatasetError(f"{self._where(index)}: cannot be read as an image ({error})") from error

    def _image(self, index: int) -> np.ndarray:
        try:
            data = self._files.read(self._names[index])
            with PIL.Image.open(io.BytesIO(data)) as image:
                mode, pixels = image.mode, np.array(image)
        except UNREADABLE as error:
            raise DatasetError(f"{self._where(index)}: cannot be read as an image ({error})") from error
        pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
        pixels = pixels.transpose(2, 0, 1)
        if mode != self._mode or list(pixels.shape) != self.image_shape:
            raise DatasetError(f"{self._where(index)}: is {pixels.shape[2]} x {pixels.shape[1]} {mode}, expected "
                               f"{self.resolution} x {self.resolution} {self._mode}")
        return pixels

    def _read_labels(self) -> np.ndarray:
        if LABELS not in self._files.sizes:
            raise DatasetError(f"{self.path}: has no {LABELS}, which says where each picture's camera stands: make one with "
                               "dataset_tool.py, or train without poses by --cond=False")
        where = os.path.join(self.path, LABELS)
        known = labels_by_name(self._files.read(LABELS), where)
        missing = [name for name in self._names if name not in known]
        if missing:
            raise DatasetError(f"{where}: has no label of {missing[0]} ({len(missing)} of {len(self._names)} images lack one)")
        extra = sorted(set(known) - set(self._names))
        if extra:
            raise DatasetError(f"{where}: has a label of {extra[0]}, which is not there ({len(extra)} such labels)")
        for name in self._names:
            wrong = labels.problem(known[name])
            if wrong:
                raise DatasetError(f"{where}: the label of {name} {wrong}")
        return np.array([known[name] for name in self._names], dtype=np.float32)


def labels_by_name(data: bytes, where: str) -> Dict[str, list]:
    """name -> label of a dataset.json's bytes, not judged yet. Raises DatasetError, which begins with `where`."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{where}: no JSON ({error})") from error
    pairs = content.get("labels") if isinstance(content, dict) else None
    if not isinstance(pairs, list):
        raise DatasetError(f'{where}: holds no labels, which are {{"labels": [["name.png", [25 numbers]], ...]}}; to train '
                           "without poses give --cond=False")
    if not all(isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str) for pair in pairs):
        raise DatasetError(f"{where}: holds labels that are no pairs of a name and 25 numbers")
    known: Dict[str, list] = {}
    for name, numbers in pairs:
        name = name.replace("\\", "/")
        if name in known:
            raise DatasetError(f"{where}: has two labels of {name}")
        known[name] = numbers
    return known


# ------------------------------------------------------------------------------------------------ zip or folder

class _Folder:
    """Files below a folder, by their relative names."""

    def __init__(self, path: str):
        self.root = path
        self.sizes = {}
        for folder, _folders, names in os.walk(path):
            for name in names:
                full = os.path.join(folder, name)
                self.sizes[os.path.relpath(full, path).replace(os.sep, "/")] = os.path.getsize(full)

    def open(self, name: str):
        return open(os.path.join(self.root, name), "rb")

    def read(self, name: str) -> bytes:
        with self.open(name) as file:
            return file.read()

    def stamp(self, name: str) -> str:
        """The end of the file, which holds a PNG's checksum."""
        with self.open(name) as file:
            file.seek(-min(self.sizes[name], END_OF_FILE), os.SEEK_END)
            return file.read().hex()


class _Zip:
    """Members of a zip; every process opens it for itself."""

    def __init__(self, path: str):
        self.path = path
        try:
            with zipfile.ZipFile(path) as archive:
                members = [member for member in archive.infolist() if not member.is_dir()]
        except (zipfile.BadZipFile, EOFError, struct.error) as error:
            raise DatasetError(f"{path}: is no complete zip ({error}): it may have been cut short; make it again") from error
        self.sizes = {member.filename: member.file_size for member in members}
        self._checksums = {member.filename: member.CRC for member in members}
        self._opened: Tuple[Optional[int], Optional[zipfile.ZipFile]] = (None, None)

    def _archive(self) -> zipfile.ZipFile:
        process, archive = self._opened
        if archive is None or process != os.getpid():
            archive = zipfile.ZipFile(self.path)
            self._opened = (os.getpid(), archive)
        return archive

    def open(self, name: str):
        return self._archive().open(name)

    def read(self, name: str) -> bytes:
        return self._archive().read(name)

    def stamp(self, name: str) -> int:
        return self._checksums[name]

    def __getstate__(self):
        return dict(self.__dict__, _opened=(None, None))


def open_files(path: str) -> Union[_Folder, _Zip]:
    """The files of a folder or zip: `sizes` by name, open(name), read(name). Raises DatasetError."""
    if os.path.isdir(path):
        return _Folder(path)
    if not os.path.exists(path):
        raise DatasetError(f"{path}: no such zip or folder of images")
    if os.path.splitext(path)[1].lower() != ".zip":
        raise DatasetError(f"{path}: a data set is a .zip or a folder of images")
    return _Zip(path)


# ------------------------------------------------------------------------------------------------ order

class InfiniteSampler(torch.utils.data.Sampler):
    """Endless order of items, every rank its share: shuffled once, and again little by little.

    After an item is passed on, it changes places with one that came up to half a round before. What `__iter__` yields starts
    where `taken` items were passed on to this rank; `advance` moves that place, so that a stopped run can go on from it.
    """

    def __init__(self, length: int, rank: int = 0, num_replicas: int = 1, seed: int = 0, window: float = 0.5):
        if length < 1 or not 0 <= rank < num_replicas:
            raise ValueError(f"no order of {length} items for rank {rank} of {num_replicas}")
        self.rank, self.num_replicas = rank, num_replicas
        self._random = np.random.RandomState(seed)
        self._order = np.arange(length)
        self._random.shuffle(self._order)
        self._window = int(np.rint(length * window))
        self._position = 0

    def _take(self) -> int:
        """This rank's next item; every rank's next one is passed over, so that all stand at the same place."""
        mine = 0
        for turn in range(self.num_replicas):
            place = self._position % len(self._order)
            if turn == self.rank:
                mine = int(self._order[place])
            if self._window >= 2:
                other = (place - self._random.randint(self._window)) % len(self._order)
                self._order[place], self._order[other] = self._order[other], self._order[place]
            self._position += 1
        return mine

    def advance(self, count: int) -> None:
        """Passes over this rank's next `count` items."""
        for _ in range(count):
            self._take()

    def __iter__(self) -> Iterator[int]:
        ahead = InfiniteSampler(len(self._order), self.rank, self.num_replicas)
        ahead.load_state_dict(self.state_dict())
        while True:
            yield ahead._take()

    def state_dict(self) -> dict:
        """Where the order stands: tensors and plain Python."""
        kind, keys, place, has_gauss, gauss = self._random.get_state()
        return dict(order=torch.from_numpy(self._order.copy()), window=self._window, position=self._position,
                    random=[kind, torch.from_numpy(keys.astype(np.int64)), place, has_gauss, gauss])

    def load_state_dict(self, state: dict) -> None:
        """Goes on from a `state_dict` of the same data set; ranks keep their own shares."""
        kind, keys, place, has_gauss, gauss = state["random"]
        self._random.set_state((kind, keys.numpy().astype(np.uint32), place, has_gauss, gauss))
        self._order = state["order"].numpy().copy()
        self._window, self._position = state["window"], state["position"]
