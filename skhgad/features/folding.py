"""Batch normalisation folded into the convolutions before it."""

import copy
import sys
from collections import Counter

import torch
from torch import nn

from .efficientnet_lite0 import Conv2dSame
from .same_padding import without_padded_copies

_TOLERANCE = 1e-3  # of the largest feature; folding changes what float32 rounds, some 1e-6


@torch.no_grad()
def fold_batch_norm(backbone, pixels):
    """Return a copy of a backbone in evaluation mode that gives the same maps in less time.

    It is the backbone itself where folding is impossible or changes the maps. A pass of `pixels`
    (n, 3, height, width) shows which normalisation follows which convolution.
    """
    names = {module: name for name, module in backbone.named_modules()}
    pairs = [(names[c], names[n]) for c, n in _pairs(backbone, pixels)]
    if not pairs:
        return backbone
    folded = copy.deepcopy(backbone)
    for convolution_name, normalization_name in pairs:
        normalization = folded.get_submodule(normalization_name)
        _fold(folded.get_submodule(convolution_name), normalization)
        parent, _, name = normalization_name.rpartition(".")
        rest = getattr(normalization, "act", nn.Identity())
        setattr(folded.get_submodule(parent), name, rest)
    for before, after in zip(backbone(pixels), folded(pixels), strict=True):
        # Comparisons with nan are false, so a backbone whose maps are nan stays as it is.
        if not (before - after).abs().max() <= _TOLERANCE * before.abs().max():
            return backbone
    return folded


def _pairs(backbone, pixels):
    """Return pairs of a convolution and the normalisation of its output."""
    made, pairs, calls = {}, [], Counter()

    def after_convolution(module, _, output):
        calls[module] += 1
        made[id(output)] = module, output  # a reference, so that the id is not used again

    def before_normalization(module, inputs):
        calls[module] += 1
        if id(inputs[0]) in made:
            pairs.append((made[id(inputs[0])][0], module))

    hooks = []
    convolutions, normalizations = _foldable_types()
    for module in backbone.modules():
        if type(module) in convolutions:
            hooks.append(module.register_forward_hook(after_convolution))
        elif type(module) in normalizations:
            hooks.append(module.register_forward_pre_hook(before_normalization))
    try:
        backbone(pixels)
    finally:
        for hook in hooks:
            hook.remove()
    return [pair for pair in pairs if calls[pair[0]] == calls[pair[1]] == 1 and _has_all(pair[1])]


def same_convolutions():
    """Return the types of convolutions that are padded as TensorFlow does it."""
    layers = sys.modules.get("timm.layers")  # a backbone of timm has imported them
    return (Conv2dSame,) if layers is None else (Conv2dSame, layers.Conv2dSame)


def for_processor(backbone):
    """Return a backbone that gives the same maps in less time on a processor."""
    return without_padded_copies(backbone, same_convolutions())


def _foldable_types():
    """Convolutions, without those that change their weights, and normalisations: two tuples."""
    convolutions, normalizations = (nn.Conv2d, *same_convolutions()), (nn.BatchNorm2d,)
    layers = sys.modules.get("timm.layers")
    if layers is not None:
        normalizations += (layers.BatchNormAct2d,)
    return convolutions, normalizations


def _has_all(normalization):
    return normalization.running_var is not None and normalization.weight is not None


def _fold(convolution, normalization):
    scale = normalization.weight / (normalization.running_var + normalization.eps).sqrt()
    bias = normalization.bias - normalization.running_mean * scale
    if convolution.bias is not None:
        bias = bias + convolution.bias * scale
    weight = convolution.weight * scale[:, None, None, None]
    if convolution.weight.is_contiguous(memory_format=torch.channels_last):
        weight = weight.contiguous(memory_format=torch.channels_last)
    convolution.weight = nn.Parameter(weight, requires_grad=False)
    convolution.bias = nn.Parameter(bias, requires_grad=False)
