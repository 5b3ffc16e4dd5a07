"""Documents: their Python runs, their links lead somewhere, the options they name exist."""

import re
import shlex
from pathlib import Path

import click
import numpy as np
import pytest
import trimesh

from eg3d import generator, sampling, shapes
from eg3d.cli.dataset import dataset
from eg3d.cli.main import eg3d
from eg3d.cli.metrics import metrics
from eg3d.cli.samples import samples
from eg3d.cli.train import train
from eg3d.cli.videos import videos
from eg3d.session import Session

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "benchmarks" / "README.md"]
COMMANDS = {"gen_samples.py": samples, "gen_videos.py": videos, "train.py": train, "dataset_tool.py": dataset,
            "calc_metrics.py": metrics}
each = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


def snippets(path):
    return re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL)


@each
def test_links(path):
    """Every relative link leads to a file or folder of the repository."""
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", path.read_text()) if "://" not in link]
    assert [link for link in links if not (path.parent / link).exists()] == []


@each
def test_options_exist(path):
    """Whatever looks like an option is one of some command, or of the tools around."""
    known = {option for command in [*COMMANDS.values(), *eg3d.commands.values(), eg3d] for param in command.params
             for option in param.opts} | {
        "--help", "--no-deps", "--rounds", "--nnodes", "--nproc-per-node", "--rdzv-backend", "--rdzv-endpoint"}
    assert set(re.findall(r"(?<![\w-])--[a-zA-Z][\w-]*", path.read_text())) <= known


@each
def test_commands_parse(path, tmp_path, monkeypatch):
    """Command lines that are shown are lines that the commands understand."""
    monkeypatch.chdir(tmp_path)
    Path("crops.json").touch()
    lines = re.findall(r"^    (?:python )?(\w+\.py|eg3d \w+) (.+)$", path.read_text(), re.MULTILINE)
    for name, arguments in lines:
        if name not in COMMANDS and name.endswith(".py"):  # a benchmark
            continue
        command = COMMANDS.get(name) or eg3d.commands[name.split()[1]]
        with click.Context(command) as context:
            command.parse_args(context, shlex.split(arguments, comments=True))


def test_readme_snippet(tiny_path, tmp_path, monkeypatch):
    """The notebook of the README, with the shipped network under the name that it uses, and shapes at a level it has."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ffhq512-128.pkl").write_bytes(tiny_path.read_bytes())
    monkeypatch.setattr(shapes.save, "__defaults__", (512, -1.0, "all"))
    names = {}
    [snippet] = snippets(ROOT / "README.md")
    exec(snippet.replace("resolution=256", "resolution=32"), names)
    assert names["picture"].shape == names["out"]["image"].shape == (1, 3, 128, 128)
    assert (tmp_path / "head.glb").stat().st_size > 1000


def test_volume_to_surface(tiny_path, tmp_path, monkeypatch):
    """What docs/migrating.md says about old volumes gives the surface that shapes.save gives."""
    monkeypatch.chdir(tmp_path)
    G = generator.load(tiny_path, device="cpu")
    session = Session(G, sampling.styles(G, 0))
    shapes.save(session, "seed0000.mrc", 32)
    shapes.save(session, "direct.ply", 32, level=-1)
    [snippet] = snippets(ROOT / "docs" / "migrating.md")
    exec(snippet.replace("density, 10,", "density, -1,"), {})
    theirs, ours = trimesh.load("seed0000.ply", process=False), trimesh.load("direct.ply", process=False)
    assert np.array_equal(theirs.faces, ours.faces)
    np.testing.assert_allclose(theirs.vertices, ours.vertices, atol=1e-6)  # float32 in the files
