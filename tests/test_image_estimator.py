"""HGADDetector on images: maps, input kinds, backbones, caching and model folders."""

import copy

import numpy as np
import pytest
import timm
import torch
from backbones import RandomFilters
from PIL import Image
from skimage import data
from torch import nn

from skhgad import HGADDetector
from skhgad.features import backbones, checkpoints
from skhgad.features import extractor as extractor_module
from skhgad.features.extractor import FeatureExtractor, fuse_stages


class Pyramid(RandomFilters):
    """Maps of strides 4, 8 and 16."""

    def __init__(self):
        super().__init__((8, 4), (12, 2), (16, 2))


class Counting(Pyramid):
    """Counts the images it sees, over all copies."""

    seen = 0

    def forward(self, x):
        type(self).seen += len(x)
        return super().forward(x)


def product_images(n, seed=0):
    """Two kinds of texture, stripes and checks, 64 x 64, uint8 RGB, and their labels."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:64, :64]
    images, labels = [], []
    for i in range(n):
        kind = ("stripes", "checks")[i % 2]
        phase = rng.integers(0, 8)
        wave = np.sin((columns + phase) * 0.8)
        if kind == "checks":
            wave = wave * np.sin((rows + phase) * 0.8)
        grey = 0.5 + 0.3 * wave + rng.normal(0, 0.03, wave.shape)
        images.append(np.stack([grey, grey * 0.9, grey * 0.8], axis=-1))
        labels.append(kind)
    return (np.clip(images, 0, 1) * 255).astype(np.uint8), np.array(labels)


def with_blob(images, row, column):
    damaged = images.copy()
    damaged[:, row - 6 : row + 6, column - 6 : column + 6] = (250, 20, 20)
    return damaged


def small(**parameters):
    defaults = {
        "backbone": Pyramid(), "out_indices": (0, 1, 2), "image_size": 64, "max_iter": 2,
        "n_blocks": 2, "position_channels": 8, "random_state": 0,
    }  # fmt: skip
    return HGADDetector(**{**defaults, **parameters})


@pytest.fixture(scope="module")
def fitted():
    return small().fit(*product_images(60))


def test_a_defect_lowers_the_score_and_raises_its_own_pixels(fitted):
    fresh, labels = product_images(20, seed=1)
    damaged = with_blob(fresh, 44, 20)
    assert fitted.score_samples(damaged).max() < fitted.score_samples(fresh).min()
    assert (fitted.predict(damaged) == -1).all()
    assert np.mean(fitted.predict_class(fresh) == labels) == 1
    maps = fitted.anomaly_maps(damaged)
    assert maps.shape == (20, 64, 64) and maps.dtype == np.float32
    peaks = np.array([np.unravel_index(m.argmax(), m.shape) for m in maps])
    assert np.abs(peaks - (44, 20)).max() <= 14
    inside = maps[:, 38:50, 14:26].mean((1, 2))
    outside = maps[:, :20, 40:].mean((1, 2))
    assert (inside > outside + 1).all()


def test_map_peak_is_the_score(fitted):
    fresh, _ = product_images(6, seed=2)
    peaks = fitted.anomaly_maps(fresh).max((1, 2))
    np.testing.assert_allclose(peaks, -fitted.score_samples(fresh), rtol=0.1, atol=0.3)


def test_every_kind_of_input_scores_the_same(fitted, tmp_path):
    images, _ = product_images(6, seed=3)
    paths = []
    for i, image in enumerate(images):
        paths.append(tmp_path / f"ä {i}.png")
        Image.fromarray(image).save(paths[-1])
    expected = fitted.score_samples(images)
    kinds = {
        "paths": paths,
        "strings": [str(path) for path in paths],
        "PIL": [Image.fromarray(image) for image in images],
        "list": list(images),
        "float": images.astype(np.float32) / np.float32(255),
    }
    for kind, X in kinds.items():
        np.testing.assert_allclose(fitted.score_samples(X), expected, atol=1e-3, err_msg=kind)
    threads = small(n_jobs=2).fit(*product_images(60))
    np.testing.assert_allclose(threads.score_samples(paths), expected, atol=1e-3)


def test_scores_do_not_depend_on_companions(fitted):
    images, _ = product_images(40, seed=4)
    scores = fitted.score_samples(images)
    alone = np.concatenate([fitted.score_samples(images[i : i + 1]) for i in (0, 17, 39)])
    np.testing.assert_allclose(alone, scores[[0, 17, 39]], atol=1e-3)


def test_sixteen_bit_images_need_their_range_and_then_score_the_same(fitted):
    images, labels = product_images(60)
    deep = images.astype(np.uint16) * 257
    with pytest.raises(ValueError, match="value_range"):
        fitted.score_samples(deep)
    ranged = small(value_range=(0, 65535)).fit(deep, labels)
    np.testing.assert_allclose(ranged.score_samples(deep), fitted.score_samples(images), atol=1e-2)


def test_depth_does_not_matter_where_images_are_resized(fitted):
    images, _ = product_images(4, seed=6)
    images = [np.asarray(Image.fromarray(image).resize((150, 97))) for image in images]
    expected = fitted.score_samples(images)
    floats = [image.astype(np.float64) / 255 for image in images]
    np.testing.assert_allclose(fitted.score_samples(floats), expected, atol=1e-3)
    ranged = copy.deepcopy(fitted)  # the same model, as if its fit had had 16-bit images
    ranged.model_.parameters["value_range"] = (0, 65535)
    deep = [image.astype(np.uint16) * 257 for image in images]
    np.testing.assert_allclose(ranged.score_samples(deep), expected, atol=1e-3)


def test_images_of_different_sizes_get_maps_of_image_size(fitted):
    images, _ = product_images(2, seed=5)
    larger = np.asarray(Image.fromarray(images[0]).resize((100, 80)))
    assert fitted.anomaly_maps([larger]).shape == (1, 80, 100)
    assert fitted.anomaly_maps([larger, images[1]]).shape == (2, 64, 64)


@pytest.mark.filterwarnings(
    "ignore:fewer than 5 normal samples", "ignore:1 of 16 images have sides"
)
def test_images_of_any_size_fit_and_score_together():
    images, labels = product_images(12)
    odd = [np.full((1, 1), 90, np.uint8), np.linspace(0, 1, 5000)[None], np.zeros((5000, 1, 3))]
    large = np.asarray(Image.fromarray(images[0]).resize((150, 90)))
    detector = small().fit([*images, *odd, large], [*labels, *["odd"] * 3, labels[0]])
    scores = detector.score_samples([*odd, large])
    alone = [detector.score_samples([image])[0] for image in (*odd, large)]
    assert np.isfinite(scores).all()
    np.testing.assert_allclose(scores, alone, atol=1e-3)
    for image in odd:
        (anomaly_map,) = detector.anomaly_maps([image])
        assert anomaly_map.shape == image.shape[:2] and np.isfinite(anomaly_map).all()


def test_one_unusable_image_is_named_before_anything_is_returned(fitted):
    images = product_images(40)[0] / 255
    images[37, 5, 6, 1] = np.nan
    with pytest.raises(ValueError, match=r"X\[37\] holds nan at \(5, 6, 1\)"):
        fitted.score_samples(images)
    with pytest.raises(ValueError, match="channels seem to come first"):
        fitted.score_samples(images.transpose(0, 3, 1, 2))
    with pytest.raises(TypeError, match=r"X\[1\] is None, a missing value"):
        fitted.score_samples([images[0], None])


def test_kind_must_be_the_one_seen_at_fit(fitted):
    with pytest.raises(ValueError, match="X holds feature vectors, but .* fitted on images"):
        fitted.predict(np.zeros((3, 5)))
    vectors = HGADDetector(max_iter=0).fit(np.random.default_rng(0).normal(size=(20, 3)))
    with pytest.raises(ValueError, match="X holds images, but .* fitted on feature vectors"):
        vectors.predict(np.zeros((2, 8, 8, 3), dtype=np.uint8))
    with pytest.raises(ValueError, match="anomaly_maps needs images"):
        vectors.anomaly_maps(np.zeros((3, 3)))


def test_a_broken_file_names_itself_and_leaves_no_fit(tmp_path):
    images, labels = product_images(10)
    paths = [tmp_path / f"{i}.png" for i in range(10)]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    paths[6].write_bytes(paths[6].read_bytes()[:200])
    detector = small()
    with pytest.raises(ValueError, match=r"X\[6\].*6\.png"):
        detector.fit(paths, labels)
    assert not hasattr(detector, "classes_")


def test_memory_runs_the_backbone_once_per_image(tmp_path):
    images, labels = product_images(20)
    Counting.seen = 0
    detector = small(backbone=Counting(), memory=tmp_path).fit(images, labels)
    after_fit = Counting.seen
    scores = detector.score_samples(images)
    again = small(backbone=Counting(), memory=tmp_path, n_components=3).fit(images, labels)
    probes = 1 + 3  # of each fit: for the shapes of the maps, and whether they are steady
    assert after_fit == len(images) + probes
    assert Counting.seen == after_fit + probes
    plain = small().fit(images, labels)
    np.testing.assert_allclose(scores, plain.score_samples(images), atol=1e-4)
    assert again.n_components == 3


def test_memory_keeps_precisions_apart(tmp_path, monkeypatch):
    images, labels = product_images(20)
    monkeypatch.setattr(extractor_module, "MIXED_PRECISION", {"cpu": torch.float16})
    Counting.seen = 0
    for n_fits, mixed_precision in ((1, True), (2, False), (2, True)):
        small(backbone=Counting(), memory=tmp_path, mixed_precision=mixed_precision).fit(
            images, labels
        )
        assert Counting.seen // len(images) == n_fits


def test_features_that_do_not_fit_on_the_disk_are_an_error(tmp_path, monkeypatch):
    resource = pytest.importorskip("resource")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    images, labels = product_images(20)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(OSError, match="GiB of features do not fit.*TMPDIR.*cache_budget"):
            small(cache_budget=0).fit(images, labels)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_spilled_features_give_nearly_the_same_model_and_are_removed(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    images, labels = product_images(40)
    spilled = small(cache_budget=0).fit(images, labels)
    assert list(tmp_path.iterdir()) == []
    held = small().fit(images, labels)
    correlation = np.corrcoef(spilled.score_samples(images), held.score_samples(images))[0, 1]
    assert correlation > 0.99
    monkeypatch.setattr(
        "skhgad.fitting.recipe.build_scoring_model",
        lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt),
    )
    with pytest.raises(KeyboardInterrupt):
        small(cache_budget=0).fit(images, labels)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("contamination", ["auto", 0.25])
def test_verdicts_and_p_values_at_the_threshold_do_not_depend_on_the_batch(contamination):
    images, labels = product_images(20)
    detector = small(contamination=contamination).fit(images, labels)
    together = detector.inspect(images)
    # Scores of larger backbones differ by some 2e-5 between batches.
    assert np.abs(together.score - detector.offset_).min() > 4e-5
    alone = [detector.inspect(image[None]) for image in images]
    assert [one.is_anomaly[0] for one in alone] == together.is_anomaly.tolist()
    assert [one.p_value[0] for one in alone] == together.p_value.tolist()


def test_constant_images_train_to_finite_scores():
    images = np.full((12, 64, 64, 3), 128, dtype=np.uint8)
    detector = small().fit(images)
    assert np.isfinite(detector.score_samples(images)).all()
    assert detector.score_samples(with_blob(images[:1], 32, 32)) < detector.score_samples(
        images[:1]
    )


@pytest.mark.slow
def test_discovers_image_classes():
    images, labels = product_images(40)
    detector = HGADDetector(n_classes=2, image_size=64, max_iter=1, n_blocks=1, random_state=0)
    found = detector.fit(images).predict_class(images)
    assert len(set(zip(found.tolist(), labels.tolist(), strict=True))) == 2


@pytest.mark.slow
def test_embedded_weights_know_a_cat():
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    model.load_state_dict(checkpoints.embedded_state_dict())
    cat = Image.fromarray(data.chelsea()).resize((224, 224))
    pixels = torch.from_numpy(np.array(cat)).permute(2, 0, 1)[None] / 255
    with torch.inference_mode():
        assert int(model.eval()((pixels - 0.5) / 0.5).argmax()) == 285  # Egyptian cat


def test_embedded_weights_are_checked_by_their_hash(monkeypatch):
    monkeypatch.setattr(checkpoints, "EMBEDDED_SHA256", "0" * 64)
    with pytest.raises(RuntimeError, match="SHA-256"):
        checkpoints.embedded_state_dict()


def test_default_backbone_has_the_embedded_features():
    extractor = FeatureExtractor(
        "tf_efficientnet_lite0", "auto", (2, 3, 4), (64, 64), (1.0,), 1, True, 1.0
    )
    assert extractor.levels == [(192, 4, 4), (624, 2, 2)]
    reference = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    reference.load_state_dict(checkpoints.embedded_state_dict())
    pixels = torch.from_numpy(product_images(1)[0]).permute(0, 3, 1, 2) / 255
    with torch.inference_mode():
        last = reference.blocks(reference.bn1(reference.conv_stem((pixels - 0.5) / 0.5)))
        coarse = extractor(pixels)[1]
    expected = last.permute(0, 2, 3, 1).flatten(1, 2)
    torch.testing.assert_close(coarse[..., -320:], expected, atol=1e-4, rtol=1e-4)


def test_fused_stages_hold_mean_and_spread_of_finer_ones():
    rng = np.random.default_rng(0)
    fine = torch.from_numpy(rng.normal(size=(2, 3, 8, 8)))
    coarse = torch.from_numpy(rng.normal(size=(2, 5, 2, 2)))
    (fused,) = fuse_stages([fine, coarse])
    cell = fine[1, :, 4:, :4].numpy().reshape(3, -1)
    np.testing.assert_allclose(fused[1, :3, 1, 0], cell.mean(1))
    np.testing.assert_allclose(fused[1, 3:6, 1, 0], cell.std(1))
    np.testing.assert_allclose(fused[:, 6:], coarse)


def test_the_spread_of_smooth_regions_is_no_rounding_noise():
    fine = (1000 + 0.1 * np.random.default_rng(0).normal(size=(1, 1, 8, 8))).astype(np.float32)
    fused = fuse_stages([torch.from_numpy(fine), torch.zeros(1, 1, 2, 2)])[0]
    cells = fine.astype(np.float64).reshape(2, 4, 2, 4).swapaxes(1, 2).reshape(2, 2, 16)
    np.testing.assert_allclose(fused[0, 1], cells.std(-1), rtol=1e-4)
    flat = torch.full((1, 1, 8, 8), 0.1)
    assert fuse_stages([flat, torch.zeros(1, 1, 2, 2)])[0][0, 1].max() < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "out_indices"),
    [
        ("resnet18", (2, 3)),
        ("vit_tiny_patch16_224", (10, 11)),
        ("swin_tiny_patch4_window7_224", (1, 2)),
    ],
)
def test_other_timm_models_work(backbone, out_indices):
    images, labels = product_images(12)
    detector = HGADDetector(
        backbone, weights=None, out_indices=out_indices, image_size=64 if "swin" not in backbone
        else 224, max_iter=1, n_blocks=1, random_state=0,
    )  # fmt: skip
    scores = detector.fit(images, labels).score_samples(images)
    assert np.isfinite(scores).all() and np.ptp(scores) > 0


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"backbone": "resnet1"}, "not a timm model; did you mean"),
        ({"backbone": "resnet18", "weights": "nowhere.pth"}, "nowhere.pth.*no such file"),
        ({"backbone": "resnet18", "weights": None, "out_indices": (9,)}, "cannot be built"),
    ],
)
def test_unusable_backbones_are_named(parameters, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        HGADDetector(**parameters).fit(product_images(4)[0])


def test_local_checkpoints_are_read_without_pickle(tmp_path):
    model = timm.create_model("resnet18", pretrained=False)
    path = tmp_path / "weights.pth"
    torch.save({"state_dict": model.state_dict()}, path)
    extractor = FeatureExtractor("resnet18", path, (1,), (64, 64), (1.0,), 1, True, 1.0)
    torch.testing.assert_close(extractor.backbone.conv1.weight, model.conv1.weight)
    torch.save(nn.Linear(2, 2), path)
    with pytest.raises(ValueError, match="not a readable checkpoint: it holds no plain tensors"):
        checkpoints.read_checkpoint(path)


@pytest.mark.slow
def test_saved_detector_scores_the_same_with_no_weights_at_hand(tmp_path, monkeypatch):
    images, labels = product_images(16)
    detector = HGADDetector(image_size=64, max_iter=1, n_blocks=1, random_state=0)
    detector.fit(images, labels).save(tmp_path / "model")

    def missing():
        raise AssertionError("the embedded weights were read")

    monkeypatch.setattr(backbones, "embedded_state_dict", missing)
    loaded = HGADDetector.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.score_samples(images), detector.score_samples(images))
    np.testing.assert_array_equal(loaded.anomaly_maps(images), detector.anomaly_maps(images))


def test_a_module_backbone_is_asked_for_at_load(fitted, tmp_path):
    images, _ = product_images(4, seed=6)
    fitted.save(tmp_path / "model")
    with pytest.raises(ValueError, match="backbone=module"):
        HGADDetector.load(tmp_path / "model")
    other = Pyramid()
    nn.init.zeros_(other.stages[0].weight)
    loaded = HGADDetector.load(tmp_path / "model", backbone=other)
    np.testing.assert_array_equal(loaded.score_samples(images), fitted.score_samples(images))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_model_fitted_on_a_gpu_scores_on_the_cpu(tmp_path):
    import pickle

    images, labels = product_images(40)
    detector = small(device="cuda").fit(images, labels)
    expected = detector.score_samples(images)
    stored = pickle.loads(pickle.dumps(detector)).set_params(device="cpu")
    np.testing.assert_allclose(stored.score_samples(images), expected, atol=1e-2)


def test_a_backbone_in_half_precision_leaves_the_verdicts_as_they_are(monkeypatch):
    images, labels = product_images(40)
    test, _ = product_images(20, seed=1)
    test[10:] = with_blob(test[10:], 30, 30)
    scores = []
    for precision in ({}, {"cpu": torch.float16}):  # what a GPU computes in
        monkeypatch.setattr(extractor_module, "MIXED_PRECISION", precision)
        detector = small().fit(images, labels)
        scores.append(detector.score_samples(test))
        assert scores[-1][10:].max() < scores[-1][:10].min()
    assert 0 < np.abs(scores[0] - scores[1]).max() < 0.1 * np.ptp(scores[0])
