"""Golden files: this project computes what the official code computed, from operators to gradients of the loss.

tests/golden/*.npz hold the official outputs; tests/golden/replay.py makes weights and inputs again (tests/recipe.py) and
runs the same cases here. Errors are relative to the largest magnitude of an array.
"""

import importlib.util
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest
import torch

NO_GRADIENT = 1e-8  # norms below are rounding errors of sums that are zero
FOLDER = Path(__file__).parent / "golden"
SHOWN = 8  # arrays in a failure message
TOLERANCES = {  # the first pattern that fits
    # The original rounds pi and sqrt(2) to 3.14159 and 1.414; this project does not.
    "camera/fov*": 1e-2,
    # Gradients jump where one of millions of leaky ReLUs sits within rounding of its kink, so a different order of sums
    # moves single cases by up to 7e-3, on to the stored values and off again. A wrong sign or factor moves them by about 1.
    "loss/*.grad_*": 1e-2,
    # Both sides compute in float32 and differ in the order of sums: errors measure 1e-7 to 2e-5.
    "*": 2e-4,
}


@pytest.fixture(scope="module")
def replay():
    spec = importlib.util.spec_from_file_location("golden_replay", FOLDER / "replay.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tolerance(group, key):
    return next(limit for pattern, limit in TOLERANCES.items() if fnmatch(f"{group}/{key}", pattern))


@pytest.mark.parametrize("group", [
    "ops", "camera", "render", "augment", "networks", "superres", "generator", "loss"])
def test_golden(group, replay):
    """Every array of the group agrees with the official code's."""
    out = {}
    with torch.random.fork_rng(devices=[]):
        replay.GROUPS[group](out, {})
    shown = {key: value.detach().numpy() if torch.is_tensor(value) else np.asarray(value) for key, value in out.items()}
    with np.load(FOLDER / f"{group}.npz") as file:
        expected = {key: file[key] for key in file if key != "__meta__"}
    for key in [key for key in expected if key.endswith(".grad_projection")]:  # relative to the norms: means nothing without
        none = expected[key.replace("projection", "norm")] < NO_GRADIENT
        shown[key], expected[key] = [np.where(none, 0, values[key]) for values in (shown, expected)]
    errors = {key: replay.difference(shown[key], want) if key in shown else np.inf for key, want in expected.items()}
    wrong = {key: error for key, error in errors.items() if not error <= tolerance(group, key)}
    worst = sorted(wrong, key=wrong.get, reverse=True)[:SHOWN]
    assert not wrong, f"{len(wrong)} of {len(expected)} arrays differ: " + ", ".join(
        f"{key} by {wrong[key]:.1e}" if key in shown else f"{key} is missing" for key in worst)
