"""Data sets: items, members of the official class, what is wrong with files, and the endless order."""

import io
import json
import pickle
import shutil
import zipfile

import numpy as np
import PIL.Image
import pytest
import scene
import torch

from dnnlib import EasyDict
from training import labels
from training.batches import Batches
from training.dataset import DatasetError, ImageFolderDataset, InfiniteSampler

COUNT = 7


@pytest.fixture
def path(tmp_path):
    scene.write_zip(tmp_path / "heads.zip", COUNT, 32, seed=0)
    return tmp_path / "heads.zip"


@pytest.fixture
def folder(path, tmp_path):
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path / "folder")
    return tmp_path / "folder"


def png(size=(32, 32), mode="RGB", color=0):
    file = io.BytesIO()
    PIL.Image.new(mode, size, color).save(file, "PNG")
    return file.getvalue()


def test_items(path, folder):
    """A zip and a folder give the same, what is in the files, in the order of names."""
    pictures, cameras, _, _ = scene.pictures(COUNT, 32, seed=0)
    for place in (path, folder):
        dataset = ImageFolderDataset(place, use_labels=True)
        assert len(dataset) == COUNT
        for index, (image, label) in enumerate(dataset):
            assert image.dtype == np.uint8 and label.dtype == np.float32
            assert np.array_equal(image.transpose(1, 2, 0), pictures[index])
            assert np.array_equal(label, cameras[index]) and np.array_equal(dataset.get_label(index), label)
            if index == COUNT - 1:
                break
        assert np.array_equal(dataset.labels(), cameras)
        np.testing.assert_allclose(dataset.get_label_std(), cameras.std(axis=0))
        dataset.check()


def test_members(path):
    dataset = ImageFolderDataset(str(path), resolution=32, use_labels=True)
    assert (dataset.name, dataset.image_shape, dataset.num_channels, dataset.resolution) == ("heads", [3, 32, 32], 3, 32)
    assert (dataset.label_shape, dataset.label_dim, dataset.has_labels, dataset.has_onehot_labels) == ([25], 25, True, False)
    assert dataset.get_details(2).raw_idx == 2 and not dataset.get_details(2).xflip
    bare = ImageFolderDataset(path)
    assert (bare.label_shape, bare.label_dim, bare.has_labels) == ([0], 0, False) and bare[0][1].shape == (0,)
    with pytest.raises(IndexError):
        dataset[COUNT]


def test_xflip(path):
    """Every picture once more, flipped, with the mirrored camera."""
    plain, both = ImageFolderDataset(path, use_labels=True), ImageFolderDataset(path, use_labels=True, xflip=True)
    assert len(both) == 2 * COUNT
    for index in range(COUNT):
        (image, label), (flipped, turned) = both[index], both[COUNT + index]
        assert np.array_equal(image, plain[index][0]) and np.array_equal(image[:, :, ::-1], flipped)
        assert np.array_equal(turned, labels.mirrored(label)) and not np.array_equal(turned, label)
        details = both.get_details(COUNT + index)
        assert details.xflip and details.raw_idx == index and np.array_equal(details.raw_label, label)
    assert np.array_equal(both.labels()[COUNT:], labels.mirrored(plain.labels()))


def test_max_size(path):
    """That many, the same for a seed, others for another, sorted."""
    def chosen(seed):
        dataset = ImageFolderDataset(path, max_size=3, random_seed=seed)
        return [dataset.get_details(index).raw_idx for index in range(len(dataset))]

    expected = np.arange(COUNT)
    np.random.RandomState(1).shuffle(expected)
    assert chosen(1) == sorted(expected[:3]) and chosen(1) == chosen(1)
    assert any(chosen(seed) != chosen(1) for seed in range(5))
    assert len(ImageFolderDataset(path, max_size=100)) == COUNT


def test_fingerprint(path, folder, tmp_path):
    """It knows the content, not the place."""
    def of(place, **kwargs):
        return ImageFolderDataset(place, use_labels=True, **kwargs).fingerprint()

    shutil.copy(path, tmp_path / "copy.zip")
    shutil.copytree(folder, tmp_path / "other", copy_function=shutil.copyfile)
    assert of(tmp_path / "copy.zip") == of(path) and of(tmp_path / "other") == of(folder)
    assert len({of(path), of(path, xflip=True), of(path, max_size=3), of(path, max_size=4)}) == 4
    before = of(folder)
    name = sorted(folder.rglob("*.png"))[3]
    with PIL.Image.open(name) as image:
        pixels = np.array(image)
    pixels[5, 5] ^= 1
    size = name.stat().st_size
    PIL.Image.fromarray(pixels).save(name, compress_level=0)
    assert name.stat().st_size == size and of(folder) != before


def test_in_other_processes(path):
    """It can be sent to one, after it was read from."""
    dataset = ImageFolderDataset(path, use_labels=True)
    dataset[0]
    assert np.array_equal(pickle.loads(pickle.dumps(dataset))[1][0], dataset[1][0])


def rewritten(path, change):
    """The zip with its files (name -> bytes) changed."""
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    change(files)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)


def with_labels(change):
    def changed(files):
        pairs = json.loads(files["dataset.json"])["labels"]
        files["dataset.json"] = json.dumps(dict(labels=change(pairs)))

    return changed


NAME = "00000/img00000003.png"


@pytest.mark.parametrize("change, words", [
    (lambda files: files.update({NAME: png((64, 64))}), f"{NAME}: is 64 x 64 RGB, expected 32 x 32 RGB"),
    (lambda files: files.update({NAME: png(mode="L")}), f"{NAME}: is 32 x 32 L, expected 32 x 32 RGB"),
    (lambda files: files.update({NAME: b"text"}), f"{NAME}: cannot be read as an image"),
    (lambda files: files.update({"00000/img00000000.png": png((32, 48))}), "is 32 x 48, expected a square of a power of two"),
    (lambda files: files.update({"00000/img00000000.png": png((48, 48))}), "is 48 x 48, expected a square of a power of two"),
    (lambda files: files.update({"00000/img00000000.png": png(mode="RGBA")}), "has mode RGBA, expected RGB or L"),
    (lambda files: files.pop("dataset.json"), "has no dataset.json"),
    (lambda files: files.update({"dataset.json": b"{"}), "dataset.json: no JSON"),
    (lambda files: files.update({"dataset.json": b'{"labels": null}'}), "holds no labels"),
    (with_labels(lambda pairs: pairs[:3] + pairs[4:]), f"has no label of {NAME} (1 of 7 images lack one)"),
    (with_labels(lambda pairs: [*pairs, ["other.png", pairs[0][1]]]), "has a label of other.png, which is not there"),
    (with_labels(lambda pairs: [*pairs, pairs[3]]), f"has two labels of {NAME}"),
    (with_labels(lambda pairs: [[n, c[:24] if n == NAME else c] for n, c in pairs]), f"the label of {NAME} has 24 numbers"),
    (with_labels(lambda pairs: [[n, [2 * x for x in c] if n == NAME else c] for n, c in pairs]), "no rotation"),
    (with_labels(lambda pairs: [1, 2]), "no pairs of a name and 25 numbers"),
])
def test_mistakes(path, change, words):
    """One line, which names the file."""
    rewritten(path, change)
    with pytest.raises(DatasetError) as raised:
        ImageFolderDataset(path, use_labels=True).check()
    assert words in str(raised.value) and str(path) in str(raised.value) and "\n" not in str(raised.value)


def test_other_places(path, tmp_path):
    data = path.read_bytes()
    (tmp_path / "cut.zip").write_bytes(data[: len(data) // 2])
    (tmp_path / "empty").mkdir()
    (tmp_path / "heads.tar").write_bytes(data)
    for name, words in (("cut.zip", "no complete zip"), ("empty", "holds no images"), ("heads.tar", "is a .zip or a folder"),
                        ("nowhere", "no such zip or folder")):
        with pytest.raises(DatasetError, match=words):
            ImageFolderDataset(tmp_path / name)
    with pytest.raises(DatasetError, match="expected 64 x 64"):
        ImageFolderDataset(path, resolution=64)


@pytest.mark.parametrize("workers", [0, 1])
def test_damaged_while_training(path, workers):
    """A picture whose header is right and whose data are not is named when its turn comes, in one line, from any process."""
    def damage(files):
        data = bytearray(files[NAME])
        data[len(data) // 2 : len(data) // 2 + 200] = bytes(200)
        files[NAME] = bytes(data)

    rewritten(path, damage)
    dataset = ImageFolderDataset(path, use_labels=True)
    dataset.check()
    config = EasyDict(batch_size=2, batch_gpu=2, G_kwargs=EasyDict(z_dim=4), data_loader_kwargs=EasyDict(
        pin_memory=True, num_workers=workers))
    batches = Batches(dataset, InfiniteSampler(COUNT), config, 1, torch.device("cpu"))
    with pytest.raises(DatasetError, match=NAME) as raised:
        for _ in range(COUNT):
            next(batches)
    assert "\n" not in str(raised.value)
    batches.close()


# ------------------------------------------------------------------------------------------------ order

def naive_order(length, rank, replicas, seed, count, window=0.5):
    """SPEC's words: shuffle; yield order[i] where i % replicas is the rank; swap it with one up to a window back."""
    random = np.random.RandomState(seed)
    order = list(range(length))
    array = np.array(order)
    random.shuffle(array)
    order, reach, found, i = array.tolist(), int(np.rint(length * window)), [], 0
    while len(found) < count:
        if i % replicas == rank:
            found.append(order[i % length])
        if reach >= 2:
            j = (i - random.randint(reach)) % length
            order[i % length], order[j] = order[j], order[i % length]
        i += 1
    return found


@pytest.mark.parametrize("length, replicas", [(1, 1), (3, 2), (10, 1), (10, 3), (101, 2)])
def test_order(length, replicas):
    for rank in range(replicas):
        sampler = InfiniteSampler(length, rank, replicas, seed=5)
        stream = iter(sampler)
        assert [next(stream) for _ in range(300)] == naive_order(length, rank, replicas, 5, 300)


def test_order_goes_on():
    """From any place, on every rank, by rank 0's state."""
    for taken in (0, 1, 7, 50):
        ranks = [InfiniteSampler(11, rank, 3, seed=2) for rank in range(3)]
        for sampler in ranks:
            sampler.advance(taken)
        state = ranks[0].state_dict()
        for rank in range(3):
            later = InfiniteSampler(11, rank, 3, seed=9)
            later.load_state_dict(state)
            stream = iter(later)
            assert [next(stream) for _ in range(40)] == naive_order(11, rank, 3, 2, taken + 40)[taken:]


def test_order_is_fair():
    """Every item comes about equally often."""
    stream = iter(InfiniteSampler(20, seed=1))
    counts = np.bincount([next(stream) for _ in range(2000)], minlength=20)
    assert counts.min() > 60 and counts.max() < 140


@pytest.mark.parametrize("length, rank, replicas", [(0, 0, 1), (5, 2, 2), (5, -1, 2)])
def test_order_of_nothing(length, rank, replicas):
    with pytest.raises(ValueError, match="no order"):
        InfiniteSampler(length, rank, replicas)
