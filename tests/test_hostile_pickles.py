"""Hostile and damaged checkpoints: each is refused with one line, nothing of it is executed, and it costs little.

Most files here are written instruction by instruction, since no pickler would write them. Wherever a file could act, acting
would create a marker file, and the marker must not appear.
"""

import io
import json
import os
import pickle
import pickletools
import random
import struct
import subprocess
import sys
import zipfile
from fractions import Fraction
from pathlib import Path

import pytest
import torch

from torch_utils import pickles
from torch_utils.persistence import CheckpointError
from training.networks_stylegan2 import FullyConnectedLayer

ROOT = Path(__file__).parents[1]
LONGEST_MESSAGE = 1000  # characters: one line that a person can still read
CPU_SECONDS = 2  # for a bomb; refusals take milliseconds
MEMORY_MB = 200  # for a bomb, above what the interpreter has

TEN_BILLION = 10**10


# ------------------------------------------------------------------------------------------------ an assembler

def program(*parts, protocol=2):
    return b"\x80" + bytes([protocol]) + b"".join(parts) + b"."


def plain(value):
    """Instructions that make a value of plain Python types."""
    if isinstance(value, bytes):
        return b"B" + struct.pack("<I", len(value)) + value
    return pickletools.optimize(pickle.dumps(value, 2))[2:-1]


def name(module, attribute):
    return f"c{module}\n{attribute}\n".encode()


def call(function, *arguments):
    return function + b"(" + b"".join(arguments) + b"tR"


def mapping(**items):
    """A dict whose values are given as instructions."""
    return b"}(" + b"".join(plain(key) + value for key, value in items.items()) + b"u"


def doubling(empty, join, levels=60):
    """Instructions for a value that contains the one below twice, `levels` deep: tiny in memory, endless to unfold."""
    parts = [empty + b"q\x00"]
    for level in range(levels):
        parts.append(b"0" + join(b"h" + bytes([level])) + b"q" + bytes([level + 1]))  # drop it, make the next, remember
    return b"".join(parts)


def double_list(get):
    return b"](" + get + get + b"e"


def double_tuple(get):
    return get + get + b"\x86"


def double_dict(get):
    return b"}(" + plain("a") + get + plain("b") + get + b"u"


def storage_bytes(numel=4, data=bytes(16), first=None, kind=None):
    """What PyTorch writes for a storage: magic number, protocol, system, description, keys, data."""
    count = numel if isinstance(numel, bytes) else plain(numel)
    system = dict(protocol_version=1001, little_endian=True, type_sizes=dict(short=2, int=4, long=4))
    kind = name("torch", "FloatStorage") if kind is None else kind
    description = b"(" + plain("storage") + kind + plain("0") + plain("cpu") + count + b"NtQ"
    opening = plain(0x1950A86A20F9469CFC6C) if first is None else first
    pickled = [opening, plain(1001), plain(system), description, plain(["0"])]
    return b"".join(map(program, pickled)) + struct.pack("<q", len(data) // 4) + data


def tensor(size=(2, 2), stride=(2, 1), stored=None):
    stored = storage_bytes() if stored is None else stored
    return call(name("torch._utils", "_rebuild_tensor_v2"), call(name("torch.storage", "_load_from_bytes"), plain(stored)),
                plain(0), *[part if isinstance(part, bytes) else plain(part) for part in (size, stride)], plain(False),
                call(name("collections", "OrderedDict")))


def persistent(class_name="FullyConnectedLayer", source="", version=6, **state):
    meta = mapping(type=plain("class"), version=plain(version), module_src=plain(source), class_name=plain(class_name),
                   state=mapping(**state))
    return call(name("torch_utils.persistence", "_reconstruct_persistent_obj"), meta)


def layer(class_name="FullyConnectedLayer", source="", version=6, **changes):
    """A FullyConnectedLayer of two by two; `changes` are instructions for parts of its state."""
    state = dict(
        _init_args=plain(()), _init_kwargs=plain(dict(in_features=2, out_features=2)), training=plain(False),
        _parameters=mapping(weight=tensor(), bias=tensor((2,), (1,))), _buffers=b"}", _modules=b"}")
    return persistent(class_name, source, version, **dict(state, **changes))


def generator(*args, **kwargs):
    """A TriPlaneGenerator with these constructor's arguments and nothing else; keyword values are instructions."""
    sizes = {key: plain(value) for key, value in dict(
        z_dim=4, c_dim=25, w_dim=512, img_resolution=128, img_channels=3, channel_max=4).items()}
    kwargs = dict(kwargs) if args else dict(sizes, **kwargs)
    return persistent("TriPlaneGenerator", _init_args=plain(args), _init_kwargs=mapping(**kwargs))


# ------------------------------------------------------------------------------------------------ the judge

@pytest.fixture
def marker(tmp_path):
    """A path that must not exist in the end."""
    path = tmp_path / "marker"
    yield path
    assert not path.exists(), "a checkpoint acted"


def one_line(message):
    return message.isprintable() and 0 < len(message) <= LONGEST_MESSAGE


def refusal(data, pattern="", load=pickles.load):
    """The message with which `load` refuses these bytes."""
    with pytest.raises(CheckpointError, match=pattern or None) as caught:
        load(data)
    assert one_line(str(caught.value)), str(caught.value)[:LONGEST_MESSAGE]
    return str(caught.value)


BOTH_LOADERS = pytest.mark.parametrize("load", [pickles.load, pickle.loads], ids=["pickles.load", "pickle.loads"])


def test_assembled_files_are_sound(tmp_path):
    """What the other tests spoil loads, so that it is the spoiled part that they show."""
    for load in (pickles.load, pickle.loads):
        network = load(program(mapping(G_ema=layer())))["G_ema"]
        assert type(network) is FullyConnectedLayer and torch.equal(network.weight, torch.zeros(2, 2))
    trap = tmp_path / "sprung"
    pickle.loads(hostile_calls(trap)["REDUCE of a GLOBAL"])
    assert trap.exists()


# ------------------------------------------------------------------------------------------------ code

def hostile_calls(marker):
    """Files that make Python's own unpickler create the marker, or reach for what could."""
    command = plain(f"touch {marker}")
    python = plain(f"open({str(marker)!r}, 'w')")
    system, posix = name("os", "system"), name("posix", "system")
    shell = b"(" + plain(["touch", str(marker)]) + b"t"
    by_stack = plain("posix") + plain("system") + b"\x93"
    nested = program(call(system, command))
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("archive/data.pkl", nested)
        file.writestr("archive/version", "3\n")
    return {
        "REDUCE of a GLOBAL": program(call(system, command)),
        "REDUCE of a STACK_GLOBAL": program(call(by_stack, command), protocol=4),
        "INST": program(b"(" + command + b"iposix\nsystem\n"),
        "OBJ": program(b"(" + posix + command + b"o"),
        "NEWOBJ": program(name("subprocess", "Popen") + shell + b"\x81"),
        "NEWOBJ_EX": program(name("subprocess", "Popen") + shell + b"}\x92", protocol=4),
        "in a dict": program(mapping(G=plain(None), G_ema=call(system, command))),
        "popped": program(call(system, command) + b"0" + b"}"),
        "eval": program(call(name("builtins", "eval"), python)),
        "exec": program(call(name("builtins", "exec"), python)),
        "eval of Python 2": program(call(name("__builtin__", "eval"), python)),
        "getattr": program(call(name("builtins", "getattr"), name("os", "system"), plain("__call__"))),
        "__import__": program(call(name("builtins", "__import__"), plain("antigravity"))),
        "dotted attribute": program(call(plain("torch") + plain("os.system") + b"\x93", command), protocol=4),
        "runpy": program(call(name("runpy", "run_path"), plain(str(marker)))),
        "pickle in a pickle": program(call(name("pickle", "loads"), plain(nested))),
        "torch.load": program(call(name("torch", "load"), plain(str(marker)))),
        "construct_class_by_name": program(
            name("dnnlib.util", "call_func_by_name") + b"(" + command + b"t" + mapping(func_name=plain("os.system")) + b"\x92",
            protocol=4),
        "torch.load inside a tensor": program(call(name("torch.storage", "_load_from_bytes"), plain(nested))),
        "torch.load of a zip inside a tensor": program(
            call(name("torch.storage", "_load_from_bytes"), plain(archive.getvalue()))),
        "later inside a tensor's bytes": program(tensor(stored=storage_bytes(first=call(system, command)))),
        "numpy array of objects": program(call(name("numpy.core.multiarray", "_reconstruct"), plain(0))),
        "state of a function": program(name("collections", "OrderedDict") + plain(dict(__module__="os")) + b"b"),
        "state of a class": program(name("training.triplane", "OSGDecoder") + plain(dict(forward="os.system")) + b"b"),
        "state of a dict": program(b"}" + plain(dict(update=1)) + b"b"),
        "persistent id": program(b"Pos.system\n"),
        "binary persistent id": program(plain("os.system") + b"Q"),
        "extension, 1 byte": program(b"\x82\x01"),
        "extension, 2 bytes": program(b"\x83\x01\x00"),
        "extension, 4 bytes": program(b"\x84\x01\x00\x00\x00"),
        "call of a string": program(call(plain("os.system"), command)),
        "call of a record": program(call(call(name("training.triplane", "OSGDecoder")), command)),
        "call without a tuple": program(name("collections", "OrderedDict") + command + b"R"),
        "type as dict key": program(b"}" + name("os", "system") + b"Ns"),
    }


@pytest.mark.parametrize("case", hostile_calls(""))
def test_code_is_refused(case, marker):
    """Whatever way a pickle has to call something, only the few functions of official snapshots answer."""
    refusal(hostile_calls(marker)[case])


def test_refused_names_are_told_with_the_remedy(marker):
    message = refusal(hostile_calls(marker)["REDUCE of a GLOBAL"], "os.system")
    assert "nothing was executed" in message and "--trust" in message


@pytest.mark.parametrize("text", ["two\nlines", "\x1b[2Jerased", "x" * 100_000], ids=["newline", "escape codes", "endless"])
def test_names_from_the_file_cannot_spoil_the_message(text):
    """Global names, class names, module names and tensor names are the file's words: printable and shortened in messages."""
    tensors = {text: tensor()}
    for part in (
            plain(text) + plain("name") + b"\x93", plain("os") + plain(text) + b"\x93", layer(class_name=text),
            layer(_parameters=mapping(**tensors)), layer(_modules=mapping(**{text: layer()})),
            layer(_init_kwargs=plain({text: 1})),
            generator(rendering_kwargs=mapping(superresolution_module=plain(text))),
            mapping(**{text: layer(_parameters=b"}")}),
            call(name("_codecs", "encode"), plain("a"), plain(text)), call(name("numpy", "dtype"), plain(text))):
        refusal(program(mapping(G_ema=part), protocol=4))


@pytest.mark.parametrize("spell", ["trap()", "syntax error here", "raise SystemExit"])
@BOTH_LOADERS
def test_carried_source_never_runs(load, marker, spell):
    """A persistent object of a known class is data; the text beside it may say what it wants."""
    source = f"open({str(marker)!r}, 'w').close()\n{spell}\nclass FullyConnectedLayer: pass\n"
    network = load(program(mapping(G_ema=layer(source=source))))["G_ema"]
    assert type(network) is FullyConnectedLayer


@BOTH_LOADERS
def test_unknown_class(load, marker):
    """A class that is not EG3D's is refused, and the message tells how to trust its source."""
    source = f"open({str(marker)!r}, 'w').close()\nclass Fork: pass\n"
    message = refusal(program(mapping(G_ema=layer("Fork", source))), "Fork", load)
    assert "--trust" in message and "trust=True" in message


def test_trust_does_run_it(tmp_path):
    """The counterpart: with trust=True, the carried source is executed."""
    source = f"open({str(tmp_path / 'ran')!r}, 'w').close()\nclass Fork: pass\n"
    network = pickles.load(program(mapping(G_ema=layer("Fork", source, bias_gain=plain(3)))), trust=True)["G_ema"]
    assert type(network).__name__ == "Fork" and network.bias_gain == 3 and (tmp_path / "ran").exists()


@pytest.mark.parametrize("way", ["keyword", "positional", "nested", "state"])
@pytest.mark.parametrize("victim", ["os.system", "subprocess.Popen", "torch.hub.load", "unheard_of.module"])
@BOTH_LOADERS
def test_constructors_call_no_foreign_name(load, victim, way, marker, tmp_path, monkeypatch):
    """rendering_kwargs['superresolution_module'] is looked up and called: only EG3D's own modules are, however it comes."""
    (tmp_path / "hubconf.py").write_text(f"def run(**kwargs):\n    open({str(marker)!r}, 'w').close()\n")
    (tmp_path / "unheard_of").mkdir()
    (tmp_path / "unheard_of" / "__init__.py").write_text(f"open({str(marker)!r}, 'w').close()\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "unheard_of", raising=False)
    for module, function in ((os, "system"), (subprocess, "Popen")):
        monkeypatch.setattr(module, function, lambda *args, **kwargs: marker.touch())
    rendering = dict(superresolution_module=victim)
    sr_kwargs = dict(repo_or_dir=str(tmp_path), model="run", source="local") if victim == "torch.hub.load" else {}
    if way == "keyword":
        network = generator(rendering_kwargs=plain(rendering), sr_kwargs=plain(sr_kwargs))
    elif way == "positional":
        network = generator(4, 25, 512, 128, 3, 0, {}, rendering, sr_kwargs, 4)
    elif way == "nested":
        inner = dict(z_dim=4, c_dim=25, w_dim=512, img_resolution=128, img_channels=3, rendering_kwargs=rendering,
                     sr_kwargs=sr_kwargs)
        network = generator(rendering_kwargs=plain(dict(superresolution_module="training.triplane.TriPlaneGenerator")),
                            sr_kwargs=plain(inner))
    else:
        good = dict(superresolution_module="training.superresolution.SuperresolutionHybrid2X")
        network = persistent("TriPlaneGenerator", rendering_kwargs=plain(rendering), _init_args=plain(()), _init_kwargs=plain(
            dict(z_dim=4, c_dim=25, w_dim=512, img_resolution=128, img_channels=3, channel_max=4, rendering_kwargs=good)))
    refusal(program(mapping(G_ema=network)), load=load)
    assert "unheard_of" not in sys.modules


# ------------------------------------------------------------------------------------------------ bombs

def bombs():
    """Files that would cost endless time or memory if they were followed."""
    lists, tuples = doubling(b"]", double_list), doubling(b")", double_tuple)
    dicts = doubling(b"}", double_dict)
    layers = plain(dict(z_dim=4, c_dim=0, w_dim=4, num_ws=1, num_layers=10**9))
    buffer = call(name("builtins", "bytearray"), plain(6 * 10**8))
    many = b"".join(plain(i * (2**61 - 1)) for i in range(10**5))
    meta = layer().partition(b"(")[2][:-2]
    digits = b"\x8b" + struct.pack("<i", 10**6) + b"\x7f" * 10**6  # LONG4: a number of a million bytes
    return {
        "huge memo index": program(b"}r\xff\xff\xff\xff"),
        "huge memo index as text": program(b"}p99999999999999\n"),
        "lists that double": program(mapping(G_ema=lists)),
        "dicts that double": program(mapping(G_ema=dicts)),
        "tuples that double": program(mapping(G_ema=tuples)),
        "tuples that double, as a key": program(b"}" + tuples + b"Ns"),
        "tuples that double, in a set": program(call(name("builtins", "set"), b"](" + tuples + b"e")),
        "tuples that double, as a key of an OrderedDict": program(
            call(name("collections", "OrderedDict"), b"](" + tuples + plain(1) + b"\x86e")),
        "tuples that double, as a kind of elements": program(tensor(stored=storage_bytes(kind=tuples))),
        "lists that double, as a number of elements": program(tensor(stored=storage_bytes(numel=lists))),
        "lists that double, as a NumPy type": program(call(name("numpy", "dtype"), lists)),
        "lists that double, as an encoding": program(call(name("_codecs", "encode"), plain("a"), lists)),
        "the same bytes a thousand times": program(
            b"](" + plain(storage_bytes(250_000, bytes(10**6))) + b"q\x00"
            + name("torch.storage", "_load_from_bytes") + b"q\x01"
            + b"h\x01h\x00\x85R" * 1000 + b"e"),
        "the same dict copied a thousand times": program(
            b"](" + mapping(**{f"key{index}": plain(index) for index in range(20_000)}) + b"q\x00"
            + name("dnnlib.util", "EasyDict") + b"q\x01" + b"h\x01h\x00\x85R" * 1000 + b"e"),
        "tuples that double, as a name": program(tuples + plain("system") + b"\x93", protocol=4),
        "lists that double, in arguments": program(layer(_init_kwargs=mapping(in_features=plain(2), out_features=lists))),
        "lists that double, in positional arguments": program(layer(_init_args=b"(" + lists + b"t")),
        "lists that double, as a class's name": program(generator(rendering_kwargs=mapping(superresolution_module=lists))),
        "lists that double, in the state": program(layer(activation=lists)),
        "dicts that double, in the state": program(layer(_parameters=dicts)),
        "lists that double, as a version": program(call(
            name("torch_utils.persistence", "_reconstruct_persistent_obj"), mapping(type=plain("class"), version=lists))),
        "lists that double, as a size": program(tensor(lists, lists)),
        "dict that holds itself": program(b"}q\x00" + plain("G_ema") + b"h\x00s"),
        "lists nested a hundred thousand deep": program(b"]" * 10**5 + b"a" * (10**5 - 1)),
        "dicts nested a hundred thousand deep": program((b"}" + plain("a")) * 10**5 + b"}" + b"s" * 10**5),
        "numbers of one hash as keys": program(b"}(" + b"".join(plain(i * (2**61 - 1)) + b"N" for i in range(10**5)) + b"u"),
        "numbers of one hash in a set": program(b"\x8f(" + many + b"\x90", protocol=4),
        "numbers of one hash in a frozen set": program(b"(" + many + b"\x91", protocol=4),
        "numbers of one hash in a called set": program(call(name("builtins", "set"), b"](" + many + b"e")),
        "a network ten thousand times": program(
            b"](" + meta + b"q\x00" + name("torch_utils.persistence", "_reconstruct_persistent_obj") + b"q\x01"
            + b"h\x01h\x00\x85R" * 10**4 + b"e"),
        "number of a million bytes": program(digits),
        "number of a million bytes as a version": program(call(
            name("torch_utils.persistence", "_reconstruct_persistent_obj"), mapping(type=plain("class"), version=digits))),
        "number of a million bytes as an argument": program(
            layer(_init_kwargs=mapping(in_features=digits, out_features=plain(2)))),
        "number of a million bytes as a class's name": program(
            generator(rendering_kwargs=mapping(superresolution_module=digits))),
        "ten billion elements": program(tensor(stored=storage_bytes(numel=TEN_BILLION))),
        "size of ten billion": program(tensor(size=(TEN_BILLION,), stride=(1,))),
        "size of ten billion, stride 0": program(tensor(size=(TEN_BILLION,), stride=(0,))),
        "ten billion bytes": program(b"\x8e" + struct.pack("<Q", TEN_BILLION), protocol=4),
        "text of ten billion bytes": program(b"\x8d" + struct.pack("<Q", TEN_BILLION), protocol=4),
        "frame of ten billion bytes": program(b"\x95" + struct.pack("<Q", TEN_BILLION) + b"}", protocol=4),
        "buffer inside a tensor's bytes": program(tensor(stored=storage_bytes(first=buffer))),
        "a million layers by position": program(
            persistent("MappingNetwork", _init_args=plain((16, 25, 32, 6, 10**6)), _init_kwargs=b"}")),
        "a billion layers": program(persistent("MappingNetwork", _init_args=plain(()), _init_kwargs=layers)),
        "endless resolution": program(generator(
            plane_resolution=plain(2**100_000),
            rendering_kwargs=plain(dict(superresolution_module="training.superresolution.SuperresolutionHybrid2X")))),
        "wide as the sky": program(layer(_init_kwargs=plain(dict(in_features=10**9, out_features=10**9)))),
    }


JUDGE = """
import json, os, resource, signal, sys
seconds, *paths = sys.argv[1:]
from torch_utils import pickles
pickles.load(paths[0])  # imports everything that loading needs
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
for path in paths:
    inward, outward = os.pipe()
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds) + 1))
        try:
            pickles.load(path)
            verdict = "loaded"
        except pickles.CheckpointError as error:
            verdict = str(error).replace(path, "file")
        except BaseException as error:
            verdict = f"{type(error).__name__} escaped: {str(error)[:200]}"
        os.write(outward, verdict.encode(errors="replace")[:5000])
        os._exit(0)
    os.close(outward)
    with open(inward, "rb") as stream:
        verdict = stream.read().decode()
    _, status, usage = os.wait4(child, 0)
    killed = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
    print(json.dumps(dict(path=path, verdict=verdict, killed=killed, kilobytes=usage.ru_maxrss)), flush=True)
"""


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory):
    """What happens with each bomb, each in a process of its own that is killed after CPU_SECONDS."""
    folder = tmp_path_factory.mktemp("bombs")
    files = {"sound": program(mapping(G_ema=layer())), **bombs()}
    paths = {case: folder / f"{index}.pkl" for index, case in enumerate(files)}
    for case, data in files.items():
        paths[case].write_bytes(data)
    run = subprocess.run(
        [sys.executable, "-c", JUDGE, str(CPU_SECONDS), *map(str, paths.values())], capture_output=True, text=True,
        cwd=ROOT, env=dict(os.environ, OMP_NUM_THREADS="1"), timeout=300)
    assert run.returncode == 0, run.stderr
    told = {record["path"]: record for record in map(json.loads, run.stdout.splitlines())}
    return {case: told[str(path)] for case, path in paths.items()}


HARMLESS = {  # where nothing unfolds them
    "lists that double", "dicts that double", "tuples that double", "dict that holds itself", "huge memo index",
    "huge memo index as text", "lists nested a hundred thousand deep", "number of a million bytes",
    "frame of ten billion bytes", "the same bytes a thousand times"}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork, to survive what it tests")
@pytest.mark.parametrize("case", bombs())
def test_bombs_are_cheap(case, verdicts):
    """Refused, or loaded where nothing unfolds it, in little time and memory."""
    verdict = verdicts[case]
    assert verdict["killed"] is None, f"took more than {CPU_SECONDS} s"
    assert (verdict["kilobytes"] - verdicts["sound"]["kilobytes"]) / 1024 < MEMORY_MB
    assert "escaped" not in verdict["verdict"], verdict["verdict"]
    assert one_line(verdict["verdict"]), verdict["verdict"]
    assert case in HARMLESS or verdict["verdict"] != "loaded"


# ------------------------------------------------------------------------------------------------ damage

def small_file():
    """A sound snapshot whose bytes are the same in every run."""
    return program(mapping(G_ema=layer(), D=layer(_init_args=plain((2, 2)), _init_kwargs=b"}", activation=plain("linear"))))


@pytest.mark.parametrize("cut", range(30))
def test_truncated(cut, tiny_path):
    """The shipped file, cut at thirty places from its first byte to its last: refused."""
    data = tiny_path.read_bytes()
    places = [1, 2, 3, 11, 12, 100, *[len(data) * part // 22 for part in range(1, 22)], len(data) - 100, len(data) - 2,
              len(data) - 1]
    refusal(data[: places[cut]])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.filterwarnings("ignore:.*by the arguments:RuntimeWarning")  # what a flipped byte may do to an attribute
def test_flipped_bytes(seed):
    """Two hundred snapshots a seed with one or a few bytes changed: each loads or is refused, nothing else happens."""
    sound, dice = small_file(), random.Random(seed)
    for _ in range(200):
        data = bytearray(sound)
        for _ in range(dice.choice([1, 1, 3])):
            data[dice.randrange(len(data))] = dice.randrange(256)
        try:
            pickles.load(bytes(data))
        except CheckpointError as error:
            assert one_line(str(error))


@pytest.mark.parametrize("seed", range(3))
def test_trusted_and_cut(seed):
    """A damaged file is told as such with trust=True too; only what the user trusts is executed."""
    sound, dice = small_file(), random.Random(seed)
    for _ in range(10):
        refusal(sound[: dice.randrange(len(sound))], load=lambda data: pickles.load(data, trust=True))


@pytest.mark.parametrize("state", ["parts", "parameters", "buffers", "modules", "label deviations", "arguments", "record"])
def test_state_of_the_wrong_kind(state):
    """A description that is sound as a pickle but makes no module is refused, not an error of ours."""
    text = plain("text")
    data = {
        "parts": layer(_parameters=text, _buffers=text, _modules=text),
        "parameters": layer(_parameters=mapping(weight=text, bias=plain([1]))),
        "buffers": layer(_buffers=mapping(weight=text)),
        "modules": layer(_modules=mapping(weight=text)),
        "label deviations": layer(_buffers=mapping(dataset_label_std=text)),
        "arguments": layer(_init_args=plain(1), _init_kwargs=text),
        "record": generator(rendering_kwargs=plain(
            dict(superresolution_module="training.superresolution.SuperresolutionHybrid2X"))).replace(
                plain("_init_args"), plain("_modules") + mapping(
                    decoder=call(name("training.triplane", "OSGDecoder")) + text + b"b") + plain("_init_args")),
    }[state]
    refusal(program(mapping(G_ema=data)))


def test_tensors_that_do_not_fit_are_named(tiny_path):
    """Missing, unknown and misshapen tensors are told by their full dotted path."""
    networks = pickles.load(tiny_path)
    G, path = networks["G_ema"], "backbone.synthesis.b8.conv0"
    conv = G.get_submodule(path)
    weight = conv.weight
    del conv._parameters["weight"]
    refusal(pickle.dumps(networks), rf"G_ema\.{path}\.weight is missing")
    conv.register_parameter("weight", torch.nn.Parameter(weight[:, 1:].clone()))
    refusal(pickle.dumps(networks), rf"G_ema\.{path}\.weight has shape \[8, 7, 3, 3\], expected \[8, 8, 3, 3\]")
    conv.register_parameter("weight", weight)
    conv.register_buffer("extra", torch.zeros(1))
    refusal(pickle.dumps(networks), rf"G_ema\.{path}\.extra is unknown")
    del conv.extra
    conv.more = FullyConnectedLayer(1, 1)
    refusal(pickle.dumps(networks), rf"G_ema\.{path}\.more is unknown")
    del conv.more
    del networks["D"].b4.mbstd
    refusal(pickle.dumps(networks), r"D\.b4\.mbstd is missing")


def test_plane_axes_that_do_not_fit_are_named(tiny_path):
    """They decide the pictures as much as any tensor of the state."""
    networks = pickles.load(tiny_path)
    networks["G_ema"].renderer.plane_axes = torch.eye(3).repeat(4, 1, 1)
    refusal(pickle.dumps(networks), r"G_ema\.renderer\.plane_axes has shape \[4, 3, 3\], expected \[3, 3, 3\]")


def test_tensors_of_another_precision_are_named(tiny_path):
    networks = pickles.load(tiny_path)
    networks["G_ema"].half()
    refusal(pickle.dumps(networks), r"G_ema\.\S+ is torch.float16, expected torch.float32")


def test_networks_in_a_list(tiny_path):
    """Rebuilt there as in a dict."""
    networks = pickles.load(pickle.dumps([pickles.load(tiny_path)["D"]]))
    assert type(networks[0]).__name__ == "DualDiscriminator"


def test_text_is_no_pickle():
    """Not even one whose letters are instructions, and nobody is told to trust it."""
    message = refusal(b"config:\n  foo: bar\n", "not a pickle")
    assert "--trust" not in str(message)


def test_tensors_of_other_kinds_are_named():
    """A text in a tensor's place."""
    refusal(program(mapping(G_ema=layer(_parameters=mapping(weight=plain("text"), bias=tensor((2,), (1,)))))), "G_ema.weight")


# ------------------------------------------------------------------------------------------------ other files

def safetensors(padding):
    header = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'.ljust(padding)
    return struct.pack("<Q", len(header)) + header + bytes(4)


def zipped():
    stream = io.BytesIO()
    torch.save({"a": torch.zeros(1)}, stream)
    return stream.getvalue()


OTHER_FILES = {
    "empty": (b"", "empty"),
    "one byte": (b"\x80", "."),
    "two bytes": (b"\x80\x04", "truncated"),
    "text": (b"hello world, this is no pickle", "not a pickle"),
    "picture": (b"\x89PNG\r\n\x1a\n" + bytes(100), "not a pickle"),
    "zeros": (bytes(1000), "not a pickle"),
    "git-lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n", "git lfs pull"),
    "zip": (zipped(), "zip archive"),
    "page": (b"<!DOCTYPE html><html><body>Sign in</body></html>", "web page"),
    "page after blanks": (b"\n  <html></html>", "web page"),
    "safetensors": (safetensors(64), "safetensors"),
    "safetensors of another length": (safetensors(0x120), "safetensors"),
    "newer protocol": (b"\x80\x06}.", "protocol 6"),
    "newer format": (program(mapping(G_ema=layer(version=7))), "format 7"),
    "another project": (pickle.dumps({"model": Fraction(1, 3)}), "fractions.Fraction"),
    "another project's network": (
        program(mapping(G_ema=layer("Generator", _init_kwargs=plain(dict(z_dim=512, magnitude_ema_beta=0.999))))), "--trust"),
    "old torch.save": (storage_bytes(), "."),
    "not a network": (program(mapping(G_ema=call(name("training.triplane", "OSGDecoder")))), "OSGDecoder"),
    "two values": (b"\x80\x02}}.", "damaged"),
    "no value": (b"\x80\x02.", "damaged"),
    "number": (b"I7\n.", "."),
}


@pytest.mark.parametrize("case", OTHER_FILES)
def test_other_files_are_told_apart(case, tmp_path):
    """What people mistake for a checkpoint; the message begins with the file's name."""
    data, pattern = OTHER_FILES[case]
    path = tmp_path / "network.pkl"
    path.write_bytes(data)
    assert refusal(path, pattern).startswith(str(path))
    assert refusal(path.read_bytes(), pattern).startswith("checkpoint")
    with open(path, "rb") as file:
        refusal(file, pattern)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"):
        pickles.load(tmp_path / "absent.pkl")
