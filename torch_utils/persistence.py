"""Objects that carry their source: the format of StyleGAN and EG3D snapshots (version 6).

A persistent object is pickled as one call, `_reconstruct_persistent_obj(meta)`, where meta is a dict of

    type 'class', version 6, module_src (the text of the module that defines the class), class_name,
    state (the object's __dict__, with the constructor's arguments as _init_args and _init_kwargs).

The official loader executes module_src. Here a checkpoint is data: `rebuild` makes the object from this project's class of
that name and fills it strictly, and the text is not executed. Only `rebuild_trusted` executes it, for networks of other code
bases, when the user says that he trusts the file.

This module knows classes of higher layers by name only and looks them up when one is needed.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import inspect
import reprlib
import sys
import types
import warnings
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

import numpy as np
import torch

from torch_utils import misc

FORMAT_VERSION = 6
EMBEDDED = "_embedded_"  # begins the names of modules made from trusted sources

# Where the persistent classes of official snapshots live.
OFFICIAL_CLASSES = {
    name: module
    for module, names in {
        "training.networks_stylegan2": (
            "FullyConnectedLayer Conv2dLayer MappingNetwork SynthesisLayer ToRGBLayer SynthesisBlock SynthesisNetwork "
            "Generator DiscriminatorBlock MinibatchStdLayer DiscriminatorEpilogue Discriminator"),
        "training.triplane": "TriPlaneGenerator",
        "training.superresolution": (
            "SynthesisBlockNoUp SuperresolutionHybrid8X SuperresolutionHybrid8XDC SuperresolutionHybrid4X "
            "SuperresolutionHybrid2X SuperresolutionHybridDeepfp32 SuperresolutionGeneral"),
        "training.dual_discriminator": "SingleDiscriminator DualDiscriminator DummyDualDiscriminator",
        "training.augment": "AugmentPipe",
    }.items()
    for name in names.split()
}
CONSTRUCTED_BY_NAME = ("superresolution_module", "class_name", "func_name")  # arguments that constructors look up and call
TRAINING_BUFFERS = ("dataset_label_std",)  # registered after construction, so no constructor makes them

LONGEST_MESSAGE = 600  # characters
LARGEST_SIZE = 2**20  # of any number among a constructor's arguments
MOST_LAYERS = 64
LARGEST_KEY = 2**60  # below it no two whole numbers have the same hash

REMEDY = "if it comes from someone you trust, load it with --trust (trust=True), which executes the code it carries"


class CheckpointError(ValueError):
    """A checkpoint that cannot be loaded; the message is one line for the user, whatever words the file puts into it."""

    def __init__(self, message: str):
        if len(message) > LONGEST_MESSAGE:  # a name without end: keep what is wrong and what to do
            message = f"{message[:LONGEST_MESSAGE // 2]} ... {message[-LONGEST_MESSAGE // 2:]}"
        printable = "".join(letter if letter.isprintable() else " " for letter in message)
        super().__init__(" ".join(printable.split()))


@contextlib.contextmanager
def explained(name: str, carries_code: bool = True) -> Iterator[None]:
    """Whatever is wrong with a checkpoint is a CheckpointError of one line that begins with its name.

    What the disk or the memory says passes as it is. Without `carries_code` nobody is told to trust it.
    """
    try:
        yield
    except OSError:
        raise
    except CheckpointError as error:
        message = str(error) if carries_code else str(error).replace(f"; {REMEDY}", "")
        raise CheckpointError(f"{name}: {message}") from error
    except RecursionError as error:
        raise CheckpointError(f"{name}: damaged: nested beyond measure") from error
    except Exception as error:
        if misc.is_out_of_memory(error):
            raise
        raise CheckpointError(f"{name}: truncated or damaged ({error})") from error


# ------------------------------------------------------------------------------------------------ classes that persist

_classes: Dict[Tuple[str, str], type] = {}  # (class name, source) -> the class as this process imported it
_sources: Dict[str, str] = {}  # module name -> its text
_import_hooks: List[Callable[[dict], dict]] = []


def persistent_class(cls: type) -> type:
    """Class decorator: instances remember their constructor's arguments and are pickled with their module's source."""
    if is_persistent(cls):
        return cls
    construct = cls.__init__

    @functools.wraps(construct)
    def __init__(self, *args, **kwargs):
        new = getattr(cls, "new_arguments", {})  # that the official class lacks, with what it does without them
        told = {key: value for key, value in kwargs.items() if key not in new or value != new[key]}
        remembered = copy.deepcopy((args, told)) if type(self) is cls else None
        construct(self, *args, **kwargs)
        if remembered is not None:  # a subclass remembers its own arguments, not those it gave to us
            self._init_args, self._init_kwargs = remembered

    def __reduce__(self):
        meta = dict(type="class", version=FORMAT_VERSION, module_src=module_source(type(self).__module__),
                    class_name=type(self).__name__, state=_state(self))
        return _reconstruct_persistent_obj, (meta,)

    def __deepcopy__(self, memo):
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        twin.__dict__.update({key: copy.deepcopy(value, memo) for key, value in _state(self).items()})
        return twin

    cls.__init__ = __init__
    cls.__reduce__ = __reduce__
    cls.__deepcopy__ = __deepcopy__
    cls.init_args = property(lambda self: copy.deepcopy(self._init_args))
    cls.init_kwargs = property(lambda self: copy.deepcopy(self._init_kwargs))
    cls._persistent = cls.__qualname__
    if cls.__module__.startswith(EMBEDDED):
        return cls  # what one load was trusted with is nothing that another load may use
    with contextlib.suppress(OSError, TypeError):  # a class typed at a prompt has no source: it works, and pickling it says so
        _classes[cls.__name__, module_source(cls.__module__)] = cls
    return cls


def is_persistent(obj: Any) -> bool:
    """Whether an object, or a class, is persistent itself (a subclass must be decorated too)."""
    cls = obj if isinstance(obj, type) else type(obj)
    return "_persistent" in vars(cls)


def import_hook(hook: Callable[[dict], dict]) -> Callable[[dict], dict]:
    """Registers a function meta -> meta that sees every persistent object before it is rebuilt; returns it (a decorator)."""
    _import_hooks.append(hook)
    return hook


def _state(obj: Any) -> dict:
    custom = getattr(type(obj), "__getstate__", None)
    if custom is None or custom is getattr(object, "__getstate__", None):
        return dict(obj.__dict__)
    return custom(obj)


def module_source(name: str) -> str:
    """The text of an imported module, as it was when it was first asked for."""
    if name not in _sources:
        _sources[name] = inspect.getsource(sys.modules[name])
    return _sources[name]


# ------------------------------------------------------------------------------------------------ from a pickle

class Record:
    """An object of a checkpoint as data: nothing of it has been executed.

    `meta` is a persistent object's, or None for one stored by name; then `class_name` is dotted.
    """

    def __init__(self, class_name: str, state: Optional[dict] = None, meta: Optional[dict] = None):
        self.class_name = class_name
        self.state = {} if state is None else state
        self.meta = meta


def checked_meta(meta: Any) -> dict:
    """Applies import hooks and checks the format. Raises CheckpointError."""
    if not isinstance(meta, dict):
        raise CheckpointError("damaged: a persistent object without its description")
    for hook in _import_hooks:
        meta = hook(dict(meta))
    version = meta.get("version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise CheckpointError(f"its objects have format {version}, this program knows up to {FORMAT_VERSION}: update it")
    expected = dict(type=str, module_src=str, class_name=str, state=dict)
    if meta.get("type") != "class" or any(not isinstance(meta.get(key), kind) for key, kind in expected.items()):
        raise CheckpointError("damaged: a persistent object with an incomplete description")
    return meta


def _reconstruct_persistent_obj(meta: dict) -> Any:
    """What a plain pickle.load calls: rebuilds the object as data, whatever source it carries."""
    meta = checked_meta(meta)
    return rebuild(Record(meta["class_name"], meta["state"], meta))


def rebuild(record: Record, path: str = "") -> Any:
    """Makes a persistent object from this process's class of its name and fills it with the recorded state.

    `path` is what error messages call the object. Raises CheckpointError for an unknown class, for constructor arguments that
    the class does not take, and for tensors that are missing, unknown or of another shape; the message names them.
    """
    cls = _known_class(record, path)
    if not issubclass(cls, torch.nn.Module):
        obj = cls.__new__(cls)
        obj.__dict__.update(record.state)
        return obj
    module = construct(record, path)
    fill(module, record.state, path, record.class_name)
    return module


def construct(record: Record, path: str = "") -> torch.nn.Module:
    """Makes a record's module on the meta device from the arguments it remembers; no tensor of it has values.

    Raises CheckpointError for an unknown class and for arguments that the class does not take.
    """
    cls = _known_class(record, path)
    args, kwargs = record.state.get("_init_args", ()), record.state.get("_init_kwargs", {})
    label = path or record.class_name
    try:
        _check_arguments(inspect.signature(cls).bind_partial(*args, **kwargs).arguments, label)
        with torch.device("meta"):  # no memory, no random draws: every tensor comes from the file
            return cls(*args, **kwargs)
    except CheckpointError:
        raise
    except Exception as error:  # whatever a constructor says about arguments that were meant for other code
        raise CheckpointError(f"{label}: this {record.class_name} was made by other code ({error}); {REMEDY}") from error


def fill(module: torch.nn.Module, state: Mapping, path: str, class_name: str) -> None:
    """Puts a recorded state into a module made by `construct`. Raises CheckpointError, which names what does not fit."""
    problems: List[str] = []
    try:
        _fill(module, state, path, problems)
    except (AttributeError, TypeError) as error:
        raise CheckpointError(f"damaged: {path or class_name} has no state of a module ({error})") from error
    if problems:
        more = f" and {len(problems) - 4} more" if len(problems) > 4 else ""
        raise CheckpointError(f"does not fit this {class_name}: {', '.join(problems[:4])}{more}; {REMEDY}")


def _known_class(record: Record, path: str) -> type:
    name, source = record.class_name, record.meta["module_src"]
    if (name, source) in _classes:  # this very text was imported here already
        return _classes[name, source]
    if name not in OFFICIAL_CLASSES:
        where = f" ({path})" if path else ""
        raise CheckpointError(f"holds a {name}{where}, which is no class of EG3D; {REMEDY}")
    __import__(OFFICIAL_CLASSES[name])
    return getattr(sys.modules[OFFICIAL_CLASSES[name]], name)


def _check_arguments(arguments: Any, path: str) -> None:
    """Refuses dotted names that a constructor would call, unless they are EG3D's own classes, and sizes beyond reason."""
    for key, value in walk(arguments):
        if key in CONSTRUCTED_BY_NAME:
            module, _, name = value.rpartition(".") if isinstance(value, str) else ("", "", "")
            if not module or OFFICIAL_CLASSES.get(name) != module:
                shown = f"{value[:80]!r}" if isinstance(value, str) else f"a {type(value).__name__}"
                raise CheckpointError(f"{path}: {key} is {shown}, which is no class of EG3D; {REMEDY}")
        if isinstance(value, int) and abs(value) > (MOST_LAYERS if key == "num_layers" else LARGEST_SIZE):
            raise CheckpointError(f"{path}: the argument {key} is beyond all measure")


def plain_keys(items: Sequence) -> Sequence:
    """Keys or members of a set that a file asks for, if hashing them takes no time: tuples of tuples may take for ever, and
    vast numbers may all have the same hash. Raises CheckpointError for others."""
    for item in items:
        if type(item) not in (str, int, float, bool, bytes, type(None)) or isinstance(item, int) and abs(item) > LARGEST_KEY:
            raise CheckpointError("truncated or damaged (a key or member of a set that is no plain value)")
    return items


def walk(value: Any, limit: int = 100_000) -> Iterator[Tuple[Any, Any]]:
    """Yields (key, value) of nested dicts, lists and tuples; refuses structures that unfold beyond `limit`."""
    waiting, seen = [(None, value)], 0
    while waiting:
        key, value = waiting.pop()
        seen += 1
        if seen > limit:
            raise CheckpointError("damaged: arguments nested beyond measure")
        yield key, value
        if isinstance(value, dict):
            waiting.extend(value.items())
        elif isinstance(value, (list, tuple)):
            waiting.extend((None, item) for item in value)


# ------------------------------------------------------------------------------------------------ filling a module

PLAIN = (bool, int, float, str, dict, list, tuple, set, torch.Tensor)  # what attributes may hold
FREE_SETTINGS = ("rendering_kwargs", "neural_rendering_resolution")  # checked by who renders
NUMBER_SETTINGS = ("conv_clamp", "act_gain", "bias_gain", "w_avg_beta", "disc_c_noise", "raw_fade", "group_size")
SWITCHED_SETTINGS = ("conv_clamp", "w_avg_beta", "fused_modconv_default")
_MODULE_INTERNALS = frozenset(torch.nn.Module().__dict__) - {"training"}


def _fill(module: torch.nn.Module, state: Mapping, path: str, problems: List[str]) -> None:
    """Puts recorded tensors and plain attributes into a module made on the meta device; collects what does not fit."""
    prefix = f"{path}." if path else ""
    for kind, make in (("_parameters", _as_parameter), ("_buffers", torch.Tensor.detach)):
        own = getattr(module, kind)
        recorded = {name: tensor for name, tensor in (state.get(kind) or {}).items() if tensor is not None}
        for name in TRAINING_BUFFERS:
            if kind == "_buffers" and name in recorded and name not in own:
                module.register_buffer(name, recorded[name])
        expected = {name: tensor for name, tensor in own.items() if tensor is not None}
        problems += [f"{prefix}{name} is missing" for name in expected if name not in recorded]
        problems += [f"{prefix}{name} is unknown" for name in recorded if name not in expected]
        for name in [name for name in expected if name in recorded]:
            have, want = recorded[name], expected[name]
            if not isinstance(have, torch.Tensor):
                problems.append(f"{prefix}{name} is no tensor")
            elif have.shape != want.shape:
                problems.append(f"{prefix}{name} has shape {list(have.shape)}, expected {list(want.shape)}")
            elif have.dtype != want.dtype:
                problems.append(f"{prefix}{name} is {have.dtype}, expected {want.dtype}")
            else:
                own[name] = make(have)

    children = {name: child for name, child in (state.get("_modules") or {}).items() if child is not None}
    known = {name: child for name, child in module._modules.items() if child is not None}
    problems += [f"{prefix}{name} is missing" for name in known if name not in children]
    problems += [f"{prefix}{name} is unknown" for name in children if name not in known]
    for name in known.keys() & children.keys():
        child = children[name]
        inner = child.state if isinstance(child, Record) else getattr(child, "__dict__", {})
        _fill(known[name], inner, prefix + name, problems)
    _carry_attributes(module, state, prefix, problems)


def _as_parameter(tensor: torch.Tensor) -> torch.nn.Parameter:
    return torch.nn.Parameter(tensor.detach(), requires_grad=tensor.requires_grad)


def carried_attributes(module: torch.nn.Module) -> List[str]:
    """Names of a module's plain attributes that travel with it: neither PyTorch's own nor private."""
    return [key for key in module.__dict__ if key not in _MODULE_INTERNALS and not key.startswith("_")]


def _carry_attributes(module: torch.nn.Module, state: Mapping, prefix: str, problems: List[str]) -> None:
    """Takes over what was set on the object after its construction; sizes stay what the constructor made of its arguments."""
    for key in carried_attributes(module):
        if key not in state:
            continue
        value = state[key]
        if not isinstance(value, torch.Tensor):
            sum(1 for _ in walk(value))  # refuses what unfolds without end
            value = _plain(value)
        own = module.__dict__[key]
        if isinstance(own, torch.Tensor):
            if isinstance(value, torch.Tensor) and value.shape == own.shape:
                module.__dict__[key] = value.detach().to(own.device)
            else:
                found = f"has shape {list(value.shape)}" if isinstance(value, torch.Tensor) else "is no tensor"
                problems.append(f"{prefix}{key} {found}, expected {list(own.shape)}")
        elif all(item is None or isinstance(item, PLAIN) for _, item in walk(value)):
            if key in FREE_SETTINGS or type(own) is type(value) and own == value or _is_setting(module, key, own, value):
                module.__dict__[key] = value
            else:
                warnings.warn(f"{prefix}{key} is {reprlib.repr(value)} in the file, but {reprlib.repr(own)} by the arguments "
                              "it was made with, which count", RuntimeWarning, stacklevel=2)


def _is_setting(module: torch.nn.Module, key: str, own: Any, value: Any) -> bool:
    """Whether an attribute can be another than the constructor made it, without the module being of another structure."""
    if isinstance(own, bool):
        return isinstance(value, bool)
    if key in SWITCHED_SETTINGS and (value is None or isinstance(value, bool) or value == "inference_only"):
        return True
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and (isinstance(own, float) or key in NUMBER_SETTINGS or type(module).__name__ == "AugmentPipe")


def _plain(value: Any) -> Any:
    """NumPy numbers as Python's, inside lists and dicts too."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        return type(value)((key, _plain(item)) for key, item in value.items())
    if type(value) in (list, tuple):
        return type(value)(_plain(item) for item in value)
    return value


# ------------------------------------------------------------------------------------------------ trusted sources

def rebuild_trusted(meta: dict) -> Any:
    """Makes a persistent object the official way: EXECUTES the source it carries. Raises CheckpointError."""
    meta = checked_meta(meta)
    module = _execute(meta["module_src"])
    cls = module.__dict__.get(meta["class_name"])
    if not isinstance(cls, type):
        raise CheckpointError(f"the source it carries defines no {meta['class_name']}; load it without --trust")
    obj = cls.__new__(cls)
    if hasattr(obj, "__setstate__"):
        obj.__setstate__(meta["state"])
    else:
        obj.__dict__.update(meta["state"])
    return obj


def _execute(source: str) -> types.ModuleType:
    name = f"{EMBEDDED}{hashlib.sha256(source.encode()).hexdigest()[:24]}"
    if name in sys.modules:
        return sys.modules[name]
    module = types.ModuleType(name, "Source carried by a checkpoint that the user trusts.")
    sys.modules[name] = module
    _sources[name] = source
    try:
        exec(compile(source, f"<{name}>", "exec", dont_inherit=True), module.__dict__)
    except Exception as error:
        del sys.modules[name]
        raise CheckpointError(f"the source it carries does not run here ({type(error).__name__}: {error})") from error
    return module
