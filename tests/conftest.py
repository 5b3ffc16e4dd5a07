"""What several test files share."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # the tests run from a checkout, installed or not
torch.set_num_threads(1)  # problems as small as these lose time when they are spread over threads
os.environ["OMP_NUM_THREADS"] = "1"  # in the processes that tests start, too


@pytest.fixture(scope="session")
def tiny_path():
    """The shipped network: a snapshot in the official format with random weights."""
    return ROOT / "eg3d" / "networks" / "tiny-random.pkl"


@pytest.fixture(scope="session")
def tiny_expected():
    """What the official code shows of that snapshot; its key `c` holds two camera labels."""
    with np.load(Path(__file__).parent / "data" / "official-format-tiny.npz") as file:
        return {key: file[key].astype(np.float32) for key in file}
