"""Kept for notebooks and forks that `import legacy`: the name by which StyleGAN's code bases load a network.

In new code use eg3d.generator.load, which also takes URLs, names and .safetensors.
"""

from torch_utils import pickles


def load_network_pkl(f, force_fp16=False, *, trust=False):
    """Reads a snapshot from an open binary file: a dict of G, D, G_ema, training_set_kwargs, augment_pipe, on the CPU.

    What older snapshots lack is None. `force_fp16` must be false: precision is the network's own.
    Nothing in the file is executed unless `trust` is true. Raises torch_utils.persistence.CheckpointError for a file that is
    no snapshot or needs its own code.
    """
    if force_fp16:
        raise ValueError("force_fp16 is not supported: leave it out, the network keeps its own precision")
    snapshot = pickles.load(f, trust=trust)
    if not isinstance(snapshot, dict) or "G_ema" not in snapshot:
        raise pickles.CheckpointError(f"{getattr(f, 'name', 'the file')}: holds no snapshot, which is a dict with G_ema")
    return {"training_set_kwargs": None, "augment_pipe": None, **snapshot}
