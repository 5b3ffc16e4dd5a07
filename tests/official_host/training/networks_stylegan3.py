"""Stand-in for the official module of this name, written for a test: official sources import this name and never use it."""

import torch


class SynthesisLayer(torch.nn.Module):
    pass
