"""Kept for notebooks and forks that `import legacy`: the name by which StyleGAN's code bases load a network.

In new code use eg3d.generator.load, which also takes URLs, names and .safetensors.
"""

from torch_utils import pickles


def load_network_pkl(f, trust=False):
    """Reads a snapshot from an open binary file: a dict of G, D, G_ema, training_set_kwargs, augment_pipe, on the CPU.

    What older snapshots lack is None. Nothing in the file is executed unless `trust` is true; raises
    torch_utils.persistence.CheckpointError for a file that is no snapshot or needs its own code.
    """
    snapshot = pickles.load(f, trust=trust)
    if not isinstance(snapshot, dict) or "G_ema" not in snapshot:
        raise pickles.CheckpointError(f"{getattr(f, 'name', 'the file')}: holds no snapshot, which is a dict with G_ema")
    return {"training_set_kwargs": None, "augment_pipe": None, **snapshot}
