"""Settings by name for self-supervised vision transformers, with random weights."""

import numpy as np
import pytest
import timm
from safetensors.torch import save_file

from benchmarks import public
from skhgad import HGADDetector
from skhgad.features.backbones import create_backbone
from skhgad.parameters import BACKBONE_RECIPES, check_parameters

pytestmark = pytest.mark.usefixtures("one_thread")
PATCHES = {"dinov2": 14, "dinov3": 16}


@pytest.mark.parametrize("name", BACKBONE_RECIPES)
def test_settings_are_those_of_a_model_that_timm_has(name):
    detector = HGADDetector.with_backbone(name, random_state=3)
    check_parameters(detector.get_params(deep=False))
    assert detector.random_state == 3
    if name.startswith("dinov3") and not timm.list_models("*dinov3*"):
        pytest.skip(f"timm {timm.__version__} is older than DINOv3")
    assert timm.is_model(detector.backbone)
    configuration = timm.models.get_pretrained_cfg(detector.backbone)
    assert configuration.mean == (0.485, 0.456, 0.406)
    assert configuration.fixed_input_size  # so that one scale is what "auto" would take
    patch = PATCHES[name.split("-")[0]]
    assert detector.image_size == 32 * patch and f"patch{patch}_" in detector.backbone
    assert "reg4" in detector.backbone or "dinov3" in detector.backbone


@pytest.mark.once
@pytest.mark.parametrize("name", ["dinov2-small", "dinov3-small"])
def test_a_detector_of_it_fits_scores_and_is_saved(name, tmp_path):
    size = 4 * PATCHES[name.split("-")[0]]
    X = np.random.default_rng(0).integers(90, 160, (8, size, size, 3), dtype=np.uint8)
    detector = HGADDetector.with_backbone(name, weights=None, image_size=size, random_state=0)
    detector.fit(X)
    assert detector.model_.extractor.levels == [(384, 4, 4)] * 3
    scores = detector.score_samples(X)
    damaged = X.copy()
    damaged[:, : size // 2, : size // 2] = 0
    assert (detector.score_samples(damaged) < scores).all()
    detector.save(tmp_path / "model")
    again = HGADDetector.load(tmp_path / "model")
    np.testing.assert_allclose(again.score_samples(X), scores, rtol=1e-5)


@pytest.mark.once
def test_weights_from_a_file_fill_it(tmp_path):
    parameters = BACKBONE_RECIPES["dinov2-small"]
    whole = timm.create_model(parameters["backbone"], img_size=56)
    save_file(whole.state_dict(), tmp_path / "model.safetensors")
    found = create_backbone(
        parameters["backbone"], tmp_path / "model.safetensors", parameters["out_indices"], (28, 56)
    )
    weight = found.model.blocks[9].attn.qkv.weight
    assert (weight == whole.blocks[9].attn.qkv.weight).all()


def test_without_a_network_the_error_says_what_to_do(monkeypatch):
    def offline(*_, **options):
        assert options["pretrained"]
        raise OSError("cannot reach the hub")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(ValueError, match=r"cannot reach the hub .*model.safetensors.* weights="):
        create_backbone("vit_small_patch14_reg4_dinov2", "auto", (3,), (56, 56))
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: timm.something_else)
    with pytest.raises(ValueError, match="something_else") as raised:
        create_backbone("vit_small_patch14_reg4_dinov2", None, (3,), (56, 56))
    assert "model.safetensors" not in str(raised.value)


def test_unknown_names_are_errors_that_list_the_known():
    with pytest.raises(ValueError, match="'dinov9', only for dinov2-small, dinov2-base"):
        HGADDetector.with_backbone("dinov9")
    X = np.zeros((4, 16, 16, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match=r"with_backbone\('dinov2-small'\) has settings"):
        HGADDetector("dinov2-small").fit(X)


@pytest.mark.once
def test_sizes_that_are_no_multiple_of_the_patch():
    X = np.zeros((4, 40, 40, 3), dtype=np.uint8)
    detector = HGADDetector.with_backbone("dinov3-small", weights=None, image_size=40)
    with pytest.raises(ValueError, match=r"takes no images of 40 x 40 pixels .*divisible by patch"):
        detector.fit(X)


def test_the_command_of_public_data_sets_takes_the_names(tmp_path):
    given = ["--data", str(tmp_path), "--backbone", "dinov2-base", "--image-size", "560"]
    _, parameters = public.parse_arguments(given)
    assert parameters["backbone"] == "vit_base_patch14_reg4_dinov2.lvd142m"
    assert parameters["image_size"] == 560 and parameters["out_indices"] == (3, 6, 9)
