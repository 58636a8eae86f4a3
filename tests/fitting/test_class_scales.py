"""The unit of a class: one anomaly among its normals must not set it, or others pass in it."""

import numpy as np
import pytest

from skhgad import HGADDetector
from skhgad.fitting.class_scales import fit_class_scales

NAMES = np.array(list("abcd"))


class Products:
    """Four products: vectors of 8 features with three causes in common."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        self.means = 4 * self.rng.normal(size=(4, 8))
        self.loadings = self.rng.normal(size=(4, 3, 8))

    def vectors(self, n, codes=range(4)):
        """Return normal vectors, n of each product, and the names of their products."""
        found = [
            self.means[k]
            + self.rng.normal(size=(n, 3)) @ self.loadings[k]
            + 0.5 * self.rng.normal(size=(n, 8))
            for k in codes
        ]
        return np.concatenate(found), NAMES[list(codes)].repeat(n)

    def anomalies(self, n, code):
        """Return vectors of a product with one feature that is 3 off."""
        X, _ = self.vectors(n, [code])
        X[np.arange(n), self.rng.integers(0, 8, n)] += self.rng.choice([-3, 3], n)
        return X


def share_missed(detector, products, code):
    return (detector.predict(products.anomalies(200, code)) == 1).mean()


@pytest.mark.parametrize("n", [60, 300])
@pytest.mark.parametrize("distance", [12, 40])
def test_one_anomaly_among_the_normals_of_a_class_hides_no_others(n, distance):
    products = Products(1)
    X, y = products.vectors(n)
    X[3] += distance * products.rng.normal(size=8)
    detector = HGADDetector(random_state=0).fit(X, y)
    missed = [share_missed(detector, products, code) for code in range(4)]
    assert missed[0] < 0.6, missed  # hardly any was found when it set the unit
    fresh, _ = products.vectors(200)
    assert (detector.predict(fresh) == -1).mean() < 0.1


def test_one_anomaly_in_later_normals_hides_no_others():
    products = Products(2)
    X, y = products.vectors(60, range(3))
    detector = HGADDetector(random_state=0).fit(X, y)
    more, _ = products.vectors(60, [3])
    more[5] += 20 * products.rng.normal(size=8)
    detector.add_class(more, "d")
    assert share_missed(detector, products, 3) < 0.6
    again, _ = products.vectors(20, [0])
    again[5] += 20 * products.rng.normal(size=8)
    detector.update(again, ["a"] * 20)
    assert share_missed(detector, products, 0) < 0.6


def test_scale_is_the_mean_excess_but_for_the_farthest():
    rng = np.random.default_rng(0)
    peaks, codes = rng.exponential(size=(999, 1)), np.zeros(999, dtype=int)
    excess = peaks[peaks > np.median(peaks)] - np.median(peaks)
    scale = fit_class_scales(peaks, codes, 1, np.ones(1)).peak_scale[0, 0]
    assert scale == pytest.approx(excess.mean(), rel=0.005)
    peaks[7] = 1e6
    moved = fit_class_scales(peaks, codes, 1, np.ones(1)).peak_scale[0, 0]
    assert moved == pytest.approx(scale, rel=0.05)
    two = np.concatenate((peaks, 3 * peaks[::-1]), axis=1)
    both = fit_class_scales(two, codes, 1, np.ones(2)).peak_scale[:, 0]
    np.testing.assert_allclose(both, [moved, 3 * moved])  # each term by itself
