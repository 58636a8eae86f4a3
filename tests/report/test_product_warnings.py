"""Products that are hardly ever flagged, or far too often: numbers worked out by hand."""

from types import SimpleNamespace

import numpy as np
import pytest
from small_pictures import write

from skhgad import HGADDetector
from skhgad.report.evaluation import Measurement, figures_text, labelled_images, without_nan
from skhgad.report.product_warnings import (
    expected_false_alarm_rate,
    expected_own_rates,
    product_warnings,
)
from skhgad.validation import label_of_text


def warned(counts, expected_rate=0.05, own_rates=None):
    """Return (class, kind, n_flagged, n_images) of the warnings.

    `counts` has, by product, flagged anomalies of all anomalies and flagged normals of all.
    """
    is_anomaly, is_flagged, names = [], [], []
    for name, pairs in counts.items():
        for anomalous, (n_flagged, n) in zip((True, False), pairs, strict=True):
            is_anomaly += [anomalous] * n
            is_flagged += [True] * n_flagged + [False] * (n - n_flagged)
            names += [name] * n
    return product_warnings(
        np.array(is_anomaly), np.array(is_flagged), np.array(names), expected_rate, own_rates
    )


def test_few_anomalies_flagged():
    (found,) = warned({"cap": [(9, 100), (5, 100)], "lid": [(10, 100), (0, 100)]})
    text = found.pop("text")
    assert found == {
        "class": "cap", "kind": "few anomalies flagged", "n_flagged": 9, "n_images": 100,
    }  # fmt: skip
    assert text.startswith("cap: 9 of 100 anomalies are flagged (9 %).") and "image_size" in text


def test_many_normals_flagged():
    (found,) = warned({"cap": [(1, 1), (16, 100)], "lid": [(1, 1), (15, 100)]})
    text = found.pop("text")
    assert found == {
        "class": "cap", "kind": "many normals flagged", "n_flagged": 16, "n_images": 100,
    }  # fmt: skip
    assert "16 of 100 normal images are flagged (16 %), where about 5 % were expected" in text
    assert warned({"cap": [(1, 1), (16, 100)]}, expected_rate=0.06) == []


def test_a_product_may_have_both_and_a_single_false_alarm_says_nothing():
    kinds = [found["kind"] for found in warned({"{cap}": [(0, 3), (2, 3)]})]
    assert kinds == ["few anomalies flagged", "many normals flagged"]
    assert warned({"cap": [(0, 0), (1, 2)], "lid": [(1, 1), (0, 0)]}) == []


def test_the_expected_rate_is_that_of_the_threshold():
    X = np.random.default_rng(0).normal(size=(495, 3))
    detector = HGADDetector(max_iter=0, random_state=0).fit(X)
    assert expected_false_alarm_rate(detector) == 0.05
    detector.set_params(contamination=0.3)  # for the next fit
    assert expected_false_alarm_rate(detector) == 0.05
    detector.set_threshold(false_alarm_rate=0.2)  # 99 held out: the 20th lowest score
    assert expected_false_alarm_rate(detector) == pytest.approx(20 / 100)


def test_a_product_with_a_rate_of_its_own_is_expected_to_keep_that():
    X = np.random.default_rng(0).normal(size=(990, 3)) + np.repeat([0, 9], 495)[:, None]
    detector = HGADDetector(max_iter=0, random_state=0).fit(X, np.repeat(["cap", "lid"], 495))
    detector.set_threshold(false_alarm_rate={"cap": 0.3})  # 99 held out: the 30th lowest score
    assert expected_own_rates(detector) == pytest.approx({"cap": 0.3})
    counts = {"cap": [(1, 1), (40, 100)], "lid": [(1, 1), (40, 100)]}
    (found,) = warned(counts, own_rates=expected_own_rates(detector))
    assert found["class"] == "lid"


def measured(scores, y, names, offset):
    n = len(y)
    data = SimpleNamespace(y=np.array(y), class_label=np.array(names), mask=[None] * n, defect=None)
    measurement = Measurement(data, offset, 0.05)
    for index, (score, name) in enumerate(zip(scores, names, strict=True)):
        finding = SimpleNamespace(
            score=score, class_label=name, anomaly_map=None, is_anomaly=score < offset
        )
        measurement.update(index, finding)
    return measurement


def test_figures_say_what_is_missing_and_why():
    # cap: 20 normals of scores 1 to 20, anomalies at 0, 2, 3 and 9; lid: 2 normals, no anomaly.
    scores = [*range(1, 21), 0, 2, 3, 9, 5, 6]
    y, names = [1] * 20 + [-1] * 4 + [1, 1], ["cap"] * 24 + ["lid"] * 2
    with pytest.warns(UserWarning, match="lid"):
        measurement = measured(scores, y, names, offset=-1.0)
        figures = measurement.figures()
    # At 5 %, one of the 20 may be flagged: below 2. At 10 %, two: below 3.
    assert without_nan(figures["misses_at"])["per_class"] == {
        "cap": {"0.01": None, "0.05": 0.75, "0.1": 0.5},
        "lid": {"0.01": None, "0.05": None, "0.1": None},
    }
    assert [found["class"] for found in figures["warnings"]] == ["cap"]
    assert figures["counts"] == {
        "per_class": {"cap": [(0, 20), (4, 4)], "lid": [(0, 2), (0, 0)]},
        "pooled": [(0, 22), (4, 4)],
    }
    text = figures_text(figures, measurement.unmasked)
    assert (
        "these are 0 of 22 normal images and 4 of 4 anomalies; cap: 0 of 20 normal images" in text
    )
    row = next(line.split() for line in text.splitlines() if line.startswith("cap"))
    assert row[4:] == ["0.000", "1.000", "-", "0.750", "0.500"]
    assert "100 at 1 %, 20 at 5 %, 10 at 10 %; cap has 20\n" in text
    assert "no misses of lid: no anomalies" in text
    assert text.splitlines()[-1].startswith("warning: cap: 0 of 4 anomalies are flagged (0 %)")


def test_a_product_in_other_characters_is_the_same_one(tmp_path):
    composed, decomposed = "Gr\u00f6sse", "Gro\u0308sse"  # as a Mac writes names of files
    for name in ("good", "bad"):
        write(tmp_path / decomposed / "test" / name / "0.png", np.zeros((8, 8, 3), np.uint8))
    detector = SimpleNamespace(classes_=np.array(["bolt", composed]))
    data = labelled_images(detector, tmp_path, None)
    assert data.class_label.tolist() == [composed] * 2 and data.classes.tolist() == [composed]
    assert label_of_text(decomposed, detector.classes_, "--class") == composed
    both = np.array([decomposed, composed])
    assert [label_of_text(name, both, "--class") for name in both] == both.tolist()
    with pytest.raises(ValueError, match="the model knows"):
        label_of_text("Grosse", detector.classes_, "--class")
