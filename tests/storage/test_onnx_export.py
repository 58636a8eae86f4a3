"""Exported models in onnxruntime against the detector they come from."""

import json
import os
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from backbones import RandomFilters
from sklearn.exceptions import NotFittedError
from torch import nn

from skhgad import HGADDetector
from skhgad.images import ImageSource, iter_batches

SIZE = (24, 32)


class Stages(RandomFilters):
    """Maps of strides 2, 4 and 8."""

    def __init__(self):
        super().__init__((6, 2), (8, 2), (9, 2))


def textures(n, size=SIZE, seed=0):
    """Stripes and checks, (n, height, width, 3) uint8, and their labels."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[: size[0], : size[1]]
    wave = np.sin(columns * 0.9)
    waves = np.stack([wave, wave * np.sin(rows * 0.9)] * (n // 2 + 1))[:n, ..., None]
    noise = rng.normal(0, 10, (n, *size, 3))
    images = np.clip(120 + 60 * waves * [1, 0.9, 0.7] + noise, 0, 255).astype(np.uint8)
    return images, np.array(["stripes", "checks"] * (n // 2 + 1))[:n]


def small(**parameters):
    defaults = {
        "backbone": Stages(), "out_indices": (0, 1, 2), "image_size": SIZE, "max_iter": 2,
        "n_blocks": 2, "position_channels": 4, "random_state": 0,
    }  # fmt: skip
    return HGADDetector(**{**defaults, **parameters})


def exported(detector, path):
    detector.to_onnx(path)
    onnx.checker.check_model(path, full_check=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def close(found, expected):
    atol = max(1e-4, 3e-5 * np.ptp(expected))  # float32, of maps that reach over many units
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=atol)


def compare(session, detector, images):
    score, class_index, anomaly_map = session.run(None, {"image": images})
    native = images if images.dtype == np.uint8 else images.astype(np.float64)
    close(score, detector.score_samples(native))
    close(anomaly_map, detector.anomaly_maps(native))
    assert detector.classes_[class_index].tolist() == detector.predict_class(native).tolist()


@pytest.fixture(scope="module")
def fitted():
    return small().fit(*textures(60))


@pytest.fixture(scope="module")
def session(fitted, tmp_path_factory):
    return exported(fitted, tmp_path_factory.mktemp("onnx") / "model.onnx")


@pytest.mark.once
@pytest.mark.parametrize("size, value_range", [(SIZE, None), ((48, 64), None), (SIZE, (0, 255))])
def test_a_region_of_interest_is_in_the_graph(tmp_path, size, value_range):
    mask = np.zeros(size, dtype=bool)
    mask[4:-6, 7:-3] = True
    mask[8:12, 9:14] = False
    images, labels = textures(40, size)
    detector = small(max_iter=0, value_range=value_range).fit(images, labels, roi=mask)
    session = exported(detector, tmp_path / "model.onnx")
    fresh, _ = textures(6, size, seed=1)
    fresh[3, -16:-9, -12:-6] = 255
    noisy = fresh.copy()
    noisy[:, ~mask] = np.random.default_rng(0).integers(0, 256, noisy[:, ~mask].shape)

    def pixels_of(images):
        return images if value_range is None else images.astype(np.float32)

    for images in (fresh, noisy):
        compare(session, detector, pixels_of(images))
    assert detector.predict(fresh)[3] == -1
    smaller = pixels_of(fresh[:, :-1])
    with pytest.raises(Exception, match="Expected: "):
        session.run(None, {"image": smaller})


@pytest.mark.parametrize(
    "parameters, roi, said",
    [
        ({"tile_size": 16}, None, "cannot export tile_size=16"),
        ({"resize": "pad"}, None, "cannot export resize='pad'"),
        ({}, {"checks": np.eye(*SIZE)}, "a mask for each"),
    ],
)
def test_what_no_graph_holds_is_refused(tmp_path, parameters, roi, said):
    detector = small(max_iter=0, **parameters).fit(*textures(12), roi=roi)
    with pytest.raises(ValueError, match=said):
        detector.to_onnx(tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_images_of_any_number_score_the_same(fitted, session):
    fresh, _ = textures(20, seed=1)
    fresh[3, 5:15, 5:15] = 255
    for images in (fresh, fresh[:1], fresh[3:4]):
        compare(session, fitted, images)
    assert len(set(fitted.predict_class(fresh))) == 2
    assert fitted.predict(fresh)[3] == -1


@pytest.mark.parametrize(
    "size", [(48, 64), (37, 50), (24, 100), (90, 32), (11, 13), (1, 1), (1, 300), (301, 2)]
)
def test_images_of_any_size_score_the_same(fitted, session, size):
    compare(session, fitted, np.random.default_rng(0).integers(0, 256, (3, *size, 3), np.uint8))


@pytest.mark.parametrize("size", [(24, 33), (100, 80), (29, 500), (333, 31), (5, 7)])
def test_the_resizing_is_pillows(fitted, tmp_path, size):
    """The pixels that the network of the file sees, through a network that returns them."""

    class Pixels(nn.Module):
        def forward(self, x):
            return [x]

    model = HGADDetector(
        Pixels(), out_indices=(0,), image_size=SIZE, n_blocks=0, max_iter=0, random_state=0
    ).fit(textures(10)[0])
    model.to_onnx(tmp_path / "model.onnx")
    graph = onnx.load(tmp_path / "model.onnx")
    graph.graph.output.append(onnx.ValueInfoProto(name="unit"))
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    images = np.random.default_rng(0).integers(0, 256, (2, *size, 3), np.uint8)
    (found,) = session.run(["unit"], {"image": images})
    (batch,) = iter_batches(ImageSource(images), size=SIZE, batch_size=2)
    np.testing.assert_allclose(found, batch.pixels, rtol=0, atol=5e-7)


def test_deep_images_go_in_raw(tmp_path):
    images, labels = textures(60)
    detector = small(value_range=(100, 60_000)).fit(images.astype(np.uint16) * 230 + 150, labels)
    session = exported(detector, tmp_path / "model.onnx")
    for size in (SIZE, (60, 41)):
        raw = np.random.default_rng(0).integers(0, 65_536, (3, *size, 3), np.uint16)
        compare(session, detector, raw.astype(np.float32))


@pytest.mark.slow
@pytest.mark.parametrize(
    "parameters",
    [
        {"image_size": (21, 30)},  # pooled over unequal cells
        {"image_scales": (1.0, 0.5), "pool_size": 3},
        {"fuse_stages": False, "feature_power": 1.0},
        {"class_covariance": False, "n_components": 1},
        {"map_normalization": "exponential", "start": "published"},
        {"criterion": "entropy", "class_calibration": False},
        {"background_weight": 0.0, "position_channels": 0, "n_blocks": 0},
    ],
)
def test_every_way_of_scoring(tmp_path, parameters):
    detector = small(**parameters).fit(*textures(60))
    compare(exported(detector, tmp_path / "model.onnx"), detector, textures(8, seed=2)[0])


def test_classes_that_were_added_later(tmp_path):
    images, labels = textures(60)
    flat = np.random.default_rng(0).integers(90, 110, (30, *SIZE, 3), np.uint8)
    detector = small().fit(images, labels).add_class(flat, "a flat one")
    given = np.concatenate([images[:6], flat[:6]])
    assert len(set(detector.predict_class(given))) == 3
    compare(exported(detector, tmp_path / "model.onnx"), detector, given)


def test_one_class(tmp_path):
    detector = small().fit(textures(30)[0][::2])
    compare(exported(detector, tmp_path / "model.onnx"), detector, textures(8, seed=2)[0])


@pytest.mark.parametrize("paper", [False, True])
def test_vectors(tmp_path, paper):
    rng = np.random.default_rng(0)
    X = np.concatenate([rng.normal(0, 1, (60, 5)), rng.normal(6, 1, (60, 5))])
    make = HGADDetector.paper if paper else HGADDetector
    detector = make(max_iter=2, n_blocks=2, random_state=0).fit(X, np.repeat([3, 7], 60))
    session = exported(detector, tmp_path / "model.onnx")
    fresh = rng.normal(3, 3, (50, 5))
    for given in (fresh, fresh[:1], fresh * 1e6):
        score, class_index = session.run(None, {"features": given})
        np.testing.assert_allclose(score, detector.score_samples(given), rtol=1e-9, atol=1e-9)
        assert detector.classes_[class_index].tolist() == detector.predict_class(given).tolist()
    score, _ = session.run(None, {"features": np.full((1, 5), 1.7e308)})
    assert np.isfinite(score) and score < -1e300


@pytest.mark.slow
@pytest.mark.parametrize(
    "backbone", ["tf_efficientnet_lite0", "resnet18", "vit_tiny_patch16_224", "convnext_atto"]
)
def test_timm_models(tmp_path, backbone):
    images, labels = textures(12, size=(64, 64))
    detector = HGADDetector(
        backbone, weights=None, out_indices=(1, 2), image_size=64, max_iter=1, n_blocks=1,
        random_state=0,
    ).fit(images, labels)  # fmt: skip
    compare(exported(detector, tmp_path / "model.onnx"), detector, images)


def test_the_file_tells_classes_and_threshold(fitted, session):
    told = session.get_modelmeta().custom_metadata_map
    assert json.loads(told["classes"]) == fitted.classes_.tolist() == ["checks", "stripes"]
    assert float(told["offset"]) == fitted.offset_
    assert json.loads(told["image_size"]) == list(SIZE)
    assert [entry.name for entry in session.get_outputs()] == ["score", "class_index", "map"]


def test_the_file_tells_the_threshold_of_each_class(fitted, tmp_path):
    fitted.class_offsets_ = {"stripes": -4.5}
    try:
        metadata = exported(fitted, tmp_path / "model.onnx").get_modelmeta().custom_metadata_map
    finally:
        fitted.class_offsets_ = {}
    assert json.loads(metadata["class_offsets"]) == [fitted.offset_, -4.5]


def test_export_leaves_the_detector_alone(fitted, tmp_path):
    images, _ = textures(6, seed=3)
    before = fitted.score_samples(images)
    fitted.to_onnx(tmp_path / "model.onnx")
    np.testing.assert_array_equal(fitted.score_samples(images), before)
    fitted.save(tmp_path / "model")
    loaded = HGADDetector.load(tmp_path / "model", backbone=Stages())
    np.testing.assert_array_equal(loaded.score_samples(images), before)


@pytest.mark.slow
@pytest.mark.parametrize("error", [OSError("no space left on device"), KeyboardInterrupt()])
def test_a_failed_export_leaves_the_old_file(fitted, tmp_path, monkeypatch, error):
    path = tmp_path / "modèle 1.onnx"
    path.write_text("old")

    def fail(*_):
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(onnx, "save", fail)
        with pytest.raises(type(error)):
            fitted.to_onnx(path)
    assert path.read_text() == "old" and os.listdir(tmp_path) == [path.name]
    fitted.to_onnx(path)
    assert os.listdir(tmp_path) == [path.name]
    assert onnx.load(path).producer_name == "skhgad"


def test_what_cannot_be_exported_says_so(tmp_path):
    with pytest.raises(NotFittedError):
        HGADDetector().to_onnx(tmp_path / "model.onnx")

    with pytest.raises(ValueError, match="is a folder"):
        small().fit(textures(10)[0]).to_onnx(tmp_path)

    class Spectrum(nn.Module):
        def forward(self, x):
            return [torch.linalg.svdvals(x)[:, :, :8, None].expand(-1, -1, -1, 8)]

    detector = small(backbone=Spectrum(), out_indices=(0,)).fit(textures(20)[0])
    with pytest.raises(RuntimeError, match="cannot export this backbone to ONNX"):
        detector.to_onnx(tmp_path / "model.onnx")
    assert os.listdir(tmp_path) == []


def test_without_onnx_the_package_works_and_the_export_names_it(fitted, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r'in a clone of skhgad, pip install "\.\[onnx\]"'):
        fitted.to_onnx(tmp_path / "model.onnx")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("kind", [torch.int16, torch.int8])
def test_kept_normals_count_in_the_file_as_in_the_detector(tmp_path, monkeypatch, kind):
    """Also where classes of different size keep different numbers of vectors, on other axes."""
    monkeypatch.setattr("skhgad.fitting.nearest_normals.type_of_vectors", lambda *_: kind)
    images, y = textures(60)
    chosen = np.flatnonzero((y == "stripes") | (np.arange(60) < 20))
    detector = small(max_iter=0, n_blocks=0, bank_size=300).fit(images[chosen], y[chosen])
    counts = [level.nearest.counts for level in detector.model_.model.levels]
    assert counts[0].tolist() == [300, 300] and counts[-1][0] < counts[-1][1] <= 300
    assert all(float(level.nearest.weights.min()) > 0 for level in detector.model_.model.levels)
    detector.add_class(255 - images[y != "stripes"], "negatives")
    assert detector.model_.model.levels[0].nearest.axes_of.unique().tolist() == [0, 1]
    session = exported(detector, tmp_path / "model.onnx")
    fresh, _ = textures(6, seed=1)
    fresh[:2] = 255 - fresh[:2]
    compare(session, detector, fresh)
    nearest = detector.model_.model.levels[0].nearest
    nearest.weights.zero_()
    assert (
        np.abs(detector.score_samples(fresh) - session.run(None, {"image": fresh})[0]).max() > 0.1
    )
