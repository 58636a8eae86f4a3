"""What fit warns of: labels, units, small images and too few normals."""

import warnings

import numpy as np
import pytest
from backbones import two_levels
from PIL import Image

from skhgad import HGADDetector
from skhgad.fitting.warn import warn_of_labels
from skhgad.images import ImageSource
from skhgad.validation import check_y

FEW = "too few held-out normals"


def fit_warnings(X, y=None, **parameters):
    """Fit without training; return the texts of the warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        HGADDetector(max_iter=0, random_state=0, **parameters).fit(X, y)
    assert all(w.filename == __file__ for w in caught)  # they point at the call of fit
    return [str(w.message) for w in caught]


def vectors(n=100, n_features=4, seed=0):
    return np.random.default_rng(seed).normal(size=(n, n_features))


# Labels


@pytest.mark.slow
@pytest.mark.parametrize("kind", [int, float, np.uint8, str])
def test_zero_and_one_are_taken_for_products_and_named_so(kind):
    y = [kind(value) for value in np.arange(200) % 2]
    (text,) = fit_warnings(vectors(200), y)
    mend = f"np.where(np.asarray(y) == {'1' if kind is not str else repr('1')}, -1, 1)"
    assert mend in text and "two products" in text
    mended = eval(mend, {"np": np, "y": y})
    codes, classes = check_y(mended, 200)
    assert classes.tolist() == [1] and codes.tolist() == [0, -1] * 100
    assert fit_warnings(vectors(200), mended) == []


@pytest.mark.slow
def test_zero_and_one_beside_known_anomalies_are_products():
    assert fit_warnings(vectors(220), np.repeat([0, 1, -1], [100, 100, 20])) == []
    assert fit_warnings(vectors(200), np.repeat([1, 2], 100)) == []
    assert fit_warnings(vectors(100), np.zeros(100, dtype=int)) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "good, bad",
    [
        ("good", "bad"),
        ("normal", "Anomalous"),
        ("pass", "Not OK"),
        ("a", "n.i.O."),
        ("a", "Défaut"),
        ("a", "DEFAUT"),
        ("a", "不良品"),
    ],
)
def test_names_of_defects_are_found_in_any_case(good, bad):
    y = [good] * 100 + [bad] * 100
    (text,) = fit_warnings(vectors(200), y)
    mend = f"np.where(np.isin(y, ['{bad}']), '-1', y)"
    assert mend in text and f"y names the classes ['{bad}']" in text
    codes, classes = check_y(eval(mend, {"np": np, "y": y}), 200)
    assert classes.tolist() == [good] and codes.tolist() == [0] * 100 + [-1] * 100


@pytest.mark.parametrize(
    "names", [("False", "True"), ("no", "Yes"), ("bolt_ok", "bolt_ng"), ("benign", "tumor")]
)
def test_answers_and_products_with_a_verdict_are_no_products(names):
    with pytest.warns(UserWarning, match=f"taken for .*{names[1]}|{names[1]}.*taken for"):
        warn_of_labels(np.array(names), marks_anomalies=False)


def test_kinds_of_defects_beside_good():
    y = ["dent"] * 100 + ["good"] * 100 + ["scratch"] * 100
    (text,) = fit_warnings(vectors(300), y)
    mend = "np.where(np.isin(y, ['good']), y, '-1')"
    assert "classes 'dent', 'scratch' beside ['good']" in text and mend in text
    assert check_y(eval(mend, {"np": np, "y": y}), 300)[1].tolist() == ["good"]


def test_good_in_other_languages_and_what_is_beside_it():
    for good in ("Gut", "I.O.", "Bueno", "良品"):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            warn_of_labels(np.array(["x", good]), marks_anomalies=False)
        assert f"beside ['{good}']" in str(caught[0].message)


@pytest.mark.parametrize("mark", ["-1.0", " -1", "-1 "])
def test_what_looks_like_the_mark_of_anomalies_is_named(mark):
    (found,) = fit_warnings(vectors(200), ["bolt"] * 100 + [mark] * 100)
    assert repr(mark) in found and "mark known anomalies" in found


def test_products_and_good_alone_are_no_defects():
    assert fit_warnings(vectors(200), ["bottle"] * 100 + ["badge"] * 100) == []
    assert fit_warnings(vectors(100), ["good"] * 100) == []


# Units


def test_a_feature_in_another_unit_is_named():
    X = vectors() * [1, 2, 1e6, 1]
    (text,) = fit_warnings(X)
    assert f"but feature 2 has {X[:, 2].std():.3g}." in text and "StandardScaler()" in text
    assert fit_warnings((X - X.mean(axis=0)) / X.std(axis=0)) == []


def test_a_column_of_a_data_frame_is_named():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(vectors() * [1e6, 1, 1, 1e-6], columns=["force", "a", "b", "gap"])
    (text,) = fit_warnings(frame)
    assert "'force' has" in text and "'gap' has" in text and "'a'" not in text


def test_spreads_are_those_within_products():
    X = np.concatenate([vectors(), vectors(seed=1) + [0, 0, 0, 1e4]])
    assert fit_warnings(X, ["bolt"] * 100 + ["nut"] * 100) == []
    (text,) = fit_warnings(X)
    assert "feature 3" in text


@pytest.mark.parametrize(
    "factor, warned",
    [(50, False), (200, True), (1 / 1000, False), (1e-6, True), (1e-310, True)],  # its square is 0
)
def test_how_far_is_too_far(factor, warned):
    assert bool(fit_warnings(vectors() * [1, factor, 1, 1])) == warned


@pytest.mark.parametrize("constant", [0.0, 1e9, 0.1])
def test_constant_features_are_no_matter(constant):
    X = np.column_stack([vectors(n_features=3), np.full(100, constant)])
    assert fit_warnings(X) == []
    assert fit_warnings(np.full((100, 2), constant)) == []


def test_many_features_are_not_all_listed():
    X = vectors(n_features=60) * np.repeat([1, 1e5], [35, 25])
    (text,) = fit_warnings(X)
    assert text.count(" has ") == 20 and "(25 in all)" in text


# Images


def pictures(sides, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 255, (*side, 3), dtype=np.uint8) for side in sides]


def fit_images(X, y=None, image_size=256):
    """Return the warnings of a fit on images, but not those of few normals."""
    parameters = {"backbone": two_levels(), "out_indices": (0, 1), "n_blocks": 0}
    texts = fit_warnings(X, y, image_size=image_size, **parameters)
    return [text for text in texts if FEW not in text]


def test_small_images_are_named_with_their_size(tmp_path, monkeypatch):
    images = pictures([(300, 200)] * 3 + [(20, 30), (16, 24)])
    paths = [tmp_path / f"{i}.png" for i in range(5)]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    n_read, read = [], ImageSource.read
    monkeypatch.setattr(ImageSource, "read", lambda *at: n_read.append(at[1]) or read(*at))
    (text,) = fit_images(paths)
    assert text.startswith("2 of 5 images") and "(256 x 256)" in text
    assert f"X[4] ({paths[4]}) has 16 x 24 pixels" in text and "image_size=96" in text
    assert sorted(n_read) == [0, 1, 2, 3, 4]  # none is decoded twice
    assert fit_images(paths, image_size=96) == []


def test_rows_of_small_images_count_known_anomalies():
    images = pictures([(300, 200), (16, 16), (300, 200), (20, 20)] + [(64, 64)] * 4)
    (text,) = fit_images(images, y=[1, -1, 1, 1, 1, 1, 1, 1])
    assert text.startswith("1 of 7 images") and "X[3] has 20 x 20 pixels" in text


def test_images_that_are_small_one_way_only_pass():
    assert fit_images(pictures([(40, 400)] * 6)) == []


# Held-out normals


def test_classes_with_too_few_held_out_normals_are_named():
    y = np.repeat(["cap", "lid", "nut"], [10, 40, 95])
    with pytest.warns(UserWarning, match=FEW) as caught:
        HGADDetector(max_iter=0, validation_fraction=0.2, random_state=0).fit(vectors(145), y)
    (text,) = [str(w.message) for w in caught]
    assert "class 'cap' has 2 (expect about 33 % to be flagged)" in text
    assert "class 'lid' has 8 (expect about 11 % to be flagged)" in text
    assert "'nut'" not in text and "takes 19 in every class" in text and "about 95 normals" in text
    assert "validation_fraction='cross'" in text


def test_where_auto_holds_out_a_fifth_cross_fitting_is_a_remedy():
    y = np.repeat(["cap", "lid", "nut"], [40, 400, 400])
    X = vectors(840, 2) + 20 * np.unique(y, return_inverse=True)[1][:, None]
    (text,) = fit_warnings(X, y, n_components=1)
    assert "class 'cap' has 8 (" in text
    assert text.endswith("or let validation_fraction='cross' judge all of them in place of 0.2.")


def test_cross_fitting_takes_no_more_normals_than_the_rate_needs():
    y = np.repeat(["cap", "nut"], [18, 19])
    (text,) = fit_warnings(vectors(37), y)
    assert "class 'cap' has 18 (expect about 5.3 % to be flagged)" in text
    assert "'nut'" not in text and text.endswith("Give more normals in every class.")


@pytest.mark.parametrize("n", [1, 2, 4])
def test_so_few_that_everything_is_flagged(n):
    with pytest.warns(UserWarning, match=FEW) as caught:
        HGADDetector(max_iter=0, random_state=0).fit(vectors(n))
    assert any("class 0 has 0 (most of its good" in str(w.message) for w in caught)


def test_nothing_held_out_on_request():
    (text,) = fit_warnings(vectors(100), validation_fraction=0)
    assert text.startswith(FEW) and "class 0 has 0" in text
    assert "leave it at 'auto'" in text and "more normals" not in text  # they would not help


def test_a_class_that_is_added_is_warned_of_as_well():
    detector = HGADDetector(max_iter=0, random_state=0).fit(vectors(60), ["cap"] * 60)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        detector.add_class(vectors(10) * [1, 1e6, 1, 1], "defective")
    assert all(w.filename == __file__ for w in caught)
    labels, spreads, few = [str(w.message) for w in caught]
    assert "classes ['defective']" in labels and "feature 1 has" in spreads
    assert few.startswith(FEW) and "'defective' has 10" in few


def test_small_images_of_a_class_that_is_added_are_named():
    detector = HGADDetector(two_levels(), image_size=128, max_iter=0, random_state=0)
    detector.fit(pictures([(128, 128)] * 20), ["cap"] * 20)
    with pytest.warns(UserWarning, match="20 of 20 images have sides under a quarter"):
        detector.add_class(pictures([(16, 16)] * 20), "lid")


def test_no_promise_no_warning():
    assert fit_warnings(vectors(20), contamination=0.1) == []
    assert fit_warnings(vectors(19)) == []
    assert fit_warnings(vectors(95), validation_fraction=0.2) == []
    assert fit_warnings(vectors(38), validation_fraction=0.5) == []


def test_without_class_calibration_all_classes_count_together():
    y = np.repeat(["cap", "lid"], 50)
    held_out = {"class_calibration": False, "validation_fraction": 0.2}
    assert fit_warnings(vectors(100), y, **held_out) == []
    (text,) = fit_warnings(vectors(100)[:80], y[10:90], **held_out)
    assert "all classes together have 16" in text and "takes 19 in all" in text
