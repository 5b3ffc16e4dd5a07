"""The laws of the house: who may import whom, what may travel inside snapshots, what no module may reach for.

Imports are read from the source, function bodies included, and seen in fresh processes too. The allowed names of official
modules are those that the source inside official snapshots itself uses.
"""

import ast
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from dnnlib import EasyDict
from torch_utils.persistence import OFFICIAL_CLASSES, is_persistent

ROOT = Path(__file__).parents[1]
LAYERS = ("dnnlib", "torch_utils", "training", "eg3d")  # each may import itself and those before it; scripts may import all
TEACHING = {"ada", "batch_size", "batches", "checkpoint", "config", "dataset", "grids", "loss", "phases", "regularizers",
            "run_folder", "run_page", "schedules", "state", "training_loop", "watch"}
PERSISTENT = sorted(set(OFFICIAL_CLASSES.values()))
OLDEST_PYTHON = (3, 8)  # of the code bases that read our snapshots

# What modules inside snapshots may use of this project: names that the official package has too.
OPERATORS = dict(
    upfirdn2d="setup_filter upfirdn2d upsample2d downsample2d filter2d", bias_act="bias_act activation_funcs",
    conv2d_resample="conv2d_resample", fma="fma", conv2d_gradfix="conv2d no_weight_gradients",
    grid_sample_gradfix="grid_sample")
ABI = {
    "dnnlib": {"EasyDict", "util"},
    "dnnlib.util": {"EasyDict", "construct_class_by_name"},
    "torch_utils": {"misc", "persistence"},
    "torch_utils.misc": {"assert_shape", "constant", "profiled_function", "suppress_tracer_warnings"},
    "torch_utils.persistence": {"persistent_class", "is_persistent", "import_hook"},
    "torch_utils.ops": set(OPERATORS),
    **{f"torch_utils.ops.{module}": set(names.split()) for module, names in OPERATORS.items()},
    "training.networks_stylegan2": {name for name, module in OFFICIAL_CLASSES.items() if module.endswith("stylegan2")},
    "training.networks_stylegan3": {"SynthesisLayer"},
    "training.volumetric_rendering.renderer": {"ImportanceRenderer"},
    "training.volumetric_rendering.ray_marcher": {"MipRayMarcher2"},
    "training.volumetric_rendering.ray_sampler": {"RaySampler"},
}


# ------------------------------------------------------------------------------------------------ reading the source

def product_files():
    return sorted([*ROOT.glob("*.py"), *[path for layer in LAYERS for path in (ROOT / layer).rglob("*.py")]])


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path, tree=None):
    """Yields (module, name or None) of every import statement; relative ones are resolved."""
    package = module_name(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    for node in ast.walk(ast.parse(path.read_text()) if tree is None else tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((module, alias.name) for alias in node.names)


def outermost(tree):
    """The statements that run when a module is imported: everything but the bodies of functions."""
    class WithoutBodies(ast.NodeTransformer):
        def visit_FunctionDef(self, node):
            node.body = [ast.Pass()]
            return node

        visit_AsyncFunctionDef = visit_FunctionDef

    return WithoutBodies().visit(tree)


FILES = pytest.mark.parametrize("path", product_files(), ids=lambda path: str(path.relative_to(ROOT)))


def layer_of(module):
    first = module.partition(".")[0]
    return LAYERS.index(first) if first in LAYERS else None


@FILES
def test_imports_go_down(path):
    """scripts -> eg3d -> training -> torch_utils -> dnnlib, never back; no module imports a script."""
    own = layer_of(module_name(path))
    scripts = {script.stem for script in ROOT.glob("*.py")}
    for module, _name in imports(path):
        if own is not None:
            assert module.partition(".")[0] not in scripts, f"imports the script {module}"
            assert (layer_of(module) or 0) <= own, f"imports {module}, which stands above it"


@FILES
def test_the_model_does_not_know_how_it_is_taught(path):
    """Inside training/, teaching imports the model, never the reverse."""
    parts = module_name(path).split(".")
    if parts[0] != "training" or len(parts) == 1 or parts[1] in TEACHING:
        return
    for module, name in imports(path):
        taught = module.split(".")[1:2] if module != "training" else [name]
        assert not (module.startswith("training") and TEACHING & set(taught)), f"imports {module} {name or ''}"


@FILES
def test_torchvision_is_optional(path):
    """Nothing imports it when it is imported itself."""
    found = {module.partition(".")[0] for module, _ in imports(path, outermost(ast.parse(path.read_text())))}
    assert "torchvision" not in found


@FILES
def test_only_public_parts_of_torch(path):
    """PyTorch's private functions change without notice: no torch._x, no torch.a._x, no `from torch.a import _x`."""
    tree = ast.parse(path.read_text())
    aliases = {"torch"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            aliases |= {alias.asname for alias in node.names if alias.name.startswith("torch.") and alias.asname}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "torch" and not node.level:
            aliases |= {alias.asname or alias.name for alias in node.names}
    for module, name in imports(path):
        if module.partition(".")[0] == "torch":
            private = [part for part in [*module.split("."), name or ""] if part.startswith("_")]
            assert not private, f"imports {module} {name or ''}"
    for node in ast.walk(tree):
        chain = dotted(node)
        if chain and chain[0] in aliases:
            private = [part for part in chain[1:] if part.startswith("_") and not part.startswith("__")]
            assert not private, f"line {node.lineno}: {'.'.join(chain)}"


def dotted(node):
    """['a', 'b', 'c'] of the expression a.b.c, else None."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return [node.id, *parts[::-1]] if isinstance(node, ast.Name) else None


# ------------------------------------------------------------------------------------------------ seen in a process

ALONE = """
import importlib, os, sys
sys.path.insert(0, sys.argv[1])
import torch  # once for all: what is asked is which of this project's modules come along
sys.modules["torchvision"] = None  # importing it fails
for line in sys.stdin.read().split():
    sys.stdout.flush()
    if os.fork() == 0:
        try:
            importlib.import_module(line)
            found = {name.partition(".")[0] for name in sys.modules} & {"dnnlib", "torch_utils", "training", "eg3d"}
            teaching = {name for name in sys.modules if name.startswith("training.")}
            print(line, *sorted(found | teaching), flush=True)
        except ModuleNotFoundError as error:
            print(line, "missing", error.name, flush=True)
        except BaseException as error:
            print(line, "failed", type(error).__name__, str(error).splitlines()[:1], flush=True)
        os._exit(0)
    os.wait()
"""


@pytest.fixture(scope="module")
def companions():
    """For every module of the layers: what it brings into a process that had none of them."""
    modules = [module_name(path) for path in product_files() if layer_of(module_name(path)) is not None]
    run = subprocess.run([sys.executable, "-I", "-c", ALONE, str(ROOT)], input="\n".join(modules), capture_output=True,
                         text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    told = dict(line.split(" ", 1) for line in run.stdout.splitlines())
    assert set(told) == set(modules)
    return told


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork, to import each module afresh in little time")
def test_each_module_alone(companions):
    """A module can be imported first, and brings nothing of the layers above it; optional packages may be missing."""
    for module, found in companions.items():
        words = found.split()
        if words[0] == "missing":
            assert layer_of(words[1]) is None, f"{module} does not find {words[1]}"
            assert words[1].partition(".")[0] != "torchvision", f"{module} imports torchvision at once"
            continue
        assert words[0] != "failed", f"{module}: {found}"
        above = set(LAYERS[layer_of(module) + 1:])
        assert not above & set(words), f"{module} brings {above & set(words)}"
        if module.startswith("training.") and module.split(".")[1] not in TEACHING:
            assert not {f"training.{name}" for name in TEACHING} & set(words), f"{module} brings its teaching"


# ------------------------------------------------------------------------------------------------ the closure rule

def persistent_path(module):
    return ROOT / (module.replace(".", "/") + ".py")


MODULES = pytest.mark.parametrize("module", [name for name in PERSISTENT if persistent_path(name).exists()])


@MODULES
def test_snapshot_source_is_old_python(module):
    """The text that travels inside snapshots parses in the Python of the code bases that read it."""
    ast.parse(persistent_path(module).read_text(), feature_version=OLDEST_PYTHON)


@MODULES
def test_snapshot_source_is_closed(module):
    """It imports torch, numpy, scipy, the standard library, and names that the official modules have too."""
    path = persistent_path(module)
    for source, name in imports(path):
        if source.partition(".")[0] in {"torch", "numpy", "scipy"} | sys.stdlib_module_names:
            continue
        assert source in ABI, f"imports {source}"
        assert name is None or name in ABI[source], f"imports {name} of {source}"


@MODULES
def test_snapshot_source_uses_official_names(module):
    """Of the official modules that it imports, it touches only names that they have."""
    path = persistent_path(module)
    tree = ast.parse(path.read_text())
    bound = {}  # local name -> module
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            bound.update({alias.asname or alias.name.partition(".")[0]: alias.name for alias in node.names})
        elif isinstance(node, ast.ImportFrom):
            bound.update({alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names})
    for node in ast.walk(tree):
        chain = dotted(node)
        if not chain or bound.get(chain[0]) not in ABI:
            continue
        source = bound[chain[0]]
        for attribute in chain[1:]:
            assert attribute in ABI[source], f"line {node.lineno}: {source} has no {attribute} officially"
            source = f"{source}.{attribute}"
            if source not in ABI:
                break


@MODULES
def test_snapshot_source_has_no_optional_imports(module):
    """What it needs is at the top, so that a snapshot that loads also runs."""
    tree = ast.parse(persistent_path(module).read_text())
    everywhere = [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]
    assert everywhere == [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]


def constructed():
    """One object of every persistent class, or of a class that contains it."""
    from training import augment, dual_discriminator, networks_stylegan2, superresolution, triplane, volumetric_rendering

    rendering = dict(superresolution_module="training.superresolution.SuperresolutionGeneral")
    small = dict(channel_base=64, channel_max=8)
    for architecture in ("orig", "skip", "resnet"):
        for kind in (dual_discriminator.SingleDiscriminator, dual_discriminator.DualDiscriminator,
                     dual_discriminator.DummyDualDiscriminator, networks_stylegan2.Discriminator):
            yield kind(25, 16, 3, architecture=architecture, block_kwargs=dict(freeze_layers=2), **small)
        yield networks_stylegan2.Generator(8, 25, 8, 16, 3, architecture=architecture, **small)
    for kind, size in (("8X", 512), ("8XDC", 512), ("4X", 256), ("2X", 128), ("Deepfp32", 256)):
        yield getattr(superresolution, f"SuperresolutionHybrid{kind}")(4, size, 4, w_dim=8)
    yield triplane.TriPlaneGenerator(
        8, 25, 8, 32, 3, 0, dict(num_layers=1), rendering, {}, plane_resolution=16, plane_channels=4, decoder_width=8,
        plane_axes=volumetric_rendering.renderer.CORRECTED_AXES, **small)
    yield augment.AugmentPipe(xflip=1, hue=1)


INTERNALS = set(torch.nn.Module().__dict__) - {"_parameters", "_buffers", "_modules", "training"}


def strangers(value, path):
    """Yields where something is neither a tensor nor plain Python; follows modules by their state."""
    if isinstance(value, torch.nn.Module):
        own = {key: part for key, part in vars(value).items() if key not in INTERNALS}
        for key, part in own.items():
            yield from strangers(part, f"{path}.{key}")
    elif type(value) in (dict, EasyDict):
        for key, part in value.items():
            assert type(key) is str, path
            yield from strangers(part, f"{path}.{key}")
    elif type(value) in (list, tuple):
        for index, part in enumerate(value):
            yield from strangers(part, f"{path}[{index}]")
    elif not (value is None or type(value) in (bool, int, float, str, torch.Tensor, torch.nn.Parameter)):
        yield f"{path} is a {type(value).__name__}"


def test_state_is_plain():
    """Objects in snapshots hold tensors and plain Python: no NumPy number, no function, no class of ours."""
    seen = set()
    with torch.device("meta"):
        objects = list(constructed())
    for thing in objects:
        assert list(strangers(thing, type(thing).__name__)) == []
        seen |= {type(part).__name__ for part in thing.modules() if is_persistent(part)}
    assert seen == set(OFFICIAL_CLASSES) | {"SuperresolutionGeneral"}
    assert list(strangers(dict(gain=np.float64(1)), "example")) == ["example.gain is a float64"]
