"""Latent vectors, and the parts of anomaly maps."""

import numpy as np
import pytest
import torch
from backbones import two_levels

from skhgad import HGADDetector
from skhgad.scoring.latents import latent_batches
from skhgad.scoring.maps import resize
from skhgad.validation import check_scored_X


@pytest.fixture(scope="module")
def images():
    """Grey products and red ones."""
    images = np.random.default_rng(0).integers(60, 200, (60, 32, 32, 3), dtype=np.uint8)
    images[::2, ..., 1:] //= 4
    return images


@pytest.fixture(scope="module")
def labels():
    return np.tile(["red", "grey"], 30)


def fit(images, labels, **parameters):
    detector = HGADDetector(
        two_levels(), out_indices=(0, 1), fuse_stages=False, image_size=32, max_iter=1, n_blocks=1,
        random_state=0, **parameters,
    )  # fmt: skip
    return detector.fit(images, labels)


@pytest.fixture(scope="module")
def fitted(images, labels):
    return fit(images, labels)


@pytest.fixture(scope="module")
def vectors():
    rng = np.random.default_rng(0)
    X = np.concatenate([rng.normal(0, 1, (60, 4)), rng.normal(6, 2, (60, 4))])
    return HGADDetector(max_iter=0, criterion="likelihood_entropy", random_state=0).fit(
        X, np.repeat([1, 2], 60)
    ), X


class TestLatents:
    def test_every_level_has_the_vectors_of_its_positions(self, fitted, images, labels):
        found = fitted.latents(images)
        assert [v.shape for v in found.vectors] == [(60, 64, 8), (60, 16, 10)]
        assert [v.dtype for v in found.vectors] == [np.float32, np.float32]
        assert found.map_shapes == [(8, 8), (4, 4)]
        assert found.class_label.tolist() == fitted.predict_class(images).tolist()
        assert np.mean(found.class_label == labels) > 0.9

    def test_they_are_what_the_flow_makes_of_the_features(self, fitted, images):
        reader = fitted.feature_reader()
        ((features, _),) = reader.batches(check_scored_X(images[:5], fitted, takes_images=True))
        for index, level in enumerate(fitted.model_.model.levels):
            with torch.no_grad():
                expected = level.latent(features[index])[0].numpy()
            np.testing.assert_array_equal(fitted.latents(images[:5]).vectors[index], expected)

    def test_a_given_class_is_returned(self, fitted, images):
        assert set(fitted.latents(images[:3], class_labels="grey").class_label) == {"grey"}

    def test_vectors_have_one_position(self, vectors):
        detector, X = vectors
        found = detector.latents(X)
        assert [v.shape for v in found.vectors] == [(120, 1, 4)] and found.map_shapes == [(1, 1)]
        assert found.vectors[0].dtype == np.float64
        assert found.class_label.dtype.kind == "i"

    def test_batches_are_read_one_at_a_time(self, fitted, images):
        X = check_scored_X(images, fitted, takes_images=True)
        batches = list(latent_batches(fitted.model_, fitted.feature_reader(), X))
        assert [len(codes) for _, codes in batches] == [32, 28]


class TestLevelMaps:
    @pytest.mark.parametrize("criterion", ["likelihood_entropy", "likelihood", "entropy"])
    @pytest.mark.parametrize("normalization", ["standardized", "exponential"])
    def test_they_combine_to_the_anomaly_map(self, images, labels, criterion, normalization):
        detector = fit(images, labels, criterion=criterion, map_normalization=normalization)
        parts = detector.level_maps(images)
        combined = parts.combined()
        assert combined.shape == (60, 8, 8)
        np.testing.assert_allclose(-combined.max((1, 2)), detector.score_samples(images), rtol=1e-4)
        expected = detector.anomaly_maps(images)
        resized = resize(torch.from_numpy(combined), (32, 32)).numpy()
        np.testing.assert_allclose(resized, expected, rtol=1e-4, atol=1e-4)
        assert parts.is_product == (normalization == "exponential")
        assert (parts.entropy is None) == (criterion == "likelihood")
        assert (parts.likelihood is None) == (criterion == "entropy")
        assert parts.class_label.tolist() == detector.predict_class(images).tolist()

    def test_each_level_shows_what_it_sees(self, fitted, images):
        """Fine noise in a corner: the finer level finds it stranger than the coarser does."""
        marked = images[:2].copy()
        marked[:, :8, :8] = np.random.default_rng(1).integers(0, 2, (2, 8, 8, 1)) * 255
        before, after = fitted.level_maps(images[:2]), fitted.level_maps(marked)
        assert after.likelihood.shape == (2, 2, 8, 8)
        rise = (after.likelihood - before.likelihood)[..., :2, :2].mean((0, 2, 3))
        assert (rise > 1).all() and rise[0] != pytest.approx(rise[1])

    def test_resized_parts_add_up_to_the_maps_of_the_images(self, fitted, images):
        parts = fitted.level_maps(images[:4]).resized((32, 32))
        assert parts.likelihood.shape == (4, 2, 32, 32) and parts.entropy.shape == (4, 32, 32)
        np.testing.assert_allclose(
            parts.combined(), fitted.anomaly_maps(images[:4]), rtol=1e-4, atol=1e-4
        )

    def test_a_given_class_counts(self, fitted, images):
        given = fitted.level_maps(images[:4], class_labels="grey")
        expected = fitted.anomaly_maps(images[:4], class_labels="grey")
        np.testing.assert_allclose(
            given.resized((32, 32)).combined(), expected, rtol=1e-4, atol=1e-4
        )
        assert set(given.class_label) == {"grey"}

    def test_vectors_have_one_position(self, vectors):
        detector, X = vectors
        parts = detector.level_maps(X)
        assert parts.likelihood.shape == (120, 1, 1, 1) and parts.entropy.shape == (120, 1, 1)
        np.testing.assert_allclose(
            -parts.combined()[:, 0, 0], detector.score_samples(X), rtol=1e-9, atol=1e-9
        )
