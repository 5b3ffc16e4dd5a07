"""Steps of a small network whose random draws are shared out: `python shares.py FILE DATA` writes their gradients.

Each draw is made for the whole batch, with the same seed everywhere, and a rank takes its own samples' rows: several ranks see
together what one alone sees. Samples whose deviation D looks at together stay on one rank. Under torchrun every process is a
rank, and writes FILE.RANK.
"""

import sys
from pathlib import Path

import runs
import torch

from torch_utils import distributed
from training.dataset import ImageFolderDataset
from training.state import TrainingState

BATCH, GROUPS = 8, 4  # of two samples: n belongs to group n mod 4
STEPS = 3
LEARNING_RATE = 0.001
BUCKET = 2**12  # bytes: many buckets for these small networks


def rows_of(rank, ranks):
    """The samples of a rank: those of its groups."""
    return [sample for sample in range(BATCH) if sample % GROUPS * ranks // GROUPS == rank]


class Draws:
    """torch.rand and torch.randn of the whole batch, in rows of this rank; what has no rows is everyone's."""

    def __init__(self, rows):
        self._rows, self._random = rows, torch.Generator().manual_seed(1)

    def of(self, sampler, shape):
        if not shape or shape[0] % len(self._rows):
            return sampler(shape, generator=self._random)
        each = shape[0] // len(self._rows)  # rays of a sample may be rows of their own
        whole = sampler((BATCH * each, *shape[1:]), generator=self._random)
        return whole.reshape(BATCH, each, *shape[1:])[self._rows].reshape(shape)

    def replace(self):
        for name in ("rand", "randn"):
            setattr(torch, name, self._instead_of(getattr(torch, name)))
        torch.randn_like = lambda tensor: torch.randn(tensor.shape)

    def _instead_of(self, sampler):
        def drawn(*shape, device="cpu", dtype=torch.float32):
            return self.of(sampler, tuple(shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape))

        return drawn


def batch(dataset, z_dim, rows):
    """Real pictures, their labels, latents and cameras, [N, ...] of these rows."""
    random = torch.Generator().manual_seed(2)
    real = torch.stack([torch.from_numpy(dataset[item][0]) for item in range(BATCH)]).float() / 127.5 - 1
    known = torch.from_numpy(dataset.labels())
    cameras = known[BATCH : 2 * BATCH].clone()
    cameras[1::2] = cameras[1]  # so that a swapped pose, the neighbour's, is the same in every share
    z = torch.randn((BATCH, z_dim), generator=random)
    return [part[rows] for part in (real, known[:BATCH], z, cameras)]


def counted_sends():
    """A list that grows by one with every bucket that sets off."""
    reduce, sent = torch.distributed.all_reduce, []

    def counting(tensor, *args, **kwargs):
        sent.append(tensor.numel())
        return reduce(tensor, *args, **kwargs)

    torch.distributed.all_reduce = counting
    return sent


def main(file, data):
    torch.set_num_threads(1)
    device = distributed.start(torch.device("cpu"))
    distributed.BUCKET = BUCKET
    dataset = ImageFolderDataset(data, use_labels=True)
    config = runs.settings(data, dataset, 1, augment_kwargs=None, ada_target=None)
    state = TrainingState(config, dataset, device)
    for name, parameter in state.G.named_parameters():
        if name.endswith("noise_strength"):
            parameter.data.fill_(0.1)
    rows = rows_of(distributed.rank(), distributed.size())
    real, real_c, z, c = batch(dataset, config.G_kwargs.z_dim, rows)
    Draws(rows).replace()
    gradients, counts, sent = {}, {}, counted_sends()
    finish = distributed.GradientAverager.finish

    def noted(averager):
        early, found = len(sent), finish(averager)
        counts[step, phase.name] = (early, len(sent))  # before backward had ended, and in all
        sent.clear()
        return found

    distributed.GradientAverager.finish = noted
    for phase in state.phases:
        phase.optimizer = torch.optim.SGD(phase.module.parameters(), lr=LEARNING_RATE)  # Adam would enlarge rounding errors
    for step in range(STEPS):
        for phase in state.phases:
            phase.step(state.loss, [real], [real_c], [z], [c], nimg=500_000)  # half of the poses are swapped
            gradients.update({(step, phase.name, name): parameter.grad.clone()
                              for name, parameter in phase.module.named_parameters() if parameter.grad is not None})
    torch.save(dict(gradients=gradients, counts=counts), f"{file}.{distributed.rank()}")
    distributed.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
