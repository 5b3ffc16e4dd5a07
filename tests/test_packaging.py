"""pyproject.toml and environment.yml ask for the same packages, and the constraints name only packages that are asked for."""

import re
from pathlib import Path

import pytest

tomllib = pytest.importorskip("tomllib")  # Python 3.11

ROOT = Path(__file__).parents[1]
TRANSITIVE = {"networkx", "tifffile", "lazy-loader"}  # pinned because their releases broke scikit-image before


def _name(requirement):
    return re.match(r"[\w.-]+", requirement.strip())[0].lower().replace("_", "-")


def _project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def _asked_for():
    project = _project()
    extras = [item for extra in project["optional-dependencies"].values() for item in extra]
    return {_name(item) for item in project["dependencies"] + extras}


def _conda():
    listed = re.findall(r"^ +- ([^:\n]+)$", (ROOT / "environment.yml").read_text().split("dependencies:")[1], re.MULTILINE)
    names = {_name(item) for item in listed} - {"python", "pip"}
    return {"torch" if name == "pytorch" else name for name in names}


def test_environment_and_project_agree():
    assert _conda() == _asked_for()
    assert "torchvision" in _conda()


def test_constraints_are_of_packages_asked_for():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert {_name(line) for line in lines} <= _asked_for() | TRANSITIVE


def test_runtime_requirements_are_complete():
    needed = ("torch numpy scipy pillow click tqdm filelock ninja imageio imageio-ffmpeg safetensors scikit-image trimesh "
              "mrcfile").split()
    assert {_name(item) for item in _project()["dependencies"]} == set(needed)
    assert set(_project()["optional-dependencies"]) == {
        "viewer", "faces", "data", "log", "hub", "perceptual", "test", "dev"}
