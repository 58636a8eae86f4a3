"""An Inspection as plain values and as JSON."""

import json
import math

import numpy as np
import pytest

from skhgad import HGADDetector, Inspection
from skhgad.regions import find_regions

KEYS = ["class_label", "score", "threshold", "p_value", "is_anomaly", "regions"]


def inspection(labels, maps, *, scores=(0.25, -7.5), thresholds=(-2.0, -2.0)):
    scores, thresholds = np.array(scores), np.array(thresholds)
    is_anomaly = scores < thresholds
    return Inspection(np.array(labels), scores, np.full(2, 0.5), is_anomaly, maps, thresholds)


@pytest.fixture
def maps():
    marked = np.zeros((6, 8), np.float32)
    marked[1:3, 2:5] = 4
    marked[5, 7] = 9
    return [np.ones((6, 8), np.float32), marked]


def test_every_sample_is_a_dict_of_plain_values(maps):
    found = inspection(["bolt", "nut"], maps).to_dict()
    assert found == {
        "samples": [
            {"class_label": "bolt", "score": 0.25, "threshold": -2.0, "p_value": 0.5,
             "is_anomaly": False, "regions": []},
            {"class_label": "nut", "score": -7.5, "threshold": -2.0, "p_value": 0.5,
             "is_anomaly": True, "regions": [
                 {"box": [5, 7, 6, 8], "area": 1, "peak": 9.0, "peak_position": [5, 7]},
                 {"box": [1, 2, 3, 5], "area": 6, "peak": 4.0, "peak_position": [1, 2]},
             ]},
        ],
    }  # fmt: skip
    for sample in found["samples"]:
        assert list(sample) == KEYS
        assert [type(sample[key]) for key in KEYS] == [str, float, float, float, bool, list]


def test_json_reads_back_as_the_dict(maps):
    found = inspection([3, 7], maps)
    assert json.loads(found.to_json()) == found.to_dict()
    assert found.to_dict()["samples"][1]["class_label"] == 7
    assert "\n" not in found.to_json() and "\n" in found.to_json(indent=2)


def test_without_maps_there_are_no_regions_to_speak_of():
    assert [s["regions"] for s in inspection([0, 0], None).to_dict()["samples"]] == [None, None]


def test_an_overflow_is_a_finite_number(maps):
    maps[0][2, 2] = np.nan
    maps[1][:] = np.inf
    lowest = np.finfo(np.float64).min / 2
    text = inspection([0, 0], maps, scores=(lowest, lowest)).to_json()
    first, second = json.loads(text, parse_constant=pytest.fail)["samples"]
    assert first["score"] == lowest and math.isfinite(first["regions"][0]["peak"])
    assert first["regions"][0]["peak_position"] == [2, 2] and second["regions"][0]["area"] == 48


def test_vectors_of_a_detector():
    X = np.random.default_rng(0).normal(size=(60, 3))
    detector = HGADDetector(max_iter=0, n_blocks=0, random_state=0).fit(X)
    found = detector.inspect([[0, 0, 0], [9, 9, 9], [1e300, 0, 0]])
    samples = json.loads(found.to_json())["samples"]
    assert [sample["is_anomaly"] for sample in samples] == [False, True, True]
    assert [sample["score"] for sample in samples] == found.score.tolist()
    assert {sample["threshold"] for sample in samples} == {detector.offset_}


def test_regions_are_those_above_the_threshold(maps):
    for threshold, n_regions in ((-2.0, 2), (-5.0, 1)):
        found = inspection(["a", "b"], maps, thresholds=(-2.0, threshold)).to_dict()
        expected = [region.to_dict() for region in find_regions(maps[1], -threshold)]
        assert found["samples"][1]["regions"] == expected
        assert len(expected) == n_regions
