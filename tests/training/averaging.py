"""Steps of a small run whose draws are given: `python averaging.py DATA OUTPUT` writes the gradients of three batches.

Whatever is drawn for a whole batch is drawn alike on every rank, which takes its own rows: so many ranks see what one sees.
"""

import sys
from pathlib import Path

import runs
import torch

from torch_utils import distributed
from training import phases
from training.dataset import ImageFolderDataset
from training.state import TrainingState

BATCH = 4


def own_rows(tensor, dim=0):
    """This rank's rows of what is drawn for the batch."""
    return tensor.chunk(distributed.size(), dim)[distributed.rank()]


def of_the_batch(draw):
    """As `draw`, but of the whole batch's rows where a rank asks for its share's; depths along rays come samples first."""
    def drawn(*shape, **kwargs):
        shape = list(shape[0]) if shape and not isinstance(shape[0], int) else list(shape)
        dim = next((dim for dim in range(min(len(shape), 2)) if shape[dim] == BATCH // distributed.size()), None)
        if dim is None:
            return draw(shape, **kwargs)
        shape[dim] = BATCH
        return own_rows(draw(shape, **kwargs), dim)

    return drawn


def like(name):
    """rand_like or randn_like by the patched rand or randn."""
    return lambda tensor: getattr(torch, name)(tensor.shape, dtype=tensor.dtype)


if __name__ == "__main__":
    torch.set_num_threads(1)
    data, output = sys.argv[1:]
    device = distributed.start(torch.device("cpu"))
    distributed.BUCKET = 4000  # many buckets
    dataset = ImageFolderDataset(data, use_labels=True)
    config = runs.settings(data, dataset, 10, distributed.size(), augment_kwargs=None, ada_target=None)
    config.D_kwargs.epilogue_kwargs.mbstd_group_size = 1  # what looks at several pictures of a batch is left out:
    config.loss_kwargs.gpc_reg_prob = None  # minibatch deviation and swapped poses
    state = TrainingState(config, dataset, device)
    early = []  # buckets that set off while backward went on
    finish = distributed._Plan.finish

    def counted(plan, parameters):
        early.append(len(plan.travelling))
        return finish(plan, parameters)

    distributed._Plan.finish = counted
    torch.manual_seed(1)
    images = torch.rand(BATCH, 3, 32, 32) * 2 - 1
    labels = torch.from_numpy(dataset.labels()[:BATCH])
    torch.rand, torch.randn = of_the_batch(torch.rand), of_the_batch(torch.randn)
    torch.rand_like, torch.randn_like = like("rand"), like("randn")
    found = []
    for _ in range(3):
        for phase in state.phases:
            torch.manual_seed(len(found))
            z = torch.randn(BATCH // distributed.size(), config.G_kwargs.z_dim)
            phases.Phase.step(phase, state.loss, [own_rows(images)], [own_rows(labels)], [z], [own_rows(labels)], 0)
            found.append({name: tensor.grad.clone() for name, tensor in phase.module.named_parameters()
                          if tensor.grad is not None})
    if distributed.rank() == 0:
        torch.save((found, early), Path(output))
    distributed.stop()
