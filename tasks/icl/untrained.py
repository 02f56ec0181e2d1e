"""The control that the critique calls for (arXiv 2311.07772): the same architecture, not trained."""

import copy

import torch

from zoo.decoder import Decoder
from zoo.init import initialise


def untrained(model: Decoder, *, seed: int) -> Decoder:
    """A copy with weights such as training would start from."""
    fresh = copy.deepcopy(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in fresh.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
        initialise(fresh, width=fresh.width, num_layers=len(fresh.blocks))
    return fresh
