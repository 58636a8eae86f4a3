"""`groups`: several samples of one part stay together, and one of them calibrates."""

import warnings

import numpy as np
import pytest
import torch
from backbones import two_levels
from sklearn import config_context
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skhgad import HGADDetector
from skhgad.fitting.fit import fit_detector
from skhgad.fitting.folds import spare
from skhgad.fitting.gaussian_shrinkage import inflation_of, likeliest_pseudo_count
from skhgad.fitting.kernels import fit_kernels
from skhgad.fitting.modes import find_modes
from skhgad.fitting.parts import Parts
from skhgad.fitting.same_call import check_same_data
from skhgad.storage.untrusted import read_kept

pytestmark = pytest.mark.filterwarnings("ignore:.*as if parts were repeated")


def parts_of_vectors(n_parts, n_each, within=0.2, seed=0, n_features=6):
    """Return vectors of parts, of which each was measured several times, and their parts."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(n_parts, 1, n_features)) * (1 - within**2) ** 0.5
    X = centers + within * rng.normal(size=(n_parts, n_each, n_features))
    return X.reshape(-1, n_features), np.repeat(np.arange(n_parts), n_each)


def parts_of_pictures(n_parts, n_each, seed=0):
    """Return pictures (n, 32, 32, 3) of parts with stripes of their own, and their parts."""
    rng = np.random.default_rng(seed)
    row, column = np.mgrid[:32, :32]
    pictures = []
    for _ in range(n_parts):
        angle, phase, grey = rng.uniform(0, 0.5), rng.uniform(0, 6), rng.uniform(80, 150)
        plain = grey + 40 * np.sin(column * 0.8 + row * angle + phase)
        plain = plain + rng.normal(0, 15, plain.shape)
        pictures += [plain + rng.normal(0, 1, plain.shape) for _ in range(n_each)]
    pictures = np.clip(pictures, 0, 255).astype(np.uint8)
    return np.repeat(pictures[..., None], 3, -1), np.repeat(np.arange(n_parts), n_each)


def image_detector(**parameters):
    parameters = {"n_components": 1, "image_size": 32, "random_state": 0} | parameters
    return HGADDetector(two_levels(), out_indices=(0, 1), **parameters)


def share_flagged(detector, X):
    return (detector.predict(X) < 0).mean()


def test_fresh_parts_are_flagged_as_often_as_promised():
    X, groups = parts_of_vectors(40, 5)
    fresh, _ = parts_of_vectors(1000, 1, seed=1)
    without = HGADDetector(random_state=0).fit(X)
    detector = HGADDetector(random_state=0).fit(X, groups=groups)
    assert share_flagged(without, fresh) > 0.5
    assert share_flagged(detector, fresh) < 0.12
    (certificate,) = detector.certificate()
    assert certificate.n_normals == 40
    assert (detector.n_components_ == 1).all()


@pytest.mark.parametrize("n_pictures", [40, 45])
def test_fresh_parts_of_pictures(n_pictures):
    X, groups = parts_of_pictures(n_pictures // 5 * 4, 3)
    fresh, _ = parts_of_pictures(80, 1, seed=1)
    without, detector = image_detector().fit(X), image_detector().fit(X, groups=groups)
    assert share_flagged(without, fresh) > 0.3
    assert share_flagged(detector, fresh) < 0.15
    assert len(detector.model_.calibration.scores) == n_pictures // 5 * 4


def test_labels_of_parts_may_be_words_in_any_order():
    X, groups = parts_of_vectors(30, 3)
    order = np.random.default_rng(0).permutation(len(X))
    detector = HGADDetector(random_state=0).fit(X[order], groups=groups[order])
    words = [f"part {group}" for group in groups[order].tolist()]
    again = HGADDetector(random_state=0).fit(X[order], groups=words)
    np.testing.assert_array_equal(detector.score_samples(X), again.score_samples(X))
    assert detector.offset_ == again.offset_


def test_each_sample_a_part_is_a_fit_without_groups():
    X, _ = parts_of_vectors(60, 1)
    detector = HGADDetector(random_state=0).fit(X, groups=np.arange(60))
    plain = HGADDetector(random_state=0).fit(X)
    np.testing.assert_array_equal(detector.score_samples(X), plain.score_samples(X))
    assert detector.offset_ == plain.offset_
    assert detector.model_.kept.parts is None


@pytest.mark.parametrize("fraction", ["cross", "auto", 0.3])
def test_no_part_is_on_both_sides(fraction):
    numbers = np.random.default_rng(0).integers(0, 30, 200)
    codes = numbers % 2
    parts = Parts.drawn(numbers, codes, np.random.RandomState(0))
    spared = spare(codes, fraction, enough=20, random_state=np.random.RandomState(0), parts=parts)
    assert spared.any()
    for group in spared:
        assert not set(numbers[group]) & set(numbers[~group])
    if fraction == "cross":
        assert (spared.sum(0) == 1).all()


def test_parts_are_counted_where_samples_are_few():
    numbers = np.repeat(np.arange(4), 50)
    parts = Parts.drawn(numbers, 0 * numbers, np.random.RandomState(0))
    spared = spare(0 * numbers, "cross", enough=20, random_state=np.random.RandomState(0))
    assert spared.any()
    spared = spare(
        0 * numbers, "cross", enough=20, random_state=np.random.RandomState(0), parts=parts
    )
    assert not spared.any()
    X, groups = parts_of_vectors(4, 30)
    with pytest.warns(UserWarning, match="fewer than 5 normal parts"):
        HGADDetector(random_state=0).fit(X, groups=groups)


def test_one_sample_of_each_part_is_drawn():
    numbers = np.random.default_rng(0).integers(0, 30, 200)
    codes = np.where(np.arange(200) < 20, -1, 0)
    parts = Parts.drawn(numbers, codes, np.random.RandomState(0))
    others = Parts.drawn(numbers, codes, np.random.RandomState(1))
    assert sorted(numbers[parts.judged]) == sorted(set(numbers[codes >= 0]))
    assert (codes[parts.judged] == 0).all()
    assert (parts.judged != others.judged).any()


@pytest.mark.parametrize("fraction", [0, 0.25, "cross"])
@pytest.mark.parametrize("takes_images", [False, True])
def test_one_sample_of_each_part_calibrates(fraction, takes_images):
    if takes_images:
        (X, groups), detector = parts_of_pictures(20, 2), image_detector()
    else:
        (X, groups), detector = parts_of_vectors(20, 4), HGADDetector(random_state=0)
    detector.set_params(validation_fraction=fraction)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        detector.fit(X, groups=groups)
    assert len(detector.model_.calibration.scores) == (5 if fraction == 0.25 else 20)


@pytest.mark.parametrize("parameters", [
    {"resize": "pad"}, {"tile_size": 20}, {"bank_size": 0}, {"criterion": "likelihood_entropy"},
    {"n_components": "auto"}, {"contamination": 0.1}, {"fuse_stages": False},
    {"max_iter": 1, "validation_fraction": 0.2},
])  # fmt: skip
def test_other_fits_of_pictures(parameters):
    X, groups = parts_of_pictures(22, 2)
    y = np.repeat(["a", "b"], 22)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        detector = image_detector(**parameters).fit(X, y, groups=groups)
    counts = np.bincount(detector.model_.calibration.codes)
    assert counts.tolist() == ([2, 2] if "max_iter" in parameters else [11, 11])


@pytest.mark.parametrize("parameters", [
    {"max_iter": 1}, {"contamination": 0.1}, {"n_components": 3}, {"n_classes": 2},
])  # fmt: skip
def test_other_fits_of_vectors(parameters):
    X, groups = parts_of_vectors(60, 3, n_features=3)
    X = X + 20.0 * (groups % 2)[:, None]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        detector = HGADDetector(random_state=0, **parameters).fit(X, groups=groups)
    assert len(detector.model_.calibration.scores) == (12 if "max_iter" in parameters else 60)


def test_far_cells_of_several_samples_of_a_part():
    X, groups = parts_of_vectors(40, 5)
    X[[0, 1], 0] = 1e6, 2e6
    with pytest.warns(UserWarning, match="as far from the median"):
        detector = HGADDetector(random_state=0).fit(X, groups=groups)
    assert len(detector.model_.calibration.scores) == 40


def test_a_class_is_discovered_from_one_sample_of_each_part():
    X, groups = parts_of_vectors(10, 30, within=0.05)
    detector = HGADDetector(n_classes="discover", random_state=0).fit(X, groups=groups)
    assert len(detector.classes_) == 1


def test_known_anomalies_may_be_of_parts_with_normals():
    X, groups = parts_of_vectors(40, 4)
    y = np.tile(["good", "good", "good", "-1"], 40)
    X[y == "-1"] += [5, 0, 0, 0, 0, 0]
    detector = HGADDetector(random_state=0).fit(X, y, groups=groups)
    (known,) = detector.known_anomalies_
    assert known.n_anomalies == 40
    assert len(detector.model_.calibration.scores) == 40
    fresh, _ = parts_of_vectors(300, 1, seed=1)
    assert share_flagged(detector, fresh) < 0.15


@pytest.mark.parametrize(("groups", "error", "message"), [
    ([0] * 59, ValueError, "groups has the shape .59,., and X has 60 samples"),
    (5, TypeError, "groups is 5: give one label"),
    ("part", TypeError, "groups is 'part'"),
    (np.zeros((60, 2)), ValueError, "groups has the shape"),
    ([0] * 59 + [None], ValueError, "groups.59. is None"),
    ([0] * 59 + [np.nan], ValueError, "groups.59. is nan"),
    ([0] * 59 + [[1]], TypeError, "groups.59. is .1.: labels are str or int"),
    (["x", *range(58), "x"], ValueError, "'x' has normal samples of the classes 'a', 'b'"),
])  # fmt: skip
def test_groups_that_cannot_be_used(groups, error, message):
    X, _ = parts_of_vectors(60, 1)
    with pytest.raises(error, match=message):
        HGADDetector().fit(X, np.repeat(["a", "b"], 30), groups=groups)


def test_routing():
    X, groups = parts_of_vectors(40, 3)
    with config_context(enable_metadata_routing=True):
        detector = HGADDetector(random_state=0).set_fit_request(groups=True)
        pipeline = make_pipeline(StandardScaler(), detector).fit(X, groups=groups)
        assert len(pipeline[-1].model_.calibration.scores) == 40
        assert len(pipeline[-1].model_.kept.x) == 120
        search = GridSearchCV(
            pipeline, {"hgaddetector__n_components": [1]}, cv=GroupKFold(4), refit=False,
            scoring=lambda fitted, X, y=None: len(fitted[-1].model_.calibration.scores),
        )  # fmt: skip
        search.fit(X, groups=groups)
    assert search.cv_results_["mean_test_score"].tolist() == [30]


def test_fit_predict_takes_groups():
    X, groups = parts_of_vectors(30, 3)
    detector = HGADDetector(random_state=0)
    found = detector.fit_predict(X, groups=groups)
    assert len(found) == 90
    assert len(detector.model_.calibration.scores) == 30


def test_update_of_a_single_class_equals_a_fit_on_everything():
    X, groups = parts_of_vectors(50, 3)
    detector = HGADDetector(random_state=0).fit(X[:90], groups=groups[:90])
    detector.update(X[90:], groups=groups[90:])
    whole = HGADDetector(random_state=0).fit(X, groups=groups)
    np.testing.assert_array_equal(detector.score_samples(X), whole.score_samples(X))
    np.testing.assert_array_equal(detector.p_values(X), whole.p_values(X))


def test_groups_of_an_update_are_new_parts():
    X, groups = parts_of_vectors(40, 3)
    detector = HGADDetector(random_state=0).fit(X[:60], groups=groups[:60])
    detector.update(X[60:], groups=groups[60:] - groups[60])  # the numbers of the first parts
    assert len(detector.model_.calibration.scores) == 40
    detector.update(parts_of_vectors(10, 1, seed=2)[0])
    assert len(detector.model_.calibration.scores) == 50


@pytest.mark.parametrize("keeps", [True, False])
def test_update_and_add_class_of_several_classes(keeps, monkeypatch):
    if not keeps:
        monkeypatch.setattr("skhgad.scoring.kept_vectors.MOST_KEPT", 10)
    X, groups = parts_of_vectors(40, 3)
    y = np.repeat(["a", "b"], 60)
    X[60:] += 8
    detector = HGADDetector(random_state=0).fit(X, y, groups=groups)
    more, of_more = parts_of_vectors(12, 4, seed=3)
    detector.update(more, "a", groups=of_more)
    assert np.bincount(detector.model_.calibration.codes).tolist() == [32, 20]
    detector.add_class(more - 9, "c", groups=of_more)
    assert np.bincount(detector.model_.calibration.codes).tolist() == [32, 20, 12]
    with pytest.raises(ValueError, match="groups has the shape"):
        detector.update(more, "a", groups=of_more[1:])
    with pytest.raises(ValueError, match="groups has the shape"):
        detector.add_class(more, "d", groups=of_more[1:])


def test_update_and_add_class_of_pictures():
    X, groups = parts_of_pictures(24, 2)
    detector = image_detector().fit(X[:24], ["a"] * 24, groups=groups[:24])
    detector.update(X[24:], groups=groups[24:])
    assert len(detector.model_.calibration.scores) == 24
    detector.add_class(255 - X[:24], "b", groups=groups[:24])
    assert np.bincount(detector.model_.calibration.codes).tolist() == [24, 12]


def test_a_loaded_model_knows_the_parts(tmp_path):
    X, groups = parts_of_vectors(40, 3)
    detector = HGADDetector(random_state=0).fit(X[:90], groups=groups[:90])
    detector.save(tmp_path / "model")
    loaded = HGADDetector.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.model_.kept.parts, groups[:90])
    np.testing.assert_array_equal(loaded.score_samples(X), detector.score_samples(X))
    for one in (loaded, detector):
        one.update(X[90:], groups=groups[90:])
    np.testing.assert_array_equal(loaded.score_samples(X), detector.score_samples(X))
    assert loaded.offset_ == detector.offset_


@pytest.mark.parametrize("parts", [np.arange(59), np.arange(60) - 1, np.zeros(60, np.int32)])
def test_parts_of_a_damaged_model_are_refused(parts):
    kept = {"x": torch.zeros(60, 2).double(), "codes": torch.zeros(60).long()}
    assert read_kept({**kept, "parts": torch.arange(60)}, 2, 1).parts.tolist() == [*range(60)]
    assert read_kept(kept, 2, 1).parts is None
    with pytest.raises(ValueError, match="kept.parts"):
        read_kept({**kept, "parts": torch.from_numpy(parts)}, 2, 1)


def test_leaving_parts_out_is_leaving_their_vectors_out():
    X, groups = parts_of_vectors(12, 5, within=0.02)
    residuals, parts = torch.from_numpy(X - X.mean(0)), torch.from_numpy(groups)
    codes = torch.zeros(len(parts), dtype=torch.int64)
    assert inflation_of(codes, parts)[0] == pytest.approx(12 / 11)
    one = likeliest_pseudo_count(residuals, inflation_of(codes), 1.0)
    whole = likeliest_pseudo_count(residuals, inflation_of(codes, parts), 1.0, parts=parts)
    assert whole > one  # repeats ask for no prior, parts do


def test_kernels_are_as_wide_as_parts_are_apart():
    X, groups = parts_of_vectors(60, 4, within=0.02, n_features=2)
    z, parts = torch.from_numpy(X), torch.from_numpy(groups)
    order = torch.randperm(len(z), generator=torch.Generator().manual_seed(0))
    z, parts = z[order], parts[order]
    variance, of_parts = (
        fit_kernels(z, None, p).covariances.diagonal(dim1=1, dim2=2).mean() for p in (None, parts)
    )
    assert of_parts > 5 * variance


def test_repeats_are_no_mode():
    X, groups = parts_of_vectors(4, 50, within=0.05, n_features=2)
    x, codes = torch.from_numpy(X), torch.zeros(len(X), dtype=torch.int64)
    assert len(find_modes(x, codes, 1, 0).unique()) > 1
    assert not find_modes(x, codes, 1, 0, torch.from_numpy(groups)).any()


class _Two:
    """Stands for two processes of which the other was given something else."""

    size = 2

    def gather(self, items):
        return [*items, "other"]


def test_processes_must_agree_on_groups():
    X, groups = parts_of_vectors(10, 2)
    codes = np.zeros(20, dtype=np.int64)
    with pytest.raises(ValueError, match="X, y and groups are not the same in all processes"):
        check_same_data(_Two(), X, codes, ["a"], None, groups)


def test_fit_detector_says_how_many_parts_calibrate(capsys):
    X, groups = parts_of_vectors(30, 3)
    fit_detector(HGADDetector(random_state=0, verbose=1), X, groups=groups)
    assert "judge these for the calibration: 0 30" in capsys.readouterr().out
