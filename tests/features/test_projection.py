"""Wide features are projected to a width that a fit can afford."""

import numpy as np
import pytest
import torch
from backbones import RandomFilters

from skhgad import HGADDetector
from skhgad.features.projection import project, random_projection

LAYERS = (12, 4), (16, 2)  # fused: a level of 12 + 12 + 16 features


def images(n=40, seed=0):
    return np.random.default_rng(seed).integers(0, 255, (n, 32, 32, 3), dtype=np.uint8)


def fit(**parameters):
    settings = {"image_size": 32, "max_iter": 1, "n_blocks": 1, "random_state": 0}
    return HGADDetector(RandomFilters(*LAYERS), **settings | parameters).fit(images())


@pytest.fixture(scope="module")
def narrow():
    return fit(max_features=10)


def test_rows_are_orthonormal_and_always_the_same():
    matrix = random_projection(300, 20)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(20), atol=1e-6, rtol=0)
    assert torch.equal(matrix, random_projection(300, 20))


def test_only_wider_levels_are_projected(narrow):
    assert narrow.model_.extractor.levels == [(10, 4, 4)]
    assert "projection_0" in dict(narrow.model_.extractor.named_buffers())
    for width in (40, 640, None):
        extractor = fit(max_features=width, max_iter=0).model_.extractor
        assert extractor.levels == [(40, 4, 4)]
        assert "projection_0" not in dict(extractor.named_buffers())
    stages = fit(max_features=13, fuse_stages=False, max_iter=0).model_.extractor
    assert stages.levels == [(12, 8, 8), (13, 4, 4)]


def test_features_are_those_of_the_wide_level_projected(narrow):
    wide = fit(max_features=None, max_iter=0).model_.extractor
    pixels = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        (expected,) = wide(pixels)
        (found,) = narrow.model_.extractor(pixels)
    torch.testing.assert_close(found, expected @ random_projection(40, 10).T)


@pytest.mark.slow
def test_no_level_of_the_default_backbone_is_projected():
    detector = HGADDetector(image_size=64, max_iter=0, n_blocks=0).fit(images(6))
    assert detector.model_.extractor.levels == [
        (192, 3, 3), (624, 2, 2), (192, 4, 4), (624, 2, 2),
    ]  # fmt: skip
    assert not any("projection" in name for name in detector.model_.extractor.state_dict())


def test_the_published_configuration_has_no_limit():
    assert HGADDetector.paper().max_features is None


def test_saved_detectors_keep_the_projection(narrow, tmp_path, monkeypatch):
    narrow.save(tmp_path / "model")
    # Another torch may draw other numbers: those of the fit are in the file.
    monkeypatch.setattr("skhgad.features.projection._SEED", 1)
    loaded = HGADDetector.load(tmp_path / "model", backbone=RandomFilters(*LAYERS))
    np.testing.assert_array_equal(loaded.score_samples(images(9)), narrow.score_samples(images(9)))


def test_a_file_whose_projection_has_another_width_is_refused(narrow, tmp_path):
    from skhgad.storage.model_folder import load_state, save_state

    narrow.save(tmp_path / "model")
    tensors, description = load_state(tmp_path / "model")
    tensors["extractor.projection_0"] = torch.zeros(11, 40)
    save_state(tmp_path / "model", tensors, description)
    with pytest.raises(ValueError, match=r"projection_0 has shape \(11, 40\).*10 features"):
        HGADDetector.load(tmp_path / "model", backbone=RandomFilters(*LAYERS))


def test_maps_of_another_width_are_told():
    with pytest.raises(ValueError, match="maps of 34 channels, but gave 40 at fit: load"):
        project(torch.zeros(1, 34, 2, 2), random_projection(40, 10))


def test_onnx_files_project_alike(narrow, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    narrow.to_onnx(tmp_path / "model.onnx")
    session = runtime.InferenceSession(
        str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"]
    )
    (scores,) = session.run(["score"], {"image": images(9, seed=1)})
    np.testing.assert_allclose(scores, narrow.score_samples(images(9, seed=1)), atol=1e-3)
