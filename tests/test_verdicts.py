"""What a fitted detector says of samples: thresholds, unknown products, one pass for everything."""

import warnings

import numpy as np
import pytest

from skhgad import HGADDetector


def gaussians(n, seed=0, classes=("bolt", "nut"), n_features=6, spread=1.0):
    """Classes that lie 8 apart on different axes."""
    rng = np.random.default_rng(seed)
    X = [
        rng.normal(0, spread, (n, n_features)) + 8 * np.eye(n_features)[code]
        for code in range(len(classes))
    ]
    return np.concatenate(X), np.repeat(classes, n)


@pytest.fixture(scope="module")
def fitted():
    return HGADDetector(max_iter=0, random_state=0).fit(*gaussians(600))


class TestSetThreshold:
    @pytest.fixture(autouse=True)
    def keep_offset(self, fitted):
        before = fitted.offset_
        yield
        fitted.offset_ = before

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
