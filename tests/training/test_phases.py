"""Phases: when they happen, with what optimizer; and what happens at the end of a batch."""

import pytest
import runs
import scene
import torch

from torch_utils import training_stats
from training import phases
from training.dataset import ImageFolderDataset
from training.state import TrainingState


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "heads.zip"
    scene.write_zip(path, 8, 32)
    return ImageFolderDataset(path, use_labels=True)


def state_of(dataset, **changed):
    training_stats.load_state_dict(dict(recent={}, total={}))
    return TrainingState(runs.settings("heads.zip", dataset, 10, **changed), dataset, torch.device("cpu"))


def test_lazy_regularization():
    """StyleGAN2, appendix B: of 4 + 1 steps one regularizes, rates shrink to 4/5, betas to their 4/5th power."""
    module = torch.nn.Linear(2, 2)
    [group] = phases.optimizer_of(module, 4, "torch.optim.Adam", 0.0025, [0.0, 0.99], eps=1e-8).param_groups
    assert group["lr"] == pytest.approx(0.002) and group["betas"] == (0.0, pytest.approx(0.99**0.8)) and group["eps"] == 1e-8
    [group] = phases.optimizer_of(module, None, "torch.optim.Adam", 0.0025, [0.0, 0.99]).param_groups
    assert group["lr"] == 0.0025 and group["betas"] == (0.0, 0.99)


def test_phases(dataset):
    """Four of them in 16 batches; without density regularization G has one, at its full rate."""
    state = state_of(dataset)
    assert [(phase.name, sum(map(phase.is_due, range(16)))) for phase in state.phases] == [
        ("Gmain", 16), ("Greg", 4), ("Dmain", 16), ("Dreg", 1)]
    assert state.phases[0].optimizer is state.phases[1].optimizer and state.phases[0].optimizer is not state.phases[2].optimizer
    whole = state_of(dataset, G_reg_interval=None)
    assert [phase.name for phase in whole.phases] == ["Gboth", "Dmain", "Dreg"]
    assert whole.optimizers["G"].param_groups[0]["lr"] == 0.0025


def test_end_of_a_batch(dataset):
    """The average follows G by the schedule, buffers are copied, counters move, G_ema renders as G does."""
    state = state_of(dataset, ema_rampup=None, ema_kimg=0.004, ada_target=None)  # half of it after 4 pictures, a batch
    before = [parameter.clone() for parameter in state.G_ema.parameters()]
    for parameter in state.G.parameters():
        parameter.data += 1
    state.G.backbone.mapping.w_avg += 3
    state.G.neural_rendering_resolution = 24
    state.G.rendering_kwargs["density_reg"] = 7
    state.end_batch()
    for parameter, old in zip(state.G_ema.parameters(), before):
        torch.testing.assert_close(parameter, old + 0.5)
    assert torch.equal(state.G_ema.backbone.mapping.w_avg, state.G.backbone.mapping.w_avg)
    assert state.G_ema.neural_rendering_resolution == 24 and state.G_ema.rendering_kwargs["density_reg"] == 7
    assert (state.step, state.nimg) == (1, 4)


def test_augmentation_adapts(dataset):
    """Every fourth batch, by what D said of real pictures since."""
    state = state_of(dataset)
    found = []
    for _ in range(9):
        training_stats.report("Loss/signs/real", torch.ones(4))
        state.end_batch()
        found.append(float(state.augment_pipe.p))
    step = 4 * 4 / 500_000
    assert found == pytest.approx([0] * 3 + [step] * 4 + [2 * step] * 2)


def test_ticks(dataset):
    """The first batch is a tick, then every kimg_per_tick, and the last batch."""
    state, ends = state_of(dataset), []
    for batch in range(25):
        state.nimg += 4
        if state.ends_tick:
            ends.append(batch)
            state.tick, state.tick_start = state.tick + 1, state.nimg
        if state.is_done:
            break
    assert ends == [0, 9]  # 10 batches are all: the tick of ten more is not full
    assert state.is_done


def test_seeds(dataset):
    """Networks begin alike for the same seed, and differently for another."""
    one, same, other = state_of(dataset), state_of(dataset), state_of(dataset, random_seed=1)
    first = [next(iter(state.G.parameters())) for state in (one, same, other)]
    assert torch.equal(first[0], first[1]) and not torch.equal(first[0], first[2])


def test_frozen_layers(dataset):
    """Freeze-D: they are no parameters."""
    free, frozen = state_of(dataset), state_of(dataset)
    config = runs.settings("heads.zip", dataset, 10)
    config.D_kwargs.block_kwargs.freeze_layers = 3
    frozen = TrainingState(config, dataset, torch.device("cpu"))
    assert len(list(frozen.D.parameters())) < len(list(free.D.parameters()))
