"""A tombstone. The original's super-resolution module imports one name from StyleGAN3's networks and never uses it.

That import stands in the source that official checkpoints carry, so executing it (--trust) needs the name to exist.
"""


class SynthesisLayer:
    """Never used by any EG3D network; StyleGAN3 is not part of this project."""

    def __init__(self, *_args, **_kwargs):
        raise TypeError("StyleGAN3's SynthesisLayer is not part of this project: this network needs StyleGAN3's own code")
