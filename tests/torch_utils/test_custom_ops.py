"""Plugins: built once, kept, shared, and refused with the compiler's own words. Real sources, real compilers, real processes.

The plugins here are of a few lines without PyTorch's headers, so that building one takes a second.
"""

import itertools
import os
import shutil
import stat
import subprocess
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch.utils import cpp_extension

from torch_utils import custom_ops
from torch_utils.ops import bias_act, upfirdn2d

ROOT = Path(__file__).parents[2]
COMPILER = shutil.which("c++")
pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")

SOURCE = """
#include <Python.h>
#include "answer.h"
static PyModuleDef module = {PyModuleDef_HEAD_INIT, "NAME"};
PyMODINIT_FUNC PyInit_NAME() {
    PyObject* made = PyModule_Create(&module);
    PyModule_AddIntConstant(made, "answer", ANSWER);
    return made;
}
"""


@pytest.fixture(autouse=True)
def fresh(monkeypatch, tmp_path):
    """As in a new process with an empty cache."""
    monkeypatch.setattr(custom_ops, "_outcomes", {})
    monkeypatch.setattr(custom_ops, "_operators", dict(custom_ops._operators))
    custom_ops._warn_once.cache_clear()
    monkeypatch.setenv("EG3D_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("EG3D_PLUGINS", raising=False)


@pytest.fixture
def plugin(tmp_path, request):
    """A plugin with a header. Its name is the test's: PyTorch numbers the modules of one name."""
    name = "plugin_of_" + "".join(letter if letter.isalnum() else "_" for letter in request.node.name)
    folder = tmp_path / "sources"
    folder.mkdir()
    (folder / "answer.h").write_text("#define ANSWER 42\n")
    (folder / "tiny.cpp").write_text(SOURCE.replace("NAME", name))
    return custom_ops.Plugin(name, (folder / "tiny.cpp",))


@pytest.fixture
def compiler(tmp_path, monkeypatch):
    """A compiler that notes how often it is asked to compile. Returns a function that tells."""
    return lambda broken=False: _compiler(tmp_path, monkeypatch, broken)


def _compiler(tmp_path, monkeypatch, broken):
    notes, path = tmp_path / "compiled", tmp_path / "noting-c++"
    notes.write_text("")
    act = 'echo "tiny.cpp:3:1: fatal error: the moon is in the wrong phase" >&2; exit 1' if broken else f'exec {COMPILER} "$@"'
    path.write_text(f"""#!/bin/sh
case "$*" in
    *" -c "*) echo compiled >> {notes}; sleep 0.3; {act};;
    *) exec {COMPILER} "$@";;
esac
""")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("CXX", str(path))
    return lambda: notes.read_text().count("compiled")


LOADING = """
import sys, time
from pathlib import Path
from torch_utils import custom_ops
name, source, start, custom_ops.verbosity = sys.argv[1:]
time.sleep(max(0, float(start) - time.time()))
try:
    print(custom_ops.load(custom_ops.Plugin(name, (Path(source),))).answer)
except custom_ops.PluginError as error:
    sys.exit(str(error))
"""


def elsewhere(plugin, start=0.0, verbosity="brief"):
    """Starts a process that loads the plugin at a time of day. PyTorch builds a name once in a process."""
    return subprocess.Popen([sys.executable, "-c", LOADING, plugin.name, str(plugin.sources[0]), str(start), verbosity],
                            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


# ------------------------------------------------------------------------------------------------ building

def test_one_line_and_one_build(plugin, compiler, capfd, monkeypatch):
    """The first use of a process says so; the compiler is asked once a machine."""
    compiled = compiler()
    assert custom_ops.load(plugin).answer == 42
    assert custom_ops.load(plugin) is custom_ops.load(plugin)
    line = f'Setting up PyTorch plugin "{plugin.name}"... Done.\n'
    assert capfd.readouterr().out == line and compiled() == 1
    monkeypatch.setattr(custom_ops, "_outcomes", {})  # the next process ...
    monkeypatch.setenv("CXX", "/nowhere/c++")  # ... on a machine that cannot compile
    assert custom_ops.load(plugin).answer == 42
    assert capfd.readouterr().out == line and compiled() == 1


def test_silence_and_full_words(plugin):
    assert elsewhere(plugin, verbosity="none").communicate() == ("42\n", "")
    shutil.rmtree(plugin.folder())
    said, _ = elsewhere(plugin, verbosity="full").communicate()
    assert "tiny.cpp" in said and said.endswith("Done.\n42\n")  # ninja's own lines


def test_what_a_build_depends_on(plugin, monkeypatch):
    """Sources, headers, PyTorch, and for kernels CUDA and the graphics card."""
    cuda = custom_ops.Plugin("kernels", (plugin.sources[0], plugin.sources[0].with_suffix(".cu")))
    cuda.sources[1].write_text("// a kernel\n")
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(custom_ops, "architectures", lambda: ["80"])
    seen = {plugin.folder(), cuda.folder()}
    assert plugin.folder() in seen and cuda.folder() in seen  # the same as long as nothing changes

    def is_new(which, count):
        seen.update(each.folder() for each in which)
        assert len(seen) == count

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    is_new([cuda, plugin], 3)  # the plugin without kernels does not mind
    monkeypatch.setattr(custom_ops, "architectures", lambda: ["80", "90"])
    is_new([cuda, plugin], 4)
    monkeypatch.setattr(torch, "__version__", "9.9.9")
    is_new([cuda, plugin], 6)
    plugin.sources[0].with_name("answer.h").write_text("#define ANSWER 43\n")
    is_new([cuda, plugin], 8)
    cuda.sources[1].write_text("// another kernel\n")
    is_new([cuda], 9)
    monkeypatch.setattr(custom_ops, "CPP_FLAGS", ["-O0"])
    is_new([plugin], 10)
    monkeypatch.setattr(custom_ops, "CUDA_FLAGS", ["-O0"])
    is_new([cuda], 11)


def test_a_changed_source_is_built_anew(plugin):
    assert custom_ops.load(plugin).answer == 42
    plugin.sources[0].with_name("answer.h").write_text("#define ANSWER 43\n")
    assert elsewhere(plugin).communicate()[0].endswith("Done.\n43\n")


def test_four_processes_build_once(plugin, compiler):
    compiled = compiler()
    processes = [elsewhere(plugin, start=time.time() + 6) for _ in range(4)]  # when all have imported
    for process in processes:
        said, _ = process.communicate(timeout=120)
        assert process.returncode == 0
        assert said == f'Setting up PyTorch plugin "{plugin.name}"... Done.\n42\n'
    assert compiled() == 1


def test_a_build_that_was_cut_off_is_no_obstacle(plugin):
    """PyTorch's builder waits for ever for a lock file that a killed process left."""
    folder = plugin.folder()
    folder.mkdir(parents=True)
    (folder / "lock").touch()
    (folder / f"{plugin.name}.so").write_text("half a library")
    assert custom_ops.load(plugin).answer == 42


def test_an_interrupted_build_is_started_anew(plugin, monkeypatch):
    """Ctrl-C in a notebook: the same process may ask again, although PyTorch holds the name for built."""
    build = cpp_extension._write_ninja_file_and_build_library

    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(cpp_extension, "_write_ninja_file_and_build_library", interrupted)
    with pytest.raises(KeyboardInterrupt):
        custom_ops.load(plugin)
    monkeypatch.setattr(cpp_extension, "_write_ninja_file_and_build_library", build)
    assert custom_ops.load(plugin).answer == 42


def test_threads_build_once(plugin, compiler):
    compiled = compiler()
    with ThreadPoolExecutor(4) as pool:
        assert len({id(module) for module in pool.map(lambda _: custom_ops.load(plugin), range(4))}) == 1
    assert compiled() == 1


def test_ninja_need_not_be_on_the_path(plugin, tmp_path, monkeypatch):
    pytest.importorskip("ninja")
    programs = tmp_path / "bin"
    programs.mkdir()
    for program in ("sh", "c++", "g++", "as", "ld", "which", "uname"):
        if shutil.which(program):
            (programs / program).symlink_to(shutil.which(program))
    monkeypatch.setenv("PATH", str(programs))
    assert shutil.which("ninja") is None
    assert custom_ops.load(plugin).answer == 42
    assert os.environ["PATH"] == str(programs)


# ------------------------------------------------------------------------------------------------ failures

def test_a_broken_compiler_is_asked_once_and_quoted(plugin, compiler, capfd):
    compiled = compiler(broken=True)
    for _ in range(3):
        with pytest.raises(custom_ops.PluginError, match="the moon is in the wrong phase") as raised:
            custom_ops.load(plugin)
    assert compiled() == 1
    assert capfd.readouterr().out == f'Setting up PyTorch plugin "{plugin.name}"... Failed!\n'
    log = Path(str(raised.value).rsplit("The whole log: ")[1][:-1])
    assert "the moon is in the wrong phase" in log.read_text()


def test_a_mistake_in_a_source_is_quoted_and_mended(plugin):
    header = plugin.sources[0].with_name("answer.h")
    header.write_text("#define ANSWER nothing_of_this_name\n")
    with pytest.raises(custom_ops.PluginError, match="error: .nothing_of_this_name. was not declared"):
        custom_ops.load(plugin)
    header.write_text("#define ANSWER 7\n")
    assert elsewhere(plugin).communicate()[0].endswith("7\n")


def test_a_plugin_that_no_longer_loads_names_its_folder(plugin):
    custom_ops.load(plugin)
    library = plugin.folder() / f"{plugin.name}.so"
    library.unlink()  # this process still holds it
    library.write_text("not for this system")
    process = elsewhere(plugin)
    assert f"delete {plugin.folder()} to have it built anew" in process.communicate()[1] and process.returncode == 1


def test_missing_tools_name_the_remedy(monkeypatch, tmp_path):
    """CUDA's toolkit, a PyTorch without CUDA, ninja, a cache that is no folder."""
    sources = custom_ops._operators["bias_act"]["cuda"].sources
    names = (f"kernels_{number}" for number in itertools.count())

    def refusal():
        with pytest.raises(custom_ops.PluginError) as raised:
            custom_ops.load(custom_ops.Plugin(next(names), sources))
        return str(raised.value)

    monkeypatch.setattr(custom_ops, "architectures", lambda: ["90"])
    monkeypatch.setattr(torch.version, "cuda", None)
    assert refusal() == "kernels_0 cannot be had: this PyTorch was built without CUDA. Install one with CUDA."
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    remedy = "Install the CUDA toolkit 12.8, the version that this PyTorch was built with, and set CUDA_HOME to its folder."
    monkeypatch.setattr(cpp_extension, "CUDA_HOME", None)
    assert refusal() == f"kernels_1 cannot be had: there is no nvcc. {remedy}"
    nvcc = tmp_path / "toolkit" / "bin" / "nvcc"
    monkeypatch.setattr(cpp_extension, "CUDA_HOME", str(tmp_path / "toolkit"))
    assert refusal() == f"kernels_2 cannot be had: there is no nvcc in {tmp_path / 'toolkit'}. {remedy}"
    nvcc.parent.mkdir(parents=True)
    nvcc.write_text("#!/bin/sh\necho Cuda compilation tools, release 13.0, V13.0.88\n")
    nvcc.chmod(0o755)
    assert refusal() == f"kernels_3 cannot be had: nvcc in {tmp_path / 'toolkit'} is of CUDA 13. {remedy}"
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with monkeypatch.context() as patch:
        patch.setattr(cpp_extension, "is_ninja_available", lambda: False)
        assert "Install ninja (pip install ninja)" in refusal()
    with monkeypatch.context() as patch:
        patch.setenv("CXX", "/nowhere/c++")
        assert "kernels_5 cannot be had: " in refusal()
    with monkeypatch.context() as patch:
        patch.setattr(custom_ops, "architectures", lambda: torch.zeros(2, 3) @ torch.zeros(2))
        assert "See to that and start again" in refusal()  # no card answers, and no folder is known
    (tmp_path / "file").touch()
    monkeypatch.setenv("EG3D_CACHE_DIR", str(tmp_path / "file"))
    text = refusal()
    assert str(tmp_path / "file") in text and "Set EG3D_CACHE_DIR to a folder that can be written to" in text


def test_what_is_quoted():
    """The telling lines, cut; not the commands between them, nor the linker's summary."""
    said = RuntimeError("Error building extension 'x': [1/2] c++ -c a.cpp\n[1/2] nvcc " + "-x " * 500 + "\nFAILED: a.o\n"
                        "/usr/bin/ld: cannot find -lcudart: No such file or directory\n"
                        "collect2: error: ld returned 1 exit status\nninja: build stopped: subcommand failed.\n")
    assert custom_ops._cause(said) == "/usr/bin/ld: cannot find -lcudart: No such file or directory"
    assert custom_ops._cause(RuntimeError("Error building\n[1/1] nvcc\nbin/nvcc -MD -c error.cu\nboom\n")) == "boom"
    assert len(custom_ops._cause(RuntimeError("first\n" + "error " * 1000))) == custom_ops.QUOTED_WIDTH
    assert custom_ops._cause(RuntimeError()) == "RuntimeError"


# ------------------------------------------------------------------------------------------------ choosing

FLOAT, HALF = torch.float32, torch.float16


def test_choices(plugin):
    custom_ops.register("toy", cpu=plugin)
    assert custom_ops.choose("toy", "auto", "cpu", HALF) == custom_ops.choose("toy", "cpu", "cpu", FLOAT) == "cpu"
    assert custom_ops.plugin_of("toy", "cpu").answer == 42
    for impl, device, dtype in [
            ("ref", "cpu", FLOAT), ("auto", "cuda", FLOAT), ("auto", "cpu", torch.int32), ("ref", "mps", FLOAT)]:
        assert custom_ops.choose("toy", impl, device, dtype) == "ref"
    with pytest.raises(ValueError, match="toy: impl='cuda' does not exist; choose one of auto, cpu, ref"):
        custom_ops.choose("toy", "cuda", "cuda", FLOAT)
    with pytest.raises(ValueError, match="toy: impl='cpu' needs tensors on a cpu device, got cuda"):
        custom_ops.choose("toy", "cpu", "cuda", FLOAT)
    with pytest.raises(ValueError, match="toy: impl='cpu' takes float16, bfloat16, float32, float64, got int64"):
        custom_ops.choose("toy", "cpu", "cpu", torch.int64)


def test_auto_falls_back_and_warns_once(plugin, compiler):
    """The warning names the operator, the compiler's words and how to be without; an explicit choice is an error."""
    compiled = compiler(broken=True)
    custom_ops.register("toy", cpu=plugin)
    with pytest.warns(RuntimeWarning) as caught:
        assert [custom_ops.choose("toy", "auto", "cpu", FLOAT) for _ in range(3)] == ["ref"] * 3
    assert len(caught) == 1
    for words in ("toy runs in plain PyTorch", "the moon is in the wrong phase", "build.log", "EG3D_PLUGINS=off"):
        assert words in str(caught[0].message)
    with pytest.raises(custom_ops.PluginError, match="the moon is in the wrong phase"):
        custom_ops.choose("toy", "cpu", "cpu", FLOAT)
    assert compiled() == 1


def test_plugins_turned_off(plugin, compiler, monkeypatch):
    compiled = compiler()
    custom_ops.register("toy", cpu=plugin)
    monkeypatch.setenv("EG3D_PLUGINS", "off")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert custom_ops.choose("toy", "auto", "cpu", FLOAT) == "ref"
    with pytest.raises(custom_ops.PluginError, match="turned off by EG3D_PLUGINS=off"):
        custom_ops.choose("toy", "cpu", "cpu", FLOAT)
    assert compiled() == 0
    for said, off in [("0", True), ("OFF", True), ("1", False), ("on", False), ("", False)]:
        monkeypatch.setenv("EG3D_PLUGINS", said)
        assert custom_ops.turned_off() is off
    monkeypatch.setenv("EG3D_PLUGINS", "of")
    with pytest.raises(ValueError, match="EG3D_PLUGINS=of in the environment: expected on or off"):
        custom_ops.choose("toy", "auto", "cpu", FLOAT)


def test_choices_are_made_while_a_compiler_traces(plugin):
    """No graph break, although a plugin is built meanwhile."""
    custom_ops.register("toy", cpu=plugin)

    def double_or_negate(x):
        return x * 2 if custom_ops.choose("toy", "auto", x.device.type, x.dtype) == "cpu" else -x

    compiled = torch.compile(double_or_negate, backend="eager", fullgraph=True)
    assert compiled(torch.ones(2)).tolist() == [2, 2]
    assert plugin in custom_ops._outcomes


@pytest.mark.parametrize("operator", [
    lambda impl: bias_act.bias_act(torch.zeros(2, 3), impl=impl),
    lambda impl: upfirdn2d.upfirdn2d(torch.zeros(1, 1, 3, 3), None, impl=impl)], ids=["bias_act", "upfirdn2d"])
def test_operators_on_the_cpu(operator, monkeypatch):
    """ref loads nothing; CUDA's kernels need a GPU, and say so."""
    monkeypatch.setattr(custom_ops, "load", lambda plugin: pytest.fail("nothing to load"))
    operator("ref")
    with pytest.raises(ValueError, match="impl='cuda' needs tensors on a cuda device, got cpu"):
        operator("cuda")


def test_importing_builds_nothing(tmp_path):
    """... and neither looks for compilers nor imports PyTorch's own, which takes more than a second."""
    script = ("import sys, torch; before = set(sys.modules); import torch_utils.ops.bias_act, torch_utils.ops.upfirdn2d; "
              "assert not {'torch.utils.cpp_extension', 'torch._dynamo'} & (set(sys.modules) - before)")
    environment = dict(os.environ, EG3D_CACHE_DIR=str(tmp_path / "none"))
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, env=environment)
    assert not (tmp_path / "none").exists()
