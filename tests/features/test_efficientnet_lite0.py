"""The default backbone beside timm's."""

import pytest
import timm
import torch

from skhgad.features.backbones import create_backbone
from skhgad.features.checkpoints import CLASSIFIER_TENSORS, embedded_state_dict


@pytest.mark.parametrize(
    ("out_indices", "size"), [((2, 3, 4), (96, 96)), ((0, 1), (75, 113)), ((-2,), (65, 64))]
)
def test_maps_are_those_of_timm_to_the_last_bit(out_indices, size):
    ours = create_backbone("tf_efficientnet_lite0.in1k", "auto", out_indices, size).eval()
    theirs = timm.create_model(
        "tf_efficientnet_lite0", features_only=True, out_indices=[i % 5 for i in out_indices]
    ).eval()
    state = embedded_state_dict()
    theirs.load_state_dict({k: t for k, t in state.items() if k not in CLASSIFIER_TENSORS})
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert all(ours.pretrained_cfg[k] == tuple(theirs.pretrained_cfg[k]) for k in ("mean", "std"))
    pixels = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        for mine, other in zip(ours(pixels), theirs(pixels), strict=True):
            assert torch.equal(mine, other)


def test_random_weights_are_the_same_each_time_and_leave_torch_as_it_was():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, second = (create_backbone("tf_efficientnet_lite0", None, (4,), (32, 32)) for _ in "ab")
    assert torch.equal(torch.get_rng_state(), before)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name])
    pixels = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert 0.1 < first.eval()(pixels)[0].std() < 10


def test_a_stage_that_does_not_exist_is_named():
    with pytest.raises(ValueError, match=r"out_indices=\(2, 5\).*stage 5 .* stages are 0 to 4"):
        create_backbone("tf_efficientnet_lite0", "auto", (2, 5), (64, 64))
