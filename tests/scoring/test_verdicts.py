"""What a fitted detector says of samples: thresholds, unknown products, one pass for everything."""

import copy
import json
import math
import warnings

import numpy as np
import pytest
from backbones import two_levels
from sklearn.metrics import roc_auc_score

from skhgad import HGADDetector


def gaussians(n, seed=0, classes=("bolt", "nut"), n_features=6, spread=1.0):
    """Classes that lie 8 apart on different axes."""
    rng = np.random.default_rng(seed)
    X = [
        rng.normal(0, spread, (n, n_features)) + 8 * np.eye(n_features)[code]
        for code in range(len(classes))
    ]
    return np.concatenate(X), np.repeat(classes, n)


def waves(n, kinds=("stripes", "checks"), seed=0):
    """Made products, 48 x 48, uint8 grey: `n` of each kind, and their labels."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:48, :48]
    images, labels = [], []
    for kind in kinds:
        for _ in range(n):
            shift = rng.integers(8)
            wave = np.sin((columns + shift) * 0.8)
            if kind == "checks":
                wave = wave * np.sin((rows + shift) * 0.8)
            if kind == "slants":
                wave = np.sin((rows + columns + shift) * 0.5)
            images.append(0.5 + 0.3 * wave + rng.normal(0, 0.03, wave.shape))
            labels.append(kind)
    return (255 * np.clip(images, 0, 1)).astype(np.uint8), np.array(labels)


def with_blob(images):
    damaged = images.copy()
    damaged[:, 14:24, 26:36] = 250
    return damaged


@pytest.fixture(scope="module")
def fitted_images():
    detector = HGADDetector(
        two_levels(), out_indices=(0, 1), image_size=48, max_iter=0, n_blocks=1, random_state=0
    )
    return detector.fit(*waves(60))


@pytest.fixture(scope="module")
def fitted():
    return HGADDetector(max_iter=0, random_state=0).fit(*gaussians(600))


class TestSetThreshold:
    @pytest.fixture(autouse=True)
    def keep_offset(self, fitted):
        before = fitted.offset_
        yield
        fitted.offset_, fitted.class_offsets_ = before, {}

    @pytest.mark.parametrize("rate", [0.02, 0.2, 0.5])
    def test_about_that_share_of_fresh_normals_is_flagged(self, fitted, rate):
        fresh, _ = gaussians(2000, seed=1)
        scores = fitted.score_samples(fresh)
        assert fitted.set_threshold(false_alarm_rate=rate) is fitted
        flagged = np.mean(fitted.predict(fresh) == -1)
        assert abs(flagged - rate) < 5 * np.sqrt(rate * (1 - rate) / 240)
        np.testing.assert_array_equal(fitted.score_samples(fresh), scores)

    def test_five_percent_is_what_fit_chose(self, fitted):
        before = fitted.offset_
        assert fitted.set_threshold(false_alarm_rate=0.05).offset_ == before

    def test_it_is_saved(self, fitted, tmp_path):
        fitted.set_threshold(false_alarm_rate=0.2).save(tmp_path / "model")
        assert HGADDetector.load(tmp_path / "model").offset_ == fitted.offset_

    @pytest.mark.parametrize("value", [None, float("nan")])
    def test_an_offset_that_is_no_number_is_refused(self, fitted, value):
        detector = copy.deepcopy(fitted)
        detector.offset_ = value  # with nan, nothing would be an anomaly
        with pytest.raises(ValueError, match="offset_ is nan: set a number"):
            detector.predict([[0.0] * detector.n_features_in_])

    def test_an_offset_that_no_model_may_hold_is_not_saved(self, fitted, tmp_path):
        detector = copy.deepcopy(fitted)
        detector.offset_ = -np.inf  # nothing is an anomaly
        assert (detector.predict([[1e9] * detector.n_features_in_]) == 1).all()
        with pytest.raises(ValueError, match="offset must be a finite number, is -inf"):
            detector.save(tmp_path / "model")
        assert not (tmp_path / "model").exists()

    def test_too_few_samples_to_promise_the_rate_are_said(self, fitted):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            fitted.set_threshold(false_alarm_rate=1 / 241)  # 240 held-out samples
        with pytest.warns(UserWarning, match="needs at least 241 calibration samples, there are 2"):
            fitted.set_threshold(false_alarm_rate=1 / 242)

    @pytest.mark.parametrize("rate", [0, 1, -0.1, float("nan")])
    def test_a_rate_outside_0_and_1_is_refused(self, fitted, rate):
        before = fitted.offset_
        with pytest.raises(ValueError, match="false_alarm_rate must lie strictly between 0 and 1"):
            fitted.set_threshold(false_alarm_rate=rate)
        assert fitted.offset_ == before

    @pytest.mark.parametrize("rate", ["0.1", True, None])
    def test_what_is_no_number_is_refused(self, fitted, rate):
        with pytest.raises(TypeError, match="false_alarm_rate must be a number"):
            fitted.set_threshold(false_alarm_rate=rate)

    def test_a_product_has_a_rate_of_its_own(self, fitted, tmp_path):
        fresh, labels = gaussians(2000, seed=1)
        is_bolt = labels == "bolt"
        fitted.set_threshold(false_alarm_rate=0.05)
        before, common = fitted.predict(fresh), fitted.offset_
        assert fitted.set_threshold(false_alarm_rate={"bolt": 0.3}) is fitted
        assert fitted.offset_ == common and list(fitted.class_offsets_) == ["bolt"]
        flagged = fitted.predict(fresh) == -1
        np.testing.assert_array_equal(flagged[~is_bolt], before[~is_bolt] == -1)
        assert abs(flagged[is_bolt].mean() - 0.3) < 5 * np.sqrt(0.3 * 0.7 / 120)
        # Every way to ask says the same, and so do p-values and a saved model.
        inspection = fitted.inspect(fresh)
        np.testing.assert_array_equal(inspection.is_anomaly, flagged)
        np.testing.assert_array_equal(inspection.p_value[is_bolt] < 0.3, flagged[is_bolt])
        explained = [explanation.is_anomaly for explanation in fitted.explain(fresh[:200])]
        assert explained == flagged[:200].tolist()
        np.testing.assert_array_equal(fitted.decision_function(fresh) < 0, flagged)
        fitted.save(tmp_path / "model")
        loaded = HGADDetector.load(tmp_path / "model")
        assert loaded.class_offsets_ == fitted.class_offsets_
        np.testing.assert_array_equal(loaded.predict(fresh) == -1, flagged)
        assert copy.deepcopy(fitted).class_offsets_ == fitted.class_offsets_

    def test_a_given_class_has_its_threshold(self, fitted):
        fitted.class_offsets_ = {"nut": 1e9}
        X = gaussians(3, seed=1)[0]
        assert fitted.predict(X, class_labels=["nut"] * 6).tolist() == [-1] * 6
        assert fitted.predict(X).tolist()[3:] == [-1] * 3

    def test_mappings_add_up_and_a_number_is_for_all(self, fitted):
        fitted.set_threshold(false_alarm_rate={"bolt": 0.1})
        bolt = dict(fitted.class_offsets_)
        fitted.set_threshold(false_alarm_rate={"nut": 0.1})
        assert set(fitted.class_offsets_) == {"bolt", "nut"}
        assert fitted.class_offsets_["bolt"] == bolt["bolt"]
        assert fitted.set_threshold(false_alarm_rate=0.1).class_offsets_ == {}

    @pytest.mark.parametrize(
        ("rates", "error", "message"),
        [
            ({"blot": 0.1}, ValueError, "names the class 'blot', .* Did you mean 'bolt'"),
            ({"bolt": 0.1, "nut": 2}, ValueError, "must lie strictly between 0 and 1, got 2"),
            ({"bolt": "0.1"}, TypeError, "must be a number"),
            ({}, ValueError, "is an empty mapping"),
        ],
    )
    def test_a_wrong_mapping_is_named_and_changes_nothing(self, fitted, rates, error, message):
        with pytest.raises(error, match=message):
            fitted.set_threshold(false_alarm_rate=rates)
        assert fitted.class_offsets_ == {}

    def test_a_rate_that_a_product_cannot_keep_is_said(self, fitted):
        with pytest.warns(
            UserWarning, match="of class 'bolt' needs at least 999 .* there are 1"
        ) as told:
            fitted.set_threshold(false_alarm_rate={"bolt": 0.001})
        assert told[0].filename == __file__  # the line that called
        X, y = gaussians(60)
        X = np.concatenate([X, 30 + np.zeros((3, 6))])
        with pytest.warns(UserWarning, match="fewer than 5 normal samples"):
            rare = HGADDetector(max_iter=0, random_state=0).fit(X, [*y, *["pin"] * 3])
        with pytest.raises(ValueError, match="'pin': it has no calibration samples of its own"):
            rare.set_threshold(false_alarm_rate={"pin": 0.1})

    def test_int_classes(self):
        X, _ = gaussians(60)
        detector = HGADDetector(max_iter=0, random_state=0).fit(X, np.repeat([3, 7], 60))
        detector.set_threshold(false_alarm_rate={np.int64(7): 0.2})
        assert list(detector.class_offsets_) == [7]


class TestUnknownProducts:
    def test_without_a_rate_every_product_is_a_known_one(self, fitted):
        unseen = np.full((5, 6), -30.0)
        assert set(fitted.predict_class(unseen)) <= {"bolt", "nut"}

    def test_a_vector_of_a_class_not_seen_is_unknown_and_an_anomaly(self, fitted):
        unseen = np.random.default_rng(0).normal(0, 1, (50, 6)) + [0, 0, 8, 0, 0, 0]
        known, labels = gaussians(500, seed=2)
        detector = copy.copy(fitted).set_params(unknown_rate=0.05)
        assert (detector.predict_class(unseen) == "unknown").all()
        assert (detector.predict(unseen) == -1).all()
        found = detector.predict_class(known)
        assert abs(np.mean(found == "unknown") - 0.05) < 0.05
        assert (found == labels)[found != "unknown"].all()

    def test_a_product_not_seen_is_unknown_and_an_image_with_a_defect_is_not(self, fitted_images):
        unseen, _ = waves(12, ["slants"], seed=1)
        known, labels = waves(30, seed=2)
        fitted_images.set_params(unknown_rate=0.08)
        try:
            assert (fitted_images.predict_class(unseen) == "unknown").all()
            defects = fitted_images.inspect(with_blob(known))
            assert np.mean(fitted_images.predict_class(known) == labels) > 0.8
        finally:
            fitted_images.set_params(unknown_rate=None)
        assert (fitted_images.predict(unseen) == -1).all()
        assert defects.is_anomaly.mean() > 0.95
        assert np.mean(defects.class_label == labels) > 0.7

    def test_int_classes_have_minus_one_for_unknown(self):
        X, labels = gaussians(40, classes=(3, 7))
        detector = HGADDetector(max_iter=0, unknown_rate=0.2, random_state=0).fit(X, labels)
        found = detector.predict_class(np.full((2, 6), 40.0))
        assert found.tolist() == [-1, -1]
        assert found.dtype.kind == "i"

    def test_a_given_class_is_not_doubted(self):
        X, labels = gaussians(40)
        detector = HGADDetector(max_iter=0, unknown_rate=0.2, random_state=0).fit(X, labels)
        far = np.full((2, 6), 40.0)
        assert detector.inspect(far, class_labels="nut").class_label.tolist() == ["nut", "nut"]

    def test_a_rate_that_the_held_out_normals_cannot_show_is_said(self):
        X, labels = gaussians(40)
        detector = HGADDetector(max_iter=0, unknown_rate=0.01, random_state=0).fit(X, labels)
        with pytest.warns(UserWarning, match="needs at least 99 held-out normals in a class.* 40"):
            detector.predict_class(X[:1])

    def test_a_class_called_unknown_is_refused(self):
        X, labels = gaussians(40, classes=("nut", "unknown"))
        detector = HGADDetector(max_iter=0, unknown_rate=0.2, random_state=0).fit(X, labels)
        with pytest.raises(ValueError, match="a product class is called 'unknown'"):
            detector.predict_class(X[:1])

    @pytest.mark.parametrize("rate", [0, 1.0, float("nan")])
    def test_a_rate_outside_0_and_1_is_refused_by_fit(self, rate):
        with pytest.raises(ValueError, match="unknown_rate must lie strictly between"):
            HGADDetector(unknown_rate=rate).fit(*gaussians(10))

    def test_a_loaded_model_knows_as_much(self, fitted_images, tmp_path):
        fitted_images.save(tmp_path / "model")
        loaded = HGADDetector.load(tmp_path / "model", backbone=two_levels())
        X = np.concatenate([waves(4, seed=3)[0], waves(4, ["slants"], seed=3)[0]])
        np.testing.assert_allclose(loaded.score_samples(X), fitted_images.score_samples(X))
        for detector in (loaded, fitted_images):
            detector.set_params(unknown_rate=0.1)
        try:
            expected = fitted_images.predict_class(X)
        finally:
            fitted_images.set_params(unknown_rate=None)
        np.testing.assert_array_equal(loaded.predict_class(X), expected)
        assert "unknown" in expected


class TestCalibration:
    """P-values hold what they promise, in every class: 40 draws of classes of different scales."""

    _RATES = (2 / 39, 8 / 39)  # what 38 held-out normals can promise

    @staticmethod
    def draw(rng, n, distance):
        """Three Gaussian classes, `distance` widths of the wider apart."""
        scales = (0.5, 1.0, 3.0)
        X = [rng.normal(i * s * distance, s, (n, 3)) for i, s in enumerate(scales)]
        return np.concatenate(X), np.repeat(["a", "b", "c"], n)

    def excess_of_false_alarms(self, distance, **parameters):
        """Mean and standard error over draws of P(p <= rate) less what n normals can show of rate.

        Of n + 1 exchangeable samples, floor(rate (n + 1)) have p <= rate: the rate itself for the
        classes given, of which n = 38; as many as were inferred differ from draw to draw.
        Returned as {(by, class, rate): (mean, error)}. By "given": class given; by "found":
        inferred, of the samples taken for the class; by "true": inferred, of the samples of the
        class, less the rate and less the share of them that is taken for others.
        """
        found = {}
        for seed in range(40):
            rng = np.random.default_rng(seed)
            detector = HGADDetector(
                max_iter=0, n_blocks=0, validation_fraction=0.5, random_state=seed, **parameters
            ).fit(*self.draw(rng, 76, distance))
            X, labels = self.draw(rng, 60, distance)
            inferred = detector.predict_class(X)
            for by in ("given", "found", "true"):
                p_values = detector.p_values(X, class_labels=labels if by == "given" else None)
                told = inferred if by == "found" else labels
                known = detector.model_.calibration.inferred
                known = known if by == "found" else detector.model_.calibration.codes
                for code, name in enumerate(detector.classes_):
                    n = np.count_nonzero(known == code)
                    for rate in self._RATES:
                        hit = np.mean(p_values[told == name] <= rate + 1e-12)
                        shown = math.floor(rate * (n + 1) + 1e-9) / (n + 1)
                        if by == "true":
                            shown += np.mean(inferred[labels == name] != name)
                        found.setdefault((by, name, rate), []).append(hit - shown)
        return {
            key: (np.mean(rates), np.std(rates) / np.sqrt(len(rates)))
            for key, rates in found.items()
        }

    # well apart; few samples mistaken; many
    @pytest.mark.parametrize("distance", [12, 2, 1])
    @pytest.mark.once
    def test_false_alarms_are_what_the_guide_promises_in_every_class(self, distance):
        found = self.excess_of_false_alarms(distance, n_components=1)
        assert len(found) == 18
        for key, (mean, error) in found.items():
            if key[0] == "true" and distance < 12:
                assert mean < 4 * error, key
            else:
                assert abs(mean) < 4 * error, key

    @pytest.mark.once
    def test_the_false_discovery_rate_of_a_batch_is_kept(self):
        """As the guide does it, over batches of 120 that hold 18 anomalies."""
        stats = pytest.importorskip("scipy", minversion="1.11").stats
        false, found = [], []
        for seed in range(40):
            rng = np.random.default_rng(seed)
            detector = HGADDetector(
                max_iter=0, n_blocks=0, n_components=1, validation_fraction=0.5, random_state=seed
            ).fit(*self.draw(rng, 300, 12))
            X, labels = self.draw(rng, 40, 12)
            anomalous = rng.permutation(len(X)) < 18
            X[anomalous] += (
                10 * np.select([labels == "a", labels == "b"], [0.5, 1.0], 3.0)[anomalous, None]
            )
            alarms = stats.false_discovery_control(detector.p_values(X)) <= 0.2
            false.append(np.mean(~anomalous[alarms]) if alarms.any() else 0)
            found.append(np.mean(alarms[anomalous]))
        assert np.mean(found) > 0.95
        assert np.mean(false) < 0.2 + 3 * np.std(false) / np.sqrt(len(false))

    @pytest.mark.once
    def test_pooled_scores_separate_no_worse_than_without_a_common_scale(self):
        pooled = {True: [], False: []}
        for seed in range(10):
            rng = np.random.default_rng(seed)
            X, labels = self.draw(rng, 76, 12)
            normal, told = self.draw(rng, 100, 12)
            width = np.select([told == "a", told == "b"], [0.5, 1.0], 3.0)[:, None]
            mixed = np.concatenate([normal, normal + 3 * width * rng.choice([-1, 1], (300, 3))])
            truth = np.repeat([1, 0], 300)
            for calibrated, found in pooled.items():
                detector = HGADDetector(
                    n_components=1, class_calibration=calibrated, random_state=seed
                ).fit(X, labels)
                found.append(roc_auc_score(truth, detector.score_samples(mixed)))
        assert np.mean(pooled[True]) > np.mean(pooled[False]) - 0.01


class TestInspect:
    def test_it_agrees_with_every_method(self, fitted_images):
        X, _ = waves(5, seed=4)
        X[::3] = with_blob(X[::3])
        found = fitted_images.inspect(X, maps=True)
        np.testing.assert_array_equal(found.class_label, fitted_images.predict_class(X))
        np.testing.assert_array_equal(found.score, fitted_images.score_samples(X))
        np.testing.assert_array_equal(found.p_value, fitted_images.p_values(X))
        np.testing.assert_array_equal(found.is_anomaly, fitted_images.predict(X) == -1)
        np.testing.assert_array_equal(np.stack(found.maps), fitted_images.anomaly_maps(X))
        assert 0 < found.is_anomaly.sum() < len(X)

    def test_a_given_class_is_used(self, fitted, fitted_images):
        X, labels = gaussians(3)
        wrong = np.where(labels == "nut", "bolt", "nut")
        found = fitted.inspect(X, class_labels=wrong)
        assert found.class_label.tolist() == wrong.tolist()
        np.testing.assert_array_equal(found.score, fitted.score_samples(X, class_labels=wrong))
        assert found.is_anomaly.all()

    def test_thresholds_and_regions_are_those_of_the_class(self, fitted_images):
        X, labels = waves(2, seed=4)
        X, own = with_blob(X), copy.copy(fitted_images)
        own.class_offsets_ = {"checks": -1e9}
        is_own = labels == "checks"
        common, found = fitted_images.inspect(X, maps=True), own.inspect(X, maps=True)
        assert found.class_label.tolist() == labels.tolist()
        assert found.threshold.dtype == np.float64
        assert found.threshold.tolist() == np.where(is_own, -1e9, own.offset_).tolist()
        assert found.is_anomaly.tolist() == (~is_own).tolist()
        samples = json.loads(found.to_json())["samples"]
        for before, after, checks in zip(common.to_dict()["samples"], samples, is_own, strict=True):
            assert before["regions"] and before["is_anomaly"]
            if checks:
                assert after["threshold"] == -1e9
                assert after["regions"] == [] and not after["is_anomaly"]
            else:
                assert after == before
        given = own.inspect(X[~is_own], class_labels="checks")
        assert given.threshold.tolist() == [-1e9] * 2

    def test_maps_are_of_each_image_own_size(self, fitted_images):
        wide, tall = np.full((20, 60), 90, np.uint8), np.full((50, 30), 90, np.uint8)
        found = fitted_images.inspect([wide, tall], maps=True)
        assert [(m.shape, m.dtype) for m in found.maps] == [
            ((20, 60), np.float32), ((50, 30), np.float32),
        ]  # fmt: skip
        assert fitted_images.inspect([wide]).maps is None

    def test_vectors_have_no_maps(self, fitted):
        with pytest.raises(ValueError, match="maps=True needs images"):
            fitted.inspect([[0.0] * 6], maps=True)
