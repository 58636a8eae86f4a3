"""Convolutions padded as TensorFlow does it, without a padded copy of their input."""

import copy

import torch
from torch import nn
from torch.nn import functional as F


class HalvingConvolution(nn.Module):
    """A convolution of stride 2 that pads as TensorFlow does, and copies nothing.

    At an even side TensorFlow pads one more at the end than at the beginning, which takes a padded
    copy of the map. A kernel with a row and a column of zeros in front gives the same with equal
    padding on both sides. At an odd side padding is equal anyway.

    Parameters
    ----------
    same : nn.Conv2d
        A Conv2dSame for which `halves` is true.
    """

    def __init__(self, same):
        super().__init__()
        self.same = same
        self.padding = same.kernel_size[0] // 2
        layout = torch.preserve_format
        if same.weight.is_contiguous(memory_format=torch.channels_last):
            layout = torch.channels_last
        longer = F.pad(same.weight.detach(), (1, 0, 1, 0)).contiguous(memory_format=layout)
        self.longer = nn.Parameter(longer, requires_grad=False)

    def forward(self, x):
        """Map (n, channels, h, w) to (n, channels, ceil(h / 2), ceil(w / 2))."""
        odd = {side % 2 for side in x.shape[2:]}
        if len(odd) > 1:
            return self.same(x)
        weight = self.same.weight if odd == {1} else self.longer
        return F.conv2d(x, weight, self.same.bias, 2, self.padding, 1, self.same.groups)


def halves(module):
    """Tell whether a convolution has stride 2 and a square kernel of an odd side from 3."""
    side = module.kernel_size[0]
    return (
        module.kernel_size == (side, side)
        and side % 2 == 1
        and side > 1
        and tuple(module.stride) == (2, 2)
        and tuple(module.dilation) == (1, 1)
        and module.padding_mode == "zeros"
    )


def without_padded_copies(backbone, kinds):
    """Return a copy of a backbone whose convolutions of these `kinds` make no padded copies."""
    names = [
        name
        for name, module in backbone.named_modules()
        if type(module) in kinds and halves(module)
    ]
    if not names:
        return backbone
    result = copy.deepcopy(backbone)
    for name in names:
        parent, _, own = name.rpartition(".")
        setattr(result.get_submodule(parent), own, HalvingConvolution(result.get_submodule(name)))
    return result
