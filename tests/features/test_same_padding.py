"""Convolutions of stride 2 without padded copies give what those with copies give."""

import pytest
import torch
from torch import nn

from skhgad.features.efficientnet_lite0 import Conv2dSame
from skhgad.features.same_padding import HalvingConvolution, without_padded_copies


@pytest.mark.parametrize("kernel_size", [3, 5])
@pytest.mark.parametrize("size", [(8, 10), (9, 7), (8, 9), (1, 1), (2, 2), (12, 1)])
def test_all_sizes_of_maps(kernel_size, size):
    torch.manual_seed(0)
    same = Conv2dSame(6, 6, kernel_size, 2, groups=6)
    x = torch.randn(2, 6, *size)
    torch.testing.assert_close(HalvingConvolution(same)(x), same(x))


def test_only_what_halves_is_replaced_and_the_original_stays():
    backbone = nn.Sequential(
        Conv2dSame(3, 4, 3, 2), Conv2dSame(4, 4, 3, 1), Conv2dSame(4, 4, 4, 2), nn.Conv2d(4, 4, 3)
    )
    result = without_padded_copies(backbone, (Conv2dSame,))
    assert [type(layer) for layer in result] == [HalvingConvolution, *map(type, backbone[1:])]
    assert type(backbone[0]) is Conv2dSame
    x = torch.randn(1, 3, 40, 40)
    torch.testing.assert_close(result(x), backbone(x))


def test_nothing_to_replace():
    backbone = nn.Sequential(nn.Conv2d(3, 4, 3))
    assert without_padded_copies(backbone, (Conv2dSame,)) is backbone
