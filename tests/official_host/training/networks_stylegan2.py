"""Stand-in for the official module of this name, written for a test.

Objects in snapshots carry their own source, so most classes here are only imported by it, never called; a source that calls
one fails. Discriminator is called: the discriminators of EG3D inherit its forward.
"""

import torch

from torch_utils import persistence


class _NameOnly(torch.nn.Module):
    def forward(self, *args, **kwargs):
        raise NotImplementedError(f"{type(self).__name__} of the stand-in is a name only")


for _name in ("FullyConnectedLayer Conv2dLayer MappingNetwork SynthesisLayer ToRGBLayer SynthesisBlock SynthesisNetwork "
              "Generator DiscriminatorBlock MinibatchStdLayer DiscriminatorEpilogue").split():
    globals()[_name] = persistence.persistent_class(type(_name, (_NameOnly,), {"__module__": __name__}))


@persistence.persistent_class
class Discriminator(torch.nn.Module):
    """Over the official attribute names."""

    def forward(self, img, c, update_emas=False, **block_kwargs):
        features = None
        for resolution in self.block_resolutions:
            features, img = self._modules[f"b{resolution}"](features, img, **block_kwargs)
        label = self.mapping(None, c) if self.c_dim > 0 else None
        return self.b4(features, img, label)
