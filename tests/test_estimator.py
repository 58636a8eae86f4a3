"""HGADDetector on feature vectors: scikit-learn's contract and the method's promises."""

import inspect
import re

import joblib
import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits, make_blobs
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import check_estimator

from skhgad import HGADDetector
from skhgad.metrics import unified_roc_auc
from skhgad.parameters import PARAMETER_GROUPS


@pytest.fixture(scope="module")
def two_products():
    rng = np.random.default_rng(0)
    normal = np.concatenate([rng.normal(0, 1, (120, 6)), rng.normal(5, 1, (120, 6))])
    labels = np.repeat(["bolt", "nut"], 120)
    return normal, labels


@pytest.fixture(scope="module")
def fitted(two_products):
    return HGADDetector(max_iter=3, random_state=0).fit(*two_products)


def fast(**parameters):
    return HGADDetector(**{"max_iter": 2, "n_blocks": 2, "random_state": 0, **parameters})


@pytest.mark.slow
def test_every_scikit_learn_check_passes():
    check_estimator(HGADDetector())


@pytest.mark.parametrize(
    "detector",
    [
        HGADDetector(max_iter=1),
        HGADDetector(max_iter=2, class_covariance=False),
        HGADDetector(max_iter=20, n_blocks=2),
        HGADDetector(max_iter=1, criterion="entropy"),
        HGADDetector(max_iter=1, criterion="likelihood_entropy"),
        HGADDetector.paper(max_iter=2),
    ],
    ids=repr,
)
@pytest.mark.once
def test_checks_that_compare_scores_pass_for_other_parameters(detector):
    """The same samples in other batches and orders, and how many of them are flagged."""
    name = type(detector).__name__
    for check in (
        estimator_checks.check_methods_subset_invariance,
        estimator_checks.check_methods_sample_order_invariance,
        estimator_checks.check_outliers_train,
        estimator_checks.check_outliers_fit_predict,
    ):
        check(name, detector)


@pytest.mark.parametrize("normalization", ["standardized", "exponential"])
@pytest.mark.parametrize("criterion", ["entropy", "likelihood_entropy"])
def test_the_likelihood_alone_judges_a_single_class(two_products, criterion, normalization):
    X, y = two_products[0][:120], ["bolt"] * 120
    scores = []
    for chosen in (criterion, "likelihood"):
        detector = fast(max_iter=0, criterion=chosen, map_normalization=normalization).fit(X, y)
        assert detector.predict([[0.0] * 6, [5.0] * 6]).tolist() == [1, -1]
        scores.append(detector.score_samples(X))
    np.testing.assert_allclose(*scores)


def test_finds_what_lies_outside_and_between_the_classes(fitted):
    scores = fitted.score_samples([[0.0] * 6, [5.0] * 6, [2.5] * 6, [-4.0] * 6, [9.0] * 6])
    assert scores[:2].min() > scores[2:].max()
    assert fitted.predict([[2.5] * 6, [9.0] * 6]).tolist() == [-1, -1]


def test_class_is_inferred_or_given(fitted, two_products):
    X, labels = two_products
    assert np.mean(fitted.predict_class(X) == labels) > 0.99
    inferred = fitted.score_samples(X)
    np.testing.assert_allclose(inferred, fitted.score_samples(X, class_labels=labels), atol=1e-10)
    wrong = np.where(labels == "bolt", "nut", "bolt")
    assert (fitted.score_samples(X, class_labels=wrong) < inferred).all()
    with pytest.raises(ValueError, match="Did you mean 'bolt'"):
        fitted.score_samples(X, class_labels="Bolt")


def test_known_anomalies_are_left_out(two_products):
    X, labels = two_products
    strange = np.full((20, 6), 100.0)
    with_anomalies = fast().fit(
        np.concatenate([X, strange]), np.concatenate([labels, np.repeat("-1", 20)])
    )
    without = fast().fit(X, labels)
    np.testing.assert_array_equal(with_anomalies.score_samples(X), without.score_samples(X))
    assert with_anomalies.classes_.tolist() == ["bolt", "nut"]


@pytest.mark.once
def test_discovers_classes(two_products):
    X, labels = two_products
    discovered = fast(n_classes=2).fit(X)
    codes = discovered.predict_class(X)
    assert discovered.classes_.tolist() == [0, 1]
    agreement = np.mean(codes == (labels == "nut"))
    assert max(agreement, 1 - agreement) > 0.99
    with_marks = fast(n_classes=2).fit(X, np.ones(len(X), dtype=int))
    np.testing.assert_array_equal(with_marks.predict_class(X), codes)
    with pytest.raises(ValueError, match="n_classes=3, but y names 2 classes"):
        fast(n_classes=3).fit(X, labels)
    with pytest.raises(ValueError, match="only 1 distinct"):
        fast(n_classes=2).fit(np.ones((9, 3)))


@pytest.mark.once
def test_discovers_how_many_classes_there_are(two_products):
    X, _ = two_products
    counted = fast(n_classes="discover").fit(X)
    assert counted.classes_.tolist() == [0, 1]
    np.testing.assert_array_equal(
        counted.score_samples(X), fast(n_classes=2).fit(X).score_samples(X)
    )
    one = fast(n_classes="discover").fit(X[:120])
    assert one.classes_.tolist() == [0]
    with pytest.raises(ValueError, match="n_classes='discover', but y names 2 classes"):
        fast(n_classes="discover").fit(X, two_products[1])
    with pytest.raises(ValueError, match="'auto' or 'discover', got 'count'"):
        fast(n_classes="count").fit(X)


def test_more_samples_than_known_parameters_change_the_verdict(fitted, two_products):
    X, labels = two_products
    scores = fitted.score_samples(X)
    decision = fitted.decision_function(X)
    np.testing.assert_allclose(decision, scores - fitted.offset_)
    np.testing.assert_array_equal(fitted.predict(X), np.where(decision < 0, -1, 1))
    assert scores.dtype == np.float64
    assert fitted.score(X) == pytest.approx(scores.mean())
    marked = np.where(np.arange(len(X)) < 100, "-1", labels)
    assert fitted.score(X, marked) == pytest.approx(scores[100:].mean())


@pytest.mark.once
def test_contamination_is_the_share_of_flagged_training_normals(two_products):
    X, labels = two_products
    for share in (0.05, 0.25):
        detector = fast(contamination=share)
        assert np.mean(detector.fit_predict(X, labels) == -1) == pytest.approx(share, abs=0.005)


def test_auto_threshold_flags_about_five_percent_of_fresh_normals_of_each_class():
    rng = np.random.default_rng(1)
    scales = np.repeat([1.0, 10.0], 1000)[:, None]
    draw = lambda: rng.normal(0, 1, (2000, 5)) * scales + 100 * scales  # noqa: E731
    labels = np.repeat([0, 1], 1000)
    detector = fast().fit(draw(), labels)
    flagged = detector.predict(draw()) == -1
    for code in (0, 1):
        assert 0.015 < flagged[labels == code].mean() < 0.10


def test_p_values_of_fresh_normals_are_uniform(fitted):
    rng = np.random.default_rng(2)
    fresh = rng.normal(5, 1, (2000, 6))
    p_values = fitted.p_values(fresh)
    assert ((p_values > 0) & (p_values <= 1)).all()
    for level in (0.1, 0.3, 0.5):
        # 24 reference samples: the level is itself uncertain by sqrt(a (1 - a) / 24).
        assert abs(np.mean(p_values <= level) - level) < 3 * np.sqrt(level * (1 - level) / 24)
    assert fitted.p_values([[50.0] * 6])[0] == pytest.approx(1 / 25)


def test_classes_too_small_to_calibrate_are_named():
    X = np.random.default_rng(7).normal(size=(44, 3))
    with pytest.warns(UserWarning, match=r"class \['rare'\].*rest on the other classes"):
        detector = fast().fit(X, ["common"] * 40 + ["rare"] * 4)
    assert detector.p_values(X[40:], class_labels="rare").min() >= 1 / 9
    with pytest.warns(UserWarning, match="rest on training samples"):
        fast().fit(X[:4])


def test_scores_do_not_depend_on_order_or_companions(fitted, two_products):
    X, _ = two_products
    scores = fitted.score_samples(X)
    order = np.random.default_rng(3).permutation(len(X))
    np.testing.assert_allclose(fitted.score_samples(X[order]), scores[order], atol=1e-9)
    alone = [fitted.score_samples(x[None])[0] for x in X[:10]]
    np.testing.assert_allclose(alone, scores[:10], atol=1e-9)


@pytest.mark.slow
def test_same_seed_same_result(two_products):
    first, second, other = (
        fast(random_state=seed).fit(*two_products).score_samples(two_products[0])
        for seed in (4, 4, 5)
    )
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)


def test_fit_leaves_the_global_random_states_alone(two_products):

    numpy_state = np.random.get_state()[1].copy()  # noqa: NPY002
    expected = numpy_state, torch.get_rng_state()
    fast().fit(*two_products)
    np.testing.assert_array_equal(np.random.get_state()[1], expected[0])  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), expected[1])


def test_training_moves_the_score_and_is_recorded(two_products):
    untrained = fast(max_iter=0, validation_fraction=0).fit(*two_products)
    # No vectors are left out, which could turn the flow down.
    trained = fast(max_iter=4, first_stage_fraction=0.0, validation_fraction=0).fit(*two_products)
    assert untrained.history_ == [] and untrained.n_iter_ == 0
    assert trained.n_iter_ == len(trained.history_) == 4
    assert trained.history_[-1]["loss"] < trained.history_[0]["loss"]
    assert set(trained.history_[0]) == {
        "loss", "learning_rate", "inter_class", "mutual_information", "entropy", "intra_class",
        "likelihood_margin",
    }  # fmt: skip
    X = two_products[0]
    assert not np.allclose(untrained.score_samples(X), trained.score_samples(X))


def test_works_in_a_pipeline_with_scaling(two_products):
    X, labels = two_products
    pipeline = make_pipeline(StandardScaler(), fast()).fit(X * 1e6, labels)
    assert pipeline.predict([[2.5e6] * 6, [5e6] * 6]).tolist() == [-1, 1]


@pytest.mark.once
def test_grid_search_over_mixture_sizes_with_plus_minus_one():
    digits = load_digits()
    normal = np.isin(digits.target, [0, 1])
    chosen = normal | (digits.target == 8)
    X, y = digits.data[chosen], np.where(normal[chosen], 1, -1)
    search = GridSearchCV(
        HGADDetector(max_iter=2, n_blocks=2, random_state=0),
        {"n_components": [1, 4, 10]},
        scoring="roc_auc",
        n_jobs=2,
        cv=3,
        error_score="raise",
    ).fit(X, y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.best_score_ > 0.9
    assert search.best_estimator_.n_components == search.best_params_["n_components"]


@pytest.mark.slow
def test_cross_validation_with_class_labels_and_marks(two_products):
    X, labels = two_products
    rng = np.random.default_rng(4)
    X = np.concatenate([X, rng.normal(2.5, 0.5, (60, 6))])
    y = np.concatenate([labels, np.repeat("-1", 60)])
    order = rng.permutation(len(X))
    scores = cross_val_score(fast(), X[order], y[order], scoring=unified_roc_auc, cv=3)
    assert scores.min() > 0.9


def test_metadata_routing_passes_class_labels(two_products):
    X, labels = two_products
    with sklearn.config_context(enable_metadata_routing=True):
        detector = fast().set_predict_request(class_labels=True)
        pipeline = make_pipeline(StandardScaler(), detector).fit(X, labels)
        routed = pipeline.predict(X, class_labels=labels)
    plain = make_pipeline(StandardScaler(), fast()).fit(X, labels).predict(X)
    np.testing.assert_array_equal(routed, plain)


def test_data_frames_keep_their_feature_names(two_products):
    X, labels = two_products
    frame = pd.DataFrame(X, columns=list("abcdef"))
    detector = fast().fit(frame, pd.Series(labels))
    assert detector.feature_names_in_.tolist() == list("abcdef")
    with pytest.raises(ValueError, match="feature names"):
        detector.predict(frame[list("fedcba")])


@pytest.mark.parametrize(
    ("X", "y"),
    [
        (np.ones((30, 4)), None),
        (np.repeat(np.random.default_rng(0).normal(size=(3, 4)), 20, axis=0), None),
        (np.random.default_rng(0).normal(size=(60, 4)) * 1e-8, None),
        (np.random.default_rng(0).normal(size=(60, 4)) * 1e8, None),
        (np.random.default_rng(0).normal(size=(60, 4)) + 1e8, None),
        (np.column_stack([np.random.default_rng(0).normal(size=60), np.ones(60)]), None),
        (np.random.default_rng(0).normal(size=(41, 4)), [0] * 40 + [1]),
        (np.random.default_rng(0).normal(size=(60, 1)), [0, 1, 2] * 20),
        (np.random.default_rng(0).normal(size=(60, 2)), [0, 1, 2, 3, 4] * 12),
        (np.random.default_rng(0).normal(size=(8, 100)), None),
        ([[1.0, 2.0]], None),
    ],
    ids=[
        "constant", "duplicates", "tiny", "huge", "far", "one constant feature", "lonely class",
        "one feature", "fewer features than classes", "fewer samples than features", "one sample",
    ],
)  # fmt: skip
@pytest.mark.parametrize("n_components", [1, 10])
def test_awkward_data_trains_to_finite_scores(X, y, n_components):
    detector = fast(n_components=n_components).fit(X, y)
    scores = detector.score_samples(X)
    assert np.isfinite(scores).all()
    spread = np.ptp(X) + 1e-12
    far = detector.score_samples(np.asarray(X)[:1] + 1e3 * (spread + 1))
    assert far[0] < scores.min()


@pytest.mark.slow
def test_scale_of_the_features_does_not_matter(two_products):
    X, labels = two_products
    reference = fast().fit(X, labels).score_samples(X)
    for scale in (1e-8, 1e8):
        scaled = fast().fit(X * scale, labels).score_samples(X * scale)
        np.testing.assert_allclose(scaled, reference, rtol=1e-3, atol=1e-3)


def test_what_overflows_is_an_anomaly_and_no_number_less(fitted):
    scores = fitted.score_samples([[10.0**power] * 6 for power in (1, 100, 160, 308)])
    assert np.isfinite(scores).all() and (np.diff(scores) <= 0).all()
    assert (fitted.predict([[1.7e308] * 6]) == -1).all()
    assert fitted.p_values([[1.7e308] * 6]) == fitted.p_values([[1e10] * 6])


def test_divergence_raises_and_says_what_to_do(two_products):
    detector = fast(start="published", learning_rate=10, max_iter=5)
    with pytest.raises(FloatingPointError, match="Lower learning_rate"):
        detector.fit(two_products[0] * 1e20, two_products[1])
    assert not hasattr(detector, "classes_")


@pytest.mark.parametrize("refit", [False, True])
def test_an_interrupt_leaves_the_detector_as_it_was(two_products, monkeypatch, refit):
    X, labels = two_products
    detector = fast()
    if refit:
        detector.fit(X[:, :4], labels)
        before = detector.score_samples(X[:, :4])

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("skhgad.fitting.recipe.fit_covariances", interrupt)
        with pytest.raises(KeyboardInterrupt):
            detector.fit(X, labels)
    if refit:
        np.testing.assert_array_equal(detector.score_samples(X[:, :4]), before)
        assert detector.n_features_in_ == 4
    else:
        assert vars(detector).keys() == vars(fast()).keys()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_components": 0}, "n_components == 0, must be >= 1"),
        ({"n_components": 2.5}, "n_components must be an instance of int"),
        ({"label_smoothing": 1.0}, "label_smoothing == 1.0, must be < 1"),
        ({"contamination": 0.6}, "contamination == 0.6, must be <= 0.5"),
        ({"contamination": "few"}, "contamination must be a number or 'auto', got 'few'"),
        ({"start": "warm"}, "start must be one of"),
        ({"position_channels": 30}, "multiple of 4"),
        ({"pool_size": 2}, "pool_size must be odd"),
        ({"betas": 0.9}, "betas must be two numbers"),
        ({"n_jobs": 0}, "n_jobs must be None, a number of threads or -1 for all cores"),
        ({"n_jobs": 1.5}, "n_jobs must be None or an int, got 1.5"),
        ({"random_state": "x"}, "random_state must be None, an int .* got 'x'"),
        ({"random_state": -1}, "random_state must be None, an int .* got -1"),
        ({"out_indices": ()}, "out_indices must be a tuple"),
        ({"device": "cuda:99"}, "device='cuda:99' cannot be used here"),
        ({"memory": 3}, "memory must be None, a folder or a joblib.Memory"),
        ({"class_covariance": 1}, "class_covariance must be True or False"),
    ],
)
def test_bad_parameters_are_named_at_fit_and_not_before(two_products, parameters, message):
    detector = HGADDetector(**parameters)
    with pytest.raises((ValueError, TypeError), match=message):
        detector.fit(*two_products)


def test_paper_configuration_is_the_published_one(two_products):
    published = HGADDetector.paper().get_params()
    expected = {
        "backbone": "tf_efficientnet_b6", "image_size": 1024, "image_scales": (1.0, 0.5, 0.25),
        "out_indices": (3,), "n_blocks": 12, "hidden_ratio": 2.0, "clamp": 1.9,
        "position_channels": 256, "n_components": 10, "class_separation": 5.0,
        "label_smoothing": 0.02, "lambda_inter": 1.0, "lambda_mi": 100.0, "lambda_entropy": 1.0,
        "first_stage_fraction": 0.08, "warmup_fraction": 0.08, "final_lr_fraction": 1e-3,
        "learning_rate": 2e-4, "center_lr_factor": 3.0, "betas": (0.95, 0.99),
        "weight_decay": 1e-4, "max_iter": 200, "batch_size": 8, "blur_sigma": 4.0,
        "start": "published", "class_covariance": False, "map_normalization": "exponential",
        "criterion": "likelihood_entropy",
    }  # fmt: skip
    assert {name: published[name] for name in expected} == expected
    detector = HGADDetector.paper(criterion="likelihood", max_iter=2, random_state=0)
    scores = detector.fit(*two_products).score_samples([[0.0] * 6, [30.0] * 6])
    assert scores[0] > scores[1]


@pytest.mark.once
@pytest.mark.parametrize("criterion", ["likelihood", "entropy", "likelihood_entropy"])
@pytest.mark.parametrize("normalization", ["standardized", "exponential"])
def test_every_criterion_tells_anomalies_between_classes(two_products, criterion, normalization):
    X, labels = two_products
    detector = fast(criterion=criterion, map_normalization=normalization, max_iter=60)
    detector.fit(X, labels)
    between = np.random.default_rng(5).normal(2.5, 0.3, (50, 6))
    truth = np.repeat([1, -1], [len(X), 50])
    scores = detector.score_samples(np.concatenate([X, between]))
    assert roc_auc_score(truth, scores) > 0.9


@pytest.mark.parametrize("way", ["pickle", "joblib", "save"])
def test_stored_models_score_the_same(fitted, two_products, tmp_path, way):
    X, labels = two_products
    if way == "save":
        fitted.save(tmp_path / "model")
        stored = HGADDetector.load(tmp_path / "model")
    elif way == "joblib":
        joblib.dump(fitted, tmp_path / "model.joblib")
        stored = joblib.load(tmp_path / "model.joblib")
    else:
        import pickle

        stored = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(stored.score_samples(X), fitted.score_samples(X))
    np.testing.assert_array_equal(stored.p_values(X), fitted.p_values(X))
    np.testing.assert_array_equal(stored.predict_class(X), labels)
    assert stored.get_params() == fitted.get_params()
    assert (stored.offset_, stored.n_iter_) == (fitted.offset_, fitted.n_iter_)
    assert stored.n_features_in_ == 6
    np.testing.assert_equal(stored.history_, fitted.history_)


def test_clone_forgets_the_fit(fitted):
    assert not hasattr(clone(fitted), "classes_")


def test_training_beats_chance_on_unseen_kinds():
    X, labels = make_blobs(400, n_features=10, centers=4, random_state=0)
    rng = np.random.default_rng(6)
    anomalies = rng.uniform(X.min(), X.max(), (100, 10))
    detector = fast().fit(X[:300], labels[:300])
    truth = np.repeat([1, -1], 100)
    scores = detector.score_samples(np.concatenate([X[300:], anomalies]))
    assert roc_auc_score(truth, scores) > 0.99


def test_a_model_saved_on_a_gpu_loads_anywhere(fitted, tmp_path):
    detector = (
        clone(fitted).set_params(max_iter=0).fit(np.random.default_rng(8).normal(size=(20, 3)))
    )
    for device, expected in (("cuda:0", "auto"), ("cpu", "cpu"), ("auto", "auto")):
        detector.set_params(device=device).save(tmp_path / "model")
        loaded = HGADDetector.load(tmp_path / "model")
        assert loaded.device == expected
        assert np.isfinite(loaded.score_samples([[0.0] * 3])).all()


def test_parameters_come_in_the_order_of_their_groups():
    """In the signature and in the docstring; every parameter is in one group."""
    expected = [name for names in PARAMETER_GROUPS.values() for name in names]
    assert list(inspect.signature(HGADDetector).parameters) == expected
    text = inspect.getdoc(HGADDetector)  # without indentation, which Python 3.13 removes itself
    section = text.partition("Parameters\n")[2].partition("Attributes\n")[0]
    entries = re.findall(r"^(\w+(?:, \w+)*) : ", section, re.MULTILINE)
    assert [name for entry in entries for name in entry.split(", ")] == expected
