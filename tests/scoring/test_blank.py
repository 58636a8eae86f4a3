"""Pictures without content are anomalies, although each place of them looks normal."""

import copy

import numpy as np
import pytest
from backbones import two_levels

from skhgad import HGADDetector
from skhgad.report.verdicts import cause


def boards(n, seed):
    """Return black pictures (n, 32, 32, 3) with a few bright squares, as boards have pads."""
    rng = np.random.default_rng(seed)
    pictures = rng.integers(0, 3, (n, 32, 32, 3))
    for picture in pictures:
        for row, column in rng.integers(0, 28, (6, 2)):
            picture[row : row + 4, column : column + 4] = rng.integers(180, 220)
    return pictures.astype(np.uint8)


def fitted(X, y=None, **parameters):
    detector = HGADDetector(
        two_levels(), out_indices=(0, 1), image_size=32, random_state=0, **parameters
    )
    return detector.fit(X, y)


@pytest.fixture(scope="module")
def detector():
    return fitted(boards(40, 0))


def test_blank_pictures_are_anomalies(detector, tmp_path):
    dark = np.random.default_rng(0).integers(0, 3, (1, 32, 32, 3)).astype(np.uint8)
    blank = np.concatenate([dark, *(np.full_like(dark, grey) for grey in (0, 128, 255))])
    fresh = boards(40, 1)
    assert (detector.predict(fresh) == 1).mean() > 0.8
    assert (detector.predict(blank) == -1).all()
    assert detector.p_values(blank).max() == pytest.approx(1 / 41)
    scores = detector.score_samples(blank)
    np.testing.assert_allclose([-m.max() for m in detector.anomaly_maps(blank)], scores, rtol=1e-5)
    assert [(one.level, one.term) for one in detector.explain(blank)] == [(None, "blank")] * 4
    assert "far less contrast" in cause(detector.explain(blank)[0])
    # Without it, nothing but dark places is the most normal picture of all.
    (plain,) = detector.model_._scored(
        detector.feature_reader(), detector.model_.observed(dark), None, None
    )
    assert plain.scores[0] > np.median(detector.score_samples(fresh))
    detector.save(tmp_path / "model")
    loaded = HGADDetector.load(tmp_path / "model", backbone=two_levels())
    np.testing.assert_allclose(loaded.score_samples(blank), scores)


def test_a_picture_is_judged_by_itself(detector):
    some = np.concatenate([boards(3, 1), np.zeros((1, 32, 32, 3), np.uint8), boards(3, 2)])
    together = detector.score_samples(some)
    alone = [detector.score_samples(some[[i]])[0] for i in range(len(some))]
    np.testing.assert_allclose(together, alone, rtol=1e-3, atol=1e-3)


def test_half_of_the_contrast_is_no_blank_picture(detector):
    dim = (boards(20, 1) * 0.5).astype(np.uint8)
    assert {one.term for one in detector.explain(dim)} == {"likelihood"}


def test_flat_normals_make_flat_pictures_normal():
    X = boards(40, 0)
    X[:4] = np.random.default_rng(1).integers(0, 256, (4, 1, 1, 1))  # sheets of one grey
    detector = fitted(X)
    assert {one.term for one in detector.explain(np.full_like(X[:1], 128))} == {"likelihood"}


@pytest.mark.parametrize(("n", "n_blank"), [(20, 1), (120, 2)])
def test_few_blank_normals_are_named_and_do_not_count(n, n_blank):
    X = boards(n, 0)
    X[3 : 3 + n_blank] = [[[[37]]], [[[0]]]][:n_blank]  # a dead camera
    with pytest.warns(UserWarning, match=r"a dead camera: X\[3\] \(class 0\)"):
        detector = fitted(X)
    # They take no part: a held-out score far below all others would move the threshold.
    without = fitted(np.delete(X, range(3, 3 + n_blank), axis=0))
    assert detector.offset_ == without.offset_
    np.testing.assert_array_equal(
        detector.score_samples(boards(5, 1)), without.score_samples(boards(5, 1))
    )
    assert detector.explain(np.full_like(X[:1], 128))[0].term == "blank"
    assert (detector.predict(boards(20, 1)) == 1).mean() > 0.8
    # In few, or more than one in 50, they are the user's: nothing tells them from good parts.
    for few in (X[:19], np.concatenate((X[:19], X[-2:]))):
        few = few.copy()
        few[[3, -1]] = np.array([[[[37]]], [[[38]]]])
        assert fitted(few).explain(np.full_like(X[:1], 128))[0].term == "likelihood"


def test_blank_pictures_are_named_in_later_steps(detector):
    known, more = copy.deepcopy(detector), boards(40, 3)
    more[5] = 37
    without = copy.deepcopy(detector).update(np.delete(more, 5, axis=0))
    with pytest.warns(UserWarning, match=r"X\[5\] \(class 0\)"):
        known.update(more)
    assert known.offset_ == without.offset_
    without.add_class(255 - np.delete(more, 5, axis=0), 1)
    with pytest.warns(UserWarning, match=r"X\[5\] \(class 1\)"):
        known.add_class(255 - more, 1)
    assert known.offset_ == without.offset_
    with pytest.raises(ValueError, match="not blank"), pytest.warns(UserWarning):
        known.update(more[[5]], [0])
    assert known.explain(np.zeros_like(more[:1]), class_labels=1)[0].term == "blank"


def test_each_class_has_a_contrast_of_its_own():
    flat = np.random.default_rng(0).integers(98, 103, (40, 32, 32, 3)).astype(np.uint8)
    detector = fitted(np.concatenate([boards(40, 0), flat]), np.repeat(["board", "sheet"], 40))
    found = [detector.explain(flat[:1], class_labels=name)[0].term for name in ("board", "sheet")]
    assert found == ["blank", "likelihood"]


def test_cached_features_hide_no_blank_picture(tmp_path):
    X = boards(30, 0)
    X[7] = 37
    for _ in range(2):  # the second fit finds the features in the folder
        with pytest.warns(UserWarning, match=r"a dead camera: X\[7\]"):
            detector = fitted(X, memory=tmp_path)
    assert len(detector.model_.appearances.x) == 29
