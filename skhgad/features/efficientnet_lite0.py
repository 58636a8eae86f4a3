"""EfficientNet-Lite0 in plain torch, so that the default backbone does without importing timm.

Tensors have timm's names and values are computed in timm's order: the maps are those of timm's
``tf_efficientnet_lite0`` with ``features_only=True``, to the last bit. Importing timm takes about
as long as importing torch, because it imports torchvision and every architecture that it knows.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

# (blocks, kernel size, stride, expansion, channels) of each sequence of blocks
_SEQUENCES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_LAST_OF_STAGE = (0, 1, 2, 4, 6)  # a stage ends where the next sequence halves the map

# What a checkpoint of the whole classifier holds after the blocks, in timm's order.
CLASSIFIER_TENSORS = (
    "conv_head.weight",
    "bn2.weight",
    "bn2.bias",
    "bn2.running_mean",
    "bn2.running_var",
    "bn2.num_batches_tracked",
    "classifier.weight",
    "classifier.bias",
)


class EfficientNetLite0(nn.Module):
    """Maps (n, 3, h, w) to the maps of the stages `out_indices`, fine to coarse.

    Stages 0 to 4 have strides 2, 4, 8, 16 and 32; negative indices count from the last. Raises
    ValueError for another index. Weights are random until a state dict is loaded.
    """

    pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}

    def __init__(self, out_indices):
        super().__init__()
        n_stages = len(_LAST_OF_STAGE)
        wrong = [index for index in out_indices if not -n_stages <= index < n_stages]
        if wrong:
            raise ValueError(f"stage {wrong[0]} does not exist, stages are 0 to {n_stages - 1}")
        self._wanted = sorted({_LAST_OF_STAGE[index] for index in out_indices})
        self.conv_stem = _convolution(3, 32, 3, stride=2)
        self.bn1 = _normalization(32)
        sequences, n_channels = [], 32
        for n_blocks, kernel_size, stride, expansion, n_out in _SEQUENCES:
            blocks = []
            for index in range(n_blocks):
                block = _InvertedResidual if expansion > 1 else _DepthwiseSeparable
                blocks.append(block(n_channels, n_out, kernel_size, 1 if index else stride))
                n_channels = n_out
            sequences.append(nn.Sequential(*blocks))
        self.blocks = nn.Sequential(*sequences)

    def forward(self, x):
        """Return a list of maps (n, channels, height, width)."""
        x = _clipped(self.bn1(self.conv_stem(x)))
        maps = []
        for index in range(self._wanted[-1] + 1):
            x = self.blocks[index](x)
            if index in self._wanted:
                maps.append(x)
        return maps


class Conv2dSame(nn.Conv2d):
    """A convolution padded as TensorFlow does it, with the odd row and column at the end."""

    def forward(self, x):
        """Pad, then convolve."""
        padding = []
        for side, kernel, stride in zip(
            reversed(x.shape[2:]), reversed(self.kernel_size), reversed(self.stride), strict=True
        ):
            total = max((math.ceil(int(side) / stride) - 1) * stride + kernel - int(side), 0)
            padding += [total // 2, total - total // 2]
        return super().forward(F.pad(x, padding))


class _DepthwiseSeparable(nn.Module):
    """One kernel a channel, then a product at each position."""

    def __init__(self, n_in, n_out, kernel_size, stride):
        super().__init__()
        self.conv_dw = _convolution(n_in, n_in, kernel_size, stride, groups=n_in)
        self.bn1 = _normalization(n_in)
        self.conv_pw = _convolution(n_in, n_out)
        self.bn2 = _normalization(n_out)

    def forward(self, x):
        x = _clipped(self.bn1(self.conv_dw(x)))
        return self.bn2(self.conv_pw(x))


class _InvertedResidual(nn.Module):
    """Six times the channels, one kernel a channel, and back."""

    def __init__(self, n_in, n_out, kernel_size, stride):
        super().__init__()
        n_hidden = 6 * n_in
        self.conv_pw = _convolution(n_in, n_hidden)
        self.bn1 = _normalization(n_hidden)
        self.conv_dw = _convolution(n_hidden, n_hidden, kernel_size, stride, groups=n_hidden)
        self.bn2 = _normalization(n_hidden)
        self.conv_pwl = _convolution(n_hidden, n_out)
        self.bn3 = _normalization(n_out)
        self.has_skip = n_in == n_out and stride == 1

    def forward(self, x):
        hidden = _clipped(self.bn1(self.conv_pw(x)))
        hidden = _clipped(self.bn2(self.conv_dw(hidden)))
        out = self.bn3(self.conv_pwl(hidden))
        return out + x if self.has_skip else out


def _clipped(x):
    return F.relu6(x, inplace=True)  # new memory for each map would take longer than clipping


def _convolution(n_in, n_out, kernel_size=1, stride=1, groups=1):
    kind, padding = (nn.Conv2d, kernel_size // 2) if stride == 1 else (Conv2dSame, 0)
    layer = kind(n_in, n_out, kernel_size, stride, padding, groups=groups, bias=False)
    with torch.no_grad():
        layer.weight.normal_(0, math.sqrt(2 / (kernel_size**2 * n_out // groups)))
    return layer


def _normalization(n_channels):
    return nn.BatchNorm2d(n_channels, eps=1e-3)
