"""`update` and `forget`: more normals of known classes, and classes that leave."""

import copy
import math
import pickle
from contextlib import contextmanager

import numpy as np
import pytest
from backbones import two_levels
from sklearn.exceptions import NotFittedError
from sklearn.metrics import roc_auc_score
from test_add_class import fit_images, fit_vectors, plates, vectors

from skhgad import HGADDetector
from skhgad.scoring.calibration import threshold
from skhgad.scoring.kept_vectors import MOST_KEPT, KeptVectors
from skhgad.validation import check_scored_X


@pytest.fixture(scope="module")
def closed():
    return HGADDetector(random_state=0).fit(*vectors(["bolt", "nut"], n=40))


@pytest.fixture(scope="module")
def closed_images():
    return fit_images(max_iter=0)


@pytest.fixture(scope="module")
def trained():
    return fit_vectors(validation_fraction=0.2)  # one training, not one a fold


def without_kept_vectors(detector):
    detector = copy.deepcopy(detector)
    x = detector.model_.kept.x
    detector.model_.kept = KeptVectors(x[:0], np.empty(0, dtype=np.int64))
    return detector


@pytest.mark.once
def test_a_single_class_of_vectors_equals_a_fit_on_everything():
    X, _ = vectors(["bolt"], n=90)
    detector = HGADDetector(random_state=0).fit(X[:50]).update(X[50:])
    whole = HGADDetector(random_state=0).fit(X)
    fresh, _ = vectors(["bolt"], seed=1)
    np.testing.assert_array_equal(detector.score_samples(fresh), whole.score_samples(fresh))
    np.testing.assert_array_equal(detector.p_values(fresh), whole.p_values(fresh))
    assert detector.offset_ == whole.offset_


@pytest.mark.parametrize("keeps", [True, False])
@pytest.mark.once
def test_several_classes_come_near_a_fit_on_everything(closed, keeps):
    more, labels = vectors(["bolt", "nut"], n=60, seed=7)
    detector = copy.deepcopy(closed) if keeps else without_kept_vectors(closed)
    detector.update(more, labels)
    X, y = vectors(["bolt", "nut"], n=40)
    whole = HGADDetector(random_state=0).fit(np.concatenate([X, more]), [*y, *labels])
    normal, _ = vectors(["bolt", "nut"], n=300, seed=3)
    odd = normal + np.random.default_rng(4).normal(0, 1.5, normal.shape)
    fresh, truth = np.concatenate([normal, odd]), np.repeat([1, 0], len(normal))
    scores = [d.score_samples(fresh) for d in (closed, detector, whole)]
    known, updated, expected = (roc_auc_score(truth, values) for values in scores)
    assert updated > max(known, expected) - 0.005
    counts = detector.model_.model.levels[0].densities.n_vectors.tolist()
    assert counts == [100, 100]


@pytest.mark.once
def test_images_come_near_a_fit_on_everything(closed_images):
    more, labels = plates(["bolt", "nut"], n=25, seed=7)
    detector = copy.deepcopy(closed_images).update(more, labels)
    X, y = plates(["bolt", "nut"])
    whole = copy.deepcopy(closed_images).fit(np.concatenate([X, more]), [*y, *labels])
    fresh, _ = plates(["bolt", "nut"], n=30, seed=3)
    fresh[::2, 20:23, 8:11] += 40
    known, updated, expected = (d.score_samples(fresh) for d in (closed_images, detector, whole))
    assert np.abs(updated - expected).mean() < np.abs(known - expected).mean()
    gap, gap_before = (1 - np.corrcoef(scores, expected)[0, 1] for scores in (updated, known))
    assert gap < 0.5 * gap_before and gap < 0.01
    for level, of_whole in zip(
        detector.model_.model.levels, whole.model_.model.levels, strict=True
    ):
        assert level.densities.n_vectors.tolist() == of_whole.densities.n_vectors.tolist()


@pytest.mark.once
def test_the_covariance_of_an_image_class_is_that_of_all_samples(closed_images):
    """In two steps or at once, the sums are the same."""
    more, _ = plates(["nut"], n=20, seed=7)
    at_once = copy.deepcopy(closed_images).update(more, "nut")
    in_steps = copy.deepcopy(closed_images).update(more[:9], "nut").update(more[9:], "nut")
    for one, other in zip(at_once.model_.model.levels, in_steps.model_.model.levels, strict=True):
        for a, b in zip(one.densities.mixture_of(1), other.densities.mixture_of(1), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
    # The covariance is that of latent vectors, old and new, but for the shrinkage.
    level, reader = at_once.model_.model.levels[0], at_once.feature_reader()
    old, labels = plates(["bolt", "nut"])
    X = np.concatenate([old[labels == "nut"], more])
    X = check_scored_X(X, at_once, takes_images=True)
    z = np.concatenate([level.latent(f[0])[0].flatten(0, 1).numpy() for f, _ in reader.batches(X)])
    expected, shrinkage = np.cov(z.T, bias=True), float(level.densities.shrinkages[1])
    mean = np.trace(expected) / len(expected)
    expected = (1 - shrinkage) * expected + shrinkage * mean * np.eye(len(expected))
    found = level.densities.mixture_of(1)[2][0].numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * mean)


@pytest.mark.parametrize("kind", ["closed", "closed_images", "trained"])
@pytest.mark.once
def test_other_classes_keep_their_scores_exactly(kind, request):
    fitted = request.getfixturevalue(kind)
    make = plates if kind == "closed_images" else vectors
    more, _ = make(["nut"], n=12, seed=7)
    detector = copy.deepcopy(fitted).update(more, "nut")
    X, labels = make(["bolt", "nut"], n=20, seed=1)
    before, after = (d.score_samples(X, class_labels=labels) for d in (fitted, detector))
    np.testing.assert_array_equal(after[labels == "bolt"], before[labels == "bolt"])
    assert (after[labels == "nut"] != before[labels == "nut"]).mean() > 0.9


@pytest.mark.parametrize(
    "parameters",
    [
        {"criterion": "likelihood_entropy"},
        {"map_normalization": "exponential", "criterion": "likelihood_entropy"},
        {"class_calibration": False},
        {"validation_fraction": 0},
        {"n_components": 2},
        {"contamination": 0.1},
    ],
    ids=str,
)
@pytest.mark.once
def test_every_configuration_is_updated(parameters):
    X, labels = vectors(["bolt", "nut"], n=30)
    detector = HGADDetector(random_state=0, **parameters).fit(X, labels)
    offset, n = detector.offset_, len(detector.model_.calibration.codes)
    fresh, names = vectors(["bolt", "nut"], n=60, seed=2)
    before = detector.score_samples(fresh, class_labels=names)
    detector.update(vectors(["nut"], n=30, seed=7)[0], "nut")
    after = detector.score_samples(fresh, class_labels=names)
    np.testing.assert_array_equal(after[names == "bolt"], before[names == "bolt"])
    assert len(detector.model_.calibration.codes) == n + 30
    assert np.isfinite(after).all()
    if detector.criterion == "auto":
        odd = fresh + [0, 0, 0, 0, 9, 0]
        assert np.mean(detector.score_samples(odd, class_labels=names) < after.min()) > 0.9
    if "contamination" not in parameters:
        offset = threshold(detector.model_.calibration.scores)
    assert detector.offset_ == offset


def test_old_calibration_stays_and_new_normals_join_it_unseen(closed):
    more, _ = vectors(["nut"], n=30, seed=7)
    before, detector = closed.model_.calibration, copy.deepcopy(closed).update(more, "nut")
    after = detector.model_.calibration
    n = len(before.codes)
    bolt = before.codes == 0
    np.testing.assert_array_equal(after.scores[:n][bolt], before.scores[bolt])
    assert after.codes[n:].tolist() == [1] * 30
    assert detector.offset_ == threshold(after.scores) != closed.offset_
    assert [c.n_normals for c in detector.certificate()] == [40, 70]
    assert detector.p_values([[99.0] * 6], class_labels="nut") == pytest.approx(1 / 71)
    # Left out, they score like fresh ones, not like training samples.
    fresh, _ = vectors(["nut"], n=400, seed=8)
    own = detector.score_samples(fresh, class_labels="nut")
    assert np.median(after.given_scores[n:]) < np.median(own) + 0.6
    seen = copy.deepcopy(closed)
    seen.model_.parameters["validation_fraction"] = 0
    optimistic = seen.update(more, "nut").model_.calibration.given_scores[n:]
    assert optimistic.mean() > after.given_scores[n:].mean()


def test_confirmed_false_alarms_are_false_alarms_no_longer(closed):
    rng = np.random.default_rng(5)
    odd = vectors(["nut"], n=40, seed=9)[0] + [0, 0, 9, 0, 0, 0]
    detector = copy.deepcopy(closed)
    flagged = detector.predict(odd, class_labels="nut") == -1
    assert flagged.mean() > 0.8
    detector.update(odd[:20], "nut")
    assert np.mean(detector.predict(odd[20:], class_labels="nut") == -1) < 0.3
    bad = odd[20:] + [0, 0, 0, 20, 0, 0] + rng.normal(size=(20, 6))
    assert np.mean(detector.predict(bad, class_labels="nut") == -1) == 1


@pytest.mark.once
def test_a_single_sample_and_a_class_of_few_are_updated(closed):
    detector = copy.deepcopy(closed).update(vectors(["nut"], n=1, seed=7)[0], "nut")
    assert detector.certificate()[1].n_normals == 41
    with pytest.warns(UserWarning, match="fewer than 5 normal samples"):
        detector.add_class(vectors(["clip"], n=3, seed=5)[0], "clip")
    detector.update(vectors(["clip"], n=40, seed=6)[0], "clip")
    fresh, _ = vectors(["clip"], n=100, seed=8)
    assert np.mean(detector.predict(fresh) == -1) < 0.2
    assert detector.certificate()[1].n_normals > 35


def test_classes_too_large_to_be_kept_are_counted_in():
    x = np.zeros((MOST_KEPT + 3, 1))
    codes = np.r_[np.zeros(MOST_KEPT + 1), 1, -1].astype(int)
    kept = KeptVectors.of(x, codes)
    assert kept.codes.tolist() == [1]
    assert kept.joined(x[:MOST_KEPT], np.ones(MOST_KEPT, dtype=int)).codes.tolist() == []


@pytest.mark.parametrize("make", [vectors, plates])
@pytest.mark.once
def test_saved_and_pickled_models_are_updated_alike(make, closed, closed_images, tmp_path):
    first = closed if make is vectors else closed_images
    backbone = {} if make is vectors else {"backbone": two_levels()}
    first.save(tmp_path / "first")
    more, _ = make(["nut"], n=12, seed=7)
    X, _ = make(["bolt", "nut"], n=10, seed=3)
    expected = copy.deepcopy(first).update(more, "nut")
    loaded = HGADDetector.load(tmp_path / "first", **backbone)
    for other in (loaded, pickle.loads(pickle.dumps(first))):
        scores = other.update(more, "nut").score_samples(X)
        np.testing.assert_allclose(scores, expected.score_samples(X), rtol=1e-5, atol=1e-5)
    expected.save(tmp_path / "second")
    again = HGADDetector.load(tmp_path / "second", **backbone)
    np.testing.assert_array_equal(again.score_samples(X), expected.score_samples(X))
    again.update(make(["nut"], n=12, seed=8)[0], "nut").add_class(make(["clip"], seed=4)[0], "clip")
    again.update(make(["clip"], n=5, seed=6)[0], "clip").forget("bolt")
    assert again.classes_.tolist() == ["clip", "nut"]


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ("clip", r"does not know: \['clip'\].*add_class"),
        (["nut", "clip"] * 5, r"does not know: \['clip'\]"),
        (3, r"does not know: \[3\]"),
        (["nut"] * 9, "9 labels but X has 10 samples"),
        (None, "update needs y"),
        ("-1", "known anomalies"),
    ],
)
def test_labels_that_cannot_be_updated_are_named(closed, y, message):
    with pytest.raises(ValueError, match=message):
        copy.deepcopy(closed).update(np.zeros((10, 6)), y)


def test_known_anomalies_are_left_out(closed):
    more, _ = vectors(["nut"], n=10, seed=7)
    spoilt = np.concatenate([more, np.full((5, 6), 40.0)])
    marked = copy.deepcopy(closed).update(spoilt, ["nut"] * 10 + ["-1"] * 5)
    expected = copy.deepcopy(closed).update(more, "nut")
    X, _ = vectors(["bolt", "nut"], n=10, seed=2)
    np.testing.assert_array_equal(marked.score_samples(X), expected.score_samples(X))


def test_what_cannot_be_updated_is_refused(closed):
    with pytest.raises(NotFittedError):
        HGADDetector().update([[0.0]], "clip")
    with pytest.raises(NotFittedError):
        HGADDetector().forget("clip")
    with pytest.raises(ValueError, match="4 features"):
        copy.deepcopy(closed).update(np.zeros((10, 4)), "nut")
    unit = HGADDetector(class_covariance=False, random_state=0).fit(*vectors(["bolt", "nut"]))
    with pytest.raises(ValueError, match="class_covariance=True"):
        unit.update(*vectors(["nut"]))
    assert unit.forget("nut").classes_.tolist() == ["bolt"]


def test_an_error_half_way_leaves_the_detector_as_it_was(closed, monkeypatch):
    detector = copy.deepcopy(closed)
    X, _ = vectors(["bolt", "nut"], n=10, seed=1)
    before, state = detector.score_samples(X), dict(vars(detector))

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("skhgad.fitting.update.recalibrate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        detector.update(*vectors(["nut"]))
    assert vars(detector) == state
    np.testing.assert_array_equal(detector.score_samples(X), before)


def test_ctrl_c_when_the_work_is_done_leaves_the_detector_as_it_was(monkeypatch):
    X, y = vectors(["bolt"], n=20)
    detector = HGADDetector(n_components=1, random_state=0).fit(X, y)
    state = dict(vars(detector))

    @contextmanager
    def interrupted_at_its_end(n_jobs):
        yield
        raise KeyboardInterrupt

    monkeypatch.setattr("skhgad.estimator.computing", interrupted_at_its_end)
    with pytest.raises(KeyboardInterrupt):
        detector.update(X[:5] + 0.1, "bolt")
    with pytest.raises(KeyboardInterrupt):
        detector.add_class(X + 9, "nut")
    assert vars(detector) == state


@pytest.mark.once
def test_the_changes_tell_before_and_after(closed):
    detector = copy.deepcopy(closed)
    before = detector.certificate()
    more, _ = vectors(["nut"], n=30, seed=7)
    bolt, nut = detector.update(more, "nut", return_changes=True)
    after = detector.certificate()
    assert (nut.n_normals_before, nut.n_normals_after) == (40, 70)
    assert (nut.bound_before, nut.bound_after) == (before[1].bound, after[1].bound)
    assert (nut.rate_before, nut.rate_after) == (before[1].rate, after[1].rate)
    assert (bolt.offset_before, bolt.offset_after) == (closed.offset_, detector.offset_)
    assert bolt.mean_score_before == bolt.mean_score_after != nut.mean_score_after
    gone, stays = detector.forget("bolt", return_changes=True)
    assert (gone.class_label, gone.n_normals_before, gone.n_normals_after) == ("bolt", 40, 0)
    assert math.isnan(gone.bound_after)
    assert stays.n_normals_after == 70


@pytest.mark.parametrize("kind", ["closed", "closed_images", "trained"])
@pytest.mark.once
def test_a_forgotten_class_leaves_wholly(kind, request, tmp_path):
    fitted = request.getfixturevalue(kind)
    make = plates if kind == "closed_images" else vectors
    backbone = {"backbone": two_levels()} if kind == "closed_images" else {}
    detector = copy.deepcopy(fitted).add_class(*make(["clip"], seed=5))
    X, labels = make(["bolt", "nut"], n=20, seed=1)
    detector.set_threshold(false_alarm_rate={"clip": 0.1, "nut": 0.1})
    before = detector.score_samples(X, class_labels=labels)
    assert detector.forget("clip") is detector
    assert detector.classes_.tolist() == ["bolt", "nut"]
    assert list(detector.class_offsets_) == ["nut"]
    assert len(detector.certificate()) == 2
    assert detector.model_.calibration.codes.max() == 1
    assert detector.n_components_.shape[1] == 2
    np.testing.assert_array_equal(detector.score_samples(X, class_labels=labels), before)
    np.testing.assert_array_equal(detector.score_samples(X), fitted.score_samples(X))
    assert detector.offset_ == fitted.offset_
    state, expected = (d.model_.model.state_dict() for d in (detector, fitted))
    for name, values in expected.items():
        np.testing.assert_array_equal(state[name], values, err_msg=name)
    if detector.model_.kept is not None:
        np.testing.assert_array_equal(detector.model_.kept.x, fitted.model_.kept.x)
    detector.save(tmp_path / "model")
    again = HGADDetector.load(tmp_path / "model", **backbone)
    np.testing.assert_array_equal(again.score_samples(X), detector.score_samples(X))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("clip", "forget names the class 'clip'.*Known classes"),
        (["nut", "bolt"], "names all classes.*at least one must stay"),
        ([], "needs the label"),
    ],
)
def test_classes_that_cannot_be_forgotten_are_named(closed, labels, message):
    with pytest.raises(ValueError, match=message):
        copy.deepcopy(closed).forget(labels)


@pytest.mark.parametrize("where", ["fit", "update"])
@pytest.mark.once
def test_a_cell_that_is_no_measurement_calibrates_alone(where):
    X, _ = vectors(["bolt"], n=90)
    X[7 if where == "fit" else 60, 2] = -9999
    with pytest.warns(UserWarning, match=r"X\[(7|10), 2\] = -9999"):
        detector = HGADDetector(random_state=0).fit(X[:50]).update(X[50:])
    with pytest.warns(UserWarning, match="X"):
        whole = HGADDetector(random_state=0).fit(X)
    fresh, _ = vectors(["bolt"], seed=1)
    np.testing.assert_array_equal(detector.score_samples(fresh), whole.score_samples(fresh))
    np.testing.assert_array_equal(detector.p_values(fresh), whole.p_values(fresh))
    assert detector.offset_ == whole.offset_


@pytest.mark.once
def test_a_cell_that_is_no_measurement_does_not_spoil_a_class(closed, tmp_path):
    more, _ = vectors(["nut"], n=30, seed=7)
    spoilt = np.concatenate([more, more[:1]])
    spoilt[-1, 2] = 1e30
    expected = copy.deepcopy(closed).update(more, "nut")
    with pytest.warns(UserWarning, match=r"X\[30, 2\] = 1e\+30"):
        detector = copy.deepcopy(closed).update(spoilt, "nut")
    with pytest.warns(UserWarning, match=r"X\[0, 2\] = 1e\+30"):
        alone = copy.deepcopy(closed).update(spoilt[-1:], "nut")
    X, _ = vectors(["bolt", "nut"], n=10, seed=2)
    for found, same in ((detector, expected), (alone, closed)):
        np.testing.assert_array_equal(found.score_samples(X), same.score_samples(X))
        assert len(found.model_.calibration.codes) == 1 + len(same.model_.calibration.codes)
    detector.save(tmp_path / "model")
    again = HGADDetector.load(tmp_path / "model").update(vectors(["nut"], seed=8)[0], "nut")
    assert np.mean(again.predict(vectors(["nut"], n=100, seed=9)[0]) == -1) < 0.2


@pytest.mark.filterwarnings("error")
def test_normals_of_another_class_are_told(closed):
    """They joined the class that was named, without a word."""
    X, y = vectors(["bolt", "nut"], n=20, seed=3)
    bolts, nuts = X[np.array(y) == "bolt"], X[np.array(y) == "nut"]
    with pytest.raises(UserWarning, match="20 of 20 new .* 'nut' are taken for class 'bolt'"):
        copy.deepcopy(closed).update(bolts, "nut")
    copy.deepcopy(closed).update(X, y).update(nuts[:3], "nut").update(nuts[3:4] + 40, "nut")
