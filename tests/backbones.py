"""A backbone small enough for tests, shared by them."""

import torch
from torch import nn


class RandomFilters(nn.Module):
    """Random convolutions one after the other, a map after each.

    Parameters
    ----------
    *layers : tuples (channels, stride)
    n_channels : int, default=3
        Of the pixels.
    """

    def __init__(self, *layers, n_channels=3):
        super().__init__()
        channels = (n_channels, *(n for n, _ in layers))
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.stages = nn.ModuleList(
                nn.Conv2d(n_in, n_out, stride, stride)
                for n_in, (n_out, stride) in zip(channels, layers, strict=False)
            )

    def forward(self, x):
        maps = []
        for stage in self.stages:
            x = torch.tanh(stage(x))
            maps.append(x)
        return maps


def two_levels():
    """Give a backbone of two levels: strides 4 and 8."""
    return RandomFilters((8, 4), (10, 2))
