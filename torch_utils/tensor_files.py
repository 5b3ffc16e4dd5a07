"""Checkpoints as .safetensors: numbers that cannot hide code, and a configuration in JSON that says what they are.

The file holds every parameter and buffer under its dotted name, `G_ema.backbone.synthesis.b4.const`. The configuration is
the header's entry `eg3d`, a JSON object of

    version     of this format
    content     what the snapshot holds; a network stands there as {"$network": its name}
    networks    name -> {class, args, kwargs (of the constructor), training, buffers (names of the tensors that are buffers),
                trainable (names of the parameters that want gradients), attributes (what was set after construction, among
                them always the axes of the planes), halved (since version 2: names of tensors that are float16 here, and
                float32 in the network)}

JSON's values stand for themselves; what it lacks is an object of one key: $tuple, $set, $EasyDict, $OrderedDict, $dict
(pairs, for keys that are not text), $float (nan, inf), $tensor. A network written and read again, or taken to a pickle and
back, has the same bits.
"""

from __future__ import annotations

import collections
import json
import math
import os
import sys
from typing import Any, Dict, Iterator, Tuple, Union

import numpy as np
import safetensors
import torch
from safetensors.torch import save_file

from dnnlib import EasyDict
from dnnlib.util import written_beside
from torch_utils import persistence
from torch_utils.persistence import CheckpointError, Record

FORMAT_VERSION = 2
PLAIN_VERSION = 1  # of files that halve nothing, which older programs read too
KEY = "eg3d"  # of the configuration in the file's header
SUFFIX = ".safetensors"
WHOLE = "network"  # what a network is called that is a file's only content
DTYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")  # of $tensor
ALWAYS_TOLD = ("plane_axes",)  # attributes that are written even where they are the class's own
Path = Union[str, os.PathLike]


def is_tensor_file(path: Path) -> bool:
    """Whether a file begins as safetensors files do: the length of a JSON header, and the header."""
    with open(path, "rb") as file:
        head = file.read(9)
        return head[8:] == b"{" and int.from_bytes(head[:8], "little") < os.fstat(file.fileno()).st_size


def configuration(path: Path) -> dict:
    """A file's configuration, as JSON has it. Raises CheckpointError and OSError."""
    with persistence.explained(os.fspath(path), carries_code=False):
        return _configuration(path)


def load(path: Path, name: str = "") -> Any:
    """Reads a snapshot or a network; every tensor is on the CPU. `name` is what messages call the file.

    Raises CheckpointError, whose message starts with the name and says what is wrong, and OSError.
    """
    with persistence.explained(name or os.fspath(path), carries_code=False):
        config = _configuration(path)
        with safetensors.safe_open(path, "pt") as file:
            tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118
        networks = {}
        for key, described in config["networks"].items():
            prefix = f"{key}."
            own = {full[len(prefix):]: tensors.pop(full) for full in list(tensors) if full.startswith(prefix)}
            networks[key] = _rebuild(key, described, own)
        if tensors:
            raise CheckpointError(f"holds {next(iter(tensors))}, which belongs to no network")
        return _decode(config["content"], networks)


def save(obj: Any, path: Path, half: bool = False) -> None:
    """Writes a snapshot, or one network; the file appears under its name only when it is complete. half: round float32 to
    float16, for a file of half the size.

    Raises CheckpointError for what this format does not hold: objects other than networks of EG3D and plain values.
    """
    try:
        tensors, config = _as_data(obj)
        if half:
            _halve(tensors, config)
        text = json.dumps(config, indent=1)
    except RecursionError as error:
        raise CheckpointError(f"the snapshot: nested beyond measure, which {SUFFIX} cannot hold") from error
    except CheckpointError:
        raise
    except ValueError as error:  # Python writes no number of thousands of digits
        raise CheckpointError(f"the snapshot: {error}") from error
    _check_name(path)
    with written_beside(path) as temporary:
        try:
            save_file(tensors, temporary, metadata={KEY: text})
        except safetensors.SafetensorError as error:  # its way to say that the disk is full
            raise OSError(error) from error


def _check_name(path: Path) -> None:
    """Raises CheckpointError for a name that the safetensors package cannot open."""
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError as error:
        raise CheckpointError(f"{os.fspath(path)!a}: {SUFFIX} files need a name in Unicode, rename it") from error


def _as_data(obj: Any) -> Tuple[Dict[str, torch.Tensor], dict]:
    """Tensors by their names in the file, and the configuration."""
    networks: Dict[int, str] = {}  # id -> name
    described: Dict[str, dict] = {}
    tensors: Dict[str, torch.Tensor] = {}
    for name, network in _networks(obj):
        if id(network) not in networks:
            if any(f"{name}.".startswith(f"{other}.") or f"{other}.".startswith(f"{name}.") for other in described):
                raise CheckpointError(f"{name}: another network's name is the same or begins so, choose .pkl or other names")
            name.encode()  # a ValueError for half a letter
            networks[id(network)] = name
            described[name], own = _describe(network, name)
            tensors.update((f"{name}.{key}", tensor) for key, tensor in own.items())
    for _ in persistence.walk(obj):  # refuses what unfolds without end
        pass
    return tensors, dict(version=PLAIN_VERSION, content=_encode(obj, "the snapshot", networks), networks=described)


def _halve(tensors: Dict[str, torch.Tensor], config: dict) -> None:
    """Rounds in place what is float32. Raises CheckpointError where a number is too large for that."""
    config["version"] = FORMAT_VERSION
    for name, described in config["networks"].items():
        prefix = f"{name}."
        described["halved"] = [key[len(prefix):] for key, tensor in tensors.items()
                               if key.startswith(prefix) and tensor.dtype == torch.float32]
        for key in described["halved"]:
            rounded = tensors[prefix + key].half()
            if not torch.equal(rounded.isfinite(), tensors[prefix + key].isfinite()):
                raise CheckpointError(f"{prefix}{key} holds numbers beyond float16's: keep it in float32")
            tensors[prefix + key] = rounded


def _configuration(path: Path) -> dict:
    with open(path, "rb"):  # what cannot be opened is an OSError
        _check_name(path)
    with safetensors.safe_open(path, "pt") as file:
        return _checked((file.metadata() or {}).get(KEY))


def _checked(text: Any) -> dict:
    if text is None:
        raise CheckpointError("a safetensors file without EG3D's configuration: weights alone do not tell which network")
    config = json.loads(text)
    if not isinstance(config, dict) or not isinstance(config.get("networks"), dict) or "content" not in config:
        raise CheckpointError("damaged: its configuration is incomplete")
    version = config.get("version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise CheckpointError(f"its format is version {version!r}, this program knows up to {FORMAT_VERSION}: update it")
    return config


# ------------------------------------------------------------------------------------------------ one network

def _networks(obj: Any) -> Iterator[Tuple[str, torch.nn.Module]]:
    if isinstance(obj, torch.nn.Module):
        yield WHOLE, obj
    elif isinstance(obj, dict):
        yield from ((str(key), value) for key, value in obj.items() if isinstance(value, torch.nn.Module))


def _record(name: str, described: dict) -> Record:
    """What `persistence` rebuilds a network from, without its tensors."""
    class_name = described["class"]
    if not isinstance(class_name, str):
        raise CheckpointError(f"damaged: {name} has no class")
    state = dict(_init_args=_decode(described["args"], {}), _init_kwargs=_decode(described["kwargs"], {}))
    return Record(class_name, state, dict(module_src="", class_name=class_name))


def _describe(network: torch.nn.Module, name: str) -> Tuple[dict, Dict[str, torch.Tensor]]:
    """A network's entry of the configuration, and its tensors."""
    class_name = type(network).__name__
    home = persistence.OFFICIAL_CLASSES.get(class_name)
    if home is None or getattr(sys.modules.get(home), class_name, None) is not type(network):
        raise CheckpointError(f"{name} is a {class_name} of other code, which only pickles keep: {SUFFIX} carries no code")
    described: dict = {
        "class": class_name, "args": _encode(network._init_args, f"{name}'s arguments", {}),
        "kwargs": _encode(network._init_kwargs, f"{name}'s arguments", {}), "training": network.training}
    twin = persistence.construct(_record(name, described), name).train(network.training)
    described["attributes"] = {
        f"{path}.{key}" if path else key: value
        for path, module in network.named_modules()
        for key, value in _attributes(module, twin.get_submodule(path), f"{name}.{path}").items()}
    described["buffers"] = [key for key, _ in network.named_buffers(remove_duplicate=False)]
    described["trainable"] = [key for key, tensor in network.named_parameters(remove_duplicate=False) if tensor.requires_grad]
    tensors = {}
    for key, tensor in [*network.named_parameters(remove_duplicate=False), *network.named_buffers(remove_duplicate=False)]:
        tensors[key] = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)  # no two share their memory
    return described, tensors


def _attributes(module: torch.nn.Module, twin: torch.nn.Module, path: str) -> dict:
    """Plain attributes that were changed after construction."""
    changed = {}
    for key in persistence.carried_attributes(module):
        if key not in vars(twin):
            continue  # the class knows nothing of it, and reading a pickle as data drops it too
        value, own = [_encode(vars(some).get(key), f"{path}.{key}", {}) for some in (module, twin)]
        if json.dumps(value) != json.dumps(own) or key in ALWAYS_TOLD:
            changed[key] = value
    return changed


def _rebuild(name: str, described: dict, tensors: Dict[str, torch.Tensor]) -> torch.nn.Module:
    module = persistence.construct(_record(name, described), name).train(bool(described["training"]))
    buffers, trainable = set(described["buffers"]), set(described["trainable"])
    tensors = {**tensors, **{key: tensors[key].float() for key in described.get("halved", ())}}
    states: Dict[str, dict] = {path: _empty_state(some) for path, some in module.named_modules()}
    for path, state in states.items():
        if path:
            parent, _, child = path.rpartition(".")
            states[parent]["_modules"][child] = Record(child, state)
    for key, tensor in tensors.items():
        parent, _, own = key.rpartition(".")
        if parent not in states:
            raise CheckpointError(f"{name}.{key} belongs to no part of a {described['class']}")
        if key in buffers:
            states[parent]["_buffers"][own] = tensor
        else:
            states[parent]["_parameters"][own] = torch.nn.Parameter(tensor, requires_grad=key in trainable)
    for key, value in described["attributes"].items():
        parent, _, own = key.rpartition(".")
        if parent not in states or own not in persistence.carried_attributes(module.get_submodule(parent)):
            raise CheckpointError(f"{name}.{key} belongs to no part of a {described['class']}")
        states[parent][own] = _decode(value, {})
    _restore_layouts(module, states)
    persistence.fill(module, states[""], name, described["class"])
    return module


def _empty_state(module: torch.nn.Module) -> dict:
    return dict(_parameters={}, _buffers={}, _modules={}, training=module.training)


def _restore_layouts(module: torch.nn.Module, states: Dict[str, dict]) -> None:
    """The file is contiguous; convolutions that were made channels_last are so again."""
    for path, some in module.named_modules():
        made_so = [("_parameters", *item) for item in some._parameters.items()]
        made_so += [("_buffers", *item) for item in some._buffers.items()]  # of frozen layers
        for kind, key, made in made_so:
            have = states[path][kind].get(key)
            if made is not None and have is not None and have.shape == made.shape and have.stride() != made.stride():
                have.data = torch.empty_strided(made.shape, made.stride(), dtype=have.dtype).copy_(have.data)


# ------------------------------------------------------------------------------------------------ values as JSON

_KINDS = {"$EasyDict": EasyDict, "$OrderedDict": collections.OrderedDict}


def _encode(value: Any, where: str, networks: Dict[int, str]) -> Any:
    def inner(item):
        return _encode(item, where, networks)

    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, (set, dict)) and any(
            isinstance(item, int) and abs(item) > persistence.LARGEST_KEY for key in value for item in _members(key)):
        raise CheckpointError(f"{where}: holds a key beyond all measure, which {SUFFIX} cannot hold")
    if id(value) in networks:
        return {"$network": networks[id(value)]}
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"$float": repr(value)}
    if isinstance(value, torch.Tensor):
        shape = {} if value.numel() else dict(shape=list(value.shape))  # which lists of nothing do not tell
        return {"$tensor": inner(value.detach().cpu().tolist()), "dtype": str(value.dtype).removeprefix("torch."), **shape}
    if type(value) is list:
        return [inner(item) for item in value]
    if type(value) is tuple:
        return {"$tuple": [inner(item) for item in value]}
    if type(value) is set:
        return {"$set": [inner(item) for item in sorted(value, key=repr)]}
    if isinstance(value, dict) and type(value) in (dict, *_KINDS.values()):
        if not all(type(key) is str and not key.startswith("$") for key in value):
            plain = {"$dict": [[inner(key), inner(item)] for key, item in value.items()]}
        else:
            plain = {key: inner(item) for key, item in value.items()}
        tag = next((tag for tag, kind in _KINDS.items() if kind is type(value)), None)
        return plain if tag is None else {tag: plain}
    raise CheckpointError(f"{where}: holds a {type(value).__name__}, which {SUFFIX} cannot hold: choose .pkl, or leave it out")


def _decode(value: Any, networks: Dict[str, torch.nn.Module]) -> Any:
    if isinstance(value, list):
        return [_decode(item, networks) for item in value]
    if not isinstance(value, dict):
        return value
    tag = next((key for key in value if key.startswith("$")), None)
    if tag is None:
        return {key: _decode(item, networks) for key, item in value.items()}
    inner = value[tag]
    if tag == "$network":
        return networks[inner]
    if tag == "$float":
        return float(inner)
    content = _decode(inner, networks)
    if tag == "$tensor":
        tensor = torch.tensor(content, dtype=_dtype(value["dtype"]))
        return tensor.reshape(value["shape"]) if "shape" in value else tensor
    if tag in _KINDS:
        return _KINDS[tag](content)
    if tag not in ("$tuple", "$set", "$dict"):
        raise CheckpointError(f"its configuration holds {tag}, which this program does not know: update it")
    if tag != "$tuple":
        keys = content if tag == "$set" else [key for key, _ in content]
        persistence.plain_keys([item for key in keys for item in _members(key)])
    return dict(tuple=tuple, set=set, dict=dict)[tag[1:]](content)


def _members(key: Any) -> Iterator[Any]:
    """What a key is made of; JSON holds each tuple once, so this ends."""
    if isinstance(key, tuple):
        for item in key:
            yield from _members(item)
    else:
        yield key


def _dtype(name: str) -> torch.dtype:
    if name not in DTYPES:
        raise CheckpointError(f"its configuration holds a tensor of {name}, which is no type of numbers")
    return getattr(torch, name)
