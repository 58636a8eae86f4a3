"""`explain`: where an image is anomalous, how much, and by which evidence."""

import numpy as np
import pytest
import torch
from backbones import two_levels

from skhgad import HGADDetector
from skhgad.regions import find_regions
from skhgad.scoring.fitted import FittedModel
from skhgad.scoring.maps import added
from skhgad.validation import check_scored_X


def parts(n, seed=0):
    """Two kinds of noisy plate, 64 x 64, uint8 grey, and their labels."""
    rng = np.random.default_rng(seed)
    labels = np.array(["dark", "light"] * (n // 2))
    level = np.where(labels == "dark", 80, 150)[:, None, None]
    return np.clip(level + rng.normal(0, 8, (n, 64, 64)), 0, 255).astype(np.uint8), labels


def fit(**parameters):
    detector = HGADDetector(
        two_levels(),
        **{
            "out_indices": (0, 1), "fuse_stages": False, "image_size": 64, "max_iter": 0,
            "n_blocks": 1, "random_state": 0, **parameters,
        },
    )  # fmt: skip
    return detector.fit(*parts(60))


@pytest.fixture(scope="module")
def fitted():
    return fit()


@pytest.fixture(scope="module")
def damaged():
    images, labels = parts(6, seed=1)
    images[:, 40:52, 12:20] = 255
    return images, labels


def test_a_defect_is_explained_at_its_place(fitted, damaged):
    images, labels = damaged
    for explanation, label in zip(fitted.explain(images), labels, strict=True):
        assert explanation.is_anomaly
        assert explanation.class_label == label
        row, column = explanation.peak_position
        assert 38 <= row < 54
        assert 10 <= column < 22
        top, left, bottom, right = explanation.regions[0].box
        assert top < 46 < bottom
        assert left < 16 < right
        assert explanation.regions[0].peak_position == explanation.peak_position
        assert 96 / 64**2 * 0.5 < explanation.area < 0.5


def test_it_agrees_with_the_other_methods(fitted, damaged):
    images, labels = damaged
    found = fitted.inspect(images, class_labels=labels, maps=True)
    for i, explanation in enumerate(fitted.explain(images, class_labels=labels)):
        assert explanation[:4] == tuple(array.tolist()[i] for array in found[:4])
        assert explanation.peak == found.maps[i].max() == found.maps[i][explanation.peak_position]
        assert explanation.regions == find_regions(found.maps[i], -fitted.offset_)
        above = np.mean(found.maps[i] > -fitted.offset_)
        assert explanation.area == pytest.approx(above)


def test_positions_are_pixels_of_images_of_any_size(fitted):
    wide = np.full((32, 128), 80, np.uint8)
    wide[4:12, 96:112] = 255
    (explanation,) = fitted.explain([wide])
    row, column = explanation.peak_position
    assert 2 <= row < 14
    assert 90 <= column < 118
    assert explanation.regions[0].map_size == (32, 128)


def test_a_threshold_of_its_own_cuts_the_regions(fitted, damaged):
    images = damaged[0][:1]
    (normal,), (strict,) = fitted.explain(images), fitted.explain(images, threshold=1e9)
    assert strict.regions == []
    assert strict.area == 0
    assert strict[:6] == normal[:6]


def scored_batches(detector, X):
    X = check_scored_X(X, detector, takes_images=True)
    return detector.model_.scored_batches(detector.feature_reader(), X)


@pytest.mark.parametrize("threshold", [float("nan"), float("inf"), "3"])
def test_a_threshold_that_is_no_number_is_refused_before_the_work(fitted, monkeypatch, threshold):
    of_vectors = HGADDetector(max_iter=0).fit(np.eye(6))
    monkeypatch.setattr(FittedModel, "scored_batches", None)
    for detector, X in ((fitted, ["no.png"]), (of_vectors, np.eye(6))):
        with pytest.raises(ValueError, match="threshold must be a finite number"):
            detector.explain(X, threshold=threshold)


@pytest.mark.parametrize("criterion", ["likelihood_entropy", "likelihood", "entropy"])
def test_standardized_terms_add_up_to_the_map(damaged, criterion):
    detector = fit(criterion=criterion, blur_sigma=8.0)
    (batch,) = scored_batches(detector, damaged[0])
    model, codes = detector.model_.model, batch.codes
    terms = model.terms(batch.evidence)
    parts = []
    if terms.likelihood is not None:
        assert terms.likelihood.shape == (2, 6, 16, 16)
        parts += list(terms.likelihood)
    if terms.entropy is not None:
        parts.append(terms.entropy)
    raw = batch.maps * model.score_scale[codes][:, None, None]
    raw = raw + model.score_location[codes][:, None, None]
    total = sum(parts)
    # The peaks of all terms count in full, wherever each lies; what is below the mean stays.
    peaks = sum(part.amax((1, 2)) for part in parts)
    if terms.likelihood is not None:  # a level's peak is that of its own positions, not of its map
        levels = terms.likelihood.amax((2, 3))
        assert torch.all(terms.peaks >= levels) and torch.any(terms.peaks > levels)
        peaks = peaks + (terms.peaks - levels).sum(0)
    torch.testing.assert_close(raw.amax((1, 2)), peaks, rtol=1e-4, atol=1e-4)
    low = total < total.mean((1, 2), keepdim=True)
    torch.testing.assert_close(raw[low], total[low], rtol=1e-4, atol=1e-4)
    assert torch.all(raw >= total - 1e-4)
    if len(parts) == 1 and terms.peaks is None:
        torch.testing.assert_close(raw, total, rtol=1e-4, atol=1e-4)


def test_the_peak_of_a_sum_counts_parts_that_peak_elsewhere():
    parts = torch.zeros(2, 1, 4, 4)
    parts[0, 0, 0, 0], parts[1, 0, 3, 3], parts[1, 0, 0, 0] = 5, 3, 1
    found = added(parts)[0]
    assert float(found[0, 0]) == pytest.approx(8) == float(found.max())
    assert 3 < float(found[3, 3]) < 8
    assert torch.all(found[1:3] == 0)
    torch.testing.assert_close(added(torch.ones(3, 2, 4, 4)), torch.full((2, 4, 4), 3.0))


def test_exponential_terms_are_the_factors_of_the_map(damaged):
    detector = fit(map_normalization="exponential", criterion="likelihood_entropy")
    (batch,) = scored_batches(detector, damaged[0])
    terms = detector.model_.model.terms(batch.evidence)
    torch.testing.assert_close(
        terms.likelihood.sum(0) * terms.entropy, detector.model_.model.raw_maps(batch.evidence)
    )
    for explanation in detector.explain(damaged[0]):
        assert explanation.term in ("likelihood", "entropy")
        assert explanation.level in (0, 1)


@pytest.mark.parametrize("criterion", ["likelihood", "entropy"])
def test_a_lone_criterion_is_the_term(damaged, criterion):
    for explanation in fit(criterion=criterion).explain(damaged[0]):
        assert explanation.term == criterion
        assert explanation.level in {"likelihood": (0, 1), "entropy": (None,)}[criterion]


def test_the_level_that_sees_a_defect_is_named(fitted, damaged, monkeypatch):
    model, terms = fitted.model_.model, type(fitted.model_.model).terms

    def only_coarse(self, evidence):
        found = terms(self, evidence)
        found.likelihood[0] = 0
        return found

    monkeypatch.setattr(type(model), "terms", only_coarse)
    assert {explanation.level for explanation in fitted.explain(damaged[0])} == {1}


def test_vectors_have_a_term_and_no_place():
    rng = np.random.default_rng(0)
    X = np.concatenate([rng.normal(0, 1, (60, 4)), rng.normal(9, 1, (60, 4))])
    detector = HGADDetector(max_iter=0, random_state=0, criterion="likelihood_entropy")
    detector.fit(X, ["a"] * 60 + ["b"] * 60)
    far, between = detector.explain([[-9.0] * 4, [4.5] * 4])
    assert far.is_anomaly
    assert (far.peak, far.peak_position, far.area, far.regions) == (None, None, None, [])
    assert (far.level, far.term) == (0, "likelihood")
    assert between.term in ("likelihood", "entropy")


def test_regions_lie_above_the_threshold_of_the_class(fitted, damaged):
    images = damaged[0][:2]
    explanations = fitted.explain(images)
    try:
        fitted.class_offsets_ = {k: -1e9 for k in fitted.classes_.tolist()}
        for own in fitted.explain(images):
            assert own.regions == [] and not own.is_anomaly
    finally:
        fitted.class_offsets_ = {}
    assert any(explanation.regions for explanation in explanations)
